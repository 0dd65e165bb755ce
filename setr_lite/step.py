"""One training step: forward, loss, backward, a look at the gradients, clipping, update.

Whatever takes a step takes this one: training, benchmarks, and the estimates of memory and of
arithmetic. So what is measured is what runs.

Shapes: B images of H x W pixels, A auxiliary heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .config import RunConfig
from .distributed.parallel import gradients_sync_when
from .errors import UserError
from .logits import SETROutput
from .losses import loss_and_terms, loss_divisor
from .precision import autocast

Look = Callable[[Tensor, Tensor], None]
"""Called with loss and gradient norm, both scalars, before the update; may raise to prevent it."""


class Losses(NamedTuple):
    """What a step computed, without gradients, still on the device."""

    total: Tensor
    """A scalar: the main head's loss plus the weighted auxiliary ones."""
    terms: Tensor
    """(1 + A,): the main head's loss, then each auxiliary head's, not weighted."""


def take_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, image: Tensor, label: Tensor,
    config: RunConfig, *, bf16: bool = False, look: Look | None = None,
) -> Losses:
    """Move the parameters of `model` once.

    Args:
        model: in training mode, perhaps wrapped for several processes.
        optimizer: of its parameters.
        image: (B, 3, H, W) normalised, on the model's device.
        label: (B, H, W) there, uint8 or int64.
        config: its ``loss``, ``train.accumulate`` and ``optim.clip_norm`` are read.
        bf16: compute in bfloat16 autocast.
        look: sees loss and gradient norm before the update.
    """
    optimizer.zero_grad(set_to_none=True)
    losses = add_gradients(model, image, label, config, bf16=bf16)
    norm = gradient_norm(model.parameters())
    if look:
        look(losses.total, norm)
    if config.optim.clip_norm:
        nn.utils.clip_grads_with_norm_(model.parameters(), config.optim.clip_norm, norm)
    optimizer.step()
    return losses


def add_gradients(
    model: nn.Module, image: Tensor, label: Tensor, config: RunConfig, *, bf16: bool = False
) -> Losses:
    """Forward, loss and backward pass of a batch, in ``train.accumulate`` parts.

    The gradients are added to those that the parameters hold. Arguments as of `take_step`.
    """
    count = config.train.accumulate
    weights = config.loss.weights()
    divisor = loss_divisor(label, config.loss.normalize, class_weights=weights)
    found = []
    parts = zip(image.chunk(count), label.chunk(count), strict=True)
    for i, (images, labels) in enumerate(parts, 1):
        with gradients_sync_when(model, i == count), autocast(image.device, bf16):
            loss, terms = loss_and_terms(
                _scores(model, images), labels,
                aux_weight=config.loss.aux_weight, normalize=config.loss.normalize,
                divisor=divisor, class_weights=weights,
            )
            loss.backward()
        found.append(Losses(loss.detach(), terms))
    total, summed = found[0]
    for loss, terms in found[1:]:
        total, summed = total + loss, summed + terms
    return Losses(total, summed)


def _scores(model: nn.Module, images: Tensor) -> SETROutput:
    """Forward pass.

    Raises:
        UserError: one image, of one patch, has no variance for BatchNorm to divide by.
    """
    try:
        return model(images)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            f"one image of {images.shape[-2]} x {images.shape[-1]} pixels gives BatchNorm one "
            "value a channel, which has no variance; take a larger data.crop_size or "
            "train.batch_size, or fewer parts in train.accumulate"
        ) from error


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """L2 norm of all gradients taken together, a scalar on their device.

    Collective where FSDP has cut them up.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm
