"""DDP against FSDP: what each of four GPUs holds, and what they send."""

from __future__ import annotations

from setr_lite.model import count_parameters

from ..sizes import trace
from ..svg import Box, Drawing

GPUS = 4
STATE = ("weights", "gradient", "momentum")


def draw(shape: str) -> Drawing:
    one = count_parameters(trace("pup").model) * 4 / 2**30  # float32
    whole, part = f"{len(STATE) * one:.1f} GiB", f"{len(STATE) * one / GPUS:.1f} GiB"
    picture = Drawing(f"parallel-{shape}", {"wide": (720, 282), "narrow": (360, 560)}[shape],
                      "DDP against FSDP on four GPUs", (
        f"With DDP each of {GPUS} GPUs holds all weights, gradients and momentum of SETR-PUP, "
        f"{whole}; after the backward pass the gradients are averaged by an all-reduce. With FSDP "
        f"each holds one part in {GPUS}, {part}; before a block is used its weights are gathered, "
        "after the backward pass each GPU gets the mean of its own part of the gradient."))
    panels = [
        ("DDP: everything everywhere", "d-blue", 1.0, f"{whole} on each GPU",
         ("all-reduce:", "the mean of all gradients, to all")),
        ("FSDP: one part each", "d-orange", 1 / GPUS, f"{part} on each GPU",
         ("all-gather a block's weights;", "reduce-scatter its gradient")),
    ]  # fmt: skip
    for i, panel in enumerate(panels):
        _panel(picture, *((366 * i, 0) if shape == "wide" else (0, 282 * i)), i, *panel)
    return picture


def _panel(picture: Drawing, x: float, y: float, number: int, title: str, kind: str, share: float,
           held: str, sent: tuple[str, str]) -> None:
    """Four GPUs side by side; each state is a bar, filled where this GPU holds it."""
    picture.text(x + 4, y + 18, title, "d-strong", "start")
    for gpu in range(GPUS):
        left = x + 4 + 88 * gpu
        picture.box(Box(left, y + 32, 80, 142), kind="d-frame")
        picture.text(left + 40, y + 50, f"GPU {gpu}")
        for row, name in enumerate(STATE):
            top = y + 76 + 36 * row
            picture.text(left + 8, top - 4, name, "d-small", "start")
            picture.add("rect", x=left + 8, y=top, width=64, height=12, class_="d-cell")
            first = 0 if share == 1 else gpu / GPUS
            picture.add("rect", x=left + 8 + 64 * first, y=top, width=64 * share, height=12,
                        class_=f"d-bar {kind}")
        picture.arrow((left + 40, y + 204), (left + 40, y + 176))
        picture.arrow((left + 40, y + 176), (left + 40, y + 204))
    box = picture.box(Box(x + 4, y + 204, 344, 44), *sent, kind=kind)
    picture.text(x + 4, box.bottom + 20, held + ", own images beside it", "", "start")
