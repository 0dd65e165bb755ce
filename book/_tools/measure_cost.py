"""Measure what SETR's operators, tricks and sizes cost here; chapter 19 reads the result.

    python book/_tools/measure_cost.py rates operators     # one or more parts, or all of them

Each part writes data/runs/cost/PART.json with command, machine, versions and seconds:

rates      the floor: FLOP/s of a large matrix product, bytes/s of a copy
operators  a training step of SETR-PUP, operator by operator: FLOPs, bytes, seconds
ladder     a training step in plain PyTorch, then with one trick more at a time
pairs      single tricks beside what they replace, in turns
growth     time and memory against image side, batch, classes and depth
tried      what was tried and what came of it: compile, int8, a cached position table

Weights and inputs are random; their values do not change the time. Seconds are the least of
several turns, since what else runs on the machine can only add to them; with one thread they are
seconds of the processor, which do not count the time that other programs had it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from records import RUNS, about, options, write
from torch import nn

from setr_lite.bench.turns import Side, Work
from setr_lite.encoder import Attention, Block, VisionTransformer, resize_pos_embed
from setr_lite.heads import conv_bn_relu
from setr_lite.logits import LazyLogits
from setr_lite.losses import resize_cross_entropy, segmentation_loss
from setr_lite.model import SETR

TINY = {"patch_size": 16, "embed_dim": 192, "num_heads": 3}  # ViT-Ti


def main(words: list[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="all cores by default")
    asked = parser.parse_args(words)
    torch.set_num_threads(asked.threads)
    device = f"{asked.threads} of {os.cpu_count()} cores, {cpu_name()}"
    for part in asked.parts:
        torch.manual_seed(0)
        begin = time.perf_counter()
        found = PARTS[part]()
        seconds = round(time.perf_counter() - begin)
        command = f"python book/_tools/measure_cost.py --threads {asked.threads} {part}"
        facts = about(command, device) | {"seconds": seconds, "found": found}
        write(RUNS / "cost" / f"{part}.json", facts)
        print(part, json.dumps(found, indent=1), flush=True)


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


# ------------------------------------------------------------------------------------- measuring
def clock() -> float:
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def seconds_of(step: Callable, turns: int = 7, least: float = 0.05) -> float:
    """Least seconds of a step; a short one is repeated until `least` seconds are filled."""
    step()
    begin = clock()
    step()
    once = clock() - begin
    times = max(1, int(least / max(once, 1e-6)))
    turns = min(turns, max(1, int(3 / max(once, 1e-6))))
    found = []
    for _ in range(turns):
        begin = clock()
        for _ in range(times):
            step()
        found.append((clock() - begin) / times)
    return min([*found, once] if times == 1 else found)


def in_turns(steps: dict[str, Callable], turns: int = 5) -> dict[str, dict[str, float]]:
    """Least seconds of two steps that take turns, and their ratio, the second by the first."""
    found = {name: [] for name in steps}
    for _ in range(turns):
        for name, step in steps.items():
            found[name].append(seconds_of(step, turns=1))
    first, second = (min(seconds) for seconds in found.values())
    return {name: {"seconds": min(seconds)} for name, seconds in found.items()} | {
        "ratio": second / first}


def cost(step: Callable) -> dict[str, float]:
    """Least seconds and the most bytes that a step takes."""
    task = {"threads": torch.get_num_threads(), "device": "cpu"}
    one = Side(lambda task: Work(step, lambda _: [], {}), task)
    step()
    most = one.memory()
    return {"seconds": seconds_of(step), "bytes": most}


def with_gradient(function: Callable, *inputs: torch.Tensor, module: nn.Module | None = None):
    """Forward and backward, from a gradient drawn beforehand; gradients are dropped."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    upstream = torch.randn_like(function(*inputs))

    def step() -> None:
        function(*inputs).backward(upstream)
        for x in inputs:
            x.grad = None
        if module is not None:
            module.zero_grad(set_to_none=True)

    return step


