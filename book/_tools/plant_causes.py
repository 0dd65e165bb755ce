"""Train small runs on ToyTown with one known mistake in each, and without: what does `doctor` say?

    OMP_NUM_THREADS=1 nice python book/_tools/plant_causes.py
    python book/_tools/plant_causes.py --seeds 1 --only healthy --out DIR --runs DIR     # a trial

Three seeds of each, every one with another head; half a minute a run on one free core, two thirds
of an hour in all. Nothing is simulated but three accidents: an overflow (a weight becomes NaN in
the middle of a run in bfloat16), weights that are not loaded, a model left in evaluation mode.

Writes data/runs/doctor/record.json: of each run what `running.traces` reads of its folder, so that
a test can ask `doctor` again without training. Thresholds were chosen by looking at seeds 0 and 1;
seed 2 is the test. Started again, the command skips what is recorded, and trains no run twice.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import records
import torch
from PIL import Image

from setr_lite.config import RunConfig
from setr_lite.errors import UserError
from setr_lite.recipes import get_recipe
from setr_lite.running import doctor, traces
from setr_lite.toytown import CLASSES, render_scene, scene_seed
from setr_lite.train import Run, train

SIZE = (48, 96)
TRAIN, VAL, FEW = 160, 30, 3
STEPS = 300
HEADS = ("pup", "naive", "mla")
"""Of seed 0, 1, 2."""
NAMES = [c.name for c in CLASSES]
CAR, SIGN = NAMES.index("car"), NAMES.index("traffic sign")
Masks = list[np.ndarray]


# ---- masks with a mistake ------------------------------------------------------------------------


def reduced_twice(masks: Masks) -> Masks:
    """0 becomes 255, every other class the one before."""
    return [(mask - 1).astype(np.uint8) for mask in masks]


def without_cars(masks: Masks) -> Masks:
    return [np.where(mask == CAR, 255, mask).astype(np.uint8) for mask in masks]


def all_of_class_0(masks: Masks) -> Masks:
    return [np.zeros_like(mask) for mask in masks]


def all_ignored(masks: Masks) -> Masks:
    return [np.full_like(mask, 255) for mask in masks]


def of_other_images(masks: Masks) -> Masks:
    """Each mask goes to the image seven further on."""
    return masks[7:] + masks[:7]


def two_swapped(masks: Masks) -> Masks:
    """Road and building have changed numbers."""
    road, building = NAMES.index("road"), NAMES.index("building")
    table = np.arange(256, dtype=np.uint8)
    table[[road, building]] = building, road
    return [table[mask] for mask in masks]


# ---- what is planted -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One kind of run."""

    names: tuple[str, ...]
    """What `doctor` may call it; none for a healthy one."""
    settings: tuple[str, ...] = ()
    masks: Callable[[Masks], Masks] | None = None
    """Spoils the training masks."""
    few: bool = False
    """Of the training images only `FEW` are there."""
    signs: bool = False
    """Two classes: traffic signs, and all the rest."""
    from_teacher: bool = False
    """Fine-tuned from the encoder of the healthy run of that seed."""
    fault: str = ""
    """What happens meanwhile: ``lost`` weights, ``nan``, a ``stop``, or ``eval`` mode."""


