"""The encoder's first weights: what `model.pretrained` names is found, loaded and accounted for.

No tensor is dropped in silence: every source ends in a `weights.Report` that says what became of
each of its tensors, or in an error.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..checkpoint import read_config, read_tensors
from ..config import RunConfig
from ..encoder import VisionTransformer
from ..errors import UserError
from ..recipes.published import PUBLISHED, VARIANTS
from ..timm_encoder import PREFIX, HybridTransformer, TimmEncoder, check_name
from ..typed import path_of
from .account import Converted, Report, near, refuse_other_tensors, shapes, translate
from .files import Source, WeightFile, in_two_steps, open_weight_file
from .published_files import find_checkpoint, find_encoder
from .read import from_plain

CLASSIFIER = ("norm.", "fc_norm.", "head.", "head_dist.", "attn_pool.", "pre_logits.")
"""Beginnings of the names in a timm ViT that only its classifier needs."""
NOT_ENCODER = ("neck.", "head.", "aux_heads.")
"""The same in a SETR of this library, of what is not the encoder's."""
START_ANEW = "neck and heads start from random weights"
OURS = {"*": "encoder.*"}
OURS_DROPPED = {f"{beginning}*": START_ANEW for beginning in NOT_ENCODER}
"""Tables of the kind that `weights.tables` holds."""


def require_source(config: RunConfig) -> None:
    """Refuse to start from random weights when a recipe needs others and none are named.

    Raises:
        UserError: `model.pretrained` is empty.
    """
    if config.model.pretrained:
        return
    raise UserError(
        f"{config.recipe or 'this run'} starts from {expected_source(config)}, and nobody has said "
        "where that is: give model.pretrained=FILE, or model.pretrained=none to train from random "
        "weights"
    )


def expected_source(config: RunConfig) -> str:
    """What the published model of this run started from, to tell the user."""
    name, published = config.model.encoder, PUBLISHED.get(config.recipe)
    if published and VARIANTS[published.variant][0] == name:
        return published.pretrained
    sources = {encoder: source for encoder, _, source in reversed(VARIANTS.values())}
    return name if name.startswith(PREFIX) else sources.get(name, "pretrained weights")


def load_first_weights(encoder: nn.Module, source: str | Mapping[str, Any]) -> list[Report]:
    """Give `encoder` the weights that `model.pretrained` names, or a state dict in memory.

    ===============  ===============================================================================
    encoder          source
    ===============  ===============================================================================
    any              FOLDER, a checkpoint of this library with the same encoder, which is taken;
                     neck and heads start from random weights, so classes and head may differ
    any              the name of a published SETR with the same encoder, which is downloaded: as its
                     FOLDER
    a preset         FILE (timm, jx, DeiT, AugReg, mmsegmentation), ``timm:NAME``, or the name of a
                     published encoder (`recipes.downloads.ENCODERS`), which is downloaded; the
                     position table is resized bilinearly, as published
    ``timm:NAME``    FILE (whatever timm itself can read for that model) or ``timm:NAME.TAG``; the
                     position table is resized as timm does
    ``hybrid_base``  ``RESNET,VIT``, each as above; one of them alone leaves the other random
    ===============  ===============================================================================

    Returns:
        One account for each file or folder; none for ``none``, which leaves the weights random.

    Raises:
        UserError: a file that is missing, damaged or made for another model; no network.
    """
    if isinstance(source, str):
        if source.strip().lower() == "none":
            return []
        folder = Path(source) if Path(source).is_dir() else find_checkpoint(source.strip())
        if folder is not None:
            return [_load_checkpoint(encoder, folder)]
    if isinstance(encoder, HybridTransformer):
        parts = source.split(",") if isinstance(source, str) else [source]
        return [_load_hybrid(encoder, open_source(part)) for part in parts]
    if isinstance(encoder, TimmEncoder):
        return [_load_timm(encoder, source)]
    state, report = in_two_steps(lambda f: from_plain(f, encoder), open_source(source))
    encoder.load_state_dict(state)
    return [report]


def open_source(source: Source) -> WeightFile:
    """The tensors of a file, of a published encoder, or of ``timm:NAME``, kept for the next time;
    of a state dict, too.

    Raises:
        UserError: a file that cannot be read; a name that timm does not know; no network.
    """
    if isinstance(source, Mapping):
        return open_weight_file(source)
    source = str(path_of(source) if not isinstance(source, str) else source).strip()
    if not source.startswith(PREFIX):
        path_of(source)
        published = None if Path(source).exists() else find_encoder(source)
        return open_weight_file(published or source)
    from timm import create_model

    name = source.removeprefix(PREFIX)
    if name.partition(".")[0] != "resnet50":  # of the hybrid
        check_name(name)
    try:
        tensors = create_model(name, pretrained=True).state_dict()
    except Exception as error:  # hub, URL, cache: each raises its own kind
        why = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"model.pretrained={source}: could not be fetched ({why}); download the file where "
            "there is a network and give model.pretrained=FILE"
        ) from error
    return WeightFile(Path(source), tensors)


# ---- our own checkpoints -----------------------------------------------------------------------


