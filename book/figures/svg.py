"""SVG with text in it, for the drawn figures: boxes, arrows, tables and links, nothing more.

Colours are left to ``book/_web/static/drawn.css``, by class. A drawing carries that style sheet
inside, so that it can stand alone (Jupyter, GitHub); in a built page the page's copy serves and
knows about the dark theme.

Lengths are in the drawing's own units. A *wide* drawing is about 720 of them across and a *narrow*
one 360, so that text of 13 units is legible on a desktop and on a phone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

STYLE = Path(__file__).resolve().parents[1] / "_web" / "static" / "drawn.css"
LINE = 17
"""Units from one line of text to the next."""


class Box(NamedTuple):
    """A rectangle: its left, its top, its width and its height."""

    x: float
    y: float
    w: float
    h: float

    @property
    def right(self) -> float:
        return self.x + self.w

    @property
    def bottom(self) -> float:
        return self.y + self.h

    @property
    def middle(self) -> tuple[float, float]:
        return self.x + self.w / 2, self.y + self.h / 2


class Drawing:
    """One SVG that is filled from the outside in.

    Args:
        name: of the file, and the stem of the ids in it.
        size: (width, height).
        title: what a screen reader says first.
        words: what the drawing shows, in sentences.
        role: ``img``, or ``group`` where parts of the drawing are links.
    """

    def __init__(
        self, name: str, size: tuple[float, float], title: str, words: str, role: str = "img"
    ) -> None:
        self.name, self.size = name, size
        width, height = size
        self.root = self.at = ElementTree.Element("svg", {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {_number(width)} {_number(height)}",
            "role": role,
            "class": "drawn",
            "aria-labelledby": f"{name}-title",
            "aria-describedby": f"{name}-words",
        })  # fmt: skip
        self.add("title", id=f"{name}-title").text = title
        self.add("desc", id=f"{name}-words").text = words

    def add(self, tag: str, **attributes: object) -> ElementTree.Element:
        """An element where the drawing is now; ``class_`` loses its _, others bend it to -."""
        pairs = {
            key.rstrip("_").replace("_", "-"): _number(value)
            for key, value in attributes.items() if value not in ("", None)
        }
        return ElementTree.SubElement(self.at, tag, pairs)

    @contextmanager
    def inside(self, tag: str = "g", **attributes: object) -> Iterator[ElementTree.Element]:
        """What is drawn within becomes part of this element."""
        before = self.at
        self.at = self.add(tag, **attributes)
        yield self.at
        self.at = before

    def text(
        self, x: float, y: float, words: str, kind: str = "", anchor: str = "middle",
        **more: object,
    ) -> None:
        """One line, its baseline at y."""
        self.add("text", x=x, y=y, class_=kind, text_anchor=anchor, **more).text = words

    def box(self, box: Box, *lines: str, kind: str = "", round_: float = 5) -> Box:
        """A rectangle with lines of text in its middle; a line that begins with ~ is small."""
        self.add("rect", x=box.x, y=box.y, width=box.w, height=box.h, rx=round_,
                 class_=f"d-box {kind}".strip())
        x, y = box.middle
        top = y - LINE * (len(lines) - 1) / 2 + 4.5
        for i, line in enumerate(lines):
            small = line.startswith("~")
            self.text(x, top + LINE * i, line.removeprefix("~"), "d-small" if small else "")
        return box

    def arrow(self, *points: tuple[float, float], kind: str = "", head: bool = True) -> None:
        """A line through the points, with an arrowhead at the last one."""
        line = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        self.add("polyline", points=line, class_=f"d-line {kind}".strip())
        if head:
            self._head(points[-2], points[-1], kind)

    def _head(self, before: tuple[float, float], end: tuple[float, float], kind: str) -> None:
        (x0, y0), (x, y) = before, end
        length = max(((x - x0) ** 2 + (y - y0) ** 2) ** 0.5, 1e-9)
        dx, dy = (x - x0) / length * 7, (y - y0) / length * 7
        corners = [(x, y), (x - dx - dy / 2, y - dy + dx / 2), (x - dx + dy / 2, y - dy - dx / 2)]
        points = " ".join(f"{_number(a)},{_number(b)}" for a, b in corners)
        self.add("polygon", points=points, class_=f"d-head {kind}".strip())

    def plus(self, x: float, y: float, kind: str = "") -> None:
        """The sign for an addition, a circle of radius 9."""
        self.add("circle", cx=x, cy=y, r=9, class_=f"d-box {kind}".strip())
        self.arrow((x - 5, y), (x + 5, y), head=False)
        self.arrow((x, y - 5), (x, y + 5), head=False)

    def table(
        self, x: float, y: float, rows: Sequence[Sequence[str]], cell: tuple[float, float],
        kind: str = "", marks: Callable[[int, int], dict[str, str]] = lambda i, j: {},
    ) -> Box:
        """Numbers in a grid of cells; `marks` gives the attributes of the cell (row, column)."""
        w, h = cell
        for i, row in enumerate(rows):
            for j, value in enumerate(row):
                with self.inside(**marks(i, j)):
                    self.add("rect", x=x + j * w, y=y + i * h, width=w, height=h,
                             class_=f"d-cell {kind}".strip())
                    self.text(x + (j + 0.5) * w, y + (i + 0.5) * h + 4.5, value)
        return Box(x, y, w * len(rows[0]), h * len(rows))

    def svg(self) -> str:
        """The file: the drawing with its style sheet, the same bytes every time."""
        style = ElementTree.Element("style")
        style.text = STYLE.read_text("utf-8").partition("/* In a page")[0]
        self.root.insert(2, style)
        ElementTree.indent(self.root, " ")
        text = ElementTree.tostring(self.root, encoding="unicode")
        self.root.remove(style)
        return text + "\n"


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else str(value)
