"""What the data sets share: find the folder, pair images with labels, turn ids into labels.

A reader gives :class:`Sample`: the image (3,H,W) uint8 RGB and the label (H,W) uint8 in 0..K-1,
255 where ignored. One table of 256 entries per kind of mask turns the ids in the file into these
labels, once, here and nowhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..config import IGNORE
from ..errors import UserError, nearest
from ..transforms import Sample
from ..typed import path_of
from .images import IMAGE_ENDINGS, SIDEWAYS, orientation, read_image, read_label

BAD = 254
"""Marks an id that no class has; no data set here comes near so many classes."""
GUIDE = "data/README.md says how to get it"


def label_table(pairs: dict[int, int]) -> np.ndarray:
    """(256,) uint8, the label of each id in a file; 255 stays ignored, other ids become `BAD`."""
    table = np.full(256, BAD, dtype=np.uint8)
    for file_id, label in {255: IGNORE, **pairs}.items():
        table[file_id] = label
    return table


class Listing(NamedTuple):
    """The files of a split as its folders have them, complete or not."""

    pairs: list[tuple[Path, Path]]
    """(image, label) paths by name; the label need not exist."""
    labels: set[Path]
    """The label files that are there."""
    where: Path
    """The folder or list that the images come from."""
    wanted: str
    """What is expected there, for messages."""

    @property
    def unlabelled(self) -> bool:
        """Whether there are images, and none has a label."""
        return bool(self.pairs) and not any(label in self.labels for _, label in self.pairs)


class SegmentationDataset(Dataset[Sample]):
    """Images with one label per pixel, in the folders of a known data set.

    Args:
        root: the data set's folder, or one of those above it that `roots` allows.
        split: a key of `splits`.
        strict: False leaves images without label out, and takes an empty split.
        unlabelled: take a split whose images have no label at all, as one that a server scores;
            all their pixels are ignored.

    Raises:
        UserError: no such split; `root` is not this data set; no image in the split; images
            without label (the first is named). Reading a sample raises it for a file that
            cannot be read, an id that no class has, and a label of another size than its image.
    """

    name: ClassVar[str]
    """Key in `datasets.DATASETS`."""
    classes: tuple[str, ...]
    """Names, by label."""
    palette: np.ndarray
    """(K,3) uint8 RGB, the colours in which the data set is usually shown."""
    splits: ClassVar[dict[str, str]] = {"train": "train", "val": "val"}
    """Our names of the parts, and the data set's own."""
    roots: ClassVar[tuple[str, ...]] = (".",)
    """Where the data set may lie below `root`; the first place that fits is taken."""
    markers: ClassVar[tuple[str, ...]]
    """One of these must be there for a place to fit; ``{}`` stands for the data set's split."""
    table: np.ndarray
    """(256,) uint8: label of each id in a mask file."""
    folder: ClassVar[str] = ""
    """Its folder in ``$SETR_DATA``, where that is not `name`."""
    layout: ClassVar[str] = ""
    """The layout in which `toytown` writes for this reader."""
    never_255: ClassVar[bool] = False
    """Whether the masks of the download hold no 255, so that one in a mask tells of a change."""
    ignore_index: ClassVar[int] = IGNORE

    def __init__(
        self, root: str | Path, split: str = "train", *, strict: bool = True,
        unlabelled: bool = False,
    ) -> None:  # fmt: skip
        self.root, self.split = self.find_root(root, split), split
        self.listing = self.list_files(self.root, split)
        """What the folders hold, gaps included."""
        pairs, labels = self.listing.pairs, self.listing.labels
        self.unlabelled = unlabelled and self.listing.unlabelled
        """Whether no image has a label, and that is allowed."""
        if strict:
            _refuse_gaps(self.listing, self.unlabelled)
        self.files = [pair for pair in pairs if pair[1] in labels or self.unlabelled]
        """(image, label) paths in the order of their names."""

    @classmethod
    def find_root(cls, root: str | Path, split: str) -> Path:
        """The folder at or below `root` that holds the split.

        Raises:
            UserError: no such split, or no such folder.
        """
        if split not in list(cls.splits):  # a list, which takes what has no hash, too
            raise UserError(f"{cls.__name__} has no split {split!r}{nearest(split, cls.splits)}")
        root = path_of(root)
        wanted = cls.wanted(root, split)
        for below in cls.roots:
            if any(path.exists() for path in cls.wanted(root, split, (below,))):
                return root / below
        problem = "holds no" if root.is_dir() else "is no folder, so no"
        draw = f"; `setr-lite toytown DIR --layout {cls.layout}` draws a small one"
        raise UserError(
            f"{str(root)!r} {problem} {cls.__name__} {split} split: looked for"
            f" {' or '.join(map(str, wanted))}; set data.root to the right folder"
            f" ({GUIDE}{draw if cls.layout else ''})"
        )

    @classmethod
    def wanted(cls, root: Path, split: str, roots: tuple[str, ...] = ()) -> list[Path]:
        """What `find_root` looks for; one of these has to be there."""
        markers = [marker.format(cls.splits[split]) for marker in cls.markers]
        return [root / below / marker for below in roots or cls.roots for marker in markers]

    @classmethod
    def list_files(cls, root: Path, split: str) -> Listing:
        """The files of a split below a folder that `find_root` gave."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        """``dataset[index]``, a `Sample` of image, label and name."""
        image_path, label_path = self.files[index]
        image = read_image(image_path)
        if self.unlabelled:
            label = torch.full(image.shape[1:], IGNORE, dtype=torch.uint8)
            return Sample(image, label, self._sample_name(image_path))
        label = self.to_label(self.read_ids(label_path), label_path)
        check_size(image, label, image_path, label_path)
        return Sample(image, label, self._sample_name(image_path))

    def read_ids(self, path: Path) -> np.ndarray:
        """(H,W) uint8 of a label, the ids as they are in the file."""
        return read_label(path).numpy()

    def to_label(self, ids: np.ndarray, path: Path) -> Tensor:
        """(H,W) uint8 label of the ids of the file `path`.

        Raises:
            UserError: an id that no class has.
        """
        label = cv2.LUT(ids, self.table_of(path))
        bad = label == BAD
        if bad.any():
            values = np.unique(ids[bad])
            raise UserError(
                f"{path}: label id {values[0]} ({np.count_nonzero(bad)} pixels out of range);"
                f" {self._id_hint(path)}"
            )
        return torch.from_numpy(label)

    def table_of(self, path: Path) -> np.ndarray:
        """The table that holds for the label file `path`."""
        return self.table

    def _sample_name(self, image_path: Path) -> str:
        return image_path.stem

    def _id_hint(self, path: Path) -> str:
        known = np.flatnonzero(self.table[:IGNORE] != BAD)
        return f"{type(self).__name__} masks hold {known[0]}..{known[-1]}, and 255 to ignore"


def check_size(
    image: Tensor, label: Tensor | np.ndarray, image_path: Path, label_path: Path
) -> None:
    """Raise UserError where an image (3,H,W) and its label (H,W) differ in size."""
    if image.shape[1:] != label.shape:
        remedy = "a label needs the size of its image"
        if image.shape[:0:-1] == label.shape and tag_of(image_path) in SIDEWAYS:
            remedy = (
                "the image is turned by its EXIF tag and the label was drawn before: turn the"
                " label, or save the image without the tag"
            )
        raise UserError(
            f"{label_path}: label of {_size(label)} for an image of {_size(image)}"
            f" ({image_path}); {remedy}"
        )


def tag_of(path: Path) -> int:
    """EXIF's orientation of a file, see `images.orientation`."""
    with Image.open(path) as file:
        return orientation(file)


