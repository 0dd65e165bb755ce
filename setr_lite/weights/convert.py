"""Published checkpoints to folders that `SETR.from_pretrained` loads, and back.

A file is recognised by its keys alone. They tell head, dialect, sizes and number of classes; they
do not tell which blocks the heads read, nor the grid of a position table. What is assumed there is
printed, and options say otherwise; a file written here carries both, under the key `formats.OURS`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..checkpoint import exists, own_files, read_config, read_info, save_checkpoint
from ..config import ModelConfig, RunConfig
from ..datasets.layouts import DATASETS
from ..encoder import PRESETS, VisionTransformer, default_taps
from ..errors import UserError, nearest
from ..files import find_folder, refuse_inputs, written_beside
from ..model import AUX_STREAMS, SETR
from ..recipes.named import RECIPES
from ..timm_encoder import SIZES
from .account import Report, near, shapes
from .files import IN_MEMORY, Source, WeightFile, in_two_steps, open_weight_file
from .formats import OURS
from .read import LABELS, PLAIN, from_setr, head_of, kind_of
from .tables import AUGREG, MMSEG, MMSEG_VIT, OFFICIAL, TIMM, rename
from .write import (
    mmseg_changes,
    official_changes,
    to_mmseg,
    to_mmseg_vit,
    to_official,
    to_timm,
    vit2mmseg,
)

PROGRAMS = {"official": "the authors' code", "mmseg": "mmsegmentation", "timm": "timm"}
"""What a checkpoint can be converted to."""


@dataclass(frozen=True)
class Found:
    """What `identify` found in a file; ``print(found)`` shows it."""

    file: WeightFile
    """The file."""
    kind: str
    """Its layout: ``official``, ``mmseg``, ``mmseg_vit``, ``timm``, ``deit`` or ``augreg``."""
    model: ModelConfig
    """The model that it fits; of a plain ViT only its encoder and its image size apply."""
    assumed: tuple[str, ...] = ()
    """What the file does not say and was assumed, each with the option that changes it."""

    def __str__(self) -> str:
        model = self.model
        patch, width, depth = (
            _size_of(model, key) for key in ("patch_size", "embed_dim", "depth"))
        grid = " x ".join(str(-(-side // patch)) for side in model.img_size)
        name = "an encoder of its own" if model.num_heads else model.encoder
        encoder = (
            f"{name} (depth {depth}, width {width}), grid {grid} for "
            f"images of {model.img_size[0]} x {model.img_size[1]}"
        )
        if self.kind in PLAIN:
            line = f"a plain ViT ({self.kind}): {encoder}"
            return "\n".join([line, *(f"  assumed: {what}" for what in self.assumed)])
        aux = "with" if model.aux else "without"
        line = (
            f"SETR-{LABELS[model.head]} of {PROGRAMS[self.kind]} (dialect {model.dialect}), {aux} "
            f"auxiliary heads, {model.num_classes} classes: {encoder}"
        )
        return "\n".join([line, *(f"  assumed: {what}" for what in self.assumed)])


def identify(
    source: Source,
    *,
    img_size: tuple[int, int] | None = None,
    taps: tuple[int, ...] | None = None,
    num_heads: int | None = None,
    aux: bool = True,
    allow_pickle: bool = False,
) -> Found:
    """Recognise a file of weights by its keys.

    Args:
        source: a ``.safetensors``, a Flax ``.npz`` or a file of ``torch.save``; or a state dict.
        img_size: (H, W) in pixels that its position table was made for; None takes what the file
            says, else a square.
        taps: blocks that the heads read; None takes what the file says, else the published rule.
        num_heads: attention heads of an encoder that is no preset, which no file tells.
        aux: keep the auxiliary heads that it has.
        allow_pickle: also open a pickle that can run its author's code.

    Returns:
        `Found`; ``print(found)`` says it in words.

    Raises:
        UserError: a file that cannot be read; a layout, head or size that is not known.
    """
    file = open_weight_file(source, allow_pickle=allow_pickle)
    kind = kind_of(file)
    if kind == "setr-lite":
        raise UserError(f"{file.path}: is part of a checkpoint of this program; give its folder")
    head = "naive" if kind in PLAIN else head_of(file.tensors, kind)
    if head is None:
        raise UserError(f"{file.path}: a SETR ({kind}) with none of the heads Naive, PUP and MLA")
    table = _table(kind, head)
    encoder, assumed = _encoder(file, table, num_heads), []
    if img_size is None and file.img_size is None:
        assumed = ["the position table is a square; --img-size HEIGHTxWIDTH says otherwise"]
    img_size = img_size or file.img_size or _square(file, table, _size_of(encoder, "patch_size"))
    model = replace(encoder, head=cast(Any, head), img_size=img_size, taps=taps or file.taps)
    if kind in PLAIN:
        return Found(file, kind, model, tuple(assumed))
    model = _with_heads(file, kind, model, aux)
    if taps is None and file.taps is None:
        with suppress(UserError):  # of a depth without a rule, which the model's maker explains
            blocks = ", ".join(map(str, _taps(model)))
            assumed.append(
                f"the heads read blocks {blocks}, as published; --taps A,B,C,D says otherwise")
    return Found(file, kind, model, tuple(assumed))


def convert(
    source: Source,
    out: str | Path,
    *,
    to: str | None = None,
    img_size: tuple[int, int] | None = None,
    taps: tuple[int, ...] | None = None,
    num_heads: int | None = None,
    aux: bool = True,
    changed_config: bool = False,
    allow_missing_patch_bias: bool = False,
    allow_pickle: bool = False,
) -> str:
    """Another program's weights to a checkpoint folder, or a checkpoint to another's format.

    Args:
        source: a file of the authors' code, mmsegmentation, timm, DeiT or AugReg, or its state
            dict in memory; or a checkpoint folder of this program, with `to`.
        out: folder to write; with `to`, a file (``.safetensors`` holds tensors only).
        to: ``mmseg``, ``official`` or ``timm`` (the encoder alone).
        img_size, taps, num_heads, aux, allow_pickle: as for `identify`; `aux` also decides what is
            written.
        changed_config: also write weights that need a changed config in the other program; with
            its published config they would compute something else. The message says what to
            change.
        allow_missing_patch_bias: take zeros for a patch bias that the file lacks, as files of
            mmsegmentation 1.x do.

    Returns:
        What was found and written, in lines to print.

    Raises:
        UserError: a file of an unknown layout, head or size, with tensors left over or missing; a
            model that the other program cannot represent; an `out` that is read here, or a folder
            with other things in it.
    """
    if to is not None and to not in PROGRAMS:
        raise UserError(f"no program {to!r} to convert to{nearest(to, PROGRAMS)}")
    out = Path(out)
    place = IN_MEMORY if isinstance(source, Mapping) else find_folder(source)
    _check_place(place, out, to)
    if not isinstance(source, Mapping):
        source = place
        if place.is_dir():
            return _export_folder(place, out, to, aux, changed_config)
    found = identify(
        source, img_size=img_size, taps=taps, num_heads=num_heads, aux=aux,
        allow_pickle=allow_pickle)
    if found.kind in PLAIN:
        return f"{found}\n{_export_vit(found, out, to)}"
    model, report = read_setr(found, allow_missing_patch_bias)
    names = class_names(found)
    if to is None:
        written = _save_folder(model, found, names, out)
    else:
        written = _export(model.state_dict(), found.model, names, out, to, changed_config)
    return f"{found}\n{report}\n{written}"


def convert_vit2mmseg(
    pretrain: Source, store: str | Path, *, allow_pickle: bool = False
) -> str:
    """As mmsegmentation's ``vit2mmseg.py PRETRAIN STORE``: a plain ViT to mmsegmentation's keys.

    Returns:
        What was found and written, in lines to print.

    Raises:
        UserError: what `open_weight_file` and `weights.write.vit2mmseg` raise.
    """
    refuse_inputs(store, [] if isinstance(pretrain, Mapping) else [pretrain])
    file = open_weight_file(pretrain, allow_pickle=allow_pickle)
    tensors, report = in_two_steps(vit2mmseg, file)
    _write(Path(store), tensors, tensors)
    return f"{report}\nwrote {store}: {len(tensors)} tensors in mmsegmentation's names"


def _check_place(source: Path, out: Path, to: str | None) -> None:
    """Refuse to write over what is read, and to put a folder where other things are."""
    refuse_inputs(out, own_files(source) if source.is_dir() else [source])
    if to is None and out.is_dir() and any(out.iterdir()) and (
        not exists(out) or out.resolve() in source.resolve().parents
    ):
        raise UserError(f"{out}: is a folder with other things in it; give a new one")


# ---- recognising ---------------------------------------------------------------------------


def _table(kind: str, head: str) -> Mapping[str, str]:
    """Our names -> the file's, with ours as in a `SETR`."""
    whole = {"official": OFFICIAL, "mmseg": MMSEG}
    if kind in whole:
        return whole[kind][head]
    plain = {"mmseg_vit": MMSEG_VIT, "augreg": AUGREG}.get(kind, TIMM)
    return {f"encoder.{ours}": theirs for ours, theirs in plain.items()}


