"""The steps from a sample to a crop: a small street and its label after each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..svg import Box, Drawing


class Step(NamedTuple):
    """One station: its name, what is done to the image and to the label, and who is changed."""

    name: str
    image: str
    label: str
    both: bool = True


STEPS = (
    Step("1 Resize", "bilinear", "nearest"),
    Step("2 Crop", "a random square", "not of one class"),
    Step("3 Flip", "half the time", "with the image"),
    Step("4 Distort", "its colours", "unchanged", both=False),
    Step("5 Normalise", "(x − mean) / std", "unchanged", both=False),
    Step("6 Pad", "with 0", "with 255"),
)
PHOTO = ("#a9cfe8", "#8a8f98", "#c98f5a", "#4f8f4f")
DISTORTED = ("#d6c4ee", "#a39296", "#d8b83f", "#2f9c8c")
NORMALISED = ("#c4bccb", "#858083", "#b0a585", "#5c7a77")
CLASSES = ("#4682b4", "#804080", "#464646", "#6b8e23")
GREYS = ("#b4b4b4", "#8c8c8c", "#787878", "#a0a0a0")
"""Sky, road, house and tree: as in an image, distorted, normalised, as classes, and in grey."""
MEAN, IGNORED = "#808080", "#000000"
TILE = Box(0, 0, 92, 56)
SMALL = 0.8
"""The file has the size of a tile; what the first step makes of it."""
CROP = 56


def draw(shape: str) -> Drawing:
    across, width, left = (6, 720, 46) if shape == "wide" else (3, 360, 44)
    pitch, row = (width - left) / across, 2 * (TILE.h + 20) + 38
    picture = Drawing(f"pipeline-{shape}", (width, row * (6 // across) - 10), "Six steps", (
        "An image above its label map, after each of six steps. "
        + " ".join(f"{s.name}: image {s.image}, label {s.label}." for s in STEPS)))
    for n, step in enumerate(STEPS):
        x, y = left + n % across * pitch, n // across * row
        picture.text(x + TILE.w / 2, y + 14, step.name, "d-strong")
        for lane, words in enumerate((step.image, step.label)):
            top = y + 22 + lane * (TILE.h + 22)
            if n % across == 0:
                picture.text(left - 6, top + TILE.h / 2, ("image", "label")[lane], "d-small",
                             "end")
            _station(picture, Box(x, top, TILE.w, TILE.h), n, lane)
            picture.text(x + TILE.w / 2, top + TILE.h + 13, words, "d-small")
            if (n + 1) % across:
                middle = top + TILE.h / 2
                picture.arrow((x + TILE.w + 2, middle), (x + pitch - 2, middle))
    return picture


def _station(picture: Drawing, at: Box, n: int, lane: int) -> None:
    """What lies at one place after step n."""
    if lane:
        colours: Sequence[str] = CLASSES if STEPS[n].both else GREYS
    else:
        colours = (PHOTO, PHOTO, PHOTO, DISTORTED, NORMALISED, NORMALISED)[n]
    w, h = at.w * SMALL, at.h * SMALL
    if n < 2:
        if n == 0:
            picture.add("rect", x=at.x, y=at.y, width=at.w, height=at.h, class_="d-line d-dash",
                        opacity=0.5)
        _street(picture, Box(at.x, at.y, w, h), colours, not lane, faint=n == 1)
    x = at.x + w - CROP if n == 1 else at.x + (at.w - CROP) / 2
    if n:
        _street(picture, Box(x, at.y, CROP, h), colours, not lane, start=w - CROP, flip=n > 1)
    if n == 1:
        picture.add("rect", x=x, y=at.y, width=CROP, height=h, class_="d-box d-orange d-clear")
    if n == len(STEPS) - 1:
        picture.add("rect", x=x, y=at.y + h, width=CROP, height=CROP - h,
                    fill=IGNORED if lane else MEAN)
        picture.add("rect", x=x, y=at.y, width=CROP, height=CROP, class_="d-box d-clear")


def _street(picture: Drawing, at: Box, colours: Sequence[str], photo: bool, start: float = 0,
            flip: bool = False, faint: bool = False) -> None:
    """The street, or what of it begins at `start`, in four colours; a photo has details."""
    sky, road, house, tree = colours
    view = f"{start:.6g} 0 {at.w:.6g} {at.h:.6g}"
    with picture.inside("svg", x=at.x, y=at.y, width=at.w, height=at.h, viewBox=view,
                        opacity=0.25 if faint else None):
        turn = f"translate({2 * start + at.w:.6g} 0) scale(-1 1)" if flip else None
        with picture.inside(transform=turn):
            for x, y, w, h, colour in ((0, 0, 92, 45, sky), (0, 33, 92, 12, road),
                                       (22, 12, 22, 21, house), (61, 20, 3, 13, tree)):
                picture.add("rect", x=x, y=y, width=w, height=h, fill=colour)
            picture.add("circle", cx=62.5, cy=17, r=8, fill=tree)
            if photo:
                for x in (26, 35):
                    picture.add("rect", x=x, y=17, width=5, height=6, fill=sky)
                for x in (6, 28, 50):
                    picture.add("rect", x=x, y=38, width=12, height=1.5, fill="#fff", opacity=0.8)
