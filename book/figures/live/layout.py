"""Lay out what the live figures load: streets, stamps, models and the engine, all as scripts.

Called when the book is built. Everything comes from the repository's own pictures, checkpoints and
source, so none of it is kept a second time.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from setr_lite import SETR, Cityscapes
from setr_lite.checkpoint import read_info
from setr_lite.toytown import canvas, things
from setr_lite.web.pages import as_script, describe, engine_part, model_part, read_source

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
HEADS = ("naive", "pup", "mla")
DAY = 51
"""The seed of the light and the camera under which the stamps are drawn: a clear day."""


class Stamp(NamedTuple):
    """Something to put into a street: RGBA uint8 (h, w, 4), and the class it truly is."""

    name: str
    label: str
    rgba: np.ndarray


def _cut(label: int, draw: Callable[[canvas.View], object]) -> np.ndarray:
    """What `draw` paints of one class on an empty grey ground, uint8 (h, w, 4), cut out."""
    view = canvas.View(DAY, (96, 192))
    view.canvas.fill((slice(None), slice(None)), canvas.pack(canvas.ROAD, (110, 110, 112)))
    draw(view)
    image, found = view.canvas.finish()
    mask = found == label
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    rgba = np.dstack([image.astype(np.uint8), mask * np.uint8(255)])
    return rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def stamps() -> list[Stamp]:
    """A thing of each kind, by ToyTown's own draughtsman, as large as it stands near the camera."""
    person = things.Look(canvas.Dice(3))
    red, leaf, steel = things.CARS[0], things.LEAVES[0], (92, 98, 104)
    return [
        Stamp("car", "car", _cut(canvas.CAR, lambda v: things.car(v, 180, 600, red, False, False))),
        Stamp("person", "person",
              _cut(canvas.PERSON, lambda v: things.person(v, 0, 520, 175, person))),
        Stamp("tree", "vegetation",
              _cut(canvas.VEGETATION, lambda v: things.tree(v, 0, 1500, 520, leaf, False))),
        Stamp("sign", "traffic sign",
              _cut(canvas.SIGN, lambda v: things.sign(v, 0, 560, 0, 100))),
        Stamp("pole", "pole", _cut(canvas.POLE, lambda v: things.lamp(v, 0, 1000, 500, steel))),
    ]  # fmt: skip


def place(image: np.ndarray, stamp: Stamp, x: int, y: int) -> tuple[np.ndarray, np.ndarray]:
    """A street with a stamp whose middle is at column x, row y, as the page puts it there.

    Returns the picture uint8 (H, W, 3), and where the stamp is to be seen, bool (H, W).
    """
    h, w = stamp.rgba.shape[:2]
    top, left = y - h // 2, x - w // 2
    layer = np.zeros((*image.shape[:2], 4), np.uint8)
    a, b = max(0, top), max(0, left)
    part = stamp.rgba[a - top : image.shape[0] - top, b - left : image.shape[1] - left]
    layer[a : a + part.shape[0], b : b + part.shape[1]] = part
    seen = layer[..., 3] > 0
    return np.where(seen[..., None], layer[..., :3], image), seen


def png(array: np.ndarray) -> str:
    """A picture as a ``data:`` URL, to the last bit: WebP spoils colours under transparency."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def streets_part() -> dict[str, Any]:
    """The twelve streets with their labels, the stamps, and the names of the classes."""
    streets = Cityscapes(ROOT / "data/sample/toytown_cityscapes", "val")
    samples = [streets[i] for i in range(len(streets))]
    return {
        "streets": [
            {"image": png(s.image.permute(1, 2, 0).numpy()),
             "label": png(s.label.numpy().astype(np.uint8))}
            for s in samples
        ],
        "stamps": [
            {"name": s.name, "label": streets.classes.index(s.label), "image": png(s.rgba),
             "width": s.rgba.shape[1], "height": s.rgba.shape[0]}
            for s in stamps()
        ],
        "classes": list(streets.classes), "palette": [list(map(int, c)) for c in streets.palette],
    }  # fmt: skip


def checkpoint_part(folder: Path) -> dict[str, Any]:
    """A committed checkpoint as it is: its file goes into the page byte by byte."""
    info, model = read_info(folder), SETR.from_pretrained(folder)
    about = describe(model, model.encoder.grid, info["classes"], info["palette"])
    return model_part(about, (folder / "model.safetensors").read_bytes())


def write(out: Path) -> None:
    """Write all scripts and the style sheet into `out`, which is made if need be."""
    out.mkdir(parents=True, exist_ok=True)
    parts = {"engine": engine_part(), "streets": streets_part()}
    parts |= {h: checkpoint_part(ROOT / f"data/runs/toytown_{h}/model") for h in HEADS}
    parts["tasks"] = "".join((HERE / n).read_text("utf-8") for n in ("walk.js", "stages.js"))
    for name, value in parts.items():
        (out / f"{name}.js").write_text(as_script(name, value), "utf-8")
    page = read_source("client.js") + "".join(
        (HERE / name).read_text("utf-8") for name in ("walk_view.js", "live.js"))
    (out / "live.js").write_text(page, "utf-8")
    (out / "live.css").write_text((HERE / "live.css").read_text("utf-8"), "utf-8")
