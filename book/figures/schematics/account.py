"""The account of a conversion: what becomes of each tensor of a file and of a model."""

from __future__ import annotations

from setr_lite.weights.tables import TIMM_DROPPED, rename

from ..svg import Box, Drawing

DROPPED = "head.weight"
ROWS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("blocks.0.norm1.weight", "blocks.0.norm1.weight", ("used",)),
    ("pos_embed", "pos_embed", ("resized",)),
    (DROPPED, "", ("dropped:", rename(TIMM_DROPPED, DROPPED) or "")),
    ("blocks.0.attention.qkv.weight", "", ("left over:", "an error")),
    ("", "blocks.0.attn.qkv.weight", ("left over:", "an error")),
)
"""The name in the file, the name in the model, and the account."""
GRIDS = {"file": "16 × 16", "model": "12 × 24"}
KINDS = {"used": "d-blue", "resized": "d-green", "left over:": "d-orange"}


def draw(shape: str) -> Drawing:
    wide = shape == "wide"
    width, box, row = (720, 236, 42) if wide else (360, 150, 52)
    picture = Drawing(f"account-{shape}", (width, 30 + row * len(ROWS)), "An account", (
        "Two columns of tensors, those of a file and those of a model. Of the file, "
        + "; ".join(f"{theirs} is {' '.join(words)}" for theirs, ours, words in ROWS if theirs)
        + f". Of the model, {ROWS[-1][1]} is left over: an error. The table pos_embed is resized "
        f"from {GRIDS['file']} to {GRIDS['model']} patches."))
    edge = box / 2 + 2
    picture.text(edge, 16, "file", "d-strong")
    picture.text(width - edge, 16, "model", "d-strong")
    for i, (theirs, ours, words) in enumerate(ROWS):
        y, high, kind = 26 + row * i, row - 10, KINDS.get(words[0], "")
        left, right = (Box(x, y, box, high) for x in (2, width - 2 - box))
        start, end, middle = left.right, right.x, y + high / 2
        if theirs and ours:
            picture.arrow((start, middle), (end - 2, middle), kind=kind)
            picture.text((start + end) / 2, middle - 6, words[0], "d-small")
        else:
            _stub(picture, start if theirs else end, middle, words, 1 if theirs else -1, wide)
        for place, name, grid in ((left, theirs, GRIDS["file"]), (right, ours, GRIDS["model"])):
            if name:
                _name(picture, place, name, kind, grid, wide)
    return picture


def _stub(picture: Drawing, x: float, y: float, words: tuple[str, ...], way: int,
          wide: bool) -> None:
    """A line that leads nowhere, and why."""
    kind, end = KINDS.get(words[0], ""), x + 26 * way
    picture.arrow((x, y), (end, y), kind=kind, head=False)
    picture.arrow((end, y - 7), (end, y + 7), kind=kind, head=False)
    anchor = "start" if way > 0 else "end"
    lines = (" ".join(words),) if wide else words
    for i, line in enumerate(lines):
        picture.text(end + 8 * way, y + 4 - 7.5 * (len(lines) - 1) + 15 * i, line,
                     "d-on" if kind else "d-small", anchor)


def _name(picture: Drawing, place: Box, name: str, kind: str, grid: str, wide: bool) -> None:
    """A tensor; on a narrow drawing the block has a line of its own."""
    if name == "pos_embed":
        lines = [f"{name}, {grid}"] if wide else [name, f"~{grid}"]
    else:
        head, dot, tail = name.partition(".0.")
        lines = [name] if wide or not dot else [head + dot, tail]
    picture.box(place, *lines, kind=kind)
