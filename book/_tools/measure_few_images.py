"""What 5 and 20 dark streets give a SETR-PUP, from ToyTown's encoder and from random weights.

    OMP_NUM_THREADS=1 python book/_tools/measure_few_images.py

Streets, recipe and steps are those of the page on your own images, the seeds three; the first is
the page's. A seed also chooses the five: a row of the twenty, from number 5 x seed.
Results go to data/runs/few_images/results.json after every run; started again, the command skips
what is there. Three minutes on one core.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import records

from setr_lite import get_recipe

OUT = records.RUNS / "few_images" / "results.json"
STEPS = 40
STARTS = {
    "random": ("model.pretrained=none", "optim.lr=2e-3", "optim.head_multiplier=1"),
    "toytown": (f"model.pretrained={records.STREET_MODEL}", "optim.lr=3e-4",
                "optim.head_multiplier=10")}
"""Where the encoder begins, with the rates that the page has for it."""
ARMS = list(itertools.product(range(3), (5, 20), STARTS))
"""Seed, training images, start."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = records.options(__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help="of every run, for a trial")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(argv)
    results = json.loads(options.out.read_text("utf-8")) if options.out.exists() else fresh()
    sys.path.insert(0, str(records.ROOT / "book"))
    from figures.night_streets import draw_night

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        draw_night(home / "night", home / "day")
        for seed, images, start in ARMS:
            arm = {"seed": seed, "images": images, "start": start, "steps": options.steps}
            if not any(arm.items() <= run.items() for run in results["runs"]):
                results["runs"].append(arm | measure(home, seed, images, start, options.steps))
                records.write(options.out, results)


def fresh() -> dict[str, Any]:
    """The record before its first run."""
    return records.about("OMP_NUM_THREADS=1 python book/_tools/measure_few_images.py") | {
        "recipe": "toytown_pup", "held_out": 8, "runs": []}


def choose(root: Path, few: Path, images: int, seed: int) -> Path:
    """A folder like `root` with so many of its training images, and all that are held out."""
    shutil.copytree(root, few)
    for kind in ("images", "labels"):
        files = sorted((few / kind / "train").iterdir())
        for file in (files[5 * seed:] + files[:5 * seed])[images:]:
            file.unlink()
    return few


def measure(home: Path, seed: int, images: int, start: str, steps: int) -> dict[str, Any]:
    """Train one model and score it on the streets held out."""
    from figures.night_streets import GROUPS

    began = time.process_time()
    run = home / f"{start}_{images}_{seed}"
    data = choose(home / "night", run / "data", images, seed)
    confusion = records.train_to_the_end(get_recipe("toytown_pup").override(
        "data.name=folder", f"data.root={data}", "data.distort=true", "model.num_classes=5",
        "model.aux=false", f"train.seed={seed}", f"train.steps={steps}", f"train.out={run / 'run'}",
        "train.eval_every=0", "train.save_every=1000", "optim.warmup=10", *STARTS[start])
    )["confusion"]
    found = {"miou": round(float(confusion.miou()), 4),
             "iou": dict(zip(GROUPS, (round(float(x), 4) for x in confusion.iou()), strict=True)),
             "date": records.today(), "cpu_seconds": round(time.process_time() - began, 1)}
    print(seed, images, start, found, flush=True)
    return found


if __name__ == "__main__":
    main()
