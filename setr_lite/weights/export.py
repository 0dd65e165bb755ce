"""A trained model as one file for other programs: normalised image in, logits out.

The graph is the model's own at full size, ``image (B, 3, H, W) float32 -> logits (B, K, H, W)``;
subtracting the mean and dividing by the standard deviation (of RGB in 0..255), windows, scales and
the argmax stay outside. What it takes to do them is in the file: ``classes``, ``mean``, ``std`` and
``size`` as JSON text, among ONNX's metadata or as `EXTRA` beside ``torch.export``'s program.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import own_files, read_config, read_info
from ..errors import UserError, nearest
from ..files import find_folder, refuse_inputs, require_utf8, written_beside
from ..model import SETR
from ..running.memory import format_bytes
from ..running.meters import free_memory
from .convert import PROGRAMS, convert

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
EXTRA = "setr_lite.json"
"""Name of the metadata in ``torch.export.load(file, extra_files={EXTRA: ""})``."""

TOLERANCE = 1e-3
"""Largest difference from eager PyTorch, as a share of the largest logit, that passes."""
CHECKED = 3
"""Images of the largest batch that a written file is run on."""


class FullLogits(nn.Module):
    """What is exported: a model that returns nothing but full-size logits."""

    def __init__(self, model: SETR) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, K, H, W)."""
        return self.model.logits(image)


def export_checkpoint(
    checkpoint: str | Path,
    format: str = "onnx",
    out: str | Path = "",
    *,
    size: tuple[int, int] | None = None,
    dynamic: bool = True,
    announce: Callable[[str], object] | None = None,
) -> str:
    """Write a checkpoint as an ONNX file or a ``torch.export`` program, and check the file.

    The file is read back and run beside PyTorch on random images, of another batch and, where
    that is free, of another size. A free size is still a multiple of the patch, as padding
    would make two graphs of one. A fixed size need not be one.

    Args:
        checkpoint: its folder.
        format: ``onnx`` or ``torch``; the programs of `convert.PROGRAMS` are passed on to
            `convert.convert`, which writes weights without a graph.
        out: file to write; by default ``model.onnx`` or ``model.pt2`` in the folder.
        size: (H, W) of images; None takes the run's crop, rounded up to whole patches where the
            size is left free.
        dynamic: any multiples of the patch, not only `size`. The number of images is always free.
        announce: called with a line before the work begins: the size, and the memory it needs.

    Returns:
        What was written, in two lines, with the largest difference from PyTorch.

    Raises:
        UserError: an unknown format, no usable checkpoint, a package that is missing, a size or
            a model whose size cannot be left free, too little memory, or a file that computes
            something else.
    """
    checkpoint = find_folder(checkpoint)
    if format in PROGRAMS:
        return convert(checkpoint, out or Path(checkpoint) / f"{format}.pth", to=format)
    if format not in SUFFIXES:
        raise UserError(f"--format {format}{nearest(format, (*SUFFIXES, 'web', *PROGRAMS))}")
    if format == "onnx":
        _require("onnx", "onnxscript")
    path = Path(out) if out else Path(checkpoint) / f"model{SUFFIXES[format]}"
    refuse_inputs(path, own_files(checkpoint))
    require_utf8(path)
    model = SETR.from_pretrained(checkpoint)
    size, said = _size(model, size, dynamic)
    said += f"; its check takes at least {format_bytes(_require_memory(model, size))} of memory"
    if announce is not None:
        announce(said)
    program = export_program(model, size, dynamic=dynamic)
    facts = _facts(checkpoint, model, None if dynamic else size)
    write, read = {"onnx": (_write_onnx, _read_onnx), "torch": (_write_torch, _read_torch)}[format]
    try:
        with written_beside(path) as part:
            write(program, part, facts)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error})") from error
    patch = _patch(model)
    free = f"height and width any multiples of {patch}"
    what = free if dynamic else f"height {size[0]} and width {size[1]} fixed"
    wrote = f"{path}: image (B, 3, H, W) normalised -> logits (B, {len(facts['classes'])}, H, W)"
    checked = "not checked: that needs onnxruntime, pip install 'setr-lite[export]'"
    if format == "torch" or _there("onnxruntime"):
        most, largest = _difference(read(path), model, size, dynamic)
        checked = f"largest difference from PyTorch {most:.1e}, of logits up to {largest:.3g}"
        if not most <= TOLERANCE * largest:
            raise UserError(f"{path}: computes something else, {checked}")
    return f"{wrote}\nany batch, {what}; {checked}"


