"""Painting with integers: random numbers, filled shapes, and a camera with its light.

Every step is integer arithmetic on one array of packed pixels, ``class << 24 | red << 16 |
green << 8 | blue``. One assignment writes an object's class and its colour, so the two cannot
disagree, and the bytes are the same on every machine.

Shape legend: H, W  size of the picture; the canvas is 2H x 2W, for smooth edges.
Units: world lengths in cm (X right of the camera's axis, z along it, height above the ground),
picture lengths in units of 1/7680 of the picture's height, whatever its size (80 units are one
pixel at 96 rows), so that one seed is one street at every size. Colours are RGB in 0..255; a
light or a shade of 256 leaves a colour as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

# In the order of painting, far to near: a pixel that two classes share equally goes to the later.
SKY, TERRAIN, ROAD, SIDEWALK, BUILDING, FENCE, VEGETATION, CAR, PERSON, POLE, SIGN = range(11)

UNITS = 7680
SHADOW = -1  # instead of an ink: three quarters of each colour byte, the class stays
_MASK = (1 << 64) - 1
Color = tuple[int, int, int]
Point = tuple[int, int]


# ------------------------------------------------------------------------------ random numbers
class Dice:
    """Random integers of the splitmix64 generator (Steele, Lea, Flood 2014).

    Our own dozen lines, since NumPy keeps the stream of a bit generator across versions but not
    that of the methods that draw from a range.
    """

    def __init__(self, seed: int) -> None:
        self.state = seed & _MASK
        self.state = self._next()  # neighbouring seeds must not share their numbers

    def _next(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & _MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def between(self, low: int, high: int) -> int:
        """One of low, low + 1, ..., high."""
        return low + self._next() % (high - low + 1)

    def chance(self, percent: int) -> bool:
        """True in `percent` of 100 calls."""
        return self._next() % 100 < percent

    def pick(self, choices: Sequence[T]) -> T:
        """One of `choices`."""
        return choices[self._next() % len(choices)]

    def array(self, shape: tuple[int, ...]) -> np.ndarray:
        """uint64 array of the given shape; the same mixing, vectorised."""
        count = int(np.prod(shape))
        z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(self._next())
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return (z ^ (z >> np.uint64(31))).reshape(shape)



# ------------------------------------------------------------------------------------ shapes
class Canvas:
    """Packed pixels and the shapes that fill them; a pixel belongs to a shape by its centre.

    Whatever is painted takes the next number, and a pixel shows the highest number that covers
    it, so the order of filling is free. Boxes are filled at once. Outlines, ellipses and leaves,
    some 350 in a scene and most of them tiny, wait for `paint`, which fills them all with a few
    calls on long arrays in place of thousands on short ones. Surfaces wait too: a wall's windows
    are worked out only for those of its pixels that nothing hides.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.h, self.w = 2 * size[0], 2 * size[1]
        self.width = UNITS * size[1] // size[0]
        self.pixels = np.zeros((self.h, self.w), np.uint32)
        # centres of the pixels; 32 bits hold every product in use and divide faster than 64
        self.y = _centres(self.h, UNITS)
        self.x = _centres(self.w, self.width)
        self._top = np.zeros((self.h, self.w), np.int32)  # the number that each pixel shows
        self._inks = [0]  # by number; 0 for what brings its own pixels
        self._points: list[int] = []  # what waits: x, y of the corners of all outlines
        self._outlines: list[int] = []  # of each outline: how many corners, number
        self._ovals: list[int] = []  # of each ellipse or disc: cx, cy, rx, ry, number
        self._leaves: list[int] = []  # of each disc of leaves: cx, cy, grain, salt, number
        self._surfaces: list[tuple[int, tuple[slice, slice], Callable]] = []  # number, box, look

    def row(self, y: int) -> int:
        """The first row whose centre is at y or below it."""
        return min(self.h, max(0, _before(y, self.h, UNITS)))

    def column(self, x: int) -> int:
        """The first column whose centre is at x or right of it."""
        return min(self.w, max(0, _before(x, self.w, self.width)))

    def box(self, x0: int, y0: int, x1: int, y1: int) -> tuple[slice, slice]:
        """The rows and columns whose centres lie in [y0, y1) and [x0, x1)."""
        top, left = self.row(y0), self.column(x0)
        return slice(top, max(top, self.row(y1))), slice(left, max(left, self.column(x1)))

    def fill(self, box: tuple[slice, slice], inks: int | np.ndarray) -> None:
        """Paint the pixels of a box."""
        self.pixels[box] = inks
        self._top[box] = self._number(0)

    def surface(self, box: tuple[slice, slice], inside: np.ndarray | bool,
                look: Callable[[np.ndarray], np.ndarray]) -> None:
        """Cover the pixels of a box that are `inside`; `look` gives the inks of those in sight.

        It is called by `paint` with a mask over the box, and not at all for what lies hidden.
        """
        number = self._number(0)
        np.copyto(self._top[box], number, where=inside)
        self._surfaces.append((number, box, look))

    def rect(self, x0: int, y0: int, x1: int, y1: int, ink: int) -> None:
        self.fill(self.box(x0, y0, x1, y1), ink)

    # --------------------------------------------------------------------- shapes that wait
    def _number(self, ink: int) -> int:
        self._inks.append(ink)
        return len(self._inks) - 1

    def polygon(self, points: Sequence[Point], ink: int) -> None:
        """Fill an outline that every row crosses twice; the ink SHADOW darkens what is there."""
        for point in points:
            self._points += point
        self._outlines += len(points), self._number(ink)

    def ellipse(self, cx: int, cy: int, rx: int, ry: int, ink: int) -> None:
        """Fill an ellipse with half axes rx, ry; the ink SHADOW darkens what is there."""
        self._ovals += cx, cy, rx, ry, self._number(ink)

    def leaves(self, cx: int, cy: int, r: int, inks: Sequence[int], grain: int, salt: int) -> None:
        """A disc of leaves: four inks, mixed by a hash of the place in a grid of `grain` units."""
        number = len(self._inks)
        self._inks += inks  # it takes four numbers, and competes for pixels with the first
        self._ovals += cx, cy, r, r, number
        self._leaves += cx, cy, grain, salt, number

    # -------------------------------------------------------------- how they become pixels
    def paint(self) -> None:
        """Paint what waits."""
        inks, pixels, top = np.array(self._inks), self.pixels.reshape(-1), self._top.reshape(-1)
        spans = np.concatenate((self._outline_spans(), self._oval_spans()), 1)
        cast = inks[spans[3]] == SHADOW
        place, number = self._pixels_of(spans[:, ~cast])
        np.maximum.at(top, place, number)  # several shapes may cover one pixel: the highest stays
        seen = np.flatnonzero(top[place] == number)
        place, number = place[seen], number[seen]
        pixels[place] = inks[number + self._leaf(place, number)]
        self._look_at_surfaces()
        place, number = self._pixels_of(spans[:, cast])  # shadows fall on what is below them
        _darken(pixels, place[number > top[place]])
        for waiting in (self._points, self._outlines, self._ovals, self._leaves, self._surfaces):
            waiting.clear()

    def _look_at_surfaces(self) -> None:
        shown = np.zeros(len(self._inks), bool)
        shown[self._top] = True
        for number, box, look in self._surfaces:
            if shown[number]:
                sight = self._top[box] == number
                self.pixels[box][sight] = look(sight)

    def _outline_spans(self) -> np.ndarray:
        """(4,n): for each row of each outline the row, left and right end in units, the number."""
        x, y = np.array(self._points, np.int64).reshape(-1, 2).T
        corners, number = np.array(self._outlines, np.int64).reshape(-1, 2).T
        if not number.size:
            return np.empty((4, 0), np.int64)
        end = np.cumsum(corners)
        first, this = end - corners, np.arange(len(x))
        following = this + 1
        following[end - 1] = first
        row = _before(y, self.h, UNITS).clip(0, self.h)
        top = np.minimum.reduceat(row, first)
        rows = np.maximum.reduceat(row, first) - top
        # where the edges, each from its upper corner to its lower one, cross the rows
        down = row < row[following]
        upper, lower = np.where(down, this, following), np.where(down, following, this)
        crossed = row[lower] - row[upper]
        at, edge = _runs(row[upper], crossed), np.repeat(this, crossed)
        x0, y0 = x[upper], y[upper]
        run, rise = x[lower] - x0, y[lower] - y0
        cross = x0[edge] + (self.y[at] - y0[edge]) * run[edge] // rise[edge]
        # ... and the outermost crossings of each row of an outline
        span = np.repeat(np.cumsum(rows) - rows - top, corners)[edge] + at
        spans = np.empty((4, rows.sum()), np.int64)
        spans[0], spans[3] = _runs(top, rows), np.repeat(number, rows)
        spans[1], spans[2] = 1 << 40, -1 << 40
        np.minimum.at(spans[1], span, cross)
        np.maximum.at(spans[2], span, cross)
        return spans

    def _oval_spans(self) -> np.ndarray:
        """(4,n): the same for the ellipses."""
        cx, cy, rx, ry, number = ovals = np.array(self._ovals, np.int64).reshape(-1, 5).T
        top, bottom = (_before(y, self.h, UNITS).clip(0, self.h) for y in (cy - ry, cy + ry + 1))
        rows = np.maximum(bottom - top, 0)
        at, (cx, cy, rx, ry, number) = _runs(top, rows), np.repeat(ovals, rows, axis=1)
        down = self.y[at] - cy
        half = _isqrt(rx * rx * (ry * ry - down * down)) // np.maximum(ry, 1)
        return np.stack((at, cx - half, cx + half + 1, number))

    def _pixels_of(self, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Flat indices of the pixels with centres in spans [left, right), and their numbers."""
        row, left, right, number = spans
        a, b = (_before(x, self.w, self.width).clip(0, self.w) for x in (left, right))
        width = np.maximum(b - a, 0)
        return _runs(row * self.w + a, width), np.repeat(number.astype(np.int32), width)

    def _leaf(self, place: np.ndarray, number: np.ndarray) -> np.ndarray:
        """Which of its four inks a pixel of leaves takes, 0 .. 3; 0 for other pixels."""
        cx, cy, grain, salt, own = np.array(self._leaves, np.int32).reshape(-1, 5).T
        disc_of = np.full(len(self._inks), -1, np.int32)
        disc_of[own] = np.arange(len(own))
        disc = disc_of[number]
        leafy = np.flatnonzero(disc >= 0)
        disc, at = disc[leafy], place[leafy].astype(np.int32)
        row, size = at // self.w, grain[disc]
        across = (self.x[at - row * self.w] - cx[disc]) // size
        down = (self.y[row] - cy[disc]) // size
        leaf = np.zeros(len(place), np.int32)
        leaf[leafy] = mixed((across + salt[disc]) * 7919 ^ down * 104729, 13, 3)
        return leaf

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Average 2 x 2 colours, and let the four classes vote: (H,W,3) int32, (H,W) uint8.

        The third smallest of four has the majority, or the class in front where two share a
        pixel, since classes are numbered from far to near.
        """
        self.paint()
        p = self.pixels
        quarters = [p[0::2, 0::2], p[0::2, 1::2], p[1::2, 0::2], p[1::2, 1::2]]
        # red and blue in one sum: 16 bits apart, they do not touch
        both = reduce(np.add, (q & np.uint32(0xFF00FF) for q in quarters))
        green = reduce(np.add, (q & np.uint32(0xFF00) for q in quarters))
        image = np.empty((*both.shape, 3), np.int32)
        image[..., 0], image[..., 1], image[..., 2] = both >> 18, green >> 10, both >> 2 & 255
        a, b, c, d = ((q >> 24).astype(np.uint8) for q in quarters)
        low, high = np.minimum(np.maximum(a, b), np.maximum(c, d)), np.maximum(
            np.minimum(a, b), np.minimum(c, d)
        )
        return image, np.maximum(low, high)


def _runs(start: np.ndarray, count: np.ndarray) -> np.ndarray:
    """start[i], start[i] + 1, ..., count[i] numbers, for every i in turn."""
    runs = np.repeat(start + count - np.cumsum(count), count)
    runs += np.arange(len(runs))
    return runs


def _isqrt(square: np.ndarray) -> np.ndarray:
    """The whole part of the root of whole numbers below 2**62."""
    root = np.sqrt(square).astype(np.int64)
    root -= root * root > square  # a float of 53 bits may be off by one
    return root + ((root + 1) * (root + 1) <= square)


def _darken(pixels: np.ndarray, place: np.ndarray) -> None:
    """Three quarters of each colour byte, once for each time that `place` names the pixel."""
    place, times = np.unique(place, return_counts=True)
    for time in range(1, times.max(initial=0) + 1):
        here = place[times >= time]
        pixels[here] = shaded(pixels[here])


def shaded(pixels: np.ndarray) -> np.ndarray:
    """Pixels with three quarters of their colours; the class stays."""
    return pixels - (pixels >> np.uint32(2) & np.uint32(0x3F3F3F))


def _before(at: Any, count: int, length: int) -> Any:
    """How many of the centres of `count` pixels over `length` units lie before `at`.

    For a number or an array; pixels that continue the row on either side count too.
    """
    return (2 * count * at + length - 1) // (2 * length)


def _centres(count: int, length: int) -> np.ndarray:
    """int32 (count,): where the centres of `count` pixels over `length` units lie, rounded down."""
    return ((2 * np.arange(count, dtype=np.int64) + 1) * length // (2 * count)).astype(np.int32)


def mixed(value: np.ndarray, shift: int, mask: int) -> np.ndarray:
    """Bits of a hash of whole numbers, (value * 2654435761 >> shift) & mask; shift < 30."""
    value = value.astype(np.uint32)
    value *= np.uint32(2654435761)
    value >>= np.uint32(shift)
    value &= np.uint32(mask)
    return value


def pack(label: int, color: Sequence[int]) -> int:
    """A packed pixel, ``class << 24 | red << 16 | green << 8 | blue``."""
    return label << 24 | color[0] << 16 | color[1] << 8 | color[2]


# --------------------------------------------------------------------------------------- light
# top and foot of the sky, light (256 = neutral), clouds; shadows?, lamps lit?
_LIGHTS = (
    ((78, 142, 222), (196, 222, 242), (256, 256, 250), (250, 252, 254), True, False),
    ((110, 164, 216), (252, 226, 190), (266, 246, 222), (255, 244, 226), True, False),
    ((88, 84, 152), (252, 170, 112), (240, 198, 174), (250, 190, 160), True, False),
    ((150, 164, 180), (212, 216, 220), (214, 220, 228), (190, 198, 206), False, False),
    ((16, 22, 56), (64, 70, 118), (118, 128, 170), (44, 50, 92), False, True),
)
_LIGHT_ODDS = (0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4)


class View:
    """A canvas seen through a pinhole camera along the street, with the scene's light.

    `hz` and `vx` are the horizon's row and the vanishing point's column, in units; `cam` is the
    camera's height and `focal` its focal length, cm and units; `sun` is the side, -1 or 1, that
    the sun shines from.
    """

    def __init__(self, seed: int, size: tuple[int, int]) -> None:
        self.dice = dice = Dice(seed)
        self.canvas = Canvas(size)
        self.cam = dice.between(190, 290)
        self.focal = dice.between(6400, 8000)
        self.hz = UNITS * dice.between(38, 47) // 100
        self.vx = self.canvas.width * dice.between(36, 64) // 100
        self._choose_light()

    def _choose_light(self) -> None:
        dice = self.dice
        top, low, light, clouds, sunny, night = _LIGHTS[dice.pick(_LIGHT_ODDS)]
        jitter = [dice.between(-10, 10) for _ in range(3)]
        gain = dice.between(226, 272)
        self.top = tuple(max(0, c + j) for c, j in zip(top, jitter, strict=True))
        self.low = tuple(min(255, max(0, c + j)) for c, j in zip(low, jitter, strict=True))
        self.light = tuple(c * gain // 256 for c in light)
        self.clouds, self.night = clouds, night
        self.sunny = sunny and dice.chance(85)
        self.sun = dice.pick((-1, 1))  # the side it shines from
        self.haze = dice.between(90, 260)

    def depth(self, z: int) -> int:
        """Units between the horizon and the ground at distance z cm, also `cam` cm there."""
        return self.focal * self.cam // z

    def at(self, x: int, height: int, z: int) -> Point:
        """Where the world point (X, height, z) lies in the picture."""
        d = self.depth(z)
        return self.vx + x * d // self.cam, self.hz + d - height * d // self.cam

    def ink(self, label: int, color: Color, z: int = 0, shade: int = 256) -> int:
        """Packed pixel of an object at z: its colour in the scene's light, then in its haze."""
        veil = min(150, z * self.haze // 10000)
        clear = 256 - veil
        (r, g, b), (lr, lg, lb), (fr, fg, fb) = color, self.light, self.low  # a loop takes
        r = (min(255, r * lr * shade >> 16) * clear + fr * veil) >> 8  # 1.5 times as long
        g = (min(255, g * lg * shade >> 16) * clear + fg * veil) >> 8
        b = (min(255, b * lb * shade >> 16) * clear + fb * veil) >> 8
        return label << 24 | r << 16 | g << 8 | b

    def quad(self, label: int, color: Color, corners: Sequence[tuple[int, int, int]],
             shade: int = 256) -> None:
        """A flat convex figure given by world points (X, height, z)."""
        z = min(c[2] for c in corners)
        self.canvas.polygon([self.at(*c) for c in corners], self.ink(label, color, z, shade))

    def scale(self, length: int, z: int) -> int:
        """`length` cm at distance z, in units."""
        return length * self.depth(z) // self.cam

    def slab(self, label: int, color: Color, x: int, low: tuple[int, int, int],
             high: tuple[int, int, int], shade: int = 256) -> None:
        """A trapezoid, symmetric about X = x, between two edges (half width, height, z)."""
        self.quad(label, color, [(x + s * half, up, z) for s, (half, up, z) in (
            (-1, low), (1, low), (1, high), (-1, high))], shade)

    def disc(self, label: int, color: Color, at: tuple[int, int, int], rx: int,
             ry: int | None = None, lit: bool = False) -> None:
        """An upright ellipse with half axes rx, ry (a circle without ry), in cm, at (X, height, z).

        A lit one shines: neither the scene's light nor the haze dims it.
        """
        z = at[2]
        ink = pack(label, color) if lit else self.ink(label, color, z)
        self.canvas.ellipse(*self.at(*at), self.scale(rx, z), self.scale(ry or rx, z), ink)

    def shadow(self, x: int, z: int, half: int) -> None:
        """A soft spot on the ground, to the side away from the sun."""
        if self.sunny:
            px, py = self.at(x - self.sun * half // 2, 0, z)
            unit = self.depth(z)
            self.canvas.ellipse(px, py, half * 13 // 10 * unit // self.cam,
                                half // 3 * unit // self.cam, SHADOW)

    def sky_at(self, y: int) -> Color:
        """Colour of the clear sky, y units below the picture's upper edge."""
        part = min(256, y * 256 // self.hz)
        red, green, blue = (
            (t * (256 - part) + b * part) >> 8 for t, b in zip(self.top, self.low, strict=True)
        )
        return red, green, blue
