"""Real data sets as they lie on disk, and the endless stream of training crops.

Each class reads the folders of its official download and gives :class:`Sample`: the image
(3,H,W) uint8 RGB and the label (H,W) uint8 in 0..K-1, 255 where ignored. One table of 256 entries
per kind of mask turns the ids in the file into these labels, once, here and nowhere else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from .config import DataConfig
from .errors import UserError, nearest
from .transforms import IGNORE, Sample, TrainTransform

_TABLES = json.loads(Path(__file__).with_name("class_tables.json").read_text(encoding="utf-8"))
_BAD = 254
"""Marks an id that no class has; no data set here comes near so many classes."""
_GUIDE = "data/README.md says how to get it"


def _classes(name: str) -> tuple[str, ...]:
    return tuple(row[0] for row in _TABLES[name])


def _palette(name: str) -> np.ndarray:
    return np.array([row[1:] for row in _TABLES[name]], dtype=np.uint8)


def _label_table(pairs: dict[int, int]) -> np.ndarray:
    """The label of each id in a file; 255 stays ignored, ids not in `pairs` become `_BAD`."""
    table = np.full(256, _BAD, dtype=np.uint8)
    for file_id, label in {255: IGNORE, **pairs}.items():
        table[file_id] = label
    return table


class SegmentationDataset(Dataset[Sample]):
    """Images with one label per pixel, in the folders of a known data set.

    Args:
        root: the data set's folder, or one of those above it that `roots` allows.
        split: a key of `splits`.

    Raises:
        UserError: no such split; `root` is not this data set; no image in the split; images
            without label (the first is named). Reading a sample raises it for a file that
            cannot be read, an id that no class has, and a label of another size than its image.
    """

    name: ClassVar[str]
    """Key in `DATASETS`."""
    classes: ClassVar[tuple[str, ...]]
    """Names, by label."""
    palette: ClassVar[np.ndarray]
    """(K,3) uint8 RGB, the colours in which the data set is usually shown."""
    splits: ClassVar[dict[str, str]] = {"train": "train", "val": "val"}
    """Our names of the parts, and the data set's own."""
    roots: ClassVar[tuple[str, ...]] = (".",)
    """Where the data set may lie below `root`; the first place that fits is taken."""
    marker: ClassVar[str]
    """What there must be for a place to fit; ``{}`` stands for the data set's split."""
    table: ClassVar[np.ndarray]
    """(256,) uint8: label of each id in a mask file."""
    in_toytown: ClassVar[bool] = True
    """Whether `toytown` writes this layout."""
    ignore_index: ClassVar[int] = IGNORE

    def __init__(self, root: str | Path, split: str = "train") -> None:
        if split not in self.splits:
            where = f"{type(self).__name__} has no split {split!r}"
            raise UserError(f"{where}{nearest(split, self.splits)}")
        self.split = split
        self.root = self._find_root(Path(root))
        self.files = self._find_files(self.root, self.splits[split])
        """(image, label) paths in the order of their names."""

    def _find_root(self, root: Path) -> Path:
        marker = self.marker.format(self.splits[self.split])
        places = [root / below for below in self.roots]
        for place in places:
            if (place / marker).exists():
                return place
        kind, seen = type(self).__name__, " or ".join(str(place / marker) for place in places)
        problem = "holds no" if root.is_dir() else "is no folder, so no"
        draw = f"; `setr-lite toytown DIR --layout {self.name}` draws a small one"
        raise UserError(
            f"{str(root)!r} {problem} {kind} {self.split} split: looked for {seen};"
            f" set data.root to the right folder ({_GUIDE}{draw if self.in_toytown else ''})"
        )

    def _find_files(self, root: Path, split: str) -> list[tuple[Path, Path]]:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        """Number `index`, decoded: see :class:`Sample`."""
        image_path, label_path = self.files[index]
        image, label = read_image(image_path), self._read_label(label_path)
        if image.shape[1:] != label.shape:
            raise UserError(
                f"{label_path}: label of {_size(label)} for an image of {_size(image)}"
                f" ({image_path}); a label needs the size of its image"
            )
        return Sample(image, label, self._sample_name(image_path))

    def _sample_name(self, image_path: Path) -> str:
        return image_path.stem

    def _read_label(self, path: Path) -> Tensor:
        ids = read_label(path).numpy()
        label = self._table_of(path)[ids]
        bad = label == _BAD
        if bad.any():
            values = np.unique(ids[bad])
            raise UserError(
                f"{path}: label id {values[0]} ({np.count_nonzero(bad)} pixels out of range);"
                f" {self._id_hint(path)}"
            )
        return torch.from_numpy(label)

    def _table_of(self, path: Path) -> np.ndarray:
        return self.table

    def _id_hint(self, path: Path) -> str:
        known = np.flatnonzero(self.table[:IGNORE] != _BAD)
        return f"{type(self).__name__} masks hold {known[0]}..{known[-1]}, and 255 to ignore"


