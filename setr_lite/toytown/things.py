"""What stands and moves in a ToyTown street: trees, fences, poles, signs, cars, people.

Each function paints one thing on a `View` at the ground point (x, z), in cm; its parts are
convex figures between world points or discs. Units and conventions are those of `canvas`.
"""

from __future__ import annotations

import numpy as np

from .canvas import (
    CAR,
    FENCE,
    PERSON,
    POLE,
    SHADOW,
    SIGN,
    VEGETATION,
    Color,
    Dice,
    Point,
    View,
    pack,
)

LEAVES = ((82, 132, 62), (70, 118, 58), (104, 146, 70), (122, 148, 62), (86, 126, 84),
           (196, 134, 52), (184, 92, 56), (222, 164, 178))
CARS = ((196, 40, 44), (36, 72, 148), (232, 232, 232), (44, 46, 52), (150, 156, 164),
         (232, 178, 44), (42, 120, 104), (110, 40, 60), (86, 150, 200), (214, 110, 48))
_COATS = ((192, 48, 52), (44, 82, 156), (232, 184, 60), (60, 62, 72), (120, 60, 110),
          (226, 226, 218), (52, 120, 92), (222, 122, 62), (228, 132, 160), (72, 150, 172))
_LEGS = ((46, 54, 84), (40, 40, 46), (110, 92, 72), (84, 88, 96), (70, 84, 120))
_SKINS = ((240, 204, 172), (222, 176, 140), (176, 124, 88), (120, 80, 58), (84, 56, 44))
_HAIRS = ((40, 30, 26), (92, 60, 36), (188, 148, 84), (64, 62, 66), (160, 82, 44), (206, 204, 200))


class Look:
    """How one person looks, and where the step is."""

    def __init__(self, dice: Dice) -> None:
        self.coat, self.legs = dice.pick(_COATS), dice.pick(_LEGS)
        self.accent = dice.pick(_COATS)
        self.skin, self.hair = dice.pick(_SKINS), dice.pick(_HAIRS)
        self.flip, self.stride = dice.pick((-1, 1)), dice.between(3, 18)
        self.skirt, self.bag, self.hat = dice.chance(28), dice.chance(35), dice.chance(22)


