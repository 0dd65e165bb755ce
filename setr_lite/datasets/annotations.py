"""Annotations as labelme and COCO write them: regions of images, with the names of their classes.

Files come from anywhere: whatever they hold in place of what their program writes ends in one line.

Shape legend: H, W  size of an image in pixels.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from ..config import LARGEST_SIDE
from ..errors import UserError, controls, shortly
from ..files import is_number, is_whole, read_json
from .base import is_image
from .images import IMAGE_ENDINGS, image_of_bytes
from .pascal_json import decode_rle

LARGEST_JSON = 1 << 30
"""Bytes of an annotation file that is read; COCO's largest has half of them."""
BACKGROUND = "background"
"""The class of pixels in no region, unless told otherwise."""
NAMES = {"_background_": BACKGROUND, "__ignore__": "ignore"}
"""labelme's words for two of ours."""


class Shape(NamedTuple):
    """A region of an image and the name of its class."""

    name: str
    fill: Callable[[tuple[int, int]], np.ndarray]
    """(H, W) -> (H,W) bool."""


class Annotation(NamedTuple):
    """What a program knows of one image."""

    image: Path
    size: tuple[int, int] | None
    """(H, W) as the program has it; None where it does not say."""
    shapes: list[Shape]
    """In the order in which they are drawn, the later over the earlier."""
    where: str
    """For messages."""


def fill_polygon(points: list[tuple[float, float]], size: tuple[int, int]) -> np.ndarray:
    """(H,W) bool: the pixels whose centre lies in a polygon of (x, y), by the even-odd rule.

    (0, 0) is the corner of the first pixel, as labelme and COCO count. Drawing programs add the
    border, half a pixel on every side.
    """
    height, width = size
    crossings = np.zeros((height, width + 1), dtype=np.int32)
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        low, high = (math.ceil(y - 0.5) for y in sorted((y0, y1)))
        rows = np.arange(max(low, 0), min(high, height))
        if rows.size:
            x = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            crossings[rows, np.ceil(x - 0.5).clip(0, width).astype(int)] += 1
    return crossings.cumsum(axis=1)[:, :width] % 2 == 1


def _name(text: Any) -> str:
    """A class's name out of a file."""
    if not isinstance(text, str) or not text.strip() or controls(text) or "#" in text:
        raise UserError(f"{shortly(text)} is no name of a class")
    return NAMES.get(text.strip(), text.strip())


def _points(values: Any, least: int) -> list[tuple[float, float]]:
    """[[x, y], ...] out of a file."""
    ok = isinstance(values, list) and len(values) >= least and all(
        isinstance(pair, list) and len(pair) == 2
        and all(is_number(v, -LARGEST_SIDE, 2 * LARGEST_SIDE) for v in pair) for pair in values
    )  # fmt: skip
    if not ok:
        raise UserError(f"points are {shortly(values)}, expected {least} or more pairs of numbers")
    return [(float(x), float(y)) for x, y in values]


def _size(size: tuple[Any, Any]) -> tuple[int, int]:
    if not all(is_whole(side, 1) for side in size):
        raise UserError(f"height and width are {shortly(size)}, expected whole numbers")
    return size


@contextmanager
def _understood(path: Path, program: str) -> Iterator[None]:
    """One line for whatever a file has in place of what its program writes."""
    try:
        yield
    except UserError as error:
        if str(error).startswith(str(path)):
            raise
        raise UserError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise UserError(
            f"{path}: not as {program} writes it ({type(error).__name__}: {error}); write it anew"
        ) from error


def _image_in(folder: Path, name: Any) -> Path:
    """The image `name` in or below `folder`; a file may not send us anywhere else."""
    parts = PurePosixPath(str(name).replace("\\", "/")).parts
    if not isinstance(name, str) or not parts or ".." in parts or parts[0] == "/":
        raise UserError(f"{shortly(name)} is no name of an image below {folder}")
    path = folder.joinpath(*parts)
    if controls(name) or not is_image(path):
        raise UserError(f"{shortly(name)} is no name of an image ({' '.join(IMAGE_ENDINGS)})")
    if not path.is_file():
        raise UserError(f"its image {path} is not there; give --images DIR")
    return path


# ---- labelme -------------------------------------------------------------------------------------


