"""A long run, watched: do memory, open files and throughput stay flat?

    python tests/faults/soak.py --steps 4000

Trains a small SETR-PUP on ToyTown's sample with evaluations and checkpoints, reads what the
process holds every so many steps, and writes ``soak.json`` and ``soak.png``. Exit code 1 if one of
`BOUNDS` is broken.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from setr_lite.recipes import get_recipe

HERE = Path(__file__).resolve().parents[2]
BOUNDS = {
    "memory_growth": 0.02,
    "files_growth": 0,
    "throughput_change": 0.25,
}
"""Most that the last quarter may differ from the second one: resident memory may grow by this
share, open files by none, the median throughput may change by this share. The first quarter is
left out, in which caches fill. Throughput counts seconds of the processor, not of the clock: what
else the machine has to do is none of the run's business."""


def main() -> int:
    """Run, watch, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--every", type=int, default=20, help="steps between readings")
    parser.add_argument("--out", type=Path, default=HERE / "data" / "runs" / "soak")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        readings = watch(options.steps, options.every, folder)
    verdict = judge(readings)
    record = {
        "command": shlex.join(["python", "tests/faults/soak.py", "--steps", str(options.steps)]),
        "device": f"one core ({platform.machine()})", "torch": torch.__version__,
        "python": platform.python_version(), "seed": 0, "steps": options.steps,
        "seconds": round(time.perf_counter() - began), "bounds": BOUNDS, **verdict,
        "readings": readings,
    }  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "soak.json").write_text(json.dumps(record) + "\n")
    draw(record, options.out / "soak.png")
    print({key: record[key] for key in (*verdict, "steps", "seconds")})
    return 0 if verdict["flat"] and verdict["steady"] else 1


def watch(steps: int, every: int, folder: str) -> dict[str, list[float]]:
    """Columns of readings: step, megabytes, open files, images a second of processor time."""
    config = get_recipe("toytown_pup").override(
        f"data.root={HERE / 'data/sample/toytown_cityscapes'}", f"train.out={folder}",
        "train.device=cpu", f"train.steps={steps}", "train.batch_size=2", "train.workers=0",
        "train.eval_every=200", "train.save_every=50", "train.log_every=20", "train.keep_last=3",
        "data.crop_size=32x48", "eval.limit=4", "model.channels=16",
    )  # fmt: skip
    readings = {"step": [], "memory_mb": [], "files": [], "images_per_s": []}
    run_class = importlib.import_module("setr_lite.train").Run
    take_step, clock, inside = run_class.take_step, time.process_time, []

    def timed(run, batch):
        begin = clock()
        losses = take_step(run, batch)
        inside.append(clock() - begin)
        if run.progress.step % every == 0:
            gc.collect()
            readings["step"].append(run.progress.step)
            readings["memory_mb"].append(round(resident(), 2))
            readings["files"].append(len(os.listdir("/proc/self/fd")))
            readings["images_per_s"].append(round(2 / statistics.median(inside), 2))
            inside.clear()
        return losses

    run_class.take_step = timed
    sys.modules["setr_lite.train"].train(config, progress=False)
    return readings


def resident() -> float:
    """Megabytes that the process holds in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def judge(readings: dict[str, list[float]]) -> dict[str, float | bool]:
    """The changes that `BOUNDS` speaks of, whether nothing piles up (``flat``), and whether it
    stays as fast (``steady``)."""
    quarter = len(readings["step"]) // 4

    def change(name: str, middle) -> tuple[float, float]:
        values = readings[name]
        return middle(values[quarter : 2 * quarter]), middle(values[-quarter:])

    memory, files, speed = (
        change("memory_mb", statistics.median), change("files", max),
        change("images_per_s", statistics.median))
    found = {
        "memory_growth": round(memory[1] / memory[0] - 1, 4),
        "files_growth": files[1] - files[0],
        "throughput_change": round(abs(speed[1] / speed[0] - 1), 4),
    }
    holds = {name: found[name] <= bound for name, bound in BOUNDS.items()}
    return found | {
        "flat": holds["memory_growth"] and holds["files_growth"],
        "steady": holds["throughput_change"],
    }


def draw(record: dict, path: Path) -> None:
    """The three curves, one above the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5.2), layout="constrained")
    rows = {"memory_mb": "memory (MB)", "files": "open files", "images_per_s": "images/CPU s"}
    axes = figure.subplots(3, 1, sharex=True)
    for axis, (name, label) in zip(axes, rows.items(), strict=True):
        axis.plot(record["readings"]["step"], record["readings"][name], lw=1, color="#0072b2")
        axis.set_ylabel(label)
        axis.set_ylim(0, 1.25 * max(record["readings"][name]))
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("step")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
