"""One process or many: the environment that torchrun sets, and what ranks say to one another.

Everything works unchanged in a single process, where the functions do nothing.
"""

from __future__ import annotations

import os
import signal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .errors import UserError


def rank() -> int:
    """This process's number, 0 in a single process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def start(device: str = "auto") -> torch.device:
    """Join the other processes if torchrun started this one; the device to compute on.

    Args:
        device: ``auto`` (CUDA when there is one), ``cpu``, ``cuda`` or ``cuda:N``. Under torchrun
            ``auto`` and ``cuda`` mean the card of this process's local rank.

    Raises:
        UserError: CUDA asked for and not there, or a name that is no device.
    """
    chosen = choose_device(device)
    if "RANK" in os.environ and not dist.is_initialized():
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return chosen


def choose_device(device: str = "auto") -> torch.device:
    """The `torch.device` for a setting, see `start`."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UserError(f"train.device={device}: give auto, cpu, cuda or cuda:N") from None
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(
                f"train.device={device}: this PyTorch ({torch.__version__}) sees no CUDA device; "
                "use train.device=cpu or install a CUDA build"
            )
        index = chosen.index if chosen.index is not None else int(os.environ.get("LOCAL_RANK", 0))
        if index >= torch.cuda.device_count():
            raise UserError(
                f"train.device={device}: no card {index}, there are {torch.cuda.device_count()}"
            )
        chosen = torch.device("cuda", index)
    return chosen


def one_thread(worker: int) -> None:
    """What a loader process does first: it must not compete with the computation for cores."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def stop() -> None:
    """Leave the group, so that torchrun ends without a warning."""
    if dist.is_initialized():
        dist.destroy_process_group()


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """The model as it is trained: on its own, or as DDP that averages gradients over ranks.

    With several CUDA ranks BatchNorm becomes SyncBatchNorm, as published (one or two images a
    card are too few for statistics of their own). On CPU each rank keeps its own statistics.
    """
    if world_size() == 1:
        return model
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return nn.parallel.DistributedDataParallel(model, device_ids=[device.index])
    return nn.parallel.DistributedDataParallel(model)


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a tensor over all ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(value)
        value /= world_size()
    return value


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, in place; it must suit the backend (NCCL: CUDA)."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def smallest_over_ranks(value: int, device: torch.device) -> int:
    """The least `value` of all ranks; all must call it together."""
    if world_size() == 1:
        return value
    least = torch.tensor(value, device=device)
    dist.all_reduce(least, dist.ReduceOp.MIN)
    return int(least)


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether `flag` holds on any rank; all ranks must call it together."""
    if world_size() == 1:
        return flag
    value = torch.tensor(float(flag), device=device)
    dist.all_reduce(value)
    return value.item() > 0


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()
