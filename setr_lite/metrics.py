"""Segmentation metrics from one confusion matrix of counted pixels.

All values are fractions 0..1; published tables print them times 100. Sums are kept in int64:
float32 sums stop being exact at 2^24 pixels of a class, eight Cityscapes images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .config import IGNORE
from .errors import UserError
from .typed import LARGEST_NUMBER, whole


class ConfusionMatrix:
    """Counts pixels by labelled and predicted class.

    Pixels labelled `ignore_index` count nowhere, whatever is predicted there.

    Args:
        num_classes: K; labels and predictions are 0..K-1.
        device: where the matrix lives; ``"cuda"`` keeps `update` from waiting for the device.
        ignore_index: label of pixels that have no class.

    Attributes:
        matrix: (K, K) int64, rows are labels, columns predictions.
    """

    def __init__(
        self, num_classes: int, device: torch.device | str = "cpu", ignore_index: int = IGNORE
    ) -> None:
        whole("num_classes", num_classes, 1, 65_536)
        whole("ignore_index", ignore_index, -LARGEST_NUMBER)
        if 0 <= ignore_index < num_classes:
            raise UserError(
                f"ignore_index={ignore_index}: is one of {num_classes} classes, which would never "
                "be scored; give another, such as -100")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Adds the pixels of `prediction` and `label`, integers of one shape, e.g. (B, H, W).

        Raises:
            UserError: shapes differ; on the CPU also an id that is no class. On CUDA nothing
                is read back from the device, so there ids are the data set's to check.
        """
        if prediction.shape != label.shape:
            raise UserError(
                f"prediction of shape {tuple(prediction.shape)} for a label of shape "
                f"{tuple(label.shape)}: predict at the label's size"
            )
        device = self.matrix.device
        label = label.to(device).flatten().long()
        prediction = prediction.to(device).flatten().long()
        valid = label != self.ignore_index
        if device.type == "cpu":
            self._check("label", label[valid])
            self._check("prediction", prediction[valid])
        pairs = label * self.num_classes + prediction
        bins = self.matrix.numel()
        pairs = pairs.where(valid, bins)  # one more bin: the ignored pixels
        # on CUDA bincount reads the largest value back to size its result; adding does not
        counts = torch.zeros(bins + 1, dtype=torch.int64, device=device)
        counts.scatter_add_(0, pairs, torch.ones_like(pairs))
        self.matrix += counts[:-1].view_as(self.matrix)

    def all_reduce(self) -> None:
        """Sums the matrices of all processes, in place; call it once, after the last `update`.

        Does nothing in a run of one process. The device must suit the backend (NCCL: CUDA).
        """
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.matrix)

    def iou(self) -> Tensor:
        """(K,) float64: intersection over union of each class.

        NaN where a class is neither labelled nor predicted; 0 where it is only predicted.
        """
        hit, labelled, predicted = self.sums()
        return hit / (labelled + predicted - hit)

    def accuracy(self) -> Tensor:
        """(K,) float64: share of each class's pixels that were found; NaN where it has none."""
        hit, labelled, _ = self.sums()
        return hit / labelled

    def miou(self) -> float:
        """Mean IoU over the classes that are labelled or predicted; NaN before any pixel."""
        return self.iou().nanmean().item()

    def mean_accuracy(self) -> float:
        """Mean accuracy over the labelled classes; NaN before any pixel."""
        return self.accuracy().nanmean().item()

    def pixel_accuracy(self) -> float:
        """Share of all valid pixels that were predicted right; NaN before any pixel."""
        hit, labelled, _ = self.sums()
        return (hit.sum() / labelled.sum()).item()

    def table(self, classes: Sequence[str]) -> str:
        """Text: a line per class (IoU, accuracy, share of the labelled pixels), then the means.

        Classes that are neither labelled nor predicted come in one line at the end.
        """
        result = self.to_dict(classes)
        width = max(map(len, ("class", *result["averaged"])))
        lines = [f"{'class':<{width}}     IoU     acc  pixels"]
        for name in result["averaged"]:
            row = result["classes"][name]
            share = row["pixels"] / max(result["pixels"], 1)
            values = f"{_text(row['iou'])}  {_text(row['accuracy'])}"
            lines.append(f"{name:<{width}}  {values}  {share:6.1%}")
        lines += [
            f"mIoU {_text(result['miou'])} (mean of {len(result['averaged'])} of "
            f"{len(classes)} classes), mean accuracy {_text(result['mean_accuracy'])}, "
            f"pixel accuracy {_text(result['pixel_accuracy'])}"
        ]
        if result["absent"]:
            lines.append(f"absent, not averaged: {', '.join(result['absent'])}")
        return "\n".join(lines)

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """All values as JSON knows them, None for NaN.

        Keys: ``miou``, ``mean_accuracy``, ``pixel_accuracy``, ``pixels`` (valid ones),
        ``averaged`` and ``absent`` (class names), ``classes`` (name -> ``iou``, ``accuracy``,
        ``pixels``) and ``matrix`` (K lists of K counts).

        Raises:
            UserError: `classes` does not give K different names.
        """
        if len(set(classes)) != self.num_classes or len(classes) != self.num_classes:
            raise UserError(
                f"{len(set(classes))} different class names for {self.num_classes} classes: "
                "give one name per class"
            )
        iou, accuracy = self.iou().tolist(), self.accuracy().tolist()
        matrix = self.matrix.tolist()
        present = [not math.isnan(value) for value in iou]
        rows = {
            name: {"iou": _json(iou[k]), "accuracy": _json(accuracy[k]), "pixels": sum(matrix[k])}
            for k, name in enumerate(classes)
        }
        return {
            "miou": _json(self.miou()),
            "mean_accuracy": _json(self.mean_accuracy()),
            "pixel_accuracy": _json(self.pixel_accuracy()),
            "pixels": sum(row["pixels"] for row in rows.values()),
            "averaged": [name for name, there in zip(classes, present, strict=True) if there],
            "absent": [name for name, there in zip(classes, present, strict=True) if not there],
            "classes": rows,
            "matrix": matrix,
        }

    def sums(self) -> Tensor:
        """(3, K) float64, pixels per class: rightly predicted, labelled, predicted."""
        matrix = self.matrix.cpu()
        hit, labelled, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
        return torch.stack([hit, labelled, predicted]).double()

    def _check(self, what: str, ids: Tensor) -> None:
        wrong = ids[(ids < 0) | (ids >= self.num_classes)]
        if wrong.numel():
            raise UserError(
                f"{what} id {int(wrong[0])} where there are {self.num_classes} classes: "
                f"ids must be 0..{self.num_classes - 1}"
            )


