"""The loss: cross-entropy of the main head plus weighted auxiliary heads.

Heads classify at low resolution, so the loss first resizes logits to the size of the labels.

Shapes: B images, K classes, ``(h, w)`` logits, ``(H, W)`` image.

Two ways to turn a sum over pixels into a mean:

``"all"``    divides by all pixels of the batch. Ignored pixels add 0 to the sum and 1 to the
             divisor. The published SETR configurations are trained this way.
``"valid"``  divides by the pixels that are not ignored, the textbook mean.

Why the divisor of ``"valid"`` is a share of a global count. Let rank r of W hold the sum S_r over
n_r valid pixels. Wanted is the gradient of sum(S_r) / N with N = sum(n_r). DistributedDataParallel
takes the mean of the ranks' gradients, (1/W) sum(grad loss_r), so each rank uses
loss_r = S_r / (N / W): the factors W cancel. The mean of loss_r over ranks is the global loss.
With ``"all"`` every rank has the same number of pixels and S_r / pixels_r does it.

Class weights w multiply each pixel's loss by that of its class. ``"valid"`` then divides by the
sum of the weights of the valid pixels, the weighted mean of ``F.cross_entropy(weight=)``;
``"all"`` divides by all pixels as before.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..config import IGNORE, Size
from ..errors import UserError, nearest, shortly
from ..logits import LazyLogits, SETROutput, Steps, no_autocast, strip_height, weights
from .on_gpu import ImagesCrossEntropy, compiled, compiles

Normalize = Literal["all", "valid"]
BAND = 4
"""Strips whose rows of logits are resized along the rows at a time: at 150 classes and 512 x 512
pixels 5 MB of them, where a whole image's take 39 from logits a quarter as high."""


def segmentation_loss(
    output: SETROutput, label: Tensor, *, aux_weight: float = 0.4, normalize: Normalize = "all",
    ignore_index: int = IGNORE, divisor: Tensor | float | None = None,
    class_weights: Sequence[float] | None = None,
) -> Tensor:
    """Cross-entropy of the main head plus `aux_weight` times that of each auxiliary head.

    Args:
        output: the model's output for the batch.
        label: (B, H, W) uint8 or int64, class ids 0..K-1 or `ignore_index`.
        aux_weight: 0.4 in the published configurations; the paper names none.
        normalize: ``"all"`` divides the sum over pixels by all pixels of the batch, ``"valid"`` by
            those that are not ignored.
        ignore_index: id of pixels that have no class.
        divisor: replaces the divisor of `label`. A batch that is worked through in parts, whose
            gradients add up, passes `loss_divisor` of the whole batch with every part: the sum
            of the parts' losses is then the loss of the batch, for both values of `normalize`.
        class_weights: K numbers, finite and not negative: what a pixel of each class counts; None
            counts all alike.

    Returns:
        A scalar, float32 (float64 for float64 logits); 0 when no pixel is valid, never NaN.

    Raises:
        UserError: an `ignore_index` that is a class, label of another shape or type, unknown
            `normalize`, `class_weights` that are not K such numbers; on the CPU also a label id
            that is no class. On CUDA that check would wait for the device at each step; there the
            data set's own check of every label file stands for it.
    """
    return loss_and_terms(
        output, label, aux_weight=aux_weight, normalize=normalize, ignore_index=ignore_index,
        divisor=divisor, class_weights=class_weights,
    )[0]  # fmt: skip


def loss_and_terms(
    output: SETROutput, label: Tensor, *, aux_weight: float = 0.4, normalize: Normalize = "all",
    ignore_index: int = IGNORE, divisor: Tensor | float | None = None,
    class_weights: Sequence[float] | None = None,
) -> tuple[Tensor, Tensor]:
    """`segmentation_loss`, and what it is made of.

    Returns:
        The loss, and (1 + auxiliary heads,) without gradients: the main head's loss, then each
        auxiliary head's, not weighted.
    """
    _check_label(label, output, ignore_index)
    check_class_weights(class_weights, output.scores.shape[1])
    if divisor is None:
        divisor = loss_divisor(
            label, normalize, ignore_index=ignore_index, class_weights=class_weights)
    label = label.long()
    losses = [
        resize_cross_entropy(
            lazy, label, ignore_index=ignore_index, class_weights=class_weights)
        for lazy in output.heads()
    ]
    total = losses[0]
    for auxiliary in losses[1:]:
        total = total + aux_weight * auxiliary
    if isinstance(divisor, Tensor):
        divisor = divisor.to(total.device, total.dtype)
    return total / divisor, torch.stack(losses).detach() / divisor


