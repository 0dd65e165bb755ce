"""A reader's own image in a running notebook: what its patches attend to, a decoder's stages.

Each function makes the controls of a live cell and the view that they change. `picture` is an image
file; without one the streets are ToyTown's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from setr_lite import SETR, attention_maps, colorize, read_image
from setr_lite.inside.stages import catch, feature_colors
from setr_lite.toytown import render_scene, scene_seed

from .interactive import Pane, as_rgb, sheet_html

STAGE = re.compile(r"(neck|head)\.(norm|convs|smooth|branches|classifier)(\.\d+)?")
ORANGE = (213, 94, 0)


def attention(checkpoint: str | os.PathLike[str], picture: str = "") -> tuple[Any, ...]:
    """Street, block, head, row and column, and the view: what that patch attends to."""
    import ipywidgets as widgets
    import matplotlib.pyplot as plt

    model = SETR.from_pretrained(checkpoint)
    blocks, p = model.encoder.blocks, model.encoder.patch_size
    seed, street = _streets(picture)
    block = widgets.IntSlider(len(blocks), 1, len(blocks), description="block")
    head = widgets.IntSlider(1, 1, blocks[0].attn.num_heads, description="head")
    row = widgets.IntSlider(0, 0, 11, description="row")
    column = widgets.IntSlider(0, 0, 23, description="column")

    def panes() -> list[Pane]:
        image = street()
        x = model.preprocess(image)
        h, w = (-(-n // p) for n in x.shape[-2:])
        row.max, column.max = h - 1, w - 1
        maps = attention_maps(model, x, block.value - 1)[0, head.value - 1]
        weights = maps[-h * w :, -h * w :][row.value * w + column.value]  # patches come last
        weights = (weights / weights.max()).reshape(h, w).cpu().numpy()
        heat = (plt.get_cmap("viridis")(weights)[..., :3] * 255).astype(np.uint8)
        framed, zoom = as_rgb(image).copy(), p * image.shape[-1] / x.shape[-1]
        ends = (row.value, column.value, row.value + 1, column.value + 1)
        y0, x0, y1, x1 = (round(i * zoom) for i in ends)
        framed[y0:y1, x0:x1] = ORANGE
        where = f"the patch in row {row.value}, column {column.value}"
        what = f"its attention in block {block.value}, head {head.value}"
        return [
            Pane(framed, where, "The image, one patch orange", 2),
            Pane(heat, what, "Attention of the patch as a heat map", 2 * p),
        ]

    view = _shown(panes, seed, block, head, row, column)
    return seed, block, head, row, column, view


def stages(checkpoint: str | os.PathLike[str], picture: str = "") -> tuple[Any, ...]:
    """Street and stage, and the view: the features of the decoder at that stage, and the labels."""
    import ipywidgets as widgets

    model = SETR.from_pretrained(checkpoint)
    seed, street = _streets(picture)
    names = [
        name
        for name, module in model.named_modules()
        if STAGE.fullmatch(name) and not isinstance(module, torch.nn.ModuleList)
    ]
    stage = widgets.SelectionSlider(description="stage", options=names)

    def panes() -> list[Pane]:
        image = street()
        maps = catch(model, model.preprocess(image), [stage.value])[stage.value][0]
        shape = " x ".join(map(str, maps.shape))
        features, zoom = feature_colors(maps, image), 384 // maps.shape[-1]
        labels = colorize(model.predict(image), model.palette)
        return [
            Pane(image, "image", "The image", 2, True),
            Pane(features, f"{stage.value}: {shape}", "Its features as colours", zoom),
            Pane(labels, "labels", "The labels that the model predicts", 2),
        ]

    return seed, stage, _shown(panes, seed, stage)


def _streets(picture: str) -> tuple[Any, Callable[[], torch.Tensor]]:
    """A slider over ToyTown's streets, and the image, (3, H, W), that it or `picture` means."""
    import ipywidgets as widgets

    seed = widgets.IntSlider(0, 0, 999, description="street")

    def street() -> torch.Tensor:
        if picture:
            return read_image(picture)
        image, _ = render_scene(scene_seed(0, "val", seed.value))
        return torch.from_numpy(image).permute(2, 0, 1)

    return seed, street


def _shown(panes: Callable[[], list[Pane]], *controls: Any) -> Any:
    """The view of some panes, drawn now and whenever a control moves."""
    import ipywidgets as widgets

    view = widgets.HTML()

    def draw(change: object = None) -> None:
        view.value = sheet_html(panes())

    for control in controls:
        control.observe(draw, "value")
    draw()
    return view
