"""Why poles are not found on CamVid: the grid of patches, or how rare they are?

    OMP_NUM_THREADS=1 python book/_tools/measure_camvid_poles.py WEIGHTS CAMVID CACHE

A linear probe of the frozen DINOv2 ViT-S/14 in four forms, three seeds each; the places are those
of measure_camvid_controls.py, and so are the images: learned from 0001TP and 0016E5, tested on val
and on the last 50 frames of 0006R0.

- ``cells``: 1, a token gives one score for each class, and a resize draws the lines between
  patches; or 7, it gives scores for 7 x 7 cells of two pixels, so a line may run inside a patch.
- ``weights``: all pixels count alike, or rare classes more (``loss.class_weights=auto``).

Results go to data/runs/camvid_poles/results.json after every run; started again, the command skips
what is there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import records
import torch
from measure_auxiliary import write
from measure_camvid_controls import choose, places, tests
from torch import Tensor
from torch.nn import functional as F

from setr_lite.config import RunConfig
from setr_lite.datasets import SegmentationDataset
from setr_lite.evaluate import evaluate
from setr_lite.heads import LinearHead
from setr_lite.model import SETR
from setr_lite.optim import build_optimizer
from setr_lite.recipes import get_recipe
from setr_lite.running.guard import Guard
from setr_lite.train import Run, seed_everything

OUT = records.RUNS / "camvid_poles" / "results.json"
ARMS = list(itertools.product(range(3), (1, 7), (False, True)))
"""Seed, cells along each side of a patch, weights."""


def main(argv: Sequence[str] | None = None) -> None:
    options = places(__doc__, OUT).parse_args(argv)
    command = "OMP_NUM_THREADS=1 python book/_tools/measure_camvid_poles.py WEIGHTS CAMVID CACHE"
    results = (json.loads(options.out.read_text()) if options.out.exists()
               else records.about(command) | {"runs": []})
    for seed, cells, weights in ARMS:
        arm = {"cells": cells, "weights": weights, "seed": seed, "steps": options.steps}
        if not any(arm.items() <= run.items() for run in results["runs"]):
            results["runs"].append(arm | measure(options, cells, weights, seed))
            write(options.out, results)


def measure(options: argparse.Namespace, cells: int, weights: bool, seed: int) -> dict[str, Any]:
    """Train a probe and score it."""
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = prepare(get_recipe("camvid_dinov2_linear").override(
            f"train.seed={seed}", f"train.steps={options.steps}", f"train.out={folder}",
            "train.workers=0", "train.amp=off", f"train.feature_cache={options.cache}",
            f"data.root={options.camvid}", f"model.pretrained={options.weights}",
            *["loss.class_weights=auto"] * weights), cells)
        run.train_set.files = choose(run.train_set.files, "unseen", seed)
        for batch in run.feed.batches(0):
            run.take_step(batch)
        found = {name: score(run.model, dataset, run.config)
                 for name, dataset in tests(options.camvid).items()}
    facts = {"trained_on": len(run.train_set.files), "date": records.today(),
             "cpu_seconds": round(time.process_time() - started)}
    poles = {name: one["classes"]["pole"] for name, one in found.items()}
    print(cells, weights, seed, poles, facts, flush=True)
    return facts | {"scores": found}


def prepare(config: RunConfig, cells: int) -> Run:
    """The recipe's run, with a probe that gives `cells` x `cells` scores a patch."""
    run = Run(config, torch.device("cpu"), resume=False)
    if cells > 1:
        seed_everything(config.train.seed, 0)
        channels = run.model.get_submodule("head.classifier").in_channels
        run.model.head = Cells(channels, config.model.num_classes, cells)
        run.optimizer = build_optimizer(run.model, config.optim)
        run.guard = Guard(run.optimizer, False)
    return run


class Cells(LinearHead):
    """A linear probe with `side` x `side` scores for each class and patch."""

    def __init__(self, channels: int, classes: int, side: int) -> None:
        super().__init__(channels, classes * side**2)
        self.side = side

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """The last of `features`, (B, D, h, w) -> (B, K, side h, side w)."""
        return F.pixel_shuffle(super().forward(features), self.side)


def score(model: SETR, dataset: SegmentationDataset, config: RunConfig) -> dict[str, Any]:
    """mIoU, and per class IoU, the share found (recall) and the share right (precision)."""
    confusion = evaluate(model, dataset, config)
    counts = confusion.matrix.double()
    right, is_so, said = counts.diagonal(), counts.sum(1), counts.sum(0)
    classes = {
        name: {"iou": round(float(right[k] / (is_so[k] + said[k] - right[k])), 4),
               "recall": round(float(right[k] / is_so[k]), 4),
               "precision": round(float(right[k] / said[k]), 4) if said[k] else None}
        for k, name in enumerate(dataset.classes)}
    return {"images": len(dataset), "miou": round(float(confusion.miou()), 5), "classes": classes}


if __name__ == "__main__":
    main()
