"""The draughtsman of ToyTown: whole street scenes with a class for every pixel.

A camera stands in a straight street and looks along it. Ground and facades are textures seen in
perspective: every pixel is traced back to centimetres on its plane, so windows, paving and lane
markings shrink as they should. `things` are painted over them from far to near.

Units and conventions are those of `canvas`. Shape legend: h, w  rows and columns of the part of
the canvas that a plane covers; n  those of its pixels that are seen; u, v  cm along and up a wall.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce

import numpy as np

from . import things
from .canvas import (
    BUILDING,
    ROAD,
    SIDEWALK,
    SKY,
    TERRAIN,
    VEGETATION,
    Color,
    Dice,
    View,
    mixed,
    pack,
    shaded,
)
from .things import CARS, LEAVES, Look

_WALLS = ((214, 196, 162), (190, 112, 84), (226, 214, 196), (158, 88, 70), (196, 172, 132),
          (172, 178, 180), (222, 180, 128), (132, 146, 158), (206, 150, 130), (238, 226, 190))
_ROOFS = ((156, 82, 62), (120, 66, 56), (86, 88, 98), (110, 96, 88), (172, 100, 70))
_SLABS = ((186, 178, 168), (172, 172, 176), (198, 176, 156), (160, 156, 150))
_LAWNS = ((104, 156, 72), (126, 164, 80), (150, 158, 88), (92, 142, 76))
_BANDS = (400, 1200, 2500, 4500, 9000)  # cm
# What the ground and a wall are made of, rows of their tables of inks.
_ASPHALT, _ROUGH, _PAINT, _GUTTER, _KERB, _SLAB, _, _JOINT, _LAWN, _TUFT, _EDGE = (
    np.arange(11, dtype=np.uint8))
_WALL, _COURSE, _TRIM, _DARK, _GLASS, _LIT, _ACCENT, _AWNING = np.arange(8, dtype=np.uint8)


def _changed(color: Color, change: Callable[[int], int]) -> Color:
    red, green, blue = color
    return change(red), change(green), change(blue)


class House:
    """How one building looks; lengths in cm."""

    def __init__(self, dice: Dice, kind: str, night: bool) -> None:
        town = kind == "town"
        self.storey = dice.between(280, 340)
        self.height = self.storey * (dice.between(2, 6) if town else dice.between(1, 3)) + 30
        self.rise = dice.between(220, 360) if dice.chance(40 if town else 88) else 0
        self.depth = dice.between(700, 1200)
        self.pitch = dice.between(200, 330)
        self.pane = self.pitch * dice.between(36, 58) // 100
        self.sill = dice.between(80, 110)
        self.tall = self.storey - self.sill - dice.between(36, 60)
        self.wall, self.roof = dice.pick(_WALLS), dice.pick(_ROOFS)
        self.course = _changed(self.wall, lambda c: c * 238 >> 8)
        bright = dice.chance(75)
        self.trim = _changed(self.wall, lambda c: min(255, c + 34) if bright else c * 3 // 4)
        self.accent = dice.pick(((96, 60, 42), (52, 84, 70), (150, 50, 46), (60, 70, 104)))
        self.awning = dice.pick(((196, 62, 56), (52, 112, 92), (46, 84, 150), (226, 162, 58)))
        self.brick, self.shop = dice.chance(60), town and dice.chance(50)
        self.chimney = dice.chance(40)
        self.doors, self.salt = dice.between(2, 4), dice.between(0, 9999)
        self.lit = dice.between(6, 11) if night else dice.between(0, 2)  # of 16 windows
        self.glow = dice.pick(((255, 214, 128), (252, 226, 160), (244, 196, 110)))

    def kinds(self, u: np.ndarray, v: np.ndarray, z: int) -> np.ndarray:
        """What each of n points of a wall is, _WALL ... _AWNING: u cm along it, v cm up, (n,)."""
        col, row = u // self.pitch, v // self.storey
        fu, fv = u - col * self.pitch, v - row * self.storey  # the remainders, quicker than %
        a, b = (self.pitch - self.pane) // 2, (self.pitch + self.pane) // 2
        brick = self.brick and z < 2600
        kind = np.where(v // 16 + u // 40 & 1, _WALL, _COURSE) if brick else _WALL
        top = self.sill + self.tall
        frame = (fu >= a - 9) & (fu < b + 9) & (fv >= self.sill - 12) & (fv < top + 9)
        kind = np.where(frame | (fv < 14), _TRIM, kind)
        lit = mixed((col * 7919 ^ row * 104729) + self.salt, 9, 15) < self.lit
        glass = np.where(fv > self.sill + self.tall // 2, _GLASS, _DARK)
        pane = np.where(np.abs(fu - self.pitch // 2) < 4, _TRIM, np.where(lit, _LIT, glass))
        window = (fu >= a) & (fu < b) & (fv >= self.sill) & (fv < top)
        kind = np.where(window, pane, kind)
        if self.shop:
            kind = self._shop(kind, u, v, fu)
        else:
            door = (v < 225) & (fu >= a - 8) & (fu < b + 8) & (
                col % self.doors == self.salt % self.doors)
            light = (v > 160) & (fu > a + 6) & (fu < b - 6)
            kind = np.where(door, np.where(light, _GLASS, _ACCENT), kind)
        return np.where(v > self.height - 26, _TRIM, kind)

    def _shop(self, kind: np.ndarray, u: np.ndarray, v: np.ndarray, fu: np.ndarray) -> np.ndarray:
        """Show windows with a gleam in them on the ground floor, and a striped awning."""
        inside = _LIT if self.lit > 4 else _GLASS
        window = (fu > 18) & (v > 40) & (v < 215)
        front = np.where(window, np.where((u + v) % 160 < 50, _LIT, inside), _ACCENT)
        kind = np.where(v < self.storey, front, kind)
        stripes = np.where(u // 45 & 1, _AWNING, _TRIM)
        return np.where((v >= 225) & (v < 285), stripes, kind)


class Street(View):
    """One street: the plan of the ground, and what stands on it."""

    def __init__(self, seed: int, size: tuple[int, int]) -> None:
        super().__init__(seed, size)
        self._plan()

    def _plan(self) -> None:
        dice = self.dice
        self.road = dice.between(290, 430)  # half its width
        self.kerb = 16
        self.walk = self.road + self.kerb + dice.between(210, 340)  # outer edge of the pavement
        self.crossing = dice.between(900, 2000) if dice.chance(60) else None  # z of a crosswalk
        self.junction = None
        if dice.chance(20):
            start = (self.crossing + 420) if self.crossing else dice.between(1300, 2300)
            self.junction = (start, start + dice.between(600, 900))
        self.dashes = dice.chance(70)
        self.parking = self.road > 350 and dice.chance(80)
        kinds = ("town", "town", "houses", "houses", "park", "park")
        self.sides = {side: dice.pick(kinds) for side in (-1, 1)}
        if self.sides[-1] == self.sides[1] == "park":
            self.sides[dice.pick((-1, 1))] = "town"
        self.items: list[tuple[int, Callable[[], None]]] = []

    def add(self, z: int, paint: Callable[[], None]) -> None:
        """Keep an object for `render`, which paints the farthest first."""
        self.items.append((z, paint))

    def near_junction(self, z0: int, z1: int) -> bool:
        """Whether [z0, z1] meets the cross street."""
        return self.junction is not None and z0 < self.junction[1] and z1 > self.junction[0]

    # ---------------------------------------------------------------------------------- sky
    def sky(self) -> None:
        canvas, dice = self.canvas, self.dice
        part = np.clip(canvas.y * 256 // self.hz, 0, 256)
        packed = np.zeros(canvas.h, np.uint32)
        for top, low in zip(self.top, self.low, strict=True):
            blend = (top * (256 - part) + low * part) >> 8
            packed = packed << np.uint32(8) | blend.astype(np.uint32)
        canvas.pixels[:] = packed[:, None]
        if self.night:
            for _ in range(40):
                x, y = dice.between(0, canvas.width), dice.between(0, self.hz)
                canvas.rect(x, y, x + 46, y + 46, pack(SKY, (210, 214, 236)))
        if self.night or (self.sunny and dice.chance(45)):
            x = canvas.width * (50 + self.sun * dice.between(5, 40)) // 100
            y, r = dice.between(500, self.hz * 6 // 10), dice.between(240, 400)
            for grow, mix in ((26, 40), (18, 90), (10, 256)):
                glow = (238, 236, 214) if self.night else (255, 246, 204)
                around = [(a * (256 - mix) + b * mix) >> 8 for a, b in
                          zip(self.sky_at(y), glow, strict=True)]
                canvas.ellipse(x, y, r * grow // 10, r * grow // 10, pack(SKY, around))
        for _ in range(dice.between(0, 6)):
            self._cloud(dice.between(0, canvas.width), dice.between(200, self.hz * 8 // 10))

    def _cloud(self, x: int, y: int) -> None:
        dice, canvas = self.dice, self.canvas
        r = dice.between(180, 420)
        under = [(2 * c + s) // 3 for c, s in zip(self.clouds, self.sky_at(y), strict=True)]
        puffs = [(dice.between(-3 * r, 3 * r), dice.between(0, r // 3)) for _ in range(7)]
        for lift, color in ((0, under), (r // 6, self.clouds)):
            for px, py in puffs:
                size = r - abs(px) // 6
                canvas.ellipse(x + px, y + py - lift, size * 3 // 2, size * 2 // 3 - lift // 2,
                               pack(SKY, color))

    def skyline(self) -> None:
        """What closes the street: hills, far houses, a line of trees."""
        dice, canvas = self.dice, self.canvas
        z, x = 9000, dice.between(-400, 0)
        if dice.chance(60):
            green = self.ink(VEGETATION, dice.pick(((96, 128, 84), (110, 138, 96))), 9000)
            for _ in range(dice.between(2, 4)):
                canvas.ellipse(dice.between(0, canvas.width), self.hz + 200,
                               dice.between(1500, 4000), dice.between(450, 800), green)
        while x < canvas.width:
            w, h = dice.between(280, 760), dice.between(240, 1250)
            if dice.chance(85):
                wall = self.ink(BUILDING, dice.pick(_WALLS), z, dice.between(200, 250))
                pane = self.ink(BUILDING, (250, 220, 140) if self.night else (86, 96, 112), z)
                box = canvas.box(x, self.hz - h, x + w, self.hz + 200)
                u, v = canvas.x[box[1]] - x, (canvas.y[box[0]] - self.hz + h)[:, None]
                canvas.surface(box, True, partial(_windows, u, v, w, wall, pane))
            x += w
        for _ in range(dice.between(4, 12)):
            things.crown(self, dice.between(0, canvas.width), self.hz, dice.between(160, 330),
                          8000, dice.pick(LEAVES))

    # ------------------------------------------------------------------------------- ground
    def ground(self) -> None:
        """Road, markings, kerbs, pavement and lawn: every pixel below the horizon traced back."""
        canvas = self.canvas
        top = canvas.row(self.hz + 40)
        d = (canvas.y[top:] - self.hz)[:, None]
        z = self.focal * self.cam // d
        x = (canvas.x - self.vx) * self.cam // d
        kind = self._paving(x, z)
        self._markings(kind, x, z)
        if self.junction:
            a, b = self.junction
            beside = np.abs(x) >= self.road - 24
            kind[(z >= a) & (z < b) & beside] = _ASPHALT
            kind[(z >= a - 16) & (z < a) & (np.abs(x) >= self.road)] = _KERB
        band = np.searchsorted(np.array(_BANDS[1:]), z)
        inks = self._ground_inks()
        pixels = inks.ravel()[band * inks.shape[1] + kind]
        if self.sunny and self.dice.chance(60):  # houses cast their shade over one side
            dark = x * self.sun > self.dice.between(-60, self.walk)
            pixels = np.where(dark, shaded(pixels), pixels)
        canvas.fill((slice(top, None), slice(None)), pixels)

    def _paving(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """What lies at each ground point, by its distance from the middle of the road."""
        side = np.abs(x)
        tuft = mixed(x // 60 * 37 + z // 90 * 101, 9, 3) == 0
        kind = np.where(tuft, _TUFT, _LAWN)
        slabs = (z // 120 + x // 110 & 1).astype(np.uint8) + _SLAB
        joint = ((z % 120 < 7) | ((side - self.road) % 110 < 6)) & (z < 3000)
        np.copyto(slabs, _JOINT, where=joint)
        np.copyto(kind, slabs, where=side < self.walk)
        np.copyto(kind, _KERB, where=side < self.road + self.kerb)
        np.copyto(kind, _EDGE, where=side < self.road + 4)
        np.copyto(kind, _GUTTER, where=side < self.road)
        near = z < 1600  # of the farther asphalt no grain is seen
        rough = near & (mixed(x // 9 * 71 + z // 14 * 131, 11, 7) == 0)
        asphalt = np.where(rough, _ROUGH, _ASPHALT)
        np.copyto(kind, asphalt, where=side < self.road - 24)
        return kind

    def _markings(self, kind: np.ndarray, x: np.ndarray, z: np.ndarray) -> None:
        def mark(*where: np.ndarray) -> None:
            np.copyto(kind, _PAINT, where=reduce(np.logical_and, where))

        side, far = np.abs(x), z < 5000
        if self.dashes:
            mark(side < 9, (z % 620 < 340) & far)
        else:
            mark(side >= 7, side < 18, far)
        if self.parking:
            mark(np.abs(side - self.road + 210) < 6, far)
        if self.crossing:
            a, road = self.crossing, side < self.road
            mark(road, (z >= a) & (z < a + 340), (x + 5000) % 100 < 52)
            mark(road, (z >= a - 130) & (z < a - 90), x > 20)

    def _ground_inks(self) -> np.ndarray:
        """uint32 (bands of distance, kinds of ground): the haze grows in five steps."""
        dice = self.dice
        grey, warm = dice.between(74, 112), dice.between(-6, 8)
        asphalt = (grey + warm, grey, grey + 6 - warm)
        slab, lawn = dice.pick(_SLABS), dice.pick(_LAWNS)
        looks = (
            (ROAD, asphalt, 256), (ROAD, asphalt, 236), (ROAD, (232, 230, 220), 256),
            (ROAD, asphalt, 206), (SIDEWALK, (206, 204, 198), 256), (SIDEWALK, slab, 244),
            (SIDEWALK, slab, 256), (SIDEWALK, slab, 206), (TERRAIN, lawn, 256),
            (TERRAIN, lawn, 232), (SIDEWALK, (110, 108, 104), 256),
        )  # in the order of _ASPHALT ... _EDGE
        return np.array([[self.ink(c, rgb, far, s) for c, rgb, s in looks] for far in _BANDS],
                        np.uint32)

    # ---------------------------------------------------------------------------- buildings
    def facade(self, box: tuple[slice, slice], u: np.ndarray, v: np.ndarray, style: House,
               z: int, shade: int) -> None:
        """Cover `box` with the wall at u cm along (1,w) and v cm up, (h,w) or (h,1)."""
        def inks(*colors: Color) -> list[int]:
            return [self.ink(BUILDING, color, z, shade) for color in colors]

        def look(sight: np.ndarray) -> np.ndarray:
            table = inks(style.wall, style.course, style.trim, (72, 86, 108), (126, 150, 176))
            table += [pack(BUILDING, style.glow)] if self.night else inks((168, 184, 196))
            table += inks(style.accent, style.awning)
            across, up = (np.broadcast_to(part, sight.shape)[sight] for part in (u, v))
            return np.array(table, np.uint32)[style.kinds(across, up, z)]

        self.canvas.surface(box, (v >= 0) & (v < style.height), look)

    def house(self, x: int, z0: int, z1: int, style: House) -> None:
        """A building whose street side stands at X = x (either sign) from z0 to z1."""
        canvas, side = self.canvas, 1 if x > 0 else -1
        eaves, ridge, back = style.height, style.height + style.rise, x + side * style.depth
        bright, dark = (256, 188) if self.sunny else (236, 216)
        street, front = (bright, dark) if self.sun != side else (dark, bright)
        if style.rise:
            middle, rim = x + side * style.depth // 2, x - side * 35
            self.quad(BUILDING, style.roof, [(rim, eaves - 20, z0), (rim, eaves - 20, z1),
                                             (middle, ridge, z1), (middle, ridge, z0)], street)
            self.quad(BUILDING, style.wall, [(x, eaves, z0), (middle, ridge, z0),
                                             (back, eaves, z0)], front)
        if style.chimney:
            c = x + side * style.depth // 3
            top = ridge + 70
            low = eaves + style.rise // 2 if style.rise else eaves
            zc = (z0 * 2 + z1) // 3
            self.quad(BUILDING, (150, 84, 70), [(c - 40, low, zc), (c - 40, top, zc),
                                                (c + 40, top, zc), (c + 40, low, zc)], front)
        # the end wall, seen square on
        d0, top = self.depth(z0), self.at(x, eaves, z0)[1]
        edges = sorted((self.at(x, 0, z0)[0], self.at(back, 0, z0)[0]))
        box = canvas.box(edges[0], top, edges[1], self.hz + d0)
        u = np.abs((canvas.x[box[1]] - self.vx) * self.cam // d0 - x)[None]
        v = ((self.hz + d0 - canvas.y[box[0]]) * self.cam // d0)[:, None]
        if u.size and v.size:
            self.facade(box, u, v, style, z0, front)
        # the street side, running to the vanishing point
        edges = sorted((self.at(x, 0, z0)[0], self.at(x, 0, z1)[0]))
        box = canvas.box(edges[0], min(top, self.hz), edges[1], self.hz + d0)
        d = np.maximum(1, np.abs(canvas.x[box[1]] - self.vx) * self.cam // abs(x))
        if d.size and canvas.y[box[0]].size:
            u = (self.focal * self.cam // d)[None]
            v = (self.hz + d - canvas.y[box[0]][:, None]) * self.cam // d
            self.facade(box, u - z0, v, style, (z0 + z1) // 2, street)

    def buildings(self) -> None:
        """Rows of houses on both sides, with gaps for lawns and the cross street."""
        for side, kind in self.sides.items():
            if kind == "park":
                continue
            z = self.dice.between(150, 500)
            setback = 0 if kind == "town" else self.dice.between(350, 700)
            while z < 7500:
                length = self.dice.between(600, 1500)
                style = House(self.dice, kind, self.night)
                if self.junction and self.near_junction(z - 60, z + length + 60):
                    gap = self.junction[0] - 80 - z
                    if gap > 500:
                        length = gap
                    else:
                        z = self.junction[1] + 160
                        continue
                x = side * (self.walk + setback)
                self.add(z + length, partial(self.house, x, z, z + length, style))
                gap = 0 if kind == "town" and self.dice.chance(70) else self.dice.between(200, 700)
                if gap > 300:
                    self.tree_at(x + side * 200, z + length + gap // 2)
                z += length + gap

    # -------------------------------------------------------------------------------- green
    def tree_at(self, x: int, z: int) -> None:
        dice = self.dice
        conifer = dice.chance(18)
        leaf = (58, 98, 70) if conifer else dice.pick(LEAVES)
        tall = dice.between(380, 720)
        self.add(z, lambda: things.tree(self, x, z, tall, leaf, conifer))

    def bush_at(self, x: int, z: int) -> None:
        leaf, r = self.dice.pick(LEAVES), self.dice.between(45, 90)

        def paint() -> None:
            self.shadow(x, z, r)
            px, py = self.at(x, r // 2, z)
            things.crown(self, px, py, r * self.depth(z) // self.cam, z, leaf)

        self.add(z, paint)

    def greenery(self) -> None:
        dice = self.dice
        for side, kind in self.sides.items():
            edge = self.walk + (60 if kind != "town" else -50)
            step = dice.between(700, 1500)
            for z in range(dice.between(600, 1200), 2700, step):
                if not self.near_junction(z - 100, z + 100) and dice.chance(
                        70 if kind != "town" else 55):
                    self.tree_at(side * edge, z)
            if kind != "town":
                for _ in range(dice.between(0, 2)):
                    z = dice.between(600, 2200)
                    if not self.near_junction(z - 100, z + 100):
                        self.bush_at(side * (edge + dice.between(0, 120)), z)
            if kind == "park":
                for _ in range(dice.between(3, 7)):
                    self.tree_at(side * (edge + dice.between(200, 1500)), dice.between(900, 3000))
            if kind != "town" and dice.chance(60):
                self.fence_along(side * self.walk, dice.between(130, 180))

    # --------------------------------------------------------------------- fences and posts
    def fence_along(self, x: int, tall: int) -> None:
        color = self.dice.pick(((214, 206, 194), (150, 108, 74), (122, 86, 60), (88, 104, 92)))
        rails = self.dice.chance(50)
        for z in range(self.dice.between(250, 500), 2600, 200):
            if not self.near_junction(z, z + 200):
                a = (x, z, z + 200, tall, color, rails)
                self.add(z + 200, partial(things.fence, self, *a))

    def furniture(self) -> None:
        """Lamps, posts and signs along the kerbs."""
        dice = self.dice
        steel = dice.pick(((92, 98, 104), (70, 84, 80), (140, 140, 138), (112, 104, 96)))
        edge, tall = self.road + self.kerb + 30, dice.between(430, 620)
        for side in (-1, 1):
            for z in range(dice.between(600, 1200), 1700, dice.between(800, 1200)):
                if not self.near_junction(z - 60, z + 60) and dice.chance(75):
                    self.add(z, partial(things.lamp, self, side * edge, z, tall, steel))
        side, kind = dice.pick((-1, 1)), dice.between(0, 5)
        for step in range(dice.between(1, 3)):
            z = 560 + 400 * step + dice.between(0, 200)
            a = (side * (edge + dice.between(0, 40)), z, (kind + 5 * step) % 6,
                 dice.between(84, 108))
            self.add(z, partial(things.sign, self, *a))
            side = -side if dice.chance(70) else side

    def traffic(self) -> None:
        dice = self.dice
        lane = self.road // 2
        for x, oncoming in ((lane, False), (-lane, True)):
            z = dice.between(600, 1500)
            for _ in range(dice.between(0, 2)):
                if not self.near_junction(z, z + 450):
                    a = (x + dice.between(-30, 30), z, dice.pick(CARS), oncoming, dice.chance(18))
                    self.add(z, partial(things.car, self, *a))
                z += dice.between(700, 2200)
        for side in (-1, 1):
            if self.parking or dice.chance(30):
                for z in range(dice.between(480, 1000), 2100, dice.between(560, 950)):
                    close = self.crossing and self.crossing - 480 < z < self.crossing + 380
                    if dice.chance(60) and not close and not self.near_junction(z - 60, z + 480):
                        a = (side * (self.road - 105), z, dice.pick(CARS), side < 0,
                             dice.chance(18))
                        self.add(z, partial(things.car, self, *a))
        if self.junction:
            for flip in (-1, 1):
                z = self.junction[0] + (200 if flip > 0 else 430)
                x = dice.between(-900, 900)
                if dice.chance(65):
                    car = (x, z, dice.pick(CARS), flip)
                    self.add(z, partial(things.crossing_car, self, *car))

    def people(self) -> None:
        dice = self.dice
        for _ in range(dice.between(4, 8)):
            side = dice.pick((-1, 1))
            x = side * dice.between(self.road + self.kerb + 60, self.walk - 40)
            z = dice.between(390, 680) if dice.chance(94) else dice.between(700, 1100)
            if self.near_junction(z - 30, z + 30):
                continue
            a = (x, z, dice.between(155, 190) if dice.chance(92) else dice.between(110, 135),
                 Look(dice))
            self.add(z, partial(things.person, self, *a))
        if self.crossing:
            for _ in range(dice.between(0, 3)):
                z = self.crossing + dice.between(40, 300)
                a = (dice.between(-self.road + 60, self.road - 60), z, dice.between(150, 190),
                     Look(dice))
                self.add(z, partial(things.person, self, *a))

    # -------------------------------------------------------------------------------- render
    def render(self) -> tuple[np.ndarray, np.ndarray]:
        """Paint everything and expose it through the sensor."""
        self.sky()
        self.skyline()
        self.ground()
        for place in (self.buildings, self.greenery, self.furniture, self.traffic, self.people):
            place()
        for _, paint in sorted(self.items, key=lambda item: -item[0]):
            paint()
        image, label = self.canvas.finish()
        return self._expose(image), label

    def _expose(self, image: np.ndarray) -> np.ndarray:
        """Noise of a sensor: four random bytes summed per channel, nearly Gaussian."""
        strength = self.dice.between(1, 4) + (1 if self.night else 0)
        dots = self.dice.array((*image.shape[:2], 2))
        # Five bytes of each word, 10 bits apart: the sums of four neighbours lie there too, since
        # 4 * 255 < 1024. Red takes the first of word 0, green the second, blue the first of word 1.
        dots &= np.uint64(0xFF | 0xFF << 10 | 0xFF << 20 | 0xFF << 30 | 0xFF << 40)
        dots += dots >> np.uint64(10)
        dots += dots >> np.uint64(20)
        noise = np.empty(image.shape, np.int32)
        noise[..., ::2] = dots & np.uint64(1023)
        noise[..., 1] = dots[..., 0] >> np.uint64(10) & np.uint64(1023)
        noise -= 510
        noise *= strength
        noise >>= 8
        noise += image
        return np.clip(noise, 0, 255).astype(np.uint8)



def _windows(u: np.ndarray, v: np.ndarray, w: int, wall: int, pane: int,
             sight: np.ndarray) -> np.ndarray:
    """The inks of a far house w units wide, u right of its left edge and v below its roof."""
    glazed = (u % 150 > 76) & (u < w - 50) & (v % 160 > 76)
    dim = mixed(u // 150 * 7919 ^ v // 160 * 104729, 9, 7) == 0
    return np.where((glazed & ~dim)[sight], np.uint32(pane), np.uint32(wall))
