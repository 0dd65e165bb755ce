"""One recipe in full, as text: where it comes from, what it builds, what it needs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from inspect import getdoc

import torch
from torch import nn

from .. import distributed
from ..config import OptimConfig, RunConfig, settings_table
from ..errors import printable
from ..model import SETR, count_parameters
from ..optim import describe_groups, parameter_groups
from ..precision import in_words
from ..running.memory import estimate_memory, format_bytes
from ..running.meters import Speed, format_seconds, on_device
from .named import RECIPES, commands, get_recipe
from .published import PUBLISHED


def describe_recipe(name: str) -> Iterator[str]:
    """Origin and published scores, commands, settings, parameters, groups and memory.

    One section at a time, since the memory estimate takes seconds. Settings are one
    ``section.key=value`` a line, as `RunConfig.override` reads them.

    Raises:
        UserError: no recipe of that name; the nearest is offered.
    """
    config = get_recipe(name)
    about = getdoc(RECIPES[name]) or ""
    if name not in PUBLISHED:  # whose text has the commands
        about = "\n".join([about, "", *commands(config)])
    yield _section(name, about)
    yield _section("Settings", settings_table(config))
    with torch.device("meta"):  # shapes are all that is asked for
        model = SETR.from_config(config.model)
    model.encoder.requires_grad_(not config.train.freeze_encoder)
    yield _section("Parameters", parameter_table(model))
    yield _section("Parameter groups", group_table(model, config.optim))
    yield _section("Memory of a training step (estimated, not measured)", memory_table(config))


def _section(title: str, text: str) -> str:
    return f"{title}\n{'-' * len(title)}\n{text}\n"


def parameter_table(model: SETR) -> str:
    """Parameters of encoder, neck, head and auxiliary heads, with and without the last."""
    parts = {"encoder": model.encoder, "neck": model.neck, "head": model.head}
    counts = {name: count_parameters(part) for name, part in parts.items()}
    counts["inference"] = sum(counts.values())
    counts["auxiliary heads"] = count_parameters(model.aux_heads)
    counts["training"] = count_parameters(model)
    return "\n".join(f"{name:<18}{count:>14,}" for name, count in counts.items() if count)


def start_table(config: RunConfig, model: SETR, speed: Speed, device: torch.device) -> str:
    """What a run knows before its first step: parameters, memory, arithmetic, least duration."""
    processes, train = distributed.world_size(), config.train
    parts = {"encoder": model.encoder, "neck": model.neck, "head": model.head,
             "auxiliary heads": model.aux_heads}  # fmt: skip
    counts = {name: count_parameters(part) / 1e6 for name, part in parts.items()}
    estimate = estimate_memory(on_device(config, device), processes=processes)
    step, rate = speed.flops * train.batch_size, speed.rate * processes
    sheet = f", {speed.sheet / 1e12:.3g} by the data sheet" if speed.sheet else ""
    rows = {
        "precision": in_words(train.amp, device, published=config.recipe in PUBLISHED),
        "parameters": ", ".join(f"{name} {n:.2f} M" for name, n in counts.items() if n),
        "memory": f"{format_bytes(estimate.peak)} estimated; largest part: {estimate.dominant}",
        "arithmetic": f"{step / 1e12:.3g} TFLOP a step; matrix products on {device} run at "
                      f"{speed.rate / 1e12:.3g} TFLOP/s{sheet}",
        "duration": f"at least {format_seconds(train.steps * step / rate)} for {train.steps} steps "
                    "at that rate (MFU 100 %)",
    }  # fmt: skip
    return "\n".join(f"{name:<12}{text}" for name, text in rows.items())


def class_weights_line(config: RunConfig, classes: Sequence[str]) -> str | None:
    """What a pixel of each class counts, where not all count alike."""
    weights = config.loss.weights()
    if weights is None:
        return None
    shown = (f"{printable(name)} {weight:.3g}"
             for name, weight in zip(classes, weights, strict=True))  # fmt: skip
    return f"class weights: {', '.join(shown)}"


def warmup_warning(config: RunConfig) -> str | None:
    """A warning where a run ends before its learning rate has come up, as short trials do."""
    if config.optim.warmup < config.train.steps:
        return None
    return (
        f"warning: all {config.train.steps} steps are warm-up (optim.warmup={config.optim.warmup}),"
        f" the rate never reaches optim.lr; set optim.warmup={config.train.steps // 10}"
    )


FAST_ADAMW = 5e-4
"""AdamW's rate from which `train` doubts that a pretrained ViT survives. The `finetune` recipes
take a tenth of it; rates for fresh weights, as in `toytown_pup` and `camvid_pup`, lie above."""


def rate_warning(config: RunConfig) -> str | None:
    """A warning where a pretrained encoder gets the rate of fresh weights."""
    optim = config.optim
    if config.train.freeze_encoder or optim.name != "adamw" or optim.lr < FAST_ADAMW:
        return None
    return (
        f"warning: optim.lr={optim.lr:g} is a rate for fresh weights, and the encoder's are not; "
        "optim.lr=5e-5 optim.head_multiplier=20 optim.neck_multiplier=20 lets it learn slowly, "
        "train.freeze_encoder=true keeps it as it is"
    )


def group_table(model: nn.Module, optim: OptimConfig) -> str:
    """The groups with their rates, then the tensors of each; ``*`` stands for a number.

    The rule of the published code surprises: only what lies under ``head`` or ``aux_heads`` gets
    the multiplied rate. The neck of SETR-MLA trains at the base rate.
    """
    groups = parameter_groups(model, optim)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    lines = [describe_groups(groups)]
    for group in groups:
        found = Counter(_pattern(names[id(parameter)]) for parameter in group["params"])
        lines += ["", f"{group['name']}, lr {group['lr']:g}"]
        lines += [f"{count:>6} x {pattern}" for pattern, count in found.items()]
    return "\n".join(lines)


def _pattern(name: str) -> str:
    """``blocks.3.mlp.fc1.bias`` -> ``blocks.*.mlp.fc1.bias``."""
    return re.sub(r"\.\d+(?=\.)", ".*", name)


def memory_table(config: RunConfig) -> str:
    """The peak on one device and, if the batch divides, on eight; then its parts on one.

    None of it has been measured on a GPU.
    """
    one = estimate_memory(config)
    rows = {"1 process": one}
    if config.train.amp != "bf16":
        rows["1 process, train.amp=off"] = estimate_memory(config.override("train.amp=off"))
    if config.train.batch_size % (8 * config.train.accumulate) == 0:
        rows["8 processes, each"] = estimate_memory(config, processes=8)
    lines = [f"{name:<26}{format_bytes(estimate.peak):>12}" for name, estimate in rows.items()]
    return "\n".join([*lines, "", "1 process, by part:", one.table()])
