"""What the processes of a run have to agree in, where each machine has its own copies."""

from __future__ import annotations

import hashlib

import torch

from .. import __version__
from ..config import RunConfig
from ..datasets.base import SegmentationDataset

OWN = {"train.out", "train.device", "train.workers", "train.feature_cache", "data.root",
       "data.classes", "model.pretrained"}  # fmt: skip
"""Settings in which machines may differ: places of files, and how each works."""
SIZES = 50
"""Files of which the sizes are compared; a network disk takes its time for each."""


def facts(
    config: RunConfig, train_set: SegmentationDataset, val_set: SegmentationDataset, step: int
) -> dict[str, str]:
    """Name -> value, as words, for `distributed.require_same`; `step` is where the run begins."""
    settings = {
        f"{section}.{key}": str(value)
        for section, values in config.to_dict().items() if isinstance(values, dict)
        for key, value in values.items()
    }  # fmt: skip
    return {
        "the library": __version__, "PyTorch": torch.__version__,
        **{name: value for name, value in settings.items() if name not in OWN},
        "the training images": digest(train_set), "the validation images": digest(val_set),
        "the step to begin with": str(step),
    }  # fmt: skip


def digest(dataset: SegmentationDataset) -> str:
    """The number of images, and a hash of their names and of some of their sizes."""
    state = hashlib.blake2b(digest_size=6)
    every = len(dataset) // SIZES + 1
    for number, pair in enumerate(dataset.files):
        for file in pair:
            size = file.stat().st_size if number % every == 0 else ""
            state.update(f"{file.name} {size}\n".encode())
    return f"{len(dataset)} of hash {state.hexdigest()}"
