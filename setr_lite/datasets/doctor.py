"""The data-set doctor: reads the images and labels of a data set and names what is wrong.

Pixels are counted twice: by the id in the mask file, which tells what kind of mask it is, and by
label 0..K-1, 255 where ignored.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..config import IGNORE, DataConfig
from ..errors import UserError
from .base import BAD, SegmentationDataset, check_size, not_read, same_label, tag_of
from .folder import COUNTED_FROM_1, Folder
from .images import IMAGE_ENDINGS, not_all_read, read_image
from .layouts import DATASETS, Cityscapes, data_root, load_dataset
from .report import Fault, Health

FAST = 200
"""Images that a fast check reads."""
SHEET = 8
"""Samples on the contact sheet."""


def check_data(
    name: str, root: str | Path = "", *, classes: str = "", fast: bool = False,
    progress: bool = True, workers: int = 0,
) -> Health:  # fmt: skip
    """Read a data set's images and labels, all or a sample, and report.

    Args:
        name, root, classes: as `data.name`, `data.root` and `data.classes`.
        fast: read only 200 images, evenly spaced; the lists of files are still complete.
        progress: show a bar.
        workers: threads; 0 takes one for each core.

    Returns:
        A `Health`; ``print(health.text())`` shows it.

    Raises:
        UserError: unknown name, or no split of this data set at `root`.
    """
    data = DataConfig(name=name, root=str(root), classes=classes)
    readers = _open_splits(data)
    first = next(iter(readers.values()))
    kind = type(first)
    title = f"{kind.__name__} in {first.root}: {len(first.classes)} classes"
    health = Health(title, first.classes, first.palette)
    for split in kind.splits:
        if split not in readers:
            looked = " or ".join(map(str, kind.wanted(data_root(data), split)))
            health.notes.append(f"split {split!r} is not there: looked for {looked}")
    health.faults += _gaps(readers)
    health.notes += _unlabelled(readers)
    jobs = _jobs(readers, FAST if fast else None)
    masks, pictures = _Masks(), _Pictures()
    good = []
    for (reader, index), seen in zip(jobs, _run(jobs, workers, progress), strict=True):
        health.faults += seen.faults
        if seen.counts is not None:
            masks.add(reader, reader.files[index][1], seen.counts)
            _count(health, reader.table_of(reader.files[index][1]), seen.counts)
        if not seen.faults:
            good.append((reader, index))
        pictures.add(reader, index, seen)
    health.faults += [*masks.suspicions(), *pictures.twice]
    turned = [pair for pair in good if pair in pictures.turned]  # to look at
    health.samples = (turned + [good[i] for i in _spread(len(good), SHEET)])[:SHEET]
    for split, reader in readers.items():
        read = sum(job[0] is reader for job in jobs)
        health.splits[split] = (len(reader.listing.pairs), len(reader), read)
    _add_notes(health, len(jobs), sum(len(reader) for reader in readers.values()))
    health.notes += [*pictures.notes(), *_left_out(readers)]
    return health


def _left_out(readers: dict[str, SegmentationDataset]) -> Iterator[str]:
    for reader in readers.values():
        endings = not_read(reader.listing)
        if endings:
            shown = ", ".join(f"{count} of {end}" for end, count in endings.most_common(5))
            yield f"{reader.listing.where}: {shown} left out, read are {' '.join(IMAGE_ENDINGS)}"


def _open_splits(data: DataConfig) -> dict[str, SegmentationDataset]:
    """A reader of every split that is there; if none is, the first one complains."""
    root, kind = data_root(data), DATASETS[data.name]
    splits = [
        split for split in kind.splits if any(path.exists() for path in kind.wanted(root, split))
    ]
    return {split: load_dataset(data, split, strict=False) for split in splits or kind.splits}


def _unlabelled(readers: dict[str, SegmentationDataset]) -> Iterator[str]:
    """Of a test split without masks, as servers give it out."""
    if "test" in readers and readers["test"].listing.unlabelled:
        yield (
            f"{readers['test'].listing.where}: no image has a label, so there is nothing to score;"
            " `setr-lite eval CHECKPOINT --split test --save-predictions DIR` writes predictions"
        )


def _gaps(readers: dict[str, SegmentationDataset]) -> Iterator[Fault]:
    """Images without label, labels without image, splits without either."""
    used, labels = set(), set()
    for reader in readers.values():
        listing = reader.listing
        used |= {label for _, label in listing.pairs}
        labels |= listing.labels
        if not listing.pairs:
            text = f"{listing.where}: holds no {listing.wanted}"
            yield Fault("empty split", listing.where, text)
        for image, label in listing.pairs:
            if reader.split == "test" and listing.unlabelled:  # a note's matter
                break
            if label not in listing.labels:
                text = f"{image}: its label {label} is missing"
                yield Fault("image without label", image, text)
        for one, other, label in same_label(listing):
            text = f"{other}: has the name of {one}, both would have the label {label}"
            yield Fault("two images with one label", other, text)
    for label in sorted(labels - used):
        yield Fault("label without image", label, f"{label}: no image has this name")


def _jobs(
    readers: dict[str, SegmentationDataset], most: int | None
) -> list[tuple[SegmentationDataset, int]]:
    jobs = [(reader, i) for reader in readers.values() for i in range(len(reader))]
    return [jobs[i] for i in _spread(len(jobs), most or len(jobs))]


def _spread(count: int, most: int) -> list[int]:
    """At most `most` of ``range(count)``, evenly spaced."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).astype(int).tolist()))


