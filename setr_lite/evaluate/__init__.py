"""A data set and a model become a confusion matrix and scores; images become labels. Imports up to
model."""

from .files import find_images, predict_files
from .loop import check_settings, check_views, evaluate
from .predictions import image_views, predict_images, predictor
from .protocols import (
    PROTOCOLS,
    view_size,
    view_sizes,
)

__all__ = [
    "PROTOCOLS",
    "check_settings",
    "check_views",
    "evaluate",
    "find_images",
    "image_views",
    "predict_files",
    "predict_images",
    "predictor",
    "view_size",
    "view_sizes",
]
