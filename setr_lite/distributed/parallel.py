"""A model on several processes: copies whose gradients are averaged (DDP), or one copy in pieces
(FSDP2).

=======  ==========================================  ==============================================
process  DDP                                         FSDP2
=======  ==========================================  ==============================================
holds    everything, in every process                1/W of weights, gradients, optimiser state
sends    each gradient once (all-reduce)             each block's weights, twice, before it is used,
                                                     and its gradients once (reduce-scatter)
=======  ==========================================  ==============================================

Both train the same function. Neither leaves a trace in a checkpoint: `whole_state` gives weights
and optimiser state as one process would have them, `load_optimizer` cuts them up again, so a run
may go on with another number of processes and in the other way.

W is the number of processes. Where a call says *collective*, every process has to make it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .processes import world_size
from .sync_bn import synchronize


def wrap(
    model: nn.Module,
    device: torch.device,
    *,
    parallel: str = "ddp",
    sync_bn: bool = True,
    bf16: bool = False,
) -> nn.Module:
    """The model as it is trained: itself in one process, else as DDP or in FSDP's pieces.

    Args:
        model: on `device`, its parameters equal in all processes. FSDP cuts it up in place.
        device: the process's own.
        parallel: ``ddp`` or ``fsdp``.
        sync_bn: BatchNorm sees the images of all processes.
        bf16: the run computes in bfloat16 autocast. FSDP's blocks then send their weights as
            bfloat16, into which autocast would round the matrices anyhow, and add their gradients
            up in float32; the values of the norms are rounded, too, which DDP does not do.
    """
    if world_size() == 1:
        return model
    if sync_bn:
        synchronize(model)
    if parallel == "fsdp":
        return _cut_up(model, device, bf16)
    # with one image a process the class token's gradient is a view; it has C values
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    devices = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(
        model, device_ids=devices, gradient_as_bucket_view=True)  # no copies into and out of them


def _cut_up(model: nn.Module, device: torch.device, bf16: bool) -> nn.Module:
    """`fully_shard` for every block, and for what is left: embedding, neck and heads.

    Weights of one block at a time are whole. The blocks' inputs are not cast: the sum that runs
    through them stays in float32, as under autocast alone.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (world_size(),))
    low = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    policy = low if bf16 and device.type == "cuda" else MixedPrecisionPolicy()
    for block in model.get_submodule("encoder.blocks").children():
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh)
    return model


def is_cut_up(model: nn.Module) -> bool:
    """Whether FSDP holds the parameters of `model` in pieces."""
    return any(hasattr(p, "full_tensor") for p in model.parameters())


@contextmanager
def gradients_sync_when(wrapped: nn.Module, last: bool) -> Iterator[None]:
    """Processes average their gradients once, after the last part of an accumulated batch."""
    of_pieces = getattr(wrapped, "set_requires_gradient_sync", None)  # FSDP's
    if of_pieces is not None:
        of_pieces(last)
        yield
    elif last or not isinstance(wrapped, nn.parallel.DistributedDataParallel):
        yield
    else:
        with wrapped.no_sync():
            yield


def whole_state(state: Any) -> Any:
    """A state dict, of a model or an optimiser, with its tensors whole and in the CPU's memory.

    Collective where FSDP has cut them up: all processes get everything.
    """
    return tree_map(lambda value: _whole(value) if isinstance(value, Tensor) else value, state)


def _whole(value: Tensor) -> Tensor:
    value = value.detach()
    return (value.full_tensor() if hasattr(value, "full_tensor") else value).cpu().contiguous()


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load what `whole_state` gave, cut up as the optimiser's parameters are.

    Collective where they are cut up.

    Raises:
        ValueError: it belongs to other parameter groups.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    pieces = {
        number: {key: _like(value, parameters[number]) for key, value in values.items()}
        for number, values in state["state"].items()
    }
    # how the update is computed is this run's own business, not the checkpoint's
    own = [{k: g[k] for k in ("fused", "foreach") if k in g} for g in optimizer.param_groups]
    groups = [{**group, **kept} for group, kept in zip(state["param_groups"], own, strict=True)]
    optimizer.load_state_dict({"state": pieces, "param_groups": groups})


def _like(value: Any, parameter: Tensor) -> Any:
    """`value` in the pieces of `parameter`, if it is one number per weight.

    Else in its order in memory: fused updates walk through both as if they lay alike.
    """
    if getattr(value, "shape", None) != parameter.shape:
        return value
    if not hasattr(parameter, "full_tensor"):
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    value = value.to(parameter.device, parameter.dtype)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements)
