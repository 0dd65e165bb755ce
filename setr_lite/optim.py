"""Parameter groups, optimisers and the poly schedule of the published recipes.

Published (paper section 4.1 and the released configurations): SGD with momentum 0.9, no weight
decay, poly schedule of power 0.9 down to 1e-4, ten times the rate for the heads, no warm-up. The
rule for the tenfold rate is "names that contain `head`": the MLA neck trains at the base rate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from .config import OptimConfig
from .errors import UserError, shortly
from .files import is_number, is_whole, require

HEADS = ("head", "aux_heads")
"""Submodules of a model whose parameters train at `head_multiplier` times the base rate."""

NEVER_DECAYED = ("cls_token", "dist_token", "reg_token", "pos_embed")
"""Parameters that, beside biases and norms, take no weight decay."""


def parameter_groups(model: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """The trainable parameters of `model`, each in one named group.

    Groups are named after the model's submodules (``encoder``, ``neck``); ``head`` and
    ``aux_heads`` share the group ``head``. With weight decay each splits in two: biases, norms,
    class token and position table go to ``<name>_no_decay``. With `optim.layer_decay` each layer
    of the encoder is a group: ``encoder_0`` the embeddings, ``encoder_1`` the first block.

    Returns:
        Dicts with ``name``, ``params``, ``lr`` and ``weight_decay``, as optimisers take them; and,
        with layer-wise decay, ``scale``, the layer's factor on the rate.

    Raises:
        UserError: nothing in the model is trainable.
    """
    groups: dict[str, dict[str, Any]] = {}
    trainable = [(path, p) for path, p in model.named_parameters() if p.requires_grad]
    if not trainable:
        raise UserError("the model has no trainable parameter: leave some with requires_grad=True")
    depth = max(layer_of(path) for path, _ in trainable)
    for path, parameter in trainable:
        part = path.split(".")[0]
        name, decay = "head" if part in HEADS else part, optim.weight_decay
        scale: dict[str, float] = {}
        if part == "encoder" and optim.layer_decay < 1:
            layer = layer_of(path)
            name, scale = f"{name}_{layer}", {"scale": optim.layer_decay ** (depth + 1 - layer)}
        if decay > 0 and _never_decays(path, parameter):
            name, decay = f"{name}_no_decay", 0.0
        rate = _base_lr(name, optim) * scale.get("scale", 1)
        new = {"name": name, "params": [], "lr": rate, "weight_decay": decay, **scale}
        groups.setdefault(name, new)["params"].append(parameter)
    return list(groups.values())


def layer_of(path: str) -> int:
    """Of a parameter of the encoder, the number of its block from 1; 0 of what lies before."""
    found = re.match(r"encoder\.(?:vit\.)?blocks\.(\d+)\.", path)
    return int(found[1]) + 1 if found else 0


def build_optimizer(
    model: nn.Module, optim: OptimConfig, *, fused: bool = True
) -> torch.optim.Optimizer:
    """The optimiser that `optim.name` asks for, over `parameter_groups(model, optim)`.

    SGD has no Nesterov momentum; AdamW has the betas `optim.momentum` and `optim.beta2`.

    Fused SGD does not support FSDP's sharded parameters: ``fused=False`` takes PyTorch's
    multi-tensor version for them. AdamW is always fused.
    """
    # fused: for ToyTown's 112 tensors a step of AdamW took 2 ms on two CPU cores instead of 5
    groups = parameter_groups(model, optim)
    if optim.name == "adamw":
        betas = (optim.momentum, optim.beta2)
        return torch.optim.AdamW(groups, lr=optim.lr, betas=betas, fused=True)
    # None, not False: that would leave out the foreach form, too
    return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, fused=fused or None)


def poly_lr(
    step: int, steps: int, base: float, *, min_lr: float, power: float, warmup: int = 0,
    poly_steps: str = "steps",
) -> float:
    """Learning rate of `step`, counted from 0, in a run of `steps`.

    ``(base - min_lr) * (1 - step / divisor) ** power + min_lr``. `poly_steps` names the divisor:
    ``steps``, as in the authors' code and mmsegmentation 0.x, leaves the last step above the
    floor; ``steps-1``, as in mmsegmentation 1.x, lets it run at the floor. With warm-up the rate
    first rises linearly, reaches `base` at step `warmup`, and the poly curve spans the steps that
    are left. A base below `min_lr` stays constant: the floor never raises a rate.
    """
    if step < warmup:
        return base * (step + 1) / (warmup + 1)
    floor = min(min_lr, base)
    divisor = steps - warmup - (poly_steps == "steps-1")
    done = min((step - warmup) / max(divisor, 1), 1.0)
    return (base - floor) * (1 - done) ** power + floor


def set_lr(optimizer: torch.optim.Optimizer, step: int, steps: int, optim: OptimConfig) -> float:
    """Gives each group of a `build_optimizer` its rate for `step`; returns that of `optim.lr`.

    Rates follow from `step`, `steps`, `optim` and the groups' names and scales alone, so a resumed
    run, or one resumed for more steps, needs no scheduler state.
    """

    def rate(base: float) -> float:
        return poly_lr(
            step, steps, base, min_lr=optim.min_lr, power=optim.power, warmup=optim.warmup,
            poly_steps=optim.poly_steps,
        )

    for group in optimizer.param_groups:
        group["lr"] = rate(_base_lr(group["name"], optim) * group.get("scale", 1))
    return rate(optim.lr)


def describe_groups(groups: Iterable[Mapping[str, Any]]) -> str:
    """A table, one line per group: name, tensors, parameters, learning rate, weight decay."""
    lines = [f"{'group':<18}{'tensors':>8}{'parameters':>14}{'lr':>10}{'decay':>10}"]
    for group in groups:
        parameters = list(group["params"])
        size = sum(parameter.numel() for parameter in parameters)
        lines.append(
            f"{group['name']:<18}{len(parameters):>8}{size:>14,}"
            f"{group['lr']:>10g}{group['weight_decay']:>10g}"
        )
    return "\n".join(lines)


def checked_state(
    where: str, state: Any, optimizer: torch.optim.Optimizer, remedy: str,
    count: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A state dict out of a file, compared with the optimiser that is to take it.

    A fused update trusts the shapes of its moments: it reads and writes behind the end of a
    smaller one.

    Args:
        where: the file, for messages.
        state: what was in it.
        optimizer: of `build_optimizer`.
        remedy: for messages.
        count: parameters that must have a state; None where that is not known.

    Returns:
        What `optimizer` can load: the moments and rates of the file, its own other settings.

    Raises:
        UserError: another structure, setting, shape or type, or a moment that is not finite; the
            first that differs is named.
    """
    parts = isinstance(state, dict) and set(state) == {"state", "param_groups"}
    require(parts, f"{where}: the content", state, "a state and param_groups", remedy)
    groups, entries, own = (
        state["param_groups"], state["state"], optimizer.state_dict()["param_groups"])
    fits = isinstance(groups, list) and len(groups) == len(own)
    require(fits, f"{where}: param_groups", groups, f"a list of {len(own)}", remedy)
    checked = [
        _checked_group(f"{where}: param_groups", group, ours, remedy)
        for group, ours in zip(groups, own, strict=True)
    ]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    fits = isinstance(entries, dict) and count in (None, len(entries))
    most = len(parameters) if count is None else count
    require(fits, f"{where}: state", entries, f"an object of {most} parameters", remedy)
    for number, moments in entries.items():
        known = is_whole(number, 0, len(parameters) - 1)
        require(known, f"{where}: a key of state", number, f"0..{len(parameters) - 1}", remedy)
        keys = KEPT[type(optimizer)]
        _check_moments(f"{where}: parameter {number}", moments, parameters[number], keys, remedy)
    return {"state": entries, "param_groups": checked}


