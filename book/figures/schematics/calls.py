"""Who calls whom: from the image through a SETR to what is made of its logits."""

from __future__ import annotations

from ..svg import Box, Drawing

MODEL = "api_model.html#setr_lite."
LINKS = {
    "image": f"{MODEL}model.SETR.preprocess",
    "model": f"{MODEL}model.SETR",
    "vit": f"{MODEL}encoder.VisionTransformer",
    "hybrid": f"{MODEL}timm_encoder.HybridTransformer",
    "timm": f"{MODEL}timm_encoder.TimmEncoder",
    "taps": f"{MODEL}encoder.default_taps",
    "neck": f"{MODEL}heads.MultiLevelAggregation",
    "naive": f"{MODEL}heads.NaiveHead",
    "pup": f"{MODEL}heads.PUPHead",
    "mla": f"{MODEL}heads.MLAHead",
    "aux": f"{MODEL}model.SETR.aux_heads",
    "output": f"{MODEL}logits.SETROutput",
    "predict": f"{MODEL}model.SETR.predict",
    "evaluate": "api_runs.html#setr_lite.evaluate.loop.evaluate",
    "full": f"{MODEL}logits.SETROutput.full",
    "loss": f"{MODEL}losses.cross_entropy.segmentation_loss",
}
"""The entry that each part leads to."""
LINES = {
    "image": ("image", "~(B, 3, H, W)"),
    "vit": ("~VisionTransformer",), "hybrid": ("~HybridTransformer",), "timm": ("~TimmEncoder",),
    "taps": ("four taps", "~(B, N, C) → (B, D, h, w)"),
    "neck": ("neck",),
    "naive": ("NaiveHead",), "pup": ("PUPHead",), "mla": ("MLAHead",), "aux": ("aux_heads",),
    "output": ("SETROutput: logits of each head", "~(B, K, h', w'), the resize still to be done"),
    "predict": ("SETR.predict", "~→ labels (H, W)"),
    "evaluate": ("evaluate", "~→ ConfusionMatrix"),
    "full": ("SETROutput.full", "~→ logits (B, K, H, W)"),
    "loss": ("segmentation_loss", "~with labels → a scalar"),
}  # fmt: skip
KINDS = {
    "vit": "d-blue", "hybrid": "d-blue", "timm": "d-blue", "neck": "d-green", "naive": "d-green",
    "pup": "d-green", "mla": "d-green", "aux": "d-purple", "loss": "d-purple",
    "output": "d-orange",
}  # fmt: skip
SIZES = {"wide": (720, 322), "narrow": (360, 500)}
FRAMES = {"wide": Box(112, 2, 606, 158), "narrow": Box(16, 62, 342, 218)}
PLACES: dict[str, dict[str, tuple[int, int, int, int]]] = {
    "wide": {
        "image": (2, 66, 92, 48), "vit": (126, 36, 136, 28), "hybrid": (126, 76, 136, 28),
        "timm": (126, 116, 136, 28), "taps": (284, 30, 146, 118), "neck": (446, 92, 66, 26),
        "naive": (548, 30, 134, 25), "pup": (548, 61, 134, 25), "mla": (548, 92, 134, 25),
        "aux": (548, 123, 134, 25), "output": (126, 182, 556, 46), "predict": (24, 272, 160, 48),
        "evaluate": (202, 272, 160, 48), "full": (380, 272, 160, 48), "loss": (558, 272, 160, 48),
    },
    "narrow": {
        "image": (130, 2, 114, 42), "vit": (24, 92, 106, 30), "hybrid": (134, 92, 108, 30),
        "timm": (246, 92, 104, 30), "taps": (24, 140, 326, 42), "neck": (194, 202, 68, 26),
        "naive": (24, 244, 78, 28), "pup": (108, 244, 74, 28), "mla": (188, 244, 78, 28),
        "aux": (272, 244, 78, 28), "output": (16, 302, 342, 48), "predict": (16, 376, 158, 50),
        "evaluate": (16, 446, 158, 50), "full": (200, 376, 158, 50), "loss": (200, 446, 158, 50),
    },
}  # fmt: skip
"""(left, top, width, height) of each part."""


