"""What becomes of every tensor of a file: used, resized, dropped for a reason, or an error.

Shapes: D is the width of the encoder, h x w the grid of its position table.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..encoder import resize_pos_embed
from ..errors import UserError
from .files import WeightFile
from .tables import rename

Shapes = Mapping[str, torch.Size]
Grid = tuple[int, int]
Resampling = Literal["bilinear", "bicubic"]
Converted = tuple[dict[str, Tensor], "Report"]


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
    """What replaces them -> names missing from the file, each allowed explicitly."""
    notes: tuple[str, ...] = ()
    """What was done to the file's names and objects."""

    def __str__(self) -> str:
        rows = [("used", len(self.used), "")]
        rows += [("resized", 1, f"{name}: {what}") for name, what in self.resized.items()]
        for word, groups in (("dropped", self.dropped), ("missing", self.missing)):
            rows += [(word, len(n), f"{_grouped(n)}: {why}") for why, n in groups.items()]
        lines = [f"  {word:8}{count:5}  {text}".rstrip() for word, count, text in rows]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join([f"{self.path}: {self.source}", *lines])


def _grouped(names: Iterable[str]) -> str:
    """Names with their numbers as N and their last parts together, each group once."""
    groups: dict[str, list[str]] = {}
    for name in names:
        name = re.sub(r"(?<=[._])\d+(?=[./_])", "N", name)
        cut = 1 + max(name.rfind("."), name.rfind("/"))
        parts, last = groups.setdefault(name[:cut], []), name[cut:]
        parts += [last] if last not in parts else []
    return ", ".join(
        stem + (parts[0] if len(parts) == 1 else f"{{{','.join(parts)}}}")
        for stem, parts in groups.items()
    )


def translate(
    file: WeightFile,
    module: nn.Module,
    source: str,
    table: Mapping[str, str],
    dropped: Mapping[str, str],
    pos_embed: Resampling = "bilinear",
    grid: Grid | None = None,
) -> Converted:
    """A file's tensors under the names of `module`, which they must fill exactly.

    Args:
        file: opened by `weights.files.open_weight_file`; before `WeightFile.read` its names,
            shapes and types are compared all the same, and the result has no numbers.
        module: a `VisionTransformer`, or a `SETR` with one.
        source: what the file is, for the report.
        table: our names -> the file's, a table of `weights.tables`.
        dropped: the file's names that are left behind -> the reason.
        pos_embed: how the position table is brought to another grid.
        grid: (h, w) of the file's table; None takes what the file says, else a square, or the
            module's own grid.

    Raises:
        UserError: a tensor unaccounted for, missing, of another shape or another kind of number; a
            `SETR`'s table that is a square and as well the module's own grid.
    """
    report, left = Report(str(file.path), source, notes=file.notes), dict(file.tensors)
    for name in file.tensors:
        reason = rename(dropped, name)
        if reason:
            report.dropped.setdefault(reason, []).append(name)
            del left[name]
    state = module.state_dict()
    names = {ours: rename(table, ours) or ours for ours in state}
    wanted = {names[ours]: value for ours, value in state.items()}
    _check_names(file.path, source, shapes(wanted), shapes(left))
    grid = grid or _told_grid(file, module)
    _resize_position_table(left, module, names, report, pos_embed, grid)
    refuse_other_tensors(file.path, wanted, left, "build the model in the size of the file")
    report.used = [name for name in wanted if name not in report.resized]
    return {ours: left[theirs] for ours, theirs in names.items()}, report


