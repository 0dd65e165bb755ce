"""Sliding windows over a Cityscapes image: where they start, and where they overlap."""

from __future__ import annotations

from setr_lite.inference import Window, window_starts
from setr_lite.recipes import get_recipe

from ..svg import Box, Drawing

RECIPE = "pup_cityscapes_768_80k"
SCALE = 0.16


def draw(shape: str) -> Drawing:
    config = get_recipe(RECIPE)
    height, width = config.data.base_size
    size, stride = config.data.crop_size[0], config.eval.stride[0]
    boxes = Window(size, stride).boxes((height, width))
    left, top = window_starts(width, size, stride), window_starts(height, size, stride)
    last = len(left) - 1
    notes = [
        f"{len(boxes)} windows of {size} × {size} pixels",
        f"on an image of {height} × {width}, every {stride} pixels.",
        f"The last column would start at {last * stride} and end",
        f"outside: it starts at {left[-1]}, the last row at {top[-1]}.",
        "Where windows overlap (a stronger blue),",
        "their logits are averaged.",
    ]
    picture = Drawing(f"windows-{shape}", {"wide": (720, 214), "narrow": (360, 330)}[shape],
                      "Sliding windows", " ".join(notes))
    _image(picture, (44 if shape == "wide" else 30, 28), (height, width), boxes, left, top, shape)
    x, y = (396, 62) if shape == "wide" else (8, 232)
    for i, note in enumerate(notes):
        picture.text(x, y + 18 * i, note, "d-strong" if i == 0 else "", "start")
    return picture


def _image(picture: Drawing, corner: tuple[float, float], size: tuple[int, int],
           boxes: list, left: list[int], top: list[int], shape: str) -> None:
    scale = SCALE if shape == "wide" else SCALE * 0.98
    x0, y0 = corner
    picture.box(Box(x0, y0, size[1] * scale, size[0] * scale), round_=0)
    for y, x, bottom, right in boxes:
        picture.add("rect", x=x0 + x * scale, y=y0 + y * scale, width=(right - x) * scale,
                    height=(bottom - y) * scale, class_="d-window")
    y, x, bottom, right = boxes[0]
    picture.add("rect", x=x0, y=y0, width=(right - x) * scale, height=(bottom - y) * scale,
                class_="d-window d-first")
    for start in left:
        crowded = start == left[-1] and left[-1] - left[-2] < 300
        picture.text(x0 + start * scale + (6 if crowded else 0), y0 - 6, str(start), "d-small",
                     "middle" if start else "start")
    for start in top:
        picture.text(x0 - 4, y0 + start * scale + 9, str(start), "d-small", "end")
