"""ToyTown, the embedded data set, drawn with integers only. Imports nothing but errors."""

from .scenes import (
    CLASSES,
    LARGEST,
    LAYOUTS,
    PALETTE,
    SMALLEST,
    ToyClass,
    layout_ids,
    render_scene,
    scene_seed,
    write_toytown,
)

__all__ = [
    "CLASSES",
    "LARGEST",
    "LAYOUTS",
    "PALETTE",
    "SMALLEST",
    "ToyClass",
    "layout_ids",
    "render_scene",
    "scene_seed",
    "write_toytown",
]
