"""Weights of other programs, in and out, with every tensor accounted for.

One function per source turns a file's tensors into ours: each is used, resized, or dropped for a
reason that the :class:`Report` prints. A tensor that is none of these, one that is missing, and
one of another shape end in an error: nothing is ever left out silently, as ``strict=False`` would.

Shapes: D is the width of the encoder, h x w the grid of its position table.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .encoder import resize_pos_embed
from .errors import UserError
from .weight_files import WeightFile, read_weight_file
from .weight_tables import (
    AUGREG,
    AUGREG_DROPPED,
    DEIT_DROPPED,
    MMSEG_VIT,
    MMSEG_VIT_DROPPED,
    TIMM,
    TIMM_DROPPED,
    rename,
)

Shapes = Mapping[str, torch.Size]
Grid = tuple[int, int]
Resampling = Literal["bilinear", "bicubic"]
Converted = tuple[dict[str, Tensor], "Report"]


# ---- the account ---------------------------------------------------------------------------


@dataclass
class Report:
    """What became of every tensor of a file; ``print(report)`` is a short table."""

    path: str
    """The file."""
    source: str
    """What it was recognised as."""
    used: list[str] = field(default_factory=list)
    """Names of the tensors taken as they are."""
    resized: dict[str, str] = field(default_factory=dict)
    """Name -> what was done."""
    dropped: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> names of the tensors left behind."""
    missing: dict[str, list[str]] = field(default_factory=dict)
    """What stands in for them -> names that the file lacks, each allowed explicitly."""

    def __str__(self) -> str:
        rows = [("used", len(self.used), "")]
        rows += [("resized", 1, f"{name}: {what}") for name, what in self.resized.items()]
        for word, groups in (("dropped", self.dropped), ("missing", self.missing)):
            rows += [(word, len(n), f"{_grouped(n)}: {why}") for why, n in groups.items()]
        lines = [f"  {word:8}{count:5}  {text}".rstrip() for word, count, text in rows]
        return "\n".join([f"{self.path}: {self.source}", *lines])


def _grouped(names: Iterable[str]) -> str:
    """Names with their numbers as N and their last parts together, each group once."""
    groups: dict[str, list[str]] = {}
    for name in names:
        stem, dot, last = re.sub(r"(?<=[._])\d+(?=[._])", "N", name).rpartition(".")
        parts = groups.setdefault(stem + dot, [])
        parts += [last] if last not in parts else []
    return ", ".join(
        stem + (parts[0] if len(parts) == 1 else f"{{{','.join(parts)}}}")
        for stem, parts in groups.items()
    )


def _translate(
    file: WeightFile,
    module: nn.Module,
    source: str,
    table: Mapping[str, str],
    dropped: Mapping[str, str],
    pos_embed: Resampling = "bilinear",
    grid: Grid | None = None,
) -> Converted:
    """The file's tensors under the names of `module`, which they must fill exactly."""
    report, left = Report(str(file.path), source), dict(file.tensors)
    for name in file.tensors:
        reason = rename(dropped, name)
        if reason:
            report.dropped.setdefault(reason, []).append(name)
            del left[name]
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    names = {ours: rename(table, ours) or ours for ours in shapes}
    wanted = {names[ours]: shape for ours, shape in shapes.items()}
    _check_names(file.path, source, wanted, {name: value.shape for name, value in left.items()})
    _resize_position_table(left, module, names, report, pos_embed, grid)
    _check_shapes(file.path, wanted, left)
    report.used = [name for name in wanted if name not in report.resized]
    return {ours: left[theirs] for ours, theirs in names.items()}, report


