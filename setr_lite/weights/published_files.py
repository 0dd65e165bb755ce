"""Published weights by name: downloaded once, checked, converted, kept.

``$SETR_HOME`` (default ``setr_lite`` in the user's cache folder) holds ``files``, what was
downloaded or put there by hand, and ``checkpoints``, folders that `SETR.from_pretrained` loads.
Both appear under their final names only when complete, so two processes may fetch the same file;
where the disk has locks, the second waits for the first instead.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

from ..checkpoint import exists, save_checkpoint
from ..errors import UserError, nearest
from ..recipes.downloads import ENCODERS, SETRS, Download
from ..recipes.named import get_recipe
from .convert import class_names, identify, read_setr

TIMEOUT = 30.0
"""Seconds that a server may be silent."""
ABANDONED = 86_400.0
"""Seconds after which what a killed download has left is deleted by the next one."""
PIECE = 1 << 20
"""Bytes that are read at once."""


def home() -> Path:
    """Where downloads are kept: ``$SETR_HOME``, else ``setr_lite`` in the user's cache folder."""
    told = os.environ.get("SETR_HOME")
    if told:
        return Path(told).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path("~/.cache").expanduser()) / "setr_lite"


def find_checkpoint(name: str) -> Path | None:
    """The checkpoint folder of a published recipe, fetched and converted the first time.

    Returns:
        Its folder; None for a name without published weights.

    Raises:
        UserError: what `fetch` raises; a file that is not the recipe's model.
    """
    if name not in SETRS:
        return None
    folder = home() / "checkpoints" / name
    if not exists(folder):
        with _locked(folder):
            if not exists(folder):
                _make(name, folder)
    return folder


def find_encoder(name: str) -> Path | None:
    """The file of a published encoder, by its name or its file's, fetched the first time.

    Returns:
        The file; None for another name.

    Raises:
        UserError: what `fetch` raises.
    """
    for known, download in ENCODERS.items():
        if name in (known, download.file):
            return fetch(download)
    return None


def download(name: str) -> Iterator[str]:
    """Download one named set of weights, or ``all``.

    A generator, which does nothing until it is read: ``for line in download(name): print(line)``.

    Yields:
        A line for each file, once it is on disk.

    Raises:
        UserError: no such name, a download that failed, or a file that is not what it should be.
    """
    known = [*SETRS, *ENCODERS]
    if name != "all" and name not in known:
        raise UserError(f"nothing to download for {name!r}{nearest(name, [*known, 'all'])}")
    for each in known if name == "all" else [name]:
        yield f"{each}: {find_checkpoint(each) or find_encoder(each)}"


def table() -> str:
    """One line per downloadable file: name, whether it is present, address."""
    rows = [(name, SETRS[name], exists(home() / "checkpoints" / name)) for name in SETRS]
    rows += [(name, it, (home() / "files" / it.file).exists()) for name, it in ENCODERS.items()]
    width = max(len(name) for name, _, _ in rows)
    return "\n".join(
        f"{name:<{width}}  {'here' if there else '-':4}  {it.url}" for name, it, there in rows)


def fetch(what: Download) -> Path:
    """A published file, downloaded where it is not there yet.

    A file that is there, also one put there by hand, has its digits compared.

    Returns:
        Its path, under ``files`` in `home`.

    Raises:
        UserError: no network, no such file, one that was cut off or has another SHA-256, a full
            disk; with what to do, and nothing is left behind.
    """
    path = home() / "files" / what.file
    with _locked(path):
        if not path.exists():
            _download(what, path)
        elif not _digits(path).startswith(what.digits):
            raise UserError(
                f"{path}: is not the file of that name, its SHA-256 does not begin with "
                f"{what.digits}; delete it and try again"
            )
    return path


