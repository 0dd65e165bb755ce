"""A checkpoint's scores as they are handed on: text, JSON, CSV, and files for the servers.

Scores are fractions in JSON and CSV. mIoU, mAcc and aAcc are the field's names for
`ConfusionMatrix.miou`, `mean_accuracy` and `pixel_accuracy`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import checkpoint, distributed
from ..config import RunConfig
from ..datasets.base import SegmentationDataset
from ..datasets.layouts import load_dataset
from ..errors import UserError, csv_cell, printable
from ..files import refuse_inputs, written_beside
from ..metrics import ConfusionMatrix, bootstrap_miou
from ..model import SETR
from .loop import check_settings, evaluate
from .protocols import protocol_of

LEVEL = 0.95
"""Of the confidence interval."""
FEW = 10
"""Images below which the bootstrap's interval is too narrow to be believed."""


def score_checkpoint(
    folder: str | Path,
    settings: Sequence[str] = (),
    *,
    split: str = "val",
    images: int = 0,
    worst: int = 0,
    save_predictions: str | Path = "",
    progress: bool = False,
) -> tuple[ConfusionMatrix, dict[str, Any]]:
    """Score a checkpoint on a split, over all ranks.

    Args:
        folder: the checkpoint.
        settings: ``section.key=value`` changes to its run.
        split: of its data set.
        images: a quick look at so many images, drawn without replacement by a fixed seed; 0
            scores all, or the first ``eval.limit``.
        worst: how many of the images with the lowest mIoU to name.
        save_predictions: folder for an 8-bit PNG of ids per image, as the data set's server takes
            them. With it no image of the split needs a label; then there is nothing to score.
        progress: show a bar, on rank 0.

    Returns:
        The matrix, and a dict as ``--json`` writes it, with `ConfusionMatrix.to_dict` and

        =====================  =======================================================
        key                    value
        =====================  =======================================================
        ``names``              the classes
        ``split``              the split
        ``images``, ``of``     images that were scored, and images in the split
        ``quick_look``         whether it is one
        ``interval``           low and high of mIoU, in a quick look only
        ``worst``              the `worst` images, see `worst_images`
        ``protocol``           how images were tested, in words
        ``checkpoint``         its folder
        ``sha256``             of its weights
        ``seconds_per_image``  wall time over images, loading included
        ``device``             where it ran
        ``processes``          their number
        =====================  =======================================================

    Raises:
        UserError: no usable checkpoint, data set, setting or folder; classes in another order
            than those of the checkpoint; or predictions that would be written among its files, or
            those of the run or of the data set.
    """
    model, config, sha256 = checkpoint.steady(folder, lambda place: (
        SETR.from_pretrained(place), checkpoint.read_config(place), checkpoint.sha256(place)))
    config = config.override(*settings)
    check_settings(config)
    if worst < 0:
        raise UserError(f"--worst {worst}: how many images to name cannot be negative")
    protocol = describe_protocol(config)
    model.to(distributed.start(config.train.device))
    dataset = load_dataset(config.data, split, unlabelled=bool(save_predictions))
    checkpoint.check_classes(folder, dataset.classes, config.data.name)
    if save_predictions:
        _refuse_folder(Path(save_predictions), Path(folder), dataset)
    indices = _chosen(min(len(dataset), config.eval.limit or len(dataset)), images)
    seen = _Seen(dataset, indices, model.device, save_predictions, count=bool(images or worst))
    started = time.perf_counter()
    confusion = evaluate(
        model, dataset, config, workers=config.train.workers, indices=indices, on_image=seen,
        progress=progress and distributed.rank() == 0,
    )
    seconds = time.perf_counter() - started
    quick = bool(images) and bool(confusion.matrix.any())
    sums = distributed.sum_over_ranks(seen.sums) if seen.count else seen.sums
    interval = bootstrap_miou(sums, level=LEVEL) if quick else ()
    return confusion, {
        "checkpoint": str(folder), "sha256": sha256, "split": split,
        "protocol": protocol, "images": len(indices), "of": len(dataset),
        "quick_look": quick, "interval": list(interval),
        "worst": worst_images(sums, dataset, indices)[:worst] if worst else [],
        "seconds_per_image": seconds / len(indices), "device": str(model.device),
        "processes": distributed.world_size(), "names": list(dataset.classes),
        **confusion.to_dict(dataset.classes),
    }  # fmt: skip


