"""Your own data: a folder of images, a folder of masks, and a list of class names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from ..config import IGNORE
from ..errors import UserError, controls, shortly
from ..typed import path_of
from .base import BAD, Listing, SegmentationDataset, is_image, label_table, pair_by_stem


class Folder(SegmentationDataset):
    """``images/{train,val,test}`` beside ``labels/`` (or ``annotations/``) of the same names.

    Or ``images/`` and ``labels/`` without these folders, and lists ``splits/{train,val,test}.txt``
    of file names without extension, as `split.split_data` writes them. Masks are PNG, one channel
    of 8 bits: 0 is the first class of the list, 1 the next, 255 is ignored. A list with ids,
    ``7 road``, says which values stand for which class.

    Args:
        root: the folder that holds ``images``.
        split: train, val or test.
        classes: a text file, one class per line: ``NAME``, ``NAME #rrggbb`` or ``ID NAME``; empty
            takes ``classes.txt`` in `root`.
        strict, unlabelled: as for every data set.

    Raises:
        UserError: as for every data set, and for a list that cannot be used.
    """

    name = "folder"
    splits: ClassVar[dict[str, str]] = {"train": "train", "val": "val", "test": "test"}
    markers = ("images/{}", "splits/{}.txt")

    def __init__(
        self, root: str | Path, split: str = "train", classes: str | Path = "",
        *, strict: bool = True, unlabelled: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(root, split, strict=strict, unlabelled=unlabelled)
        listed = read_class_list(classes or self.root / "classes.txt")
        self.classes, self.palette, self.table = listed.names, listed.palette, listed.table
        self.explicit = listed.explicit
        """Whether the list says the ids."""

    @classmethod
    def list_files(cls, root: Path, split: str) -> Listing:
        """Pairs by name; ``labels`` is looked for before ``annotations``."""
        part = cls.splits[split]
        listed = root / "splits" / f"{part}.txt"
        if listed.is_file() and not (root / "images" / part).is_dir():
            return _listed(root, listed)
        places = [root / name / part for name in LABELS]
        masks = next((place for place in places if place.is_dir()), places[0])
        return pair_by_stem(root / "images" / part, masks)

    @classmethod
    def find_root(cls, root: str | Path, split: str) -> Path:
        """As for every data set; says what to do where the images are not in splits."""
        try:
            return super().find_root(root, split)
        except UserError as error:
            flat = path_of(root) / "images"
            if split not in list(cls.splits) or not any(map(is_image, flat.glob("*"))):
                raise
            raise UserError(
                f"{flat}: holds the images themselves; `setr-lite split {root}` writes lists of"
                f" those to learn from and those to score on, or put them into {flat}/train and"
                f" {flat}/val, and their masks likewise"
            ) from error

    def _id_hint(self, path: Path) -> str:
        count = len(self.classes)
        if self.explicit:
            return f"{super()._id_hint(path)}; correct the masks, or add the id to the list"
        return (
            f"the list of classes has {count}, so masks hold 0..{count - 1}, and 255 to ignore;"
            f" {COUNTED_FROM_1}, else correct the masks or complete the list"
        )


LABELS = ("labels", "annotations")
"""Folders that the masks may lie in."""


def pairs_below(root: Path) -> dict[str, tuple[Path, Path]]:
    """Every image below ``images/`` and the mask of its name, by its path without ending.

    Raises:
        UserError: two images of one name.
    """
    images = root / "images"
    masks = next((root / name for name in LABELS if (root / name).is_dir()), root / LABELS[0])
    pairs: dict[str, tuple[Path, Path]] = {}
    for image in sorted(path for path in images.rglob("*") if is_image(path)):
        name = image.relative_to(images).with_suffix("").as_posix()
        if name in pairs:
            raise UserError(
                f"{image}: has the name of {pairs[name][0]}, and both would have one label; rename"
                " one of them"
            )
        pairs[name] = image, masks / f"{name}.png"
    return pairs


def _listed(root: Path, listed: Path) -> Listing:
    """The pairs that a list names."""
    pairs = pairs_below(root)
    try:
        names = listed.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{listed}: no list of names ({type(error).__name__})") from None
    names = [name for name in names if name.strip()]
    unknown = next((name for name in names if name not in pairs), None)
    if unknown is not None:
        raise UserError(
            f"{listed}: no image {shortly(unknown)} in {root / 'images'}; write paths from there,"
            " without ending"
        )
    chosen = [pairs[name] for name in names]
    labels = {label for _, label in chosen if label.is_file()}
    return Listing(chosen, labels, listed, "names of images")


COUNTED_FROM_1 = (
    "if their ids begin with 1, or 0 stands for no data, say so in the list: `0 ignore`, `1 road`"
)
"""The mistake that completing the list would hide: one class too many, all shifted by one."""


class ClassList(NamedTuple):
    """What a list of classes says."""

    names: tuple[str, ...]
    """K names, by label."""
    palette: np.ndarray
    """(K,3) uint8 RGB."""
    table: np.ndarray
    """(256,) uint8: the label of each id in a mask."""
    explicit: bool
    """Whether the ids stand in the list; else they are those of the lines, from 0."""
    coloured: bool
    """Whether the list says the colours of all classes."""


class _Line(NamedTuple):
    number: int
    id: int | None
    name: str
    colour: tuple[int, ...] | None


def read_classes(path: str | Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Names (K) and palette (K,3) of `read_class_list`."""
    listed = read_class_list(path)
    return listed.names, listed.palette


