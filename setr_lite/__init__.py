"""SETR, semantic segmentation as sequence-to-sequence prediction (arXiv 2012.15840).

The names below are what scripts use most; ``setr_lite.train.train`` and
``setr_lite.evaluate.evaluate`` stay in the modules of their name. All load on first use, so
``import setr_lite`` costs no more than Python itself.
"""

import importlib
from pathlib import Path
from typing import Any

from .files import FINDERS

_HOMES = {
    "config": ["RunConfig"],
    "datasets": [
        "ADE20K", "CamVid", "Cityscapes", "Folder", "PascalContext", "load_dataset", "read_image"],
    "errors": ["UserError"],
    "evaluate.predictions": ["predict_images"],
    "inside.attention": ["attention_maps"],
    "inference": ["Window", "multi_scale_probabilities", "predict", "sliding_window"],
    "logits": ["SETROutput"],
    "losses": ["segmentation_loss"],
    "running.memory": ["estimate_memory"],
    "metrics": ["ConfusionMatrix"],
    "model": ["SETR"],
    "recipes": ["RECIPES", "get_recipe"],
    "toytown": ["render_scene", "write_toytown"],
    "visualize": ["colorize", "legend", "overlay", "panel"],
    "weights": ["load_pretrained", "load_setr"],
    "weights.hub": ["push_to_hub"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)
__version__ = "0.1.0"


def _find_elsewhere(name: str) -> Path | None:
    for home in ("published_files", "hub"):  # loaded on first use, as the names above
        found = importlib.import_module(f".weights.{home}", __name__).find_checkpoint(name)
        if found:
            return found
    return None


FINDERS.append(_find_elsewhere)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'setr_lite' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
