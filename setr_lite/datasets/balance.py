"""How often each class occurs, and weights for the loss that let rare classes count.

The counts are those of the doctor's histogram, of one data set at a time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..config import LossConfig
from ..distributed import rank, sum_over_ranks, world_size
from .base import SegmentationDataset

MOST_WEIGHT = 10.0
"""A class gets at most so many times the weight of the median class, lest a handful of pixels
decide a step. A bound, not tuned."""


def count_pixels(
    dataset: SegmentationDataset, device: torch.device | None = None
) -> np.ndarray:
    """(K,) int64, the labelled pixels of each class in all masks of `dataset`.

    Several processes share the work; then it is collective, and `device` must suit the backend.

    Raises:
        UserError: the first mask that cannot be read, or that holds an id that no class has.
    """
    def count(path: Path) -> np.ndarray:
        label = dataset.to_label(dataset.read_ids(path), path).numpy()
        return np.bincount(label.ravel(), minlength=256)

    masks = [label for _, label in dataset.files][rank() :: world_size()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without Python's lock
        counts = sum(pool.map(count, masks), np.zeros(256, np.int64))
    total = sum_over_ranks(torch.from_numpy(counts).to(device or torch.device("cpu")))
    return total.cpu().numpy()[: len(dataset.classes)]


def balanced_weights(pixels: Sequence[int] | np.ndarray) -> tuple[float, ...]:
    """(K,) weights that grow with the square root of a class's rarity.

    ``sqrt(median / share)``: median frequency balancing (Eigen & Fergus, ICCV 2015) with a root,
    because the full ratio lets the rarest classes rule; here over all pixels instead of over the
    images that have the class. At most `MOST_WEIGHT`, 1 for a class that never occurs, and scaled
    so that their mean over all labelled pixels is 1: rates and other losses keep their size.

    Args:
        pixels: (K,) how often each class occurs.
    """
    counts = np.asarray(pixels, dtype=np.float64)
    seen = counts > 0
    if not seen.any():
        return (1.0,) * len(counts)
    weights = np.ones_like(counts)
    weights[seen] = np.sqrt(np.median(counts[seen]) / counts[seen]).clip(max=MOST_WEIGHT)
    weights[seen] /= (weights * counts).sum() / counts.sum()
    return tuple(round(float(weight), 4) for weight in weights)


def settle_weights(
    loss: LossConfig, dataset: SegmentationDataset, device: torch.device, saved: LossConfig | None
) -> LossConfig:
    """`loss` with numbers where it says ``auto``: those of `saved`, a run that goes on, or of
    `dataset`. Collective in a run of several processes."""
    if loss.class_weights != "auto":
        return loss
    if saved and saved.class_weights:
        return replace(loss, class_weights=saved.class_weights)
    return replace(loss, class_weights=balanced_weights(count_pixels(dataset, device)))
