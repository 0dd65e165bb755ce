"""BatchNorm over the images of all processes.

The published recipes put one or two images on a card and let BatchNorm see those of all cards.
PyTorch's `nn.SyncBatchNorm` does that on CUDA and refuses CPU tensors; `SyncBatchNorm2d` is the
same function in plain PyTorch, for the CPU.

Shapes: B images of this process, C channels, maps of H x W.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def synchronize(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` with every BatchNorm2d replaced by one that sees all processes.

    Parameters, statistics and their names stay: checkpoints do not tell the two apart.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d  # adds no state, and optimisers keep their tensors
    return model


class SyncBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose batch is that of all processes; in eval mode there is no difference.

    Every position counts once, so processes may hold different numbers of images. Two sums go
    round, first for the mean and then for the squares about it: the difference of two large
    numbers, E[x^2] - E[x]^2, would lose digits. All processes must call it together.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = wide.new_full((1,), x.numel() // x.shape[1])
        total = _sum(torch.cat([wide.sum((0, 2, 3)), count]))  # (C + 1)
        count = total[-1].detach()
        centred = wide - (total[:-1] / count)[:, None, None]
        squares = _sum(centred.square().sum((0, 2, 3)))
        self._track(total[:-1].detach() / count, squares.detach() / (count - 1))
        scale = (squares / count + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        out = centred * scale[:, None, None]
        return (out + self.bias[:, None, None] if self.affine else out).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, as BatchNorm does, towards the unbiased variance."""
        if not self.track_running_stats:
            return
        self.num_batches_tracked += 1
        share = self.momentum
        if share is None:
            share = 1 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes. Each process's loss depends on everybody's tensor,
    so the gradient is the sum of the gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        upstream = upstream.clone()
        dist.all_reduce(upstream)
        return upstream


_sum = _Sum.apply
