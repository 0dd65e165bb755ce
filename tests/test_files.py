"""One writer and one reader: complete or absent, where it was asked for, and checked."""

import json
import math
import os
import stat
from pathlib import Path

import pytest

from setr_lite import files
from setr_lite.errors import UserError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_permissions_follow_the_umask(tmp_path, mask):
    """Also of a file that its writer made for its owner alone, as safetensors does."""
    before = os.umask(mask)
    try:
        with files.written_beside(tmp_path / "a.txt") as part:
            part.touch(mode=0o600)
        with files.folder_beside(tmp_path / "folder") as part:
            (part / "b.txt").touch(mode=0o600)
    finally:
        os.umask(before)
    assert mode(tmp_path / "a.txt") == mode(tmp_path / "folder" / "b.txt") == 0o666 & ~mask
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == ["b.txt"]


def test_a_link_is_replaced_and_its_target_left_alone(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.txt").write_text("mine")
    (tmp_path / "a.txt").symlink_to(outside / "mine.txt")
    for name in ("folder", "folder.part", "folder.old"):
        (tmp_path / name).symlink_to(outside)
    for text in ("first", "second"):
        with files.written_beside(tmp_path / "a.txt") as part:
            part.write_text(text)
        with files.folder_beside(tmp_path / "folder") as part:
            (part / "b.txt").write_text(text)
        assert (tmp_path / "a.txt").read_text() == (tmp_path / "folder" / "b.txt").read_text()
    assert [p.name for p in outside.iterdir()] == ["mine.txt"]
    assert (outside / "mine.txt").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "folder", "outside"]


