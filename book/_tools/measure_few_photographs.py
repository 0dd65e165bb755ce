"""What 5, 20, 80 and 266 real streets give a linear probe on a frozen DINOv2 ViT-S/14.

    OMP_NUM_THREADS=1 python book/_tools/measure_few_photographs.py WEIGHTS CAMVID CACHE

WEIGHTS is a file of ``vit_small_patch14_dinov2.lvd142m`` as timm reads it, CAMVID the data set's
folder, CACHE a folder for the frozen encoder's tokens. Every run is the recipe
``camvid_dinov2_linear`` with 200 steps, as the page on your own images gives it.

The images come from two drives, 0001TP and 0016E5, so one model can be scored on the official val,
more of 0016E5, and on a drive it has never seen, 0006R0: on every fourth frame of both. A seed
draws the images; the 5 are the first of the 20, the 20 the first of the 80. The 266 are all there
are.

Results go to data/runs/few_images/photographs.json after every run; started again, the command
skips what is there. ``cpu_seconds`` are those of the process for the training, with the images that
it had to encode (``encoded``; a mirror image counts as one), ``encoder_seconds`` those for one
image; scoring is not in it. Half a minute a run on one core where the tokens are there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import records
import torch
from measure_auxiliary import write
from measure_camvid_controls import places, score

from setr_lite.config import RunConfig
from setr_lite.datasets import CamVid, CamVidUnseenDrive
from setr_lite.recipes import get_recipe
from setr_lite.train import Run

OUT = records.RUNS / "few_images" / "photographs.json"
STEPS, EVERY = 200, 4
ARMS = (  # images, seed
    (20, 0), (5, 0), (80, 0), (20, 1), (5, 1), (266, 0), (80, 1), (20, 2), (5, 2), (80, 2))


def main(argv: Sequence[str] | None = None) -> None:
    parser = places(__doc__, OUT)
    parser.set_defaults(steps=STEPS)
    options = parser.parse_args(argv)
    results = json.loads(options.out.read_text("utf-8")) if options.out.exists() else fresh()
    for images, seed in ARMS:
        arm = {"images": images, "seed": seed, "steps": options.steps}
        if not any(arm.items() <= run.items() for run in results["runs"]):
            results["runs"].append(arm | measure(options, images, seed))
            write(options.out, results)


def fresh() -> dict[str, Any]:
    """The record before its first run."""
    return records.about(
        "OMP_NUM_THREADS=1 python book/_tools/measure_few_photographs.py WEIGHTS CAMVID CACHE"
    ) | {"recipe": "camvid_dinov2_linear", "scored_on": f"every frame in {EVERY}", "runs": []}


def choose(files: list, images: int, seed: int) -> list:
    """So many of `files`; of one seed, the fewer are the first of the more."""
    order = np.random.default_rng([seed, 5]).permutation(len(files))
    return [files[i] for i in order[:images]]


def settings(options: argparse.Namespace, out: str, seed: int) -> RunConfig:
    return get_recipe("camvid_dinov2_linear").override(
        "data.name=camvid_unseen", f"data.root={options.camvid}",
        f"model.pretrained={options.weights}", f"train.steps={options.steps}",
        f"train.seed={seed}", f"train.out={out}", f"train.feature_cache={options.cache}",
        "train.workers=0", "train.amp=off")


def measure(options: argparse.Namespace, images: int, seed: int) -> dict[str, Any]:
    """Train one probe and score it on both test sets."""
    began, there = time.process_time(), len(list(options.cache.glob("*")))
    with tempfile.TemporaryDirectory() as out:
        run = Run(settings(options, out, seed), torch.device("cpu"), resume=False)
        run.train_set.files = choose(sorted(run.train_set.files), images, seed)
        for batch in run.feed.batches(0):
            run.take_step(batch)
        facts = {"cpu_seconds": round(time.process_time() - began, 1),
                 "encoded": len(list(options.cache.glob("*"))) - there,
                 "names": [file[0].stem for file in run.train_set.files],
                 "date": records.today()}
        sets = {"val": CamVid(options.camvid, "val"),
                "unseen drive": CamVidUnseenDrive(options.camvid, "val")}
        for dataset in sets.values():
            dataset.files = sorted(dataset.files)[::EVERY]
        facts["scores"] = {name: score(run, dataset) for name, dataset in sets.items()}
        if seed == 0:
            facts["encoder_seconds"] = encoder_seconds(run)
    print(images, seed, {name: found["miou"] for name, found in facts["scores"].items()},
          facts["cpu_seconds"], facts["encoded"], flush=True)
    return facts


def encoder_seconds(run: Run) -> float:
    """CPU seconds of the encoder for an image of 360 x 480, padded to whole patches."""
    began = time.process_time()
    with torch.no_grad():
        run.model.encoder.forward._compute(torch.rand(1, 3, 364, 490))
    return round(time.process_time() - began, 2)


if __name__ == "__main__":
    main()
