"""ToyTown in the dark, with five classes, as a folder of images and one of masks: somebody's own
data set, for the page on one's own images and for `measure_few_images.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from setr_lite import Cityscapes, write_toytown

CLASSES = """\
ground #8a7a5c
building #b05a2c
plants #4f8a2c
sky #5c7fd0
objects #f0c020
"""
"""What stands in classes.txt."""
GROUPS = {
    "ground": ("road", "sidewalk", "terrain"), "building": ("building",),
    "plants": ("vegetation",), "sky": ("sky",),
    "objects": ("pole", "traffic sign", "person", "car")}
"""The five classes, and ToyTown's in them; a fence is ignored."""


def night(image: Tensor, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(3, H, W) uint8 as drawn -> (H, W, 3) uint8, dark and noisy."""
    light = (image.permute(1, 2, 0).numpy() / 255) ** 1.6
    light = 0.5 * light * [0.75, 0.85, 1.25] + [0.02, 0.03, 0.07]
    light += rng.normal(0, 0.03, light.shape)
    return (255 * light.clip(0, 1)).astype(np.uint8)


def draw_night(root: Path, day: Path, train: int = 20, val: int = 8) -> None:
    """Draw ToyTown below `day`, and the same streets in the dark with their masks below `root`."""
    write_toytown(day, train, val, seed=100, progress=False)
    table = np.full(256, 255, np.uint8)
    for new, names in enumerate(GROUPS.values()):
        table[[Cityscapes.classes.index(name) for name in names]] = new
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        images, masks = (root / kind / split for kind in ("images", "labels"))
        for folder in (images, masks):
            folder.mkdir(parents=True)
        for sample in Cityscapes(day, split):
            name = sample.name.removesuffix("_leftImg8bit")
            Image.fromarray(night(sample.image, rng)).save(images / f"{name}.jpg", quality=90)
            Image.fromarray(table[sample.label.numpy()]).save(masks / f"{name}.png")
    (root / "classes.txt").write_text(CLASSES, "utf-8")
