"""The validation set in the middle of a training: its score, and pictures of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..config import RunConfig
from ..datasets.base import SegmentationDataset
from ..distributed import parallel
from ..model import SETR
from ..visualize import overlay

PICTURES = 3
"""Predictions that TensorBoard shows after each evaluation, of the first validation images."""


def whole_model(model: SETR, config: RunConfig) -> SETR:
    """The model as one process has it; collective.

    FSDP's pieces would have to call one another for every image, and processes score different
    numbers of them.
    """
    if not parallel.is_cut_up(model):
        return model
    whole = SETR.from_config(config.model)
    whole.load_state_dict(parallel.whole_state(model.state_dict()))
    return whole.to(model.device)


def pictures(
    model: SETR, dataset: SegmentationDataset, config: RunConfig
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and picture (H, W, 3) uint8 of the first images, under what the model sees in them."""
    for i in range(min(PICTURES, len(dataset), config.eval.limit or PICTURES)):
        sample = dataset[i]
        label = model.predict(sample.image, config=config)
        picture = overlay(sample.image, label, dataset.palette)
        yield f"validation/{sample.name}", np.asarray(picture)