class Cityscapes(SegmentationDataset):
    """Cityscapes, 19 classes (Cordts et al., CVPR 2016): 2975 / 500 / 1525 images, 2048x1024.

    Reads the `labelIds` masks of the download, or `labelTrainIds` where only those are there.
    The masks of the test split are dummies: every pixel of theirs is ignored.
    """

    name = "cityscapes"
    classes, palette = _classes(name), _palette(name)
    splits: ClassVar[dict[str, str]] = {"train": "train", "val": "val", "test": "test"}
    marker = "leftImg8bit/{}"
    #: labelIds of the 19 classes in their order (cityscapesscripts, labels.py)
    label_ids = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    table = _label_table(
        dict.fromkeys(range(34), IGNORE) | {file_id: k for k, file_id in enumerate(label_ids)}
    )
    train_id_table = _label_table({k: k for k in range(19)})

    def _find_files(self, root: Path, split: str) -> list[tuple[Path, Path]]:
        folder, masks = root / "leftImg8bit" / split, root / "gtFine" / split
        ending = "_leftImg8bit.png"
        images = sorted(folder.glob(f"*/*{ending}"))
        found = {
            kind: set(masks.glob(f"*/*_gtFine_{kind}.png"))
            for kind in ("labelIds", "labelTrainIds")
        }
        kind = max(found, key=lambda kind: len(found[kind]))  # the first if there are as many
        pairs = [
            (path, masks / path.parent.name / path.name.replace(ending, f"_gtFine_{kind}.png"))
            for path in images
        ]
        return _checked(pairs, found[kind], folder, f"CITY/*{ending}")

    def _sample_name(self, image_path: Path) -> str:
        return image_path.stem.removesuffix("_leftImg8bit")

    def _table_of(self, path: Path) -> np.ndarray:
        return self.train_id_table if path.stem.endswith("labelTrainIds") else self.table

    def _id_hint(self, path: Path) -> str:
        if path.stem.endswith("labelTrainIds"):
            return "labelTrainIds hold 0..18 and 255; if these are labelIds, name them so"
        return "labelIds hold 0..33; instanceIds and colours are other files"


class ADE20K(SegmentationDataset):
    """ADE20K as in the scene parsing challenge, 150 classes (Zhou et al., CVPR 2017).

    20210 / 2000 images. In the masks 0 is unlabelled and class k has the id k + 1; here 0 becomes
    255 and the others move down by one, so do not reduce them again.
    """

    name = "ade20k"
    classes, palette = _classes(name), _palette(name)
    splits: ClassVar[dict[str, str]] = {"train": "training", "val": "validation"}
    roots = (".", "ADEChallengeData2016")
    marker = "images/{}"
    table = _label_table({0: IGNORE} | {k + 1: k for k in range(150)})

    def _find_files(self, root: Path, split: str) -> list[tuple[Path, Path]]:
        return _pair_by_stem(root / "images" / split, root / "annotations" / split)


