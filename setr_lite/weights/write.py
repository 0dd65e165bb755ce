"""Weights of ours, out: to timm's, mmsegmentation's and the authors' names, where that is exact.

The functions take the state dict of a `SETR` (``model.state_dict()``, or ``model.safetensors`` of
a checkpoint) and return one of the other program's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ..config import ModelConfig
from ..errors import UserError
from .account import Report
from .files import WeightFile
from .tables import (
    DEIT_DROPPED,
    MMSEG,
    MMSEG_VIT,
    OFFICIAL,
    TIMM,
    VIT2MMSEG,
    rename,
    reverse_classifier,
)


def to_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder of a SETR under timm's names.

    It has no final norm and no classifier, as SETR has none: timm's `VisionTransformer` takes it
    strictly when built with ``final_norm=False, num_classes=0``.
    """
    return _renamed(TIMM, _encoder_of(_with_bias(state)))


def to_mmseg_vit(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder of a SETR under the names of mmsegmentation's ViT."""
    return _renamed(MMSEG_VIT, _encoder_of(state))


def to_mmseg(
    state: Mapping[str, Tensor], config: ModelConfig, *, changed_config: bool = False
) -> dict[str, Tensor]:
    """A SETR under mmsegmentation's names, biases before BatchNorm folded.

    Args:
        state: of the model, without its ``aux_heads.*`` if they are to be left out.
        config: of the model.
        changed_config: write it even where the published config computes another function and
            has to be changed; without it the error says what would have to change.

    Raises:
        UserError: an official SETR-MLA, which mmsegmentation's layers cannot represent; a model
            that needs `changed_config`; an encoder of other layers, such as ``timm:NAME``.
    """
    if config.head == "mla" and config.dialect == "official":
        raise UserError(
            "no exact conversion: the authors' SETR-MLA classifies with a 3x3 convolution after "
            "resizing with align_corners=True, mmsegmentation's with a 1x1 after resizing without"
        )
    if not changed_config:
        _refuse(mmseg_changes(state, config), "mmsegmentation", config)
    renamed = _renamed(MMSEG[config.head], fold_bias(state))
    return reverse_classifier(renamed) if config.head == "mla" else renamed


def to_official(
    state: Mapping[str, Tensor], config: ModelConfig, *, changed_config: bool = False
) -> dict[str, Tensor]:
    """A SETR under the authors' names, zeros where their convolutions have a bias and ours none.

    The arguments are those of `to_mmseg`.

    Raises:
        UserError: what the authors' layers cannot represent: mmsegmentation's SETR-MLA, auxiliary
            heads of two units, other widths and numbers of units, or grids that are not square;
            a model that needs `changed_config`.
    """
    height, width = config.img_size
    reasons = {
        "mmsegmentation's SETR-MLA classifies with a 1x1 convolution after resizing with "
        "align_corners=False, the authors' with a 3x3 after resizing with True":
            (config.head, config.dialect) == ("mla", "mmseg"),
        "its auxiliary heads have two units each, the authors' have one; leave them out with "
        "--no-aux": "aux_heads.0.convs.1.0.weight" in state,
        f"its heads are {config.channels} channels wide, the authors' 256": config.channels != 256,
        "the authors' SETR-PUP has four units":
            config.head == "pup" and "head.convs.3.0.weight" not in state,
        f"its position table is made for {height} x {width}, the authors' code takes squares":
            height != width,
    }  # fmt: skip
    for reason, applies in reasons.items():
        if applies:
            raise UserError(f"no exact conversion: {reason}")
    if not changed_config:
        _refuse(official_changes(config), "the authors", config)
    return _renamed(OFFICIAL[config.head], _with_bias(state))


def mmseg_changes(state: Mapping[str, Tensor], config: ModelConfig) -> list[str]:
    """What must be changed in mmsegmentation's published config to compute this very model."""
    aux = any(name.startswith("aux_heads.") for name in state)
    if config.dialect == "mmseg" or config.head == "mla":
        return []
    if config.head == "naive":
        return ["up_scale=1 in the decode head" + (" and the auxiliary heads" if aux else "")]
    return ["num_convs=1 in the auxiliary heads, and a fourth one with in_index=3"] if aux else []


def official_changes(config: ModelConfig) -> list[str]:
    """What must be changed in the authors' config to compute this very model."""
    if (config.head, config.dialect) == ("naive", "mmseg"):
        return ["num_upsampe_layer=2 in every head"]  # their spelling
    return []


def _refuse(changes: list[str], whose: str, config: ModelConfig) -> None:
    if changes:
        only_aux = "; or leave its auxiliary heads out, --no-aux" if config.head == "pup" else ""
        raise UserError(
            f"not exact under the config that {whose} published, only with {', '.join(changes)}; "
            f"--changed-config (changed_config=True) writes it for a config so changed{only_aux}"
        )


def fold_bias(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same model without the biases of convolutions that a BatchNorm follows.

    BatchNorm subtracts the mean, so ``running_mean - bias`` without the bias gives the same
    logits, and in training the batch's own mean takes the bias with it.
    """
    folded = dict(state)
    for name, bias in state.items():
        stem, _, _ = name.rpartition(".0.bias")
        mean = f"{stem}.1.running_mean"
        if mean in folded:
            folded[mean] = folded[mean] - bias
            del folded[name]
    return folded


def _with_bias(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Zeros for biases that patches and the units of Naive and PUP have in the authors' code."""
    filled = {}
    for name, value in state.items():
        filled[name] = value
        stem = re.fullmatch(r"(.*\bconvs\.\d+\.0\.|encoder\.patch_embed\.proj\.)weight", name)
        if stem and f"{stem[1]}bias" not in state:
            filled[f"{stem[1]}bias"] = value.new_zeros(len(value))
    return filled


def vit2mmseg(file: WeightFile) -> tuple[dict[str, Tensor], Report]:
    """What mmsegmentation's ``vit2mmseg.py`` makes of a plain ViT or a DeiT: keys, values, order.

    The classifiers are dropped; the final norm, ``dist_token`` and ``pre_logits`` go along, as
    there, though mmsegmentation's ViT takes none of them.

    Raises:
        UserError: a tensor that no plain ViT has, which the script would pass on unnoticed.
    """
    report, converted = Report(str(file.path), "plain ViT, timm's names"), {}
    for name, value in file.tensors.items():
        theirs = rename(VIT2MMSEG, name)
        if name.startswith("head"):
            report.dropped.setdefault(DEIT_DROPPED["head.*"], []).append(name)
        elif theirs is None:
            raise UserError(
                f"{file.path}: has {name!r} {tuple(value.shape)}, which no plain ViT has; "
                "mmsegmentation's ViT could not take it"
            )
        else:
            converted[theirs] = value
            report.used.append(name)
    return converted, report


def _renamed(table: Mapping[str, str], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every name by `table`; one without a row is an encoder that is not ours."""
    renamed = {}
    for name, value in state.items():
        theirs = rename(table, name)
        if theirs is None:
            raise UserError(f"no conversion: {name!r} has no counterpart; a plain ViT is needed")
        renamed[theirs] = value
    return renamed


def _encoder_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix("encoder."): value
        for name, value in state.items()
        if name.startswith("encoder.")
    }
