"""One kind of error for what a user can get wrong.

The library raises :class:`UserError`, a ``ValueError``; the command line prints its message as
one line and exits with code 2. A message says what is wrong, where, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(ValueError):
    """A mistake in the input (a path, a setting, a file), not in the program."""


def one_line(error: BaseException) -> str:
    """The message of an error, without the traceback that a loader process hands over with it."""
    text = str(error)
    if text.startswith(f"Caught {type(error).__name__} in DataLoader"):
        text = text.partition(f"{type(error).__name__}: ")[2]
    return " ".join(text.splitlines()).strip()


def in_short(error: BaseException) -> str:
    """The first sentence of another library's message, at most 200 characters of it.

    A damaged file can put all of its bytes into the message.
    """
    text = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0]
    return text if len(text) <= 200 else f"{text[:200]} ..."


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, NumPy, PyTorch or OpenCV says that memory is used up."""
    words = ("can't allocate memory", "Failed to allocate", "Cannot allocate memory")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # of PyTorch, which is not loaded here
        or any(word in str(error) for word in words)
    )


def nearest(name: str, choices: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest choice, else the list of all of them."""
    choices = [str(choice) for choice in choices]
    close = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; choose from {', '.join(choices)}"


@contextmanager
def written_in(folder: Path) -> Iterator[None]:
    """Name the run's folder where one of its smaller files cannot be written.

    Raises:
        UserError: in place of the system's error.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}); a checkpoint that is there "
            "stays; free some space or choose another train.out"
        ) from error
