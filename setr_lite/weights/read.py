"""Weights of other programs, in: each tensor is accounted for.

One function per source turns a file's tensors into ours: each is used, resized, or dropped for a
reason that the :class:`Report` prints. A tensor that is none of these, one that is missing, and
one of another shape end in an error: nothing is ever left out silently, as ``strict=False`` would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .account import Converted, Grid, Report, Resampling, translate
from .files import Source, WeightFile, in_two_steps, open_weight_file
from .tables import (
    AUGREG,
    AUGREG_DROPPED,
    AUX_DROPPED,
    DEIT_DROPPED,
    MMSEG,
    MMSEG_VIT,
    MMSEG_VIT_DROPPED,
    OFFICIAL,
    OFFICIAL_DROPPED,
    TIMM,
    TIMM_DROPPED,
    reverse_classifier,
)

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
    return translate(file, encoder, "plain ViT, timm's names", TIMM, TIMM_DROPPED, pos_embed)


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
    read = _distilled if "dist_token" in file.tensors else translate
    return read(file, encoder, source, MMSEG_VIT, MMSEG_VIT_DROPPED, pos_embed)


def from_augreg(
    file: WeightFile, encoder: nn.Module, pos_embed: Resampling = "bilinear"
) -> Converted:
    """A Flax ``.npz`` of the AugReg ViTs, which timm's ``vit_*_patch16_384.augreg_*`` come from.

    Returns and raises as `from_timm`.
    """
    source = "plain ViT, AugReg's Flax names"
    return translate(file, encoder, source, AUGREG, AUGREG_DROPPED, pos_embed)


def _distilled(
    file: WeightFile,
    encoder: nn.Module,
    source: str,
    table: Mapping[str, str],
    dropped: Mapping[str, str],
    pos_embed: Resampling,
) -> Converted:
    rows = file.tensors.get("pos_embed")
    if rows is not None and rows.ndim == 3:
        rows = torch.cat([rows[:, :1], rows[:, 2:]], dim=1)
        file = replace(file, tensors={**file.tensors, "pos_embed": rows})
    state, report = translate(file, encoder, source, table, dropped, pos_embed)
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


# ---- whole SETRs ---------------------------------------------------------------------------


def from_official(
    file: WeightFile, model: nn.Module, pos_embed: Resampling = "bilinear", grid: Grid | None = None
) -> Converted:
    """A checkpoint of the authors' code, into a `SETR` of the ``official`` dialect.

    Args:
        file: opened by `open_weight_file`.
        model: of the file's head and sizes; without auxiliary heads, the file's are dropped.
        pos_embed: how the position table is brought to another grid.
        grid: (h, w) of the file's table; None takes what the file says, else a square, or the
            model's own grid, and is an error where both fit.

    Returns:
        The model's state dict and the account of the file.

    Raises:
        UserError: a tensor unaccounted for, missing, or of another shape.
    """
    head = _same_head(file, model, "official")
    source = f"SETR-{LABELS[head]} of the authors"
    dropped = OFFICIAL_DROPPED | ({} if _has_aux(model.state_dict()) else AUX_DROPPED)
    return translate(file, model, source, OFFICIAL[head], dropped, pos_embed, grid)


def from_mmseg(
    file: WeightFile,
    model: nn.Module,
    pos_embed: Resampling = "bilinear",
    grid: Grid | None = None,
    *,
    allow_missing_patch_bias: bool = False,
) -> Converted:
    """A checkpoint of mmsegmentation 0.x or 1.x, into a `SETR` of the ``mmseg`` dialect.

    The model computes what mmsegmentation's does, but for three things. A table with as many rows
    as the image has patches, and another shape (12 x 20 for 20 x 12), is resized here, and read
    in raster order there. A size that the patch does not divide is padded and the result cropped,
    unless the model has ``odd="squeeze"``, as it is there, in the loss, too. And an encoder that
    starts without a file is drawn as the authors draw it, only neck and heads as there.

    Args:
        file, model, pos_embed, grid: see `from_official`.
        allow_missing_patch_bias: take zeros for a patch bias that the file lacks.

    Returns and raises as `from_official`.
    """
    head = _same_head(file, model, "mmseg")
    file, missing = _with_patch_bias(file, model, allow_missing_patch_bias)
    if head == "mla":
        file = replace(file, tensors=reverse_classifier(file.tensors))
    dropped = {} if _has_aux(model.state_dict()) else AUX_DROPPED
    source = f"SETR-{LABELS[head]} of mmsegmentation"
    state, report = translate(file, model, source, MMSEG[head], dropped, pos_embed, grid)
    for names in missing.values():
        report.used = [name for name in report.used if name not in names]
    report.missing = missing
    return state, report


LABELS = {"naive": "Naive", "pup": "PUP", "mla": "MLA"}
"""Heads as the paper writes them."""

_HEAD_MARKS = {  # layout: (a tensor that only MLA has, the first unit of Naive and PUP)
    "official": ("decode_head.cls.weight", "decode_head.conv_0.weight"),
    "mmseg": ("neck.norm.0.weight", "decode_head.up_convs.0.0.conv.weight"),
    "ours": ("neck.norm.0.weight", "head.convs.0.0.weight"),
}


def head_of(tensors: Mapping[str, Tensor], layout: str) -> str | None:
    """The head, by names in the layout ``official``, ``mmseg`` or ``ours``, or None."""
    mla, unit = _HEAD_MARKS[layout]
    if mla in tensors:
        return "mla"
    if unit not in tensors or tensors[unit].ndim != 4:
        return None
    return {1: "naive", 3: "pup"}.get(tensors[unit].shape[-1])


def _same_head(file: WeightFile, model: nn.Module, layout: str) -> str:
    """The head of file and model, which must agree in that and in their dialect."""
    head, state = head_of(file.tensors, layout), model.state_dict()
    if head is None:
        marks = " or ".join(_HEAD_MARKS[layout])
        raise UserError(f"{file.path}: no head recognised; expected {marks}")
    if head != head_of(state, "ours"):
        raise UserError(f"{file.path}: its head is {head}; build the model with head={head!r}")
    kernel = state["head.classifier.weight"].shape[-1]
    official = kernel == 3 if head == "mla" else "head.convs.0.0.bias" in state
    if official != (layout == "official"):
        raise UserError(f"{file.path}: build the model with dialect={layout!r}, as the file is")
    return head


def _has_aux(names: Iterable[str]) -> bool:
    return any(name.startswith("aux_heads.") for name in names)


def _with_patch_bias(
    file: WeightFile, model: nn.Module, allow: bool
) -> tuple[WeightFile, dict[str, list[str]]]:
    """The file with zeros for a patch bias that mmsegmentation 1.x leaves out, if allowed."""
    name, weight = (f"backbone.patch_embed.projection.{part}" for part in ("bias", "weight"))
    if "encoder.patch_embed.proj.bias" not in model.state_dict():  # built without one, on purpose
        return file, {}
    if name in file.tensors or weight not in file.tensors or file.tensors[weight].ndim != 4:
        return file, {}
    if not allow:
        raise UserError(
            f"{file.path}: has no {name!r}. mmsegmentation 1.x builds its ViT without this bias "
            "(patch_bias=False) and drops it from older checkpoints that it loads, with a line in "
            "its log: if this one was trained with it, go back to that file. If the model was "
            "trained without, zeros are exact: --zero-patch-bias (allow_missing_patch_bias=True); "
            "or build the model with patch_bias=False"
        )
    zeros = file.tensors[weight].new_zeros(len(file.tensors[weight]))
    file = replace(file, tensors={**file.tensors, name: zeros})
    return file, {"zeros, as allowed": [name]}


# ---- loading -------------------------------------------------------------------------------


KINDS = {
    "encoder.patch_embed.proj.weight": "setr-lite",
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


def from_plain(
    file: WeightFile, encoder: nn.Module, pos_embed: Resampling = "bilinear"
) -> Converted:
    """A plain ViT of any layout in `PLAIN`, told by its names.

    Returns and raises as `from_timm`; a whole SETR is refused, too.
    """
    kind = kind_of(file)
    if kind not in PLAIN:
        raise UserError(f"{file.path}: a whole SETR ({kind}); expected a plain ViT")
    return PLAIN[kind](file, encoder, pos_embed)


def from_setr(file: WeightFile, model: nn.Module, **options: Any) -> Converted:
    """A whole SETR of the authors or of mmsegmentation, told by its names.

    Args:
        file, model: see `from_official`.
        options: of `from_official` or `from_mmseg`.

    Same returns and errors as `from_official` and `from_mmseg`; refuses a plain ViT.
    """
    kind = kind_of(file)
    readers: dict[str, Callable[..., Converted]] = {
        "official": from_official, "mmseg": from_mmseg}
    if kind not in readers:
        raise UserError(f"{file.path}: no whole SETR of the authors or mmsegmentation ({kind})")
    return readers[kind](file, model, **options)


def load_pretrained(
    encoder: nn.Module,
    source: Source,
    *,
    pos_embed: Resampling = "bilinear",
    allow_pickle: bool = False,
) -> Report:
    """Load a plain ViT's weights into `encoder`: a file of timm, jx, DeiT, AugReg or vit2mmseg.

    Args:
        encoder: our `VisionTransformer`, of the file's width, depth and patch size.
        source: the file, or a state dict in memory.
        pos_embed: how its (square) position table is brought to the encoder's grid: ``bilinear``
            as SETR was published, ``bicubic`` with antialiasing as timm does.
        allow_pickle: also open a pickle that can run its author's code.

    Returns:
        The account of the file's tensors; print it.

    Raises:
        UserError: a file that cannot be read, is of another kind, or does not fit the encoder;
            a tensor that is missing, left over or of another shape is named.
    """
    file = open_weight_file(source, allow_pickle=allow_pickle)
    state, report = in_two_steps(lambda f: from_plain(f, encoder, pos_embed), file)
    encoder.load_state_dict(state)
    return report


def load_setr(
    model: nn.Module,
    source: Source,
    *,
    pos_embed: Resampling = "bilinear",
    grid: Grid | None = None,
    allow_missing_patch_bias: bool = False,
    allow_pickle: bool = False,
) -> Report:
    """Fill a `SETR` from a checkpoint of the authors' code or of mmsegmentation.

    Args:
        model: of the file's head, dialect and sizes. `convert.convert` builds it for you.
        source: the file, or a state dict in memory.
        pos_embed: how the position table is brought to another grid, ``bilinear`` or ``bicubic``.
        grid: (h, w) of the file's table; None takes what the file says, else a square, or the
            model's own grid, and is an error where both fit.
        allow_missing_patch_bias: take zeros for a patch bias that the file lacks.
        allow_pickle: also open a pickle that can run its author's code.

    Returns:
        The account of the file's tensors; print it.

    Raises:
        UserError: a file that cannot be read, is of another kind, or does not fit the model;
            a tensor that is missing, left over or of another shape is named.
    """
    file = open_weight_file(source, allow_pickle=allow_pickle)
    options: dict[str, Any] = {"pos_embed": pos_embed, "grid": grid}
    if kind_of(file) == "mmseg":
        options["allow_missing_patch_bias"] = allow_missing_patch_bias
    state, report = in_two_steps(lambda f: from_setr(f, model, **options), file)
    model.load_state_dict(state)
    return report
