"""One process or many: the environment that torchrun sets, and what ranks say to one another.

Everything works unchanged in a single process, where the functions do nothing.

One machine with eight GPUs::

    torchrun --standalone --nproc_per_node=8 -m setr_lite train RECIPE ...

Several machines run the same line each, and meet at one of them (``data/slurm/train.sbatch`` does
it under SLURM)::

    torchrun --nnodes=2 --nproc_per_node=8 --rdzv_backend=c10d --rdzv_id=any_word \\
        --rdzv_endpoint=FIRST_MACHINE:29500 -m setr_lite train RECIPE ...

``train.batch_size`` is that of all processes together, so it does not change with their number, and
neither does what is learned. All machines read the same files, and the first one writes; where
each has a disk of its own, each does. Where a process dies, torchrun ends the others, and
``--resume`` goes on with any number of processes that divides the batch. With ``--max-restarts=3``
torchrun itself starts them again, also when a machine is lost and comes back, and they go on
without that word. Only the machine where all meet must stay, and torchrun's environment has to say
``TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1``: else a machine that comes back is never told where to meet
(https://github.com/pytorch/pytorch/issues/135712).
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import UserError


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
            ``auto`` and ``cuda`` mean the GPU of this process's local rank.

    Raises:
        UserError: CUDA asked for and not there, a name that is no device, one GPU for several
            processes, or an environment that is only part of what torchrun sets.
    """
    _check_environment()
    chosen = choose_device(device)
    if chosen.type == "cuda":  # streams and events are those of the current GPU
        torch.cuda.set_device(chosen)
    if "RANK" in os.environ and not dist.is_initialized():
        # gloo beside NCCL: what hosts tell one another never waits for a GPU
        dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    return chosen


def _check_environment() -> None:
    """RANK makes this process one of several; it takes the rest of the variables to find them."""
    numbers = ("RANK", "WORLD_SIZE", "MASTER_PORT", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    for name in (*numbers, "MASTER_ADDR") if "RANK" in os.environ else ():
        value = os.environ.get(name)
        if value is None and name.startswith("LOCAL"):
            continue  # needed for GPUs only, and there they have their defaults
        if not value or (name in numbers and not re.fullmatch("[0-9]{1,9}", value)):
            raise UserError(
                f"the environment has RANK, and {name}={value or ''}: torchrun sets them all; "
                "start with it, or unset RANK to train in one process"
            )


def choose_device(device: str = "auto") -> torch.device:
    """The `torch.device` for a setting, see `start`."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise UserError(f"train.device={device}: give auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(
                f"train.device={device}: this PyTorch ({torch.__version__}) sees no CUDA device; "
                "use train.device=cpu or install a CUDA build"
            )
        if chosen.index is not None and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1:
            raise UserError(
                f"train.device={device}: all processes of this machine would take one GPU; "
                "train.device=cuda gives each its own"
            )
        index = chosen.index if chosen.index is not None else int(os.environ.get("LOCAL_RANK", 0))
        if index >= torch.cuda.device_count():
            raise UserError(
                f"train.device={device}: no GPU {index}, there are {torch.cuda.device_count()}"
            )
        chosen = torch.device("cuda", index)
    return chosen


def one_thread(worker: int) -> None:
    """What a loader process does first: it must not compete with the computation for cores."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def start_loader(loader: DataLoader) -> Iterator:
    """The batches of `loader`, whose processes start now.

    PyTorch's handler of SIGCHLD would raise wherever the main process is when one of them dies: in
    the middle of an update, or of another loader's end. It is taken out, also where an earlier
    loader left it. A death is then noticed within seconds by the one who waits for
    the next batch.
    """
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if threading.current_thread() is threading.main_thread():
        torchs = getattr(before, "__module__", "") == "torch.utils.data._utils.signal_handling"
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if torchs or before is None else before)
    return batches


def stop() -> None:
    """Leave the group, so that torchrun ends without a warning."""
    if dist.is_initialized():
        dist.destroy_process_group()


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


class StopSignals:
    """Ctrl-C and SIGTERM, to any process, as something that all of them learn of at the same step.

    A context manager; inside it the signals interrupt nothing. In a single process a second
    Ctrl-C does.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self._message: tuple[dist.Work, Tensor] | None = None
        self._before: dict[int, Any] = {}  # what `signal.signal` takes back

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            numbers = (signal.SIGINT, signal.SIGTERM)
            self._before = {number: signal.signal(number, self._hear) for number in numbers}
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._message is not None and kind is None:
            self._message[0].wait()  # the others may still be reading it

    def _hear(self, number: int, frame: object) -> None:
        # torchrun hands a Ctrl-C on that the terminal has sent already: there twice means once
        if number == signal.SIGINT and self.event.is_set() and world_size() == 1:
            raise KeyboardInterrupt
        self.event.set()

    def asked(self) -> bool:
        """Whether to stop now; all processes call it after each step and get the same answer.

        Several processes answer for the step before: the message goes round while the step is
        computed, from host to host, so no GPU waits and no process stops alone.
        """
        if world_size() == 1:
            return self.event.is_set()
        arrived = self._message
        flag = torch.tensor(float(self.event.is_set()))
        self._message = (dist.all_reduce(flag, async_op=True), flag)
        if arrived is None:
            return False
        arrived[0].wait()
        return bool(arrived[1])


def starts_again() -> bool:
    """Whether torchrun starts this process again after a loss: ``--max-restarts`` is above 0.

    Its command is the same then, and nobody is there to add ``--resume``.
    """
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0


@contextmanager
def name_lost_process(advice: str) -> Iterator[None]:
    """Turn what the network, or a loader, says of a process that is gone into one line.

    Raises:
        UserError: in place of their error; ends with `advice`.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error).split("\n")[0].split(". ")[0]
        if text.startswith("DataLoader worker"):
            raise UserError(
                "a loader process died (out of memory, or killed); try fewer train.workers; "
                f"{advice}"
            ) from error
        known = isinstance(error, dist.DistError) or re.search(
            "gloo|nccl|connection (closed|reset)", text, re.IGNORECASE)
        if world_size() == 1 or not known:
            raise
        raise UserError(
            f"process {rank()} of {world_size()}: another process of the run is gone ({text}); "
            f"{advice}"
        ) from error


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()