def _load_checkpoint(encoder: Any, folder: Path) -> Report:
    config, tensors = read_config(folder).model, read_tensors(folder)
    source = f"encoder {config.encoder} of a SETR-{config.head} with {config.num_classes} classes"
    height, width = config.img_size
    patch = encoder.patch_size
    grid = math.ceil(height / patch), math.ceil(width / patch)
    file = WeightFile(folder, tensors)
    if not isinstance(encoder, TimmEncoder):
        state, report = translate(file, encoder, source, OURS, OURS_DROPPED, grid=grid)
        encoder.load_state_dict(state)
        return report
    if grid != encoder.grid:  # timm's tables differ in what else they hold
        size = ",".join(map(str, config.img_size))
        raise UserError(f"{folder}: made for images of another size; set model.img_size={size}")
    report = _drop(Report(str(folder), source, list(tensors)), NOT_ENCODER, START_ANEW)
    found = {name.removeprefix("encoder."): tensors[name] for name in report.used}
    _refuse_differences(folder, encoder.state_dict(), found)
    encoder.load_state_dict(found)
    return report


# ---- timm's models -----------------------------------------------------------------------------


def _load_timm(encoder: TimmEncoder, source: Source) -> Report:
    """timm's own conversion of names and shapes, then every name and shape must match."""
    if isinstance(source, str) and source.endswith(".npz"):
        raise UserError(
            f"{source}: a timm: encoder reads .pth and .safetensors; take timm's own file, or as "
            "model.encoder the preset of that size, which reads .npz"
        )
    found, report = in_two_steps(lambda f: _as_timm_reads(f, encoder), open_source(source))
    encoder.vit.load_state_dict(found)
    return report


def _as_timm_reads(file: WeightFile, encoder: TimmEncoder) -> Converted:
    found = _converted_by_timm(encoder.vit, file)
    wanted, blocks = encoder.vit.state_dict(), cast(nn.ModuleList, encoder.blocks)
    report = Report(str(file.path), "read as timm reads it", notes=file.notes)
    for name in set(found) - set(wanted):
        reason = _reason_to_drop(name, len(blocks))
        if reason:
            report.dropped.setdefault(reason, []).append(name)
            del found[name]
    _refuse_differences(file.path, wanted, found)
    gone = [name for name in file.tensors if name not in found and name not in _names(report)]
    if gone:
        report.dropped["under another name now, or left out, by timm's conversion"] = gone
    for name, value in found.items():
        before = file.tensors[name].shape if name in file.tensors else value.shape
        if before != value.shape:
            report.resized[name] = f"{tuple(before)} -> {tuple(value.shape)}, as timm does"
        else:
            report.used.append(name)
    return found, report


def _converted_by_timm(vit: Any, file: WeightFile) -> dict[str, Tensor]:
    convert = sys.modules[type(vit).__module__].checkpoint_filter_fn
    # timm rounds a resized table to the precision of the file, which may be half
    tensors = {n: v.float() if v.is_floating_point() else v for n, v in file.tensors.items()}
    try:
        return dict(convert(tensors, vit))
    except Exception as error:  # it takes the tensors' shapes for granted
        raise UserError(
            f"{file.path}: timm cannot make weights for {vit.pretrained_cfg['architecture']} of it "
            f"({error}); of another model?"
        ) from error


def _reason_to_drop(name: str, depth: int) -> str | None:
    if name.startswith(CLASSIFIER):
        return "of the classifier, SETR reads the blocks"
    block = name.split(".")[1:2] if name.startswith("blocks.") else []
    if block and int(block[0]) >= depth:
        return "behind the last block that is read"
    return None


def _names(report: Report) -> set[str]:
    return {name for names in report.dropped.values() for name in names}


def _refuse_differences(
    path: Path, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> None:
    extra = shapes({name: found[name] for name in sorted(set(found) - set(wanted))})
    for name in sorted(set(wanted) - set(found)):
        hint = near(name, extra)
        raise UserError(f"{path}: has no {name!r}, which the model needs{hint}; of another model?")
    for name in extra:
        raise UserError(f"{path}: has {name!r}, which has no place in the model; of another model?")
    refuse_other_tensors(path, wanted, found, "of another model?")


# ---- the hybrid --------------------------------------------------------------------------------


def _load_hybrid(encoder: HybridTransformer, file: WeightFile) -> Report:
    patch_embed: Any = encoder.patch_embed
    if "layer1.0.conv1.weight" in file.tensors:
        return _load_resnet(patch_embed.backbone, file)
    blocks: Any = encoder.blocks
    patch, (h, w) = encoder.patch_size, encoder.grid
    with torch.device("meta"):  # only shapes are wanted
        plain = VisionTransformer(
            (h * patch, w * patch), patch, encoder.embed_dim, len(blocks), blocks[0].attn.num_heads
        )
    state, report = in_two_steps(lambda f: from_plain(f, plain), file)
    own = {name: v for name, v in encoder.state_dict().items() if name.startswith("patch_embed.")}
    encoder.load_state_dict({**state, **own})
    return _drop(report, ("patch_embed.", "embedding/"), "the hybrid has a ResNet in their place")


def _load_resnet(backbone: nn.Module, file: WeightFile) -> Report:
    found, report = in_two_steps(lambda f: _as_resnet(f, backbone), file)
    backbone.load_state_dict(found)
    return report


def _as_resnet(file: WeightFile, backbone: nn.Module) -> Converted:
    report = Report(str(file.path), "ResNet-50, timm's names", list(file.tensors))
    report = _drop(replace(report, notes=file.notes), ("fc.",))
    found = {name: file.tensors[name] for name in report.used}
    _refuse_differences(file.path, backbone.state_dict(), found)
    return found, report


def _drop(report: Report, beginnings: tuple[str, ...], why: str = "of the classifier") -> Report:
    names = [name for name in report.used if name.startswith(beginnings)]
    report.used = [name for name in report.used if name not in names]
    report.dropped |= {why: names} if names else {}
    return report