class PascalContext(SegmentationDataset):
    """Pascal Context on the images of VOC 2010, 60 classes (Mottaghi et al., CVPR 2014).

    4998 / 5105 images. Class 0 is background and counts as a class, as in SETR's figures.
    """

    name = "pascal_context"
    classes, palette = _classes(name), _palette(name)
    roots = (".", "VOCdevkit/VOC2010", "VOC2010")
    marker = "ImageSets/SegmentationContext/{}.txt"
    table = _label_table({k: k for k in range(60)})

    def _find_files(self, root: Path, split: str) -> list[tuple[Path, Path]]:
        listing = root / self.marker.format(split)
        images, masks = root / "JPEGImages", root / "SegmentationClassContext"
        stems = listing.read_text(encoding="utf-8").split()
        pairs = [(images / f"{stem}.jpg", masks / f"{stem}.png") for stem in stems]
        return _checked(pairs, set(masks.glob("*.png")), listing, "names of images")


class CamVid(SegmentationDataset):
    """CamVid in the 480x360 edition of SegNet, 11 classes (Brostow et al., 2009).

    367 / 101 / 233 images; ``train/*.png`` beside ``trainannot/*.png`` and so on. Images may be
    PNG or JPEG. In the masks 11 is unlabelled.
    """

    name = "camvid"
    classes, palette = _classes(name), _palette(name)
    splits: ClassVar[dict[str, str]] = {"train": "train", "val": "val", "test": "test"}
    roots = (".", "CamVid")
    marker = "{}annot"
    table = _label_table({k: k for k in range(11)} | {11: IGNORE})
    in_toytown = False

    def _find_files(self, root: Path, split: str) -> list[tuple[Path, Path]]:
        return _pair_by_stem(root / split, root / f"{split}annot")


DATASETS: dict[str, type[SegmentationDataset]] = {
    kind.name: kind for kind in (Cityscapes, ADE20K, PascalContext, CamVid)
}
"""Every data set by the name that `data.name` takes."""


def load_dataset(data: DataConfig, split: str) -> SegmentationDataset:
    """The data set that `data.name` and `data.root` ask for.

    An empty root takes ``$SETR_DATA/<name>`` where that variable is set, else ``data/<name>``.

    Raises:
        UserError: unknown name, or what :class:`SegmentationDataset` raises.
    """
    if data.name not in DATASETS:
        raise UserError(f"no data set data.name={data.name!r}{nearest(data.name, DATASETS)}")
    root = data.root or Path(os.environ.get("SETR_DATA", "data")) / data.name
    return DATASETS[data.name](root, split)


