"""One kind of error for what a user can get wrong, and text that fits where it is shown.

The library raises :class:`UserError`, a ``ValueError``; the command line prints its message as
one line and exits with code 2. A message says what is wrong, where, and what to do. Names out of
files may hold anything: `printable`, `csv_cell`, `drawable` and `file_name` make them fit.
"""

from __future__ import annotations

import difflib
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class UserError(ValueError):
    """A mistake in the input (a path, a setting, a file), not in the program.

    Subclass of ``ValueError``.
    """


def one_line(error: BaseException) -> str:
    """The message of an error, without the traceback that a loader process hands over with it."""
    text = str(error)
    if text.startswith(f"Caught {type(error).__name__} in DataLoader"):
        text = text.partition(f"{type(error).__name__}: ")[2]
    return printable(" ".join(text.splitlines()).strip())


def in_short(error: BaseException) -> str:
    """The first sentence of another library's message, at most 200 characters of it.

    A damaged file can put all of its bytes into the message.
    """
    text = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0]
    return text if len(text) <= 200 else f"{text[:200]} ..."


def printable(text: Any) -> str:
    """One line for a terminal: control characters, escape sequences and bytes that are no UTF-8
    are spelled out, so that no name can colour, move or fake a line."""
    return "".join(_spelled(c) if _controls(c) else c for c in str(text))


def controls(text: str) -> bool:
    """Whether a text holds a character that `printable` spells out."""
    return any(map(_controls, text))


def _controls(character: str) -> bool:
    # control, surrogate (a byte that is no UTF-8), line and paragraph separator; and the marks
    # that turn the direction of writing, which let a name end before it does
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
        return True
    return unicodedata.bidirectional(character) in (
        "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def _spelled(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def csv_cell(value: Any) -> Any:
    """A value for a CSV file; a text that a spreadsheet would take for a formula gets a quote."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def drawable(text: Any) -> str:
    """A text for a figure, whose dollars are dollars: Matplotlib takes two of them for a formula,
    and fails where it is none."""
    return printable(text).replace("$", r"\$")


def file_name(text: str) -> str:
    """A text as the name of one file or folder: no way up, down or out, nothing hidden."""
    kept = "".join("_" if c in '/\\:*?"<>|' or _controls(c) else c for c in text).strip(". ")
    return kept.encode("utf-8", "replace")[:200].decode("utf-8", "ignore") or "_"


def shortly(value: Any, most: int = 60) -> str:
    """What was found, as Python writes it, cut to `most` characters."""
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = printable(repr(value) if not isinstance(value, int) else _digits(value))
    return text if len(text) <= most else f"{text[:most]} ..."


def _digits(value: int) -> str:
    """Python refuses to write more than some thousand digits."""
    return str(value) if abs(value) < 1 << 200 else f"a number of {value.bit_length()} bits"


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
    close = difflib.get_close_matches(str(name), choices, cutoff=0.5)
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


class Outlet:
    """A standard output that cannot fail: what it cannot write is lost, and the rest goes on.

    A training must not die of a full disk that its messages go to, or of a reader that has left.
    Characters that the encoding does not have are spelled out.

    Args:
        stream: what is written to; None, as Python has it for a closed one, takes nothing.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream or open(os.devnull, "w")  # noqa: SIM115 (as long as the program)
        self.failed: Exception | None = None
        """Why something was lost; None as long as nothing was."""
        if hasattr(self.stream, "reconfigure"):
            self.stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write, or lose, a text."""
        self._try(self.stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Hand on what is waiting."""
        self._try(self.stream.flush)

    def _try(self, do: Callable[..., object], *arguments: str) -> None:
        if self.failed:
            return
        try:
            do(*arguments)
        except (OSError, ValueError) as error:  # the second: it was closed here
            self.failed = error
            with suppress(OSError, ValueError):  # or Python's own flush, at the end, fails again
                empty = os.open(os.devnull, os.O_WRONLY)
                os.dup2(empty, self.stream.fileno())
                os.close(empty)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def lasting_outputs() -> Iterator[tuple[Outlet, Outlet]]:
    """Standard output and standard error as `Outlet`, for the duration."""
    before = sys.stdout, sys.stderr
    if sys.stdout is None or sys.stderr is None:
        _occupy()
    sys.stdout, sys.stderr = outlets = Outlet(before[0]), Outlet(before[1])
    try:
        yield outlets
    finally:
        sys.stdout, sys.stderr = before


def _occupy() -> None:
    """The numbers of closed outputs, or the next file that is opened would get the messages of
    libraries written in C."""
    while os.open(os.devnull, os.O_RDWR) <= 2:
        pass
