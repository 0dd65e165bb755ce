"""Parameter groups, optimisers and the poly schedule of the published recipes.

Published (paper section 4.1 and the released configurations): SGD with momentum 0.9, no weight
decay, poly schedule of power 0.9 down to 1e-4, ten times the rate for the heads, no warm-up. The
rule for the tenfold rate is "names that contain `head`": the MLA neck trains at the base rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from .config import OptimConfig
from .errors import UserError

HEADS = ("head", "aux_heads")
"""Submodules of a model whose parameters train at `head_multiplier` times the base rate."""

NEVER_DECAYED = ("cls_token", "dist_token", "reg_token", "pos_embed")
"""Parameters that, beside biases and norms, take no weight decay."""


def parameter_groups(model: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """The trainable parameters of `model`, each in one named group.

    Groups are named after the model's submodules (``encoder``, ``neck``); ``head`` and
    ``aux_heads`` share the group ``head``. With weight decay each splits in two: biases, norms,
    class token and position table go to ``<name>_no_decay``.

    Returns:
        Dicts with ``name``, ``params``, ``lr`` and ``weight_decay``, as optimisers take them.

    Raises:
        UserError: nothing in the model is trainable.
    """
    groups: dict[str, dict[str, Any]] = {}
    for path, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = path.split(".")[0]
        name = "head" if part in HEADS else part
        decay = optim.weight_decay
        if decay > 0 and _never_decays(path, parameter):
            name, decay = f"{name}_no_decay", 0.0
        new = {"name": name, "params": [], "lr": _base_lr(name, optim), "weight_decay": decay}
        groups.setdefault(name, new)["params"].append(parameter)
    if not groups:
        raise UserError("the model has no trainable parameter: leave some with requires_grad=True")
    return list(groups.values())


def build_optimizer(
    model: nn.Module, optim: OptimConfig, *, fused: bool = True
) -> torch.optim.Optimizer:
    """SGD (no Nesterov) or AdamW with betas (`momentum`, `beta2`) over the named groups.

    Fused: one kernel walks over all of a parameter's state. For ToyTown's 112 tensors a step of
    AdamW took 2 ms on two CPU cores instead of 5. Parameters that FSDP has cut up have no fused
    SGD: without `fused` PyTorch works through many of them with one launch.
    """
    groups = parameter_groups(model, optim)
    if optim.name == "adamw":
        betas = (optim.momentum, optim.beta2)
        return torch.optim.AdamW(groups, lr=optim.lr, betas=betas, fused=True)
    # None, not False: that would leave out the foreach form, too
    return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, fused=fused or None)


def poly_lr(
    step: int,
    steps: int,
    base: float,
    *,
    min_lr: float,
    power: float,
    warmup: int = 0,
    poly_steps: str = "steps",
) -> float:
    """Learning rate of `step`, counted from 0, in a run of `steps`.

    (base - min_lr) * (1 - step / divisor) ** power + min_lr. `poly_steps` names the divisor:
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
    """Gives every group of `optimizer` its rate for `step`; returns that of the base rate.

    Rates follow from the groups' names and `optim` alone, so a resumed run, or one resumed with
    another `optim.lr`, needs no scheduler state.
    """

    def rate(base: float) -> float:
        return poly_lr(
            step, steps, base, min_lr=optim.min_lr, power=optim.power, warmup=optim.warmup,
            poly_steps=optim.poly_steps,
        )

    for group in optimizer.param_groups:
        group["lr"] = rate(_base_lr(group["name"], optim))
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


def _base_lr(name: str, optim: OptimConfig) -> float:
    in_head = name.removesuffix("_no_decay") == "head"
    return optim.lr * (optim.head_multiplier if in_head else 1.0)


def _never_decays(path: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim <= 1 or path.split(".")[-1] in NEVER_DECAYED