def _taps(model: ModelConfig) -> tuple[int, ...]:
    return model.taps or default_taps(_size_of(model, "depth"), model.head)


def _size_of(model: ModelConfig, key: str) -> int:
    """A size of the encoder: the setting, or the preset's."""
    return int(getattr(model, key) or PRESETS[model.encoder][key])


def _shape(file: WeightFile, table: Mapping[str, str], ours: str, ndim: int = 4) -> torch.Size:
    name = rename(table, ours) or ours
    if name not in file.tensors:
        raise UserError(f"{file.path}: has no {name!r}{near(name, shapes(file.tensors))}")
    shape = file.tensors[name].shape
    if len(shape) != ndim:
        raise UserError(
            f"{file.path}: {name!r} is {tuple(shape)}, expected {ndim} dimensions; the file is "
            "damaged or of another model"
        )
    return shape


def _encoder(file: WeightFile, table: Mapping[str, str], num_heads: int | None) -> ModelConfig:
    """The encoder of the file's patch size, width and depth: a preset, or sizes of its own."""
    width, *_, patch = _shape(file, table, "encoder.patch_embed.proj.weight")
    marks = [re.search(r"\b(?:blocks\.|layers\.|encoderblock_)(\d+)", n) for n in file.tensors]
    depth = 1 + max((int(mark[1]) for mark in marks if mark), default=-1)
    sizes = {"patch_size": patch, "embed_dim": width, "depth": depth}
    for name, preset in PRESETS.items():
        wanted = sizes | {"num_heads": num_heads or preset["num_heads"]}
        if wanted == {key: preset[key] for key in wanted}:
            return ModelConfig(encoder=name)
    if min(sizes.values()) < 1:
        raise UserError(
            f"{file.path}: no encoder has width {width}, depth {depth} and patch size {patch}; the "
            "file is damaged or of another model")
    if num_heads is None:
        raise UserError(
            f"{file.path}: an encoder of width {width}, depth {depth} and patch size {patch} is no "
            "preset, and its file does not tell the number of attention heads: --num-heads N "
            "(num_heads=N), in most ViTs width / 64; a plain ViT of timm needs no conversion, "
            "model.encoder=timm:NAME"
        )
    hidden = _shape(file, table, "encoder.blocks.0.mlp.fc1.weight", 2)[0]
    return ModelConfig(num_heads=num_heads, mlp_ratio=hidden / width, **cast(Any, sizes))