def _refuse_folder(place: Path, folder: Path, dataset: SegmentationDataset) -> None:
    """Keep predictions away from what is read: out of its folders, and out of those that hold them.

    The folder of the run, and the root of the data set, may hold new folders; what lies above them
    is not theirs.

    Raises:
        UserError: `place` is none to write to.
    """
    inputs = [*_own_folders(folder), *_folders_of(dataset)]
    refuse_inputs(place, inputs)
    here, tops = os.path.realpath(place), (dataset.root, folder.resolve().parent)
    above = {str(p) for top in tops for p in Path(os.path.realpath(top)).parents}
    for one in inputs:
        if here not in above and Path(here) in Path(os.path.realpath(one)).parents:
            raise UserError(
                f"{place}: holds {one}, which is read here; predictions would lie among its files, "
                f"choose another place, such as {place / 'predictions'}"
            )


def _own_folders(folder: Path) -> list[Path]:
    """The checkpoint and those beside it, which a run replaces."""
    beside = folder.resolve().parent.glob("*/state.json")
    return [folder, *(state.parent for state in beside)]


def _folders_of(dataset: SegmentationDataset) -> set[Path]:
    """Folders that hold images or labels, of any split."""
    found = {path.parent for pair in dataset.files for path in pair}
    for split in dataset.splits:
        if any(path.exists() for path in dataset.wanted(dataset.root, split, (".",))):
            listing = dataset.list_files(dataset.root, split)
            found |= {path.parent for pair in listing.pairs for path in pair}
    return found


def describe_protocol(config: RunConfig) -> dict[str, Any]:
    """The test protocol of a run as JSON knows it: all that decides how an image is predicted."""
    settings, protocol = config.eval, protocol_of(config)
    slide = settings.mode == "slide"
    return {
        "name": settings.protocol, "ratios": list(protocol.ratios), "flip": protocol.flip,
        "sizing": protocol.sizing, "odd": protocol.odd,
        "base_size": list(config.test_data().base_size), "mode": settings.mode,
        "window": list(settings.window) if slide else None,
        "stride": list(settings.stride) if slide else None,
    }  # fmt: skip


def _chosen(total: int, images: int) -> list[int]:
    """Numbers of the images to score, rising."""
    if not images:
        return list(range(total))
    if images < 2:
        raise UserError(f"--images {images}: a confidence interval needs two or more images")
    generator = torch.Generator().manual_seed(0)
    return sorted(torch.randperm(total, generator=generator)[:images].tolist())


class _Seen:
    """Called after each image of this rank: keeps its counts, if wanted, and writes its labels."""

    def __init__(
        self, dataset: SegmentationDataset, indices: list[int], device: torch.device,
        folder: str | Path, count: bool,
    ) -> None:  # fmt: skip
        self.dataset, self.device, self.count = dataset, device, count
        self.row = {index: row for row, index in enumerate(indices)}
        self.sums = torch.zeros(
            len(indices), 3, len(dataset.classes), dtype=torch.float64, device=device)
        self.folder = Path(folder) if folder else None
        if self.folder:
            _make(self.folder)

    def __call__(self, index: int, prediction: Tensor, label: Tensor) -> None:
        if self.count:  # only an interval and the worst need each image's own
            one = ConfusionMatrix(len(self.dataset.classes))
            one.update(prediction, label)
            self.sums[self.row[index]] = one.sums().to(self.device)
        if self.folder:
            write_prediction(self.folder, self.dataset, index, prediction)


def worst_images(
    sums: Tensor, dataset: SegmentationDataset, indices: Sequence[int]
) -> list[dict[str, Any]]:
    """Images with a label, that of the lowest mIoU first: where to look, and what to label next.

    Args:
        sums: (N, 3, K), `ConfusionMatrix.sums` of each image.
        indices: (N) their numbers in `dataset`.

    Returns:
        Dicts of ``image``, its file; ``miou``, over the classes that it has or that are predicted
        in it; ``missed``, the class of most pixels that are given to another, and ``pixels``,
        their number.
    """
    hit, labelled, predicted = sums.cpu().unbind(1)
    miou = (hit / (labelled + predicted - hit)).nanmean(dim=1)
    pixels, missed = (labelled - hit).max(dim=1)
    found = [
        {"image": str(dataset.files[index][0]), "miou": miou[row].item(),
         "missed": dataset.classes[int(missed[row])], "pixels": int(pixels[row])}
        for row, index in enumerate(indices) if labelled[row].any()
    ]
    return sorted(found, key=lambda one: (one["miou"], one["image"]))


