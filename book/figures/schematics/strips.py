"""The loss in strips: which cells of the small map a strip of the large one needs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F

from ..svg import Box, Drawing

CELLS, PIXELS, ROWS = 32, 512, 24


class Places(NamedTuple):
    """Where the parts of one shape are; the way back goes below all but the last note."""

    size: tuple[float, float]
    small: Box
    large: Box
    loss: Box
    gradient: Box
    back: tuple[float, float]
    note: tuple[float, float]


PLACES = {
    "wide": Places((720, 258), Box(18, 34, 128, 128), Box(250, 34, 192, 192),
                   Box(524, 18, 190, 44), Box(524, 96, 190, 44), (26, 184), (550, 170)),
    "narrow": Places((360, 356), Box(18, 34, 96, 96), Box(190, 34, 154, 154),
                     Box(190, 206, 160, 44), Box(190, 274, 160, 44), (20, 156), (18, 338)),
}  # fmt: skip


def needed(rows: int = ROWS) -> tuple[int, int]:
    """The first and the last cell that the first rows of pixels are mixed from."""
    resize = F.interpolate(torch.eye(CELLS)[None], size=PIXELS, mode="linear")[0].T
    used = resize[:rows].any(0).nonzero().flatten().tolist()
    return used[0], used[-1]


def draw(shape: str) -> Drawing:
    at = PLACES[shape]
    first, last = needed()
    cells = f"cells {first} and {last}"
    picture = Drawing(f"strips-{shape}", at.size, "The loss, one strip at a time", (
        f"On the left a map of scores, {CELLS} by {CELLS}; on the right the same map resized to "
        f"{PIXELS} by {PIXELS}. The strip of rows 0 to {ROWS - 1} on the right is made from "
        f"{cells} of the rows on the left alone. From it come its loss, which is added to the "
        "sum, and p minus y, which goes back through both matrices transposed and is added to the "
        "gradient of these cells. Then the strip is thrown away, and the next one is made."))
    wanted = _map(picture, at.small, f"{CELLS} × {CELLS}", (last + 1) / CELLS)
    strip = _map(picture, at.large, f"{PIXELS} × {PIXELS}", ROWS / PIXELS)
    picture.text(at.small.middle[0], at.small.y + 34, cells, "d-small")
    for i, words in enumerate((f"rows 0 to {ROWS - 1};", f"next, {ROWS} to {2 * ROWS - 1}")):
        picture.text(at.large.middle[0], at.large.y + 60 + 15 * i, words, "d-small")
    for i in (2, 3):
        y = at.large.y + at.large.h * ROWS * i / PIXELS
        picture.arrow((at.large.x, y), (at.large.right, y), kind="d-dash", head=False)
    picture.arrow((wanted.right, wanted.middle[1]), (strip.x - 2, wanted.middle[1]),
                  kind="d-orange")
    picture.text((wanted.right + strip.x) / 2, wanted.y - 6, "resize", "d-small")
    _there_and_back(picture, at, strip, wanted, shape)
    return picture


def _map(picture: Drawing, box: Box, words: str, share: float) -> Box:
    """A square map, its size above it, and its upper rows marked."""
    picture.text(box.middle[0], box.y - 12, words, "d-strong")
    picture.box(box, round_=0)
    rows = Box(box.x, box.y, box.w, box.h * share)
    return picture.box(rows, kind="d-orange", round_=0)


def _there_and_back(picture: Drawing, at: Places, strip: Box, wanted: Box, shape: str) -> None:
    loss, gradient, y = at.loss, at.gradient, strip.middle[1]
    if shape == "wide":
        picture.arrow((strip.right, y), (loss.x - 2, y))
        low = at.large.bottom + 16
        x = gradient.x + 14  # left of the note
        start = [(x, gradient.bottom), (x, low), (6, low)]
        picture.arrow(*start, (6, wanted.middle[1]), (wanted.x - 2, wanted.middle[1]))
    else:
        edge = loss.right + 5
        picture.arrow((strip.right, y), (edge, y), (edge, loss.middle[1]),
                      (loss.right + 2, loss.middle[1]))
        picture.arrow((gradient.x, gradient.middle[1]), (6, gradient.middle[1]),
                      (6, wanted.middle[1]), (wanted.x - 2, wanted.middle[1]))
    picture.box(loss, "loss of the strip", "~added to the sum", kind="d-purple")
    picture.arrow((loss.middle[0], loss.bottom), (loss.middle[0], gradient.y - 2))
    picture.box(gradient, "p − y of the strip", "~softmax minus one-hot label", kind="d-green")
    words_back = ("back through both", "matrices, transposed:", "added to these cells")
    for i, words in enumerate(words_back):
        picture.text(at.back[0], at.back[1] + 15 * i, words, "d-small", "start")
    notes = ("Then the strip is thrown away,", "and the next one is made.")
    for i, words in enumerate(notes if shape == "wide" else (" ".join(notes),)):
        picture.text(at.note[0], at.note[1] + 15 * i, words, "d-small", "start")