# ------------------------------------------------------------------------------------- trees
def crown(view: View, x: int, y: int, r: int, z: int, leaf: Color) -> None:
    """A cloud of leaves of about r units round the point (x, y) of the picture, lit from above."""
    if x + 2 * r < 0 or x - 2 * r > view.canvas.width:
        return
    dice, far = view.dice, r < 400  # too far off to see leaves
    blobs = [(dice.between(-r * 6 // 10, r * 6 // 10), dice.between(-r // 2, r * 4 // 10),
              dice.between(r // 2, r * 7 // 10)) for _ in range(3 if far else 5)]
    for step, shade in enumerate((176, 216, 256)):
        if far and step == 1:
            continue
        ink = view.ink(VEGETATION, leaf, z, shade)
        if not far:
            dim, bright = (view.ink(VEGETATION, leaf, z, shade + k) for k in (-12, 14))
        for bx, by, br in blobs:
            cx, cy = x + bx + r * view.sun * step // 8, y + by - r * step // 6
            size = br * (10 - 3 * step) // 10
            if far:
                view.canvas.ellipse(cx, cy, size, size, ink)
            else:
                view.canvas.leaves(cx, cy, size, (dim, ink, ink, bright), max(40, r // 7), bx)


def tree(view: View, x: int, z: int, tall: int, leaf: Color, conifer: bool) -> None:
    """A tree `tall` cm high; the trunk counts as vegetation, as in Cityscapes."""
    cx, foot = view.at(x, 0, z)
    top, r = view.at(x, tall, z)[1], view.scale(tall * 36 // 100, z)
    trunk = max(30, view.scale(12, z))
    view.shadow(x, z, tall * 26 // 100)
    view.canvas.polygon([(cx - trunk, foot), (cx - trunk * 2 // 3, top + r),
                         (cx + trunk * 2 // 3, top + r), (cx + trunk, foot)],
                        view.ink(VEGETATION, (104, 80, 60), z))
    if not conifer:
        crown(view, cx, top + r, r, z, leaf)
        return
    for k in range(4):  # tiers, from below
        low = foot - (foot - top) * (14 + 20 * k) // 100
        high = top + (foot - top) * (45 - 15 * k) // 100
        half = r * (10 - 2 * k) // 12
        for part, shade in ((half, 196), (half * 6 // 10, 240)):
            lean = cx + (half - part) * view.sun
            view.canvas.polygon([(lean - part, low), (cx, high), (lean + part, low)],
                                view.ink(VEGETATION, leaf, z, shade))


# -------------------------------------------------------------------------- fences and posts
def fence(view: View, x: int, z0: int, z1: int, tall: int, color: Color, rails: bool) -> None:
    """A panel of planks or rails from z0 to z1; the gaps count too, as in Cityscapes."""
    canvas = view.canvas
    left, right = sorted((view.at(x, 0, z0)[0], view.at(x, 0, z1)[0]))
    top = min(view.at(x, tall, z0)[1], view.at(x, tall, z1)[1])
    box = canvas.box(left, top, right, view.hz + view.depth(z0))
    d = np.maximum(1, np.abs(canvas.x[box[1]] - view.vx) * view.cam // abs(x))
    u = (view.focal * view.cam // d)[None]
    v = (view.hz + d - canvas.y[box[0]][:, None]) * view.cam // d
    plank = u % 25
    tops = tall if rails else tall - np.abs(plank - 16)

    def look(sight: np.ndarray) -> np.ndarray:
        if rails:
            gap = ((v // 28) & 1 == 1) & (u % 200 > 16)
        else:
            bars = ((v > 22) & (v < 34)) | ((v > tall - 40) & (v < tall - 28))
            gap = (v < 12) | ((plank < 7) & ~bars)
        solid, dark = (np.uint32(view.ink(FENCE, color, z0, shade)) for shade in (256, 120))
        return np.where(gap[sight], dark, solid)

    canvas.surface(box, (v >= 0) & (v < tops), look)


def post(view: View, x: int, z: int, tall: int, color: Color, least: int = 430) -> Point:
    """A pole, at least `least` units wide (240 are 3 px at 96 rows); returns its top."""
    px, foot = view.at(x, 0, z)
    top, half = view.at(x, tall, z)[1], max(least, view.scale(28, z)) // 2
    view.shadow(x, z, 26)
    view.canvas.rect(px - half, top, px + half, foot, view.ink(POLE, color, z))
    edge = px - view.sun * half * 3 // 4  # its far side is in shade
    view.canvas.rect(edge - half // 4, top, edge + half // 4, foot, view.ink(POLE, color, z, 190))
    return px, top


def lamp(view: View, x: int, z: int, tall: int, color: Color) -> None:
    """A street lamp that reaches over the road; it counts as pole."""
    px, top = post(view, x, z, tall, color, 450)
    half, tip = max(150, view.scale(12, z)), view.at(x - 110 if x > 0 else x + 110, 0, z)[0]
    view.canvas.rect(min(px - half, tip), top - half, max(px + half, tip), top + half,
                     view.ink(POLE, color, z))
    glow = pack(POLE, (255, 232, 160)) if view.night else view.ink(POLE, (226, 226, 214), z)
    head = max(240, view.scale(40, z))
    view.canvas.ellipse(tip, top + half, head, head * 6 // 10, glow)


def sign(view: View, x: int, z: int, kind: int, board: int) -> None:
    """A traffic sign `board` cm across on its post; `kind` 0..5 is an index into `_SIGNS`."""
    px, top = post(view, x, z, 215 + board // 2, (142, 146, 150))
    r = max(480, view.scale(board, z) // 2)  # 12 px across at 96 rows, or more

    def ink(color: Color) -> int:
        return view.ink(SIGN, color, z // 3)  # signs reflect: they pale less in haze

    for color, shape in _SIGNS[kind]:
        points = [(px + right * r // 20, top + down * r // 20) for right, down in shape]
        if len(points) > 1:
            view.canvas.polygon(points, ink(color))
        else:  # a disc; the one number is its radius
            size = shape[0][0] * r // 20
            view.canvas.ellipse(px, top, size, size, ink(color))


def _bar(left: int, top: int, right: int, bottom: int) -> tuple[Point, ...]:
    return (left, top), (right, top), (right, bottom), (left, bottom)


_WHITE, _RED, _BLUE, _BLACK = (244, 242, 236), (206, 34, 40), (32, 88, 178), (40, 40, 44)
_LINES = ((_WHITE, _bar(-20, -13, 12, -7)), (_WHITE, _bar(-20, 7, 12, 13)))
# Colours and outlines in twentieths of the radius; a single point gives a disc's radius.
_SIGNS: tuple[tuple[tuple[Color, tuple[Point, ...]], ...], ...] = (
    ((_RED, ((20, 0),)), (_WHITE, ((14, 0),)), (_BLACK, _bar(-7, -3, 7, 3))),  # no entry
    ((_WHITE, ((20, 0),)), (_BLUE, ((18, 0),)), (_WHITE, _bar(-3, -7, 3, 10)),
     (_WHITE, ((-10, -2), (0, -12), (10, -2)))),  # straight on
    ((_RED, ((-22, 16), (0, -22), (22, 16))), (_WHITE, ((-12, 10), (0, -10), (12, 10)))),  # danger
    ((_RED, ((-20, -8), (-8, -20), (8, -20), (20, -8), (20, 8), (8, 20), (-8, 20), (-20, 8))),
     (_WHITE, _bar(-12, -4, 12, 4))),  # stop
    ((_WHITE, _bar(-30, -20, 30, 20)), ((24, 110, 72), _bar(-28, -18, 28, 18)), *_LINES),
    ((_WHITE, _bar(-30, -20, 30, 20)), ((236, 184, 32), _bar(-28, -18, 28, 18)), *_LINES),
)


# -------------------------------------------------------------------------------------- cars
def car(view: View, x: int, z: int, color: Color, oncoming: bool, van: bool) -> None:
    """A car along the street, its near end at z: the tail, or the front of an oncoming one."""
    end, waist, roof = z + (460 if van else 410), 110 if van else 86, 205 if van else 146
    nose = 30 if van else 105  # length of the bonnet; the tail is steep
    near, far = (z + nose, end) if oncoming else (z, end - nose - 60)
    a = near + (60 if oncoming else 12)  # from here to `far` the roof is level
    for _ in range(2):
        view.canvas.polygon([view.at(x + s, 0, w) for s, w in (
            (-98, z - 20), (98, z - 20), (98, end), (-98, end))], SHADOW)
    _flank(view, x, color, (z, near, a, far, end), waist, roof)
    if oncoming:
        view.slab(CAR, color, x, (86, waist, z), (86, waist, near), 272)
    view.slab(CAR, color, x, (74, roof, a), (74, roof, far), 270)
    for s in (-66, 66):
        view.slab(CAR, _TYRE, x + s, (14, 40, z), (14, 0, z))
    view.slab(CAR, color, x, (86, 20, z), (86, waist, z), 244)
    view.slab(CAR, color, x, (86, waist, near), (74, roof, a), 236)
    view.slab(CAR, _glass(view), x, (70, waist + 5, near), (64, roof - 9, a), 232)
    view.slab(CAR, (52, 52, 58), x, (86, 22, z), (86, 38, z))
    view.slab(CAR, (238, 236, 226), x, (24, 44, z), (24, 56, z))
    light = (255, 244, 200) if oncoming else (224, 36, 40)
    for s in (-66, 66):
        view.disc(CAR, light, (x + s, 66, z), 15, 10, lit=view.night or oncoming)


_TYRE, _HUB = (32, 32, 36), (168, 168, 172)


def _glass(view: View) -> Color:
    return (90, 100, 120) if view.night else (146, 172, 192)


def _flank(view: View, x: int, color: Color, stations: tuple[int, ...], waist: int,
           roof: int) -> None:
    """The side of a car that faces the middle of the street, with windows and wheels."""
    z, near, a, far, end = stations
    body, top = (x - 86, x - 74) if x > 0 else (x + 86, x + 74)
    shade = 216 if (x > 0) == (view.sun < 0) else 180
    view.quad(CAR, color, [(body, 20, z), (body, waist, z), (body, waist - 6, end),
                           (body, 20, end)], shade)
    back = far + (12 if far == end else 60)
    view.quad(CAR, color, [(body, waist, near), (top, roof, a), (top, roof, far),
                           (body, waist, back)], shade)
    view.quad(CAR, _glass(view), [(body, waist + 6, near + 40), (top, roof - 11, a + 30),
                                  (top, roof - 11, far - 35), (body, waist + 6, far - 10)], 200)
    for w in (z + 80, end - 80):
        across = abs(view.at(body, 0, w - 31)[0] - view.at(body, 0, w + 31)[0]) // 2
        wide = max(4, across * view.cam // view.depth(w))  # foreshortened
        view.disc(CAR, _TYRE, (body, 30, w), wide, 31)
        view.disc(CAR, _HUB, (body, 30, w), wide // 2, 15)


def crossing_car(view: View, x: int, z: int, color: Color, flip: int) -> None:
    """A car in the cross street, seen from the side, its front to the right or (flip -1) left."""
    def part(paint: Color, *outline: Point) -> None:
        view.quad(CAR, paint, [(x + flip * along, up, z) for along, up in outline])

    view.canvas.polygon([view.at(x + s, 0, w) for s, w in (
        (-220, z + 30), (220, z + 30), (220, z - 40), (-220, z - 40))], SHADOW)
    part(color, (-205, 26), (-210, 70), (-195, 84), (110, 90), (200, 76), (208, 50), (205, 26))
    part(color, (-165, 84), (-120, 144), (20, 146), (100, 88))
    part(_glass(view), (-146, 90), (-112, 136), (-46, 137), (-46, 90))
    part(_glass(view), (-36, 90), (-36, 137), (14, 138), (76, 90))
    part((54, 54, 60), (-205, 24), (-206, 36), (206, 36), (205, 24))
    for along in (-125, 125):
        view.disc(CAR, _TYRE, (x + along, 33, z), 34)
        view.disc(CAR, _HUB, (x + along, 33, z), 17)
    view.disc(CAR, (255, 240, 190), (x + flip * 196, 66, z), 12, lit=True)
    view.disc(CAR, (220, 40, 40), (x - flip * 200, 66, z), 12, lit=True)


# ------------------------------------------------------------------------------------ people
def person(view: View, x: int, z: int, tall: int, look: Look) -> None:
    """Someone `tall` cm high who walks: legs in step, coat or skirt, arms, head and hair."""
    def part(paint: Color, shade: int, *outline: Point) -> None:  # of a stout body 180 cm tall
        view.quad(PERSON, paint, [(x + look.flip * right * tall // 140, up * tall // 180, z)
                                  for right, up in outline], shade)

    def disc(paint: Color, right: int, up: int, rx: int, ry: int) -> None:
        at = (x + look.flip * right * tall // 140, up * tall // 180, z)
        view.disc(PERSON, paint, at, rx * tall // 140, ry * tall // 140)

    view.shadow(x, z, 40)
    s, arm, shoe = look.stride, look.stride * 2 // 3, (40, 34, 32)
    part(look.legs, 214, (-16, 88), (4, 88), (10 - s, 4), (-9 - s, 4))
    part(look.legs, 256, (-4, 88), (16, 88), (s + 11, 4), (s - 9, 4))
    part(shoe, 256, (-8 - s, 0), (-8 - s, 9), (13 - s, 9), (13 - s, 0))
    part(shoe, 256, (s - 6, 0), (s - 6, 9), (s + 15, 9), (s + 15, 0))
    part(look.coat, 190, (-20, 144), (-10, 148), (arm - 6, 82), (arm - 16, 84))
    hem, wide = (46, 30) if look.skirt else (80, 18)
    part(look.coat, 256, (-wide, hem), (-17, 100), (-21, 146), (-8, 152), (8, 152), (21, 146),
         (17, 100), (wide, hem))
    part(look.coat, 220, (12, 148), (21, 144), (16 - arm, 84), (6 - arm, 82))
    if look.bag:
        part(look.accent, 256, (14, 84), (14, 112), (34, 112), (34, 84))
    disc(look.hair, 0, 167, 14, 16)
    disc(look.skin, 3, 161, 10, 12)
    if look.hat:
        disc(look.accent, 0, 174, 19, 8)
