"""Decoders that are one chain: Naive and PUP, every map with its shape and every step its MACs."""

from __future__ import annotations

from typing import NamedTuple

from ..sizes import SIDE, Trace, giga, size, trace
from ..svg import Box, Drawing


class Stage(NamedTuple):
    """A map, and the step that made it."""

    step: tuple[str, ...]
    """What happens before, in words; empty for the first."""
    shape: tuple[int, ...]
    """Channels, height, width of the map."""
    kind: str = ""


def draw_naive(shape: str) -> Drawing:
    run = trace("naive")
    stages = [*_start(run), *_units(run), *_end(run)]
    return _draw(f"naive-{shape}", stages, "SETR-Naive, step by step", shape, gap=168, largest=104)


def draw_pup(shape: str) -> Drawing:
    run = trace("pup")
    return _draw(f"pup-{shape}", [*_start(run), *_units(run), *_end(run)],
                 "SETR-PUP, stage by stage", shape, gap=69, largest=64)


def _start(run: Trace) -> list[Stage]:
    return [Stage((), run.shapes["head.norm"])]


def _units(run: Trace) -> list[Stage]:
    """Convolution, BatchNorm and ReLU, with the 2x step that follows."""
    stages = []
    for i, (unit, step) in enumerate(zip(run.model.head.convs, run.model.head.steps, strict=True)):
        kernel = unit[0].kernel_size[0]
        channels, height, width = run.shapes[f"head.convs.{i}"]
        words = (f"{kernel} × {kernel} unit", giga(run.macs[f"head.convs.{i}"]))
        enlarge = (f"{step}× larger",) if step > 1 else ()
        stages.append(Stage(words + enlarge, (channels, height * step, width * step), "d-green"))
    return stages


def _end(run: Trace) -> list[Stage]:
    """Classes, and the resize to the image."""
    scores = run.shapes["head"]
    factor = SIDE // scores[-1]
    return [
        Stage(("classes", giga(run.macs["head.classifier"])), scores, "d-blue"),
        Stage(("resize", f"{factor}× larger"), (scores[0], SIDE, SIDE), "d-blue"),
    ]


def _side(stage: Stage, largest: float) -> float:
    """Side of a square for a map: the larger, the wider, but not in proportion."""
    return largest * (stage.shape[-1] / SIDE) ** 0.55


def _draw(
    name: str, stages: list[Stage], title: str, shape: str, gap: float, largest: float = 74,
) -> Drawing:
    words = "From the tokens " + ". Then ".join(
        f"{', '.join(stage.step)}: {size(stage.shape)}".lstrip(": ") for stage in stages)
    if shape == "wide":
        picture = Drawing(name, (720, 172), title, words + ".")
        _wide(picture, stages, gap, largest)
    else:
        picture = Drawing(name, (360, 30 + 62 * len(stages)), title, words + ".")
        _narrow(picture, stages)
    return picture


def _wide(picture: Drawing, stages: list[Stage], gap: float, largest: float) -> None:
    total = sum(_side(stage, largest) for stage in stages) + gap * (len(stages) - 1)
    x, middle = (720 - total) / 2, 76
    for stage in stages:
        side = _side(stage, largest)
        if stage.step:
            picture.arrow((x + 3, middle), (x + gap - 3, middle))
            picture.text(x + gap / 2, middle - 8, stage.step[0], "d-small")
            for i, line in enumerate(stage.step[1:]):
                picture.text(x + gap / 2, middle + 16 + 14 * i, line, "d-small")
            x += gap
        picture.box(Box(x, middle - side / 2, side, side), kind=stage.kind, round_=2)
        picture.text(x + side / 2, 140, str(stage.shape[0]), "d-small d-strong")
        picture.text(x + side / 2, 156, size(stage.shape, False), "d-small")
        x += side


def _narrow(picture: Drawing, stages: list[Stage]) -> None:
    x = 62
    for i, stage in enumerate(stages):
        side, y = _side(stage, 52), 30 + 62 * i
        if stage.step:
            before = _side(stages[i - 1], 52) / 2
            picture.arrow((x, y - 33 + before), (x, y + 23 - side / 2))
            picture.text(112, y + 2, ", ".join(stage.step), "", "start")
        picture.box(Box(x - side / 2, y + 26 - side / 2, side, side), kind=stage.kind, round_=2)
        picture.text(112, y + 26, size(stage.shape), "d-strong", "start")
