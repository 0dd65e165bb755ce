"""A second SETR, to compare with: timm's encoder, functions of PyTorch, nothing of the library.

Shapes: image (B, 3, H, W), tokens (B, N, C), maps (B, c, h, w), logits (B, K, H, W). Weights come
as a state dict of the library's names, of the ``official`` dialect, in eval mode.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]


def logits(
    state: State, image: Tensor, head: str, taps: tuple[int, ...], patch: int, heads: int,
    grid: tuple[int, int],
) -> Tensor:
    """Full-size scores; `grid` is that of the position table."""
    height, width = image.shape[-2:]
    padded = F.pad(image, (0, -width % patch, 0, -height % patch))
    size = padded.shape[-2] // patch, padded.shape[-1] // patch
    maps = [
        tokens.permute(0, 2, 1).reshape(len(image), -1, *size)
        for tokens in encode(state, padded, head == "mla", taps, patch, heads, grid, size)
    ]
    scores = mla(state, maps) if head == "mla" else stack(state, maps[-1], head)
    full = F.interpolate(scores, size=tuple(padded.shape[-2:]), mode="bilinear")
    return full[..., :height, :width]


def encode(
    state: State, image: Tensor, bare: bool, taps: tuple[int, ...], patch: int, heads: int,
    grid: tuple[int, int], size: tuple[int, int],
) -> list[Tensor]:
    """Tokens after the blocks `taps`, by timm; `bare` has no class token."""
    from timm.models.vision_transformer import VisionTransformer

    own = {name.removeprefix("encoder."): value for name, value in state.items()
           if name.startswith("encoder.")}
    table = own["pos_embed"]
    rows = table[:, 1:].reshape(1, *grid, -1).permute(0, 3, 1, 2)
    rows = F.interpolate(rows, size=size, mode="bilinear").permute(0, 2, 3, 1).flatten(1, 2)
    own["pos_embed"] = rows if bare else torch.cat([table[:, :1], rows], 1)
    if bare:
        del own["cls_token"]
    depth = 1 + max(int(name.split(".")[1]) for name in own if name.startswith("blocks."))
    vit = VisionTransformer(
        img_size=tuple(image.shape[-2:]), patch_size=patch, embed_dim=table.shape[-1], depth=depth,
        num_heads=heads, num_classes=0, class_token=not bare, final_norm=False,
        global_pool="avg" if bare else "token", fc_norm=False, weight_init="skip").to(image.dtype)
    vit.load_state_dict(own)
    found: dict[int, Tensor] = {}
    for i in taps:
        vit.blocks[i].register_forward_hook(
            lambda _, __, tokens, i=i: found.update({i: tokens if bare else tokens[:, 1:]}))
    vit.eval().forward_features(image)
    return [found[i] for i in taps]


def unit(state: State, x: Tensor, conv: str, norm: str) -> Tensor:
    """Convolution, BatchNorm, ReLU."""
    weight = state[f"{conv}.weight"]
    x = F.conv2d(x, weight, state.get(f"{conv}.bias"), padding=weight.shape[-1] // 2)
    statistics = (state[f"{norm}.{part}"] for part in ("running_mean", "running_var"))
    return F.relu(F.batch_norm(x, *statistics, state[f"{norm}.weight"], state[f"{norm}.bias"]))


def norm(state: State, x: Tensor, name: str) -> Tensor:
    """LayerNorm over the channels of a map."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, bias, 1e-6).permute(0, 3, 1, 2)


def stack(state: State, x: Tensor, head: str) -> Tensor:
    """Naive and PUP."""
    x = norm(state, x, "head.norm")
    units = len([name for name in state if re.fullmatch(r"head\.convs\.\d+\.0\.weight", name)])
    for i in range(units):
        x = unit(state, x, f"head.convs.{i}.0", f"head.convs.{i}.1")
        if head == "pup" and i < units - 1:
            x = F.interpolate(x, scale_factor=2, mode="bilinear")
    return F.conv2d(x, state["head.classifier.weight"], state["head.classifier.bias"])


def mla(state: State, maps: list[Tensor]) -> Tensor:
    """Multi-level aggregation, and its head."""
    streams = [
        unit(state, norm(state, x, f"neck.norm.{i}"), f"neck.proj.{i}.0", f"neck.proj.{i}.1")
        for i, x in enumerate(maps)
    ]
    total, parts = torch.zeros_like(streams[0]), []
    for i in (3, 2, 1, 0):
        total = total + streams[i]
        x = unit(state, total, f"neck.smooth.{i}.0", f"neck.smooth.{i}.1")
        for k in (0, 3):
            x = unit(state, x, f"head.branches.{i}.{k}", f"head.branches.{i}.{k + 1}")
        parts.insert(0, F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=True))
    weight, bias = state["head.classifier.weight"], state["head.classifier.bias"]
    return F.conv2d(torch.cat(parts, 1), weight, bias, padding=1)


OFFICIAL = (
    (r"encoder\.", "backbone."),
    (r"neck\.norm\.(\d)", r"backbone.norm_\1"),
    (r"neck\.proj\.(\d)\.", r"backbone.mla.mla_p<\1>_1x1."),
    (r"neck\.smooth\.(\d)\.", r"backbone.mla.mla_p<\1>."),
    (r"head\.branches\.(\d)\.", r"decode_head.mlahead.head<\1>."),
    (r"head\.classifier", "decode_head.cls"),
)
"""Our names of a SETR-MLA and the authors', read off their code; <i> is i + 2."""


def authors_names(state: State) -> dict[str, Tensor]:
    """A SETR-MLA without auxiliary heads, as the authors' code would save it."""
    found = {}
    for name, value in state.items():
        for ours, theirs in OFFICIAL:
            name = re.sub(f"^{ours}", theirs, name)
        name = re.sub(r"<(\d)>", lambda match: str(int(match[1]) + 2), name)
        found[name] = value
    return found


def distilled(encoder: State) -> dict[str, Tensor]:
    """A plain ViT as DeiT's file with a distillation token: one more row, one more token."""
    table = encoder["pos_embed"]
    row = torch.full_like(table[:, :1], 0.3)
    changed = torch.cat([table[:, :1], row, table[:, 1:]], 1)
    extra = {name: torch.zeros(table.shape[-1], dtype=table.dtype)
             for name in ("norm.weight", "norm.bias")}
    return {**encoder, **extra, "pos_embed": changed, "dist_token": row.clone()}