def _check_names(path: Path, source: str, wanted: Shapes, found: Shapes) -> None:
    missing = {name: shape for name, shape in wanted.items() if name not in found}
    extra = {name: shape for name, shape in found.items() if name not in wanted}
    for name, shape in missing.items():
        raise UserError(
            f"{path}: has no {name!r} {tuple(shape)}, which the model needs"
            f"{near(name, extra)}{_more(missing)}"
        )
    for name, shape in extra.items():
        close = near(name, wanted)
        if not close and source.startswith("plain"):
            close = "; a ViT with other layers runs behind SETR's heads as model.encoder=timm:NAME"
        raise UserError(
            f"{path}: has {name!r} {tuple(shape)}, for which the model has no place ({source}); it "
            f"is not dropped silently{close}{_more(extra)}"
        )


def refuse_other_tensors(
    path: Path, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], remedy: str
) -> None:
    """Every tensor of `wanted` must be in `found` with its shape and its kind of number.

    Raises:
        UserError: the first that is not; `remedy` ends the line on a shape.
    """
    for name, value in wanted.items():
        if found[name].shape != value.shape:
            raise UserError(
                f"{path}: {name!r} is {tuple(found[name].shape)}, the model needs "
                f"{tuple(value.shape)}; {remedy}"
            )
        if found[name].is_floating_point() != value.is_floating_point():
            theirs, ours = (str(v.dtype).removeprefix("torch.") for v in (found[name], value))
            raise UserError(
                f"{path}: {name!r} is {theirs}, the model needs {ours}; other kinds of numbers are "
                "not converted, take the file in floating point"
            )


def shapes(tensors: Mapping[str, Tensor]) -> Shapes:
    """Their shapes by name."""
    return {name: value.shape for name, value in tensors.items()}


def near(name: str, choices: Shapes) -> str:
    """``"; nearest is NAME SHAPE"`` for the closest of `choices`, or nothing."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.8)
    return f"; nearest is {close[0]!r} {tuple(choices[close[0]])}" if close else ""


def _more(names: Shapes) -> str:
    return f" (and {len(names) - 1} more like that)" if len(names) > 1 else ""


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


def _encoder(module: nn.Module) -> Any:
    return getattr(module, "encoder", module)


def _told_grid(file: WeightFile, module: nn.Module) -> Grid | None:
    """(h, w) of a file that says for which size of image it was made."""
    if file.img_size is None:
        return None
    patch = _encoder(module).patch_size
    return math.ceil(file.img_size[0] / patch), math.ceil(file.img_size[1] / patch)


def _assumed_grid(rows: int, module: nn.Module, where: str) -> Grid:
    """A square if `rows` is one, else the module's own grid; of a `SETR` never a guess between."""
    encoder, side = _encoder(module), math.isqrt(rows)
    own: Grid = encoder.grid
    if side * side != rows:
        return own
    if encoder is not module and own != (side, side) and own[0] * own[1] == rows:
        raise UserError(
            f"{where} has {rows} rows besides the class token's, {side} x {side} or the model's "
            f"own {own[0]} x {own[1]}; say which with grid=(h, w)"
        )
    return side, side


def _resize_position_table(
    left: dict[str, Tensor],
    module: nn.Module,
    names: Mapping[str, str],
    report: Report,
    mode: Resampling,
    grid: Grid | None,
) -> None:
    """Bring the file's position table, in place, to the grid of `module`'s encoder."""
    encoder = _encoder(module)
    name = next(n for ours, n in names.items() if ours.endswith("pos_embed"))
    if left[name].ndim != 3 or left[name].shape[1] < 2:
        return  # `refuse_other_tensors` names it
    rows = left[name].shape[1] - 1
    grid = grid or _assumed_grid(rows, module, f"{report.path}: {name!r}")
    if grid[0] * grid[1] != rows:
        raise UserError(
            f"{report.path}: {name!r} has {rows} rows besides the class token's, not {grid[0]} x "
            f"{grid[1]}; give the size of image that it was made for"
        )
    if grid != encoder.grid:
        left[name] = resample_pos_embed(left[name], grid, encoder.grid, mode)
        old, new = (f"{h} x {w}" for h, w in (grid, encoder.grid))
        report.resized[name] = f"{old} -> {new}, {mode}"
