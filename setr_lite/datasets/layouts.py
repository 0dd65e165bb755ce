"""Real data sets as they lie on disk, and the endless stream of training crops.

Each class reads the folders of its official download; `base` has what they share,
`folder` the reader of your own folders.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from ..config import IGNORE, DataConfig, TrainConfig
from ..errors import UserError, nearest
from ..transforms import TrainTransform
from ..typed import path_of, whole
from . import pascal_json
from .base import Listing, SegmentationDataset, label_table, pair_by_stem
from .folder import Folder
from .images import CHALLENGE
from .images import read_image as read_image  # re-exported: readers are looked for here
from .images import read_label as read_label

_TABLES = json.loads(Path(__file__).with_name("class_tables.json").read_text(encoding="utf-8"))


def _classes(name: str) -> tuple[str, ...]:
    return tuple(row[0] for row in _TABLES[name])


def _palette(name: str) -> np.ndarray:
    return np.array([row[1:] for row in _TABLES[name]], dtype=np.uint8)


class Cityscapes(SegmentationDataset):
    """Cityscapes, 19 classes (Cordts et al., CVPR 2016): 2975 / 500 / 1525 images, 1024x2048.

    Reads the `labelIds` masks of the download, or `labelTrainIds` where only those are there.
    The masks of the test split are dummies: all their pixels are ignored.
    """

    name = "cityscapes"
    classes, palette = _classes(name), _palette(name)
    splits: ClassVar[dict[str, str]] = {"train": "train", "val": "val", "test": "test"}
    markers = ("leftImg8bit/{}",)
    layout = "cityscapes"
    #: labelIds of the 19 classes in their order (cityscapesscripts, labels.py)
    label_ids = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    table = label_table(
        dict.fromkeys(range(34), IGNORE) | {file_id: k for k, file_id in enumerate(label_ids)}
    )
    train_id_table = label_table({k: k for k in range(19)})

    @classmethod
    def list_files(cls, root: Path, split: str) -> Listing:
        """Images of every city with `labelIds`, or `labelTrainIds` if there are more of them."""
        folder = root / "leftImg8bit" / cls.splits[split]
        masks = root / "gtFine" / cls.splits[split]
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
        return Listing(pairs, found[kind], folder, f"CITY/*{ending}")

    def _sample_name(self, image_path: Path) -> str:
        return image_path.stem.removesuffix("_leftImg8bit")

    def table_of(self, path: Path) -> np.ndarray:
        """By the file's name: of `labelIds` or of `labelTrainIds`."""
        return self.train_id_table if path.stem.endswith("labelTrainIds") else self.table

    def _id_hint(self, path: Path) -> str:
        if path.stem.endswith("labelTrainIds"):
            return "labelTrainIds hold 0..18 and 255; if these are labelIds, name them so"
        return "labelIds hold 0..33; instanceIds and colours are other files"


class ADE20K(SegmentationDataset):
    """ADE20K as in the scene parsing challenge, 150 classes (Zhou et al., CVPR 2017).

    20210 / 2000 images; those of the test set, ``images/testing``, have no masks. In the masks 0 is
    unlabelled and class k has the id k + 1; here 0 becomes 255 and the others move down by one, so
    do not reduce them again.
    """

    name = "ade20k"
    classes, palette = _classes(name), _palette(name)
    splits: ClassVar[dict[str, str]] = {
        "train": "training", "val": "validation", "test": "testing"}
    roots = (".", "ADEChallengeData2016")
    markers = ("images/{}",)
    layout = "ade20k"
    never_255 = True
    table = label_table({0: IGNORE} | {k + 1: k for k in range(150)})

    @classmethod
    def find_root(cls, root: str | Path, split: str) -> Path:
        """Refuses the full release of ADE20K, which has another folder layout."""
        for place in (path_of(root), path_of(root) / "ADE20K_2021_17_01"):
            if (place / "images" / "ADE").is_dir():
                raise UserError(f"{place}: ADE20K in its full form; {CHALLENGE}")
        return super().find_root(root, split)

    @classmethod
    def list_files(cls, root: Path, split: str) -> Listing:
        """Images and masks of the same name."""
        part = cls.splits[split]
        return pair_by_stem(root / "images" / part, root / "annotations" / part)


class PascalContext(SegmentationDataset):
    """Pascal Context on the images of VOC 2010, 60 classes (Mottaghi et al., CVPR 2014).

    4998 / 5105 images. Class 0 is background and counts as a class, as in SETR's figures. Labels
    come from the PNGs and lists that mmsegmentation's converter writes, else straight from
    `trainval_merged.json`; both give the same label maps.
    """

    name = "pascal_context"
    classes, palette = _classes(name), _palette(name)
    roots = (".", "VOCdevkit/VOC2010", "VOC2010")
    markers = ("ImageSets/SegmentationContext/{}.txt", pascal_json.FILE_NAME)
    table = label_table({k: k for k in range(60)})
    layout = name
    never_255 = True

    @classmethod
    def list_files(cls, root: Path, split: str) -> Listing:
        """By the split's list, else by the phases of the JSON file. A label in there has the
        path ``trainval_merged.json/STEM``, which `read_ids` understands."""
        images, listing = root / "JPEGImages", root / cls.markers[0].format(cls.splits[split])
        if listing.exists():
            masks = root / "SegmentationClassContext"
            stems = listing.read_text(encoding="utf-8").split()
            pairs = [(images / f"{stem}.jpg", masks / f"{stem}.png") for stem in stems]
            return Listing(pairs, set(masks.glob("*.png")), listing, "names of images")
        source = root / pascal_json.FILE_NAME
        found = pascal_json.read_annotations(source).get(cls.splits[split], {})
        pairs = [(images / found[stem].file_name, source / stem) for stem in sorted(found)]
        labels = {source / stem for stem in found if found[stem].regions}
        return Listing(pairs, labels, source, f"images of the phase {cls.splits[split]!r}")

    def read_ids(self, path: Path) -> np.ndarray:
        """(H,W) uint8 of a PNG, or of an image in `trainval_merged.json`."""
        if path.parent.name != pascal_json.FILE_NAME:
            return super().read_ids(path)
        phases = pascal_json.read_annotations(path.parent)
        return pascal_json.draw(phases[self.splits[self.split]][path.name], path)