def test_what_is_gone_need_not_be_removed(tmp_path):
    for path in (tmp_path / "nothing", tmp_path / "nothing" / "below"):
        files.remove(path)
    (tmp_path / "nowhere").symlink_to(tmp_path / "nothing")
    files.remove(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_folders_above_are_made(tmp_path):
    with files.written_beside(tmp_path / "x" / "y" / "a.txt") as part:
        part.touch()
    with files.folder_beside(tmp_path / "z" / "y" / "folder") as part:
        (part / "b.txt").touch()
    assert sorted(p.name for p in tmp_path.rglob("*.txt")) == ["a.txt", "b.txt"]


def test_all_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Else a power cut could leave the new name with empty files."""
    folder, synced, before = tmp_path / "folder", [], len(os.listdir("/dev/fd"))

    def sync(number):
        assert not folder.exists()
        synced.append(os.fstat(number).st_ino)

    monkeypatch.setattr(os, "fsync", sync)
    with files.folder_beside(folder) as part:
        for name in ("a.txt", "b.txt"):
            (part / name).touch()
    assert sorted(synced) == sorted(p.stat().st_ino for p in (folder, *folder.iterdir()))
    assert len(os.listdir("/dev/fd")) == before


def test_only_files_of_its_own_get_other_permissions(tmp_path):
    (tmp_path / "mine.txt").touch(mode=0o600)
    with files.folder_beside(tmp_path / "folder") as part:
        (part / "below").mkdir(mode=0o700)
        (part / "link").symlink_to(tmp_path / "mine.txt")
    assert mode(tmp_path / "mine.txt") == 0o600
    assert mode(tmp_path / "folder" / "below") == 0o700


def test_a_crash_between_the_renames_and_the_deletion_is_no_obstacle(tmp_path):
    for name in ("folder", "folder.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "before.txt").touch()
    with files.folder_beside(tmp_path / "folder") as part:
        (part / "a.txt").touch()
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.txt")] == ["folder/a.txt"]


def test_what_fails_leaves_nothing(tmp_path):
    (tmp_path / "a.txt").write_text("before")

    def fail(writer, path):
        with writer(path) as part:
            (part if writer is files.written_beside else part / "b.txt").write_text("half")
            raise KeyError

    for writer, name in ((files.written_beside, "a.txt"), (files.folder_beside, "folder")):
        with pytest.raises(KeyError):
            fail(writer, tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "before"


def test_inputs_are_not_overwritten(tmp_path):
    data, link = tmp_path / "data", tmp_path / "link"
    data.mkdir()
    (data / "a.json").write_text("{}")
    link.symlink_to(data)
    for path in (data / "a.json", data / "new.json", data, link, link / "sub" / ".." / "a.json"):
        with pytest.raises(UserError, match=r"(is|lies in) .*data, which is read here"):
            files.refuse_inputs(path, [data])
    with pytest.raises(UserError, match=r"a.json: is .*a.json, which is read here"):
        files.written_beside(data / "a.json", [data / "a.json"]).__enter__()
    files.refuse_inputs(data / "b.json", [data / "a.json"])
    files.refuse_inputs(tmp_path, [data])
    files.refuse_inputs(tmp_path / "database", [data])


def test_a_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: cannot be written, it is no file"):
        files.written_beside(tmp_path / "pipe").__enter__()
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_json_is_an_object_of_a_reasonable_size(tmp_path):
    path = tmp_path / "a.json"
    for text, message in (("[1]", "a list, not a JSON object; do so"), ("{", "not readable as"),
                          ("[" * 100_000, "not readable as"), ("9" * 6000, "not readable as")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            files.read_json(path, "do so")
    path.write_text(json.dumps({"a": 1}))
    assert files.read_json(path, "do so") == {"a": 1}
    with pytest.raises(UserError, match=r"a.json: not readable as JSON \(0 MiB\); do so"):
        files.read_json(path, "do so", most=path.stat().st_size - 1)
    assert files.read_json(path, "do so", most=path.stat().st_size) == {"a": 1}
    for size, message in ((1 << 26, "Expecting value"), ((1 << 26) + 1, "64 MiB")):
        os.truncate(path, 0)
        os.truncate(path, size)
        with pytest.raises(UserError, match=rf"not readable as JSON \({message}"):
            files.read_json(path, "do so")


def test_numbers_out_of_files():
    assert [files.is_whole(v) for v in (0, 5, 2**62, True, -1, 5.0, "5", 2**62 + 1, None)] == [
        True, True, True, False, False, False, False, False, False]
    assert [files.is_number(v, 0, 1) for v in (0, 1, 0.5, 1.1, -0.1, True, "0", math.nan)] == [
        True, True, True, False, False, False, False, False]
    assert not files.is_number(math.inf)
    assert not files.is_number(-math.inf)
    assert files.is_number(10**400)


def test_what_is_required_is_named_with_what_was_found():
    files.require(True, "f.json: 'step'", 1, "a number", "do so")
    with pytest.raises(UserError, match=r"^f.json: 'step' is 'x', expected a number; do so$"):
        files.require(False, "f.json: 'step'", "x", "a number", "do so")


def test_what_a_killed_process_has_left_goes_and_nothing_else(tmp_path):
    left = [".ab_12xyz.part", "last.part", "best.part", "step_0000120.part"]
    mine = ["notes.part", "last", "last.old", ".git"]
    for name in [*left, *mine]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / ".ab_12abc.part").touch()  # a file is not of our making
    files.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*mine, ".ab_12abc.part"}


def test_a_word_is_looked_up_where_no_folder_has_its_name(tmp_path, monkeypatch):
    asked = []

    def finder(number, found):
        def find(word):
            asked.append((number, word))
            return found

        return find

    monkeypatch.setattr(files, "FINDERS", [finder(1, None), finder(2, tmp_path), finder(3, None)])
    (tmp_path / "here").mkdir()
    (tmp_path / "between two renames.old").mkdir()
    for name in ("here", "between two renames"):
        assert files.find_folder(tmp_path / name) == tmp_path / name
    assert asked == []
    assert files.find_folder("a word") == tmp_path
    assert asked == [(1, "a word"), (2, "a word")]
    monkeypatch.setattr(files, "FINDERS", [finder(4, None)])
    assert files.find_folder("a word") == Path("a word")


def test_names_that_are_no_utf8_are_refused():
    files.require_utf8("größer/木")
    with pytest.raises(UserError, match="its name is not UTF-8, and PyTorch, safetensors"):
        files.require_utf8("a\udcff")
