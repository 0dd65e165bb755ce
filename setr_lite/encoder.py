"""The encoder: a plain vision transformer with the parameter names of timm.

Shapes: B images, H x W pixels, patch size P, grid h x w = H/P x W/P, N = h*w patches, C channels
of a token, A attention heads of C/A channels each.

The layers follow ViT as SETR uses it (paper, section 3.2; authors' code): patch projection with
bias, class token, learned position table, pre-norm blocks, exact GELU, LayerNorm eps 1e-6. The
residual stream of four blocks is handed on as it is: SETR's encoder has no final norm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import IMAGENET_MEAN, IMAGENET_STD, Colour
from .errors import UserError, nearest

EPS = 1e-6  # of every LayerNorm in ViT and SETR; PyTorch's default is 1e-5

PRESETS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16": {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3},
    "vit_small_patch16": {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6},
    "vit_base_patch16": {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12},
    "vit_large_patch16": {"patch_size": 16, "embed_dim": 1024, "depth": 24, "num_heads": 16},
    "toy": {"patch_size": 8, "embed_dim": 144, "depth": 5, "num_heads": 3, "init_std": 0.06},
}
"""Sizes by name: the paper's T-Base and T-Large are ``vit_base`` and ``vit_large`` (its table 1);
tiny and small are timm's; ``toy`` (1.3 M at 96 x 192) trains on a laptop in minutes. Its wider
initial weights are for its narrow layers: 0.02 would start every branch near zero."""

TAP_FRACTIONS = {
    "naive": (10 / 24, 15 / 24, 20 / 24, 1.0),
    "pup": (10 / 24, 15 / 24, 20 / 24, 1.0),
    "mla": (6 / 24, 12 / 24, 18 / 24, 1.0),
    "linear": (10 / 24, 15 / 24, 20 / 24, 1.0),  # only the last is looked at
}
"""Depths at which the heads read the encoder, as shares of all blocks (paper, section 4.1)."""


def default_taps(depth: int, head: str) -> tuple[int, ...]:
    """0-based indices of the four blocks that `head` reads, for an encoder of any depth.

    ``floor(depth * f + 0.5) - 1`` for f in 10/24, 15/24, 20/24, 1 (MLA: 1/4, 1/2, 3/4, 1), which
    at depth 24 are the paper's blocks 10, 15, 20, 24 (MLA: 6, 12, 18, 24), counted from 1.

    Raises:
        UserError: an encoder too shallow for four different blocks; for an unknown head KeyError.
    """
    taps = tuple(math.floor(depth * f + 0.5) - 1 for f in TAP_FRACTIONS[head])
    if len(set(taps)) < 4:
        raise UserError(f"an encoder of depth {depth} has no four blocks for {head}; use 5 or more")
    return taps


def check_taps(taps: Sequence[int], depth: int) -> None:
    """Raise UserError unless an encoder with `depth` blocks has these taps.

    Raises:
        UserError: a tap beyond the last block, or taps that do not rise from 0 on.
    """
    rising = taps and list(taps) == sorted(set(taps)) and taps[0] >= 0
    if not rising or not all(isinstance(tap, int) for tap in taps):
        raise UserError(f"taps {tuple(taps)}: give rising numbers of blocks, the first block is 0")
    if max(taps) >= depth:
        raise UserError(f"taps {tuple(taps)}: the encoder's last block is {depth - 1}")


def patch_grid(image: Tensor, patch_size: int) -> tuple[int, int]:
    """(h, w), the number of patches down and across an image (B, 3, H, W).

    Raises:
        UserError: H or W is not a multiple of the patch size (`SETR` pads for you).
    """
    _, _, height, width = image.shape
    if height % patch_size or width % patch_size:
        raise UserError(
            f"an image of {height} x {width} pixels has no whole patches of {patch_size}; "
            "pad it first"
        )
    return height // patch_size, width // patch_size


def resize_pos_embed(
    pos_embed: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]
) -> Tensor:
    """The position table for another grid: bilinear, the class token's row untouched.

    Plain bilinear without antialiasing is what the published SETR code does; timm's own resampler
    is bicubic and gives other numbers.

    Args:
        pos_embed: (1, 1 + h*w, C), the class token's row first.
        old_grid: (h, w) of `pos_embed`.
        new_grid: (h', w') wanted.

    Returns:
        (1, 1 + h'*w', C); `pos_embed` itself when the grids are equal.
    """
    if not torch.compiler.is_compiling() and old_grid == new_grid:
        return pos_embed  # not in an exported graph: to ask would fix its grid to one or all others
    cls_row, rows = pos_embed[:, :1], pos_embed[:, 1:]
    table = rows.transpose(1, 2).unflatten(2, old_grid)  # (1, C, h, w)
    table = F.interpolate(table, size=new_grid, mode="bilinear", align_corners=False)
    return torch.cat([cls_row, table.flatten(2).transpose(1, 2)], dim=1)


class PatchEmbed(nn.Module):
    """Cut the image into P x P patches and project each to one token.

    A convolution whose stride is its kernel size: every patch is multiplied by the same matrix.
    """

    def __init__(self, patch_size: int, embed_dim: int, bias: bool = True) -> None:
        super().__init__()
        self.proj = nn.Conv2d(
            3, embed_dim, kernel_size=patch_size, stride=patch_size, bias=bias)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, N, C), patches in reading order."""
        return self.proj(image).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention: every token looks at every token (paper, equation 1)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads)
        # (B, A, N, C/A) each; their gradients come together in the order of qkv, without a copy
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        # softmax(q k^T / sqrt(C/A)) v, without ever storing the N x N matrix on a GPU
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(b, n, c))


