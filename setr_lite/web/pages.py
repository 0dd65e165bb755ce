"""The scripts from which a page runs a model: engine and weights as JavaScript, laid out here.

A page that is opened as a file may not fetch anything. It may load scripts, so all that it needs
are scripts: `engine_part` holds ``setr.js``, ``worker.js`` and the kernel, `model_part` a model.
``client.js`` finds them by name in ``setrParts``. Nothing binary is kept in the source.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from ..model import SETR
from .wat import assemble

HERE = Path(__file__).parent


def read_source(name: str) -> str:
    """One of the files of this room, such as ``setr.js``."""
    return (HERE / name).read_text("utf-8")


def kernel() -> bytes:
    """The engine's kernel in WebAssembly, assembled from ``kernel.wat``."""
    return assemble(read_source("kernel.wat"))


def base64_text(raw: bytes) -> str:
    """Bytes as the text that ``atob`` of a browser reads."""
    return base64.b64encode(raw).decode()


def as_script(name: str, value: Any) -> str:
    """A script that lays `value`, anything JSON can say, into ``setrParts[name]``."""
    content = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return f"(self.setrParts ||= {{}})[{json.dumps(name)}] = {content};\n"


def engine_part() -> dict[str, str]:
    """What ``client.js`` expects under ``engine``: source of the worker, and the kernel."""
    source = read_source("setr.js") + read_source("worker.js")
    return {"source": source, "kernel": base64_text(kernel())}


def model_part(about: dict[str, Any], weights: bytes) -> dict[str, Any]:
    """What ``client.js`` expects under a model's name.

    Args:
        about: of `describe`.
        weights: a ``.safetensors`` file in float32, float16, or int8 with ``NAME.scale`` beside it.
    """
    return {"about": about, "weights": base64_text(weights)}


def describe(
    model: SETR, grid: tuple[int, int], classes: list[str], palette: list[list[int]]
) -> dict[str, Any]:
    """What the engine must know of a model beside its weights, ready for JSON.

    Args:
        model: loaded from a checkpoint; with a plain ViT.
        grid: (h, w), patches of the position table that goes with it.
        classes: K names.
        palette: K colours, RGB in 0..255.
    """
    encoder: Any = model.encoder
    assert model.config is not None
    data = model.normalization(model.config.data)
    return {
        "head": model.config.model.head, "units": len(getattr(model.head, "convs", ())),
        "grid": list(grid), "patch": encoder.patch_size, "dim": encoder.embed_dim,
        "heads": encoder.blocks[0].attn.num_heads, "depth": len(encoder.blocks),
        "taps": list(encoder.taps), "class_token": getattr(encoder, "keep_class_token", True),
        "mean": list(data.mean or ()), "std": list(data.std or ()),
        "classes": classes, "palette": palette,
    }  # fmt: skip
