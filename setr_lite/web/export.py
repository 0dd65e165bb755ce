"""A checkpoint as a folder whose page runs the model: no server, no network, nothing to install.

What the page's engine can run is a plain ViT with a head of the authors' code. LayerScale is folded
into the layer before it, the position table is resized once to the size that the page takes, and
weights are stored in 16 or 8 bits. Everything else is refused by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ..checkpoint import read_info
from ..encoder import EPS, VisionTransformer, resize_pos_embed
from ..errors import UserError
from ..model import SETR
from ..timm_encoder import HybridTransformer, TimmEncoder
from .pages import as_script, describe, engine_part, model_part, read_source

BITS = (8, 16, 32)
"""In how many bits a weight can be stored."""

INSTEAD = "take --format onnx"
"""What a refusal recommends."""


def export_page(
    checkpoint: str | Path, out: str | Path = "", *,
    size: tuple[int, int] | None = None, bits: int = 16,
) -> str:  # fmt: skip
    """Write a folder with ``index.html``, to open by double-click, and the scripts that it loads.

    Args:
        checkpoint: its folder.
        out: folder to write, by default ``web`` in the checkpoint's.
        size: (H, W) to which the page brings every picture; None takes the run's crop.
        bits: of a weight. With 8, each row of a matrix has a step size of its own.

    Returns:
        What was written, in one line.

    Raises:
        UserError: no usable checkpoint, a model that the engine cannot run, a size without whole
            patches, another number of bits, or a folder that cannot be written.
    """
    if bits not in BITS:
        raise UserError(f"--bits {bits}: choose from {', '.join(map(str, BITS))}")
    model = SETR.from_pretrained(checkpoint)
    assert model.config is not None
    check_model(model)
    encoder: Any = model.encoder
    size = size or model.config.data.crop_size
    grid = _grid(size, encoder.patch_size)
    info, tensors = read_info(checkpoint), page_tensors(model, grid)
    about = describe(model, grid, info["classes"], info["palette"])
    about |= {"name": Path(checkpoint).resolve().parent.name}
    folder = Path(out) if out else Path(checkpoint) / "web"
    part = model_part(about, save(in_bits(tensors, bits)))
    weight = _write(folder, as_script("model", part))
    return (
        f"{folder / 'index.html'}: opens by double-click, {weight / 1e6:.1f} MB in all; pictures "
        f"are brought to {size[0]} x {size[1]}, weights have {bits} bits"
    )


def check_model(model: SETR) -> None:
    """Refuse what the engine does not know.

    Raises:
        UserError: another dialect, encoder or width.
    """
    config, encoder = model.config, cast(Any, model.encoder)
    if config is None or config.model.dialect != "official":
        raise UserError(f"dialect mmseg: a page has the heads of the authors' code; {INSTEAD}")
    if isinstance(model.encoder, HybridTransformer):
        raise UserError(f"encoder {config.model.encoder}: a page has no ResNet; {INSTEAD}")
    if isinstance(model.encoder, TimmEncoder):
        _check_timm(model.encoder.vit, config.model.encoder)
    narrow = [w for w in (encoder.embed_dim, config.model.channels // 2) if w % 8]
    if narrow:
        raise UserError(f"a width of {narrow[0]}: a page needs multiples of 8; {INSTEAD}")


def _check_timm(vit: Any, name: str) -> None:
    """timm's class holds many models; its plain form is what `VisionTransformer` repeats."""
    block = vit.blocks[0]
    reasons = {
        "rotary positions": getattr(vit, "rope", None) is not None,
        "no position table": vit.pos_embed is None,
        "no class token": vit.cls_token is None,
        "register or distillation tokens": vit.num_prefix_tokens != 1,
        "a class token without position": getattr(vit, "no_embed_class", False),
        "a norm before the blocks": not isinstance(vit.norm_pre, nn.Identity),
        "a norm after the patches": not isinstance(vit.patch_embed.norm, nn.Identity),
        "another block": not hasattr(block, "ls1") or not hasattr(block.mlp, "fc2"),
        "another attention": not hasattr(block.attn, "qkv"),
        "norms of queries": not isinstance(getattr(block.attn, "q_norm", None), nn.Identity),
        "another activation": getattr(block.mlp.act, "approximate", "") != "none",
        "another LayerNorm": getattr(block.norm1, "eps", 0) != EPS,
    }
    found = [reason for reason, there in reasons.items() if there]
    if found:
        raise UserError(f"encoder {name} has {found[0]}, which a page cannot run; {INSTEAD}")


