"""Data sets on disk, as samples and as batches. Imports config, transforms, visualize and below."""

from .base import (
    SegmentationDataset,
)
from .folder import Folder
from .images import (
    read_image,
    read_label,
)
from .layouts import (
    ADE20K,
    DATASETS,
    CamVid,
    CamVidUnseenDrive,
    Cityscapes,
    PascalContext,
    PascalContext59,
    TrainStream,
    data_root,
    load_dataset,
    rank_counters,
)

__all__ = [
    "ADE20K",
    "DATASETS",
    "CamVid",
    "CamVidUnseenDrive",
    "Cityscapes",
    "Folder",
    "PascalContext",
    "PascalContext59",
    "SegmentationDataset",
    "TrainStream",
    "data_root",
    "load_dataset",
    "rank_counters",
    "read_image",
    "read_label",
]
