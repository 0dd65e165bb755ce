"""Encoders that timm has a part in: any plain ViT of timm, and the paper's hybrid.

Both keep the contract of `encoder.VisionTransformer`: attributes `patch_size`, `embed_dim`,
`grid`, `taps`, `blocks`, `mean` and `std`; ``encoder(image)`` is one (B, N, C) for each tap,
shallow first.
"""

from __future__ import annotations

import difflib
import math
from typing import Any

import torch
from torch import Tensor, nn

from .config import Colour
from .encoder import PRESETS, VisionTransformer, check_taps, default_taps, patch_grid
from .errors import UserError

PREFIX = "timm:"
"""What an encoder's name starts with when timm builds it: ``timm:vit_small_patch14_dinov2``."""

PLAIN_MODULES = ("vision_transformer", "deit", "eva", "vision_transformer_hybrid")
"""timm's modules of plain ViTs: one sequence of tokens, one resolution, from end to end."""

SIZES = ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")
"""Of an encoder, as timm's models and `encoder.VisionTransformer` call them."""

HYBRIDS = {"hybrid_base": "vit_base_patch16"}
"""Names of hybrid encoders and the preset whose blocks they have."""


class TimmEncoder(nn.Module):
    """A plain ViT of timm that returns its residual stream after chosen blocks.

    Patch size, width, prefix tokens and normalisation constants are those of timm's model. Prefix
    tokens (class, distillation, registers) go through the blocks and are dropped at the taps. What
    only a classifier needs is removed (final norm, attention pooling, head, blocks behind the last
    tap), so that every parameter learns. Position tables are resized per image as timm does it,
    bicubic with antialiasing; rotary positions are computed for the image's grid.

    Args:
        vit: a model of timm made with ``dynamic_img_size=True``; it is changed in place.
        taps: 0-based blocks to return, rising.

    Raises:
        UserError: a tap that the model does not have.
    """

    def __init__(self, vit: Any, taps: tuple[int, ...]) -> None:  # timm's ViTs have no common base
        super().__init__()
        check_taps(taps, len(vit.blocks))
        vit.prune_intermediate_layers(list(taps), prune_norm=True, prune_head=True)
        self.vit: Any = vit
        self.taps = tuple(taps)
        self.patch_size: int = vit.feature_info[-1]["reduction"]
        self.embed_dim: int = vit.embed_dim
        height, width = vit.patch_embed.grid_size
        self.grid: tuple[int, int] = (height, width)
        self.mean, self.std = (_bytes(vit.pretrained_cfg[key]) for key in ("mean", "std"))

    @classmethod
    def from_name(
        cls, name: str, *, head: str = "pup", img_size: tuple[int, int] = (512, 512),
        taps: tuple[int, ...] | None = None, drop_path: float = 0.0, **changes: Any,
    ) -> TimmEncoder:
        """The model that timm knows as `name`, with random weights.

        Args:
            name: with or without the tag of its weights, ``vit_base_patch16_224.dino``; the tag
                decides the normalisation constants.
            head: whose `default_taps` are read if `taps` is None.
            img_size: (H, W) in pixels whose grid the position table has, if there is a table.
            taps: 0-based blocks to return.
            drop_path: stochastic depth rate of the last block, rising linearly from 0.
            changes: for timm's model, such as ``depth=5``.

        Raises:
            UserError: a name that timm does not know, or no plain ViT.
        """
        vit = create_vit(name, img_size, drop_path_rate=drop_path, **changes)
        return cls(vit, taps or default_taps(len(vit.blocks), head))

    @property
    def blocks(self) -> nn.Sequential:
        """The transformer layers, one after the other."""
        return self.vit.blocks

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W), H and W multiples of P -> one (B, N, C) for each tap, shallow first."""
        patch_grid(image, self.patch_size)
        return self.vit.forward_intermediates(
            image, list(self.taps), norm=False, output_fmt="NLC", intermediates_only=True)


def create_vit(name: str, img_size: tuple[int, int], **changes: Any) -> Any:
    """timm's plain ViT `name`, without classifier, for images of any size in whole patches.

    The position table gets the grid of `img_size`, rounded up to whole patches.

    Raises:
        UserError: a name that timm does not know, or no plain ViT; sizes that it cannot have.
    """
    from timm import create_model

    check_name(name)
    sizes = ", ".join(f"{key}={value}" for key, value in changes.items() if key in SIZES)
    changes |= {"num_classes": 0, "dynamic_img_size": True}
    try:
        with torch.device("meta"):  # costs no memory, and tells the patch size
            vit: Any = create_model(name, **changes)
    except Exception as error:  # timm leaves it to its layers to complain
        if not sizes:
            raise
        raise UserError(f"{PREFIX}{name}: timm cannot build it with {sizes} ({error})") from error
    patch = vit.feature_info[-1]["reduction"]
    size = tuple(math.ceil(side / patch) * patch for side in img_size)
    return create_model(name, img_size=size, **changes)


def check_name(name: str) -> None:
    """Refuse what is no plain ViT of timm.

    Raises:
        UserError: an unknown name, another kind of model, or a tag that it does not have.
    """
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.models.is_model_in_modules(architecture, PLAIN_MODULES):
        plain = timm.list_models(module=PLAIN_MODULES)
        near = ", ".join(difflib.get_close_matches(architecture, plain, n=3, cutoff=0))
        what = f"is unknown to timm {timm.__version__}"
        if timm.is_model(architecture):
            what = "is no plain vision transformer"
        raise UserError(f"{PREFIX}{name}: {architecture!r} {what}; nearest are {near}")
    tagged = timm.list_models(f"{architecture}.*", module=PLAIN_MODULES, include_tags=True)
    if tag and name not in tagged:
        raise UserError(f"{PREFIX}{name}: no tag {tag!r}; choose from {', '.join(tagged)}")


def _bytes(values: tuple[float, ...]) -> Colour:
    """timm's constants, for values in 0..1, in 0..255."""
    red, green, blue = (round(255 * value, 6) for value in values)
    return red, green, blue


class HybridEmbed(nn.Module):
    """ResNet-50 at output stride 16, its 2048 channels projected to tokens by a 1x1 convolution.

    timm's `resnet50`; the stride of its last stage is replaced by dilation. BatchNorm as in timm.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        from timm import create_model

        self.backbone = create_model(
            "resnet50", features_only=True, output_stride=16, out_indices=(4,))
        self.proj = nn.Conv2d(2048, embed_dim, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W), multiples of 16 -> (B, N, C), positions in reading order."""
        return self.proj(self.backbone(image)[-1]).flatten(2).transpose(1, 2)


class HybridTransformer(VisionTransformer):
    """The paper's Hybrid: ResNet-50 features instead of patches, then T-Base (section 4.1).

    A reconstruction: the paper names the parts, ResNet-50 as an FCN at output stride 16 in front
    of T-Base, and no published code runs it. The 1x1 projection and reading the last stage are
    ours. With the Naive head, 19 classes and images of 768 x 768 it has 112.11 M parameters, 112.72
    M with auxiliary heads; the paper counts 112.59 M. `sizes` are those of `VisionTransformer`.
    """

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.patch_embed = HybridEmbed(self.embed_dim)

    @classmethod
    def from_preset(cls, name: str, **changes: Any) -> HybridTransformer:
        """``hybrid_base`` by name; keyword arguments as `VisionTransformer` takes them."""
        return cls(**{**PRESETS[HYBRIDS[name]], **changes})
