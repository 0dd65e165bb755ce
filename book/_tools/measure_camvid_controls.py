"""What could explain CamVid's numbers otherwise: the drive, the taps, the seed.

    OMP_NUM_THREADS=1 python book/_tools/measure_camvid_controls.py WEIGHTS CAMVID CACHE

WEIGHTS is a file of ``vit_small_patch14_dinov2.lvd142m`` as timm reads it, CAMVID the data set's
folder, CACHE a folder for the frozen encoder's tokens (5 GB). All runs are the recipes
``camvid_dinov2_*`` in float32, as the recorded runs were, but for what an arm changes:

- ``unseen`` and ``seen`` learn from 266 images each and are tested on the same 50 frames, the last
  ones of drive 0006R0. ``unseen`` has two other drives, ``seen`` has the first 51 frames of that
  drive in the place of 51 of the others. What differs is the drive alone.
- ``four`` reads the four taps of MLA with one matrix, ``same`` feeds MLA the last block four
  times: what of its gain are the taps, what is its shape?

Results go to data/runs/camvid_controls/results.json after every run; started again, the command
skips what is there. Cheap arms come first.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import records
import torch
from measure_auxiliary import write
from torch import Tensor, nn

from setr_lite.config import RunConfig
from setr_lite.datasets import CamVid
from setr_lite.evaluate import evaluate
from setr_lite.heads import Head, LayerNorm2d
from setr_lite.optim import build_optimizer
from setr_lite.recipes import get_recipe
from setr_lite.running.guard import Guard
from setr_lite.train import Run, seed_everything

OUT = records.ROOT / "data/runs/camvid_controls/results.json"
DRIVE, TEST = "0006R0", 50
CHEAP = (  # head, training images, taps; three seeds each
    ("linear", "unseen", "last"), ("linear", "seen", "last"), ("linear", "train", "four"),
    ("naive", "unseen", "last"), ("naive", "seen", "last"), ("linear", "unseen", "four"),
)
DEAR = (  # one seed each
    ("mla", "train", "same"), ("mla", "unseen", "mla"), ("mla", "seen", "mla"),
    ("mla", "unseen", "same"),
)
ROUNDS = [(*arm, seed) for seed in range(3) for arm in CHEAP]
"""The cheap runs, a seed after the other."""
ONCE = [(*arm, 0) for arm in DEAR]
"""The dear ones, of which the control of the taps is the fourth from the end."""
ORDER = [*ROUNDS[: len(CHEAP)], ONCE[-4], *ROUNDS[len(CHEAP) :], *ONCE[:-4], *ONCE[-3:]]
"""The tap control comes before the second seed."""


def main(argv: Sequence[str] | None = None) -> None:
    options = places(__doc__, OUT).parse_args(argv)
    results = json.loads(options.out.read_text()) if options.out.exists() else fresh()
    for head, images, taps, seed in ORDER:
        key = {"head": head, "images": images, "taps": taps, "seed": seed}
        if not any(key.items() <= run.items() for run in results["runs"]):
            results["runs"].append(key | measure(options, **key))
            write(options.out, results)


def places(doc: str, out: Path) -> argparse.ArgumentParser:
    """The options of a study on frozen tokens of CamVid."""
    parser = records.options(doc)
    parser.add_argument("weights", type=Path)
    parser.add_argument("camvid", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--out", type=Path, default=out)
    return parser


def fresh() -> dict[str, Any]:
    command = "OMP_NUM_THREADS=1 python book/_tools/measure_camvid_controls.py WEIGHTS CAMVID CACHE"
    return records.about(command) | {"runs": []}


def measure(options: argparse.Namespace, head: str, images: str, taps: str, seed: int,
            *settings: str, own_statistics: bool = False) -> dict[str, Any]:
    """Train one arm and score it on the official val and on the last frames of the drive.

    With `own_statistics` also with BatchNorm's mean and variance taken from each image alone, as in
    training they are from the two of a step.
    """
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        config = get_recipe(f"camvid_dinov2_{head}").override(
            f"train.seed={seed}", f"train.steps={options.steps}", f"train.out={folder}",
            "train.workers=0", "train.amp=off", f"train.feature_cache={options.cache}",
            f"data.root={options.camvid}", f"model.pretrained={options.weights}", *settings)
        run = prepare(config, taps)
        run.train_set.files = choose(run.train_set.files, images, seed)
        count = len(run.train_set.files)
        for batch in run.feed.batches(0):
            run.take_step(batch)
        found = {name: score(run, dataset) for name, dataset in tests(options.camvid).items()}
        if own_statistics:
            for norm in run.model.head.modules():
                if isinstance(norm, nn.BatchNorm2d):
                    norm.running_mean = norm.running_var = None
            found |= {f"{name}, own statistics": score(run, dataset)
                      for name, dataset in tests(options.camvid).items()}
    facts = {"trained_on": count, "steps": options.steps,
             "date": records.today(),
             "cpu_seconds": round(time.process_time() - started)}
    print(head, images, taps, seed, {k: v["miou"] for k, v in found.items()}, facts, flush=True)
    return facts | {"scores": found}


def prepare(config: RunConfig, taps: str) -> Run:
    """The recipe's run; perhaps its head reads other taps."""
    run = Run(config, torch.device("cpu"), resume=False)
    encoder, model = run.model.encoder, run.model
    cached = encoder.forward
    if taps == "same":
        encoder.forward = lambda image: [cached(image)[-1]] * 4
    if taps == "four":
        seed_everything(config.train.seed, 0)
        model.head = FourTaps(384, 11)
        run.optimizer = build_optimizer(model, config.optim)
        run.guard = Guard(run.optimizer, False)
    return run


class FourTaps(Head):
    """A linear probe of four blocks: a LayerNorm each, and one matrix on all channels."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(LayerNorm2d(channels) for _ in range(4))
        self.classifier = nn.Conv2d(4 * channels, classes, kernel_size=1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Four maps (B, D, h, w) -> (B, K, h, w)."""
        maps = [norm(x) for norm, x in zip(self.norms, features, strict=True)]
        return self.classifier(torch.cat(maps, dim=1))


def choose(files: list, images: str, seed: int) -> list:
    """The training images of an arm; of an earlier part of the drive where it is seen."""
    if images == "train":
        return files
    drive = sorted(f for f in files if f[0].name.startswith(DRIVE))
    others = [f for f in files if not f[0].name.startswith(DRIVE)]
    if images == "unseen":
        return others
    early = drive[:-TEST]
    kept = np.random.default_rng([seed, 4]).permutation(len(others))[: len(others) - len(early)]
    return sorted([others[i] for i in kept] + early)


def tests(root: Path) -> dict[str, CamVid]:
    late = CamVid(root, "train")
    late.files = sorted(f for f in late.files if f[0].name.startswith(DRIVE))[-TEST:]
    return {"val": CamVid(root, "val"), "last of the drive": late}


def score(run: Run, dataset: CamVid) -> dict[str, Any]:
    confusion = evaluate(run.model, dataset, run.config)
    found = confusion.to_dict(dataset.classes)
    iou = {name: round(found["classes"][name]["iou"], 4) for name in found["averaged"]}
    return {"images": len(dataset), "miou": round(found["miou"], 5), "iou": iou}


if __name__ == "__main__":
    main()
