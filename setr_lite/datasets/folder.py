"""Your own data: a folder of images, a folder of masks, and a list of class names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..errors import UserError
from .base import BAD, Listing, SegmentationDataset, label_table, pair_by_stem


class Folder(SegmentationDataset):
    """``images/{train,val,test}`` beside ``labels/`` (or ``annotations/``) of the same names.

    Masks are PNG, one channel of 8 bits: 0 is the first class of the list, 1 the next, 255 is
    ignored.

    Args:
        root: the folder that holds ``images``.
        split: train, val or test.
        classes: the list, see :func:`read_classes`; empty takes ``classes.txt`` in `root`.
        strict: as for every data set.

    Raises:
        UserError: as for every data set, and for a list that cannot be used.
    """

    name = "folder"
    splits: ClassVar[dict[str, str]] = {"train": "train", "val": "val", "test": "test"}
    markers = ("images/{}",)

    def __init__(
        self, root: str | Path, split: str = "train", classes: str | Path = "",
        *, strict: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(root, split, strict=strict)
        self.classes, self.palette = read_classes(classes or self.root / "classes.txt")
        self.table = label_table({k: k for k in range(len(self.classes))})

    @classmethod
    def list_files(cls, root: Path, split: str) -> Listing:
        """Pairs by name; ``labels`` is looked for before ``annotations``."""
        places = [root / name / cls.splits[split] for name in ("labels", "annotations")]
        masks = next((place for place in places if place.is_dir()), places[0])
        return pair_by_stem(root / "images" / cls.splits[split], masks)

    def _id_hint(self, path: Path) -> str:
        count = len(self.classes)
        return (
            f"the list of classes has {count}, so masks hold 0..{count - 1}, and 255 to ignore;"
            " correct the masks or complete the list"
        )


def read_classes(path: str | Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and colours of a list of classes, a text with one name a line.

    The first line is label 0. A colour may follow the name, ``road #804080``; classes without
    one take the colours that Pascal VOC uses. Empty lines do not count.

    Returns:
        K names and a (K,3) uint8 palette.

    Raises:
        UserError: no such file, no class or more than 254, a name twice, or an unreadable colour.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: no list of classes ({type(error).__name__}); write one name a line and give"
            " it as data.classes=FILE"
        ) from None
    rows = [_parse_line(path, i, line) for i, line in enumerate(lines, 1) if line.strip()]
    names = tuple(name for name, _ in rows)
    if not 1 <= len(names) <= BAD:
        raise UserError(f"{path}: lists {len(names)} classes; give 1 to {BAD}, one name a line")
    twice = sorted(name for name in set(names) if names.count(name) > 1)
    if twice:
        raise UserError(f"{path}: {twice[0]!r} is listed twice; every class needs its own name")
    colours = [colour or voc for (_, colour), voc in zip(rows, voc_palette(len(rows)), strict=True)]
    return names, np.array(colours, dtype=np.uint8)


def _parse_line(path: Path, number: int, line: str) -> tuple[str, tuple[int, ...] | None]:
    name, mark, colour = line.strip().partition("#")
    if not mark:
        return name.strip(), None
    if not name.strip() or not re.fullmatch("[0-9a-fA-F]{6}", colour.strip()):
        raise UserError(
            f"{path}, line {number}: {line.strip()!r} is no class; write NAME or NAME #rrggbb"
        )
    return name.strip(), tuple(bytes.fromhex(colour.strip()))


def voc_palette(count: int) -> list[tuple[int, int, int]]:
    """RGB of the classes 0..count - 1 as Pascal VOC colours them, without its black background."""
    return [_voc_colour(k + 1) for k in range(count)]


def _voc_colour(index: int) -> tuple[int, int, int]:
    """The colour of class `index` in Pascal VOC: its bits dealt to the three channels in turn,
    the first ones to the highest bits (VOCdevkit, `VOClabelcolormap`). Index 0 is black."""
    channels = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            channels[channel] |= (index >> (3 * place + channel) & 1) << (7 - place)
    return channels[0], channels[1], channels[2]