def _make(name: str, folder: Path) -> None:
    """Fetch and convert in a folder of its own, then rename it; the later of two is not needed."""
    what = SETRS[name]
    by_hand = (home() / "files" / what.file).exists()
    try:
        file = fetch(what)
        with tempfile.TemporaryDirectory(".part", f".{name}.", folder.parent) as place:
            _convert(name, file, Path(place) / name)
            (Path(place) / name).rename(folder)
    except (OSError, UserError):
        if not exists(folder):
            raise
        return
    if not by_hand:
        file.unlink(missing_ok=True)  # a gigabyte that the folder holds, too


def _convert(name: str, file: Path, folder: Path) -> None:
    digits = _digits(file)
    found, recipe = identify(file), get_recipe(name)
    model = replace(found.model, taps=found.model.taps or recipe.model.taps)
    if model != replace(recipe.model, pretrained=model.pretrained):
        raise UserError(f"{file}: is not the model of {name} but "
                        f"{str(found).splitlines()[0]}")  # fmt: skip
    found = replace(found, model=model)
    print(found, file=sys.stderr)
    loaded, report = read_setr(found, allow_missing_patch_bias=False)
    print(report, file=sys.stderr)
    classes, palette = class_names(found)
    save_checkpoint(
        folder, loaded, replace(recipe, model=model), classes=classes, palette=palette,
        state={"source": SETRS[name].url, "sha256": digits},
    )


def _digits(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- one file over the network -----------------------------------------------------------------


def _download(what: Download, path: Path) -> None:
    """`path` from its address, complete and with the right digits, or not at all."""
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob(f".{path.name}.*.part"):
            if time.time() - old.stat().st_mtime > ABANDONED:
                old.unlink(missing_ok=True)
        handle, name = tempfile.mkstemp(".part", f".{path.name}.", path.parent)
        part = Path(name)
        with (os.fdopen(handle, "wb") as file,
              urllib.request.urlopen(what.url, timeout=TIMEOUT) as answer):  # fmt: skip
            digits = _receive(answer, file, path)
        if not digits.startswith(what.digits):
            raise _failed(what, path, f"its SHA-256 begins with {digits[:8]}, not {what.digits}")
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except (OSError, HTTPException) as error:
        raise _failed(what, path, _reason(error)) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def _receive(answer: Any, file: IO[bytes], path: Path) -> str:
    """Copy an answer to a file, with a progress bar; the SHA-256 of what came."""
    from tqdm import tqdm

    told, came, digest = answer.headers.get("Content-Length"), 0, hashlib.sha256()
    size = int(told) if told and told.isdecimal() else None
    free = shutil.disk_usage(path.parent).free
    if size and 2 * size > free:  # the file, and the checkpoint made of it
        raise OSError(f"No space left on device: {2 * size:,} bytes are needed, {free:,} are free")
    with tqdm(total=size, unit="B", unit_scale=True, desc=path.name[:40], leave=False) as bar:
        while piece := answer.read(PIECE):
            file.write(piece)
            digest.update(piece)
            came += len(piece)
            bar.update(len(piece))
    if size is not None and came != size:
        raise OSError(f"cut off after {came:,} of {size:,} bytes")
    return digest.hexdigest()


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"no connection: {error.reason}"
    if isinstance(error, TimeoutError):
        return f"the server was silent for {TIMEOUT:.0f} s"
    return str(error) or type(error).__name__


def _failed(what: Download, path: Path, why: str) -> UserError:
    return UserError(
        f"{what.url}: could not be downloaded ({' '.join(why.split())}); nothing was kept. Try "
        f"again, or get the file where there is a network and put it at {path}"
    )


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time, where system and disk have locks; elsewhere each for itself."""
    lock = path.with_name(f".{path.name}.lock")
    try:
        import fcntl

        lock.parent.mkdir(parents=True, exist_ok=True)
        file = open(lock, "w")  # noqa: SIM115, closed below
    except ImportError:  # Windows
        yield
        return
    except OSError as error:
        raise UserError(
            f"{lock.parent}: cannot be written ({error.strerror or error}); set SETR_HOME to a "
            "folder for downloads"
        ) from error
    with file:
        with suppress(OSError):  # a disk without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
