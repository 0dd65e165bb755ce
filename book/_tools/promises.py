"""Run every test that the page of promises names, and record what came out.

    python book/_tools/promises.py        # writes data/promises.json; minutes on an idle machine

The page shows date and result beside each promise.
"""

from __future__ import annotations

import datetime
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import records

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


def main(argv: Sequence[str] | None = None) -> int:
    records.options(__doc__).parse_args(argv)
    tests = named(PAGE.read_text("utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        subprocess.run([sys.executable, "-m", "pytest", "-q", f"--junit-xml={report}", *tests],
                       cwd=ROOT, check=False)
        found = results(report.read_text("utf-8"), tests)
    record = {"date": datetime.date.today().isoformat(), "results": found}
    RECORD.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    print(f"{len(found)} of {len(tests)} tests, {list(found.values()).count('passed')} passed")
    return int(set(found.values()) != {"passed"})


if __name__ == "__main__":
    sys.exit(main())
