"""The numbers in the drawings, taken from the library on PyTorch's ``meta`` device: no arithmetic
is done, shapes and counts are all that is asked for."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from setr_lite import SETR
from setr_lite.model import count_parameters

SIDE = 512
"""Pixels of the drawn image's side: ADE20K's crop, the paper's ViT-L/16 and 150 classes."""


class Trace(NamedTuple):
    """One forward pass, by the names of the modules that took part."""

    model: SETR
    shapes: dict[str, tuple[int, ...]]
    """What each module put out, without the batch."""
    macs: dict[str, float]
    """Multiply-accumulates of each module, with all that is inside it."""


@cache
def trace(head: str) -> Trace:
    """The model of the paper with this head, run once on one image of `SIDE` pixels."""
    with torch.device("meta"):
        model = SETR(150, head).eval()
        image = torch.empty(1, 3, SIDE, SIDE)
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, out: object) -> None:
        if isinstance(out, torch.Tensor):
            shapes[name] = tuple(out.shape[1:])

    for name, module in model.named_modules():
        module.register_forward_hook(lambda _, __, out, name=name: note(name, out))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    counts = counter.get_flop_counts()
    macs = {name.removeprefix("SETR."): sum(ops.values()) / 2 for name, ops in counts.items()}
    return Trace(model, shapes, macs)


def size(shape: tuple[int, ...], channels: bool = True) -> str:
    """``256 × 32 × 32``, or without the channels ``32 × 32``."""
    return " × ".join(map(str, shape if channels else shape[1:]))


def millions(module: torch.nn.Module) -> str:
    """``12.6 M`` parameters."""
    return f"{count_parameters(module) / 1e6:.1f} M"


def giga(macs: float) -> str:
    """``38.7 GMAC``; below one, ``0.27 GMAC``."""
    return f"{macs / 1e9:.{1 if macs >= 1e9 else 2}f} GMAC"