def draw(shape: str) -> Drawing:
    picture = Drawing(f"calls-{shape}", SIZES[shape], "Who calls whom", (
        "SETR calls an encoder, VisionTransformer, HybridTransformer or TimmEncoder, and reads "
        "four taps of it. NaiveHead, PUPHead and the auxiliary heads take them as they are, "
        "MLAHead and its auxiliary heads through a neck. Their logits are the SETROutput, its "
        "resize still to be done. SETR.predict makes labels of it, evaluate a confusion matrix, "
        "SETROutput.full logits at the image's size, and segmentation_loss, with labels, a "
        "scalar. SETR.predict and evaluate call the model themselves."), role="group")
    at = {part: Box(*place) for part, place in PLACES[shape].items()}
    frame = FRAMES[shape]
    with picture.inside("a", href=LINKS["model"], aria_label="SETR"):
        picture.box(frame, kind="d-frame")
        picture.text(frame.x + 12, frame.y + 20, "model(image), a SETR", "d-strong", "start")
    {"wide": _wide, "narrow": _narrow}[shape](picture, at, frame)
    for part, lines in LINES.items():
        label = ", ".join(line.removeprefix("~") for line in lines)
        with picture.inside("a", href=LINKS[part], aria_label=label):
            picture.box(at[part], *lines, kind=KINDS.get(part, ""))
    return picture


def _wide(picture: Drawing, at: dict[str, Box], frame: Box) -> None:
    image, taps, neck, output = at["image"], at["taps"], at["neck"], at["output"]
    picture.arrow((image.right, image.middle[1]), (frame.x, image.middle[1]))
    for part in ("vit", "hybrid", "timm"):
        y = at[part].middle[1]
        picture.arrow((at[part].right, y), (taps.x, y))
    for part in ("naive", "pup", "aux"):
        y = at[part].middle[1]
        picture.arrow((taps.right, y), (at[part].x, y))
    y = at["mla"].middle[1]
    picture.arrow((taps.right, y), (neck.x, y))
    picture.arrow((neck.right, y), (at["mla"].x, y))
    picture.arrow((neck.middle[0], neck.bottom), (neck.middle[0], at["aux"].middle[1]),
                  kind="d-dash", head=False)
    for part in ("naive", "pup", "mla", "aux"):
        y = at[part].middle[1]
        picture.arrow((at[part].right, y), (700, y), (700, output.middle[1]), head=False)
    picture.arrow((700, output.middle[1]), (output.right, output.middle[1]))
    for part in ("predict", "evaluate", "full", "loss"):
        x = max(at[part].middle[0], output.x + 20)
        picture.arrow((min(x, output.right - 30), output.bottom),
                      (min(x, output.right - 30), at[part].y))
    picture.arrow((at["evaluate"].x + 20, at["evaluate"].y), (at["evaluate"].x + 20, 254),
                  (48, 254), kind="d-dash", head=False)
    picture.arrow((48, at["predict"].y), (48, image.bottom), kind="d-dash")
    picture.text(40, 182, "call", "d-small", "end")


def _narrow(picture: Drawing, at: dict[str, Box], frame: Box) -> None:
    image, taps, neck, output = at["image"], at["taps"], at["neck"], at["output"]
    picture.arrow((image.middle[0], image.bottom), (image.middle[0], frame.y))
    for part in ("vit", "hybrid", "timm"):
        x = at[part].middle[0]
        picture.arrow((x, at[part].bottom), (x, taps.y))
    for part in ("naive", "pup", "aux"):
        x = at[part].middle[0]
        picture.arrow((x, taps.bottom), (x, at[part].y))
    x = neck.middle[0]
    picture.arrow((x, taps.bottom), (x, neck.y))
    picture.arrow((x, neck.bottom), (x, at["mla"].y))
    picture.arrow((neck.right, neck.middle[1]), (at["aux"].middle[0], neck.middle[1]),
                  kind="d-dash", head=False)
    for part in ("naive", "pup", "mla", "aux"):
        x = at[part].middle[0]
        picture.arrow((x, at[part].bottom), (x, output.y))
    middle = (at["predict"].right + at["full"].x) / 2
    picture.arrow((middle, output.bottom), (middle, at["loss"].middle[1]), head=False)
    for left, right in (("predict", "full"), ("evaluate", "loss")):
        y = at[left].middle[1]
        picture.arrow((middle, y), (at[left].right, y))
        picture.arrow((middle, y), (at[right].x, y))
    for part in ("evaluate", "predict"):
        y = at[part].middle[1]
        picture.arrow((at[part].x, y), (6, y), (6, image.middle[1]), kind="d-dash", head=False)
    picture.arrow((6, image.middle[1]), (image.x, image.middle[1]), kind="d-dash")
    picture.text(12, image.middle[1] - 6, "call", "d-small", "start")
