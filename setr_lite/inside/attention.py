"""Attention, read from a model: its matrices, what tokens attend to through many blocks, how far
heads look.

The functions on matrices read what `attention_maps` gives. The last h * w of its tokens are the
patches in reading order; class token and other prefix tokens stand before them.

Shapes: B images, A heads, N tokens, h x w the patch grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..inference.tiles import in_eval_mode
from ..typed import LARGEST_NUMBER, whole


def attention_rollout(maps: Sequence[Tensor] | Tensor, stream: float = 0.5) -> Tensor:
    """Attention followed through the blocks (Abnar and Zuidema 2020, arXiv 2005.00928).

    The matrix of a block is the mean over its heads, mixed with the identity, because the residual
    stream carries each token past the attention. The product of the matrices says of which inputs
    an output token is made, as if values, projections and MLPs were identities. They are not, so
    this is a picture of the paths, not a measurement of influence.

    Args:
        maps: of each block, shallow first, (B, A, N, N) with rows that sum to 1; or all of them
            as one tensor (blocks, B, A, N, N).
        stream: share of the identity (the residual stream), 0..1; 0.5 as in the paper.

    Returns:
        (blocks, B, N, N): entry i is the rollout through blocks 0..i. Rows sum to 1.

    Raises:
        UserError: no maps, maps of different shapes, or a share outside 0..1.
    """
    if len(maps) == 0 or len({tuple(m.shape) for m in maps}) > 1 or maps[0].ndim != 4:
        shapes = sorted({tuple(m.shape) for m in maps})
        raise UserError(f"attention_rollout: maps of {shapes}; give (B, A, N, N) for each block")
    if not 0 <= stream <= 1:
        raise UserError(f"attention_rollout: stream={stream} is no share; give 0..1")
    identity = torch.eye(maps[0].shape[-1]).to(maps[0])
    so_far, out = identity.expand_as(maps[0][:, 0]), []
    for table in maps:
        so_far = (stream * identity + (1 - stream) * table.mean(dim=1)) @ so_far
        out.append(so_far)
    return torch.stack(out)


def attention_distance(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """How far each head looks: the mean distance from a patch to those it attends to.

    Distances are Euclidean, in patches, and weighted by attention; the mean is over all query
    patches (Dosovitskiy et al. 2021, appendix D.7, in pixels there). Attention to prefix tokens is
    left out, and the rest renormalised.

    Args:
        table: (B, A, N, N).
        grid: (h, w); the last h * w tokens are patches.

    Returns:
        (B, A).

    Raises:
        UserError: fewer tokens than patches.
    """
    h, w = grid
    if table.shape[-1] < h * w:
        raise UserError(f"attention_distance: {table.shape[-1]} tokens for a grid of {h} x {w}")
    patches = table[..., -h * w :, -h * w :]
    shares = patches / patches.sum(dim=-1, keepdim=True)
    at = torch.cartesian_prod(torch.arange(h), torch.arange(w)).to(table)  # (N, 2)
    return (shares * torch.cdist(at, at)).sum(dim=-1).mean(dim=-1)


def attention_maps(model: nn.Module, image: Tensor, block: int | None = -1) -> Tensor:
    """The attention matrices of an encoder block: softmax(q k^T / sqrt(d)) of each head.

    The model never stores this matrix. A hook catches the input of the block's attention, and the
    matrix is worked out from it with the block's own weights.

    Args:
        model: a SETR; it runs in eval mode, and every part's mode is put back.
        image: (B, 3, H, W) or (3, H, W), normalised.
        block: 0-based index; -1 is the last one, None all of them.

    Returns:
        (B, heads, N, N) with rows (queries) that sum to 1; (blocks, B, heads, N, N) for all. N
        counts the class token, first, if the encoder carries it through its blocks
        (`model.encoder.keep_class_token`), and the other prefix tokens of a timm encoder.

    Raises:
        UserError: no such block, the block did not run, or its attention does more than the
            formula (rotary positions, norms of q and k: DINOv3, EVA).
    """
    blocks = list(model.get_submodule("encoder.blocks").children())
    if block is not None:
        whole("block", block, -LARGEST_NUMBER)
        if not -len(blocks) <= block < len(blocks):
            raise UserError(f"block {block}: the encoder has blocks 0..{len(blocks) - 1}")
    if not isinstance(image, Tensor) or image.ndim not in (3, 4) or image.shape[-3] != 3:
        raise UserError(
            f"image of type {type(image).__name__} and shape {tuple(getattr(image, 'shape', ()))}: "
            "give a tensor (3, H, W) or (B, 3, H, W), as of model.preprocess")
    wanted = [b.get_submodule("attn") for b in (blocks if block is None else [blocks[block]])]
    seen: dict[nn.Module, Tensor] = {}
    for attention in wanted:
        _check_attention(attention)
    handles = [
        attention.register_forward_pre_hook(lambda layer, inputs: seen.update({layer: inputs[0]}))
        for attention in wanted
    ]
    try:
        with in_eval_mode(model), torch.no_grad():
            model(image if image.ndim == 4 else image[None])
    finally:
        for handle in handles:
            handle.remove()
    if len(seen) < len(wanted):
        which = "a block" if block is None else f"block {block}"
        raise UserError(f"{which} did not run under a hook: use a model that is not compiled")
    maps = [_attention(attention, seen[attention]) for attention in wanted]
    return torch.stack(maps) if block is None else maps[0]


def _check_attention(attention: nn.Module) -> None:
    """Some of timm's attention turns q and k by position (EVA, DINOv3) or norms them."""
    rotary = hasattr(attention, "rotate_half")
    normed = not isinstance(getattr(attention, "q_norm", nn.Identity()), nn.Identity)
    if rotary or normed or not hasattr(attention, "qkv"):
        raise UserError(
            f"attention_maps: {type(attention).__name__} does more than softmax(q k^T / sqrt(d)); "
            "use an encoder whose attention is plain, such as vit_*, deit_* or DINOv2"
        )


@torch.no_grad()
def _attention(attention: Any, x: Tensor) -> Tensor:
    b, n, c = x.shape
    qkv = attention.qkv(x).reshape(b, n, 3, attention.num_heads, c // attention.num_heads)
    q, k, _ = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, d)
    return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)
