"""One pixel, one journey: what each chapter's step makes of one pixel of a lamp post.

The pixel lies at the right edge of a lamp post. It was chosen because the three trained decoders
disagree on it; what holds for this one pixel need not hold for another.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from setr_lite import SETR, Cityscapes, attention_maps

from .svg import Box, Drawing

DATA = Path(__file__).resolve().parents[2] / "data"
STREET, ROW, COLUMN = 3, 40, 44
BLOCK, HEAD = 3, 2
"""Counted from 1: a head whose attention depends on the query, as chapter 4 shows."""
HEADS = ("naive", "pup", "mla")
SHOWN = 8
"""Channels of a token that are drawn, of its 144."""


class Journey(NamedTuple):
    """Everything that is drawn, of the three trained ToyTown models."""

    classes: list[str]
    image: Tensor
    """(3, H, W) uint8."""
    label: Tensor
    """(H, W)."""
    token: Tensor
    """(C,), the patch after the embedding."""
    place: Tensor
    """(C,), its row of the position table."""
    row: Tensor
    """(h, w), attention of this patch in one head."""
    added: list[tuple[float, float]]
    """Of each block, the length of what attention and MLP add to the token."""
    lengths: list[float]
    """The token's length before the first block and after each."""
    logits: dict[str, Tensor]
    """Head -> (K, H, W)."""
    patch: int
    """P."""