def _size(
    model: SETR, size: tuple[int, int] | None, dynamic: bool
) -> tuple[tuple[int, int], str]:
    """The size to trace and check with, and how it came about."""
    if size is not None or model.config is None:
        return size or (512, 512), "exported at {}x{}".format(*(size or (512, 512)))
    crop, patch = model.config.data.crop_size, _patch(model)
    whole = (math.ceil(crop[0] / patch) * patch, math.ceil(crop[1] / patch) * patch)
    size, said = (whole if dynamic else crop), "exported at {}x{}".format(*crop)
    if size != crop:
        said = "exported at {}x{}".format(*size) + (
            ", the run's crop of {}x{} rounded up to whole patches of {}".format(*crop, patch))
    return size, said


def _patch(model: SETR) -> int:
    encoder: Any = model.encoder
    return int(encoder.patch_size)


def _require_memory(model: SETR, size: tuple[int, int]) -> int:
    """Bytes that images and logits of a check take, ours and the file's.

    Raises:
        UserError: more than there are free.
    """
    classes = len(model.state_dict()["head.classifier.weight"])
    need = 4 * CHECKED * math.prod(size) * (3 + 2 * classes)
    free = free_memory(torch.device("cpu"))
    if need > free:
        raise UserError(
            f"--size {size[0]}x{size[1]}: the check of the file alone would take at least "
            f"{format_bytes(need)} for {CHECKED} images and their logits, {format_bytes(free)} are "
            "free; export a smaller size, and cut images into windows of it"
        )
    return need


def export_program(
    model: SETR, size: tuple[int, int], *, dynamic: bool = True
) -> torch.export.ExportedProgram:
    """``torch.export`` of `FullLogits`, with the number of images free.

    Args:
        model: in eval mode.
        size: (H, W) of the images it is traced with.
        dynamic: leave height and width free, too, in steps of the patch.

    Raises:
        UserError: `size` has no whole patches, or the model's graph depends on it.
    """
    free, patch = {0: torch.export.Dim("batch")}, _patch(model)
    if dynamic:
        if size[0] % patch or size[1] % patch:
            raise UserError(
                f"size {size[0]}x{size[1]}: a free size has whole patches of {patch}; give "
                "multiples, or --fixed"
            )
        free |= {2: patch * torch.export.Dim("rows"), 3: patch * torch.export.Dim("columns")}
    image = torch.zeros(2, 3, *size)
    with torch.no_grad():
        try:
            return torch.export.export(FullLogits(model).eval(), (image,), dynamic_shapes=(free,))
        except torch._dynamo.exc.UserError as error:
            if not dynamic:
                raise
            raise UserError(
                "this model's graph depends on height and width; export it with --fixed "
                f"({str(error).splitlines()[0]})"
            ) from error


def _facts(checkpoint: str | Path, model: SETR, size: tuple[int, int] | None) -> dict[str, Any]:
    data = model.normalization(read_config(checkpoint).data)
    return {
        "classes": list(read_info(checkpoint)["classes"]), "mean": list(data.mean or ()),
        "std": list(data.std or ()), "size": list(size) if size else None,
    }  # fmt: skip


def _write_torch(program: Any, path: Path, facts: dict[str, Any]) -> None:
    torch.export.save(program, path, extra_files={EXTRA: json.dumps(facts)})


def _write_onnx(program: Any, path: Path, facts: dict[str, Any]) -> None:
    onnx: Any = torch.onnx.export(
        program, dynamo=True, input_names=["image"], output_names=["logits"], verbose=False)
    onnx.model.metadata_props.update({key: json.dumps(value) for key, value in facts.items()})
    onnx.save(path)


def _read_torch(path: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(path).module()


def _read_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])


def _difference(
    run: Callable[[Tensor], Tensor], model: SETR, size: tuple[int, int], dynamic: bool
) -> tuple[float, float]:
    """The largest difference between `run` and the model, and the largest logit."""
    shapes = [(1, *size), (CHECKED, *size)]
    if dynamic:  # another size, and the one whose grid the position table has
        patch = _patch(model)
        shapes += [(2, size[0] + patch, size[1] + 3 * patch)]
        grid: Any = model.encoder.grid
        shapes += [(1, patch * grid[0], patch * grid[1])]
    generator, pairs = torch.Generator().manual_seed(0), []
    with torch.no_grad():
        for batch, height, width in shapes:
            image = torch.randn(batch, 3, height, width, generator=generator)
            pairs.append((run(image), model.logits(image)))
    return (
        max(float((ours - theirs).abs().max()) for ours, theirs in pairs),
        max(float(logits.abs().max()) for _, logits in pairs),
    )


def _there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _require(*packages: str) -> None:
    missing = [name for name in packages if not _there(name)]
    if missing:
        raise UserError(
            f"--format onnx needs {' and '.join(missing)}: pip install 'setr-lite[export]'")
