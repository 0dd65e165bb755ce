"""Speed as ratios: the same work here and elsewhere, in turns. Imports anything but cli."""

import importlib
from typing import Any

__all__ = ["OURS", "Bench", "bench", "describe", "describe_setting", "of_recipe", "save_row"]


def __getattr__(name: str) -> Any:  # so that the command line's help loads no PyTorch
    if name in __all__:
        return getattr(importlib.import_module(".rows", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