def _square(file: WeightFile, table: Mapping[str, str], patch: int) -> tuple[int, int]:
    """(H, W) in pixels of a square position table."""
    rows = _shape(file, table, "encoder.pos_embed", 3)[1] - 1 - ("dist_token" in file.tensors)
    side = math.isqrt(max(rows, 0))
    if not side or side * side != rows:
        raise UserError(
            f"{file.path}: its position table has {rows} rows, which is no square; say what size "
            "of image it was made for with --img-size HEIGHTxWIDTH"
        )
    return side * patch, side * patch


def _with_heads(file: WeightFile, kind: str, model: ModelConfig, aux: bool) -> ModelConfig:
    """`model` with what the keys of its heads tell."""
    table, head = _table(kind, model.head), model.head
    unit = "neck.proj.0.0.weight" if head == "mla" else "head.convs.0.0.weight"
    marks = [re.match(r"auxiliary_head\.(\d+)\.(?:up_convs\.(\d+))?", n) for n in file.tensors]
    heads = {int(mark[1]) for mark in marks if mark}
    units = {int(mark[2]) for mark in marks if mark and mark[2]}
    streams = AUX_STREAMS[head, kind]
    if aux and heads and heads != set(streams):
        raise UserError(
            f"{file.path}: has {len(heads)} auxiliary heads, published are {len(streams)}; "
            "--no-aux leaves them out (they serve training only)"
        )
    quarters = (head, kind, _size_of(model, "depth")) == ("naive", "official", 12)
    return replace(
        model,
        dialect=cast(Any, kind),
        num_classes=_shape(file, table, "head.classifier.weight")[0],
        channels=_shape(file, table, unit)[0],
        aux=aux and bool(heads),
        aux_units=len(units) if aux and head == "naive" and units else None,
        taps=model.taps or ((2, 5, 8, 11) if quarters else None),  # as the authors' config has it
    )