class Mlp(nn.Module):
    """Two linear layers with exact (erf) GELU between, applied to each token alone."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return self.fc2(self.act(self.fc1(x)))


class DropPath(nn.Module):
    """Leave out a residual branch for whole images with chance `rate`, in training only.

    Raises:
        UserError: a rate that is no chance, or 1, which would leave nothing to scale up.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise UserError(f"drop_path={rate}: give a rate of 0 or more and below 1")
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C), the expected value unchanged."""
        if not self.training or self.rate == 0:
            return branch
        keep = torch.rand(len(branch), 1, 1, device=branch.device) >= self.rate
        return branch * keep / (1 - self.rate)


class Block(nn.Module):
    """One transformer layer: attention, then MLP, each normed before and added to the stream."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, drop_path: float = 0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    """A plain ViT that returns its residual stream after chosen blocks.

    Args:
        img_size: (H, W) in pixels whose grid the position table has.
        patch_size: P, the side of a patch in pixels.
        embed_dim: C, the width of a token in channels.
        depth: number of blocks.
        num_heads: A, attention heads of a block; must divide C.
        mlp_ratio: hidden width of the MLP in units of C.
        taps: 0-based blocks to return, rising; None returns the last one.
        keep_class_token: carry the class token through the blocks (Naive, PUP) or drop it before
            them (MLA), as the published models do. It is never part of the output.
        drop_path: stochastic depth rate of the last block, rising linearly from 0.
        init_std: of the linear layers' first weights, a truncated normal; 0.02 as published.
        patch_bias: the patch projection adds a bias; mmsegmentation 1.x leaves it out.

    Raises:
        UserError: a tap that the encoder does not have, a size below 1, or an `embed_dim` that
            `num_heads` does not divide.
    """

    mean: Colour = IMAGENET_MEAN
    """What is subtracted from images in 0..255 before they come here, as published."""
    std: Colour = IMAGENET_STD
    """What they are divided by after that."""

    def __init__(
        self, img_size: tuple[int, int] = (512, 512), patch_size: int = 16, embed_dim: int = 768,
        depth: int = 12, num_heads: int = 12, mlp_ratio: float = 4.0,
        taps: Sequence[int] | None = None, keep_class_token: bool = True, drop_path: float = 0.0,
        init_std: float = 0.02, patch_bias: bool = True,
    ) -> None:
        super().__init__()
        self.taps = tuple(taps) if taps is not None else (depth - 1,)
        check_taps(self.taps, depth)
        if min(patch_size, embed_dim, num_heads, mlp_ratio) <= 0:
            raise UserError(
                f"patch_size {patch_size}, embed_dim {embed_dim}, num_heads {num_heads}, mlp_ratio "
                f"{mlp_ratio}: give numbers above 0")
        if embed_dim % num_heads:
            raise UserError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}")
        self.patch_size, self.embed_dim, self.keep_class_token = (
            patch_size, embed_dim, keep_class_token)
        self.grid = (math.ceil(img_size[0] / patch_size), math.ceil(img_size[1] / patch_size))
        self.patch_embed: nn.Module = PatchEmbed(patch_size, embed_dim, patch_bias)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], embed_dim))
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio, r) for r in rates)
        # What the taps never see stays in the state dict, as published weights have it, but cannot
        # learn; DistributedDataParallel would wait for its gradient.
        self.cls_token.requires_grad_(keep_class_token)
        self.blocks[max(self.taps) + 1 :].requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=init_std)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    @classmethod
    def from_preset(cls, name: str, **changes: Any) -> VisionTransformer:
        """An encoder of `PRESETS` by name; keyword arguments override single sizes.

        Raises:
            UserError: no preset of that name.
        """
        if name not in PRESETS:
            raise UserError(f"no encoder {name!r:.200}{nearest(name, PRESETS)}")
        return cls(**{**PRESETS[name], **changes})

    def embed(self, image: Tensor) -> Tensor:
        """Tokens before the first block: (B, 3, H, W) -> (B, N or 1 + N, C).

        Raises:
            UserError: H or W is not a multiple of the patch size.
        """
        grid = patch_grid(image, self.patch_size)
        patches = self.patch_embed(image)
        pos_embed = resize_pos_embed(self.pos_embed, self.grid, grid)
        if not self.keep_class_token:
            # the sum would keep the map's layout, and every LayerNorm after it copy its tokens
            return patches.contiguous() + pos_embed[:, 1:]
        cls_token = self.cls_token.expand(image.shape[0], -1, -1)  # len() would fix it in exports
        return torch.cat([cls_token, patches], dim=1) + pos_embed

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W), H and W multiples of P -> one (B, N, C) for each tap, shallow first."""
        x = self.embed(image)
        prefix = 1 if self.keep_class_token else 0
        outputs = []
        for i, block in enumerate(self.blocks[: max(self.taps) + 1]):
            x = block(x)
            if i in self.taps:
                outputs.append(x[:, prefix:])
        return outputs