def loss_divisor(
    label: Tensor, normalize: Normalize = "all", *, ignore_index: int = IGNORE,
    class_weights: Sequence[float] | None = None,
) -> Tensor | int:
    """The number that the sum over the pixels of `label` is divided by.

    ``"all"``: the number of pixels. ``"valid"``: N / W, a float64 scalar on the label's device,
    with N the valid pixels of all W processes, each counted with the weight of its class (1
    if there are none, so that 0 / N is 0). In a distributed run ``"valid"`` is a collective call:
    every process has to make it. Any other word raises UserError.
    """
    if normalize == "all":
        return label.numel()
    if normalize != "valid":
        raise UserError(f"loss.normalize={normalize!r}{nearest(normalize, ('all', 'valid'))}")
    count, world = (label != ignore_index).sum(), 1
    if class_weights is not None:
        by_class = weights_on(tuple(class_weights), torch.float64, label.device)
        valid = label != ignore_index
        count = by_class[label.long().where(valid, 0)].where(valid, 0).sum()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(count)
        world = dist.get_world_size()
    return count.where(count > 0, 1).double() / world


def check_class_weights(class_weights: Sequence[float] | None, classes: int) -> None:
    """Raise UserError unless these are `classes` usable weights, or None."""
    if class_weights is None:
        return
    if not isinstance(class_weights, (tuple, list)):
        raise UserError(f"loss.class_weights={shortly(class_weights)}: give one for each class")
    if not all(isinstance(weight, (int, float)) for weight in class_weights):
        raise UserError(f"loss.class_weights={tuple(class_weights)}: give numbers")
    if len(class_weights) != classes:
        raise UserError(
            f"loss.class_weights: {len(class_weights)} of them for {classes} classes; give one for "
            "each, or auto"
        )
    if not all(0 <= weight < math.inf for weight in class_weights) or not any(class_weights):
        raise UserError(
            f"loss.class_weights={tuple(class_weights)}: give finite numbers, none of them negative"
            " and not all of them 0"
        )