# ---- reading and writing -------------------------------------------------------------------


def read_setr(found: Found, allow_missing_patch_bias: bool) -> tuple[SETR, Report]:
    """The model with the file's numbers; it is not built before the file is known to fit it.

    Args:
        found: a whole SETR.
        allow_missing_patch_bias: see `read.from_mmseg`.

    Returns:
        The model and the account of the file's tensors.

    Raises:
        UserError: what `read.from_setr` and `WeightFile.read` raise.
    """
    options: dict[str, Any] = {}
    if found.kind == "mmseg":
        options["allow_missing_patch_bias"] = allow_missing_patch_bias
    with torch.device("meta"):
        model = SETR.from_config(found.model)
    options["grid"] = model.encoder.grid
    state, report = in_two_steps(lambda file: from_setr(file, model, **options), found.file)
    model = SETR.from_config(found.model)
    model.load_state_dict(state)
    return model, report


PUBLISHED_SETS = {150: "ade20k", 19: "cityscapes", 60: "pascal_context", 59: "pascal_context"}
"""The data set of a published checkpoint by its classes; 59 are without the background."""


def class_names(found: Found) -> tuple[list[str], list[list[int]]]:
    """Class names and colours: of the data set with so many classes, else the file's own.

    The file's own win if they are other names. In another order they are not: the authors' list
    for Pascal Context is in another order than the masks it was trained with.

    Raises:
        UserError: a file that says something else about itself than names and colours.
    """
    count = found.model.num_classes
    names = [name.strip() for name in _told(found.file, "classes", str)]
    if count in PUBLISHED_SETS:
        data = DATASETS[PUBLISHED_SETS[count]]
        classes, palette = list(data.classes[-count:]), data.palette[-count:].tolist()
        if not names or sorted(names) == sorted(classes):
            return classes, palette
    if len(names) != count:
        return [], []
    return names, _colours(found.file, count)


def _told(file: WeightFile, key: str, kind: type | UnionType) -> list[Any]:
    """A list that an mmcv (``CLASSES``) or mmengine (``classes``) file has about itself, or [].

    Raises:
        UserError: something else than a list of `kind`.
    """
    inner = file.meta.get("dataset_meta") or {}
    if not isinstance(inner, dict):
        raise UserError(
            f"{file.path}: meta.dataset_meta is a {type(inner).__name__}, expected a dict with "
            "classes and palette; save its state_dict alone"
        )
    meta = {**file.meta, **inner}
    found = meta.get(key.upper()) or meta.get(key) or []
    if not isinstance(found, list | tuple) or not all(isinstance(v, kind) for v in found):
        raise UserError(
            f"{file.path}: meta.{key.upper()} is no list of {key} but a {type(found).__name__}; "
            "save its state_dict alone"
        )
    return list(found)


def _colours(file: WeightFile, count: int) -> list[list[int]]:
    rows = [list(row) for row in _told(file, "palette", list | tuple)]
    if rows and len(rows) != count:
        raise UserError(f"{file.path}: meta.PALETTE has {len(rows)} colours for {count} classes")
    for row in rows:
        if [type(v) for v in row] != [int] * 3 or not 0 <= min(row) <= max(row) < 256:
            raise UserError(
                f"{file.path}: meta.PALETTE holds {str(row)[:60]}, expected [r, g, b] in 0..255; "
                "save its state_dict alone"
            )
    return rows