# ------------------------------------------------------------------------------------------ parts
def rates() -> dict:
    found = {}
    for n in (512, 1024, 2048):
        a, b, out = torch.randn(n, n), torch.randn(n, n), torch.empty(n, n)
        seconds = seconds_of(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), least=0.3)
        found[f"matmul {n}"] = 2 * n**3 / seconds
    x, y = torch.randn(1 << 26), torch.empty(1 << 26)  # 256 MiB each: no cache holds them
    found["copy"] = 2 * x.nbytes / seconds_of(lambda: y.copy_(x), least=0.3)
    small, out = torch.randn(1 << 17), torch.empty(1 << 17)  # half a MiB: in the cache
    found["copy in cache"] = 2 * small.nbytes / seconds_of(lambda: out.copy_(small))
    return found


def operators() -> list[dict]:
    """A step of SETR-PUP on ViT-Ti: one image of 512 x 512, 150 classes, no auxiliary heads."""
    batch, c, n, classes, width = 1, 192, 1025, 150, 256
    rows, f4 = batch * n, 4
    x, wide = torch.randn(batch, n, c), torch.randn(batch, n, 4 * c)
    found = []

    def add(name, times, flops, values, function, *inputs, module=None):
        values = f4 * values
        with torch.no_grad():
            forward = seconds_of(lambda: function(*inputs))
        both = seconds_of(with_gradient(function, *inputs, module=module))
        found.append({"name": name, "times": times, "flops": flops, "bytes": values,
                      "seconds": forward, "step_seconds": both})

    image = torch.randn(batch, 3, 512, 512)
    patch = nn.Conv2d(3, c, 16, 16)
    add("patch projection", 1, 2 * batch * 1024 * 768 * c, image.numel() + 768 * c + rows * c,
        patch, image, module=patch)
    norm = nn.LayerNorm(c, 1e-6)
    add("LayerNorm", 25, 8 * rows * c, 2 * rows * c, norm, x, module=norm)
    for name, i, o in (("qkv", c, 3 * c), ("proj", c, c), ("fc1", c, 4 * c), ("fc2", 4 * c, c)):
        layer = nn.Linear(i, o)
        add(name, 12, 2 * rows * i * o, rows * (i + o) + i * o, layer,
            wide if i > c else x, module=layer)
    q, k, v = (torch.randn(batch, 3, n, 64) for _ in range(3))
    add("attention", 12, 4 * batch * n * n * c, 4 * rows * c,
        F.scaled_dot_product_attention, q, k, v)
    add("GELU", 12, 8 * rows * 4 * c, 2 * rows * 4 * c, F.gelu, wide)
    add("residual sum", 24, rows * c, 3 * rows * c, torch.add, x, torch.randn_like(x))
    inputs, sides = c, (32, 64, 128, 256)
    for h in sides:
        unit = conv_bn_relu(inputs, width, 3).to(memory_format=torch.channels_last)
        maps = torch.randn(batch, inputs, h, h).to(memory_format=torch.channels_last)
        pixels = batch * h * h
        add(f"3x3 conv, {h} x {h}", 1, 18 * pixels * inputs * width,
            pixels * (inputs + width) + 9 * inputs * width, unit[0], maps, module=unit)
        after = torch.randn(batch, width, h, h).to(memory_format=torch.channels_last)
        add(f"BatchNorm + ReLU, {h} x {h}", 1, 6 * pixels * width, 4 * pixels * width,
            lambda t, u=unit: F.relu(u[1](t)), after, module=unit)
        if h < sides[-1]:
            add(f"2x up, {h} x {h}", 1, 32 * pixels * width, 5 * pixels * width,
                lambda t: F.interpolate(t, scale_factor=2, mode="bilinear"), after)
        inputs = width
    maps = torch.randn(batch, width, 256, 256).to(memory_format=torch.channels_last)
    pixels = batch * 256 * 256
    last = nn.Conv2d(width, classes, 1).to(memory_format=torch.channels_last)
    add("classifier, 256 x 256", 1, 2 * pixels * width * classes, pixels * (width + classes),
        last, maps, module=last)
    logits = torch.randn(batch, classes, 256, 256).to(memory_format=torch.channels_last)
    label = torch.randint(classes, (batch, 512, 512))
    full = 4 * pixels * classes
    add("resize + loss", 1, 4 * full * 2 + 6 * full, 2 * pixels * classes,
        lambda t: loss_in_strips(t, label), logits)
    model = SETR(classes, "pup", "vit_tiny_patch16", aux=False).train()

    def step() -> None:
        segmentation_loss(model(image), label).backward()
        model.zero_grad(set_to_none=True)

    found.append({"name": "the step", "step_seconds": seconds_of(step, turns=3)})
    return found


