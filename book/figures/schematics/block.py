"""One block of ViT-L: what is added to the stream, with shapes, parameters and MACs."""

from __future__ import annotations

from ..sizes import giga, millions, size, trace
from ..svg import Box, Drawing


def draw(shape: str) -> Drawing:
    run = trace("pup")
    block = run.model.encoder.blocks[0]
    name = "encoder.blocks.0"
    stream = size(run.shapes[name])
    hidden = run.shapes[f"{name}.mlp.fc1"][-1]
    layers = {
        "attention": ("q, k, v: one linear layer", f"softmax, {block.attn.num_heads} heads",
                      "linear layer", f"~{millions(block.attn)} parameters",
                      f"~{giga(run.macs[f'{name}.attn'])}"),
        "MLP": (f"linear, {run.shapes[name][-1]} → {hidden}", "GELU",
                f"linear, {hidden} → {run.shapes[name][-1]}",
                f"~{millions(block.mlp)} parameters", f"~{giga(run.macs[f'{name}.mlp'])}"),
    }  # fmt: skip
    picture = Drawing(
        f"block-{shape}", {"wide": (720, 204), "narrow": (360, 452)}[shape],
        "One transformer block", (
            f"The residual stream, {stream} numbers, passes straight through. Beside it, attention "
            "reads the normed stream, mixes tokens, and is added to it; then the MLP reads the "
            "normed stream, works on each token alone, and is added to it. The attention has "
            f"{millions(block.attn)} parameters, the MLP {millions(block.mlp)}."))
    (_wide if shape == "wide" else _narrow)(picture, layers, stream)
    return picture


def _wide(picture: Drawing, layers: dict[str, tuple[str, ...]], stream: str) -> None:
    picture.text(6, 22, f"the residual stream, {stream}", "d-strong", "start")
    picture.arrow((6, 40), (714, 40))
    for x, (name, lines) in zip((40, 380), layers.items(), strict=True):
        kind = "d-blue" if name == "attention" else "d-orange"
        picture.arrow((x, 40), (x, 120), (x + 18, 120))
        picture.box(Box(x + 18, 106, 50, 28), "norm")
        picture.arrow((x + 68, 120), (x + 88, 120))
        picture.text(x + 88, 66, name, "d-strong", "start")
        box = picture.box(Box(x + 88, 74, 184, 96), *lines, kind=kind)
        picture.arrow((box.right, 120), (x + 300, 120), (x + 300, 49))
        picture.plus(x + 300, 40)
    picture.text(128, 192, "mixes tokens", "", "start")
    picture.text(468, 192, "each token alone", "", "start")


def _narrow(picture: Drawing, layers: dict[str, tuple[str, ...]], stream: str) -> None:
    picture.text(8, 18, f"the residual stream, {stream}", "d-strong", "start")
    picture.arrow((24, 28), (24, 448))
    notes = ("mixes tokens", "each token alone")
    for y, note, (name, lines) in zip((44, 246), notes, layers.items(), strict=True):
        kind = "d-blue" if name == "attention" else "d-orange"
        picture.arrow((24, y), (216, y), (216, y + 10))
        picture.box(Box(191, y + 10, 50, 26), "norm")
        picture.arrow((216, y + 36), (216, y + 52))
        picture.text(116, y + 44, name, "d-strong", "start")
        box = picture.box(Box(116, y + 52, 200, 96), *lines, kind=kind)
        picture.text(240, box.bottom + 18, note, "", "start")
        picture.arrow((216, box.bottom), (216, y + 172), (33, y + 172))
        picture.plus(24, y + 172)