def pair_by_stem(images: Path, masks: Path) -> Listing:
    """Images of one folder with the masks of another that have the same name."""
    found = sorted(path for path in images.glob("*") if is_image(path))
    there = (path for path in masks.glob("*") if is_image(path) and path.suffix.lower() == ".png")
    labels = {path.stem: path for path in sorted(there)}  # of .PNG and .png the last
    pairs = [(path, labels.get(path.stem, masks / f"{path.stem}.png")) for path in found]
    return Listing(pairs, set(labels.values()), images, f"images ({' '.join(IMAGE_ENDINGS)})")


def is_image(path: Path) -> bool:
    """Whether the name is that of an image file."""
    # Names with a dot in front are left by some unpackers and hold no picture.
    return path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith(".")


def same_label(listing: Listing) -> Iterator[tuple[Path, Path, Path]]:
    """Two images and the label that both would have, as ``a.jpg`` and ``a.png`` would."""
    owner: dict[Path, Path] = {}
    for image, label in listing.pairs:
        if owner.setdefault(label, image) != image:
            yield owner[label], image, label


def not_read(listing: Listing) -> Counter[str]:
    """Files in the folder of the images that are none to us, counted by their endings."""
    if not listing.where.is_dir():
        return Counter()
    return Counter(
        path.suffix or path.name for path in listing.where.iterdir()
        if path.is_file() and not path.name.startswith(".") and not is_image(path)
    )


def _refuse_gaps(listing: Listing, unlabelled: bool) -> None:
    if not listing.pairs:
        raise UserError(
            f"{listing.where}: empty split, expected {listing.wanted} there ({GUIDE})"
        )
    for one, other, label in same_label(listing):
        raise UserError(
            f"{other}: has the name of {one}, and both would have the label {label}; rename one"
            " of them, or remove it"
        )
    missing = [pair for pair in listing.pairs if pair[1] not in listing.labels]
    if missing and not unlabelled:
        image, mask = missing[0]
        raise UserError(
            f"{image}: image without label, {mask} is missing ({len(missing)} of"
            f" {len(listing.pairs)} images have none); add the labels or remove the images"
        )


def _size(tensor: Tensor | np.ndarray) -> str:
    return f"{tensor.shape[-2]}x{tensor.shape[-1]}"
