"""The loss of `losses` for a GPU: some whole images at a time, in a handful of kernels.

The strips that suit a CPU's cache are thousands of kernel launches for a GPU, each of them short.
Here Inductor, PyTorch's compiler, makes a few long ones: the logits are resized where they are
read, so what is written at full size is the error alone, softmax - one-hot, of a few images; two
products with the transposed resize bring it back to the logits' size. For SETR-PUP with
ViT-Large, 16 images of 512 x 512 and five heads, that is 37 GB to and from memory
(``tests/card/loss_bytes.py`` counts them).

Shapes: B images, K classes, logits (h, w), label (H, W).
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..config import Size
from ..logits import LazyLogits, no_autocast, weights

AT_A_TIME = 1 << 27
"""Full-size values, classes x pixels x images, worked on together: 512 MiB in float32, three
images of 512 x 512 pixels at 150 classes. At least one image is."""

RESIZE_WHERE_READ: dict[str, Any] = {
    "realize_opcount_threshold": 10_000, "realize_reads_threshold": 10_000}
"""Inductor's limits to what it works out twice. By its own it would write the resized logits down,
in two parts, and read them again for norm and error."""

Work = Callable[..., tuple[Tensor, Tensor]]


def compiles(device: torch.device) -> bool:
    """Whether Inductor can make kernels for `device`: it is a GPU, with Triton and a C compiler."""
    return device.type == "cuda" and _tools()


@functools.cache
def _tools() -> bool:
    compilers = (os.environ.get("CC", "cc"), "gcc", "clang")
    return bool(importlib.util.find_spec("triton") and any(map(shutil.which, compilers)))


@functools.cache
def compiled() -> Work:
    """`images_loss` in kernels of its own for every shape; the first call takes seconds.

    It is one graph. Where a user has switched compiling off it runs as it is.
    """
    return torch.compile(images_loss, dynamic=False, options=RESIZE_WHERE_READ)


class ImagesCrossEntropy(torch.autograd.Function):
    """What `losses.resize_cross_entropy` computes, by `work` on parts of the batch."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, label: Tensor, size: Size, steps: tuple[tuple[Size, Size], ...],
        ignore_index: int, by_class: Tensor | None, work: Work,
    ) -> Tensor:
        wide = torch.promote_types(logits.dtype, torch.float32)
        lazy, grad = LazyLogits(logits, size, steps), torch.empty_like(logits)
        rows, columns = (_matrix(lazy, axis, wide) for axis in (0, 1))
        # the last resize only is done where it is read: with one more before it, every pixel would
        # be worked out from sixteen values
        last = steps[-1] if steps else (size, size)
        earlier = logits.to(wide) if len(steps) > 1 else logits
        before = LazyLogits(earlier, last[0], steps[:-1]).interpolated()
        count = images_at_a_time(len(logits), logits.shape[1] * size[0] * size[1])
        with no_autocast(logits.device.type):
            found = []
            parts = zip(
                before.split(count), label.split(count), grad.split(count), strict=True)
            for some, its, place in parts:
                loss, by_logits = work(
                    some, its, last[1], ignore_index, rows, columns, by_class)
                place.copy_(by_logits)
                found.append(loss)
        ctx.save_for_backward(grad)
        return torch.stack(found).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * upstream.to(grad.dtype), None, None, None, None, None, None


def images_at_a_time(batch: int, values: int) -> int:
    """The most images, of `values` full-size values each, that divide the batch and fit."""
    fits = [n for n in range(1, batch + 1) if batch % n == 0 and n * values <= AT_A_TIME]
    return max(fits, default=1)


def images_loss(
    logits: Tensor, label: Tensor, resized: Size, ignore_index: int, rows: Tensor, columns: Tensor,
    by_class: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of some images, and its gradient by the head's logits.

    Args:
        logits: (B, K, h', w') of any floating type, before the last resize.
        label: (B, H, W) int64.
        resized: (H', W') of the last resize, which the label may cut off below and on the right.
        rows: (H, h) and
        columns: (W, w), all resizes of each axis as matrices.
        by_class: (K,), what a pixel of each class counts; None counts all alike.

    Returns:
        A scalar, and (B, K, h, w), both in the type of the matrices.
    """
    wide = logits.to(rows.dtype).contiguous()
    full = F.interpolate(wide, size=resized, mode="bilinear")[..., : len(rows), : len(columns)]
    valid = (label != ignore_index)[:, None]
    target = label[:, None].where(valid, 0)
    norm = full.logsumexp(dim=1, keepdim=True)
    loss = (norm - full.gather(1, target)).where(valid, 0)
    classes = torch.arange(full.shape[1], device=full.device)[:, None, None]
    error = ((full - norm).exp() - (classes == target).to(full.dtype)) * valid
    if by_class is not None:
        weight = by_class[target]
        loss, error = loss * weight, error * weight
    return loss.sum(), rows.T @ (error @ columns)


def _matrix(lazy: LazyLogits, axis: int, dtype: torch.dtype) -> Tensor:
    """(H, h) or (W, w): all resizes of an axis; what no output is mixed from takes no part."""
    inputs = lazy.logits.shape[axis - 2]
    used, matrix = weights(0, lazy.size[axis], lazy.axis(axis), dtype, lazy.logits.device)
    return F.pad(matrix, (used.start, inputs - used.stop))
