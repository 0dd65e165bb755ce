"""The map of SETR: every part a link to its chapter, on the opening page and above each chapter.

`PARTS` says which page a part leads to, `LIT` which parts a page is about. Both are read by the
book's build, which therefore imports nothing but this file's tables.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .svg import Box, Drawing

PARTS = {
    "image": "01_segmentation", "patches": "02_patch_embedding",
    "embedding": "02_patch_embedding", "positions": "03_position",
    "attention": "04_encoding", "mlp": "04_encoding", "taps": "07_mla", "neck": "07_mla",
    "naive": "05_naive", "pup": "06_pup", "mla": "07_mla", "resize": "05_naive",
    "classes": "10_measuring", "auxiliary": "08_auxiliary", "loss": "11_five_minutes",
    "labels": "09_data", "score": "10_measuring",
}  # fmt: skip
"""The page that each part of the map leads to."""

NAMES = {
    "mlp": "MLP", "naive": "Naive", "pup": "PUP", "mla": "MLA",
    "auxiliary": "auxiliary heads", "score": "mIoU",
}  # fmt: skip
"""What a part is called where its key is not its name."""

LIT = {
    "01_segmentation": "image classes",
    "02_patch_embedding": "patches embedding",
    "03_position": "positions",
    "04_encoding": "attention mlp",
    "05_naive": "naive resize",
    "06_pup": "pup",
    "07_mla": "taps neck mla",
    "07b_alive": "attention naive pup mla",
    "08_auxiliary": "auxiliary loss",
    "11_five_minutes": "loss",
    "09_data": "image labels",
    "10_measuring": "classes labels score",
    "10b_protocols": "image resize classes score",
    "12_weight_conversion": "embedding positions attention mlp",
    "13_ade20k": "image labels loss",
    "14_cityscapes": "image labels loss",
    "15_pascal_context": "image labels loss",
    "16_scaling_out": "loss",
    "17_camvid": "attention mlp naive pup mla",
    "09b_your_pictures": "image labels classes",
    "18_inside": "attention taps",
    "18a_trust": "classes score",
    "18b_silent_bugs": "embedding positions attention taps neck resize labels loss score",
    "19_speed": "attention resize loss",
    "20_results": "score",
    "21_after_setr": "attention mlp naive pup mla",
}
"""The parts that each chapter is about."""

KINDS = {
    "attention": "d-blue", "mlp": "d-orange", "naive": "d-green", "pup": "d-green",
    "mla": "d-green", "neck": "d-green", "auxiliary": "d-purple", "loss": "d-purple",
    "labels": "d-purple", "score": "d-purple",
}  # fmt: skip
"""Colours: the two layers of a block, the decoders, and what is there for training and testing."""

SIZES = {"wide": (720, 338), "narrow": (360, 474)}
PLACES: dict[str, dict[str, tuple[int, int, int, int]]] = {
    "wide": {
        "image": (6, 6, 150, 48), "patches": (184, 6, 160, 48), "embedding": (372, 6, 160, 48),
        "positions": (560, 6, 154, 48), "attention": (214, 96, 140, 48), "mlp": (500, 96, 140, 48),
        "taps": (6, 180, 140, 74), "neck": (174, 224, 92, 30), "naive": (294, 176, 150, 24),
        "pup": (294, 203, 150, 24), "mla": (294, 230, 150, 24), "resize": (480, 188, 96, 48),
        "classes": (604, 188, 110, 48), "auxiliary": (174, 290, 130, 40),
        "loss": (332, 290, 110, 40), "labels": (480, 290, 96, 40), "score": (604, 290, 110, 40),
    },
    "narrow": {
        "image": (4, 4, 164, 42), "patches": (192, 4, 164, 42), "embedding": (192, 66, 164, 42),
        "positions": (4, 66, 164, 42), "attention": (30, 156, 114, 42), "mlp": (194, 156, 128, 42),
        "taps": (4, 228, 164, 66), "neck": (192, 252, 164, 42), "naive": (4, 312, 112, 42),
        "pup": (124, 312, 112, 42), "mla": (244, 312, 112, 42), "resize": (4, 374, 112, 40),
        "classes": (124, 374, 112, 40), "score": (244, 374, 112, 40),
        "auxiliary": (4, 434, 112, 36), "loss": (124, 434, 112, 36), "labels": (244, 434, 112, 36),
    },
}  # fmt: skip
"""(left, top, width, height) of each part."""


def words() -> dict[str, tuple[str, ...]]:
    """What stands in each part, with the numbers of the library's own ViT-L/16 at 512 x 512."""
    from .sizes import SIDE, size, trace

    traces = {head: trace(head) for head in ("naive", "pup", "mla")}
    encoder = traces["pup"].model.encoder
    patch, width, block = encoder.patch_size, encoder.embed_dim, encoder.blocks[0]
    heads = block.attn.num_heads
    rows = encoder.pos_embed.shape[1]
    taps = {head: ", ".join(str(t + 1) for t in traces[head].model.encoder.taps)
            for head in ("pup", "mla")}  # fmt: skip
    maps = {head: size(t.shapes["head"], False) for head, t in traces.items()}
    return {
        "image": ("image", f"~3 × {SIDE} × {SIDE}"),
        "patches": (f"{encoder.grid[0] * encoder.grid[1]:,} patches",
                    f"~{size(encoder.grid)}, each {patch} × {patch}"),
        "embedding": ("embedding", f"~{3 * patch**2} values → {width}"),
        "positions": ("+ positions", f"~a table of {rows} × {width}"),
        "attention": ("attention", f"~{heads} heads of {width // heads}"),
        "mlp": ("MLP", f"~{width} → {block.mlp.fc1.out_features} → {width}"),
        "taps": ("taps after blocks", f"~{taps['pup']} (MLA: {taps['mla']})"),
        "neck": ("neck", f"~4 of {size(traces['mla'].shapes['neck.smooth.0'])}"),
        "naive": ("Naive", f"~{maps['naive']}"),
        "pup": ("PUP", f"~{maps['pup']}"),
        "mla": ("MLA", f"~{maps['mla']}"),
        "resize": ("resize", f"~to {SIDE} × {SIDE}"),
        "classes": ("classes", f"~best of {traces['pup'].shapes['head'][0]}"),
        "auxiliary": ("auxiliary heads", "~on taps; MLA: neck"),
        "loss": ("loss",), "labels": ("labels",),
        "score": ("mIoU",),
    }  # fmt: skip