KEPT = {
    torch.optim.SGD: ("momentum_buffer",), torch.optim.AdamW: ("exp_avg", "exp_avg_sq", "step"),
}  # fmt: skip
"""What an optimiser keeps of each parameter."""
OWN = {"fused", "foreach", "lr"}
"""How an update is computed is a run's own business, and its rate that of every step."""


def _checked_group(where: str, group: Any, own: dict[str, Any], remedy: str) -> dict[str, Any]:
    """The settings of the run, which those of the file must equal; another PyTorch has others."""
    fits = isinstance(group, dict) and {"params", "lr"} <= set(group)
    require(fits, where, group, "an object with params and lr", remedy)
    for key in sorted((set(own) & set(group)) - OWN):
        theirs, ours = group[key], own[key]
        fits = type(theirs) is type(ours) or (is_number(theirs) and is_number(ours))
        require(fits and theirs == ours, f"{where}: {key!r}", theirs,
                f"as in this run, {shortly(ours)}", remedy)  # fmt: skip
    require(is_number(group["lr"], 0), f"{where}: 'lr'", group["lr"], "a number", remedy)
    return own | {"lr": group["lr"]}


def _check_moments(
    where: str, moments: Any, parameter: torch.Tensor, keys: tuple[str, ...], remedy: str
) -> None:
    fits = isinstance(moments, dict) and sorted(map(str, moments)) == list(keys)
    require(fits, where, moments, f"an object of {', '.join(keys)}", remedy)
    for key, value in moments.items():
        if value is None and key == "momentum_buffer":
            continue  # SGD without momentum
        place, counts = f"{where}: {key!r}", key == "step"
        shape = () if counts else tuple(parameter.shape)
        dtype = torch.float32 if counts else parameter.dtype
        tensor = isinstance(value, torch.Tensor) and value.layout == torch.strided
        found = f"{value.dtype} {tuple(value.shape)}" if tensor else type(value).__name__
        fits = tensor and tuple(value.shape) == shape and value.dtype == dtype
        require(fits, place, found, f"{dtype} {shape}", remedy)
        require(bool(value.isfinite().all()), place, "NaN or infinity", "finite numbers", remedy)
        if key in ("step", "exp_avg_sq") and value.numel():
            require(value.min().item() >= 0, place, value.min().item(), "0 or more", remedy)


def _base_lr(name: str, optim: OptimConfig) -> float:
    times = {"head": optim.head_multiplier, "neck": optim.neck_multiplier}
    return optim.lr * times.get(name.removesuffix("_no_decay"), 1.0)


def _never_decays(path: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim <= 1 or path.split(".")[-1] in NEVER_DECAYED