def file_ids(dataset: SegmentationDataset) -> np.ndarray:
    """(K,) uint8, the id that a data set's own mask files have for each class.

    ADE20K: class + 1. Cityscapes: labelIds, which its server wants, whichever masks are read.
    """
    table = dataset.table[: dataset.ignore_index].tolist()
    return np.array([table.index(k) for k in range(len(dataset.classes))], dtype=np.uint8)


def write_prediction(
    folder: Path, dataset: SegmentationDataset, index: int, prediction: Tensor
) -> Path:
    """Write labels (H, W) of image `index` as the data set's server takes them; the file.

    An 8-bit PNG of `file_ids` with the name of the image, ``.png`` in place of its ending.

    Raises:
        UserError: it cannot be written.
    """
    from PIL import Image

    path = folder / f"{dataset.files[index][0].stem}.png"
    try:
        with written_beside(path) as part:
            Image.fromarray(file_ids(dataset)[prediction.numpy()]).save(part)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error})") from error
    return path


def summary(scores: dict[str, Any]) -> str:
    """What stands below the table of classes: means, protocol, checkpoint, speed."""
    protocol, lines = scores["protocol"], list[str]()
    if scores["quick_look"]:
        low, high = scores["interval"]
        lines.append(
            f"QUICK LOOK at {scores['images']} of {scores['of']} images, not a score to report: "
            f"mIoU {_percent(scores['miou'])}, {LEVEL:.0%} interval {_percent(low)} to "
            f"{_percent(high)} (bootstrap over images"
            f"{', too narrow of so few' if scores['images'] < FEW else ''})"
        )
    how = f"windows of {_x(protocol['window'])} every {_x(protocol['stride'])}"
    lines += [
        _means(scores),
        f"protocol {protocol['name']}: ratios {' '.join(map(str, protocol['ratios']))} "
        f"({protocol['sizing']}), {'with' if protocol['flip'] else 'no'} mirror images, "
        f"{how if protocol['window'] else 'whole images'}, odd sizes: {protocol['odd']}",
        f"checkpoint {printable(scores['checkpoint'])}, sha256 {scores['sha256']}",
        f"{scores['images']} of {scores['of']} images of {scores['split']}, "
        f"{scores['seconds_per_image']:.3f} s an image on {scores['device']} "
        f"x {scores['processes']}",
    ]
    return "\n".join(lines)


def worst_table(scores: dict[str, Any]) -> str:
    """A line for each of the worst images: mIoU, file, and what is missed there; else empty."""
    return "".join(
        f"{_percent(one['miou']):>6}  {printable(one['image'])}  misses {one['pixels']} pixels of "
        f"{printable(one['missed'])}\n" for one in scores["worst"])


def _means(scores: dict[str, Any]) -> str:
    if scores.get("pixels") == 0:  # not every file of scores has them
        return f"nothing to score: no pixel of the split {scores['split']!r} has a label"
    return (
        f"mIoU {_percent(scores['miou'])}  mAcc {_percent(scores['mean_accuracy'])}  "
        f"aAcc {_percent(scores['pixel_accuracy'])}  in percent")


def write_json(scores: dict[str, Any], path: str | Path) -> None:
    """Write `scores` of `score_checkpoint`, making its folder if need be.

    Raises:
        UserError: it cannot be written, or is a file of the checkpoint.
    """
    _write(scores, Path(path), json.dumps(scores, indent=1) + "\n")


def write_csv(scores: dict[str, Any], path: str | Path) -> None:
    """Write a line per class: class, IoU, accuracy, labelled pixels; empty where there is none.

    Three more lines follow: ``(mean)`` with mIoU and mAcc, ``(all)`` with aAcc and all pixels,
    and ``(checkpoint)`` with protocol, SHA-256 and the number of images.

    Raises:
        UserError: it cannot be written, or is a file of the checkpoint.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["class", "iou", "accuracy", "pixels"])
    for name in scores["names"]:
        row = scores["classes"][name]
        table.writerow([csv_cell(name), row["iou"], row["accuracy"], row["pixels"]])
    table.writerow(["(mean)", scores["miou"], scores["mean_accuracy"], ""])
    table.writerow(["(all)", "", scores["pixel_accuracy"], scores["pixels"]])
    table.writerow(
        ["(checkpoint)", scores["protocol"]["name"], scores["sha256"], scores["images"]])
    _write(scores, Path(path), text.getvalue())


def _write(scores: dict[str, Any], path: Path, text: str) -> None:
    _make(path.parent)
    try:
        with written_beside(path, checkpoint.own_files(scores["checkpoint"])) as part:
            part.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error})") from error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error})") from error


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _x(size: list[int] | None) -> str:
    return "x".join(map(str, size or ()))
