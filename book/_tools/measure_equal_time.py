"""Are auxiliary losses worth their time? Each head without them, for as long as with them.

    OMP_NUM_THREADS=1 python book/_tools/measure_equal_time.py
    python book/_tools/measure_equal_time.py --steps 4 --turns 1 --out DIR --runs DIR   # a trial

`measure_auxiliary.py` compares runs of equally many steps, and a step with auxiliary losses is
dearer. Here the runs without them get more steps, on a schedule of their own, until both have had
the same processor time. How much dearer a step is comes first: turns of a few steps with and
without, one after the other, in processor seconds, so that other work on the machine falls on both
alike. Seeds are the outer loop. The result file is written after every run: started again, the
command skips what is there and goes on with a run that was interrupted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import records
import torch
from measure_auxiliary import STEPS, measure, write

from setr_lite.recipes import get_recipe
from setr_lite.train import Run

FEW = 5
"""Steps of a turn."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = records.study_options(__doc__, "auxiliary", "equal_time")
    parser.add_argument("--turns", type=int, default=15, help="of timing, each with and without")
    options = parser.parse_args(argv)
    records.draw_town(options.town)
    file = options.out / "equal_time.json"
    results = json.loads(file.read_text()) if file.exists() else fresh()
    for head in STEPS:
        if head not in results["price"]:
            results["price"][head] = price(options, head)
            write(file, results)
    for seed in range(options.seeds):
        for head, steps in STEPS.items():
            longer = round((options.steps or steps) * results["price"][head]["ratio"])
            key = {"head": head, "aux": False, "seed": seed, "steps": longer}
            if not any(key.items() <= run.items() for run in results["runs"]):
                results["runs"].append(key | measure(options, **key))
                write(file, results)


def fresh() -> dict[str, Any]:
    command = "OMP_NUM_THREADS=1 python book/_tools/measure_equal_time.py"
    return records.about(command) | {"price": {}, "runs": []}


def price(options: argparse.Namespace, head: str) -> dict[str, Any]:
    """Processor time of a step with auxiliary losses in units of one without, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {aux: start(options, head, aux, folder) for aux in (True, False)}
        batches = list(islice(runs[True].feed.batches(0), FEW))
        for run in runs.values():
            seconds(run, batches)  # the first steps also allocate
        ratios = []
        for _ in range(options.turns):
            dear, cheap = (seconds(runs[aux], batches) for aux in (True, False))
            ratios.append(dear / cheap)
    found = {"ratio": round(statistics.median(ratios), 4),
             "turns": [round(ratio, 3) for ratio in sorted(ratios)]}
    print(f"{head}: a step with auxiliary losses costs {found['ratio']:.3f} x", flush=True)
    return found


def start(options: argparse.Namespace, head: str, aux: bool, folder: str) -> Run:
    config = get_recipe(f"toytown_{head}").override(
        f"model.aux={aux}", f"train.out={folder}/{aux}", f"data.root={options.town}")
    return Run(config, torch.device("cpu"), resume=False)


def seconds(run: Run, batches: list[Any]) -> float:
    """Of processor time, for a step with each batch."""
    started = time.process_time()
    for batch in batches:
        run.take_step(batch)
    return time.process_time() - started


if __name__ == "__main__":
    main()