def read_labelme(path: Path, images: Path) -> Annotation:
    """One of labelme's files (``shapes`` with ``label``, ``points``, ``shape_type``).

    Polygons, rectangles, circles and masks; lines and points have no area.

    Raises:
        UserError: anything else.
    """
    data = read_json(path, "write it anew", LARGEST_JSON)
    with _understood(path, "labelme"):
        name = str(data["imagePath"]).replace("\\", "/").rpartition("/")[2]
        size = (data["imageHeight"], data["imageWidth"])
        known = None if None in size else _size(size)  # old versions leave it open
        shapes = [_labelme_shape(shape) for shape in data["shapes"]]
        return Annotation(_image_in(images, name), known, shapes, str(path))


def _labelme_shape(shape: dict[str, Any]) -> Shape:
    kind, name = shape.get("shape_type", "polygon"), _name(shape["label"])
    if kind == "polygon":
        points = _points(shape["points"], 3)
        return Shape(name, lambda size: fill_polygon(points, size))
    if kind == "rectangle":
        (a, b), (c, d) = _points(shape["points"], 2)[:2]
        return Shape(name, lambda size: fill_polygon([(a, b), (c, b), (c, d), (a, d)], size))
    if kind == "circle":
        centre, edge = _points(shape["points"], 2)[:2]
        return Shape(name, lambda size: _fill_circle(centre, math.dist(centre, edge), size))
    if kind == "mask":
        corner = _points(shape["points"], 1)[0]
        picture = base64.b64decode(shape["mask"])
        return Shape(name, lambda size: _fill_mask(picture, corner, size))
    raise UserError(
        f"{name!r} is a {shortly(kind)}, which has no area; draw a polygon, or delete it")


def _fill_circle(
    centre: tuple[float, float], radius: float, size: tuple[int, int]
) -> np.ndarray:
    y, x = np.ogrid[: size[0], : size[1]]
    return np.asarray((x + 0.5 - centre[0]) ** 2 + (y + 0.5 - centre[1]) ** 2 <= radius**2)


def _fill_mask(picture: bytes, corner: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    """A picture that is white inside, its first pixel at `corner` (x, y)."""
    inside = image_of_bytes(picture, "a mask in it").numpy().max(axis=0) > 0
    left, top = (round(value) for value in corner)
    whole = np.zeros(size, dtype=bool)
    place = whole[max(top, 0) :, max(left, 0) :]
    part = inside[max(-top, 0) :, max(-left, 0) :][: place.shape[0], : place.shape[1]]
    place[: part.shape[0], : part.shape[1]] = part
    return whole


# ---- COCO ----------------------------------------------------------------------------------------


def read_coco(path: Path, images: Path) -> tuple[list[str], list[Annotation]]:
    """The names in the order of their ids, and what a file says of each of its images.

    A region is a list of polygons, or run lengths as numbers or in COCO's compressed form. Regions
    are drawn in the order of the file. Images without annotation are all background.

    Raises:
        UserError: anything else.
    """
    data = read_json(path, "write it anew", LARGEST_JSON)
    if "shapes" in data and "annotations" not in data:
        raise UserError(f"{path}: a file of labelme; give the folder of all of them")
    with _understood(path, "COCO"):
        names = {one["id"]: _name(one["name"]) for one in data["categories"]}
        found = {}
        for one in data["images"]:
            size = _size((one["height"], one["width"]))
            where = f"{path}, image {shortly(one['file_name'])}"
            image = _image_in(images, one["file_name"])
            found[one["id"]] = Annotation(image, size, [], where)
        for part in data["annotations"]:
            if part["category_id"] not in names:
                raise UserError(f"category_id {shortly(part['category_id'])} is in no category")
            shape = Shape(names[part["category_id"]], _coco_region(part["segmentation"]))
            found[part["image_id"]].shapes.append(shape)
        return [names[k] for k in sorted(names)], list(found.values())


def _coco_region(region: Any) -> Callable[[tuple[int, int]], np.ndarray]:
    if isinstance(region, dict):
        return lambda size: _fill_runs(region, size)
    if not isinstance(region, list) or any(len(flat) % 2 for flat in region):
        raise UserError(f"a segmentation is {shortly(region)}, expected polygons or run lengths")
    polygons = [_points([[*pair] for pair in zip(flat[::2], flat[1::2], strict=True)], 3)
                for flat in region]  # fmt: skip

    def fill(size: tuple[int, int]) -> np.ndarray:
        whole = np.zeros(size, dtype=bool)
        for points in polygons:
            whole |= fill_polygon(points, size)
        return whole

    return fill


def _fill_runs(region: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    if region.get("size") != [*size]:
        raise UserError(f"run lengths of size {shortly(region.get('size'))} for an image of {size}")
    return decode_rle(region.get("counts", ""), *size)
