"""Several machines: that all do the same, who writes, and how a run goes on after a loss.

torchrun brings the processes together, starts them again and numbers them; what is here is what it
cannot know of a training. The collective functions do nothing in a single process.
"""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import torch.distributed as dist

from ..errors import UserError
from .processes import rank, world_size

_own_disk = False


def require_same(gather: Callable[[], Mapping[str, str]]) -> None:
    """Stop all processes if one differs from the first in any of its facts, name -> value.

    Collective; `gather` is not called in a single process.

    Raises:
        UserError: in every process, with the first difference and where it is.
    """
    if world_size() == 1:
        return
    found: list[tuple[str, dict[str, str]]] = [("", {})] * world_size()
    dist.all_gather_object(found, (platform.node(), dict(gather())))
    first = found[0][1]
    for number, (host, theirs) in enumerate(found):
        for name, value in first.items():
            if theirs.get(name) != value:
                raise UserError(
                    f"process {number} on {host} differs from process 0 in {name}: "
                    f"{theirs.get(name)}, not {value}; start all machines with the same command, "
                    "code and data"
                )


def find_writers(folder: Path) -> None:
    """Find out whether all machines see this `folder`; where one does not, its first process
    writes there, too (see `writes`). Collective."""
    global _own_disk
    if world_size() == 1:
        return
    name = [uuid.uuid4().hex]
    dist.broadcast_object_list(name)
    probe = folder / f".{name[0]}"  # a name that no cache of a network disk can have missed before
    if rank() == 0:
        probe.touch()
    dist.barrier()
    _own_disk = not probe.exists()
    dist.barrier()
    if rank() == 0:
        probe.unlink()


def writes() -> bool:
    """Whether this process writes checkpoints: the first of all, and on a machine with a disk of
    its own the first there."""
    return rank() == 0 or (_own_disk and os.environ.get("LOCAL_RANK") == "0")
