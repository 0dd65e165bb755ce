"""One process or many: start and stop, DDP and FSDP2, BatchNorm over ranks. Imports errors."""

from .machines import find_writers, require_same, writes
from .processes import (
    StopSignals,
    barrier,
    choose_device,
    mean_over_ranks,
    name_lost_process,
    one_thread,
    rank,
    smallest_over_ranks,
    start,
    start_loader,
    starts_again,
    stop,
    sum_over_ranks,
    world_size,
)

__all__ = [
    "StopSignals",
    "barrier",
    "choose_device",
    "find_writers",
    "mean_over_ranks",
    "name_lost_process",
    "one_thread",
    "rank",
    "require_same",
    "smallest_over_ranks",
    "start",
    "start_loader",
    "starts_again",
    "stop",
    "sum_over_ranks",
    "world_size",
    "writes",
]