FINE = ("optim.lr=1e-4", "optim.head_multiplier=20", "optim.neck_multiplier=20")
CASES = {
    "healthy": Case(()),
    "healthy fine-tuned": Case((), FINE, from_teacher=True),
    "healthy two classes": Case((), ("loss.class_weights=auto",), signs=True),
    "masks reduced twice": Case(("shifted labels",), masks=reduced_twice),
    "two classes swapped": Case(("swapped labels",), masks=two_swapped),
    "a class never labelled": Case(("class never learned",), masks=without_cars),
    "masks of one class": Case(("masks of one class",), masks=all_of_class_0),
    "masks ignored": Case(("nothing labelled",), masks=all_ignored),
    "masks of other images": Case(("masks of other images",), masks=of_other_images),
    "rare foreground": Case(("class imbalance",), signs=True),
    "rate too low": Case(("nothing learned",), ("optim.lr=1e-8", "optim.min_lr=0")),
    "rate too high": Case(
        ("rate too high",), ("optim.lr=0.1", "optim.warmup=0", "optim.clip_norm=0")),
    "gradient descent too fast": Case(("rate too high",), (
        "optim.name=sgd", "optim.lr=3", "optim.warmup=0", "optim.clip_norm=0")),
    "overflow": Case(
        ("overflow of bfloat16",), ("train.amp=bf16", "train.save_every=50"), fault="nan"),
    "too few images": Case(("overfitting",), few=True),
    "weights lost": Case(("encoder not pretrained",), FINE, from_teacher=True, fault="lost"),
    "random encoder frozen": Case(
        ("random encoder frozen",), ("train.freeze_encoder=true",)),
    "stopped early": Case(("not finished",), (f"train.steps={4 * STEPS}",), fault="stop"),
    "rate ended early": Case(("rate ended early",), ("optim.power=30", "optim.min_lr=0")),
    "warm-up without end": Case(("warm-up without end",), (f"optim.warmup={20 * STEPS}",)),
    "numbers of 0..1": Case(
        ("wrong normalisation",), ("data.mean=0.485,0.456,0.406", "data.std=0.229,0.224,0.225")),
    "crop above image": Case(
        ("crop larger than images",), ("data.crop_size=96,192", "model.img_size=96,192")),
    "batch of one": Case(("BatchNorm of one image",), ("train.accumulate=4",)),
    "evaluation mode": Case(("BatchNorm never updated",), fault="eval"),
    "class weight of 0": Case(
        ("class weight of 0",), ("loss.class_weights=" + ",".join(
            "0" if name == "road" else "1" for name in NAMES),)),
    "another window": Case(
        ("window unlike crop",), ("eval.mode=slide", "eval.window=192,384", "eval.stride=96,192")),
}  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    parser = records.study_options(__doc__, "doctor", "doctor")
    parser.add_argument("--only", default="", metavar="CASE", help="one of them")
    options = parser.parse_args(words)
    file = options.out / "record.json"
    record = json.loads(file.read_text()) if file.exists() else fresh()
    for seed in range(options.seeds):
        for name in [options.only] if options.only else CASES:
            if not any((run["case"], run["seed"]) == (name, seed) for run in record["runs"]):
                record["runs"].append(one(options, name, seed))
                write(file, record)
    print(tally(record["runs"]))


def fresh() -> dict[str, Any]:
    command = "OMP_NUM_THREADS=1 python book/_tools/plant_causes.py"
    return records.about(command) | {"train": TRAIN, "val": VAL, "size": SIZE, "runs": []}


def write(file: Path, record: dict[str, Any]) -> None:
    """The record with a line for each run."""
    file.parent.mkdir(parents=True, exist_ok=True)
    about = json.dumps({key: value for key, value in record.items() if key != "runs"})
    runs = ",\n".join(json.dumps(run, separators=(",", ":")) for run in record["runs"])
    file.write_text(f'{about[:-1]}, "runs": [\n{runs}\n]}}\n', "utf-8")


def one(options: Any, name: str, seed: int) -> dict[str, Any]:
    """Train a case, unless it has been, and what its folder says."""
    case, folder = CASES[name], options.runs / f"{name.replace(' ', '_')}_{seed}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        town = draw(options.runs / f"town_{seed}", case, seed)
        teacher = options.runs / f"healthy_{seed}" / "last"
        work(settings(options, case, seed, town, folder, teacher), case)
        (folder / "done").write_text("")
    found = traces.read_traces(folder)
    print(f"{name}, {seed}: {', '.join(f.name for f in doctor.ranked(found))}", flush=True)
    return {"case": name, "seed": seed, **shortened(found.to_dict())}


def shortened(found: dict[str, Any]) -> dict[str, Any]:
    """Without settings that are as by default, places of this machine, and needless digits."""
    usual, config = RunConfig().to_dict(), found["config"]
    places = {"root": "", "out": "", "pretrained": "runs/doctor/healthy/last"}
    for section, values in config.items():
        if section != "recipe":
            config[section] = {
                key: places.get(key, value) if value != "none" else value
                for key, value in values.items() if value != usual[section][key]}
    rows = [{key: float(f"{value:.5g}") for key, value in row.items()} for row in found["rows"]]
    state = {key: found["state"][key] for key in KEPT if key in found["state"]}
    return found | {"config": config, "rows": rows, "state": state}


