"""SETR and six architectures after it, side by side: where class tokens and queries come in."""

from __future__ import annotations

from ..svg import Box, Drawing

PITCH = {"wide": 108, "narrow": 120}
WIDTH, HEIGHT = 100, 318
LEFT = WIDTH - 54
"""Of an encoder that has tokens beside it."""
ORDER = ("SETR", "Segmenter", "SegFormer", "DPT", "Mask2Former", "EoMT", "PMT")
LEGEND = (("encoder", "d-blue"), ("decoder", "d-orange"),
          ("class tokens, queries", "d-purple"), ("frozen", "d-frame"))  # fmt: skip
FLOOR = 270
"""Where the encoders' lowest boxes end; the image comes in below."""


def draw(shape: str) -> Drawing:
    wide, pitch = shape == "wide", PITCH[shape]
    picture = Drawing(f"after-{shape}", (7 * pitch, HEIGHT + 34) if wide else (360, 3 * HEIGHT),
                      "SETR and six architectures after it", (
        "Image at the bottom, result on top. SETR: a ViT, its last block or, for MLA, four blocks "
        "read by convolutions. Segmenter: a ViT, then two blocks that class tokens "
        "enter; scores are products of patch and class tokens. SegFormer: an encoder of four "
        "stages, all read by linear layers. DPT: a ViT with four taps, made into a pyramid that "
        "convolutions join. Mask2Former: an encoder of four stages, a pixel decoder, and blocks "
        "in which queries look at its maps; a mask is the product of a query and the pixels. EoMT: "
        "a ViT whose last blocks the queries enter, and no decoder. PMT: a frozen ViT with four "
        "taps into six blocks of their own, which the queries enter."))
    for i, name in enumerate(ORDER):
        # narrow: SETR with the legend beside it, then three and three
        place = i if wide or not i else i + 2
        x, y = (pitch * i, 0) if wide else (pitch * (place % 3), HEIGHT * (place // 3))
        _column(picture, x + (pitch - WIDTH) / 2, y, name)
    for i, (words, kind) in enumerate(LEGEND):
        x, y = (8 + 180 * i, HEIGHT + 12) if wide else (pitch + 24, 120 + 24 * i)
        picture.add("rect", x=x, y=y, width=14, height=12, rx=2, class_=f"d-box {kind}")
        picture.text(x + 20, y + 10, words, "d-small", "start")
    return picture


def _column(picture: Drawing, x: float, y: float, name: str) -> None:
    picture.text(x + WIDTH / 2, y + 16, name, "d-strong")
    result = {"SETR": ("classes",), "SegFormer": ("classes",), "DPT": ("classes",),
              "Segmenter": ("patch · class",), "Mask2Former": ("query · pixel",)}  # fmt: skip
    picture.box(Box(x, y + 28, WIDTH, 26), *result.get(name, ("query · patch",)))
    middle = x + LEFT / 2 if name in ("Segmenter", "EoMT", "PMT") else x + WIDTH / 2
    picture.text(middle, y + FLOOR + 34, "image")
    picture.arrow((middle, y + FLOOR + 22), (middle, y + FLOOR + 2))
    {"SETR": _setr, "Segmenter": _segmenter, "SegFormer": _segformer, "DPT": _dpt,
     "Mask2Former": _mask2former, "EoMT": _eomt, "PMT": _pmt}[name](picture, x, y)  # fmt: skip


def _up(picture: Drawing, x: float, bottom: float, top: float) -> None:
    picture.arrow((x, bottom), (x, top + 2))


def _beside_tokens(picture: Drawing, x: float, y: float, words: tuple[str, ...], kind: str,
                   tokens: tuple[str, ...], onto: float, taps: int = 1) -> None:
    """An encoder on the left and tokens on the right, both going up into what is above."""
    picture.box(Box(x, y + 170, LEFT, FLOOR - 170), *words, kind=kind)
    picture.box(Box(x + LEFT + 6, y + 170, 48, 42), *tokens, kind="d-purple")
    for tap in range(taps):
        _up(picture, x + LEFT * (tap + 1) / (taps + 1), y + 170, onto)
    _up(picture, x + WIDTH - 24, y + 170, onto)


def _setr(picture: Drawing, x: float, y: float) -> None:
    picture.box(Box(x, y + 170, WIDTH, FLOOR - 170), "ViT", kind="d-blue")
    _up(picture, x + WIDTH / 2, y + 170, y + 134)
    picture.box(Box(x, y + 88, WIDTH, 46), "convolutions", "~MLA: four taps", kind="d-orange")
    _up(picture, x + WIDTH / 2, y + 88, y + 54)


def _segmenter(picture: Drawing, x: float, y: float) -> None:
    _beside_tokens(picture, x, y, ("ViT",), "d-blue", ("~class", "~tokens"), y + 134)
    picture.box(Box(x, y + 88, WIDTH, 46), "two blocks", kind="d-orange")
    _up(picture, x + WIDTH / 2, y + 88, y + 54)


def _eomt(picture: Drawing, x: float, y: float) -> None:
    _beside_tokens(picture, x, y, ("ViT,", "~first", "~blocks"), "d-blue", ("~queries",), y + 134)
    picture.box(Box(x, y + 88, WIDTH, 46), "its last blocks", kind="d-blue")
    _up(picture, x + WIDTH / 2, y + 88, y + 54)


def _pmt(picture: Drawing, x: float, y: float) -> None:
    _beside_tokens(picture, x, y, ("ViT",), "d-frame", ("~queries",), y + 134, taps=4)
    picture.box(Box(x, y + 88, WIDTH, 46), "six blocks", kind="d-orange")
    _up(picture, x + WIDTH / 2, y + 88, y + 54)


def _stages(picture: Drawing, x: float, y: float, top: float, onto: float) -> None:
    """Four stages, each coarser and on top of the one before; all of them go up."""
    high = (FLOOR - top) / 4
    for i, width in enumerate((WIDTH, 78, 57, 36)):
        box = picture.box(Box(x, y + FLOOR - high * (i + 1), width, high - 3), kind="d-blue")
        picture.text(box.x + 5, box.middle[1] + 4, f"1/{4 * 2**i}", "d-small", "start")
        _up(picture, box.right - 8, box.y, onto)


def _segformer(picture: Drawing, x: float, y: float) -> None:
    _stages(picture, x, y, 166, y + 134)
    picture.box(Box(x, y + 88, WIDTH, 46), "linear layers", kind="d-orange")
    _up(picture, x + WIDTH / 2, y + 88, y + 54)


def _dpt(picture: Drawing, x: float, y: float) -> None:
    picture.box(Box(x, y + 214, WIDTH, FLOOR - 214), "ViT", kind="d-blue")
    for i, high in enumerate((40, 30, 20, 12)):
        left = x + 26 * i
        picture.box(Box(left, y + 190 - high, 22, high), kind="d-orange", round_=2)
        _up(picture, left + 11, y + 214, y + 190)
        _up(picture, left + 11, y + 190 - high, y + 118)
    picture.box(Box(x, y + 84, WIDTH, 34), "convolutions", kind="d-orange")
    _up(picture, x + WIDTH / 2, y + 84, y + 54)


def _mask2former(picture: Drawing, x: float, y: float) -> None:
    _stages(picture, x, y, 190, y + 166)
    picture.box(Box(x, y + 136, WIDTH, 30), "pixel decoder", kind="d-orange")
    picture.box(Box(x, y + 76, 45, 38), "~queries", kind="d-purple")
    picture.box(Box(x + 52, y + 76, 39, 38), "~blocks", kind="d-orange")
    picture.arrow((x + 45, y + 95), (x + 52, y + 95))
    _up(picture, x + 71, y + 136, y + 114)
    _up(picture, x + 71, y + 76, y + 54)
    _up(picture, x + 95, y + 136, y + 54)
