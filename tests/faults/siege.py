"""Hours of accidents: runs that are killed, signalled and starved of disk at random until the time
is up, and that end with the weights of runs to which nothing happened.

    python tests/faults/siege.py --seconds 7200

Every accident is followed by the same questions: did the run end as it should, with one line and no
traceback; does its last checkpoint load; is no saved step lost. Every run that reaches its end is
compared bit for bit with an undisturbed one. Needs to be root, to mount a small disk. Writes
``siege.json``; the first answer that is wrong ends it with exit code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "tests")]

from drill import can_mount, command, go, loads, mounted, same  # noqa: E402
from processes import Child  # noqa: E402

from setr_lite import checkpoint  # noqa: E402

STEPS = 120
SETTINGS = (f"train.steps={STEPS}", "train.eval_every=30", "eval.limit=2")


class Siege:
    """One run on a small disk, and what befalls it."""

    def __init__(self, disk: Path, logs: Path, seed: int) -> None:
        self.disk, self.logs, self.dice = disk, logs, random.Random(seed)
        self.out = disk / "run"
        self.ballast = disk / "ballast"
        self.counts: Counter[str] = Counter()
        self.saved = 0
        """The highest step that was seen in a checkpoint of this run."""

    def accident(self) -> None:
        """Start or resume the run, let something happen, ask the questions."""
        kinds: list[Callable[[Child], None]] = [
            self.kill, self.kill, self.kill_while_saving, self.signal, self.full, self.nearly_full,
            self.two_in_one_folder,
        ]  # fmt: skip
        kind, start = self.dice.choice(kinds), self.dice.random()
        resume = ["--resume"] * checkpoint.exists(self.out / "last")
        words = [*command(self.out, *SETTINGS), *resume]
        quota = {"small files": self.saved + self.dice.randint(2, 20)} if start < 0.1 else {}
        if read_only := start > 0.9:
            assert self.remount("ro")
        child = Child(go, words, quota, log=self.logs / "victim.txt")
        if read_only or quota:
            self.ends(child, "read-only disk" if read_only else "quota", 2)
        else:
            self.wait(child, self.dice.choice([0, 0, 1, 2, 5, 15]))
            time.sleep(self.dice.uniform(0, 0.2))
            kind(child)
        self.check(child)

    def wait(self, child: Child, saves: int) -> None:
        """Until so many checkpoints were written."""
        for _ in range(saves):
            before = self.stamp()
            while child.process.exitcode is None and self.stamp() == before:
                time.sleep(0.001)

    def stamp(self) -> int:
        """Changes with every checkpoint."""
        with contextlib.suppress(OSError):
            return (self.out / "last" / "state.json").stat().st_mtime_ns
        return 0

    def ends(self, child: Child, kind: str, *codes: int) -> None:
        """It ends with one of these codes, or had reached its end before."""
        code = child.wait(120)
        assert code in (0, *codes), (kind, code, child.text())
        assert "Traceback" not in child.text(), (kind, child.text())
        self.counts[kind if code in codes else f"{kind}, too late"] += 1

    def kill(self, child: Child) -> None:
        """Whatever it is doing."""
        self.kill_as(child, "killed")

    def kill_while_saving(self, child: Child) -> None:
        """Some milliseconds after a checkpoint was begun."""
        while child.process.exitcode is None and not (self.out / "last.part").exists():
            time.sleep(0.0002)
        time.sleep(self.dice.uniform(0, 0.01))
        self.kill_as(child, "killed while saving")

    def kill_as(self, child: Child, kind: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            child.kill(signal.SIGKILL)
        self.ends(child, kind, -signal.SIGKILL)

    def signal(self, child: Child) -> None:
        """SIGTERM or SIGINT to one that takes steps: it saves and ends well."""
        number = self.dice.choice([signal.SIGTERM, signal.SIGINT])
        self.wait(child, 1)
        with contextlib.suppress(ProcessLookupError):
            child.kill(number)
        code = child.wait(120)
        assert code == 0, (number, code, child.text())
        self.counts[signal.Signals(number).name] += 1

    def full(self, child: Child) -> None:
        """Not one byte is left on the disk."""
        self.fill(0)
        self.ends(child, "full disk", 2)

    def nearly_full(self, child: Child) -> None:
        """Some of a checkpoint would have room."""
        self.fill(self.dice.randint(1_000, 400_000))
        self.ends(child, "nearly full disk", 2)

    def fill(self, left: int) -> None:
        """Leave so many bytes, whatever the run takes or gives back in the meantime."""
        with contextlib.suppress(OSError), open(self.ballast, "wb", buffering=0) as file:
            while shutil.disk_usage(self.disk).free > left:
                file.write(bytes(4096))

    def remount(self, how: str) -> bool:
        """Whether the disk is read-only (ro) or not (rw) now."""
        words = ["mount", "-o", f"remount,{how}", str(self.disk)]
        return subprocess.run(words, capture_output=True).returncode == 0

    def two_in_one_folder(self, child: Child) -> None:
        """A second run into the same folder is refused and disturbs nothing; the first dies."""
        self.wait(child, 1)  # else there is nothing to go on from
        words = [*command(self.out, *SETTINGS), "--resume"]
        second = Child(go, words, log=self.logs / "second.txt")
        code = second.wait(120)
        if child.process.exitcode is None:
            assert code == 2, second.text()
            assert f"process {child.pid}" in second.text(), second.text()
        self.kill_as(child, "killed beside a second run")

    def check(self, child: Child) -> None:
        """The disk as it was; the checkpoint loads; no saved step is lost."""
        assert self.remount("rw")
        self.ballast.unlink(missing_ok=True)
        if checkpoint.exists(self.out / "last"):
            step = loads(self.out / "last")
            assert step >= self.saved, (step, self.saved, child.text())
            self.saved = step
        else:
            assert self.saved == 0, child.text()

    def finished(self) -> bool:
        """Whether the run has come to its end."""
        if not checkpoint.exists(self.out / "last"):
            return False
        state = checkpoint.read_state(self.out / "last")
        return state["finished"] and state["scored"] == STEPS

    def next_run(self) -> None:
        """Everything from the beginning."""
        shutil.rmtree(self.out)
        self.saved = 0


def besiege(seconds: float, seed: int, place: Path) -> dict[str, object]:
    """Accidents until the time is up, then the last run to its end; what was counted."""
    began, runs, accidents = time.monotonic(), 0, 0
    undisturbed, disk = place / "undisturbed", place / "disk"
    child = Child(go, command(undisturbed, *SETTINGS), log=place / "undisturbed.txt")
    assert child.wait() == 0, child.text()
    disk.mkdir()
    if not can_mount(disk):
        raise SystemExit("needs to be root on Linux, to mount a small disk")
    with mounted(disk, "-t", "tmpfs", "-o", "size=16m", "tmpfs"):
        siege = Siege(disk, place, seed)
        while time.monotonic() < began + seconds or not siege.finished():
            if siege.finished():
                same(siege.out, undisturbed, STEPS)
                runs += 1
                siege.next_run()
            siege.accident()
            accidents += 1
            if accidents % 50 == 0:
                print(f"{time.monotonic() - began:6.0f} s: {accidents} accidents, {runs} runs "
                      "finished equal", flush=True)
        same(siege.out, undisturbed, STEPS)
    return {"accidents": accidents, "runs_finished_equal": runs + 1, "steps_of_a_run": STEPS,
            "by_kind": dict(sorted(siege.counts.items()))}  # fmt: skip


def main() -> int:
    """Besiege, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=7200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "runs" / "siege")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        counted = besiege(options.seconds, options.seed, Path(place))
    record = {
        "command": shlex.join(["python", "tests/faults/siege.py", "--seconds",
                               f"{options.seconds:.0f}", "--seed", str(options.seed)]),
        "device": f"one core ({platform.machine()})", "torch": torch.__version__,
        "python": platform.python_version(), "seconds": round(time.monotonic() - began), **counted,
    }  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "siege.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