def bootstrap_miou(
    sums: Tensor, *, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap confidence interval of the mIoU over images.

    Images are drawn with replacement, `draws` times; each time mIoU is that of the summed counts.
    The interval leaves out equal shares of the lowest and highest values (percentile bootstrap).
    It is valid for images like these; with few images it is too narrow.

    Args:
        sums: (N, 3, K), `ConfusionMatrix.sums` of every image.
        level: share of the values that lie in the interval.
        seed: of the draws.

    Returns:
        (low, high), fractions.

    Raises:
        UserError: fewer than two images.
    """
    if len(sums) < 2:
        raise UserError(f"a confidence interval of {len(sums)} image(s): give two or more")
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randint(len(sums), (draws, len(sums)), generator=generator)
    times = torch.zeros(draws, len(sums), dtype=torch.float64)
    times.scatter_add_(1, picked, torch.ones_like(times))
    drawn = (times @ sums.cpu().double().flatten(1)).unflatten(1, sums.shape[1:])
    hit, labelled, predicted = drawn.unbind(1)
    values = (hit / (labelled + predicted - hit)).nanmean(dim=1)
    tail = (1 - level) / 2
    low, high = values.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def _json(value: float) -> float | None:
    return None if math.isnan(value) else value


def _text(value: float | None) -> str:
    return "     -" if value is None else f"{value:6.4f}"
