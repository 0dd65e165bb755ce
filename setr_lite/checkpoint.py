"""A checkpoint is a folder of plain files, complete or absent.

=====================  ============================================================
file                   contents
=====================  ============================================================
``model.safetensors``  parameters and BatchNorm statistics, under their module names
``config.json``        the whole `RunConfig`, class names and colours
``state.json``         step, sample counter, best mIoU, versions
``optimizer.pt``       the optimiser's state (absent in a checkpoint made for use only)
=====================  ============================================================

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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .config import RunConfig
from .distributed.machines import writes
from .distributed.parallel import is_cut_up, load_optimizer, whole_state
from .errors import UserError, controls, in_short
from .files import (
    find_folder,
    folder_beside,
    is_number,
    is_whole,
    now_at,
    read_json,
    remove,
    require,
    require_utf8,
)
from .optim import checked_state

DAMAGED = "the checkpoint is damaged, take another one"
FILES = ("model.safetensors", "config.json", "state.json", "optimizer.pt")
"""What a checkpoint is made of."""
TRIES = 20
"""Times that a checkpoint is read again because a run replaced it meanwhile."""

Read = TypeVar("Read")


def save_checkpoint(
    folder: str | Path, model: nn.Module, config: RunConfig, *, classes: Sequence[str] = (),
    palette: Sequence[Sequence[int]] = (), state: dict[str, Any] | None = None,
    optimizer: torch.optim.Optimizer | None = None, spoilt: bool = False,
) -> Path:
    """Write a checkpoint, replacing the one of that name only when the new one is complete.

    In a run of several processes all of them call it. Those for which `distributed.writes` is true
    write: the first one, or the first of each machine if machines have disks of their own.

    Args:
        folder: new, or a checkpoint.
        model, config: what is saved, and the run that `from_pretrained` rebuilds it from.
        classes, palette: names and RGB colours, by label: one for each class, or none.
        state: for ``state.json``.
        optimizer: None leaves ``optimizer.pt`` out.
        spoilt: write values that are no finite numbers, too, to be looked at.

    Raises:
        UserError: a value is no finite number; `folder` holds something else; the files cannot be
            written (full disk, no permission). What was there stays.
    """
    folder = Path(folder)
    if not writes() and not is_cut_up(model):
        return folder
    tensors = whole_state(model.state_dict())
    moments = None if optimizer is None else whole_state(optimizer.state_dict())
    if not writes():
        return folder
    _refuse_other_folders(folder)
    require_utf8(folder)
    bad = "" if spoilt else not_finite(tensors) or (moments and not_finite_moments(moments))
    if bad:
        raise UserError(f"could not save {folder}: {bad}; what was saved there before is untouched")
    colours = [[int(v) for v in colour] for colour in palette]
    info = {"config": config.to_dict(), "classes": list(classes), "palette": colours}
    _write(folder, {"config.json": info, "state.json": state or {}}, tensors, moments)
    return folder


def _write(
    folder: Path, texts: dict[str, dict[str, Any]], tensors: dict[str, Tensor],
    moments: dict[str, Any] | None,
) -> None:  # fmt: skip
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        with folder_beside(folder) as part:
            _require_space(part, [tensors, moments])
            save_file(tensors, part / "model.safetensors")
            if moments is not None:
                texts["state.json"] = texts["state.json"] | {MOMENTS: len(moments["state"])}
                torch.save(moments, part / "optimizer.pt")
            for name, values in texts.items():
                (part / name).write_text(json.dumps(values, indent=1))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"could not save {folder}: {error}; what was saved there before is untouched, free "
            "some space or choose another train.out"
        ) from error


def _refuse_other_folders(folder: Path) -> None:
    """A folder that is replaced goes; so it must be a checkpoint, or empty, or a link."""
    if folder.is_symlink() or not folder.exists() or (folder / "state.json").exists():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise UserError(
            f"{folder}: holds something that is no checkpoint, which writing one there would "
            "delete; choose another place"
        )


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """What to say of the first tensor that holds NaN or infinity; empty if none does."""
    for name, value in tensors.items():
        if not value.isfinite().all():
            return f"{name!r} holds NaN or infinity"
    return ""


def not_finite_moments(moments: Mapping[str, Any]) -> str:
    """The same of an optimiser's state dict."""
    named = {
        f"the optimiser's {key} of parameter {number}": value
        for number, values in moments["state"].items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }
    return not_finite(named)


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
    try:
        with folder_beside(target) as part:
            for file in folder.iterdir():
                _link(file, part / file.name)
    except (OSError, shutil.Error) as error:
        raise UserError(f"could not save {target}: {error}; {folder} is untouched") from error
    there = [p for p in folder.parent.iterdir() if re.fullmatch(r"step_\d+", p.name)]
    for old in sorted(there, key=lambda p: int(p.name[5:]))[:-count]:
        remove(old)


