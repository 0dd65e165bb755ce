"""What a control is: the attention that each head gives its own class, beside what explains it."""

from __future__ import annotations

import json
from pathlib import Path

from ..svg import Drawing

RECORD = Path(__file__).resolve().parents[3] / "data/runs/inside_controls/own_kind.json"
BOUND = 0.10
"""Heads whose excess is surely more than this are named."""
ROW, TOP, MOST = 15, 62, 50
"""Units for a head; where the first one is; per cent at the right end."""


def draw(shape: str) -> Drawing:
    record = json.loads(RECORD.read_text("utf-8"))
    gap, own, alone = record["own_minus_same_offset"], record["own"], record["same_offset"]
    left, right, width = (190, 590, 720) if shape == "wide" else (98, 312, 360)
    heads = [(b, a) for b, block in enumerate(gap["mean"]) for a in range(len(block))]
    bottom = TOP + ROW * len(heads) + 6 * len(gap["mean"]) - 8
    picture = Drawing(f"control-{shape}", (width, bottom + 40), "What a control is", (
        "For each head two points on one line: per cent of its attention on patches of the "
        "query's own class, and what distance and direction alone explain. "
        + " ".join(f"Block {b + 1}, head {a + 1}: {100 * own['mean'][b][a]:.1f} and "
                   f"{100 * alone['mean'][b][a]:.1f}." for b, a in heads)))

    def at(share: float) -> float:
        return left + share * 100 / MOST * (right - left)

    _legend(picture, shape)
    for share in range(10, MOST + 1, 10):
        x = at(share / 100)
        picture.add("line", x1=x, y1=TOP - 12, x2=x, y2=bottom, class_="d-line d-dash",
                    opacity=0.25)
        picture.text(x, bottom + 15, f"{share} %", "d-small")
    picture.text((left + right) / 2, bottom + 33, "attention on the query's own class", "d-small")
    for i, (b, a) in enumerate(heads):
        y = TOP + ROW * i + 6 * b
        measured, control = at(own["mean"][b][a]), at(alone["mean"][b][a])
        found = gap["low"][b][a] > BOUND
        label = f"block {b + 1}, head {a + 1}" if shape == "wide" or not a else f"head {a + 1}"
        picture.text(left - 10, y + 4, label, "d-small", "end")
        picture.arrow((control, y), (measured, y), kind="d-blue" if found else "", head=False)
        picture.add("circle", cx=control, cy=y, r=4, class_="d-box" + " d-blue" * found)
        picture.add("circle", cx=measured, cy=y, r=4, class_="d-heat" if found else "d-head")
        if found:
            picture.text(measured + 9, y + 4, f"+{100 * gap['mean'][b][a]:.1f}", "d-strong",
                         "start")
    return picture


def _legend(picture: Drawing, shape: str) -> None:
    places = ((190, 16), (330, 16)) if shape == "wide" else ((16, 12), (16, 30))
    for (x, y), kind, words in zip(places, ("d-head", "d-box"), (
            "measured", "its control: distance and direction alone"), strict=True):
        picture.add("circle", cx=x, cy=y, r=4, class_=kind)
        picture.text(x + 10, y + 4, words, "d-small", "start")
