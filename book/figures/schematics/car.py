"""Intersection and union of one class: the sixteen pixels of the chapter on measuring."""

from __future__ import annotations

from ..svg import Drawing

NAMES = ("road", "sky", "car")
LABEL = ((1, 1, 1, 1), (1, 1, 2, 2), (0, 0, 2, 2), (0, 0, 0, 255))
GUESS = ((1, 1, 1, 1), (1, 1, 1, 2), (0, 2, 2, 2), (0, 0, 0, 2))
CAR, UNKNOWN = 2, 255
FAINT = 0.35
"""Opacity of a pixel that is in one of the two."""


def draw(shape: str) -> Drawing:
    wide = shape == "wide"
    side, gap, width = (40, 60, 720) if wide else (28, 11, 360)
    places = [(i, j) for i in range(4) for j in range(4) if LABEL[i][j] != UNKNOWN]
    truth = {(i, j) for i, j in places if LABEL[i][j] == CAR}
    guess = {(i, j) for i, j in places if GUESS[i][j] == CAR}
    both, union = truth & guess, truth | guess
    notes = [(f"{len(truth)} labelled",), (f"{len(guess)} predicted", "and one not counted"),
             (f"IoU = {len(both)}/{len(union)}",)]
    titles = ("truth", "guess", "car")
    picture = Drawing(f"car-{shape}", (width, 4 * side + 66), "Intersection and union", (
        f"Three grids of 4 by 4 pixels. In the truth {len(truth)} are a car, in the guess "
        f"{len(guess)}, and one more where the truth is unknown. In the third grid the "
        f"{len(both)} pixels of both are marked strongly, and the {len(union - both)} of one of "
        "them faintly."))
    left = (width - 12 * side - 2 * gap) / 2
    for n, (title, lines) in enumerate(zip(titles, notes, strict=True)):
        x = left + n * (4 * side + gap)
        picture.text(x + 2 * side, 16, title, "d-strong")
        for i in range(4):
            for j in range(4):
                known, at = (i, j) in places, (x + j * side, 26 + i * side)
                depth, words = 0.0, ""
                if n < 2:
                    depth = FAINT if (i, j) in (truth, guess)[n] else 0
                    words = NAMES[GUESS[i][j]] if n else NAMES[LABEL[i][j]] if known else "?"
                elif (i, j) in union:
                    depth = 1 if (i, j) in both else FAINT
                _cell(picture, at, side, depth, words, "" if known else "d-dash")
        for i, line in enumerate(lines):
            picture.text(x + 2 * side, 4 * side + 44 + 15 * i, line, "" if n > 1 else "d-small")
    return picture


def _cell(picture: Drawing, at: tuple[float, float], side: float, depth: float, words: str,
          kind: str) -> None:
    """A pixel, its blue of this opacity."""
    (x, y), size = at, {"width": side, "height": side}
    if depth:
        picture.add("rect", x=x, y=y, **size, class_="d-heat", opacity=depth)
    picture.add("rect", x=x, y=y, **size, class_=f"d-cell d-clear {kind}".strip())
    if words:
        picture.text(x + side / 2, y + side / 2 + 4, words, "d-small")
