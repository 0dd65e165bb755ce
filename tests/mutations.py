"""Do the notebooks notice when the library is wrong? Change a sign or a number, and see.

    .venv/bin/python tests/mutations.py [attention] [loss] [metrics] [resize]

Each change is made in a copy of the library, and a chapter that teaches the changed part is run
against that copy. The chapter has to go red; one that stays green proves nothing. Takes one to two
minutes for each; not a part of CI.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "book" / "_tools"))
from silent.planted import planted  # noqa: E402 (the page's list of bugs plants them the same way)

CHANGES = {
    "attention": ("encoder.py", "attention(q, k, v)", "attention(-q, k, v)", "04_encoding"),
    "loss": ("losses/cross_entropy.py", "+ aux_weight * auxiliary", "- aux_weight * auxiliary",
             "11_five_minutes"),
    "metrics": ("metrics.py", "return hit / (labelled + predicted - hit)",
                "return hit / (labelled + predicted + hit)", "10_measuring"),
    "resize": ("logits.py", "(inputs / outputs) - 0.5)", "(inputs / outputs) - 0.3)",
               "10b_protocols"),
}  # fmt: skip
"""name -> (file, text, what it becomes, chapter)."""


def run_chapter(folder: Path, chapter: str) -> tuple[int, str]:
    """nbval on a chapter in a copy of the project; exit code and what it printed."""
    command = [sys.executable, "-m", "pytest", "-q", "--nbval", "--nbval-current-env",
               "--nbval-sanitize-with", "tests/nbval_sanitize.cfg", "--nbval-cell-timeout", "600",
               "-p", "no:cacheprovider", "-W", "ignore::ResourceWarning",
               f"book/{chapter}.ipynb"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout


def mutate(name: str) -> bool:
    """Make one change, run its chapter; whether that went red."""
    file, old, new, chapter = CHANGES[name]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "project"
        unwanted = shutil.ignore_patterns(".git", ".venv", "_build", "runs", ".make", "__pycache__")
        shutil.copytree(ROOT, folder, ignore=unwanted)
        shutil.copytree(ROOT / "data" / "runs", folder / "data" / "runs")
        path = folder / "setr_lite" / file
        path.write_text(planted(path.read_text("utf-8"), old, new, file), "utf-8")
        code, printed = run_chapter(folder, chapter)
    failed = len(re.findall(r"^FAILED", printed, re.M))
    last = (printed.strip().splitlines() or ["nothing"])[-1]
    print(f"{name}: {old} -> {new}; {chapter}: {failed} cells differ ({last})", flush=True)
    return code == 1 and failed > 0


def main() -> int:
    """Run the changes asked for; 0 if every chapter noticed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="CHANGE", help=", ".join(CHANGES))
    names = parser.parse_args().names or list(CHANGES)
    if unknown := set(names) - set(CHANGES):
        parser.error(f"no change {', '.join(sorted(unknown))}; there are {', '.join(CHANGES)}")
    noticed = [mutate(name) for name in names]
    return 0 if all(noticed) else 1


if __name__ == "__main__":
    sys.exit(main())
