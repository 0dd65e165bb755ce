"""A file of weights: opened without running what is in it, checked before a number is read."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..config import LARGEST_SIDE
from ..errors import UserError
from ..typed import path_of
from .formats import OURS, Opened, open_flax, open_safetensors, open_torch

WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and ``torch.compile`` put before the names of what they wrap."""
_WRAPPED = re.compile(r"^(?:module\.|_orig_mod\.)+|(?<=\.)_orig_mod\.")
T = TypeVar("T")
Source = str | Path | Mapping[str, Any]
"""Of weights: a file, or what ``torch.load`` makes of one, such as a state dict in memory."""
IN_MEMORY = Path("state dict in memory")
"""Stands for the path of the second in messages."""
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


@dataclass(frozen=True)
class WeightFile:
    """A file of weights, opened."""

    path: Path
    """Where it was read from."""
    tensors: dict[str, Tensor]
    """Its tensors by their names in the file; before `read` without numbers, on the meta device."""
    meta: dict[str, Any] = field(default_factory=dict)
    """What an mmcv or mmengine checkpoint says about itself."""
    notes: tuple[str, ...] = ()
    """What was done to names and objects, for the report."""
    reader: Callable[[], dict[str, Tensor]] | None = None
    """Reads the numbers."""

    def read(self) -> WeightFile:
        """The same with the numbers of its tensors.

        Raises:
            UserError: a check sum that differs, NaN, infinity, or a negative variance.
        """
        if self.reader is None:
            return self
        tensors = self.reader()
        for name, value in tensors.items():
            if not value.isfinite().all():
                raise UserError(
                    f"{self.path}: {name!r} holds NaN or infinity; take a file without")
            if name.endswith("running_var") and (value < 0).any():
                raise UserError(
                    f"{self.path}: {name!r} is negative ({value.min():.3g}), as no variance is; "
                    "the file is damaged, download it again"
                )
        return replace(self, tensors=tensors, reader=None)

    @property
    def img_size(self) -> tuple[int, int] | None:
        """(H, W) in pixels that its position table is for, where our converter wrote it down."""
        size = self._added("img_size", 2)
        if size and not 1 <= min(size) <= max(size) <= LARGEST_SIDE:
            raise UserError(f"{self.path}: img_size {size} is no size of an image; --img-size says")
        return (size[0], size[1]) if size else None

    @property
    def taps(self) -> tuple[int, ...] | None:
        """Blocks that its heads read, where our converter wrote them down."""
        return self._added("taps", 4)

    def _added(self, key: str, count: int) -> tuple[int, ...] | None:
        ours = self.meta.get(OURS)
        found = ours.get(key) if isinstance(ours, dict) else None
        if found is None:
            return None
        if not isinstance(found, list | tuple) or [type(v) for v in found] != [int] * count:
            raise UserError(
                f"{self.path}: {OURS}.{key} is {_short(found)}, expected {count} whole numbers")
        return tuple(found)


def open_weight_file(path: Source, *, allow_pickle: bool = False) -> WeightFile:
    """Open ``.safetensors``, a Flax ``.npz``, or a file of ``torch.save`` (zip or the older kind).

    Names, shapes and types are known then; `WeightFile.read` reads the numbers. A checkpoint that
    keeps its tensors under ``state_dict`` or ``model`` is unwrapped, and the names lose what
    `WRAPPERS` put before them. In a ``.npz`` q, k and v are joined and kernels take PyTorch's
    order of axes.

    Args:
        path: the file; or a state dict in memory, as it is or under one of these two keys.
        allow_pickle: let Python open it, which runs whatever code its author put there.

    Raises:
        UserError: no such file, one that cannot be read, or something else than dense tensors of
            numbers by name.
    """
    path, opened = _opened(path, allow_pickle)
    meta = opened.content.get("meta") if isinstance(opened.content, dict) else None
    tensors = _tensors(path, opened.content, opened.bytes)
    names = _unwrapped(path, tensors)

    def read() -> dict[str, Tensor]:
        found = _tensors(path, opened.read(), opened.bytes)
        return {names[name]: value for name, value in found.items()}

    return WeightFile(
        path, {names[name]: value for name, value in tensors.items()},
        meta if isinstance(meta, dict) else {}, _notes(names, opened.strangers), read,
    )  # fmt: skip