# ---------------------------------------------------------------------- one image


class _Seen(NamedTuple):
    faults: list[Fault]
    counts: np.ndarray | None
    """(256,) pixels by the id in the file, None if it could not be read."""
    pixels: bytes
    """A hash of the image, empty if it could not be read."""
    tag: int
    """EXIF's orientation of the image."""
    lost: str
    """What of the image is not read, see `images.not_all_read`."""


def _run(
    jobs: list[tuple[SegmentationDataset, int]], workers: int, progress: bool
) -> Iterator[_Seen]:
    from tqdm import tqdm

    # Threads suffice: Pillow decodes without holding Python's lock.
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        try:
            seen = pool.map(lambda job: _look(*job), jobs)
            yield from tqdm(seen, "check", len(jobs), unit="image", disable=not progress)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _look(reader: SegmentationDataset, index: int) -> _Seen:
    """Read a pair; its faults, and what its label holds."""
    image_path, label_path = reader.files[index]
    faults: list[Fault] = []
    image = ids = None
    try:
        image = read_image(image_path)
    except UserError as error:
        kind = "unreadable image" if image_path.exists() else "label without image"
        faults.append(Fault(kind, image_path, str(error)))
    try:
        ids = reader.read_ids(label_path)
        reader.to_label(ids, label_path)
    except UserError as error:
        faults.append(Fault(_label_fault(label_path, ids), label_path, str(error)))
    if image is not None and ids is not None:
        try:
            check_size(image, ids, image_path, label_path)
        except UserError as error:
            faults.append(Fault("size mismatch", label_path, str(error)))
    counts = None if ids is None else np.bincount(ids.ravel(), minlength=256)
    if image is None:
        return _Seen(faults, counts, b"", 1, "")
    pixels = hashlib.blake2b(repr(tuple(image.shape)).encode(), digest_size=16)
    pixels.update(image.permute(1, 2, 0).numpy().data)
    return _Seen(
        faults, counts, pixels.digest(), tag_of(image_path), not_all_read(image_path))


def _label_fault(path: Path, ids: np.ndarray | None) -> str:
    if ids is None:
        return "unusable label"
    if path.stem.endswith("labelTrainIds") and ids[ids != IGNORE].max() <= 33:
        return "labelIds taken for trainIds"
    return "id out of range"


def _count(health: Health, table: np.ndarray, counts: np.ndarray) -> None:
    known = table != BAD
    pixels = np.bincount(table[known], weights=counts[known], minlength=256).astype(np.int64)
    health.pixels += pixels
    health.images += pixels > 0


# ---------------------------------------------------------------------- all images together