def _run_config(model: ModelConfig) -> RunConfig:
    """Settings round `model`: data and evaluation of the recipe that is most like it."""
    config, size = RunConfig(model=model), model.img_size
    keys = ("encoder", "img_size", "head", "dialect")
    alike = [
        ([getattr(recipe.model, key) == getattr(model, key) for key in keys], recipe)
        for recipe in (make() for make in RECIPES.values())
        if recipe.model.num_classes == model.num_classes in PUBLISHED_SETS
    ]
    alike = [(same, recipe) for same, recipe in alike if same[0] or not recipe.data.root]
    if alike:
        _, recipe = max(alike, key=lambda pair: pair[0])
        config = replace(config, data=recipe.data, eval=recipe.eval)
    if alike and recipe.model.img_size == size:
        return config
    stride = (size[0] * 2 // 3, size[1] * 2 // 3)  # as the published recipes
    return replace(
        config,
        data=replace(config.data, crop_size=size),
        eval=replace(config.eval, window=size, stride=stride),
    )


def _save_folder(
    model: SETR, found: Found, names: tuple[list[str], list[list[int]]], out: Path
) -> str:
    config, (classes, palette) = _run_config(found.model), names
    save_checkpoint(out, model, config, classes=classes, palette=palette)
    named = f"classes {classes[0]} .. {classes[-1]}" if classes else "no class names are known"
    settings = "data.* and eval.* are defaults: set them to evaluate"
    if PUBLISHED_SETS.get(found.model.num_classes) == config.data.name:
        settings = f"data and windows as for {config.data.name}"
    return f"wrote {out}: {named}, {settings}"


def _export_folder(
    source: Path, out: Path, to: str | None, aux: bool, changed_config: bool
) -> str:
    config, info = read_config(source), read_info(source)
    if to is None:
        raise UserError(f"{source}: is a checkpoint of this program already; give --to PROGRAM")
    state = SETR.from_pretrained(source).state_dict()
    names = info.get("classes", []), info.get("palette", [])
    if not aux:
        state = {name: value for name, value in state.items() if name[:10] != "aux_heads."}
    return _export(state, config.model, names, out, to, changed_config)


def _export_vit(found: Found, out: Path, to: str | None) -> str:
    """A plain ViT in other names: of its encoder only what SETR uses."""
    writers = {"timm": to_timm, "mmseg": to_mmseg_vit}
    if to not in writers:
        raise UserError(
            f"{found.file.path}: {str(found).splitlines()[0]}. It has no decoder: train one with "
            f"model.pretrained={found.file.path}, or write the ViT with --to timm or mmseg"
        )
    sizes = {key: getattr(found.model, key) for key in SIZES if getattr(found.model, key)}
    model = nn.ModuleDict({"encoder": VisionTransformer.from_preset(
        found.model.encoder, img_size=found.model.img_size, **sizes)})
    state, report = in_two_steps(
        lambda file: PLAIN[found.kind](file, model["encoder"]), found.file)
    tensors = writers[to]({f"encoder.{name}": value for name, value in state.items()})
    _write(out, tensors, tensors)
    return f"{report}\nwrote {out}: {len(tensors)} tensors in {PROGRAMS[to]}'s names"


def _export(
    state: dict[str, Tensor], config: ModelConfig, names: tuple, out: Path, to: str,
    changed_config: bool,
) -> str:
    """Write a SETR's state dict for another program."""
    notes = []
    if to == "timm":
        tensors = to_timm(state)
        content: Any = tensors
        notes = ["the encoder alone; timm builds it with final_norm=False, num_classes=0"]
    elif to == "official":
        tensors = to_official(state, config, changed_config=changed_config)
        notes = official_changes(config)
        notes.append("conv_seg of their heads, which is never called, is not written")
    else:
        tensors = to_mmseg(state, config, changed_config=changed_config)
        notes = mmseg_changes(state, config)
        if "encoder.patch_embed.proj.bias" in state:
            notes.append("mmsegmentation 1.x needs patch_bias=True in its backbone")
    taps, size = _taps(config), config.img_size
    told = {"img_size": list(size), "taps": list(taps)}
    if to != "timm":
        classes, palette = names
        meta = {"CLASSES": classes, "PALETTE": palette} if classes else {}
        content = {"meta": {**meta, OURS: told}, "state_dict": tensors}
    _write(out, tensors, content, told)
    notes.append(f"its heads read the blocks {', '.join(map(str, taps))}, counted from 0")
    notes.append(f"its position table is for images of {size[0]} x {size[1]}")
    lines = [f"wrote {out}: {len(tensors)} tensors in the names of {PROGRAMS[to]}"]
    return "\n".join([*lines, *(f"  note: {note}" for note in notes)])


def _write(
    out: Path, tensors: dict[str, Tensor], content: Any, told: dict[str, Any] | None = None
) -> None:
    """`tensors` and, as metadata, `told` to ``.safetensors``, or `content` to ``torch.save``."""
    from safetensors.torch import save_file

    try:
        with written_beside(out) as part:
            if out.suffix == ".safetensors":
                whole = {name: value.contiguous() for name, value in tensors.items()}
                save_file(whole, part, {OURS: json.dumps(told)} if told else None)
            else:
                torch.save(content, part)
    except (OSError, RuntimeError) as error:
        raise UserError(f"could not write {out}: {error}") from error