def _check_names(path: Path, source: str, wanted: Shapes, found: Shapes) -> None:
    missing = {name: shape for name, shape in wanted.items() if name not in found}
    extra = {name: shape for name, shape in found.items() if name not in wanted}
    for name, shape in missing.items():
        raise UserError(
            f"{path}: has no {name!r} {tuple(shape)}, which the model needs"
            f"{_near(name, extra)}{_more(missing)}"
        )
    for name, shape in extra.items():
        raise UserError(
            f"{path}: has {name!r} {tuple(shape)}, for which the model has no place ({source}); it "
            f"is not dropped silently{_near(name, wanted)}{_more(extra)}"
        )


def _check_shapes(path: Path, wanted: Shapes, found: Mapping[str, Tensor]) -> None:
    for name, shape in wanted.items():
        if found[name].shape != shape:
            raise UserError(
                f"{path}: {name!r} is {tuple(found[name].shape)}, the model needs {tuple(shape)}; "
                "build the model in the size of the file"
            )


def _near(name: str, choices: Shapes) -> str:
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f"; nearest is {close[0]!r} {tuple(choices[close[0]])}" if close else ""


def _more(names: Shapes) -> str:
    return f" (and {len(names) - 1} more like that)" if len(names) > 1 else ""


# ---- the position table --------------------------------------------------------------------


def resample_pos_embed(table: Tensor, old: Grid, new: Grid, mode: Resampling) -> Tensor:
    """A position table for another grid, the class token's row untouched.

    Args:
        table: (1, 1 + h*w, D).
        old: its (h, w).
        new: (h', w') wanted.
        mode: ``bilinear`` as SETR was published, or ``bicubic`` with antialiasing as timm does.

    Returns:
        (1, 1 + h'*w', D).
    """
    if mode == "bilinear" or old == new:
        return resize_pos_embed(table, old, new)
    rows = table[:, 1:].transpose(1, 2).unflatten(2, old)  # (1, D, h, w)
    rows = F.interpolate(rows, size=new, mode="bicubic", antialias=True)
    return torch.cat([table[:, :1], rows.flatten(2).transpose(1, 2)], dim=1)


def _resize_position_table(
    left: dict[str, Tensor],
    module: nn.Module,
    names: Mapping[str, str],
    report: Report,
    mode: Resampling,
    grid: Grid | None,
) -> None:
    """Bring the file's position table, in place, to the grid of `module`'s encoder."""
    encoder = getattr(module, "encoder", module)
    name = next(n for ours, n in names.items() if ours.endswith("pos_embed"))
    if left[name].ndim != 3:
        return  # `_check_shapes` names it
    rows = left[name].shape[1] - 1
    side = math.isqrt(max(rows, 0))
    if grid is None:
        grid = (side, side) if side * side == rows else encoder.grid
    if grid[0] * grid[1] != rows:
        raise UserError(
            f"{report.path}: {name!r} has {rows} rows besides the class token's, no square and not "
            f"{grid[0]} x {grid[1]}; give the size in pixels that it was made for"
        )
    if grid != encoder.grid:
        left[name] = resample_pos_embed(left[name], grid, encoder.grid, mode)
        old, new = (f"{h} x {w}" for h, w in (grid, encoder.grid))
        report.resized[name] = f"{old} -> {new}, {mode}"


# ---- plain ViTs ----------------------------------------------------------------------------


def from_timm(
    file: WeightFile, encoder: nn.Module, pos_embed: Resampling = "bilinear"
) -> Converted:
    """A plain ViT of timm or its forerunner (``jx_vit_large_p16_384-b3be5167.pth``).

    Returns:
        The encoder's state dict and the account of the file.

    Raises:
        UserError: a tensor unaccounted for, missing, or of another shape.
    """
    return _translate(file, encoder, "plain ViT, timm's names", TIMM, TIMM_DROPPED, pos_embed)


def from_deit(
    file: WeightFile, encoder: nn.Module, pos_embed: Resampling = "bilinear"
) -> Converted:
    """A distilled DeiT: position rows 0 and 1 belong to the class and the distillation token.

    Returns and raises as `from_timm`.
    """
    return _distilled(file, encoder, "distilled DeiT, timm's names", TIMM, DEIT_DROPPED, pos_embed)


