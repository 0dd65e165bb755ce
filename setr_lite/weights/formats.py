"""Kinds of files that hold weights: what is in them by name, and then the numbers.

Opening reads names, shapes and types only; tensors are on the meta device until `Opened.read`. So
a file that claims gigabytes costs nothing before it is known to fit. Nothing that a file says to
run is run.

Shapes: D is the width of the encoder, A attention heads of D/A channels each.
"""

from __future__ import annotations

import json
import math
import re
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError, in_short

MOST_UNPACKED = 8
"""Times its own size that a packed file may grow to; weights shrink by a third at best."""
OURS = "setr_lite"
"""Key of what our own converter adds to a file: a dict with ``img_size`` and ``taps``."""

_SAFETENSORS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class Opened:
    """The content of a file, not read yet."""

    content: Any
    """What it holds, its tensors without numbers on the meta device."""
    read: Callable[[], Any]
    """The same with the numbers, their check sums compared where the kind of file has any."""
    bytes: int
    """How much it unpacks to."""
    strangers: tuple[str, ...] = ()
    """Classes and functions that it names, for each of which a stand-in was read."""


def unreadable(path: Path, error: Exception | str) -> UserError:
    """That a file is damaged or of another kind, in one line."""
    why = error if isinstance(error, str) else in_short(error)
    return UserError(f"{path}: not a readable file of weights ({why}); download it again")


def open_safetensors(path: Path) -> Opened:
    """A ``.safetensors`` file; its metadata come under the key `OURS` of ``meta``.

    Raises:
        UserError: a damaged file, or tensors of a type that no model here has.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(path, "pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, no dict
            tensors = {name: _claimed(path, name, part) for name, part in parts.items()}
            added = (file.metadata() or {}).get(OURS)
        meta = {OURS: json.loads(added)} if added else {}
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise unreadable(path, error) from error

    def read() -> dict[str, Any]:
        try:
            return {"state_dict": load_file(path), "meta": meta}
        except (OSError, SafetensorError) as error:
            raise unreadable(path, error) from error

    return Opened({"state_dict": tensors, "meta": meta}, read, path.stat().st_size)


def _claimed(path: Path, name: str, part: Any) -> Tensor:
    kind = part.get_dtype()
    if kind not in _SAFETENSORS:
        raise UserError(f"{path}: {name!r} is of type {kind}; expected {', '.join(_SAFETENSORS)}")
    return torch.empty(part.get_shape(), dtype=_SAFETENSORS[kind], device="meta")


# ---- files of torch.save -----------------------------------------------------------------------


class StandIn:
    """What a file's unknown class or function becomes: it takes everything and does nothing."""

    def __new__(cls, *arguments: Any, **named: Any) -> StandIn:
        """A new one, whatever the arguments."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Forget `state`."""


def open_torch(path: Path, allow_pickle: bool = False) -> Opened:
    """A file of ``torch.save``, a zip or the older kind, read by PyTorch's restricted unpickler.

    mmengine puts its log of losses into a checkpoint, an object of a class of its own. Such a
    class is not looked for: a `StandIn` takes its place, and the tensors are read.

    Args:
        path: the file.
        allow_pickle: read it as Python would, which runs whatever code its author put there.

    Raises:
        UserError: a damaged file, one that could unpack to more than it holds, or one whose
            objects cannot be stood in for.
    """
    packed = _is_zip(path)
    size = _check_zip(path, stored=True) if packed else path.stat().st_size
    strangers: list[str] = []
    content = _load(path, "meta", strangers, allow_pickle)

    def read() -> Any:
        if packed:
            _check_sums(path)
        return _load(path, "cpu", strangers, allow_pickle)

    return Opened(content, read, size, tuple(strangers))


def _load(path: Path, place: str, strangers: list[str], allow_pickle: bool) -> Any:
    """``torch.load`` with a stand-in for each of `strangers`, which grows by those it meets."""
    while True:
        known: list[Any] = [(type(name, (StandIn,), {}), name) for name in strangers]
        try:
            with torch.serialization.safe_globals(known), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of sparse tensors and the like, refused later
                return torch.load(path, map_location=place, weights_only=not allow_pickle)
        except Exception as error:  # a damaged pickle raises whatever it likes
            met = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
            name = met[1] if met and "." in met[1] else f"builtins.{met[1]}" if met else ""
            if not name or name in strangers:
                raise _refused(path, error, allow_pickle) from error
            strangers.append(name)