def explicit_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return scores.softmax(dim=-1) @ v


@contextlib.contextmanager
def plain_attention():
    fused = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = explicit_attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = fused


def loss_in_strips(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    lazy = LazyLogits.of(logits).resized(tuple(label.shape[-2:]))
    return resize_cross_entropy(lazy, label) / label.numel()


def plain_loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    if logits.shape[-2:] != label.shape[-2:]:
        logits = F.interpolate(logits, size=label.shape[-2:], mode="bilinear")
    return F.cross_entropy(logits, label, ignore_index=255)


def classified_late(head: nn.Module, features: list[torch.Tensor]) -> torch.Tensor:
    """A Naive head that resizes its 256 channels to full size, then classifies."""
    x = head.convs[0](head.norm(features[-1]))
    return head.classifier(F.interpolate(x, size=(512, 512), mode="bilinear"))


def ladder() -> list[dict]:
    """SETR-Naive on ViT-Ti, batch 2, 512 x 512, 150 classes, three auxiliary heads."""
    model = SETR(150, "naive", "vit_tiny_patch16").train()
    image, label = torch.randn(2, 3, 512, 512), torch.randint(150, (2, 512, 512))

    def step(low: bool, fused: bool, sdpa: bool) -> Callable:
        def run() -> None:
            with contextlib.nullcontext() if sdpa else plain_attention():
                if fused:
                    loss = segmentation_loss(model(image), label)
                else:
                    loss = by_hand(low)
                loss.backward()
            model.zero_grad(set_to_none=True)

        return run

    def by_hand(low: bool) -> torch.Tensor:
        maps = [t.transpose(1, 2).unflatten(2, (32, 32)) for t in model.encoder(image)]
        heads = [(model.head, 3, 1.0), *((h, i, 0.4) for i, h in enumerate(model.aux_heads))]
        total = 0.0
        for head, i, weight in heads:
            scores = head([maps[i]]) if low else classified_late(head, [maps[i]])
            total = total + weight * plain_loss(scores, label)
        return total

    rungs = (
        ("plain", False, False, False), ("classify at low resolution", True, False, False),
        ("resize and loss in strips", True, True, False), ("fused attention", True, True, True),
    )  # fmt: skip
    return [{"name": name, **cost(step(*on))} for name, *on in rungs]


def pairs() -> dict:
    """What replaces and what is replaced; the ratio is the time of the second by the first."""
    found = {}
    label = torch.randint(150, (2, 512, 512))
    for cells in (128, 32):
        logits = torch.randn(2, 150, cells, cells)
        steps = {
            "strips": with_gradient(
                lambda t: loss_in_strips(t, label), logits),
            "plain": with_gradient(lambda t: plain_loss(t, label), logits),
        }
        found[f"loss from {cells} x {cells}"] = in_turns(steps) | {
            f"{name} bytes": cost(step)["bytes"] for name, step in steps.items()}
        lazy = LazyLogits.of(logits.detach()[:1]).resized((512, 512))
        steps = {"strips": lazy.label, "plain": lambda lazy=lazy: lazy.full().argmax(1)}
        found[f"argmax from {cells} x {cells}"] = in_turns(steps) | {
            f"{name} bytes": cost(step)["bytes"] for name, step in steps.items()}
    layer, x = Attention(192, 3), torch.randn(2, 1025, 192)
    plain = with_gradient(layer, x, module=layer)

    def explicit() -> None:
        with plain_attention():
            plain()

    steps = {"fused": plain, "explicit": explicit}
    found["attention, 1025 tokens"] = in_turns(steps) | {
        f"{name} bytes": cost(step)["bytes"] for name, step in steps.items()}
    one, three = nn.Linear(192, 576), nn.ModuleList(nn.Linear(192, 192) for _ in range(3))
    found["qkv"] = in_turns({
        "one product": with_gradient(one, x, module=one),
        "three": with_gradient(lambda t: torch.cat([m(t) for m in three], -1), x, module=three),
    })  # fmt: skip
    unit, maps = conv_bn_relu(192, 256, 3), torch.randn(2, 1025, 192)[:, 1:]

    def conv(t: torch.Tensor, copied: bool) -> torch.Tensor:
        t = t.transpose(1, 2).unflatten(2, (32, 32))
        return unit[0](t.contiguous() if copied else t)

    found["layout"] = in_turns({
        "as it lies": with_gradient(lambda t: conv(t, False), maps, module=unit),
        "copied to channels first": with_gradient(lambda t: conv(t, True), maps, module=unit),
    })  # fmt: skip
    return found


def growth() -> dict:
    """Points (size, seconds, bytes) along four axes, and of attention alone."""
    found = {"side": [], "attention": [], "explicit": [], "batch": [], "classes": [], "depth": []}
    for side_ in (128, 192, 256, 384, 512, 768, 1024, 1280):
        grid = side_ // 16
        encoder = VisionTransformer((side_, side_), depth=12, **TINY).eval()
        image = torch.randn(1, 3, side_, side_)
        with torch.no_grad():
            found["side"].append({"size": side_, **cost(lambda e=encoder, i=image: e(i))})
        layer, x = Attention(192, 3), torch.randn(1, grid * grid, 192)
        step = with_gradient(layer, x, module=layer)
        found["attention"].append({"size": side_, **cost(step)})
        if side_ <= 1024:
            with plain_attention():
                found["explicit"].append({"size": side_, **cost(step)})
    for batch in (1, 2, 4, 8):
        found["batch"].append({"size": batch, **training(batch, 150, 12)})
    for classes in (19, 59, 150, 300, 600):
        found["classes"].append({"size": classes, **training(2, classes, 12)})
    for depth in (6, 12, 24, 48):
        found["depth"].append({"size": depth, **training(2, 150, depth)})
    return found


def training(batch: int, classes: int, depth: int) -> dict[str, float]:
    """A step of SETR-Naive with a ViT-Ti of any depth at 256 x 256, with auxiliary heads."""
    from setr_lite import encoder

    encoder.PRESETS["of this depth"] = {**TINY, "depth": depth}
    model = SETR(classes, "naive", "of this depth", img_size=(256, 256)).train()
    image, label = torch.randn(batch, 3, 256, 256), torch.randint(classes, (batch, 256, 256))

    def step() -> None:
        segmentation_loss(model(image), label).backward()
        model.zero_grad(set_to_none=True)

    return cost(step)


def tried() -> dict:
    """Ratios: time without by time with, so above 1 is a gain."""
    found = {}
    model = SETR(150, "naive", "vit_tiny_patch16", aux=False).eval()
    image = torch.randn(1, 3, 512, 512)
    plain = torch.no_grad()(lambda: model.encoder(image))
    table, other, wide = model.encoder.pos_embed.detach(), (24, 40), torch.randn(1, 3, 384, 640)
    found["position table, resized"] = {
        "seconds": seconds_of(lambda: resize_pos_embed(table, (32, 32), other)),
        "forward seconds": seconds_of(torch.no_grad()(lambda: model.encoder(wide))),
    }
    found["int8"] = int8(model, plain, image)
    blocks = [Block(192, 3, 4.0) for _ in range(12)]
    compiled, x = nn.Sequential(*blocks), torch.randn(1, 1025, 192)
    before = seconds_of(torch.no_grad()(lambda: compiled(x)))
    begin = time.perf_counter()
    for block in blocks:
        block.compile()
    try:
        with torch.no_grad():
            compiled(x)
        first = time.perf_counter() - begin
        after = seconds_of(torch.no_grad()(lambda: compiled(x)))
        found["compile"] = {"ratio": before / after, "seconds to compile": first}
    except Exception as error:
        found["compile"] = {"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    return found


def int8(model: nn.Module, plain: Callable, image: torch.Tensor) -> dict:
    """Linear layers of the encoder in int8, activations quantised at run time."""
    import copy

    try:
        from torch.ao.quantization import quantize_dynamic

        small = quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
        quantised = torch.no_grad()(lambda: small.encoder(image))
        found = in_turns({"int8": quantised, "float32": plain})
        a, b = quantised()[-1], plain()[-1]
        return found | {"error": float((a - b).norm() / b.norm())}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}


PARTS = {
    "rates": rates, "operators": operators, "ladder": ladder, "pairs": pairs, "growth": growth,
    "tried": tried,
}  # fmt: skip

if __name__ == "__main__":
    main()