def steady(folder: str | Path, read: Callable[[Path], Read]) -> Read:
    """What `read` makes of a checkpoint that a run may be replacing at this moment.

    Files of two checkpoints never come together: where another has taken its place meanwhile, it
    is read again.

    Args:
        folder: the checkpoint.
        read: called with the folder in which its files are now.

    Raises:
        UserError: what `read` raises of a checkpoint that stayed where it was.
    """
    for _ in range(TRIES):
        place = _complete(folder)
        before = _identity(place)
        try:
            found = read(place)
        except UserError:
            if before == _identity(place) is not None:
                raise
        else:
            if before == _identity(place) is not None:
                return found
    raise UserError(f"{folder}: was replaced {TRIES} times while it was read; copy it and try that")


def _identity(folder: Path) -> tuple[int, ...] | None:
    """Another one for every checkpoint; None between two."""
    try:
        found = [os.stat(place) for place in (folder, folder / "state.json")]
    except OSError:
        return None
    return tuple(n for one in found for n in (one.st_ino, one.st_mtime_ns))


def read_info(folder: str | Path) -> dict[str, Any]:
    """``config.json`` as it is: keys config (a dict), classes (names), palette (RGB rows).

    Raises:
        UserError: no checkpoint there, or a file that holds something else.
    """
    path = _complete(folder) / "config.json"
    info = read_json(path, DAMAGED)
    for key, kind in {"config": dict, "classes": list, "palette": list}.items():
        require(isinstance(info.get(key), kind), f"{path}: {key!r}", info.get(key),
                f"a JSON {'object' if kind is dict else 'list'}", DAMAGED)  # fmt: skip
    for row in info["palette"]:
        fits = isinstance(row, list) and len(row) == 3 and all(is_whole(v, 0, 255) for v in row)
        require(fits, f"{path}: a row of 'palette'", row, "a colour [r, g, b] in 0..255", DAMAGED)
    _check_names(path, info["classes"], info["config"].get("model"))
    return info


def _check_names(path: Path, names: list[Any], model: Any) -> None:
    for name in names:
        fits = isinstance(name, str) and name != "" and not controls(name)
        require(fits, f"{path}: one of 'classes'", name, "a name in printable characters", DAMAGED)
        twice = names.count(name) > 1
        require(not twice, f"{path}: one of 'classes'", name, "every name once", DAMAGED)
    wanted = model.get("num_classes") if isinstance(model, dict) else None
    if names and is_whole(wanted):
        require(len(names) == wanted, f"{path}: 'classes'", names, f"{wanted} names, as "
                "model.num_classes says", DAMAGED)  # fmt: skip


