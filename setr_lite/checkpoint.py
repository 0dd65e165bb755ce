"""A checkpoint is a folder of plain files, complete or absent.

====================  =============================================================
``model.safetensors``  parameters and BatchNorm statistics, under their module names
``config.json``        the whole `RunConfig`, class names and colours
``state.json``         step, sample counter, best mIoU, versions
``optimizer.pt``       the optimiser's state (absent in a checkpoint made for use only)
====================  =============================================================

It is written beside its final name and renamed, so a crash at any instant leaves the last
complete one, and a disk that is too small is noticed before the first byte. Weights and state are
those of one process, however many took part. Nothing in it is executed when it is read: JSON,
safetensors, and a tensor file opened with ``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .config import RunConfig
from .distributed.parallel import is_cut_up, load_optimizer, whole_state
from .distributed.processes import rank
from .errors import UserError, in_short
from .files import find_folder

DAMAGED = "the checkpoint is damaged, take another one"
OLD = ".old"  # the previous checkpoint, during the two renames that replace it


def save_checkpoint(
    folder: str | Path,
    model: nn.Module,
    config: RunConfig,
    *,
    classes: Sequence[str] = (),
    palette: Sequence[Sequence[int]] = (),
    state: dict[str, Any] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Path:
    """Write a checkpoint, replacing the one of that name only when the new one is complete.

    In a run of several processes all of them call it and the first one writes.

    Raises:
        UserError: the files cannot be written (full disk, no permission); what was there stays.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder = Path(folder)
    if rank() > 0 and not is_cut_up(model):
        return folder
    tensors = whole_state(model.state_dict())
    moments = None if optimizer is None else whole_state(optimizer.state_dict())
    if rank() > 0:
        return folder
    part = _beside(folder, ".part")
    info = {"config": config.to_dict(), "classes": list(classes)}
    info["palette"] = [[int(v) for v in colour] for colour in palette]
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _require_space(part, [tensors, moments])
        save_file(tensors, part / "model.safetensors")
        (part / "config.json").write_text(json.dumps(info, indent=1))
        (part / "state.json").write_text(json.dumps(state or {}, indent=1))
        if moments is not None:
            torch.save(moments, part / "optimizer.pt")
        _flush(part)
        _replace(folder, part)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise UserError(
            f"could not save {folder}: {error}; what was saved there before is untouched, free "
            "some space or choose another train.out"
        ) from error
    return folder


