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

from bisect import bisect_left
from collections.abc import Sequence
from math import isqrt

import numpy as np

# In the order of painting, far to near: a pixel that two classes share equally goes to the later.
SKY, TERRAIN, ROAD, SIDEWALK, BUILDING, FENCE, VEGETATION, CAR, PERSON, POLE, SIGN = range(11)

UNITS = 7680
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

    def pick(self, choices: Sequence):
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



class Canvas:
    """Packed pixels and the shapes that fill them; a pixel belongs to a shape by its centre."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.h, self.w = 2 * size[0], 2 * size[1]
        self.width = UNITS * size[1] // size[0]
        self.pixels = np.zeros((self.h, self.w), np.uint32)
        # centres of the pixels; 32 bits hold every product in use and divide faster than 64
        self.y = _centres(self.h, UNITS)
        self.x = _centres(self.w, self.width)
        self._ys, self._xs = self.y.tolist(), self.x.tolist()  # bisected faster than an array

    def row(self, y: int) -> int:
        """The first row whose centre is at y or below it."""
        return bisect_left(self._ys, y)

    def column(self, x: int) -> int:
        """The first column whose centre is at x or right of it."""
        return bisect_left(self._xs, x)

    def box(self, x0: int, y0: int, x1: int, y1: int) -> tuple[slice, slice]:
        """The rows and columns whose centres lie in [y0, y1) and [x0, x1)."""
        top, left = self.row(y0), self.column(x0)
        return slice(top, max(top, self.row(y1))), slice(left, max(left, self.column(x1)))

    def rect(self, x0: int, y0: int, x1: int, y1: int, ink: int) -> None:
        self.pixels[self.box(x0, y0, x1, y1)] = ink

    def polygon(self, points: Sequence[Point], ink: int | None) -> None:
        """Fill an outline that every row crosses twice; without ink it only casts a shadow."""
        rows = [self.row(y) for _, y in points]
        top, bottom = min(rows), max(rows)
        if top >= bottom or max(p[0] for p in points) < 0 or min(points)[0] > self.width:
            return
        left, right = [1 << 30] * (bottom - top), [-1 << 30] * (bottom - top)
        (px, py), a = points[-1], rows[-1]
        for (qx, qy), b in zip(points, rows, strict=True):
            x, y, run, rise = (px, py, qx - px, qy - py) if a < b else (qx, qy, px - qx, py - qy)
            for i, centre in enumerate(self._ys[min(a, b) : max(a, b)], min(a, b) - top):
                cross = x + (centre - y) * run // rise
                if cross < left[i]:
                    left[i] = cross
                if cross > right[i]:
                    right[i] = cross
            px, py, a = qx, qy, b
        self._spans(top, left, right, ink)

    def ellipse(self, cx: int, cy: int, rx: int, ry: int, ink: int | None) -> None:
        """Fill an ellipse with half axes rx, ry; without ink it only casts a shadow."""
        top, bottom = self.row(cy - ry), self.row(cy + ry + 1)
        square = (rx * ry) ** 2
        halves = [isqrt(square - ((y - cy) * rx) ** 2) // max(ry, 1) for y in self._ys[top:bottom]]
        self._spans(top, [cx - half for half in halves], [cx + half + 1 for half in halves], ink)

    def _spans(
        self, top: int, left: Sequence[int], right: Sequence[int], ink: int | None
    ) -> None:
        """Fill the pixels whose centres lie in [left, right), row by row from `top` on."""
        xs, paint = self._xs, None if ink is None else np.array(ink, np.uint32)
        for row, x0, x1 in zip(self.pixels[top:], left, right, strict=False):
            a, b = bisect_left(xs, x0), bisect_left(xs, x1)
            if paint is None:  # three quarters of each colour byte; the class stays
                row[a:b] -= (row[a:b] >> 2) & np.uint32(0x3F3F3F)
            else:
                row[a:b] = paint

    def leaves(self, cx: int, cy: int, r: int, inks: Sequence[int], grain: int, salt: int) -> None:
        """A disc of leaves: four inks, mixed by a hash of the place in a grid of `grain` units."""
        box = self.box(cx - r, cy - r, cx + r + 1, cy + r + 1)
        across, down = self.x[box[1]] - cx, self.y[box[0]] - cy
        spot = (across // grain + salt) * 7919 ^ ((down // grain) * 104729)[:, None]
        inside = across * across + (down * down)[:, None] <= r * r
        np.copyto(self.pixels[box], np.array(inks, np.uint32)[mixed(spot, 13, 3)], where=inside)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Average 2 x 2 colours, and let the four classes vote: (H,W,3) int32, (H,W) uint8.

        The third smallest of four has the majority, or the class in front where two share a
        pixel, since classes are numbered from far to near.
        """
        p = self.pixels
        quarters = [p[0::2, 0::2], p[0::2, 1::2], p[1::2, 0::2], p[1::2, 1::2]]
        channels = [sum((q >> s & 255).astype(np.int32) for q in quarters) for s in (16, 8, 0)]
        a, b, c, d = ((q >> 24).astype(np.uint8) for q in quarters)
        low, high = np.minimum(np.maximum(a, b), np.maximum(c, d)), np.maximum(
            np.minimum(a, b), np.minimum(c, d)
        )
        return np.stack(channels, -1) // 4, np.maximum(low, high)


def _centres(count: int, length: int) -> np.ndarray:
    """int32 (count,): where the centres of `count` pixels over `length` units lie, rounded down."""
    return ((2 * np.arange(count, dtype=np.int64) + 1) * length // (2 * count)).astype(np.int32)


def mixed(value: np.ndarray, shift: int, mask: int) -> np.ndarray:
    """Bits of a hash of whole numbers, (value * 2654435761 >> shift) & mask; shift < 30."""
    return value.astype(np.uint32) * np.uint32(2654435761) >> np.uint32(shift) & np.uint32(mask)


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
                                half // 3 * unit // self.cam, None)

    def sky_at(self, y: int) -> Color:
        """Colour of the clear sky, y units below the picture's upper edge."""
        part = min(256, y * 256 // self.hz)
        return tuple(
            (t * (256 - part) + b * part) >> 8 for t, b in zip(self.top, self.low, strict=True)
        )
