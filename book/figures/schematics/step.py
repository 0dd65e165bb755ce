"""One training step, with the numbers of the recipe of the page that shows it."""

from __future__ import annotations

from itertools import pairwise

from setr_lite import SETR
from setr_lite.recipes import get_recipe

from ..sizes import size
from ..svg import Box, Drawing

RECIPE = "toytown_pup"
PLACES = {
    "wide": {"batch": (6, 20, 130, 56), "forward": (170, 20, 130, 56), "scores": (334, 20, 170, 56),
             "loss": (538, 20, 176, 56), "backward": (538, 124, 176, 56),
             "gradients": (334, 124, 170, 56), "optimizer": (170, 124, 130, 56),
             "rate": (6, 124, 130, 56)},
    "narrow": {"batch": (4, 20, 164, 52), "forward": (192, 20, 164, 52),
               "scores": (192, 102, 164, 52), "loss": (192, 184, 164, 52),
               "backward": (192, 266, 164, 52), "gradients": (4, 266, 164, 52),
               "optimizer": (4, 184, 164, 52), "rate": (4, 102, 164, 52)},
}  # fmt: skip


def draw(shape: str) -> Drawing:
    config = get_recipe(RECIPE)
    optim, batch, crop = config.optim, config.train.batch_size, config.data.crop_size
    aux = len(SETR.from_config(config.model).aux_heads)
    lines = {
        "batch": ("batch", f"~{batch} × 3 × {size(crop)}"),
        "forward": ("forward", "~encoder and heads"),
        "scores": ("scores and labels", f"~1 main head, {aux} auxiliary"),
        "loss": ("loss, one number", f"~main + {config.loss.aux_weight:g} × each auxiliary"),
        "backward": ("backward", "~the same way back"),
        "gradients": ("gradients", "~one per parameter"),
        "optimizer": ("AdamW", "~new weights"),
        "rate": ("learning rate", f"~warm-up, {optim.lr:g}, poly"),
    }
    picture = Drawing(f"step-{shape}", {"wide": (720, 196), "narrow": (360, 334)}[shape],
                      "One training step", (
        "A batch goes forward through encoder and heads. The scores of the main head and the "
        f"{aux} auxiliary heads are compared with the labels, which gives the loss, one number. "
        "The backward pass gives a gradient for every parameter; the optimizer changes the "
        "weights with it, at the rate of the schedule, and the next batch meets the new weights."))
    at = {name: Box(*place) for name, place in PLACES[shape].items()}
    _arrows(picture, at, shape)
    kinds = {"forward": "d-blue", "loss": "d-purple", "backward": "d-orange",
             "gradients": "d-orange", "optimizer": "d-green"}  # fmt: skip
    for name, box in at.items():
        picture.box(box, *lines[name], kind=kinds.get(name, ""))
    return picture


def _arrows(picture: Drawing, at: dict[str, Box], shape: str) -> None:
    """From edge to edge, whichever edges face each other."""
    chain = ["batch", "forward", "scores", "loss", "backward", "gradients", "optimizer"]
    pairs = [*pairwise(chain), ("rate", "optimizer")]
    if shape == "wide":
        pairs.append(("optimizer", "forward"))
    for a, b in pairs:
        picture.arrow(*_between(at[a], at[b]))
    if shape == "narrow":
        one, two = at["optimizer"], at["forward"]
        picture.arrow((one.right, one.middle[1]), (180, one.middle[1]), (180, two.middle[1] + 14),
                      (two.x, two.middle[1] + 14))


def _between(a: Box, b: Box) -> tuple[tuple[float, float], tuple[float, float]]:
    (ax, ay), (bx, by) = a.middle, b.middle
    if abs(ax - bx) > abs(ay - by):
        return ((a.right, ay), (b.x, by)) if bx > ax else ((a.x, ay), (b.right, by))
    return ((ax, a.bottom), (bx, b.y)) if by > ay else ((ax, a.y), (bx, b.bottom))
