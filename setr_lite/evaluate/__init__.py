"""A data set and a model become a confusion matrix and scores. Imports up to model."""

from .loop import (
    IMAGE_ENDINGS,
    check_settings,
    check_views,
    evaluate,
    find_images,
    image_views,
    predict_files,
    predictor,
)
from .protocols import (
    PROTOCOLS,
    view_size,
    view_sizes,
)

__all__ = [
    "IMAGE_ENDINGS",
    "PROTOCOLS",
    "check_settings",
    "check_views",
    "evaluate",
    "find_images",
    "image_views",
    "predict_files",
    "predictor",
    "view_size",
    "view_sizes",
]
