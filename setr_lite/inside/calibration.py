"""Does a model know when it is wrong? Confidence beside accuracy, pixel by pixel.

The confidence of a pixel is the probability of its predicted class. A model is calibrated if, of
all pixels with confidence 0.8, 80 % are right (Guo et al. 2017, arXiv 1706.04599).

Shapes: B images of H x W pixels, K classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..config import IGNORE
from ..errors import UserError


class Calibration:
    """Per bin of confidence: pixels, correct pixels, and summed confidence.

    Args:
        bins: number of bins of equal width over confidences 0..1.

    Attributes:
        sums: (3, bins) float64, these three as rows.
    """

    def __init__(self, bins: int = 15) -> None:
        self.sums = torch.zeros(3, bins, dtype=torch.float64)

    def update(self, probabilities: Tensor, label: Tensor) -> None:
        """Adds pixels: probabilities (B, K, H, W), labels (B, H, W) with 255 left out.

        Raises:
            UserError: sizes that differ, or numbers that are no probabilities (logits).
        """
        if probabilities.shape[-2:] != label.shape[-2:]:
            raise UserError(
                f"probabilities of {tuple(probabilities.shape[-2:])} pixels for a label of "
                f"{tuple(label.shape[-2:])}: predict at the label's size"
            )
        confidence, found = probabilities.max(dim=1)
        valid = label != IGNORE
        confidence, right = confidence[valid].double().cpu(), (found == label)[valid].cpu()
        if confidence.numel() and not 0 <= confidence.min() <= confidence.max() <= 1 + 1e-6:
            raise UserError("confidences outside 0..1: give probabilities, the softmax of logits")
        bins = self.sums.shape[1]
        place = (confidence * bins).long().clamp(max=bins - 1)
        for row, weight in zip(self.sums, (None, right.double(), confidence), strict=True):
            row += torch.bincount(place, weight, minlength=bins)

    def curve(self) -> Tensor:
        """(3, bins): mean confidence, accuracy, and share of all pixels; NaN in an empty bin."""
        pixels, right, confidence = self.sums
        return torch.stack([confidence / pixels, right / pixels, pixels / pixels.sum()])

    def error(self) -> float:
        """The expected calibration error, 0..1 (Guo et al. 2017, equation 3).

        Over the bins, the mean gap between confidence and accuracy, weighted by pixels. NaN
        before any pixel.
        """
        pixels, right, confidence = self.sums
        return ((confidence - right).abs().sum() / pixels.sum()).item()


def fit_temperature(logits: Tensor, label: Tensor) -> float:
    """The temperature T that minimises the cross-entropy of ``logits / T``.

    The cross-entropy is convex in 1/T; T is found by bisection on its derivative (Guo et al. 2017,
    section 4.2). No prediction changes: the largest logit stays the largest. Fit
    it on held-out images that are used neither for training nor for the final score.

    Args:
        logits: (B, K, H, W).
        label: (B, H, W), 255 left out.

    Returns:
        T between 1/20 and 20; above 1 means that the model is overconfident.

    Raises:
        UserError: no labelled pixel.
    """
    valid = label != IGNORE
    if not valid.any():
        raise UserError("fit_temperature: no labelled pixel")
    rows = logits.movedim(1, -1)[valid].float()  # (pixels, K)
    target = rows.gather(1, label[valid].long()[:, None]).double().mean()
    low, high = -math.log(20), math.log(20)  # of log(1/T)
    for _ in range(24):
        middle = (low + high) / 2
        share = (rows * math.exp(middle)).softmax(dim=1)
        grad = (share * rows).sum(dim=1).double().mean() - target
        low, high = (low, middle) if grad > 0 else (middle, high)
    return math.exp(-(low + high) / 2)
