"""CamVid with the encoder trained: DINOv2 ViT-S/14 under each head, the rate chosen, then scored.

    python book/_tools/measure_camvid_tuned.py WEIGHTS CAMVID RUNS

WEIGHTS is a file of ``vit_small_patch14_dinov2.lvd142m`` as timm reads it, CAMVID the data set's
folder, RUNS a folder for checkpoints. All runs are the recipes ``finetune_*``.

- ``search``: 400 steps for each head and rate. They learn from the first four fifths of each
  training drive and are scored on the last fifth, so val and the unseen drive choose nothing.
- ``two drives``: 1200 steps at the head's best rate on 0001TP and 0016E5, scored on 0006R0 and on
  the official val.
- ``all``: the same on the whole training set, scored on the official val.

Three seeds for the head that is best in the search, one for the others. Whole images at one scale,
the same with weights rounded as ``setr-lite export --format web --bits 8`` does, and at six scales
with mirror images. Ctrl-C ends with a checkpoint, and a finished run and each of its scores go to
data/runs/camvid_tuned/results.json; started again, the command goes on from both.
An hour or two a head on two cores that compute in bfloat16. ``--only`` trains one run of the scored
ones at a rate that no search has chosen, for who has less time; with ``--frozen`` its control: the
same recipe, crops, rates and stochastic depth, but the encoder stays as it is.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import records
import torch
from measure_auxiliary import write

from setr_lite.config import RunConfig
from setr_lite.datasets import CamVid, CamVidUnseenDrive, SegmentationDataset, load_dataset
from setr_lite.evaluate import evaluate
from setr_lite.model import SETR
from setr_lite.recipes import get_recipe
from setr_lite.web.export import in_bits

OUT = records.RUNS / "camvid_tuned" / "results.json"
HEADS = ("mla", "pup", "naive")
RATES = (5e-5, 1e-4, 2e-5)
EIGHT = "one scale, weights of 8 bits"
WAYS = {"one scale": (), EIGHT: (),
        "six scales and mirrors": ("eval.ratios=0.5,0.75,1,1.25,1.5,1.75", "eval.flip=true")}


class Arm(NamedTuple):
    """A training; what it is scored on follows from `images`."""

    head: str
    images: str
    lr: float
    seed: int
    steps: int
    frozen: bool = False


def main(argv: Sequence[str] | None = None) -> None:
    parser = records.options(__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("camvid", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--steps", type=int, nargs=2, default=(400, 1200),
                        help="of a run of the search, and of one that is scored")
    parser.add_argument("--only", nargs=4, metavar=("HEAD", "IMAGES", "LR", "SEED"))
    parser.add_argument("--frozen", action="store_true", help="with --only: the control")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(argv)
    if options.frozen and not options.only:
        parser.error("--frozen: needs --only, whose control it is")
    results = json.loads(options.out.read_text()) if options.out.exists() else fresh()
    if options.only:
        head, images, lr, seed = options.only
        measure(options, Arm(head, images, float(lr), int(seed), options.steps[1], options.frozen),
                results)
        return
    while (arm := next(missing(results["runs"], *options.steps), None)) is not None:
        measure(options, arm, results)


def fresh() -> dict[str, Any]:
    command = "python book/_tools/measure_camvid_tuned.py WEIGHTS CAMVID RUNS"
    return records.about(command) | {"runs": []}


def missing(runs: Sequence[dict[str, Any]], few: int, many: int) -> Iterator[Arm]:
    """What is still to be trained, in order; of the scored runs once the search is complete."""
    there = {arm_of(run): run for run in runs if not list(unscored(run))}
    search = [Arm(head, "search", lr, 0, few) for lr, head in itertools.product(RATES, HEADS)]
    yield from (arm for arm in search if arm not in there)
    found = {arm: there[arm]["scores"]["kept back"]["one scale"]["miou"] for arm in search}
    best = {head: max((arm for arm in found if arm.head == head), key=found.__getitem__)
            for head in HEADS}
    order = sorted(HEADS, key=lambda head: -found[best[head]])
    seeds = [(head, 0) for head in order] + [(order[0], 1), (order[0], 2)]
    scored = [Arm(head, images, best[head].lr, seed, many)
              for head, seed in seeds for images in ("two drives", "all")]
    yield from (arm for arm in scored if arm not in there)


def arm_of(run: dict[str, Any]) -> Arm:
    return Arm(*(run[name] for name in Arm._fields))


def unscored(run: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Images and ways by which a trained run is still to be scored, the quick way first."""
    sets = {"search": ["kept back"], "all": ["val"], "two drives": ["unseen drive", "val"]}
    ways = ["one scale"] if run["images"] == "search" else WAYS
    for way, name in itertools.product(ways, sets[run["images"]]):
        if way not in run["scores"].get(name, {}):
            yield name, way