def _refused(path: Path, error: Exception, allow_pickle: bool) -> UserError:
    if allow_pickle and isinstance(error, ImportError | AttributeError):
        return UserError(
            f"{path}: needs the program that made it ({error}); open it without --unsafe-pickle, "
            "or save its state_dict alone where that is installed"
        )
    system = re.search(r"unsupported GLOBAL (\S+)", str(error))
    if system:
        return UserError(
            f"{path}: asks for {system[1]} when it is opened, as no file of weights does; take it "
            "from another place"
        )
    foreign = re.search(
        r"(?:Can only (?:\w+ (?:for|to)|build|create new)|Trying to call reduce) [^\n]{,200}",
        str(error),
    )
    if foreign:
        return UserError(
            f"{path}: holds objects besides its tensors that cannot be left out ({foreign[0]}); "
            "save its state_dict alone where it was made, or, if you trust its author, let it run "
            "the author's code with --unsafe-pickle (allow_pickle=True)"
        )
    return unreadable(path, error)


# ---- zip files ---------------------------------------------------------------------------------


def _is_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _check_zip(path: Path, *, stored: bool) -> int:
    """How many bytes a zip file unpacks to, by its own directory.

    Raises:
        UserError: it has none, or claims more than a file of its size can hold.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise unreadable(path, error) from error
    total, size = sum(record.file_size for record in records), path.stat().st_size
    packed = next((r for r in records if r.compress_type != zipfile.ZIP_STORED), None)
    if stored and packed:
        raise unreadable(path, f"{packed.filename} is compressed, as torch.save never does")
    if total > (1 if stored else MOST_UNPACKED) * size:
        raise UserError(
            f"{path}: its {size:,} bytes would unpack to {total:,}, as no file of weights does; "
            "take it from another place"
        )
    return total


def _check_sums(path: Path) -> None:
    """Compare the check sum of each record, which ``torch.load`` does not look at."""
    try:
        with zipfile.ZipFile(path) as archive:
            spoilt = archive.testzip()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise unreadable(path, error) from error
    if spoilt:
        raise unreadable(path, f"the check sum of {spoilt} is another")


# ---- Flax --------------------------------------------------------------------------------------


def open_flax(path: Path) -> Opened:
    """Arrays of a ``.npz`` in PyTorch's order: OIHW kernels, (out, in) matrices, q, k, v joined.

    Raises:
        UserError: a damaged file, one that would unpack to far more than its size, or one with
            Python objects.
    """
    import numpy as np

    size = _check_zip(path, stored=False)
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = {record.filename.removesuffix(".npy"): _header(archive, record)
                       for record in archive.infolist()}  # fmt: skip
    except Exception as error:  # zip, header or dtype: each raises its own kind
        raise unreadable(path, error) from error

    def read() -> dict[str, Tensor]:
        try:
            with open(path, "rb") as content, np.load(content, allow_pickle=False) as arrays:
                found = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        except Exception as error:  # its check sums are compared on the way
            raise unreadable(path, error) from error
        return _in_torchs_order(path, found)

    return Opened(_in_torchs_order(path, claimed), read, size)


def _header(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> Tensor:
    """An array's shape and type, as a tensor without numbers."""
    import numpy as np

    with archive.open(record) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0}[version]  # fmt: skip
        shape, _, kind = read(file)
    if kind.hasobject:
        raise ValueError(f"{record.filename} holds Python objects")
    if math.prod(shape) * kind.itemsize > record.file_size:
        raise ValueError(f"{record.filename} claims {shape}, which it does not hold")
    return torch.empty(shape, dtype=torch.from_numpy(np.empty(0, kind)).dtype, device="meta")


def _in_torchs_order(path: Path, found: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors = {}
    for name, value in found.items():
        stem, _, part = name.rpartition("/")
        kind = stem.rpartition("/")[2]
        if kind in ("query", "key", "value"):
            if kind == "query":
                tensors[name.replace("query", "query+key+value")] = _join(path, found, name)
        else:
            tensors[name] = _turn(kind, part, value)
    return tensors


def _join(path: Path, found: dict[str, Tensor], query: str) -> Tensor:
    """Rows q, k, v: three (D, A, D/A) kernels -> (3D, D), three (A, D/A) biases -> (3D,)."""
    parts = []
    for kind in ("query", "key", "value"):
        name = query.replace("query", kind)
        if name not in found:
            raise UserError(f"{path}: has no {name!r}, which belongs to {query!r}")
        value = found[name]
        if value.shape != found[query].shape or value.ndim < 2:
            raise UserError(
                f"{path}: {name!r} is {tuple(value.shape)}, expected (D, A, D/A) or (A, D/A) as "
                f"{query!r} {tuple(found[query].shape)}"
            )
        parts.append(value.flatten(1).T if name.endswith("kernel") else value.flatten())
    return torch.cat(parts)


def _turn(kind: str, part: str, value: Tensor) -> Tensor:
    if part != "kernel":
        return value
    if value.ndim == 4:
        return value.permute(3, 2, 0, 1)  # height, width, in, out -> out, in, height, width
    if kind == "out" and value.ndim > 1:
        value = value.flatten(0, -2)  # (A, D/A, D) -> (D, D)
    return value.T if value.ndim == 2 else value
