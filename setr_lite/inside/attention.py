"""What tables of attention say: whom tokens hear through many blocks, and how far heads look.

Both functions read what `visualize.attention_maps` gives. The last h * w of its tokens are the
patches in reading order; class token and other prefix tokens stand before them.

Shapes: B images, A heads, N tokens, h x w the patch grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UserError


def attention_rollout(maps: Sequence[Tensor] | Tensor, stream: float = 0.5) -> Tensor:
    """Attention followed through the blocks (Abnar and Zuidema 2020, arXiv 2005.00928).

    The table of a block is the mean over its heads, mixed with the identity, because the residual
    stream carries each token past the attention. The product of the tables says of which inputs
    an output token is made, as if values, projections and MLPs left everything as it is. They do
    not, so this is a picture of the paths, not a measurement of influence.

    Args:
        maps: of each block, shallow first, (B, A, N, N) with rows that sum to 1; or all of them
            as one tensor (blocks, B, A, N, N).
        stream: share of the identity, 0..1; 0.5 as in the paper.

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
    """How far each head looks: the mean distance from a patch to the patches that it hears.

    Distances are Euclidean, in patches, and weighted by attention; the mean is over all asking
    patches (Dosovitskiy et al. 2021, appendix D.7, in pixels there). What goes to prefix tokens
    is left out, and the rest counted as the whole.

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
