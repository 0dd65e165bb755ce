"""One run in a folder at a time; whoever is gone is no obstacle."""

import contextlib
import errno
import fcntl
import json
import mmap
import multiprocessing
import os
import signal
import socket
import stat
from pathlib import Path

import pytest
from processes import wait_for

from setr_lite.errors import UserError
from setr_lite.running import lock
from setr_lite.running.lock import FolderLock

FORK = multiprocessing.get_context("fork")  # nothing is imported, so it takes no time


def hold(folder, locks):
    """Until somebody kills this process."""
    with locks(), FolderLock(folder):
        signal.pause()


def attempt(folder, locks, answer):
    before = os.listdir("/proc/self/fd")
    try:
        with locks(), FolderLock(folder):
            answer.put("got it")
    except UserError as error:  # who is refused keeps no file open
        answer.put(str(error) if os.listdir("/proc/self/fd") == before else f"{error} open")


@contextlib.contextmanager
def no_locks():
    """As on a disk that has none."""

    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "lockf", refuse)
        yield


@pytest.mark.parametrize("locks", [contextlib.nullcontext, no_locks])
def test_the_second_is_told_of_the_first_and_a_dead_one_is_no_obstacle(tmp_path, locks):
    folder, answer = tmp_path / "run", FORK.Queue()

    def tried():
        child = FORK.Process(target=attempt, args=(folder, locks, answer))
        child.start()
        said = answer.get(timeout=60)
        child.join()
        return said

    first = FORK.Process(target=hold, args=(folder, locks), daemon=True)
    first.start()
    wait_for(lambda: (folder / lock.NAME).exists() and (folder / lock.NAME).stat().st_size)
    said = tried()
    host = socket.gethostname()
    assert f"{folder}: process {first.pid} on {host} has been writing there since 2" in said
    assert said.endswith("choose another folder with train.out=DIR.")
    assert first.is_alive()
    first.kill()
    first.join()
    assert (folder / lock.NAME).exists()
    assert tried() == "got it"
    assert list(folder.iterdir()) == []


def owner_with_loader(folder, number):
    """Dies at once, and leaves a process behind that has its open files."""
    FolderLock(folder).__enter__()
    loader = FORK.Process(target=signal.pause)
    loader.start()
    number.put(loader.pid)
    number.close()
    number.join_thread()
    os.kill(os.getpid(), signal.SIGKILL)


def test_loader_processes_do_not_hold_it_for_their_dead_owner(tmp_path):
    number = FORK.Queue()
    owner = FORK.Process(target=owner_with_loader, args=(tmp_path, number))
    owner.start()
    loader = number.get(timeout=60)
    owner.join()
    try:
        os.kill(loader, 0)  # still there
        with FolderLock(tmp_path):
            pass
    finally:
        os.kill(loader, signal.SIGKILL)


def test_the_same_process_holds_a_folder_once(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with FolderLock(tmp_path / "run"):
        for name in ("run", "link"):
            with pytest.raises(UserError, match=f"process {os.getpid()} on .* has been writing"):
                FolderLock(tmp_path / name).__enter__()
        with FolderLock(tmp_path / "others" / "other"):
            pass
    with FolderLock(tmp_path / "run"):
        (tmp_path / "run" / lock.NAME).unlink()  # by somebody who takes it for a leftover
    with FolderLock(tmp_path / "run"):
        assert (tmp_path / "run" / lock.NAME).exists()
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("content", [
    b"", b"nonsense", b"[1]", b"\xff" * 5000, b'{"process": "x"}', b'{"process": 1e400}',
    json.dumps({"process": os.getpid(), "host": socket.gethostname(), "born": "0"}).encode(),
], ids=["empty", "words", "list", "bytes", "no number", "too large", "used again"])  # fmt: skip
@pytest.mark.parametrize("got", [True, None])
def test_what_is_left_in_the_file_does_not_count(tmp_path, monkeypatch, content, got):
    """Also the number of a process that has it again."""
    monkeypatch.setattr(lock, "_lock", lambda number: got)
    (tmp_path / lock.NAME).write_bytes(content)
    with FolderLock(tmp_path):
        assert json.loads((tmp_path / lock.NAME).read_text())["process"] == os.getpid()


def test_another_machine_on_a_disk_without_locks(tmp_path, monkeypatch):
    """Nobody can know whether it is gone: the message says what to delete."""
    monkeypatch.setattr(lock, "_lock", lambda number: None)
    owner = {"process": 7, "host": "far\x1b[31m", "start": "yesterday", "born": "1"}
    (tmp_path / lock.NAME).write_text(json.dumps(owner))
    with pytest.raises(UserError) as caught:
        FolderLock(tmp_path).__enter__()
    assert str(caught.value).endswith(f"If it is gone, delete {tmp_path / lock.NAME}.")
    assert r"process 7 on far\x1b[31m has been writing there since yesterday" in str(caught.value)
    assert not lock._HELD


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / lock.NAME).symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match="cannot be written"):
        FolderLock(tmp_path).__enter__()
    assert (tmp_path / "mine").read_text() == "mine"


def test_it_is_taken_of_the_file_that_is_there(tmp_path, monkeypatch):
    """Whose holder ends between the opening and the locking has deleted what was opened."""
    real, calls = lock._lock, []

    def slow(number):
        calls.append(number)
        if len(calls) == 1:
            (tmp_path / lock.NAME).unlink()
        return real(number)

    monkeypatch.setattr(lock, "_lock", slow)
    before = len(os.listdir("/dev/fd"))
    with FolderLock(tmp_path):
        assert len(calls) == 2
        assert len(os.listdir("/dev/fd")) == before + 1
        assert (tmp_path / lock.NAME).exists()
    assert len(os.listdir("/dev/fd")) == before


def test_the_first_of_several_processes_holds_it(tmp_path, monkeypatch):
    with FolderLock(tmp_path):
        monkeypatch.setattr(lock, "rank", lambda: 1)
        with FolderLock(tmp_path), FolderLock(tmp_path / "new"):
            assert [path.name for path in tmp_path.iterdir()] == [lock.NAME]
        assert (tmp_path / lock.NAME).exists()
        monkeypatch.undo()


def test_whoever_may_write_in_the_folder_may_lock_it(tmp_path):
    before = os.umask(0)
    try:
        with FolderLock(tmp_path):
            assert stat.S_IMODE((tmp_path / lock.NAME).stat().st_mode) == 0o666
    finally:
        os.umask(before)


def test_a_process_that_grows_is_the_same():
    born = lock._born(os.getpid())
    with mmap.mmap(-1, 1 << 24):
        assert lock._born(os.getpid()) == born


@pytest.mark.parametrize("gone", [False, True])
def test_a_system_that_does_not_say_when_a_process_began(tmp_path, monkeypatch, gone):
    def refuse(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(lock, "_lock", lambda number: None)
    process = FORK.Process(target=signal.pause)
    process.start()
    owner = {"process": process.pid, "host": socket.gethostname(), "born": "alive"}
    (tmp_path / lock.NAME).write_text(json.dumps(owner))
    if gone:
        process.kill()
        process.join()
    monkeypatch.setattr(Path, "read_text", refuse)
    try:
        expected = contextlib.nullcontext() if gone else pytest.raises(UserError, match="writing")
        with expected, FolderLock(tmp_path):
            pass
    finally:
        process.kill()
        process.join()
