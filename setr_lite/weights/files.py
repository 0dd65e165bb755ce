"""Files of weights, opened without running what is in them.

Shapes: D is the width of the encoder, A attention heads of D/A channels each.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError, in_short


@dataclass(frozen=True)
class WeightFile:
    """A file of weights, opened."""

    path: Path
    """Where it was read from."""
    tensors: dict[str, Tensor]
    """Its tensors by their names in the file."""
    meta: dict[str, Any] = field(default_factory=dict)
    """What an mmcv or mmengine checkpoint says about itself."""


def read_weight_file(path: str | Path, *, allow_pickle: bool = False) -> WeightFile:
    """Open ``.safetensors``, a Flax ``.npz``, or a file of ``torch.save`` (zip or the older kind).

    A checkpoint that keeps its tensors under ``state_dict`` or ``model`` is unwrapped. In a
    ``.npz`` q, k and v are joined and kernels take PyTorch's order of axes.

    Args:
        path: the file.
        allow_pickle: also open a file that holds other Python objects than tensors, numbers,
            texts and lists. Opening it runs whatever code its author put there.

    Raises:
        UserError: no such file, one that cannot be read, or one that needs `allow_pickle`.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
    readers = {".safetensors": _read_safetensors, ".npz": _read_flax}
    if path.suffix in readers:
        content = readers[path.suffix](path)
    else:
        content = _read_torch(path, allow_pickle)
    meta = content.get("meta") if isinstance(content, dict) else None
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: holds a {type(content).__name__}, not tensors by name")
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"{path}: {key!r} is a {type(value).__name__}, expected tensors by name, at the "
                "top or under 'state_dict' or 'model'"
            )
        if not value.isfinite().all():
            raise UserError(f"{path}: {key!r} holds NaN or infinity; take a file without")
    return WeightFile(path, dict(content), meta if isinstance(meta, dict) else {})


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: not a readable file of weights ({in_short(error)}); download it again"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _read_torch(path: Path, allow_pickle: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except Exception as error:  # a damaged pickle raises whatever it likes
        foreign = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        if foreign:
            raise UserError(
                f"{path}: holds a {foreign[1]} besides its tensors, and opening such a file runs "
                "its author's code; if you trust it, allow that with --unsafe-pickle "
                "(allow_pickle=True), or save its state_dict alone where it was made"
            ) from error
        if allow_pickle and isinstance(error, ImportError | AttributeError):
            raise UserError(
                f"{path}: needs the program that made it ({error}); save its state_dict alone "
                "where that is installed"
            ) from error
        raise _unreadable(path, error) from error


def _read_flax(path: Path) -> dict[str, Tensor]:
    """Arrays of a ``.npz`` in PyTorch's order: OIHW kernels, (out, in) matrices, q, k, v joined."""
    import numpy as np

    try:
        with open(path, "rb") as content, np.load(content, allow_pickle=False) as arrays:
            found = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except Exception as error:  # zip, header or dtype: each raises its own kind
        raise _unreadable(path, error) from error
    tensors = {}
    for name, value in found.items():
        stem, _, part = name.rpartition("/")
        kind = stem.rpartition("/")[2]
        if kind in ("query", "key", "value"):
            if kind == "query":
                tensors[name.replace("query", "query+key+value")] = _join_flax(path, found, name)
        else:
            tensors[name] = _turn_flax(kind, part, value)
    return tensors


def _join_flax(path: Path, found: dict[str, Tensor], query: str) -> Tensor:
    """Rows q, k, v: three (D, A, D/A) kernels -> (3D, D), three (A, D/A) biases -> (3D,)."""
    parts = []
    for kind in ("query", "key", "value"):
        name = query.replace("query", kind)
        if name not in found:
            raise UserError(f"{path}: has no {name!r}, which belongs to {query!r}")
        value = found[name]
        parts.append(value.flatten(1).T if name.endswith("kernel") else value.flatten())
    return torch.cat(parts)


def _turn_flax(kind: str, part: str, value: Tensor) -> Tensor:
    if part != "kernel":
        return value
    if value.ndim == 4:
        return value.permute(3, 2, 0, 1)  # height, width, in, out -> out, in, height, width
    if kind == "out":
        value = value.flatten(0, -2)  # (A, D/A, D) -> (D, D)
    return value.T
