"""The examples on the page of the command line are what the program prints."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("examples", ROOT / "book/_tools/cli_examples.py")
examples = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(examples)


@pytest.mark.slow
def test_the_program_still_prints_them():
    made = examples.run_all()
    kept = {path.stem: path.read_text("utf-8") for path in examples.OUT.glob("*.txt")}
    assert kept.keys() == made.keys()
    changed = [verb for verb in made if not examples.alike(kept[verb], made[verb])]
    assert changed == [], "python book/_tools/cli_examples.py"


def test_every_verb_has_one():
    from setr_lite.cli import _parser

    verbs = next(a.choices for a in _parser()._actions if a.choices)
    assert set(examples.EXAMPLES) == set(verbs)


@pytest.mark.parametrize(("old", "new", "same"), [
    ("took 3.2 s, mIoU 81.72", "took 45 s, mIoU 81.70", True),
    ("took 3.2 s, mIoU 81.72", "took 3.2 s, mIoU 71.72", False),
    ("12 images read", "12 images seen", False),
    ("12 images read", "13 images read", False),
    ("1.02 GiB taken", "640 MiB taken", True),
])
def test_seconds_and_bytes_may_differ_and_nothing_else(old, new, same):
    assert examples.alike(old, new) is same
