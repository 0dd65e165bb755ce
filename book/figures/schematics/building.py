"""From a notebook to a page: what is made of what, and what checks it."""

from __future__ import annotations

from ..svg import Box, Drawing

PLACES = {
    "wide": {"source": (6, 30, 190, 52), "notebook": (264, 30, 190, 52), "page": (524, 30, 190, 52),
             "nbval": (264, 128, 190, 52), "browser": (524, 128, 190, 52),
             "tests": (6, 128, 190, 52)},
    "narrow": {"source": (4, 4, 170, 50), "tests": (196, 4, 160, 50), "notebook": (4, 96, 170, 50),
               "nbval": (196, 96, 160, 50), "page": (4, 188, 170, 50),
               "browser": (196, 188, 160, 50)},
}  # fmt: skip
LINES = {
    "source": ("setr_lite, book/figures", "~and the records in data/runs"),
    "notebook": ("book/*.ipynb", "~with its outputs"),
    "page": ("_build/html", "~page, no kernel, no network"),
    "tests": ("pytest", "~against stored outputs"),
    "nbval": ("nbval", "~runs all again, compares"),
    "browser": ("test_site, test_browser", "~as files, in Chromium"),
}
STEPS = {("source", "notebook"): "execute.py", ("notebook", "page"): "jupyter-book"}
CHECKS = (("tests", "source"), ("nbval", "notebook"), ("browser", "page"))


FRAMES = {"wide": Box(1, 120, 718, 89), "narrow": Box(188, 1, 171, 260)}
"""Round the checks, with the command that makes them written below."""


def draw(shape: str) -> Drawing:
    picture = Drawing(f"building-{shape}", {"wide": (720, 210), "narrow": (360, 262)}[shape],
                      "From notebook to page", (
        "execute.py runs library and figures on the records and writes outputs into the "
        "notebooks; jupyter-book makes pages of these outputs, without running anything. pytest "
        "checks the library, nbval runs the notebooks again and compares, and the pages are read "
        "and used in a browser. make test does all three."))
    at = {name: Box(*place) for name, place in PLACES[shape].items()}
    wide, frame = shape == "wide", FRAMES[shape]
    picture.box(frame, kind="d-frame")
    picture.text(frame.middle[0], frame.bottom - 9, "make test")
    for (a, b), words in STEPS.items():
        one, two = at[a], at[b]
        if wide:
            picture.arrow((one.right, one.middle[1]), (two.x, two.middle[1]))
            picture.text((one.right + two.x) / 2, one.y - 10, words, "d-small")
        else:
            picture.arrow((one.middle[0], one.bottom), (two.middle[0], two.y))
            picture.text(one.middle[0] + 8, (one.bottom + two.y) / 2 + 4, words, "d-small", "start")
    for a, b in CHECKS:
        one, two = at[a], at[b]
        ends = ((one.middle[0], one.y), (two.middle[0], two.bottom)) if wide else (
            (one.x, one.middle[1]), (two.right, two.middle[1]))
        picture.arrow(*ends, kind="d-dash")
    for name, box in at.items():
        picture.box(box, *LINES[name], kind="d-purple" if name in dict(CHECKS) else "")
    return picture
