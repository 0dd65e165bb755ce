"""``train.batch_size=auto``: the published batch, by the settings that fit it on the device.

The number of images a step stays the recipe's: learning rate, schedule and BatchNorm belong to it.
What changes is how the batch is worked through, see `running.recompute`. Ways are tried from fast
to slow and the first whose `estimate_memory` fits is taken:

1. as the recipe says;
2. ``train.grad_checkpointing``: one more forward pass of the encoder, on large matrices, exact;
3. ``train.micro_batch``, halved down to 1: the same on small ones, exact;
4. both: two more forward passes, exact;
5. ``train.accumulate`` on top: BatchNorm sees the statistics of a part, which the heads' published
   scores do not have. It is taken last, and said.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from .. import distributed
from ..config import RunConfig
from ..errors import UserError
from ..timm_encoder import HYBRIDS
from .memory import MemoryEstimate, estimate_memory, format_bytes
from .meters import on_device, smallest_free_memory

SHARE = 0.9
"""Of the free memory that is planned with: the estimate leaves out what an allocator rounds up and
what kernels use inside."""


@dataclass(frozen=True)
class Fit:
    """A run that fits, and why."""

    config: RunConfig
    """The run with the settings that were found."""
    estimate: MemoryEstimate
    """What it takes on each device."""
    capacity: int
    """Bytes that each device has free."""

    def __str__(self) -> str:
        train = self.config.train
        levers = [f"train.micro_batch={train.micro_batch}"] * bool(train.micro_batch)
        levers += ["train.grad_checkpointing=true"] * train.grad_checkpointing
        levers += [f"train.accumulate={train.accumulate}"] * (train.accumulate > 1)
        text = (
            f"train.batch_size=auto: {train.batch_size} images a step, "
            f"{' '.join(levers) or 'as they are'}: {format_bytes(self.estimate.peak)} estimated, "
            f"{format_bytes(self.capacity)} free"
        )
        if train.accumulate > 1:
            text += "; BatchNorm sees the statistics of a part, other than published"
        return text


def fit_to_device(config: RunConfig, device: torch.device) -> Fit:
    """`fit_memory` for the memory that is free on this process's device, and on every other's."""
    found = fit_memory(
        on_device(config, device), smallest_free_memory(device),
        processes=distributed.world_size(), where=str(device),
    )
    train = replace(found.config.train, amp=config.train.amp)  # a resumed run may move
    return replace(found, config=replace(config, train=train))


def fit_memory(
    config: RunConfig, capacity: int, *, processes: int = 1, where: str = "the device"
) -> Fit:
    """The fastest way to work through a run's batch in `capacity` bytes on each device.

    Args:
        config: the run; its batch size is kept.
        capacity: bytes; nine tenths of them are planned with.
        processes: over which the batch is spread.
        where: what has the capacity, for messages.

    Raises:
        UserError: even one image at a time does not fit, or the batch does not divide.
    """
    for levers in _ways(config, processes):
        fitted = replace(config, train=replace(config.train, **levers))
        estimate = estimate_memory(fitted, processes=processes)
        if estimate.peak <= SHARE * capacity:
            return Fit(fitted, estimate, capacity)
    raise UserError(
        f"train.batch_size=auto: even one image at a time takes {format_bytes(estimate.peak)} "
        f"(the largest part: {estimate.dominant}), {where} has {format_bytes(capacity)} free and "
        f"{SHARE:.0%} of that are planned with; set train.amp=bf16 or model.aux=false, or take a "
        "smaller data.crop_size or model.encoder"
    )


def _ways(config: RunConfig, processes: int) -> Iterator[dict[str, Any]]:
    """Settings of `train`, fastest first."""
    local = config.train.batch_size // processes
    plain = {"micro_batch": 0, "grad_checkpointing": False, "accumulate": 1}
    yield plain
    least = plain | {"grad_checkpointing": True}
    yield least
    if config.model.encoder not in HYBRIDS:  # whose BatchNorm needs all images at once
        sizes = {max(1, local // 2**i) for i in range(1, local.bit_length())}
        for size in sorted(sizes, reverse=True):
            yield plain | {"micro_batch": size}
        least = least | {"micro_batch": 1}
        yield least
    for parts in range(2, local + 1):
        if local % parts == 0:
            yield least | {"accumulate": parts}
