"""ToyTown, the embedded data set: drawn street scenes with a true class for every pixel.

`street` draws; this module names the classes, gives each its id in three published layouts,
and writes folders that the readers of the real data sets read.

Shape legend: H, W  size of a picture in pixels.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..errors import UserError, nearest
from ..files import written_beside
from ..typed import LARGEST_NUMBER, path_of, whole
from .street import Street

SMALLEST = (48, 64)
"""Least height and width of a scene: below it people and signs shrink to single pixels."""
LARGEST = 4096
"""Most pixels of a scene in height or width."""


class ToyClass(NamedTuple):
    """A class of ToyTown: its name, colour, and the value that stands for it in mask files."""

    name: str
    color: tuple[int, int, int]
    cityscapes: int
    ade20k: int
    pascal_context: int


CLASSES: tuple[ToyClass, ...] = (
    ToyClass("sky", (70, 130, 180), 23, 3, 47),
    ToyClass("terrain", (152, 251, 152), 22, 10, 29),
    ToyClass("road", (128, 64, 128), 7, 7, 41),
    ToyClass("sidewalk", (244, 35, 232), 8, 12, 45),
    ToyClass("building", (70, 70, 70), 11, 2, 11),
    ToyClass("fence", (190, 153, 153), 13, 33, 25),
    ToyClass("vegetation", (107, 142, 35), 21, 5, 53),
    ToyClass("car", (0, 0, 142), 26, 21, 14),
    ToyClass("person", (220, 20, 60), 24, 13, 37),
    ToyClass("pole", (153, 153, 153), 17, 94, 0),
    ToyClass("traffic sign", (220, 220, 0), 20, 44, 46),
)
"""The classes, by label: name, colour and three mask values. Names and colours are Cityscapes'; the
values are its ``labelIds``, ADE20K's 1..150 (where grass, tree and signboard stand for terrain,
vegetation and traffic sign), and Pascal Context's 0..59, where pole is background."""
PALETTE = np.array([c.color for c in CLASSES], np.uint8)
"""(11, 3) RGB, one row for each class."""

LAYOUTS = ("cityscapes", "ade20k", "pascal_context")
"""The folder layouts that `write_toytown` knows."""


def layout_ids(layout: str) -> np.ndarray:
    """The value of every ToyTown class in the mask files of `layout`, as a (11,) uint8 table.

    `layout_ids(layout)[label]` turns a scene's label into a mask. A class that the layout lacks
    has its background, 0. Raises UserError for an unknown layout.
    """
    if layout not in LAYOUTS:
        raise UserError(f"layout={layout!r} is not known{nearest(layout, LAYOUTS)}")
    return np.array([getattr(c, layout) for c in CLASSES], np.uint8)


def render_scene(seed: int, size: tuple[int, int] = (96, 192)) -> tuple[np.ndarray, np.ndarray]:
    """Draw the street of a seed.

    One seed is one street: at another size of the same proportions it is the same picture in more
    or less detail. The bytes depend on nothing but seed and size.

    Args:
        seed: any integer >= 0.
        size: (H, W), at least 48x64.

    Returns:
        The image, uint8 (H,W,3) RGB, and the label, uint8 (H,W): 0 to 10, the class of every pixel
        in the order of `CLASSES`, which is not that of Cityscapes.

    Raises:
        UserError: a smaller size, or a negative seed.
    """
    whole("seed", seed, 0, 1 << 65)
    _check_size(size)
    return Street(int(seed), (int(size[0]), int(size[1]))).render()


def scene_seed(seed: int, split: str, index: int) -> int:
    """The seed of scene `index` of a data set: distinct for every data set, split and index."""
    whole("seed", seed)
    return seed << 33 | (split == "val") << 32 | index


def write_toytown(
    out: str | os.PathLike,
    train: int = 1500,
    val: int = 100,
    size: tuple[int, int] = (96, 192),
    seed: int = 0,
    layout: str = "cityscapes",
    progress: bool = True,
    workers: int = 1,
) -> None:
    """Draw a data set of streets.

    No scene of one split or seed occurs in another. An interrupted run is completed by the same
    call; a completed one is left as it is.

    Args:
        out: folder to write; ``toytown.json`` in it keeps the arguments.
        train, val: number of scenes in each split.
        size: (H, W) of a scene.
        seed: another seed draws another town.
        layout: ``cityscapes``, ``ade20k`` or ``pascal_context``, whose folders, file names and mask
            values are written.
        progress: show a bar.
        workers: processes that draw at once.

    Raises:
        UserError: arguments out of range; an `out` that is a file, holds other files, or holds a
            town made with other arguments.
    """
    from tqdm import tqdm

    if not str(out):
        raise UserError("no folder to write: give a path")
    out = path_of(out)
    whole("workers", workers, 1)
    ids = layout_ids(layout)
    _check_counts(train, val, seed)
    _check_size(size)
    made_with = {"train": train, "val": val, "size": list(size), "seed": seed, "layout": layout}
    _claim_folder(out, made_with)
    if layout == "pascal_context":
        _write_lists(out, train, val)
    jobs = [
        (scene_seed(seed, split, index), size, ids, *_paths(out, layout, split, index))
        for split, count in (("train", train), ("val", val))
        for index in range(count)
    ]
    with _map_over(workers) as run:
        for _ in tqdm(
            run(_write_scene, jobs), total=len(jobs), desc=f"ToyTown in {out}", unit="scene",
            disable=not progress,
        ):
            pass


