"""Sphinx extension: figures that hold pictures, drawn on white paper, for a dark page.

A chart turns dark as a whole (``book.css``), and a picture must not: its colours say something.
Where the two are on one sheet, the paper turns dark and the pictures stay. The browser does it
with one layer over the figure, out of which the pictures are cut. This module finds them once a
page is built, so that no notebook has to run for it:

* a block of ink, such as a photograph, a label map or the swatch of a legend, is a picture;
* what is thin, such as words, axes and arrows, is drawn on the paper;
* if much colour is left on the paper, such as bars, or if the frames of a figure differ, it stays
  as it is: it is then shown as a white card.
"""

from __future__ import annotations

import base64
import io
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

Box = tuple[int, int, int, int]

WHITE = 250  # the darkest that is still paper
INK = 240  # what is darker is drawn; beside a picture JPEG greys the paper a little
PAPER_RIM = 0.5  # a figure on paper has so much of its rim white
CHROMA = 60  # between the largest and smallest of R, G, B: beyond it, a colour
PICTURES = 0.25  # they cover so much of the figure, or it is a chart
COLOURED = 0.045  # no more of the rest is a colour: a curve or an arrow, which keep their hue
ALIKE = 0.1  # how much the pictures' share may vary among the frames of one figure

SOURCE = r'src=\\?"(data:image/[a-z]+;base64,[^"\\]+|[^"\\:]*_images/[^"\\]+\.(?:png|jpe?g))\\?"'
IMAGE = re.compile(
    rf'(?P<frame>(?<="value": ")<img [^>]*?{SOURCE}[^>]*>(?="))|'
    rf'(?P<still><img class="setr-still[^>]*?{SOURCE}[^>]*>)|'
    rf'(?P<static><img (?![^>]*data:)[^>]*?{SOURCE}[^>]*>)(?!</span>)'
)
DONE = re.compile(r'<span class=\\?"setr-(?:paper|card)')


def is_on_paper(pixels: np.ndarray) -> bool:
    rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return bool((rim.min(1) >= WHITE).mean() >= PAPER_RIM)


def pictures(pixels: np.ndarray) -> list[Box]:
    """Boxes (left, top, right, bottom) of the blocks of ink in (H, W, 3) pixels."""
    ink = (pixels.min(2) < INK).astype(np.uint8)
    _, _, found, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    large: list[list[int]] = []
    small = np.zeros_like(ink)
    for x, y, width, height, area in found[1:]:
        filled = area / (width * height)
        if width >= 40 and height >= 30 and filled >= 0.6:
            large.append([x, y, x + width, y + height])
        elif (min(width, height) >= 4 and max(width, height) >= 6 and filled >= 0.95) or (
            min(width, height) >= 10 and max(width, height) >= 60 and filled >= 0.6
        ):
            small[y : y + height, x : x + width] = 1
    # small ones side by side are the pieces of one picture
    joined = cv2.morphologyEx(small, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    _, _, found, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    boxes = large + [[x, y, x + width, y + height] for x, y, width, height, _ in found[1:]]
    return [
        (int(left), int(top), int(right), int(bottom)) for left, top, right, bottom in boxes
        if not any(inside((left, top, right, bottom), other) for other in boxes)
    ]  # fmt: skip


def inside(box: Sequence[int], other: Sequence[int]) -> bool:
    """Whether `box` is a part of `other`, such as what a white outline encloses in a picture.

    Cut out of the cut, it would be paper again.
    """
    return (list(box) != list(other) and box[0] >= other[0] and box[1] >= other[1]
            and box[2] <= other[2] and box[3] <= other[3])  # fmt: skip


def shares(pixels: np.ndarray, boxes: list[Box]) -> tuple[float, float]:
    """How much of the figure is pictures, and how much of the rest is coloured."""
    paper = np.ones(pixels.shape[:2], bool)
    for left, top, right, bottom in boxes:
        paper[top:bottom, left:right] = False
    rest = pixels[paper].astype(int)
    coloured = (rest.max(1) - rest.min(1) > CHROMA).mean() if len(rest) else 0.0
    return float(1 - paper.mean()), float(coloured)


def cut(boxes: list[Box], width: int, height: int) -> str:
    """The CSS shape of the paper: all of the figure, without its pictures."""
    points = ["0 0", "100% 0", "100% 100%", "0 100%", "0 0"]
    for left, top, right, bottom in boxes:
        x0, x1 = (f"{100 * x / width:.2f}%" for x in (left, right))
        y0, y1 = (f"{100 * y / height:.2f}%" for y in (top, bottom))
        points += [f"{x0} {y0}", f"{x1} {y0}", f"{x1} {y1}", f"{x0} {y1}", f"{x0} {y0}", "0 0"]
    return f"polygon(evenodd,{','.join(points)})"


def read(source: str, folder: Path) -> np.ndarray:
    data = source.split(",", 1)[1] if source.startswith("data:") else None
    file = io.BytesIO(base64.b64decode(data)) if data else folder / source
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def shape_of(frames: list[np.ndarray]) -> list[str]:
    """For each frame of one figure the shape of its paper; empty strings if it stays white."""
    found = [pictures(frame) for frame in frames]
    measured = [shares(frame, boxes) for frame, boxes in zip(frames, found, strict=True)]
    covered, coloured = zip(*measured, strict=True)
    if (min(covered) < PICTURES or max(covered) - min(covered) > ALIKE
            or max(coloured) > COLOURED):  # fmt: skip
        return [""] * len(frames)
    return [cut(boxes, frame.shape[1], frame.shape[0])
            for frame, boxes in zip(frames, found, strict=True)]  # fmt: skip


def in_chart(page: str, at: int) -> bool:
    """Whether the cell around a place of the page is a chart, which turns dark as a whole."""
    cell = page.rfind('<div class="cell ', 0, at)
    return cell >= 0 and "tag_chart" in page[cell : page.index(">", cell)]


def turn(page: str, folder: Path) -> str:
    """One built page with its figures on paper marked. Applied twice it changes nothing more."""
    if DONE.search(page):
        return page

    def source_of(match: re.Match) -> str:
        """Of an image that is no chart."""
        if match["static"] and in_chart(page, match.start()):
            return ""
        return next(group for group in match.groups()[1::2] if group)

    figures: dict[Any, list[tuple[str, np.ndarray]]] = defaultdict(list)
    for match in IMAGE.finditer(page):
        if (source := source_of(match)) and is_on_paper(pixels := read(source, folder)):
            # the frames of one figure are of one size, those of a still
            figures[source if match["static"] else pixels.shape].append((source, pixels))
    shapes: dict[str, str] = {}
    for frames in figures.values():
        sources, images = zip(*frames, strict=True)
        shapes.update(zip(sources, shape_of(list(images)), strict=True))

    def wrap(match: re.Match) -> str:
        if (source := source_of(match)) not in shapes:
            return match.group()
        quote = r"\"" if match["frame"] else '"'
        shape = shapes[source]
        style = f" style={quote}--paper:{shape}{quote}" if shape else ""
        name = "setr-paper" if shape else "setr-card"
        return f"<span class={quote}{name}{quote}{style}>{match.group()}</span>"

    return IMAGE.sub(wrap, page)


def turn_pages(app: Any, error: Exception | None) -> None:
    if error or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        old = path.read_text("utf-8")
        new = turn(old, path.parent)
        if new != old:
            path.write_text(new, "utf-8")


def setup(app: Any) -> dict[str, Any]:
    app.connect("build-finished", turn_pages, priority=600)  # after book_pages' stills
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
