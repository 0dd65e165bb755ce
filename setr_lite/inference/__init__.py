"""From logits to label maps: windows, scales, tiles. Imports logits and below."""

from .windows import (
    Window,
    multi_scale_probabilities,
    predict,
    predict_each,
    predict_views,
    sliding_window,
    window_starts,
)

__all__ = ["Window", "multi_scale_probabilities", "predict", "predict_each", "predict_views",
           "sliding_window", "window_starts"]  # fmt: skip