KEPT = ("step", "finished", "best", "miou", "device", "processes")
"""Of the state."""


def settings(
    options: Any, case: Case, seed: int, town: Path, folder: Path, teacher: Path
) -> RunConfig:
    both = "48,96"
    classes = 2 if case.signs else len(NAMES)
    steps = options.steps or STEPS
    return get_recipe(f"toytown_{HEADS[seed % 3]}").override(
        "data.name=folder", f"data.root={town}", f"model.num_classes={classes}",
        f"model.img_size={both}", f"data.base_size={both}", f"data.crop_size={both}",
        "model.embed_dim=96", "model.channels=32", "optim.warmup=30", f"train.seed={seed}",
        f"train.steps={steps}", "train.batch_size=4", "train.eval_every=100", "train.log_every=10",
        "train.save_every=1000", f"train.out={folder}", "train.device=cpu",
        *([f"model.pretrained={teacher}"] if case.from_teacher else []), *case.settings,
    )  # fmt: skip


def draw(town: Path, case: Case, seed: int) -> Path:
    """The folder data set of a case, images as they are and masks as it has them."""
    shutil.rmtree(town, ignore_errors=True)
    for split, count in (("train", FEW if case.few else TRAIN), ("val", VAL)):
        scenes = [render_scene(scene_seed(seed, split, i), SIZE) for i in range(count)]
        masks = [label for _, label in scenes]
        if case.signs:
            masks = [(label == SIGN).astype(np.uint8) for label in masks]
        if case.masks and split == "train":
            masks = case.masks(masks)
        for kind, arrays in (("images", [image for image, _ in scenes]), ("labels", masks)):
            (town / kind / split).mkdir(parents=True)
            for i, array in enumerate(arrays):
                Image.fromarray(array).save(town / kind / split / f"{i:03d}.png")
    names = ["rest", "traffic sign"] if case.signs else NAMES
    (town / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    return town


def work(config: RunConfig, case: Case) -> None:
    """`train`, with what happens meanwhile."""
    before, half = Run.take_step, STEPS // 2

    def spoilt(run: Run, batch: Any) -> Any:
        if case.fault == "nan" and run.progress.step == half:
            with torch.no_grad():
                run.model.encoder.blocks[2].mlp.fc1.weight[0, 0] = float("nan")
        if case.fault == "stop" and run.progress.step == STEPS:
            raise KeyboardInterrupt
        if case.fault == "eval":
            run.model.eval()
        return before(run, batch)

    lost = patch("setr_lite.train.load_first_weights", lambda *_: [])
    with (
        patch.object(Run, "take_step", spoilt), lost if case.fault == "lost" else nullcontext(),
        suppress(KeyboardInterrupt),
    ):
        try:
            train(config, progress=False)
        except UserError as error:  # a number that is not finite ends a run
            print(str(error).partition(";")[0])


def tally(runs: list[dict[str, Any]]) -> str:
    """How many of the planted causes stand first or second, and what healthy runs are told."""
    planted = [run for run in runs if CASES[run["case"]].names]
    named = [run for run in planted if named_soon(run)]
    healthy = [run for run in runs if not CASES[run["case"]].names]
    alarms = [run for run in healthy if doctor.likely(diagnosed(run))]
    return (
        f"{len(named)} of {len(planted)} planted causes named first or second; "
        f"{len(alarms)} of {len(healthy)} healthy runs with a likely cause"
    )


def diagnosed(run: dict[str, Any]) -> list[doctor.Finding]:
    """What `doctor` says of a recorded run."""
    return doctor.ranked(traces.Traces.from_dict(run))


def named_soon(run: dict[str, Any]) -> bool:
    """Whether the planted cause stands first or second."""
    found = [finding.name for finding in diagnosed(run)[:2]]
    return any(name in found for name in CASES[run["case"]].names)


if __name__ == "__main__":
    main()
