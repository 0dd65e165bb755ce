"""Annotations of other programs as a folder data set: labelme, COCO, masks in colours.

What comes out is what `Folder` reads: ``images/``, ``labels/`` with one PNG of class ids for each
image, ``classes.txt``. Images are linked where the disk allows it, else copied. Nothing that is
there already is touched: the folder is new, and appears at once, whole.

Shape legend: H, W  size of an image in pixels.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import cv2
import numpy as np

from ..config import IGNORE
from ..errors import UserError, nearest
from ..files import PART, refuse_inputs
from .annotations import BACKGROUND, Annotation, read_coco, read_labelme
from .base import BAD, is_image, label_table
from .folder import ClassList, default_palette, read_class_list, voc_palette
from .images import image_size, mode_of, read_image, read_label

VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
"""Pascal VOC's classes, by id."""


def make_masks(
    source: str | Path, out: str | Path, *, images: str | Path = "", classes: str | Path = "",
    background: str = BACKGROUND, split: str = "",
) -> str:  # fmt: skip
    """Turn annotations into a folder data set.

    Args:
        source: a folder of labelme's JSON files, one of COCO's JSON files (polygons, run lengths),
            or a folder of masks in colours or with a palette, as Pascal VOC has them.
        out: folder to make.
        images: where the images lie; by default beside the JSON.
        classes: a text file that gives the order, one class per line, ``NAME`` or ``NAME #rrggbb``;
            masks in colours need one with colours. By default the names that occur, in
            alphabetical order, after `background`; COCO's in the order of its ids.
        background: class of the pixels in no region; ``ignore`` gives them the ignored id 255.
        split: train, val or test, in whose folders they go, for annotations that are split already;
            `out` may then hold other splits with the same classes.

    Returns:
        A line that says what was made.

    Raises:
        UserError: what cannot be read, does not fit its image, names an unknown class, or would
            replace something.
    """
    source, out = Path(source), Path(out)
    refuse_inputs(out, [source, *([images] if images else [])])
    listed = read_class_list(classes) if classes else None
    if source.is_dir() and not _json_in(source):
        found = _coloured(source, Path(images) if images else None, listed)
    else:
        found = _drawn(source, Path(images) if images else None, listed, background)
    with _new_folder(out, split) as part:
        count = _write(found, part, split)
    said = f"{count} images with masks of {len(found.names)} classes in {out}"
    left = sum(map(is_image, source.glob("*"))) - count if _json_in(source) and not images else 0
    plural = "s" * (left != 1)
    return f"{said}; {left} image{plural} without annotation left out" if left > 0 else said


class _Found(NamedTuple):
    names: tuple[str, ...]
    palette: np.ndarray
    masks: Iterator[tuple[Path, np.ndarray]]
    """(image, (H,W) uint8 label) one after the other."""


# ---- regions -------------------------------------------------------------------------------------


def _drawn(
    source: Path, images: Path | None, listed: ClassList | None, background: str
) -> _Found:
    """Of labelme or COCO."""
    if source.is_dir():
        annotations = [read_labelme(path, images or source) for path in _json_in(source)]
        order = sorted({shape.name for one in annotations for shape in one.shapes})
    else:
        order, annotations = read_coco(source, images or source.parent)
    if not annotations:
        raise UserError(f"{source}: names no image")
    names = listed.names if listed else _ordered(order, background, source)
    palette = listed.palette if listed else np.array(default_palette(names), dtype=np.uint8)
    if background != "ignore" and background not in names:
        raise UserError(
            f"{background!r} is no class{nearest(background, names)}: pixels in no region need one;"
            " add it to the list, or give --background NAME, or --background ignore"
        )
    ids = {name: k for k, name in enumerate(names)} | {"ignore": IGNORE}
    return _Found(names, palette, _draw_all(annotations, ids, ids[background]))


def _json_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))


def _ordered(names: Iterable[str], background: str, source: Path) -> tuple[str, ...]:
    """The background first, where there is one, then the others as they come."""
    first = [] if background == "ignore" else [background]
    found = tuple(dict.fromkeys([*first, *(name for name in names if name != "ignore")]))
    if not 1 <= len(found) <= BAD:
        raise UserError(f"{source}: has {len(found)} classes; a mask of 8 bits holds 1 to {BAD}")
    return found


def _draw_all(
    annotations: list[Annotation], ids: dict[str, int], background: int
) -> Iterator[tuple[Path, np.ndarray]]:
    for one in annotations:
        size = image_size(one.image)
        if one.size is not None and one.size != size:
            raise UserError(
                f"{one.where}: made for an image of {one.size[0]}x{one.size[1]}, and {one.image}"
                f" has {size[0]}x{size[1]} (height x width, turned as its EXIF tag says); take"
                " the image that was annotated"
            )
        label = np.full(size, background, dtype=np.uint8)
        for shape in one.shapes:
            if shape.name not in ids:
                raise UserError(
                    f"{one.where}: {shape.name!r} is no class of the list"
                    f"{nearest(shape.name, ids)}")  # fmt: skip
            try:
                label[shape.fill(size)] = ids[shape.name]
            except UserError as error:
                raise UserError(f"{one.where}: {error}") from None
        yield one.image, label


# ---- masks in colours ----------------------------------------------------------------------------