class PascalContext59(PascalContext):
    """Pascal Context without its background: 59 classes, pixels of none are ignored.

    The other protocol of the literature. In the files 0 is background and class k has the id
    k + 1. Scores cannot be compared with those of 60 classes: HRNet-W48 has 51.7 mIoU here and
    46.2 there (open-mmlab/mmsegmentation#459).
    """

    name = "pascal_context_59"
    classes, palette = PascalContext.classes[1:], PascalContext.palette[1:]
    table = label_table({0: IGNORE} | {k + 1: k for k in range(59)})
    folder = PascalContext.name


class CamVid(SegmentationDataset):
    """CamVid in the 360x480 edition of SegNet, 11 classes (Brostow et al., 2009).

    367 / 101 / 233 images; ``train/*.png`` beside ``trainannot/*.png`` and so on. Images may be
    PNG or JPEG. In the masks 11 is unlabelled.
    """

    name = "camvid"
    classes, palette = _classes(name), _palette(name)
    splits: ClassVar[dict[str, str]] = {"train": "train", "val": "val", "test": "test"}
    roots = (".", "CamVid")
    markers = ("{}annot",)
    table = label_table({k: k for k in range(11)} | {11: IGNORE})

    @classmethod
    def list_files(cls, root: Path, split: str) -> Listing:
        """Images and masks of the same name."""
        return pair_by_stem(root / cls.splits[split], root / f"{cls.splits[split]}annot")


class CamVidUnseenDrive(CamVid):
    """CamVid's training images, split by drive.

    266 images of two drives for training, 101 of a third for testing.

    The official val is a few seconds of the drive 0016E5, which is in the training set as well:
    its score is optimistic. Here train is 0001TP and 0016E5, val is 0006R0, a drive never seen.
    """

    name = "camvid_unseen"
    splits: ClassVar[dict[str, str]] = {"train": "train", "val": "train"}
    folder = CamVid.name
    unseen: ClassVar[str] = "0006R0"

    @classmethod
    def list_files(cls, root: Path, split: str) -> Listing:
        """The pairs of CamVid's train that belong to the drive, or to the other two."""
        whole = super().list_files(root, split)
        pairs = [
            pair for pair in whole.pairs
            if pair[0].name.startswith(cls.unseen) == (split == "val")
        ]
        return whole._replace(pairs=pairs)


DATASETS: dict[str, type[SegmentationDataset]] = {
    kind.name: kind
    for kind in (
        Cityscapes, ADE20K, PascalContext, PascalContext59, CamVid, CamVidUnseenDrive, Folder,
    )
}  # fmt: skip
"""Every data set by the name that `data.name` takes."""


def data_root(data: DataConfig) -> Path:
    """The folder that `data.name` and `data.root` ask for.

    An empty root takes ``$SETR_DATA/<name>`` where that variable is set, else ``data/<name>``
    (of Pascal Context, one folder for both of its names).

    Raises:
        UserError: unknown name.
    """
    if data.name not in DATASETS:
        raise UserError(f"no data set data.name={data.name!r}{nearest(data.name, DATASETS)}")
    home = Path(os.environ.get("SETR_DATA", "data")) / (DATASETS[data.name].folder or data.name)
    return Path(data.root) if data.root else home


def load_dataset(
    data: DataConfig, split: str, *, strict: bool = True, unlabelled: bool = False
) -> SegmentationDataset:
    """The data set that `data.name`, `data.root` and `data.classes` ask for.

    `strict` and `unlabelled` are those of :class:`SegmentationDataset`.

    Raises:
        UserError: unknown name, `data.classes` for a data set that has its own, or files that
            are not this data set's.
    """
    root, kind = data_root(data), DATASETS[data.name]
    if kind is Folder:
        return Folder(root, split, data.classes, strict=strict, unlabelled=unlabelled)
    if data.classes:
        raise UserError(
            f"data.classes={data.classes}: {data.name} has its own classes; a list goes with"
            " data.name=folder"
        )
    return kind(root, split, strict=strict, unlabelled=unlabelled)


class TrainStream(Dataset[tuple[Tensor, Tensor]]):
    """Training crops by their number: endless, shuffled, without any state.

    Crop `counter` is image ``counter % n`` of a permutation that ``(seed, counter // n)`` decides,
    augmented by draws that ``(seed, counter)`` decides. So a run continues at any step, with any
    number of loader processes and ranks, and sees what an uninterrupted one would have seen.

    It has no length: give the loader the counters as its sampler.
    """

    def __init__(self, dataset: SegmentationDataset, transform: TrainTransform, seed: int) -> None:
        self.dataset, self.transform, self.seed = dataset, transform, seed
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __getitem__(self, counter: int) -> tuple[Tensor, Tensor]:
        """Image (3,h,w) float32 and label (h,w) uint8 of crop number `counter` (from 0)."""
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
    whole("world", world, 1)
    share = TrainConfig(batch_size=batch_size).local_batch(world)
    return (
        step * batch_size + rank * share + i
        for step in range(start_step, steps)
        for i in range(share)
    )
