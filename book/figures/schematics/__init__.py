"""The schematics of the chapters, by name: each draws itself ``wide`` or ``narrow``."""

from __future__ import annotations

from collections.abc import Callable

from ..svg import Drawing
from . import (
    account,
    after,
    attention,
    block,
    building,
    calls,
    car,
    control,
    mla,
    parallel,
    pipeline,
    stages,
    step,
    strips,
    windows,
)

SCHEMATICS: dict[str, Callable[[str], Drawing]] = {
    "attention": attention.draw,
    "block": block.draw,
    "naive": stages.draw_naive,
    "pup": stages.draw_pup,
    "mla": mla.draw,
    "windows": windows.draw,
    "step": step.draw,
    "parallel": parallel.draw,
    "building": building.draw,
    "strips": strips.draw,
    "after": after.draw,
    "control": control.draw,
    "account": account.draw,
    "car": car.draw,
    "pipeline": pipeline.draw,
    "calls": calls.draw,
}
"""File name (``NAME-wide.svg``, ``NAME-narrow.svg``) -> what draws it."""
