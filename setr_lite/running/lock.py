"""One process at a time writes into a run's folder.

The lock is the system's: it ends with the process that holds it, however that dies, and what is
left in the file is no obstacle. On a disk without locks the file itself says who is there, and a
process of this machine that is gone does not count. Reading needs no lock, see
`checkpoint.steady`.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from ..distributed.processes import rank
from ..errors import UserError, printable, written_in

NAME = ".lock"
"""Of the file, in the run's folder."""
_HELD: set[str] = set()
"""Folders that this process holds: the system's locks are for other processes."""


class FolderLock:
    """Keeps other runs out of a folder, which is made; a context manager.

    In a run of several processes the first one holds it.

    Args:
        folder: of the run.

    Raises:
        UserError: another run writes there; its process, machine and start are named. Or the
            folder cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / NAME
        self.key = ""

    def __enter__(self) -> FolderLock:
        if rank() > 0:
            return self
        with written_in(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if os.path.realpath(self.folder) in _HELD:
                raise self._taken(_owner())
            self.number = self._open()
        self.key = os.path.realpath(self.folder)
        _HELD.add(self.key)
        return self

    def __exit__(self, *error: object) -> None:
        if self.key:
            self.path.unlink(missing_ok=True)
            os.close(self.number)
            _HELD.discard(self.key)

    def _open(self) -> int:
        """The file's number, locked, with this process's name in it."""
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            number = os.open(self.path, flags, 0o666)
            try:
                got, owner = _lock(number), _read(number)
                if got is False or (got is None and _lives(owner)):
                    raise self._taken(owner)
                if _same(number, self.path):  # else its holder has just ended and deleted it
                    os.ftruncate(number, 0)
                    os.pwrite(number, json.dumps(_owner()).encode(), 0)
                    return number
            except BaseException:
                os.close(number)
                raise
            os.close(number)

    def _taken(self, owner: dict[str, Any]) -> UserError:
        known = {key: printable(owner.get(key, "?")) for key in ("process", "host", "start")}
        remedy = f" If it is gone, delete {self.path}." if _elsewhere(owner) else ""
        return UserError(
            f"{self.folder}: process {known['process']} on {known['host']} has been writing there "
            f"since {known['start']}; wait for it, stop it, or choose another folder with "
            f"train.out=DIR.{remedy}"
        )


def _lock(number: int) -> bool | None:
    """Whether the lock is this process's now; None on a disk, or a system, without locks.

    A lock of POSIX, not of BSD: loader processes do not inherit it, so it does not outlive the
    process that they serve.
    """
    try:
        import fcntl

        fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return None
    except OSError as error:
        return False if error.errno in (errno.EACCES, errno.EAGAIN) else None
    return True


def _owner() -> dict[str, Any]:
    return {
        "process": os.getpid(), "host": socket.gethostname(), "born": _born(os.getpid()),
        "start": time.strftime("%Y-%m-%d %H:%M:%S"),
    }  # fmt: skip


def _read(number: int) -> dict[str, Any]:
    """What is in the file; nothing if it is not ours."""
    try:
        found = json.loads(os.pread(number, 4096, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _elsewhere(owner: dict[str, Any]) -> bool:
    return owner.get("host", socket.gethostname()) != socket.gethostname()


def _lives(owner: dict[str, Any]) -> bool:
    """Whether the process that wrote its name into the file is there; of another machine, maybe."""
    if not owner or _elsewhere(owner):
        return bool(owner)
    return owner.get("born") is not None and owner["born"] == _born(owner.get("process"))


def _born(process: Any) -> str | None:
    """Tells a process from a later one of the same number; None if there is none."""
    try:
        os.kill(process, 0)
    except PermissionError:
        pass
    except (OSError, TypeError, OverflowError):
        return None
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return "alive"  # a system that does not say when
    return stat.rpartition(")")[2].split()[19]


def _same(number: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(number), os.stat(path))
    except OSError:
        return False
