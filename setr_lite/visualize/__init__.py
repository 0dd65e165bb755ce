"""Pictures of labels and plots of results. Imports config, errors and metrics."""

from .pictures import STYLE, colorize, legend, outline, overlay, panel
from .plots import LINES, plot_confusion, plot_curves

__all__ = ["LINES", "STYLE", "colorize", "legend", "outline", "overlay", "panel", "plot_confusion",
           "plot_curves"]  # fmt: skip
