"""MLA: four depths, summed from deep to shallow, then side by side."""

from __future__ import annotations

from ..sizes import giga, size, trace
from ..svg import Box, Drawing


def draw(shape: str) -> Drawing:
    run = trace("mla")
    taps = [tap + 1 for tap in run.model.encoder.taps]
    neck, branch = run.shapes["neck.smooth.0"], run.shapes["head.branches.0"]
    scores = run.shapes["head"]
    side = (run.model.head.classifier.in_channels, *scores[1:])
    picture = Drawing(
        f"mla-{shape}", {"wide": (720, 306), "narrow": (360, 430)}[shape],
        "SETR-MLA: four streams", (
            f"The residual stream after blocks {', '.join(map(str, taps))} is normed and projected "
            f"to {neck[0]} channels. Starting at the deepest, each stream is added to the next "
            f"shallower one, and each sum is smoothed. The head then gives every stream two 3 x 3 "
            f"units, enlarges it four times, puts all four side by side, {side[0]} channels, and "
            f"classifies."))
    words = {
        "project": ("norm, 1 × 1", f"~{size(neck)}"),
        "smooth": ("3 × 3", "~"),
        "branch": ("3 × 3, 3 × 3", f"~{size(branch)}"),
        "side": f"side by side, {size(side)}",
        "classes": f"3 × 3 classes, {giga(run.macs['head.classifier'])}: {size(scores)}",
        "costs": f"neck {giga(run.macs['neck'])}, head {giga(run.macs['head'])}",
    }
    (_wide if shape == "wide" else _narrow)(picture, taps, words)
    return picture


def _wide(picture: Drawing, taps: list[int], words: dict) -> None:
    for x, title in ((6, "taps"), (130, "neck"), (410, "head")):
        picture.text(x, 16, title, "d-strong", "start")
    picture.text(714, 16, words["costs"], "d-small", "end")
    rows = [28 + 56 * i for i in range(4)]
    for i, (y, tap) in enumerate(zip(rows, taps, strict=True)):
        middle = y + 20
        picture.box(Box(6, y + 4, 92, 32), f"block {tap}")
        picture.arrow((98, middle), (130, middle))
        picture.box(Box(130, y, 112, 40), *words["project"], kind="d-green")
        picture.arrow((242, middle), (263, middle))
        picture.plus(272, middle)
        picture.arrow((281, middle), (310, middle))
        picture.box(Box(310, y + 4, 60, 32), "3 × 3", kind="d-green")
        picture.arrow((370, middle), (410, middle))
        picture.box(Box(410, y, 122, 40), *words["branch"], kind="d-blue")
        picture.arrow((532, middle), (560, middle))
        picture.box(Box(560, y + 4, 44, 32), "4×", kind="d-blue")
        picture.arrow((604, middle), (640, middle))
        if i < 3:
            picture.arrow((272, rows[i + 1] + 11), (272, middle + 9), kind="d-orange")
    picture.box(Box(640, 28, 20, 208), kind="d-blue")
    picture.text(604, 262, words["side"], "", "end")
    picture.arrow((650, 236), (650, 268))
    picture.box(Box(360, 270, 354, 32), words["classes"], kind="d-blue")
    picture.text(130, 262, "the sum runs from deep to shallow", "d-small", "start")


def _narrow(picture: Drawing, taps: list[int], words: dict) -> None:
    columns = [4 + 90 * i for i in range(4)]
    for i, (x, tap) in enumerate(zip(columns, taps, strict=True)):
        middle = x + 41
        picture.box(Box(x, 24, 82, 28), f"block {tap}")
        picture.arrow((middle, 52), (middle, 74))
        picture.box(Box(x, 74, 82, 28), words["project"][0], kind="d-green")
        picture.arrow((middle, 102), (middle, 123))
        picture.plus(middle, 132)
        picture.arrow((middle, 141), (middle, 160))
        picture.box(Box(x, 160, 82, 28), "3 × 3", kind="d-green")
        picture.arrow((middle, 188), (middle, 230))
        picture.box(Box(x, 230, 82, 28), words["branch"][0], kind="d-blue")
        picture.arrow((middle, 258), (middle, 276))
        picture.box(Box(x, 276, 82, 28), "4× larger", kind="d-blue")
        picture.arrow((middle, 304), (middle, 324))
        if i < 3:
            picture.arrow((columns[i + 1] + 32, 132), (middle + 9, 132), kind="d-orange")
    picture.text(4, 16, "taps and neck", "d-strong", "start")
    picture.text(356, 16, words["project"][1].removeprefix("~"), "d-small", "end")
    picture.text(4, 222, "head", "d-strong", "start")
    picture.text(270, 216, words["branch"][1].removeprefix("~"), "d-small")
    picture.box(Box(4, 324, 352, 30), words["side"], kind="d-blue")
    picture.arrow((180, 354), (180, 370))
    picture.box(Box(4, 370, 352, 30), words["classes"], kind="d-blue")
    picture.text(180, 422, words["costs"], "d-small")