@cache
def journey() -> Journey:
    town = Cityscapes(DATA / "sample/toytown_cityscapes", "val")
    sample = town[STREET]
    models = {h: SETR.from_pretrained(DATA / f"runs/toytown_{h}/model") for h in HEADS}
    encoder = models["pup"].encoder
    with torch.no_grad():
        image = models["pup"].preprocess(sample.image)
        logits = {head: model.logits(image)[0] for head, model in models.items()}
        patch = encoder.patch_size
        grid = (sample.label.shape[0] // patch, sample.label.shape[1] // patch)
        number = ROW // patch * grid[1] + COLUMN // patch
        maps = attention_maps(models["pup"], image, BLOCK - 1)[0, HEAD - 1]
        x, lengths, added = encoder.embed(image), [], []
        lengths.append(float(x[0, 1 + number].norm()))
        for block in encoder.blocks:
            first = block.attn(block.norm1(x))
            second = block.mlp(block.norm2(x + first))
            added.append((float(first[0, 1 + number].norm()), float(second[0, 1 + number].norm())))
            x = x + first + second
            lengths.append(float(x[0, 1 + number].norm()))
        return Journey(
            town.classes, sample.image, sample.label, encoder.patch_embed(image)[0, number],
            encoder.pos_embed[0, 1 + number], maps[1 + number, 1:].view(grid), added, lengths,
            logits, patch)


# --- the figures, one a chapter -----------------------------------------------------------------


def pixel(shape: str) -> Drawing:
    """The pixel among its neighbours."""
    trip = journey()
    colour = trip.image[:, ROW, COLUMN].tolist()
    picture = _start("pixel", shape, 154, "The pixel", (
        f"Row {ROW}, column {COLUMN} of the street: red, green and blue {colour}. Its label is "
        f"{trip.classes[trip.label[ROW, COLUMN]]}."))
    _pixels(picture, Box(8, 30, 110, 110), ROW - 5, COLUMN - 5, 11)
    _notes(picture, 136, 62, [
        f"row {ROW}, column {COLUMN}", f"R, G, B = {', '.join(map(str, colour))}",
        f"label: {trip.classes[trip.label[ROW, COLUMN]]}"])
    return picture


def patch(shape: str) -> Drawing:
    """Its patch, and the token that the embedding makes of it."""
    trip = journey()
    p = trip.patch
    row, column = ROW // p, COLUMN // p
    wide = trip.label.shape[1] // p
    token = 1 + row * wide + column
    picture = _start("patch", shape, 154, f"Its patch of {p} x {p}, and the patch's token", (
        f"The pixel is one of {p * p} in the patch of row {row} and column {column} of the "
        f"grid, token {token}. The embedding makes {len(trip.token)} numbers of {3 * p * p}."))
    _pixels(picture, Box(8, 30, 110, 110), row * p, column * p, p)
    _notes(picture, 136, 48, [f"token {token} = 1 + {row} · {wide} + {column}",
                              f"{3 * p * p} values become {len(trip.token)}"])
    _numbers(picture, 136, 92, trip.token, "first of them", shape)
    return picture


def place(shape: str) -> Drawing:
    """The token, the row of the position table, and their sum."""
    trip = journey()
    picture = _start("place", shape, 154, "Its token gets a place", (
        f"A row of the position table, length {trip.place.norm():.2f}, is added to the token, "
        f"length {trip.token.norm():.2f}; the sum has length {trip.lengths[0]:.2f}."))
    rows = (("token", trip.token), ("+ place", trip.place), ("= sum", trip.token + trip.place))
    for i, (name, values) in enumerate(rows):
        _numbers(picture, 8, 44 + 42 * i, values, f"{name}, length {values.norm():.2f}", shape)
    return picture


def attention(shape: str) -> Drawing:
    """What its patch attends to, in one head."""
    trip = journey()
    h, w = trip.row.shape
    best = trip.row.flatten().argmax().item()
    where = f"What its patch attends to, in block {BLOCK}, head {HEAD}"
    most = trip.row.flatten()[best]
    picture = _start("attention", shape, 224, where, (
        f"The attention row of the patch over all {h * w} patches. The largest share, {most:.3f}, "
        f"goes to row {best // w}, column {best % w}; an even share would be "
        f"{1 / (h * w + 1):.4f}."))
    side = 14
    for i in range(h):
        for j in range(w):
            strength = float(trip.row[i, j] / most)
            picture.add("rect", x=8 + side * j, y=30 + side * i, width=side, height=side,
                        class_="d-heat", fill_opacity=round(strength, 2))
    picture.add("rect", x=8, y=30, width=side * w, height=side * h, class_="d-cell d-clear")
    own = (ROW // trip.patch, COLUMN // trip.patch)
    picture.add("rect", x=8 + side * own[1], y=30 + side * own[0], width=side, height=side,
                class_="d-first")
    note = [f"largest share: {most:.3f}", f"at row {best // w}, column {best % w}",
            f"an even share: {1 / (h * w + 1):.4f}"]  # fmt: skip
    if shape == "wide":
        _notes(picture, 370, 90, note)
    else:
        picture.text(8, 216, f"{note[0]} {note[1]}", "d-small", "start")
    return picture


def stream(shape: str) -> Drawing:
    """What each block adds to its token."""
    trip = journey()
    height = 46 + 34 * len(trip.added)
    picture = _start("stream", shape, height, "What the blocks add to its token", (
        "Length of what attention and MLP add to the token, block by block: " + "; ".join(
            f"{a:.1f} and {m:.1f}" for a, m in trip.added) + "."))
    scale = (440 if shape == "wide" else 190) / max(max(pair) for pair in trip.added)
    for i, (first, second) in enumerate(trip.added):
        y = 34 + 34 * i
        picture.text(8, y + 15, f"block {i + 1}", "", "start")
        for j, (value, kind, name) in enumerate(
                ((first, "d-blue", "attention"), (second, "d-orange", "MLP"))):
            picture.add("rect", x=70, y=y + 14 * j, width=value * scale, height=12,
                        class_=f"d-bar {kind}")
            picture.text(76 + value * scale, y + 10 + 14 * j, f"{name} {value:.1f}", "d-small",
                         "start")
    return picture


def _head(name: str) -> Callable[[str], Drawing]:
    def draw(shape: str) -> Drawing:
        """The four largest probabilities of one head at the pixel."""
        trip = journey()
        shares = trip.logits[name][:, ROW, COLUMN].softmax(0)
        top = shares.topk(4)
        found = [(trip.classes[k], float(v)) for v, k in zip(*top, strict=True)]
        true = trip.classes[trip.label[ROW, COLUMN]]
        title = f"What {_title(name)} says of it"
        picture = _start(name, shape, 136, title, (
            f"The label is {true}. The four largest probabilities: "
            + ", ".join(f"{cls} {p:.2f}" for cls, p in found) + "."))
        scale = 400 if shape == "wide" else 150
        for i, (cls, value) in enumerate(found):
            y = 32 + 25 * i
            kind = "d-green" if cls == true else "d-orange"
            picture.text(8, y + 14, cls, "d-strong" if cls == true else "", "start")
            picture.add("rect", x=110, y=y + 2, width=max(value * scale, 1), height=15,
                        class_=f"d-bar {kind}")
            picture.text(118 + value * scale, y + 14, f"{value:.2f}", "", "start")
        return picture

    return draw


def score(shape: str) -> Drawing:
    """What one pixel is of the class's IoU."""
    trip = journey()
    true = trip.label[ROW, COLUMN]
    title = f"Its share of the IoU of {trip.classes[true]}, on this street"
    picture = _start("score", shape, 132, title, (
        "The class's IoU on this street by each head, and what this pixel is of the union."))
    for i, name in enumerate(HEADS):
        found = trip.logits[name].argmax(0)
        both = int(((found == true) & (trip.label == true)).sum())
        either = int(((found == true) | (trip.label == true)).sum())
        hit = bool(found[ROW, COLUMN] == true)
        words = f"{both} of {either} pixels, IoU {both / either:.3f}"
        picture.text(8, 48 + 30 * i, _title(name), "d-strong", "start")
        picture.text(66, 48 + 30 * i, words, "", "start")
        kind = "in both" if hit else "in the union only"
        if shape == "wide":
            picture.text(330, 48 + 30 * i, f"the pixel is {kind}: {1 / either:.4f} of it", "",
                         "start")
        else:
            picture.text(66, 62 + 30 * i, f"the pixel is {kind}", "d-small", "start")
    return picture


# --- what they share ----------------------------------------------------------------------------


def _title(head: str) -> str:
    return "Naive" if head == "naive" else head.upper()


def _start(name: str, shape: str, height: float, title: str, words: str) -> Drawing:
    picture = Drawing(f"journey-{name}-{shape}", ({"wide": 720, "narrow": 360}[shape], height),
                      f"One pixel, one journey. {title}", words)
    picture.text(8, 16, title, "d-strong", "start")
    return picture


def _pixels(picture: Drawing, box: Box, top: int, left: int, many: int) -> None:
    """Pixels of the street as squares, ours framed."""
    image, side = journey().image, box.w / many
    for i in range(many):
        for j in range(many):
            red, green, blue = image[:, top + i, left + j].tolist()
            picture.add("rect", x=box.x + side * j, y=box.y + side * i, width=side, height=side,
                        fill=f"#{red:02x}{green:02x}{blue:02x}")
    picture.add("rect", x=box.x + side * (COLUMN - left), y=box.y + side * (ROW - top),
                width=side, height=side, class_="d-first")


def _notes(picture: Drawing, x: float, y: float, lines: list[str]) -> None:
    for i, line in enumerate(lines):
        picture.text(x, y + 20 * i, line, "", "start")


def _numbers(picture: Drawing, x: float, y: float, values: Tensor, name: str, shape: str) -> None:
    """The first channels of a vector in cells, as many as there is room for."""
    many = SHOWN if shape == "wide" else (352 - int(x)) // 43
    picture.text(x, y - 6, name, "d-small", "start")
    picture.table(x, y, [[f"{v:.2f}" for v in values[:many].tolist()]], (43, 22))


DRAW: dict[str, Callable[[str], Drawing]] = {
    "pixel": pixel, "patch": patch, "place": place, "attention": attention, "stream": stream,
    **{head: _head(head) for head in HEADS}, "score": score,
}  # fmt: skip
"""The drawings by the names that `stops.STOPS` puts them into chapters with."""
