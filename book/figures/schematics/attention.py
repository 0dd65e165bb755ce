"""Query, key and value, step by step, with the numbers of the example in chapter 04."""

from __future__ import annotations

import torch
from torch import Tensor

from ..svg import Box, Drawing

TOKENS = ("road ↑", "road ↓", "car")
X = torch.tensor([[1.0, 0.0, -1.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
W_QUERY = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 3.0], [0.0, 0.0, 0.0]])

STEPS = ("project", "score", "softmax", "weighted sum")
CODE = (
    "q, k, v = x @ w_query, x, x",
    "scores = q @ k.T",
    "weights = scores.softmax(dim=1)",
    "out = weights @ v",
)
PLACES = {
    "wide": {"x": (52, 34), "w": (160, 34), "q": (316, 34), "k": (470, 34), "v": (620, 34),
             "s": (52, 152), "p": (244, 152), "o": (430, 152), "formula": (578, 188),
             "code": (16, 272), "sum": (310, 272), "size": (720, 344)},
    "narrow": {"x": (48, 34), "w": (148, 34), "q": (276, 34), "k": (48, 146), "v": (204, 146),
               "s": (48, 258), "p": (226, 258), "o": (48, 378), "formula": (202, 414),
               "code": (8, 482), "sum": (20, 499), "size": (360, 694)},
}  # fmt: skip
"""(left, top) of each table and block of text."""


def tables() -> dict[str, Tensor]:
    """Everything that the four lines of code compute."""
    q, k, v = X @ W_QUERY, X, X
    scores = q @ k.T
    weights = scores.softmax(dim=1)
    return {"x": X, "w": W_QUERY, "q": q, "k": k, "v": v, "s": scores, "p": weights,
            "o": weights @ v}  # fmt: skip


TITLES = {"x": "X, tokens", "w": "W query", "q": "Q = X W", "k": "K = X", "v": "V = X",
          "s": "scores Q Kᵀ", "p": "softmax of rows", "o": "out"}  # fmt: skip
STEP_OF = {"x": "1", "w": "1", "q": "1 2", "k": "1 2", "v": "1 4", "s": "2 3", "p": "3 4",
           "o": "4"}  # fmt: skip


def lights(name: str, i: int, j: int) -> str:
    """What a cell is made of: the names that light up with it, its line of code among them."""
    return {
        "x": f"x{i}", "w": f"w{i}{j} c0", "q": f"q{i} x{i} w0{j} w1{j} w2{j} c0",
        "k": f"k{i} x{i} c0", "v": f"v{i} x{i} c0", "s": f"s{i}{j} q{i} k{j} c1",
        "p": f"p{i}{j} s{i}0 s{i}1 s{i}2 c2",
        "o": f"o{i}{j} p{i}0 p{i}1 p{i}2 v0 v1 v2 c3",
    }[name]  # fmt: skip


def draw(shape: str) -> Drawing:
    places = PLACES[shape]
    made = tables()
    picture = Drawing(f"attention-{shape}", places["size"], "Attention in four steps", (
        "Three tokens, road above a car, road below it and the car, become queries, keys and "
        "values. Query times key gives a three by three table of scores. Softmax turns each row "
        f"into weights: the car gives the road above {made['p'][2, 0]:.3f}, the road below "
        f"{made['p'][2, 1]:.3f} and itself {made['p'][2, 2]:.3f}. The output is the values, "
        "weighted with these."), role="group")
    picture.root.set("data-steps", "|".join(STEPS))
    for name, values in made.items():
        _table(picture, name, values, places[name], 46 if shape == "wide" else 44)
    _formula(picture, *places["formula"])
    _lines(picture, places, made, 20 if shape == "wide" else 56)
    return picture


def _lines(picture: Drawing, places: dict, made: dict[str, Tensor], pitch: float) -> None:
    """Each line of code, and the arithmetic of the car's row that it stands for."""
    (x, y), (x2, y2) = places["code"], places["sum"]
    for i, (line, sums) in enumerate(zip(CODE, _sums(made), strict=True)):
        picture.text(x, y + pitch * i, line, "d-code", "start", data_of=f"c{i}",
                     data_lights=LINE[i], data_step=str(i + 1), tabindex=0, role="button")
        lines = sums if pitch > 40 else [" ".join(sums)]
        for j, words in enumerate(lines):
            picture.text(x2, y2 + pitch * i + 15 * j, words, "d-small", "start",
                         data_step=str(i + 1))


def _table(
    picture: Drawing, name: str, values: Tensor, place: tuple[float, float], room: int
) -> Box:
    """One matrix with its title, and with the tokens' names where its rows are tokens."""
    x, y = place
    wide = name in "spo"
    digits = 3 if name in "po" else 0
    with picture.inside(data_step=STEP_OF[name]):
        picture.text(x, y - 9, TITLES[name], "d-strong", "start")
        rows = [[f"{value:.{digits}f}" for value in row] for row in values.tolist()]
        box = picture.table(
            x, y, rows, (room if wide else 27, 24), _colour(name),
            lambda i, j: {"data_of": f"{name} {name}{i} {name}{i}{j}",
                          "data_lights": lights(name, i, j)})
        if name != "w":
            for i, token in enumerate(TOKENS):
                picture.text(x - 6, y + 24 * i + 16, token, "d-small", "end")
        if name in "sp":
            for j, token in enumerate(TOKENS):
                picture.text(x + room * (j + 0.5), box.bottom + 14, token, "d-small")
    return box


def _colour(name: str) -> str:
    return {"q": "d-blue", "k": "d-green", "v": "d-purple"}.get(name, "")


LINE = ("q k v c0", "s c1", "p c2", "o c3")
"""What each line of code makes."""


def _formula(picture: Drawing, x: float, y: float) -> None:
    """softmax(Q K) V, each symbol to be pointed at."""
    picture.text(x, y - 22, "out =", "d-strong", "start")
    parts = [("softmax", "p", 68), ("(", "", 8), ("Q", "q", 17), ("Kᵀ", "k", 21), (")", "", 12),
             ("V", "v", 14)]  # fmt: skip
    for words, name, width in parts:
        lights = f"{name} c{2 if name == 'p' else 0}"
        marks = {"data_of": name, "data_lights": lights, "tabindex": 0, "role": "button"}
        with picture.inside(**marks if name else {}):
            picture.text(x, y, words, "d-big", "start")
        x += width


def _sums(made: dict[str, Tensor]) -> list[list[str]]:
    """The arithmetic of the car's row, one entry a step, in one or two lines."""
    q, s, p, o = (made[name][2].tolist() for name in "qspo")
    powers = ", ".join(f"{value:.1f}" for value in made["s"][2].exp().tolist())
    rows = [f"({', '.join(f'{value:.0f}' for value in row)})" for row in X.tolist()]
    return [
        [f"The car's query: {rows[2]} W = ({', '.join(f'{value:.0f}' for value in q)})."],
        [f"Car and road ↑: {q[0]:.0f}·1 - {q[2]:.0f}·1 = {s[0]:.0f}.",
         f"Car and road ↓: {q[0]:.0f}·1 + {q[2]:.0f}·1 = {s[1]:.0f}."],
        [f"Powers of e: {powers}.", f"Over their sum: {', '.join(f'{v:.3f}' for v in p)}."],
        [f"{p[0]:.3f}·{rows[0]} + {p[1]:.3f}·{rows[1]}",
         f"+ {p[2]:.3f}·{rows[2]} = ({', '.join(f'{value:.3f}' for value in o)})"],
    ]
