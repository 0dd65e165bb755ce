"""Run one example of every verb and keep what it prints, for the page of the command line.

    python book/_tools/cli_examples.py          # writes book/examples/VERB.txt
    python book/_tools/cli_examples.py --check  # exit code 1 where an output has changed

All run in one process and in a folder of their own that holds nothing but ``data``. What differs
from machine to machine, seconds and bytes, is shown as it was, and not compared.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import records

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "book" / "examples"
MODEL = "data/runs/toytown_pup/model"
TOWN = "data/sample/toytown_cityscapes"
STREETS = f"{TOWN}/leftImg8bit/val/toytown"
EXAMPLES = {
    "recipes": ("toytown_pup", 14),
    "toytown": ("town --train 4 --val 2", 0),
    "check-data": ("cityscapes town --out checked", 40),
    "make-masks": (f"data/sample/labelme streets --images {STREETS}", 10),
    "split": ("streets --val 0.34", 12),
    "train": ("toytown_pup data.root=town train.device=cpu --dry-run", 5),
    "eval": (f"{MODEL} data.root={TOWN} --images 10", 40),
    "predict": (f"{MODEL} {STREETS}", 10),
    "convert": (f"{MODEL} encoder.safetensors --to timm", 10),
    "compare": ("data/runs/toytown_pup --with data/runs/toytown_naive", 20),
    "doctor": ("data/runs/camvid_pup", 20),
    "download": ("", 4),
    "bench": ("loss --classes 19 --size 64x64 --turns 5 --threads 1", 2),
    "export": (f"{MODEL} --format torch --out model.pt2", 12),
}
"""Verb -> its arguments, and how many lines of the output are shown; they build on each other."""
FOLDERS = {"toytown": ("town", 4), "predict": ("pictures", 3)}
"""Verb -> the folder it has written, and how many files of it are shown."""
WIDTH = 84
TIME = r"\d[\d.]* ?(?:h|min|s|ms)\b"
RATE = r"\d[\d.]* ?(?:[KMGT]i?B|[MGT]FLOP(?:/s)?|images/s)|MFU \d+ ?%"
MACHINE = re.compile(rf"{TIME}|{RATE}|precision .*?(?= parameters )")


def run(verb: str) -> str:
    """``$ setr-lite VERB ...`` and what it prints, in the folder where we are."""
    from setr_lite.cli import main

    arguments, shown = EXAMPLES[verb]
    printed, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        try:
            code = main([verb, *arguments.split()])
        except SystemExit as end:
            code = end.code
    if code:
        raise RuntimeError(f"setr-lite {verb} ends with {code}: {said.getvalue()}")
    lines = printed.getvalue().splitlines()
    cut = ["..."] if len(lines) > shown else []
    command = textwrap.wrap(f"$ setr-lite {verb} {arguments}".rstrip(), WIDTH - 2,
                            break_on_hyphens=False, break_long_words=False,
                            subsequent_indent="    ")
    text = [" \\\n".join(command), *(fold(line) for line in lines[:shown]), *cut]
    if verb in FOLDERS:
        folder, count = FOLDERS[verb]
        files = sorted(path.as_posix() for path in Path(folder).rglob("*.*"))
        text += [f"$ find {folder} -type f | sort | head -{count}", *files[:count]]
    return "\n".join(text).rstrip() + "\n"


def fold(line: str) -> str:
    """A long line as several."""
    if len(line) <= WIDTH:
        return line.rstrip()
    line = re.sub(r"https://\S+", lambda address: address[0].replace("/", "/ "), line)
    folded = textwrap.wrap(line, WIDTH, subsequent_indent="    ", break_on_hyphens=False,
                           break_long_words=False)
    return re.sub(r"/ (?=\S)", "/", "\n".join(folded))


def run_all() -> dict[str, str]:
    """Verb -> the text of its example."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, SETR_HOME=folder):
        Path(folder, "data").symlink_to(ROOT / "data")
        os.chdir(folder)
        try:
            return {verb: run(verb) for verb in EXAMPLES}
        finally:
            os.chdir(before)


def alike(old: str, new: str) -> bool:
    """Whether two outputs say the same: words exactly, numbers to two digits, no seconds."""
    pairs = [re.split(r"(-?\d+(?:\.\d+)?)", MACHINE.sub("#", " ".join(t.split())))
             for t in (old, new)]  # fmt: skip
    if len(pairs[0]) != len(pairs[1]) or pairs[0][::2] != pairs[1][::2]:
        return False
    numbers = zip(*(map(float, parts[1::2]) for parts in pairs), strict=True)
    return all(abs(a - b) <= 0.02 * max(abs(a), abs(b), 0.1) for a, b in numbers)


def main(argv: Sequence[str] | None = None) -> int:
    parser = records.options(__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args(argv).check
    sys.path.insert(0, str(ROOT))
    stale = []
    for verb, new in run_all().items():
        path = OUT / f"{verb}.txt"
        if not path.exists() or not alike(path.read_text("utf-8"), new):
            stale.append(verb)
            if not check:
                path.write_text(new, "utf-8")
    print(f"{'changed' if check else 'written'}: {', '.join(stale) or 'none'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
