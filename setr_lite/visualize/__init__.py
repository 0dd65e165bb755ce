"""Pictures of labels and plots of results. Imports config, errors and metrics."""

from .pictures import STYLE, colorize, legend, outline, overlay, panel, with_legend
from .plots import LINES, MARKERS, plot_confusion, plot_curves

__all__ = ["LINES", "MARKERS", "STYLE", "colorize", "legend", "outline", "overlay", "panel",
           "plot_confusion", "plot_curves", "with_legend"]  # fmt: skip