def read_weight_file(path: Source, *, allow_pickle: bool = False) -> WeightFile:
    """`open_weight_file` and `WeightFile.read` in one.

    Raises:
        UserError: what both of them raise.
    """
    return open_weight_file(path, allow_pickle=allow_pickle).read()


def in_two_steps(load: Callable[[WeightFile], T], file: WeightFile) -> T:
    """``load(file.read())``, but first with names and shapes alone, so that a file that does not
    fit costs nothing.

    Raises:
        UserError: what `load` and `WeightFile.read` raise.
    """
    if file.reader is not None:
        load(file)
    return load(file.read())


def _opened(source: Source, allow_pickle: bool) -> tuple[Path, Opened]:
    if isinstance(source, Mapping):
        content = dict(source)
        return IN_MEMORY, Opened(content, lambda: content, sys.maxsize)
    path = path_of(source)
    if not path.is_file():
        raise UserError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
    try:
        return path, _open(path, allow_pickle)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def _open(path: Path, allow_pickle: bool) -> Opened:
    if path.suffix == ".safetensors":
        return open_safetensors(path)
    return open_flax(path) if path.suffix == ".npz" else open_torch(path, allow_pickle)


def _tensors(path: Path, content: Any, most: int) -> dict[str, Tensor]:
    """The tensors by name in what a file holds, each dense and no larger than the file."""
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), Mapping):
            content = dict(content[key])
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: holds a {type(content).__name__}, not tensors by name")
    for name, value in content.items():
        if not isinstance(value, Tensor) or not isinstance(name, str):
            raise UserError(
                f"{path}: {_short(name)} is a {type(value).__name__}, expected tensors by name, "
                "at the top or under 'state_dict' or 'model'"
            )
        problem = _problem(value, most)
        if problem:
            raise UserError(f"{path}: {name!r} is {problem}; expected plain tensors of numbers")
    return {name: value.detach() for name, value in content.items()}


def _problem(value: Tensor, most: int) -> str:
    """Why a tensor cannot be used, or nothing."""
    if value.is_meta and most == sys.maxsize:  # in memory; of a file, numbers are read later
        return "without numbers (device meta)"
    if value.is_nested or value.layout != torch.strided:
        return f"sparse ({value.layout})"
    if value.is_quantized or value.dtype not in _FLOATS + _WHOLE:
        return f"of type {str(value.dtype).removeprefix('torch.')}"
    if value.nbytes > most or (value.is_meta and value.untyped_storage().nbytes() > most):
        return f"{tuple(value.shape)}, {value.nbytes:,} bytes of a file that holds {most:,}"
    return ""


def _unwrapped(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Each name -> the same without what `WRAPPERS` put in."""
    names = {name: _WRAPPED.sub("", name) for name in tensors}
    if len(set(names.values())) < len(names):
        raise UserError(
            f"{path}: has a tensor twice, with and without {' or '.join(WRAPPERS)} before its "
            "name; save one model's state_dict alone"
        )
    return names


def _notes(names: Mapping[str, str], strangers: tuple[str, ...]) -> tuple[str, ...]:
    longer = [name for name, short in names.items() if name != short]
    words = sorted({word for name in longer for word in WRAPPERS if word in name})
    notes = [f"{len(longer)} names without their {' and '.join(words)}"] if longer else []
    return (*notes, *([f"read without running {', '.join(strangers)}"] if strangers else []))


def _short(value: Any) -> str:
    """A value for a message: of a foreign file, so it may be of any kind and size."""
    kind = type(value)
    return repr(value)[:80] if kind in (str, int, float, bool) else f"a {kind.__name__}"