def _pair_by_stem(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    found = sorted(path for path in images.glob("*") if _is_image(path))
    pairs = [(path, masks / f"{path.stem}.png") for path in found]
    return _checked(pairs, set(masks.glob("*.png")), images, "*.jpg or *.png")


def _is_image(path: Path) -> bool:
    # Names with a dot in front are left by some unpackers and hold no picture.
    return path.suffix.lower() in (".jpg", ".jpeg", ".png") and not path.name.startswith(".")


def _checked(
    pairs: list[tuple[Path, Path]], masks: set[Path], where: Path, wanted: str
) -> list[tuple[Path, Path]]:
    """`pairs`, if there are any and each label is among the `masks` that were listed."""
    if not pairs:
        raise UserError(f"{where}: empty split, expected {wanted} there ({_GUIDE})")
    missing = [pair for pair in pairs if pair[1] not in masks]
    if missing:
        image, mask = missing[0]
        raise UserError(
            f"{image}: image without label, {mask} is missing ({len(missing)} of {len(pairs)}"
            " images have none); add the labels or remove the images"
        )
    return pairs


def read_image(path: str | Path) -> Tensor:
    """(3,H,W) uint8 RGB of an image file, whatever its mode.

    Grey and palette images become RGB, transparency is dropped, 16 bits are cut to the upper 8.
    An EXIF rotation is ignored: a label file has none, and the two must stay aligned. The tensor
    is a view of an (H,W,3) array, the form in which :mod:`transforms` wants it back.

    Raises:
        UserError: no such file, or not a readable image.
    """
    return torch.from_numpy(_decode(path, _rgb)).permute(2, 0, 1)


def _rgb(file: Image.Image) -> np.ndarray:
    if file.mode.startswith("I"):  # grey of 16 bits, which Pillow would clip at 255
        grey = (np.asarray(file).astype(np.int64) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if "transparency" in file.info:
        file = file.convert("RGBA")  # Pillow warns where this step is left out
    return np.array(file.convert("RGB"))


def read_label(path: str | Path) -> Tensor:
    """(H,W) uint8 of a mask file, the ids as they are in it (of a palette image: the indices).

    Raises:
        UserError: no such file, not a readable image, or not one channel of 8 bits.
    """
    return torch.from_numpy(_decode(path, _ids))


def _ids(file: Image.Image) -> np.ndarray:
    if file.mode not in ("L", "P"):
        raise UserError(
            f"{file.filename}: mask of mode {file.mode}, expected 8-bit grey or palette (L or P)"
            " whose values are class ids; convert colour-coded and 16-bit masks first"
        )
    return np.array(file)


def _decode(path: str | Path, to_array: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """`to_array` of the opened file. Pillow, not OpenCV: as fast, and it does not keep silent
    about half a file; it also leaves the indices of palette images as they are."""
    try:
        with Image.open(path) as file:
            return to_array(file)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # OSError, SyntaxError, ValueError, ...: Pillow has many
        reason = str(error).split("\n")[0]
        raise UserError(
            f"{path}: cannot be read as an image ({reason}); replace the file"
        ) from error


def _size(tensor: Tensor) -> str:
    return f"{tensor.shape[-2]}x{tensor.shape[-1]}"


class TrainStream(Dataset[tuple[Tensor, Tensor]]):
    """Training crops by their number: endless, shuffled, without any state.

    Crop `counter` is image ``counter % n`` of a permutation that ``(seed, counter // n)`` decides,
    augmented by draws that ``(seed, counter)`` decides. So a run continues at any step, with any
    number of loader processes and ranks, and sees what an uninterrupted one would have seen.

    It has no length: give the loader the counters as its sampler, see :func:`rank_counters`.
    """

    def __init__(self, dataset: SegmentationDataset, transform: TrainTransform, seed: int) -> None:
        self.dataset, self.transform, self.seed = dataset, transform, seed
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __getitem__(self, counter: int) -> tuple[Tensor, Tensor]:
        """Image (3,S,S) float32 and label (S,S) uint8 of crop number `counter` (from 0)."""
        return self.transform(self.dataset[self.index(counter)], counter)

    def index(self, counter: int) -> int:
        """The image in the data set that crop number `counter` is cut from."""
        epoch, position = divmod(counter, len(self.dataset))
        if epoch != self._epoch:  # the order is kept only to not draw it for every crop
            # The 1 keeps this apart from the draws of crop number `epoch`.
            rng = np.random.default_rng([self.seed, epoch, 1])
            self._epoch, self._order = epoch, rng.permutation(len(self.dataset))
        return int(self._order[position])


def rank_counters(
    start_step: int, steps: int, batch_size: int, rank: int = 0, world: int = 1
) -> Iterator[int]:
    """Counters of the crops that process `rank` of `world` trains on, step by step.

    From `start_step` (0, or where a run resumes) to the end of a run of `steps` steps. Step s
    owns the counters ``s * batch_size`` to ``(s + 1) * batch_size - 1``; each process takes its
    contiguous share of them. As a loader's sampler it is used up by one pass::

        counters = rank_counters(step, config.train.steps, batch_size, rank, world)
        loader = DataLoader(stream, batch_size // world, sampler=counters)

    Raises:
        UserError: `batch_size` cannot be shared equally.
    """
    if batch_size % world:
        raise UserError(
            f"train.batch_size={batch_size} cannot be shared equally by {world} processes;"
            f" take a multiple of {world}"
        )
    share = batch_size // world
    return (
        step * batch_size + rank * share + i
        for step in range(start_step, steps)
        for i in range(share)
    )
