"""Train one SETR-PUP on ToyTown and keep what it says on the way; chapter 11 shows it.

    OMP_NUM_THREADS=1 python book/_tools/record_focus.py DIR

DIR is ToyTown as `setr-lite toytown DIR` draws it. The run is that of `setr-lite train
toytown_pup`, step by step; at the steps of STEPS its labels for some held-out streets of the
sample are kept. Writes to data/runs/toytown_pup_focus: record.json (command, machine, versions,
seconds, seed, mIoU on the sample's twelve streets at each kept step), log.csv (loss of every
twentieth step) and labels.npz (`labels` uint8 (steps, streets, 96, 192), `steps`, `streets`).
"""

import csv
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from records import RUNS, STREETS, about, options, write

from setr_lite.datasets import Cityscapes
from setr_lite.metrics import ConfusionMatrix
from setr_lite.recipes import get_recipe
from setr_lite.train import Run

STEPS = (0, 5, 10, 20, 30, 40, 60, 80, 100, 140, 200, 300, 400, 500, 650, 800, 1000, 1200, 1400,
         1600, 1800, 2000, 2200)
KEPT = (3, 0, 7)
"""Streets of the sample whose labels are kept."""


def main(words=None):
    parser = options(__doc__)
    parser.add_argument("town", metavar="DIR")
    asked = parser.parse_args(words)
    config = get_recipe("toytown_pup").override(f"data.root={asked.town}", "train.device=cpu")
    assert config.train.steps == STEPS[-1]
    record(config, STEPS, Cityscapes(STREETS, "val"), RUNS / "toytown_pup_focus")


def record(config, steps, streets, out):
    """Take the run's steps, look at the streets after those of `steps`, and write what was seen."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(config.override(f"train.out={folder}"), torch.device("cpu"))
        started = time.perf_counter()
        looks, losses = [look(run, streets)], []
        for batch in run.feed.batches(0):
            total, step = run.take_step(batch).total, run.progress.step
            if step % 20 == 0:
                losses.append((step, round(total.item(), 4)))
            if step in steps:
                looks.append(look(run, streets))
    labels, scores = zip(*looks, strict=True)
    save(out, np.stack(labels), steps, losses)
    write(out / "record.json", {
        **about("OMP_NUM_THREADS=1 python book/_tools/record_focus.py DIR"),
        "recipe": config.recipe, "seed": config.train.seed,
        "seconds": round(time.perf_counter() - started),
        "steps": steps, "miou_of_the_sample": scores,
    })  # fmt: skip


def look(run, streets):
    """Labels uint8 (3, 96, 192) of those in KEPT, and the mIoU over all of them."""
    run.model.eval()
    confusion = ConfusionMatrix(run.config.model.num_classes)
    found = run.model.predict([sample.image for sample in streets], config=run.config)
    for label, sample in zip(found, streets, strict=True):
        confusion.update(label, sample.label)
    run.model.train()
    print(run.progress.step, f"{confusion.miou():.4f}", flush=True)
    return np.stack([np.asarray(found[i], np.uint8) for i in KEPT]), round(confusion.miou(), 4)


def save(out: Path, labels, steps, losses):
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "log.csv", "w", newline="") as file:
        csv.writer(file).writerows([("step", "loss"), *losses])
    np.savez_compressed(out / "labels.npz", labels=labels, steps=steps, streets=KEPT)


if __name__ == "__main__":
    main()