def read_config(folder: str | Path) -> RunConfig:
    """The settings of the run that wrote the checkpoint.

    Raises:
        UserError: no checkpoint there, or a setting that no run has.
    """
    path = _complete(folder) / "config.json"
    values = read_info(folder)["config"]
    try:
        return RunConfig.from_dict(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def check_classes(folder: str | Path, names: Sequence[str], data: str) -> None:
    """Compare the classes of a checkpoint with those of a data set, in their order.

    A checkpoint that names none, as of a converted file, is not compared. Capitals, blanks and
    punctuation do not count.

    Args:
        folder: the checkpoint.
        names: of the data set, by label.
        data: what to call it.

    Raises:
        UserError: another name under a number; the first is named.
    """
    ours = read_info(folder)["classes"]
    for k, (saved, there) in enumerate(zip(ours, names, strict=False)):
        if _plain(saved) != _plain(there):
            raise UserError(
                f"{folder}: its class {k} is {saved!r}, that of {data} is {there!r}; a score "
                "would compare one with the other. List the classes in the order of the "
                "checkpoint's config.json"
            )


def _plain(name: str) -> str:
    kept = re.sub(r"[\W_]+", "", name.casefold())
    return kept or name


def read_state(folder: str | Path, *needed: str) -> dict[str, Any]:
    """Step, sample counter and scores at the time of writing.

    Args:
        folder: the checkpoint.
        needed: keys that must be there.

    Raises:
        UserError: no checkpoint there, or a file that holds something else.
    """
    path = _complete(folder) / "state.json"
    state = read_json(path, DAMAGED)
    for key, (fits, wanted) in STATE.items():
        if key in state or key in needed:
            missing = state.get(key, "missing")
            require(key in state and fits(state[key]), f"{path}: {key!r}", missing, wanted, DAMAGED)
    scored = state.get("scored", 0)
    later = scored <= state.get("step", scored)
    require(later, f"{path}: 'scored'", scored, "no more than 'step'", DAMAGED)
    return state


def _counts(value: Any) -> bool:
    """Whether it is what `datasets.feed.Faults` counts."""
    if not isinstance(value, dict) or set(value) - {"images", "workers"}:
        return False
    return all(map(is_whole, value.values()))


MOMENTS = "moments"
STATE: dict[str, tuple[Callable[[Any], bool], str]] = {
    "step": (is_whole, "a whole number, 0 or more"),
    "samples": (is_whole, "a whole number, 0 or more"),
    "scored": (is_whole, "a whole number, 0 or more"),
    MOMENTS: (is_whole, "a whole number, 0 or more"),
    "best": (lambda value: is_number(value, -1, 1), "a number in -1..1"),
    "miou": (lambda value: value is None or is_number(value, 0, 1), "a number in 0..1, or null"),
    "finished": (lambda value: isinstance(value, bool), "true or false"),
    "faults": (_counts, "an object with the counts images and workers"),
}
"""What ``state.json`` may say: whether a value fits, and in words. ``moments`` is the number of
parameters that ``optimizer.pt`` has a state of."""


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
    bad = not_finite(tensors)
    if bad:
        raise UserError(f"{path}: {bad}, as no training leaves it; {DAMAGED}")
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
        UserError: there is none, or what `optim.checked_state` raises of it.
    """
    path = _complete(folder) / "optimizer.pt"
    if not path.exists():
        raise UserError(f"{path}: not there; this checkpoint can be used but not resumed")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises whatever it likes
        why = in_short(error)
        raise UserError(f"{path}: cannot be resumed from ({why}); {DAMAGED}") from error
    count = read_state(folder).get(MOMENTS)
    load_optimizer(optimizer, checked_state(f"{path}", state, optimizer, DAMAGED, count))


def exists(folder: str | Path) -> bool:
    """Whether a complete checkpoint is there."""
    return now_at(Path(folder), "state.json") is not None


def own_files(folder: str | Path) -> list[Path]:
    """The files of a checkpoint and of its run, which nothing else may replace."""
    return [*(Path(folder) / name for name in FILES), Path(folder).resolve().parent / "log.csv"]


def _complete(folder: str | Path) -> Path:
    """`folder`, or its predecessor if a crash fell between the two renames.

    A name with published weights, or of the hub, stands for the folder that `find_folder` makes.
    """
    folder = find_folder(folder)
    place = now_at(folder, "state.json")
    if place:
        return place
    inside = folder / "last"
    if (inside / "state.json").exists():
        raise UserError(f"{folder}: is a run, not a checkpoint; use {inside}")
    raise UserError(f"{folder}: no checkpoint here; give a folder with model.safetensors in it")


def _require_space(folder: Path, state: list[Any]) -> None:
    """OSError if tensors, and a megabyte for the rest, do not fit on the disk."""
    size = sum(v.nbytes for v in tree_leaves(state) if isinstance(v, Tensor)) + 2**20
    total, _, free = shutil.disk_usage(folder)
    if total and size > free:  # some network disks tell no sizes
        raise OSError(
            f"No space left on device: {size / 2**20:.0f} MiB to write, {free / 2**20:.0f} free")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
