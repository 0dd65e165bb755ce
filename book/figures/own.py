"""A reader's own image in a running notebook, stage by stage through a decoder."""

from __future__ import annotations

import os
import re
from typing import Any

import torch

from setr_lite import SETR, colorize, read_image
from setr_lite.inside.stages import catch, feature_colors
from setr_lite.toytown import render_scene, scene_seed

from .interactive import Pane, sheet_html

STAGE = re.compile(r"(neck|head)\.(norm|convs|smooth|branches|classifier)(\.\d+)?")


def stages(checkpoint: str | os.PathLike[str], picture: str = "") -> tuple[Any, Any, Any]:
    """Two sliders, for the street and the stage, and the view that they change.

    `picture` is an image file; without one the streets are ToyTown's.
    """
    import ipywidgets as widgets

    model = SETR.from_pretrained(checkpoint)
    seed = widgets.IntSlider(0, 0, 999, description="street")
    stage = widgets.SelectionSlider(
        description="stage",
        options=[
            name
            for name, module in model.named_modules()
            if STAGE.fullmatch(name) and not isinstance(module, torch.nn.ModuleList)
        ],
    )
    view = widgets.HTML()

    def street() -> torch.Tensor:
        if picture:
            return read_image(picture)
        image, _ = render_scene(scene_seed(0, "val", seed.value))
        return torch.from_numpy(image).permute(2, 0, 1)

    def draw(change: object = None) -> None:
        image = street()
        maps = catch(model, model.preprocess(image), [stage.value])[stage.value][0]
        shape = " x ".join(map(str, maps.shape))
        view.value = sheet_html(
            [
                Pane(image, "image", "The image", 2, True),
                Pane(
                    feature_colors(maps, image),
                    f"{stage.value}: {shape}",
                    "Its features at this stage, as colours",
                    384 // maps.shape[-1],
                ),
                Pane(
                    colorize(model.predict(image), model.palette),
                    "labels",
                    "The labels that the model predicts",
                    2,
                ),
            ]
        )

    for control in (seed, stage):
        control.observe(draw, "value")
    draw()
    return seed, stage, view
