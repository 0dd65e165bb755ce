"""What a bug costs: a short training with it, and a score with it. Runs in a child, see `copies`.

Two scores of one and the same labels. ``miou`` is what they are worth: compared pixel by pixel with
the streets as they were drawn, by NumPy and not by the library, which may be wrong in just that.
``reported`` is what the library with the bug says, and what its user would read.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from records import train_to_the_end

from setr_lite import SETR, weights
from setr_lite.config import RunConfig
from setr_lite.datasets import load_dataset
from setr_lite.evaluate import evaluate
from setr_lite.recipes import get_recipe

from . import reference

EDGE = 8
"""Pixels, one patch, that count as the edge of a picture."""
SHOWN = 3
"""The held-out street of the pictures."""
POINTS = 40
"""Of a loss curve."""


def schedule(head: str, steps: int, seed: int, town: str, out: str) -> RunConfig:
    """The short training of this study: ToyTown's recipe, cut down, with random sizes of streets.

    Without auxiliary heads; in bfloat16, which costs no accuracy here (see the claims page) and is
    quicker on processors that are made for it.
    """
    return get_recipe(f"toytown_{head}").override(
        "model.aux=false", "data.ratio_range=0.75,1.5", f"train.steps={steps}",
        f"optim.warmup={steps // 6}", "train.amp=bf16", "train.eval_every=0",
        f"train.save_every={steps}", f"train.log_every={max(1, steps // POINTS)}",
        f"train.seed={seed}", f"train.out={out}", f"data.root={town}", "train.device=cpu")


def train_and_judge(
    head: str, steps: int, seed: int, town: str, out: str, truth: str, picture: str
) -> dict[str, Any]:
    """Train from random weights, then score the hundred held-out streets."""
    train_to_the_end(schedule(head, steps, seed, town, out))
    return {"curve": curve(Path(out) / "log.csv"), **judge(f"{out}/last", town, truth, picture)}


def curve(log: Path) -> list[list[float]]:
    """[step, loss] of the logged steps."""
    with log.open(newline="") as file:
        rows = [(int(row["step"]), row["loss"]) for row in csv.DictReader(file)]
    return [[step, round(float(loss), 4)] for step, loss in rows if loss]


def judge(
    folder: str, town: str, truth: str, picture: str = "", settings: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A checkpoint's labels of the held-out streets, by NumPy and by the library itself."""
    model = SETR.from_pretrained(folder)
    assert model.config is not None
    return judge_model(
        model, model.config.override(f"data.root={town}", *settings), truth, picture)


def judge_model(model: SETR, config: RunConfig, truth: str, picture: str = "") -> dict[str, Any]:
    """`judge` of a model in training mode, as one is in the middle of its training."""
    streets, true = load_dataset(config.data, "val"), np.load(truth)
    labels: dict[int, np.ndarray] = {}
    model.train()
    confusion = evaluate(
        model, streets, config, on_image=lambda i, label, _: labels.update({i: label.numpy()}))
    if labels[0].shape != true[0].shape:  # scored at another size than images are labelled
        labels = {i: model.predict(str(streets.files[i][0]), config=config).numpy() for i in labels}
    found = np.stack([labels[i] for i in range(len(true))])
    if picture:
        write_picture(Path(picture), found[SHOWN], streets.palette)
    wrong, edge = found != true, on_edge(true.shape[1:])
    present = np.unique(true)
    iou = {streets.classes[k]: round(value, 4)
           for k, value in enumerate(ious(found, true)) if k in present}
    return {
        "miou": round(float(np.nanmean(ious(found, true))), 5),
        "reported": round(float(confusion.miou()), 5), "iou": iou,
        "right": round(float(1 - wrong.mean()), 5),
        "edge": round(float(wrong[:, edge].mean() / wrong[:, ~edge].mean()), 4),
    }


def judge_converted(
    bug: str, folder: str, town: str, truth: str, picture: str = ""
) -> dict[str, Any]:
    """`judge` of a checkpoint that has been another program's file on its way here.

    The file is made by `reference`, which knows the other program's names by itself.
    """
    model = SETR.from_pretrained(folder)
    config = model.config
    assert config is not None
    there = SETR.from_config(config.model)
    if bug == "mla_conversion":
        weights.load_setr(
            there, reference.authors_names(model.state_dict()), grid=model.encoder.grid)
    else:
        there.load_state_dict(model.state_dict())
        weights.load_pretrained(
            there.encoder, reference.distilled(model.encoder.state_dict()))
    return judge_model(there, config.override(f"data.root={town}"), truth, picture)


def ious(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(K,) by counting; NaN of a class that is nowhere."""
    classes = 256
    pairs = np.bincount(true.astype(int).ravel() * classes + found.ravel(), minlength=classes**2)
    table = pairs.reshape(classes, classes).astype(float)
    both = table.diagonal()
    with np.errstate(invalid="ignore"):
        return both / (table.sum(0) + table.sum(1) - both)


def on_edge(size: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool, the frame of `EDGE` pixels."""
    mask = np.ones(size, dtype=bool)
    mask[EDGE:-EDGE, EDGE:-EDGE] = False
    return mask


def write_picture(file: Path, label: np.ndarray, palette: np.ndarray) -> None:
    """A label map as a PNG with the palette of its classes."""
    picture = Image.fromarray(label.astype(np.uint8), "P")
    picture.putpalette(palette.astype(np.uint8).tobytes())
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, optimize=True)


def draw_truth(town: str, file: str) -> int:
    """The held-out streets' labels as they lie on disk, (100, 96, 192) uint8; their number."""
    config = get_recipe("toytown_pup").override(f"data.root={town}")
    streets = load_dataset(config.data, "val")
    labels = [streets[i].label.numpy() for i in range(len(streets))]
    np.save(file, np.stack(labels))
    return len(labels)