class _Pictures:
    """What only all images together tell: which are there twice, and which a tag turns."""

    def __init__(self) -> None:
        self.first: dict[bytes, tuple[str, Path]] = {}
        self.twice: list[Fault] = []
        """An image of one split that is in another, too."""
        self.lost: dict[str, list[Path]] = {}
        """Images that are not read as they are, by what is lost."""
        self.turned: list[tuple[SegmentationDataset, int]] = []
        """Those whose masks do not tell whether they were drawn before."""

    def add(self, reader: SegmentationDataset, index: int, seen: _Seen) -> None:
        """Take note of one image."""
        path = reader.files[index][0]
        if seen.pixels:
            split, other = self.first.setdefault(seen.pixels, (reader.split, path))
            if split != reader.split:
                text = (
                    f"{path}: has the pixels of {other}, which is in {split}; a score on images"
                    " that were learned says little, leave it out of one of them"
                )
                self.twice.append(Fault("image in two splits", path, text))
        if seen.lost:
            self.lost.setdefault(seen.lost, []).append(path)
        if seen.tag in (2, 3, 4) and not seen.faults:
            self.turned.append((reader, index))

    def notes(self) -> Iterator[str]:
        """On images whose orientation and that of their masks may differ, and on what is lost."""
        for lost, paths in self.lost.items():
            yield f"{len(paths)} images {lost}; the first is {paths[0]}"
        if self.turned:
            reader, index = self.turned[0]
            yield (
                f"{len(self.turned)} images are turned or mirrored by their EXIF tag, such as "
                f"{reader.files[index][0]}; their masks do not tell whether they were drawn before"
                " or after: look at samples.png, and save the images without the tag to be sure"
            )


class _Masks:
    """What only all masks together tell: that they are of another kind than their names say."""

    def __init__(self) -> None:
        self.with_255: list[Path] = []
        self.listed: tuple[Folder, np.ndarray] | None = None
        """A folder without ids in its list, and pixels by id in all its splits together."""
        self.label_ids = np.zeros(256, dtype=np.int64)
        """Pixels by id in Cityscapes' masks named `labelIds`."""
        self.first: Path | None = None
        """The first of them."""

    def add(self, reader: SegmentationDataset, path: Path, counts: np.ndarray) -> None:
        """Take note of one mask's pixels by id."""
        if reader.never_255 and counts[IGNORE]:
            self.with_255.append(path)
        if isinstance(reader, Folder) and not reader.explicit:
            before = self.listed[1] if self.listed else 0
            self.listed = reader, before + counts
        if not isinstance(reader, Cityscapes) or reader.split == "test":  # its masks are dummies
            return
        if reader.table_of(path) is reader.table:
            self.first = self.first or path
            self.label_ids += counts

    def suspicions(self) -> Iterator[Fault]:
        """A fault for each kind of mask that cannot be what it is read as."""
        if self.with_255:
            path, count = self.with_255[0], len(self.with_255)
            yield Fault(
                "zero label reduced twice", path,
                f"{path}: 255 occurs in {count} masks, and in none of the download. They seem to"
                " be reduced already (0 made 255, k made k - 1), and reading reduces them again:"
                " take the masks of the download",
            )  # fmt: skip
        if self.listed:
            reader, sums = self.listed
            most = np.flatnonzero(sums[:IGNORE]).max(initial=0)
            if sums[IGNORE] and sums[0] and not most and len(reader.classes) > 1:
                yield Fault(
                    "masks of 0 and 255", reader.root,
                    f"{reader.root}: the masks hold 0 and 255 alone, and 255 is ignored. If that is"
                    " black and white, `setr-lite make-masks LABELS OUT --images IMAGES --classes"
                    " FILE` writes ids, with `NAME #000000` and `NAME #ffffff` in FILE",
                )  # fmt: skip
            if not sums[0] and most == len(reader.classes):
                yield Fault(
                    "ids that begin with 1", reader.root,
                    f"{reader.root}: 0 never occurs and the largest id is {most}, for {most}"
                    f" classes: are their ids 1..{most}? {COUNTED_FROM_1.capitalize()}",
                )  # fmt: skip
        if self.first and not self.label_ids[19:IGNORE].any():
            yield Fault(
                "trainIds taken for labelIds", self.first,
                f"{self.first}: no mask has an id above 18, but as labelIds vegetation, sky and"
                " cars have. These are trainIds: name them ..._gtFine_labelTrainIds.png",
            )  # fmt: skip


def _add_notes(health: Health, read: int, total: int) -> None:
    if read < total:
        health.notes.insert(0, f"{read} of {total} pairs were read; all were listed")
    names = np.array(health.classes)[health.pixels[: len(health.classes)] == 0]
    if names.size and read:
        shown = ", ".join(names[:10]) + (", ..." if names.size > 10 else "")
        where = "the images read" if read < total else "any image"
        health.notes.append(f"{names.size} classes do not occur in {where}: {shown}")
