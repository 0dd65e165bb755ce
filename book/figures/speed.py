"""Two figures of chapter 19: the online softmax, step by step, and a block under the roof."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
from torch import Tensor

from setr_lite.visualize import LINES

from .interactive import Grid

TWICE = "LayerNorm", "residual sum"  # in each block


def online_softmax(s: Tensor, v: Tensor) -> Grid:
    """The walk over six scores and values, two at a time, with and without rescaling."""

    def walk(forget):
        largest, total, weighted, rows = s.new_tensor(float("-inf")), 0, 0, []
        for end in (2, 4, 6):
            part, values = s[end - 2:end], v[end - 2:end]
            larger = s[:end].max()
            stale = 1.0 if forget else (largest - larger).exp().item()
            e, largest = (part - larger).exp(), larger
            total, weighted = total * stale + e.sum(), weighted * stale + e @ values
            right = s[:end].softmax(0) @ v[:end]
            rows.append(tuple(map(float, (
                stale, largest, total, weighted, weighted / total, right))))
        return rows

    def sign(row):
        return "=" if abs(row[4] - row[5]) < 1e-3 else "≠"

    walks = {"rescale": walk(False), "forget stale": walk(True)}
    fig, ax = plt.subplots(figsize=(3.4, 3.3))
    ax.set(xlim=(-1.2, 7.3), ylim=(-6.4, 1.1))
    ax.axis("off")
    for y, text in ((0.5, "$s$"), (-0.5, "$v$"), (-1.9, "$m$"),
                    (-2.9, "$l$"), (-3.9, "$a$"), (-4.9, "$a/l$"),
                    (-5.9, "$o$")):
        ax.text(-0.3, y, text, ha="right", va="center")
    keys, sums, arrows = [], [], []
    for i, (score, value) in enumerate(zip(s.tolist(), v.tolist(), strict=True)):
        at = i + 0.6 * (i // 2)              # a gap after each pair
        keys.append((ax.add_patch(plt.Rectangle(
            (at, 0), 0.94, 1, fc="none", lw=1.5)),
            ax.text(at + 0.47, 0.5, f"{score:g}", ha="center",
                    va="center"),
            ax.text(at + 0.47, -0.5, f"{value:g}", ha="center",
                    va="center", fontsize=10)))
    for at in (0, 2.6, 5.2):
        sums.append([ax.text(at + 0.97, y, "", ha="center",
                             va="center", fontsize=11)
                     for y in (-1.9, -2.9, -3.9, -4.9, -5.9)])
        arrows.append((ax.annotate(
            "", (at + 0.15, -2.55), (at - 0.8, -2.55),
            arrowprops={"arrowstyle": "->", "color": "#555555"}),
            ax.text(at - 0.3, -3.4, "", ha="center", va="center",
                    fontsize=9)))

    def show(steps, sums_are):
        for i, (box, *texts) in enumerate(keys):
            read = i // 2 < steps
            box.set_edgecolor(LINES[i // 2] if read else "#cccccc")
            for text in texts:
                text.set_color("#222222" if read else "#bbbbbb")
        for k, row in enumerate(walks[sums_are]):
            stale, largest, total, weighted, quotient, right = row
            for text, word in zip(sums[k], (
                    f"{largest:.0f}", f"{total:.3f}", f"{weighted:.3f}",
                    f"{quotient:.3f}", f"{sign(row)} {right:.3f}"), strict=True):
                text.set_text(word if k < steps else "")
                text.set_color(LINES[k])
            sums[k][3].set_weight("bold")
            for artist in arrows[k]:
                artist.set_visible(0 < k < steps)
            arrows[k][1].set_text(f"x {stale:.2g}")

    def say(steps, sums_are):
        words = []
        for k, row in enumerate(walks[sums_are][:steps]):
            stale, largest, total, weighted, quotient, right = row
            words.append(
                f"step {k + 1}"
                + f", both sums times {stale:.2g}" * (k > 0)
                + f": m {largest:.0f}, l {total:.3f}, a {weighted:.3f}, a / l "
                f"{quotient:.3f} {sign(row)} o {right:.3f}")
        return (f"Six keys in three pairs, scores 1 and 3, 0.5 and 6, "
                f"2 and 4, values 10 to 60; {sums_are}; "
                + "; ".join(words))

    return Grid(fig, show, (1, 2, 3), walks, labels=("step", "sums"),
                menus=(False, True), start=(2, 0), alt=say)


def block_under_roof(
    operators: Callable[..., dict[str, tuple[float, float]]],
    machines: dict[str, tuple[float, float, int, int]],
    clocked_rates: dict[str, float],
) -> Grid:
    """The operators of a ViT block under the roofs of several machines.

    Args:
        operators: name: (operations, bytes), of a batch, a crop and the bytes of a value.
        machines: name: operations and bytes a second, bytes of a value, images. The first one is
            that of ``clocked_rates``.
        clocked_rates: operations a second that were measured, at a crop of 512.
    """
    fig, ax = plt.subplots(figsize=(3.9, 3.5), dpi=92)
    line = np.logspace(-1.7, 4.5, 200)
    (roof,) = ax.loglog(line, line, color="#333333")
    ax.set(xlabel="intensity: operations a byte",
           ylabel="reachable GFLOP/s", xlim=(0.04, 20000))
    names = list(operators(1, 512))
    groups = {"residual sum": ("v", 4, ("residual sum",)),
              "LayerNorm, GELU": ("o", 0, ("LayerNorm", "GELU")),
              "linear layers": ("s", 1, ("qkv", "projection", "MLP, up", "MLP, down")),
              "attention, fused": ("^", 2, ("attention, fused",)),
              "attention, explicit": ("D", 3, ("attention, explicit",))}
    marks, clocked = {}, {}
    for label, (shape, color, members) in groups.items():
        (marks[label],) = ax.plot(
            [1], [1], shape, ms=8, color=LINES[color], mec="white", zorder=5)
        for name in members:                 # from the mark to the rate measured
            (clocked[name],) = ax.plot(
                [], [], "_-", ms=9, mew=2, lw=1.2, color=LINES[color], markevery=[1])
    words = ax.set_title("", fontsize=10)

    def show(machine, crop):
        fast, wide, size_of, batch = machines[machine]
        roof.set_ydata(np.minimum(fast, wide * line) / 1e9)
        ax.set_ylim(0.02 * wide / 1e9, 3 * fast / 1e9)
        here = machine == next(iter(machines)) and crop == 512
        work = operators(batch, crop, bytes_=size_of)
        at = {name: (flops / size, min(fast, wide * flops / size) / 1e9)
              for name, (flops, size) in work.items()}
        for label, (_, _, members) in groups.items():
            marks[label].set_data(*zip(*map(at.get, members), strict=True))
        for name in names:
            x, y = at[name]
            clocked[name].set_data(
                *([x, x], [y, clocked_rates[name] / 1e9])
                if here and name in clocked_rates else ([], []))
        ms = 1e-6 * sum((1 + (name in TWICE)) * flops / at[name][1]
                        for name, (flops, _) in work.items() if "explicit" not in name)
        ms = f"{ms:,.0f}" if ms >= 10 else f"{ms:.2g}"
        words.set_text(f"crop of {crop} px: a block takes "
                       f"{ms} ms or more")

    return Grid(
        fig, show, machines, (64, 256, 512, 1024, 2048),
        labels=("machine", "crop"), menus=(True, False),
        start=(0, 2), quality=40,
        show=(str, lambda c: f"{c} px"),
        alt=lambda machine, crop: (
            f"Roofline of {machine} of {crop} pixels, with the "
            f"operators of a ViT-Ti block. GELU, LayerNorm and the "
            f"residual sum are memory-bound, far left; the ridge point "
            f"is at {machines[machine][0] / machines[machine][1]:.0f} "
            f"operations a byte."),
        caption="▼ residual sum, ● LayerNorm and GELU, ■ linear layers, ▲ fused attention, "
                "◆ explicit attention, each at the most that the machine can reach. The roof "
                "is that of this core as measured, of an A100 of 40 GB by NVIDIA's data sheet. "
                "Dashes (this core, 1 image, 512 px): the rate measured, above the roof "
                "where values are still in the cache.")
