"""Memory for time: the encoder's activations are computed again instead of kept.

Two settings, both exact, both at the price of one more forward pass of the encoder:

``train.grad_checkpointing``  a block keeps its input only and runs again when gradients come to
                              it. What stays grows with depth and batch: one stream a block.
``train.micro_batch``         the whole encoder keeps the images and its taps only, and runs again
                              a few images at a time. What stays does not grow with depth, and the
                              activations of one micro-batch are alive at a time.

SETR allows the second because its encoder has no BatchNorm: an image's tokens do not depend on
its neighbours. Neck, heads and loss, whose BatchNorm does look across the batch, run once on the
taps of all images. So the statistics are those of the whole batch, unlike with
``train.accumulate``, which splits the heads' batch too.

Shapes: B images, m of them in a micro-batch, N patches, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import TrainConfig
from ..encoder import VisionTransformer
from ..errors import UserError
from ..timm_encoder import TimmEncoder


def recompute_encoder(encoder: VisionTransformer | TimmEncoder, train: TrainConfig) -> None:
    """Let `encoder` trade time for memory as `train` asks; its state dict stays as it is.

    Args:
        encoder: with the contract of `encoder.VisionTransformer`; not compiled yet.
        train: its `micro_batch` and `grad_checkpointing` are read.

    Raises:
        UserError: `train.micro_batch` for an encoder with BatchNorm, to which the rest of the
            batch matters.
    """
    if train.grad_checkpointing:
        for block in encoder.blocks:
            _replace_forward(block, run_again(block.forward))
    if not train.micro_batch:
        return
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in encoder.modules()):
        raise UserError(
            "train.micro_batch: the encoder has BatchNorm, which would see the statistics of a "
            "part; take train.grad_checkpointing=true, or train.accumulate with that in mind"
        )
    _replace_forward(encoder, MicroBatches(encoder.forward, train.micro_batch))


def _replace_forward(module: nn.Module, forward: Callable[..., Any]) -> None:
    module.__dict__["forward"] = forward  # the instance's own; a method is not assigned to


def run_again(compute: Callable[..., Any]) -> Callable[..., Any]:
    """`compute` without memory: what it keeps is its input, and it runs twice.

    The second time, when its gradients are wanted, the random numbers and autocast are those of
    the first. Where no gradients are wanted it runs once.
    """

    @wraps(compute)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return compute(*args, **kwargs)
        return checkpoint(compute, *args, use_reentrant=False, **kwargs)

    return run


class MicroBatches:
    """An encoder's forward pass that hands on all images and keeps the activations of none.

    When the gradients of the taps arrive, the last micro-batch runs again, its gradients are
    added up, its activations go, and the next one follows. The random numbers of stochastic depth
    are those of the first time, though others than an undivided batch would draw.

    Autocast should not keep its casts of the weights (``cache_enabled=False``): the micro-batches
    would share them, and with them a sum of gradients in bfloat16.

    Args:
        compute: (B, 3, H, W) -> one (B, N, C) for each tap, image by image.
        size: m, images that are encoded together; the last micro-batch may be smaller.
    """

    def __init__(self, compute: Callable[[Tensor], list[Tensor]], size: int) -> None:
        self.whole, self.part, self.size = compute, run_again(compute), size

    def __call__(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one (B, N, C) for each tap, shallow first, as the encoder gives them."""
        if not torch.is_grad_enabled():
            return self.whole(image)
        parts = [self.part(images) for images in image.split(self.size)]
        return [torch.cat(tap) for tap in zip(*parts, strict=True)]