def _coloured(source: Path, images: Path | None, listed: ClassList | None) -> _Found:
    """Of masks with ids, perhaps behind a palette, and of masks in RGB."""
    if images is None:
        raise UserError(f"{source}: holds masks, no JSON; give --images DIR with their images")
    masks = sorted(p for p in source.glob("*") if is_image(p) and p.suffix.lower() == ".png")
    if not masks:
        raise UserError(f"{source}: no folder of JSON files or of masks (.png)")
    listed = listed or ClassList(
        VOC, np.array([(0, 0, 0), *voc_palette(20)], dtype=np.uint8),
        label_table({k: k for k in range(21)}), True, True)  # fmt: skip
    pictures: dict[str, Path] = {}
    for path in sorted(p for p in images.glob("*") if is_image(p)):
        if path.stem in pictures:
            raise UserError(f"{path}: has the name of {pictures[path.stem]}; rename one of them")
        pictures[path.stem] = path
    missing = next((mask for mask in masks if mask.stem not in pictures), None)
    if missing:
        raise UserError(f"{missing}: no image of this name in {images}")
    labels = ((pictures[mask.stem], _to_label(mask, listed)) for mask in masks)
    return _Found(listed.names, listed.palette, labels)


VOID = ((0, 0, 0), (224, 224, 192), (255, 255, 255))
"""Colours that are no class unless the list says so: black, Pascal VOC's border, white."""


def _to_label(path: Path, listed: ClassList) -> np.ndarray:
    """(H,W) uint8 label of a mask.

    Raises:
        UserError: an id or a colour that no class has, two classes of one colour.
    """
    if mode_of(path) in ("RGB", "RGBA"):
        return _by_colour(path, listed)
    ids = read_label(path).numpy()
    label, white = listed.table[ids], (listed.palette == 255).all(axis=1).any()
    unknown = ids[label == BAD]
    if listed.coloured and (unknown.size or (white and (ids == 255).any())):
        return _by_colour(path, listed)  # such as black and white
    if unknown.size:
        raise UserError(
            f"{path}: the id {unknown.max()} is no class of the list; give --classes FILE with a"
            " line for it, `ID NAME`"
        )
    return label


def _by_colour(path: Path, listed: ClassList) -> np.ndarray:
    if not listed.coloured:
        raise UserError(
            f"{path}: is in colours, and the list of classes does not say them; write"
            " `NAME #rrggbb` in all lines"
        )
    packed = _packed(read_image(path).permute(1, 2, 0).numpy())
    keys = _packed(listed.palette).tolist()
    table = dict.fromkeys(_packed(np.array(VOID)).tolist(), IGNORE)
    twice = next((k for k in keys if keys.count(k) > 1), None)
    if twice is not None:
        raise UserError(f"two classes of the list have the colour #{twice:06x}; give each its own")
    table |= {key: k for k, key in enumerate(keys)}
    values, inverse, counts = np.unique(packed, return_inverse=True, return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        if value not in table:
            raise UserError(
                f"{path}: {count} pixels have the colour #{value:06x}, which no class of the list"
                " has; add `NAME #rrggbb` to the list and give it with --classes"
            )
    ids = np.array([table[value] for value in values.tolist()], dtype=np.uint8)
    return ids[inverse].reshape(packed.shape)


def _packed(colours: np.ndarray) -> np.ndarray:
    """(..., 3) RGB -> (...) whole numbers, as they are written: 0xrrggbb."""
    return colours.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


# ---- what comes out ------------------------------------------------------------------------------


@contextmanager
def _new_folder(out: Path, split: str) -> Iterator[Path]:
    """A folder to fill that becomes `out`, or with `split` its parts of it.

    Raises:
        UserError: something is there already.
    """
    if split not in ("", "train", "val", "test"):
        raise UserError(f"--split {split}{nearest(split, ('train', 'val', 'test'))}")
    there = [out / kind / split for kind in ("images", "labels")] if split else [out]
    for place in there:
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise UserError(f"{place}: is there already; choose another folder, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".", suffix=PART, dir=out.parent) as folder:
        part = Path(folder) / (out.name or "made")
        part.mkdir()
        yield part
        if not split or not out.exists():
            part.rename(out)
            return
        _same_classes(part, out)
        for kind in ("images", "labels"):
            (out / kind).mkdir(exist_ok=True)
            (part / kind / split).rename(out / kind / split)


def _same_classes(part: Path, out: Path) -> None:
    old, new = out / "classes.txt", part / "classes.txt"
    if not old.exists():
        new.rename(old)
    elif old.read_bytes() != new.read_bytes():
        raise UserError(f"{old}: has other classes than these; give --classes {old}")


def _write(found: _Found, part: Path, split: str) -> int:
    pictures, labels = (part / kind / split for kind in ("images", "labels"))
    for folder in (pictures, labels):
        folder.mkdir(parents=True)
    lines = [f"{k} {name} #{bytes(colour).hex()}" for k, (name, colour) in
             enumerate(zip(found.names, found.palette.tolist(), strict=True))]  # fmt: skip
    (part / "classes.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    read_class_list(part / "classes.txt")  # or the names would not come back
    owner: dict[str, Path] = {}
    for image, label in found.masks:
        if image.stem in owner:
            raise UserError(
                f"{image}: {owner[image.stem]} has this name, too; rename one of them, or keep one"
                " annotation of an image")  # fmt: skip
        owner[image.stem] = image
        _link_or_copy(image, pictures / image.name)
        if not cv2.imwrite(str(labels / f"{image.stem}.png"), label):
            raise UserError(f"{labels}: cannot be written; free some space")
    return len(owner)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
