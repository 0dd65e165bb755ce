"""Atomic writes and validated JSON.

One writer: `written_beside` for a file, `folder_beside` for a folder. What they write becomes
visible in one step, has the permissions that the umask gives, never replaces a file that the
program reads, and never goes through a symbolic link: the link is replaced, what it points at is
left alone.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .errors import UserError, shortly
from .typed import path_of

OLD = ".old"
"""Ending of the folder before, during the two renames that replace it."""
PART = ".part"
"""Ending of a folder that is being written."""
LARGEST_JSON = 1 << 26
"""Bytes of a JSON file that is read; a run's settings take a few thousand."""


@contextmanager
def written_beside(path: str | Path, inputs: Iterable[str | Path] = ()) -> Iterator[Path]:
    """A path of the same name to write to; when the block ends well, the file becomes `path`.

    Files that the block writes next to it come along. If it fails, nothing stays, and what was
    at `path` before is untouched. Missing folders above `path` are made::

        with written_beside("out/photo.png") as part:
            picture.save(part)

    Args:
        path: the file.
        inputs: files and folders that the program reads, see `refuse_inputs`.

    Raises:
        UserError: `path` is one of `inputs`, or there is something that is no file.
        OSError: the folder cannot be written.
    """
    path = Path(path)
    refuse_inputs(path, inputs)
    if path.exists() and not path.is_file():  # a device would be replaced by a file of its name
        raise UserError(f"{path}: cannot be written, it is no file; give another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    # beside, since a rename is one step only on the same disk; readers skip names with a dot
    with TemporaryDirectory(prefix=".", suffix=PART, dir=path.parent) as folder:
        yield Path(folder) / path.name
        follow_umask(Path(folder))
        for file in Path(folder).iterdir():
            os.replace(file, path.parent / file.name)


@contextmanager
def folder_beside(folder: Path) -> Iterator[Path]:
    """An empty folder to fill; when the block ends well, it takes the place of `folder`.

    Two renames, each one step: `now_at` finds the folder before between them.

    Raises:
        OSError: it cannot be written.
    """
    part = sibling(folder, PART)
    try:
        remove(part)
        part.mkdir(parents=True)
        yield part
        follow_umask(part)
        flush(part)
        _replace(folder, part)
    except Exception:
        remove(part)
        raise


def sweep(folder: Path) -> None:
    """Remove what killed processes have left half-written in a folder that this one has locked."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and re.fullmatch(r"(\.\w{8}|last|best|step_\d+)\.part", path.name):
            remove(path)


def now_at(folder: Path, name: str) -> Path | None:
    """`folder`, or the one before if a crash fell between two renames: where a file `name` is."""
    return next((f for f in (folder, sibling(folder, OLD)) if (f / name).exists()), None)


def sibling(folder: Path, ending: str) -> Path:
    """The folder beside it whose name ends otherwise."""
    return folder.parent / (folder.name + ending)  # "." has no name


def remove(path: Path) -> None:
    """Delete a folder, a file, or a symbolic link without what it points at; all it can."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def flush(folder: Path) -> None:
    """On disk before the rename, or a power cut could leave the new name with empty files."""
    for path in (*folder.iterdir(), folder):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def follow_umask(folder: Path) -> None:
    """Give the files in `folder` the permissions of a new file; safetensors' are 0600."""
    probe = folder / ".mode"
    number = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    mode = stat.S_IMODE(os.fstat(number).st_mode)
    os.close(number)
    probe.unlink()
    for file in folder.iterdir():
        if file.is_file() and not file.is_symlink():
            with contextlib.suppress(PermissionError):  # a disk without permissions
                file.chmod(mode)


def _replace(folder: Path, part: Path) -> None:
    old = sibling(folder, OLD)
    if folder.exists() or folder.is_symlink():  # else `old`, if there, is the only good one
        remove(old)
        folder.rename(old)
    part.rename(folder)
    remove(old)


def refuse_inputs(path: str | Path, inputs: Iterable[str | Path]) -> None:
    """Refuse to write at `path` what would replace, or lie among, files that are read.

    Args:
        path: a file or folder that is going to be written.
        inputs: a file must not be `path`; a folder must not be, or hold, it.

    Raises:
        UserError: names the two.
    """
    place = Path(os.path.realpath(path))
    for one in inputs:
        source = Path(os.path.realpath(one))
        if place == source or source in place.parents:
            where = "is" if place == source else "lies in"
            raise UserError(
                f"{path}: {where} {one}, which is read here; writing there would spoil it, choose "
                "another place"
            )


def require_utf8(path: str | Path) -> None:
    """Refuse a name that libraries written in C++ or Rust cannot write to, or end the process at.

    Raises:
        UserError: it holds bytes that are no UTF-8.
    """
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{path}: its name is not UTF-8, and PyTorch, safetensors and TensorBoard cannot write "
            "there; choose another one"
        ) from error


# ---- one reader ----------------------------------------------------------------------------------


def read_json(path: Path, remedy: str, most: int = LARGEST_JSON) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: the file.
        remedy: what to do if it cannot be used, for the message.
        most: bytes that are read.

    Raises:
        UserError: no such file, one of more than `most` bytes, no JSON, or no object.
    """
    try:
        if path.stat().st_size > most:
            raise ValueError(f"{path.stat().st_size >> 20} MiB")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); {remedy}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: a {type(found).__name__}, not a JSON object; {remedy}")
    return found


def require(fits: bool, where: str, found: Any, wanted: str, remedy: str) -> None:
    """Go on where a value out of a file `fits`.

    Raises:
        UserError: names the place (file and key), what was found, what was expected, the remedy.
    """
    if not fits:
        raise UserError(f"{where} is {shortly(found)}, expected {wanted}; {remedy}")


def is_whole(value: Any, low: int = 0, high: int = 2**62) -> bool:
    """Whether a value out of a file is a whole number of that range; True and 5.0 are none."""
    return type(value) is int and low <= value <= high


def is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether a value out of a file is a finite number of that range."""
    return type(value) in (int, float) and low <= value <= high and abs(value) < math.inf


# ---- folders by other names ----------------------------------------------------------------------

FINDERS: list[Callable[[str], Path | None]] = []
"""Asked in turn for the folder of what is no path. The package adds `weights`' own, which lies
further up than those who ask."""


def find_folder(source: str | Path) -> Path:
    """The folder of a checkpoint: a path as it is, else what one of `FINDERS` makes of the word.

    A word that none of them knows comes back as the path that it is.

    Raises:
        UserError: what the download of a known name raises.
    """
    path = path_of(source)
    if not path.exists() and not sibling(path, OLD).exists():
        for find in FINDERS:
            found = find(str(source))
            if found is not None:
                return found
    return path