@contextlib.contextmanager
def _map_over(workers: int) -> Iterator[Callable]:
    """A `map` that shares its calls between processes; with one worker, Python's own."""
    if workers == 1:
        yield map
        return
    # Ctrl-C reaches every process of the terminal; a worker that dies of it can hold a lock
    ignore = (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(workers, initializer=signal.signal, initargs=ignore) as pool:
        try:
            yield partial(pool.map, chunksize=8)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_scene(job: tuple[int, tuple[int, int], np.ndarray, Path, Path]) -> None:
    """Draw and save one scene, unless it is there."""
    scene, size, ids, image_path, mask_path = job
    if image_path.exists() and mask_path.exists():
        return
    image, label = render_scene(scene, size)
    _save(image, image_path)
    _save(ids[label], mask_path)


def _check_size(size: tuple[int, int]) -> None:
    if not isinstance(size, (tuple, list)):
        raise UserError(f"size={size!r}: give (height, width)")
    for side in size:
        whole("size, a side", side, -LARGEST_NUMBER)
    if len(size) != 2 or size[0] < SMALLEST[0] or size[1] < SMALLEST[1]:
        given = "x".join(str(side) for side in size)
        raise UserError(f"size={given} (height x width) is too small: give 48x64 or more")
    if max(size) > LARGEST:
        raise UserError(f"size={size[0]}x{size[1]} is too large: give sides of {LARGEST} or less")


def _check_counts(train: int, val: int, seed: int) -> None:
    for name, count in (("train", train), ("val", val)):
        whole(name, count, -LARGEST_NUMBER)
        if not 0 <= count < 1_000_000:
            raise UserError(f"{name}={count}: give a number of scenes from 0 to 999999")
    whole("seed", seed, -LARGEST_NUMBER)
    if not 0 <= seed < 1 << 31:
        raise UserError(f"seed={seed}: give a seed from 0 to 2147483647")


def _claim_folder(out: Path, made_with: dict) -> None:
    """Make `out` and note the arguments in it, or check that they are the ones noted."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder for the pictures")
    note = out / "toytown.json"
    if not note.exists():
        if out.exists() and any(entry.suffix != ".part" for entry in out.iterdir()):
            raise UserError(f"{out} holds other files and no toytown.json: give a new folder")
        out.mkdir(parents=True, exist_ok=True)
        _replace(note, lambda part: part.write_text(json.dumps(made_with) + "\n"))
        return
    try:
        found = dict(json.loads(note.read_text()))
    except ValueError:
        raise UserError(f"{note} is not a note of ToyTown's: give a new folder") from None
    differ = [f"{key}={found.get(key)}" for key in made_with if found.get(key) != made_with[key]]
    if differ:
        raise UserError(
            f"{out} holds a town made with {', '.join(differ)}: ask for that, or give a new folder"
        )


def _paths(out: Path, layout: str, split: str, index: int) -> tuple[Path, Path]:
    """Image and mask file of one scene."""
    if layout == "cityscapes":
        name = f"toytown_{index:06d}_000000"
        return (
            out / "leftImg8bit" / split / "toytown" / f"{name}_leftImg8bit.png",
            out / "gtFine" / split / "toytown" / f"{name}_gtFine_labelIds.png",
        )
    if layout == "ade20k":
        folder = {"train": "training", "val": "validation"}[split]
        name = f"ADE_{split}_{index + 1:08d}"
        return out / "images" / folder / f"{name}.jpg", out / "annotations" / folder / f"{name}.png"
    base, name = out / "VOCdevkit" / "VOC2010", _pascal_name(split, index)
    return base / "JPEGImages" / f"{name}.jpg", base / "SegmentationClassContext" / f"{name}.png"


def _pascal_name(split: str, index: int) -> str:
    """Pascal names pictures by year and number in one folder: the year tells the split."""
    return f"{2008 if split == 'train' else 2010}_{index:06d}"


def _write_lists(out: Path, train: int, val: int) -> None:
    folder = out / "VOCdevkit" / "VOC2010" / "ImageSets" / "SegmentationContext"
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("val", val)):
        text = "".join(f"{_pascal_name(split, index)}\n" for index in range(count))
        path = folder / f"{split}.txt"
        if not path.exists() or path.read_text() != text:
            _replace(path, partial(Path.write_text, data=text))


def _save(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":  # 4:4:4 at quality 95: thin poles keep their colour
        options: dict[str, Any] = {"format": "JPEG", "quality": 95, "subsampling": 0}
    else:
        options = {"format": "PNG", "compress_level": 3}  # 8 % larger than 6, half the time
    _replace(path, lambda part: Image.fromarray(array).save(part, **options))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """A file of this name is a complete one."""
    with written_beside(path) as part:
        write(part)
