"""BatchNorm over the images of all processes.

The published recipes put one or two images on a GPU and let BatchNorm see those of all GPUs.
PyTorch's `nn.SyncBatchNorm` refuses CPU tensors, and on a GPU it waits in every layer to find out
which processes had images at all. `SyncBatchNorm2d` is the same function for both, without waiting:
here every process has at least one image.

Shapes: B images of this process, C channels, maps of H x W.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def synchronize(model: nn.Module) -> nn.Module:
    """`model` with every BatchNorm2d replaced by one that sees all processes.

    Parameters, statistics and their names stay: checkpoints do not tell the two apart.
    """
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d  # adds no state, and optimisers keep their tensors
    return model


class SyncBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose batch is that of all processes; in eval mode there is no difference.

    Every position counts once, so processes may hold different numbers of images. All processes
    must call it together.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        out, mean, variance = _Normalize.apply(x, self.weight, self.bias, self.eps)
        self._track(mean, variance)
        return out

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, as BatchNorm does, towards the unbiased variance."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None  # kept together with the other two
        self.num_batches_tracked += 1
        share = self.momentum
        if share is None:
            share = 1 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class _Normalize(torch.autograd.Function):
    """The layer itself, keeping its input and C statistics for the gradient.

    A process's variance is taken about its own mean and then moved to that of all: the difference
    of two large numbers, E[x^2] - E[x]^2, would lose digits.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The normalised maps in the type of `x`; mean and unbiased variance of all images."""
        here = x.numel() // x.shape[1]
        variance, own = torch.var_mean(_wide(x), (0, 2, 3), correction=0)
        total = _sum_over_ranks(torch.cat([own * here, own.new_full((1,), here)]))
        mean, count = total[:-1] / total[-1], total[-1]
        variance = _sum_over_ranks((variance + (own - mean).square()) * here) / count
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), count)
        ctx.mark_non_differentiable(mean, unbiased := variance * (count / (count - 1)))
        out = F.batch_norm(x, mean, variance, _like(weight, mean), _like(bias, mean), eps=eps)
        return out, mean, unbiased

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """Every process's loss depends on everybody's images: so do the two sums for `x`, while
        the gradients of weight and bias are this process's share, as for any layer."""
        x, weight, mean, scale, count = ctx.saved_tensors
        centred, grad = x - mean[:, None, None], _wide(upstream)
        bias_share = grad.sum((0, 2, 3))
        weight_share = (grad * centred).sum((0, 2, 3)) * scale
        sums = _sum_over_ranks(torch.stack([bias_share, weight_share])) / count
        factor = scale if weight is None else scale * weight
        # in place: beside the gradient this takes one more map of the layer's size, not three
        gradient = centred.mul_(-(sums[1] * scale)[:, None, None]).add_(grad)
        gradient = gradient.sub_(sums[0, :, None, None]).mul_(factor[:, None, None]).to(x.dtype)
        if weight is None:
            return gradient, None, None, None
        return gradient, weight_share.to(weight.dtype), bias_share.to(weight.dtype), None


def _sum_over_ranks(value: Tensor) -> Tensor:
    dist.all_reduce(value)
    return value


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _like(value: Tensor | None, other: Tensor) -> Tensor | None:
    return None if value is None else value.to(other.dtype)
