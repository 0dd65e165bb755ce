"""Pascal Context's own annotation file, `trainval_merged.json`, as label maps.

The file lists ``images`` (``image_id``, ``file_name``, ``phase``: train, val or test) and
``annos_segmentation`` (``image_id``, ``category_id``, ``segmentation``: a region as COCO's
compressed run lengths, ``size`` and ``counts``). A label map is its regions drawn in the order of
the file, the later over the earlier; what none covers is background. This is what the Detail API
does (zhanghang1989/detail-api, `Detail.getMask`), without it.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import UserError, shortly
from ..files import is_whole

FILE_NAME = "trainval_merged.json"
CATEGORY_IDS = (
    0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113,
    115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326,
    347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
"""The file's ids of the 60 classes, in the order of the labels (numbers of an alphabetical list
of 459 names; from mmsegmentation's tools/dataset_converters/pascal_context.py)."""
_LABELS = {category: label for label, category in enumerate(CATEGORY_IDS)}


class Regions(NamedTuple):
    """The annotation of one image, still encoded."""

    file_name: str
    regions: list[tuple[int, int, int, str]]
    """(category id, height, width, counts), in the order in which they are drawn."""


@lru_cache(maxsize=1)  # train and val come from one file that takes long to parse
def read_annotations(path: Path) -> dict[str, dict[str, Regions]]:
    """What the file says of each image: by phase, then by the image's name without ending.

    Raises:
        UserError: no such file, or not one of Pascal Context.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        images = {image["image_id"]: Regions(image["file_name"], []) for image in data["images"]}
        for part in data["annos_segmentation"]:
            height, width = part["segmentation"]["size"]
            region = (part["category_id"], height, width, part["segmentation"]["counts"])
            if part["image_id"] in images:
                images[part["image_id"]].regions.append(region)
        phases: dict[str, dict[str, Regions]] = {}
        for image in data["images"]:
            found = images[image["image_id"]]
            if Path(found.file_name).name != found.file_name or found.file_name == "..":
                raise ValueError(f"file_name {shortly(found.file_name)} is no name of a file")
            phases.setdefault(image["phase"], {})[Path(found.file_name).stem] = found
        return phases
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: not Pascal Context's {FILE_NAME} ({type(error).__name__}: {error});"
            " download it again"
        ) from error


def draw(annotation: Regions, where: str | Path) -> np.ndarray:
    """(H,W) uint8 label map, 0 background to 59; `where` names the image in messages.

    Raises:
        UserError: a category that is none of the 60, no region, regions of different sizes, or
            run lengths that do not fill their size.
    """
    if len({region[1:3] for region in annotation.regions}) != 1:
        raise UserError(f"{where}: has no regions of one size; download {FILE_NAME} again")
    _, height, width, _ = annotation.regions[0]
    label = np.zeros((height, width), dtype=np.uint8)
    for category, _, _, counts in annotation.regions:
        if category not in _LABELS:
            raise UserError(f"{where}: category {category} is none of Pascal Context's 60 classes")
        try:
            label[decode_rle(counts, height, width)] = _LABELS[category]
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    return label


def decode_rle(counts: str | list[int], height: int, width: int) -> np.ndarray:
    """(H,W) bool of a region in COCO's run lengths, a list of them or compressed.

    Runs of outside and inside take turns down the columns. A run is written in digits of 5 bits,
    low ones first, each as the character 48 + digit, plus 32 unless it is the last; the fifth bit
    of the last one is the sign. From the fourth run on the difference to the run two before is
    written (cocodataset/cocoapi, maskApi.c, `rleFrString`).

    Raises:
        UserError: the runs do not add up to H * W.
    """
    if isinstance(counts, str):
        letters = np.frombuffer(counts.encode("ascii", "replace"), dtype=np.uint8)
        digits = letters.astype(np.int64) - 48
        ends = digits.size and not digits[-1] & 32
        runs = _runs(digits) if ends else np.zeros(0, dtype=np.int64)
    else:
        fits = isinstance(counts, list) and all(is_whole(n, 0, height * width) for n in counts)
        runs = np.array(counts if fits else [], dtype=np.int64)
    if runs.sum() != height * width or (runs < 0).any():
        raise UserError(f"run lengths do not add up to {height}x{width} pixels")
    inside = np.arange(runs.size) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def _runs(digits: np.ndarray) -> np.ndarray:
    last = np.flatnonzero((digits & 32) == 0)  # of each run
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(digits.size) - np.repeat(first, last - first + 1)
    runs = np.add.reduceat((digits & 31) << 5 * place, first)
    runs -= np.where(digits[last] & 16, 1 << 5 * (last - first + 1), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])  # the first run stands alone
    return runs
