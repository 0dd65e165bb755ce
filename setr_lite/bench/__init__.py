"""Speed as ratios: the same work here and elsewhere, in turns. Imports anything but cli."""

from .rows import (
    KINDS,
    MMSEG,
    OURS,
    Bench,
    Row,
    bench,
    describe,
    describe_setting,
    save_row,
)

__all__ = [
    "KINDS",
    "MMSEG",
    "OURS",
    "Bench",
    "Row",
    "bench",
    "describe",
    "describe_setting",
    "save_row",
]