def measure(options: argparse.Namespace, arm: Arm, results: dict[str, Any]) -> None:
    """Train one arm, or go on with it, and score it; the record grows with each of these."""
    config = settings(options, arm)
    print(*arm, flush=True)
    run = next((run for run in results["runs"] if arm_of(run) == arm), None)
    if run is None:
        interrupted = (Path(config.train.out) / "last").exists()
        result = records.train_to_the_end(config, progress=True)
        seconds = None if interrupted else round(result["seconds"])
        run = arm._asdict() | {"trained_on": len(load_dataset(config.data, "train")),
                               "seconds": seconds, "date": records.today(), "scores": {}}
        results["runs"].append(run)
        write(options.out, results)
    model = SETR.from_pretrained(Path(config.train.out) / "last")
    for name, way in unscored(run):
        asked = rounded(model) if way == EIGHT else model
        found = score(asked, test_set(options, name), config.override(*WAYS[way]))
        print(name, way, found["miou"], flush=True)
        run["scores"].setdefault(name, {})[way] = found
        write(options.out, results)


def settings(options: argparse.Namespace, arm: Arm) -> RunConfig:
    name = re.sub(r"\W+", "_", "_".join(map(str, arm[:-1]))) + "_frozen" * arm.frozen
    root = held_out(options) if arm.images == "search" else options.camvid
    kind = "camvid_unseen" if arm.images == "two drives" else "camvid"
    return get_recipe(f"finetune_{arm.head}").override(
        f"data.name={kind}", f"data.root={root}", "model.num_classes=11",
        f"model.pretrained={options.weights}", f"optim.lr={arm.lr}", f"train.seed={arm.seed}",
        f"train.steps={arm.steps}", f"train.out={options.runs / name}", "train.eval_every=0",
        "train.save_every=50", "train.workers=1", f"train.freeze_encoder={arm.frozen}")


def held_out(options: argparse.Namespace) -> Path:
    """A data set of links: the first four fifths of every training drive, and the last fifth."""
    root = options.runs / "search"
    if not (root / "done").exists():
        files = sorted((options.camvid / "train").iterdir())
        for _, drive in itertools.groupby(files, lambda file: file.name.split("_")[0]):
            frames = list(drive)
            for number, image in enumerate(frames):
                split = "train" if 5 * number < 4 * len(frames) else "val"
                label = image.parent.with_name("trainannot") / f"{image.stem}.png"
                for folder, file in ((split, image), (f"{split}annot", label)):
                    (root / folder).mkdir(parents=True, exist_ok=True)
                    link = root / folder / file.name
                    link.unlink(missing_ok=True)
                    link.symlink_to(file.resolve())
        (root / "done").touch()
    return root


def test_set(options: argparse.Namespace, name: str) -> SegmentationDataset:
    if name == "unseen drive":
        return CamVidUnseenDrive(options.camvid, "val")
    return CamVid(options.camvid if name == "val" else held_out(options), "val")


@torch.no_grad()
def rounded(model: SETR) -> SETR:
    """A copy that computes with the weights of a page in 8 bits."""
    model = copy.deepcopy(model)
    stored = in_bits(model.state_dict(), 8)
    for name, value in model.state_dict().items():
        rows = stored[name].flatten(1) if value.dim() > 1 else stored[name]
        step = stored.get(f"{name}.scale", torch.ones(1))
        value.copy_((rows * step.view(-1, *[1] * (rows.dim() - 1))).view_as(value))
    return model


def score(model: SETR, dataset: SegmentationDataset, config: RunConfig) -> dict[str, Any]:
    found = evaluate(model, dataset, config).to_dict(dataset.classes)
    iou = {name: round(found["classes"][name]["iou"], 4) for name in found["averaged"]}
    return {"images": len(dataset), "miou": round(found["miou"], 5),
            "mean_accuracy": round(found["mean_accuracy"], 5), "iou": iou}


if __name__ == "__main__":
    main()