@functools.lru_cache(maxsize=8)
def weights_on(
    class_weights: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """(K,) on `device`, made once: a copy in every step would wait for the device."""
    return torch.tensor(class_weights, dtype=dtype, device=device)


def resize_cross_entropy(
    lazy: LazyLogits, label: Tensor, *, ignore_index: int = IGNORE,
    class_weights: Sequence[float] | None = None,
) -> Tensor:
    """Sum of the cross-entropy of resized logits over the valid pixels of `label`.

    Logits are resized, cut and compared with the label one image at a time, on a GPU some (see
    `on_gpu`); the softmax is taken in float32 or better. Two resizes cost no more than one:
    their matrices are multiplied beforehand.

    Args:
        lazy: (B, K, h, w) of any floating type, and the way from there to (H, W).
        label: (B, H, W) int64, ids 0..K-1 or `ignore_index`.
        class_weights: K numbers, what a pixel of each class counts; None counts all alike.

    Returns:
        A scalar, differentiable once with respect to the logits.
    """
    logits = lazy.logits if torch.is_grad_enabled() else lazy.logits.detach()
    by_class = None
    if class_weights is not None:
        wide = torch.promote_types(logits.dtype, torch.float32)
        by_class = weights_on(tuple(class_weights), wide, logits.device)
    if compiles(logits.device):
        return ImagesCrossEntropy.apply(
            logits, label, lazy.size, lazy.steps, ignore_index, by_class, compiled())
    return _ResizeCrossEntropy.apply(
        logits, label, lazy.axis(0), lazy.axis(1), ignore_index, by_class)


class _ResizeCrossEntropy(torch.autograd.Function):
    """Works out the gradient together with the loss, a strip of rows of one image at a time.

    Left to autograd, every full-size softmax of every head would wait in memory for the backward
    pass. Here one strip's is alive at a time, small enough for a cache, and what waits is a
    gradient of the logits' size. A strip needs only the few rows of logits that it lies between;
    those of `BAND` strips are resized along the rows together, since neighbours share some.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, label: Tensor, down: Steps, across: Steps, ignore_index: int,
        by_class: Tensor | None,
    ) -> Tensor:
        wide = torch.promote_types(logits.dtype, torch.float32)
        total = logits.new_zeros((), dtype=wide)
        gradient = torch.zeros_like(logits, dtype=wide) if ctx.needs_input_grad[0] else None
        height, width = label.shape[-2:]
        used, columns = weights(0, width, across, wide, logits.device)
        bands = _row_bands(logits, down, (height, width), wide)
        with no_autocast(logits.device.type):
            for i in range(len(logits)):
                for band, strips in bands:
                    rows = logits[i, :, band, used].to(wide) @ columns.T  # (K, rows, W)
                    grad = torch.zeros_like(rows)
                    for outer, inner, matrix in strips:
                        full = matrix @ rows[:, inner]  # (K, strip, W)
                        loss, error = _pixel_losses(
                            full, label[i, outer], ignore_index, by_class)
                        total += loss
                        if gradient is not None:  # back through the resize: transposed matrices
                            grad[:, inner] += matrix.T @ error
                    if gradient is not None:
                        gradient[i, :, band, used] += grad @ columns
        ctx.save_for_backward(None if gradient is None else gradient.to(logits.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype), None, None, None, None, None


def _pixel_losses(
    full: Tensor, label: Tensor, ignore_index: int, by_class: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of (K, H, W) logits and its gradient, softmax - one-hot, in place.

    One exponential serves both: log_softmax first and exp afterwards would take two. `by_class`
    (K,) weighs the pixels.
    """
    valid = label != ignore_index
    target = label.where(valid, 0)[None]
    full -= full.amax(dim=0, keepdim=True)
    picked = full.gather(0, target)[0]
    total = full.exp_().sum(dim=0)
    loss = (total.log() - picked).where(valid, 0)
    scale = valid.to(full.dtype)
    if by_class is not None:
        scale = scale * by_class[target[0]]
        loss = loss * scale
    error = full.mul_(scale / total)
    return loss.sum(), error.scatter_add_(0, target, -scale[None])


def _row_bands(
    logits: Tensor, steps: Steps, size: Size, dtype: torch.dtype
) -> list[tuple[slice, list[tuple[slice, slice, Tensor]]]]:
    """Rows of logits band by band, and the strips that they are mixed to.

    Of a strip: its rows of the image, the rows of the band that it mixes, the weights.
    """
    height = strip_height(logits, size[1])
    cuts = [*range(0, size[0], height), size[0]]
    strips = [
        (slice(start, stop), *weights(start, stop, steps, dtype, logits.device))
        for start, stop in pairwise(cuts)
    ]
    bands = []
    for first in range(0, len(strips), BAND):
        group = strips[first : first + BAND]
        top = group[0][1].start
        bands.append((slice(top, group[-1][1].stop), [
            (outer, slice(inner.start - top, inner.stop - top), matrix)
            for outer, inner, matrix in group
        ]))  # fmt: skip
    return bands


def _check_label(label: Tensor, output: SETROutput, ignore_index: int) -> None:
    batch, classes = output.scores.shape[:2]
    if 0 <= ignore_index < classes:
        raise UserError(
            f"{classes} classes, and ignore_index={ignore_index} is the id of one, which would "
            "never be learned: give another number, such as -1 with int64 labels"
        )
    expected = (batch, *output.size)
    if tuple(label.shape) != expected:
        raise UserError(
            f"label of shape {tuple(label.shape)} for images of shape {expected}: "
            "give one class id per pixel, (B, H, W)"
        )
    if label.dtype not in (torch.uint8, torch.int64):
        raise UserError(f"label of type {label.dtype}: give torch.uint8 or torch.int64 class ids")
    if label.device != output.scores.device:
        raise UserError(
            f"label on {label.device}, scores on {output.scores.device}: bring the label there, "
            "label.to(scores.device)"
        )
    if label.device.type == "cpu":
        wrong = label[((label < 0) | (label >= classes)) & (label != ignore_index)]
        if wrong.numel():
            raise UserError(
                f"label id {int(wrong[0])} where the model has {classes} classes: ids must be "
                f"0..{classes - 1}, or {ignore_index} for ignored pixels"
            )