def read_class_list(path: str | Path) -> ClassList:
    """A list of classes: a text with one name per line, ``NAME``, ``NAME #rrggbb`` or ``ID NAME``.

    Without ids the first line is label 0. With them every line has one, the value of the class in
    the masks, and ``ignore`` in place of a name leaves the pixels of an id out. Classes without a
    colour take that of `default_palette`. Empty lines do not count.

    Raises:
        UserError: no such file; no class or more than 254; a name or an id twice, or only some
            lines with ids; an unreadable colour; a line of another program's list that is no
            class.
    """
    path = path_of(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: no list of classes ({type(error).__name__}); write one name a line and give"
            " it as data.classes=FILE, to check-data as --classes FILE"
        ) from None
    rows = [_parse_line(path, i, line) for i, line in enumerate(lines, 1) if line.strip()]
    explicit = any(row.id is not None for row in rows)
    if explicit:
        _check_ids(path, rows)
    ids = {k if row.id is None else row.id: row for k, row in enumerate(rows)}
    table = {i: IGNORE for i, row in ids.items() if explicit and row.name.lower() == "ignore"}
    kept = [row for i, row in ids.items() if i not in table]
    _check_names(path, [row.name for row in kept])
    table |= {i: kept.index(row) for i, row in ids.items() if i not in table}
    colours = [
        row.colour or own for row, own in
        zip(kept, default_palette([row.name for row in kept]), strict=True)]
    return ClassList(
        tuple(row.name for row in kept), np.array(colours, dtype=np.uint8),
        label_table(table), explicit, all(row.colour for row in kept),
    )  # fmt: skip


def _check_names(path: Path, names: list[str]) -> None:
    if not 1 <= len(names) <= BAD:
        raise UserError(f"{path}: lists {len(names)} classes; give 1 to {BAD}, one name a line")
    twice = sorted(name for name in set(names) if names.count(name) > 1)
    if twice:
        raise UserError(f"{path}: {twice[0]!r} is listed twice; every class needs its own name")


def _check_ids(path: Path, rows: list[_Line]) -> None:
    for row in rows:
        if row.id is None:
            raise UserError(
                f"{path}, line {row.number}: {row.name!r} has no id, and other lines have; write"
                " ID NAME in all lines or in none, and a name that begins with a number otherwise"
            )
    ids = [row.id for row in rows]
    twice = next((row for row in rows if ids.count(row.id) > 1), None)
    if twice:
        raise UserError(f"{path}, line {twice.number}: the id {twice.id} is listed twice")


def _parse_line(path: Path, number: int, line: str) -> _Line:
    text, mark, colour = (part.strip() for part in line.strip().partition("#"))
    where = f"{path}, line {number}: {shortly(line.strip())}"
    if controls(text):
        raise UserError(f"{where} holds control characters; write a name in printable ones")
    if re.match(r"\d+\s*:", text):
        raise UserError(
            f"{where} is of another program's list, whose numbers need not be the values in the"
            " masks; write ID NAME with the value, such as `7 road`, or NAME alone"
        )
    if re.fullmatch(r"_+ignore_*", text.lower()):
        raise UserError(
            f"{where} is labelme's mark for 255, and no class: delete the line, or every class"
            " would be shifted by one"
        )
    found = re.fullmatch(r"(?:(\d{1,99})\s+)?(\S.*)", text)
    if not found or (mark and not re.fullmatch("[0-9a-fA-F]{6}", colour)):
        raise UserError(f"{where} is no class; write NAME, NAME #rrggbb or ID NAME")
    file_id = None if found[1] is None else int(found[1])
    if file_id is not None and file_id >= IGNORE:
        raise UserError(f"{where}: masks of 8 bits hold ids 0..254, and 255 to ignore")
    return _Line(number, file_id, found[2], tuple(bytes.fromhex(colour)) if mark else None)


def default_palette(names: Sequence[str]) -> list[tuple[int, int, int]]:
    """RGB of classes that have no colour of their own: those of `voc_palette` without its greys,
    which a photograph swallows; a background is black, which tints nothing."""
    colours = iter([c for c in voc_palette(len(names) + 3) if len(set(c)) > 1])
    return [(0, 0, 0) if n.strip("_").lower() == "background" else next(colours) for n in names]


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