def from_mmseg_vit(
    file: WeightFile, encoder: nn.Module, pos_embed: Resampling = "bilinear"
) -> Converted:
    """A plain ViT or DeiT as mmsegmentation's ``vit2mmseg.py`` leaves it.

    Returns and raises as `from_timm`.
    """
    source = "plain ViT, mmsegmentation's names"
    translate = _distilled if "dist_token" in file.tensors else _translate
    return translate(file, encoder, source, MMSEG_VIT, MMSEG_VIT_DROPPED, pos_embed)


def from_augreg(
    file: WeightFile, encoder: nn.Module, pos_embed: Resampling = "bilinear"
) -> Converted:
    """A Flax ``.npz`` of the AugReg ViTs, which timm's ``vit_*_patch16_384.augreg_*`` come from.

    Returns and raises as `from_timm`.
    """
    source = "plain ViT, AugReg's Flax names"
    return _translate(file, encoder, source, AUGREG, AUGREG_DROPPED, pos_embed)


def _distilled(file: WeightFile, encoder: nn.Module, source: str, table, dropped, pos_embed):
    rows = file.tensors.get("pos_embed")
    if rows is not None and rows.ndim == 3:
        rows = torch.cat([rows[:, :1], rows[:, 2:]], dim=1)
        file = replace(file, tensors={**file.tensors, "pos_embed": rows})
    state, report = _translate(file, encoder, source, table, dropped, pos_embed)
    step = report.resized.get("pos_embed")
    report.resized["pos_embed"] = "distillation row left out" + (f"; {step}" if step else "")
    report.used = [name for name in report.used if name != "pos_embed"]
    return state, report


PLAIN: dict[str, Callable[..., Converted]] = {
    "timm": from_timm,
    "deit": from_deit,
    "mmseg_vit": from_mmseg_vit,
    "augreg": from_augreg,
}
"""The reader of each kind of plain ViT."""

KINDS = {
    "backbone.patch_embed.proj.weight": "official",
    "backbone.patch_embed.projection.weight": "mmseg",
    "patch_embed.projection.weight": "mmseg_vit",
    "embedding/kernel": "augreg",
    "dist_token": "deit",
    "patch_embed.proj.weight": "timm",
}
"""The tensor that gives a layout away, in the order in which they are tried."""


def kind_of(file: WeightFile) -> str:
    """The layout of a file, a value of `KINDS`.

    Raises:
        UserError: none of them.
    """
    for name, kind in KINDS.items():
        if name in file.tensors:
            return kind
    names = ", ".join(list(file.tensors)[:3])
    raise UserError(
        f"{file.path}: not recognised; it begins with {names}, and has none of {', '.join(KINDS)}"
    )


def load_pretrained(
    encoder: nn.Module,
    source: str | Path,
    *,
    pos_embed: Resampling = "bilinear",
    allow_pickle: bool = False,
) -> Report:
    """Start `encoder` from a plain ViT: a file of timm, jx, DeiT, AugReg or ``vit2mmseg.py``.

    Args:
        encoder: our `VisionTransformer`, of the file's width, depth and patch size.
        source: the file.
        pos_embed: how its (square) position table is brought to the encoder's grid: ``bilinear``
            as SETR was published, ``bicubic`` with antialiasing as timm does.
        allow_pickle: see `read_weight_file`.

    Returns:
        The account of the file's tensors; print it.

    Raises:
        UserError: what `read_weight_file` and `from_timm` raise; a file of another kind.
    """
    file = read_weight_file(source, allow_pickle=allow_pickle)
    kind = kind_of(file)
    if kind not in PLAIN:
        raise UserError(f"{file.path}: a whole SETR ({kind}), expected a plain ViT; convert it")
    state, report = PLAIN[kind](file, encoder, pos_embed)
    encoder.load_state_dict(state)
    return report
