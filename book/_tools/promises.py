"""Run the tests that the page of promises names, and record what came out.

    python book/_tools/promises.py                # writes data/promises.json; minutes, idle machine
    python book/_tools/promises.py weights model  # only tests with such a word in their address

The page shows beside each promise what its test said last, and sums it up at its head. A test that
is not run keeps what the record has of it, if that was with the same versions; one that the page no
longer names is left out.
"""

from __future__ import annotations

import datetime
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import records
import torch

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "book" / "promises.md"
RECORD = ROOT / "data" / "promises.json"


def named(page: str) -> list[str]:
    """``tests/FILE.py::NAME``, each once, in the order of the page."""
    return list(dict.fromkeys(re.findall(r"tests/[\w/]+\.py::\w+", page)))


def results(report: str, tests: list[str]) -> dict[str, str]:
    """Test -> passed, failed or skipped, from pytest's JUnit report; the worst of its cases."""
    worst: dict[str, str] = {}
    order = ("skipped", "passed", "failed")
    for case in ElementTree.fromstring(report).iter("testcase"):
        file = case.get("classname", "").replace(".", "/") + ".py"
        test = f"{file}::{case.get('name', '').partition('[')[0]}"
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else (
            "skipped" if "skipped" in kinds else "passed")
        if test in tests:
            worst[test] = max(worst.get(test, "skipped"), outcome, key=order.index)
    return worst


def merged(old: dict, found: dict[str, str], tests: list[str], date: str) -> dict:
    """Test -> outcome and date: what was found now, else what the record has; as on the page."""
    now = {test: {"outcome": outcome, "date": date} for test, outcome in found.items()}
    return {test: row for test in tests if (row := now.get(test) or old.get(test))}


def main(argv: Sequence[str] | None = None) -> int:
    parser = records.options(__doc__)
    parser.add_argument("words", nargs="*", help="run only tests with one of them in its address")
    words = parser.parse_args(argv).words
    tests = named(PAGE.read_text("utf-8"))
    wanted = [test for test in tests if not words or any(word in test for word in words)]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        subprocess.run([sys.executable, "-m", "pytest", "-q", f"--junit-xml={report}", *wanted],
                       cwd=ROOT, check=False)
        found = results(report.read_text("utf-8"), wanted)
    here = {"python": platform.python_version(), "torch": torch.__version__.partition("+")[0],
            "system": platform.system()}
    record = json.loads(RECORD.read_text("utf-8")) if RECORD.exists() else {}
    old = record["results"] if here.items() <= record.items() else {}  # else of other versions
    record = here | {"results": merged(old, found, tests, datetime.date.today().isoformat())}
    RECORD.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    print(f"{len(found)} of {len(wanted)} tests, {list(found.values()).count('passed')} passed")
    return int(set(found.values()) != {"passed"})


if __name__ == "__main__":
    sys.exit(main())