def _grid(size: tuple[int, int], patch: int) -> tuple[int, int]:
    if size[0] % patch or size[1] % patch:
        below = "x".join(str(max(1, side // patch) * patch) for side in size)
        raise UserError(
            f"--size {size[0]}x{size[1]}: no whole patches of {patch}; try {below}")
    return size[0] // patch, size[1] // patch


def page_tensors(model: SETR, grid: tuple[int, int]) -> dict[str, Tensor]:
    """The weights that a picture of `grid` patches meets, under the names of our own encoder.

    LayerScale is multiplied into the layer before it; auxiliary heads, blocks behind the last tap
    and norms that SETR does not use are left out.
    """
    tensors = {
        name.replace("encoder.vit.", "encoder."): tensor.float()
        for name, tensor in model.state_dict().items()
        if name.startswith(("encoder.", "neck.", "head.")) and "num_batches" not in name
    }
    for name in [n for n in tensors if n.endswith(".gamma")]:
        scale, (block, which, _) = tensors.pop(name), name.rsplit(".", 2)
        layer = f"{block}.{'attn.proj' if which == 'ls1' else 'mlp.fc2'}"
        tensors[f"{layer}.weight"] = tensors[f"{layer}.weight"] * scale[:, None]
        tensors[f"{layer}.bias"] = tensors[f"{layer}.bias"] * scale
    encoder: Any = model.encoder
    tensors["encoder.pos_embed"] = _positions(encoder, grid)
    tensors.setdefault("encoder.patch_embed.proj.bias", torch.zeros(encoder.embed_dim))
    unused = [f"encoder.blocks.{i}." for i in range(max(encoder.taps) + 1, len(encoder.blocks))]
    unused += ["encoder.norm.", "encoder.fc_norm.", "encoder.head."]
    return {name: t for name, t in tensors.items() if not name.startswith(tuple(unused))}


def _positions(encoder: nn.Module, grid: tuple[int, int]) -> Tensor:
    """The position table for a grid, resized as the encoder itself does it: (1, 1 + h*w, C)."""
    if isinstance(encoder, VisionTransformer):
        return resize_pos_embed(encoder.pos_embed.data, encoder.grid, grid)
    assert isinstance(encoder, TimmEncoder)
    from timm.layers import resample_abs_pos_embed

    vit: Any = encoder.vit
    old = list(vit.patch_embed.grid_size)
    table: Tensor = resample_abs_pos_embed(vit.pos_embed.data, list(grid), old)
    return table


def in_bits(tensors: dict[str, Tensor], bits: int) -> dict[str, Tensor]:
    """Weights as they are stored: float32, float16, or int8 with ``NAME.scale`` for every row.

    Norms, biases and BatchNorm statistics are small and keep 32 bits; with 8 bits the position
    table has 16.
    """
    stored = {}
    for name, tensor in tensors.items():
        if tensor.dim() < 2 or bits == 32:
            stored[name] = tensor.contiguous()
        elif bits == 16 or not name.endswith("weight"):
            stored[name] = tensor.half().contiguous()
        else:
            rows = tensor.flatten(1)
            step = rows.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
            stored[name] = (rows / step).round().to(torch.int8).view_as(tensor).contiguous()
            stored[f"{name}.scale"] = step.flatten()
    return stored


def _write(folder: Path, model: str) -> int:
    """All files of the page; returns their bytes."""
    files = {
        "index.html": read_source("page.html"), "model.js": model,
        "engine.js": as_script("engine", engine_part()),
        "page.js": read_source("client.js") + read_source("page.js"),
    }  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_text(content, "utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error})") from error
    return sum(len(content.encode()) for content in files.values())
