"""SETR outside Python: an engine in JavaScript, and what it takes to run a checkpoint in a page.

``setr.js`` is the forward pass, ``kernel.wat`` its one kernel. Both are read as they stand; what a
page loads is laid out from them by the functions here, so nothing binary is kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..encoder import VisionTransformer
from ..model import SETR
from .wat import assemble

HERE = Path(__file__).parent


def kernel() -> bytes:
    """The engine's kernel, assembled from ``kernel.wat``."""
    return assemble((HERE / "kernel.wat").read_text("utf-8"))


def describe(model: SETR, classes: list[str], palette: list[list[int]]) -> dict[str, Any]:
    """What the engine must know of a model beside its weights, ready for JSON.

    Args:
        model: with a plain ViT of whole patches and a head of the authors' code.
        classes: K names.
        palette: K colours, RGB in 0..255.
    """
    encoder = model.encoder
    assert isinstance(encoder, VisionTransformer)
    assert model.config is not None
    data = model.normalization(model.config.data)
    units = getattr(model.head, "convs", nn.ModuleList())
    return {
        "head": model.config.model.head,
        "grid": list(encoder.grid),
        "patch": encoder.patch_size,
        "dim": encoder.embed_dim,
        "heads": encoder.blocks[0].attn.num_heads,
        "depth": len(encoder.blocks),
        "taps": list(encoder.taps),
        "class_token": encoder.keep_class_token,
        "units": len(units),
        "mean": list(data.mean or encoder.mean),
        "std": list(data.std or encoder.std),
        "classes": classes,
        "palette": palette,
    }