def draw(shape: str) -> Drawing:
    """The map, ``wide`` or ``narrow``."""
    from .sizes import trace
    from .svg import Box, Drawing

    title = "The map of SETR"
    depth = len(trace("pup").model.encoder.blocks)
    picture = Drawing(f"map-{shape}", SIZES[shape], title, (
        f"An image is cut into patches. Each patch is embedded and gets a position. {depth} "
        "blocks of attention and MLP follow. Four of them are tapped. One of three heads, Naive, "
        "PUP or MLA (which has a neck before it), makes logits of them, which are resized "
        "to the image. In training, auxiliary heads (on the taps, in MLA on the neck) and the "
        "labels lead to the loss; in testing, classes and labels lead to the mIoU."), role="group")
    at = {part: Box(*place) for part, place in PLACES[shape].items()}
    {"wide": _wide, "narrow": _narrow}[shape](picture, at, depth)
    for part, lines in words().items():
        _part(picture, part, at[part], lines)
    return picture


def _part(picture: Drawing, part: str, box: Box, lines: tuple[str, ...]) -> None:
    """A box that is a link; where it is flat or narrow, its words go into one line or lose some."""
    label = ", ".join(line.removeprefix("~") for line in lines)
    with picture.inside("a", href=f"{PARTS[part]}.html", data_part=part, aria_label=label):
        if box.h < 34:
            lines = (f"{lines[0]}  {lines[1].removeprefix('~')}" if box.w > 100 else lines[0],)
        elif part == "taps":
            first, second = lines[1].split(" (")
            lines = (lines[0], first, f"~({second}") if box.h > 60 else lines
        picture.box(box, *lines, kind=KINDS.get(part, ""))