def keep_numbered(folder: str | Path, step: int, count: int) -> None:
    """Keep a checkpoint as ``step_NUMBER`` beside it, and of all such the latest `count`.

    Files are linked, not copied, where the disk can: `save_checkpoint` never changes a file, it
    writes new ones. `count` 1 keeps none, `folder` itself is one.

    Raises:
        UserError: the files cannot be written.
    """
    if count == 1:
        return
    folder = Path(folder)
    target = folder.with_name(f"step_{step:07d}")
    part = target.with_name(target.name + ".part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(folder, part, copy_function=_link)
        _replace(target, part)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise UserError(f"could not save {target}: {error}; {folder} is untouched") from error
    there = [p for p in folder.parent.iterdir() if re.fullmatch(r"step_\d+", p.name)]
    for old in sorted(there, key=lambda p: int(p.name[5:]))[:-count]:
        shutil.rmtree(old, ignore_errors=True)


def read_info(folder: str | Path) -> dict[str, Any]:
    """``config.json`` as it is: keys config (a dict), classes (names), palette (RGB rows).

    Raises:
        UserError: no checkpoint there, or a file that holds something else.
    """
    path = _complete(folder) / "config.json"
    info = _read_json(path)
    for key, kind in {"config": dict, "classes": list, "palette": list}.items():
        if not isinstance(info.get(key), kind):
            raise UserError(f"{path}: {key!r} is missing or of another type; {DAMAGED}")
    if not all(isinstance(name, str) for name in info["classes"]):
        raise UserError(f"{path}: 'classes' is no list of names; {DAMAGED}")
    rows = [row for row in info["palette"] if not isinstance(row, list) or len(row) != 3]
    if rows or not all(isinstance(v, int) and 0 <= v < 256 for row in info["palette"] for v in row):
        raise UserError(f"{path}: 'palette' is no list of colours [r, g, b] in 0..255; {DAMAGED}")
    return info


def read_config(folder: str | Path) -> RunConfig:
    """The settings of the run that wrote the checkpoint."""
    return RunConfig.from_dict(read_info(folder)["config"])


def read_state(folder: str | Path, *needed: str) -> dict[str, Any]:
    """Step, sample counter and scores at the time of writing.

    Args:
        folder: the checkpoint.
        needed: keys that must be there.

    Raises:
        UserError: no checkpoint there, or a file that holds something else.
    """
    path = _complete(folder) / "state.json"
    state = _read_json(path)
    number = int | float
    kinds = {"step": int, "scored": int, "best": number, "miou": number | None, "faults": dict}
    for key, kind in kinds.items():
        if (key in state or key in needed) and not isinstance(state.get(key, ""), kind):
            raise UserError(f"{path}: {key!r} is missing or of another type; {DAMAGED}")
    return state


def sha256(folder: str | Path) -> str:
    """SHA-256 of ``model.safetensors``, in hexadecimal: says which weights made a score."""
    with open(_complete(folder) / "model.safetensors", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(folder: str | Path) -> dict[str, Tensor]:
    """``model.safetensors`` as it is, under the names of `SETR`'s parameters and buffers.

    Raises:
        UserError: no checkpoint there, a damaged file, or a value that is no number.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = _complete(folder) / "model.safetensors"
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from error
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise UserError(
                f"{path}: {name!r} holds NaN or infinity, as no training leaves it; {DAMAGED}"
            )
    return tensors


def read_weights(folder: str | Path, model: nn.Module) -> None:
    """Load ``model.safetensors`` into `model`; every name and shape must match.

    Raises:
        UserError: what `read_tensors` and `check_fit` raise.
    """
    tensors = read_tensors(folder)
    check_fit(folder, tensors, model)
    model.load_state_dict(tensors)


def check_fit(folder: str | Path, tensors: dict[str, Tensor], model: nn.Module) -> None:
    """Compare the tensors of a checkpoint with those of a model, which may be on the meta device.

    Raises:
        UserError: a missing, unexpected or differently shaped tensor; the first one is named.
    """
    path, wanted = _complete(folder) / "model.safetensors", model.state_dict()
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors:
            raise UserError(f"{path}: has no {name!r}, which the model needs; other settings?")
        if name not in wanted:
            raise UserError(f"{path}: has {name!r}, which the model does not; other settings?")
        if tensors[name].shape != wanted[name].shape:
            raise UserError(
                f"{path}: {name!r} is {tuple(tensors[name].shape)}, the model's is "
                f"{tuple(wanted[name].shape)}; build it with the checkpoint's own config"
            )


def read_optimizer(folder: str | Path, optimizer: torch.optim.Optimizer) -> None:
    """Load ``optimizer.pt`` into `optimizer`.

    Raises:
        UserError: there is none, or it belongs to other parameter groups.
    """
    path = _complete(folder) / "optimizer.pt"
    if not path.exists():
        raise UserError(f"{path}: not there; this checkpoint can be used but not resumed")
    try:
        load_optimizer(optimizer, torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged pickle raises whatever it likes
        why = in_short(error)
        raise UserError(f"{path}: cannot be resumed from ({why}); {DAMAGED}") from error


def exists(folder: str | Path) -> bool:
    """Whether a complete checkpoint is there."""
    folder = Path(folder)
    return any((f / "state.json").exists() for f in (folder, _beside(folder, OLD)))


def _beside(folder: Path, ending: str) -> Path:
    return folder.parent / (folder.name + ending)  # "." has no name


def _complete(folder: str | Path) -> Path:
    """`folder`, or its predecessor if a crash fell between the two renames.

    A name with published weights, or of the hub, stands for the folder that `find_folder` makes.
    """
    folder = find_folder(folder)
    old = _beside(folder, OLD)
    if (folder / "state.json").exists():
        return folder
    if (old / "state.json").exists():
        return old
    inside = folder / "last"
    if (inside / "state.json").exists():
        raise UserError(f"{folder}: is a run, not a checkpoint; use {inside}")
    raise UserError(f"{folder}: no checkpoint here; give a folder with model.safetensors in it")


def _replace(folder: Path, part: Path) -> None:
    """Two renames, each atomic; `_complete` reads the old folder between them."""
    old = _beside(folder, OLD)
    if folder.exists():  # else `old`, if there, is the only good one: keep it until the end
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _require_space(folder: Path, state: list[Any]) -> None:
    """OSError if tensors, and a megabyte for the rest, do not fit on the disk."""
    size = sum(v.nbytes for v in tree_leaves(state) if isinstance(v, Tensor)) + 2**20
    total, _, free = shutil.disk_usage(folder)
    if total and size > free:  # some network disks tell no sizes
        raise OSError(
            f"No space left on device: {size / 2**20:.0f} MiB to write, {free / 2**20:.0f} free")


def _flush(folder: Path) -> None:
    """On disk before the rename, or a power cut could leave the new name with empty files."""
    for path in (*folder.iterdir(), folder):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); {DAMAGED}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: a {type(found).__name__}, not a JSON object; {DAMAGED}")
    return found
