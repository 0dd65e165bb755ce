"""Names out of files fit where they are shown."""

import io
import os
from pathlib import Path

import numpy as np
import pytest

from setr_lite.errors import (
    Outlet,
    UserError,
    csv_cell,
    drawable,
    file_name,
    in_short,
    one_line,
    out_of_memory,
    printable,
    shortly,
    written_in,
)
from setr_lite.visualize import panel


@pytest.mark.parametrize(("text", "shown"), [
    ("\x1b[31mred", r"\x1b[31mred"), ("a\nhealthy", r"a\nhealthy"), ("a\rb\tc", r"a\rb\tc"),
    ("\x9b2J", r"\x9b2J"), ("dir\udcff", r"dir\udcff"), ("a\u2028b", r"a\u2028b"),
    ("evil\u202egnp.exe", r"evil\u202egnp.exe"), ("räuber 木 \N{BUS}", "räuber 木 \N{BUS}"),
    ("", ""),
])  # fmt: skip
def test_terminals_get_no_control_characters(text, shown):
    assert printable(text) == shown
    printable(text).encode()


def test_messages_are_one_printable_line():
    assert one_line(UserError("a\nb \x1b]0;title\x07 \udcff")) == r"a b \x1b]0;title\x07 \udcff"


def test_of_a_loader_process_the_message_and_not_where_it_was_raised():
    text = (
        "Caught UserError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
        "last):\n  File 'images.py', line 7, in read\nsetr_lite.errors.UserError: a.png: empty\n")
    assert one_line(UserError(text)) == "a.png: empty"


@pytest.mark.parametrize(("error", "says"), [
    (MemoryError(), True), (type("OutOfMemoryError", (RuntimeError,), {})(), True),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), True),
    (RuntimeError("memory format"), False),
])  # fmt: skip
def test_memory_that_is_used_up_is_known_whoever_says_so(error, says):
    assert out_of_memory(error) == says


def test_a_full_disk_is_told_of_with_the_runs_folder():
    told = pytest.raises(UserError, match=r"^run: cannot be written \(No space left on device\); a")
    with told, written_in(Path("run")):
        raise OSError(28, "No space left on device")


def test_an_output_that_failed_is_not_tried_again(tmp_path, monkeypatch):
    """Its number leads nowhere from then on, or Python's own flush at the end would fail, too."""
    full, tried = OSError(28, "No space left on device"), []

    def write(text):
        tried.append(text)
        raise full

    with open(tmp_path / "log", "w") as stream:
        before = len(os.listdir("/dev/fd"))
        monkeypatch.setattr(stream, "write", write, raising=False)
        outlet = Outlet(stream)
        assert [outlet.write(text) for text in ("one", "three")] == [3, 5]
        assert tried == ["one"]
        assert outlet.failed is full
        assert os.path.samestat(os.fstat(stream.fileno()), os.stat(os.devnull))
        assert len(os.listdir("/dev/fd")) == before


def test_what_waits_in_an_output_is_handed_on():
    stream = io.TextIOWrapper(io.BytesIO())
    outlet = Outlet(stream)
    outlet.write("text")
    outlet.flush()
    assert stream.buffer.getvalue() == b"text"


@pytest.mark.parametrize(("value", "cell"), [
    ("=1+1", "'=1+1"), ("+1", "'+1"), ("-1", "'-1"), ("@a", "'@a"), ("\t=1", r"\t=1"),
    ("road", "road"), ("a-b", "a-b"), (-1.5, -1.5), (None, None), (7, 7),
])  # fmt: skip
def test_spreadsheets_get_no_formulas(value, cell):
    assert csv_cell(value) == cell


@pytest.mark.parametrize(("text", "name"), [
    ("../../etc", "_.._etc"), ("/abs", "_abs"), ("a/b", "a_b"), ("..", "_"), ("", "_"),
    (".hidden", "hidden"), ("a\nb", "a_b"), ("ok name", "ok name"), ("x" * 500, "x" * 200),
    ("ä" * 200, "ä" * 100), ("a\udcff", "a_"),
])  # fmt: skip
def test_a_file_name_stays_in_its_folder(text, name):
    assert file_name(text) == name


def test_what_was_found_is_short():
    assert shortly({"a": 1}) == "an object of 1"
    assert shortly([1, 2]) == "a list of 2"
    assert shortly("x" * 99) == "'" + "x" * 59 + " ..."
    assert shortly(10**5000) == "a number of 16610 bits"
    assert shortly("\x1b") == r"'\x1b'"
    assert shortly(True) == "True"
    assert shortly("x" * 58) == "'" + "x" * 58 + "'"


@pytest.mark.parametrize(("message", "shown"), [
    ("First.  Second", "First"), ("one\ntwo", "one"), ("", "KeyError"), ("x" * 200, "x" * 200),
    ("x" * 201, "x" * 200 + " ..."),
])  # fmt: skip
def test_of_anothers_message_the_first_sentence(message, shown):
    assert in_short(KeyError() if not message else ValueError(message)) == shown


@pytest.mark.parametrize("text", ["a$b$", r"$\foo$", "one $", "a\udcff", r"\$", "_^{"])
def test_a_figure_takes_any_name(text):
    """Matplotlib made a formula of the dollars, and failed at bytes that are no UTF-8."""
    figure = panel([np.zeros((3, 4, 3), np.uint8)], [text])
    figure.canvas.draw()
    title = figure.axes[0].title
    assert title._preprocess_math(title.get_text()) == (printable(text), False)
    assert drawable("a$b") == r"a\$b"