def _wide(picture: Drawing, at: dict[str, Box], depth: int) -> None:
    from .svg import Box

    row = [at[part] for part in ("image", "patches", "embedding", "positions")]
    for left, right in pairwise(row):
        picture.arrow((left.right, left.middle[1]), (right.x, right.middle[1]))
    frame = Box(6, 82, 708, 76)
    picture.box(frame, kind="d-frame")
    picture.text(16, 104, f"{depth} blocks,", "d-strong", "start")
    picture.text(16, 121, "one of them", "", "start")
    picture.text(16, 138, "opened", "", "start")
    end = row[-1]
    picture.arrow((end.middle[0], end.bottom), (end.middle[0], 70), (112, 70), (112, 120),
                  (133, 120))
    _branch(picture, 146, 120, at["attention"], 388)
    _branch(picture, 432, 120, at["mlp"], 674)
    picture.arrow((683, 120), (700, 120), (700, 168), (76, 168), (76, at["taps"].y))
    heads = [at[head] for head in ("naive", "pup", "mla")]
    taps, neck, resize, classes = at["taps"], at["neck"], at["resize"], at["classes"]
    for head in heads[:2]:
        picture.arrow((taps.right, head.middle[1]), (head.x, head.middle[1]))
    picture.arrow((taps.right, neck.middle[1]), (neck.x, neck.middle[1]))
    picture.arrow((neck.right, heads[2].middle[1]), (heads[2].x, heads[2].middle[1]))
    for head in heads:
        picture.arrow((head.right, head.middle[1]), (462, head.middle[1]), (462, resize.middle[1]),
                      head=False)
    picture.arrow((462, resize.middle[1]), (resize.x, resize.middle[1]))
    picture.arrow((resize.right, resize.middle[1]), (classes.x, classes.middle[1]))
    auxiliary, loss, labels, score = (at[p] for p in ("auxiliary", "loss", "labels", "score"))
    y = loss.middle[1]
    picture.arrow((taps.middle[0], taps.bottom), (taps.middle[0], y), (auxiliary.x, y))
    picture.arrow((auxiliary.right, y), (loss.x, y))
    picture.arrow((labels.x, y), (loss.right, y))
    picture.arrow((labels.right, y), (score.x, y))
    picture.arrow((resize.middle[0], resize.bottom), (resize.middle[0], 264), (loss.middle[0], 264),
                  (loss.middle[0], loss.y))
    picture.arrow((classes.middle[0], classes.bottom), (score.middle[0], score.y))


def _branch(picture: Drawing, x: float, y: float, box: Box, plus: float) -> None:
    """Norm, a layer, and the sum with what goes round them."""
    from .svg import Box

    picture.arrow((x - 14, y), (x - 14, y - 32), (plus, y - 32), (plus, y - 9))
    picture.box(Box(x - 8, y - 12, 46, 24), "norm")
    picture.arrow((x + 38, y), (box.x, y))
    picture.arrow((box.right, y), (plus - 9, y))
    picture.plus(plus, y)
    if plus < 500:
        picture.arrow((plus + 9, y), (424, y))


def _narrow(picture: Drawing, at: dict[str, Box], depth: int) -> None:
    from .svg import Box

    a = at
    picture.arrow((a["image"].right, 25), (a["patches"].x, 25))
    picture.arrow((274, 46), (274, 66))
    picture.arrow((192, 87), (168, 87))
    picture.box(Box(4, 122, 352, 84), kind="d-frame")
    picture.text(348, 140, f"{depth} blocks: norm, layer, +", "d-strong", "end")
    picture.arrow((86, 108), (86, 132), (16, 132), (16, 177), (30, 177))
    for name, start, plus in (("attention", 22, 162), ("mlp", 184, 340)):
        picture.arrow((start, 177), (start, 148), (plus, 148), (plus, 168))
        picture.arrow((a[name].right, 177), (plus - 9, 177))
        picture.plus(plus, 177)
    picture.arrow((171, 177), (194, 177))
    picture.arrow((340, 186), (340, 214), (86, 214), (86, 228))
    for head in ("naive", "pup"):
        middle = a[head].middle[0]
        picture.arrow((min(middle, 150), 294), (min(middle, 150), 312))
    picture.arrow((a["taps"].right, 273), (a["neck"].x, 273))
    picture.arrow((300, 294), (300, 312))
    for head in ("naive", "pup", "mla"):
        middle = a[head].middle[0]
        picture.arrow((middle, 354), (middle, 363), (60, 363), head=False)
    picture.arrow((60, 363), (60, 374))
    picture.arrow((116, 394), (124, 394))
    picture.arrow((236, 394), (244, 394))
    picture.arrow((300, 434), (300, 414))
    picture.arrow((244, 452), (236, 452))
    picture.arrow((116, 452), (124, 452))
    picture.arrow((88, 414), (88, 424), (180, 424), (180, 434))
