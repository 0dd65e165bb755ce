"""Named experiments: each is a function that returns its `RunConfig`.

A recipe states what it trains, for how long, and what it reached, so a run starts from a name:
``setr-lite train toytown_pup``. Settings are overridden one by one, ``train.steps=100``.
"""

from __future__ import annotations

from collections.abc import Callable

from .config import DataConfig, EvalConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
from .errors import UserError, nearest


def _toytown(head: str) -> RunConfig:
    return RunConfig(
        recipe=f"toytown_{head}",
        model=ModelConfig(
            encoder="toy", head=head, num_classes=19, img_size=(96, 192), channels=64),
        data=DataConfig(
            name="cityscapes", root="toytown", base_size=(96, 192), crop_size=(96, 192),
            ratio_range=(1, 1), cat_max_ratio=1, distort=False),
        optim=OptimConfig(
            name="adamw", lr=1.5e-3, beta2=0.98, head_multiplier=1, weight_decay=0.05, warmup=100,
            min_lr=1e-6, clip_norm=1.0),
        train=TrainConfig(
            steps=2450, batch_size=2, eval_every=1225, save_every=200, log_every=20, workers=0),
        eval=EvalConfig(mode="whole"),
    )


def toytown_naive() -> RunConfig:
    """SETR-Naive on ToyTown: the toy encoder, one 1x1 unit, a single large bilinear step."""
    return _toytown("naive")


def toytown_pup() -> RunConfig:
    """SETR-PUP on ToyTown: the toy encoder, three 3x3 units with 2x steps between."""
    return _toytown("pup")


def toytown_mla() -> RunConfig:
    """SETR-MLA on ToyTown: the toy encoder read at four depths, aggregated from deep to shallow."""
    return _toytown("mla")


def _camvid(head: str) -> RunConfig:
    return RunConfig(
        recipe=f"camvid_{head}",
        model=ModelConfig(
            encoder="vit_tiny_patch16", head=head, num_classes=11, img_size=(224, 224),
            channels=64),
        data=DataConfig(
            name="camvid", base_size=(360, 480), crop_size=(224, 224), ratio_range=(0.5, 2.0)),
        optim=OptimConfig(
            name="adamw", lr=1e-3, beta2=0.98, head_multiplier=1, weight_decay=0.05, warmup=100,
            min_lr=1e-6, clip_norm=1.0),
        train=TrainConfig(
            steps=1200, batch_size=4, eval_every=0, save_every=200, log_every=20, workers=1),
        eval=EvalConfig(mode="slide", window=(224, 224), stride=(149, 149)),
    )


def camvid_naive() -> RunConfig:
    """SETR-Naive on CamVid's 367 real street scenes, ViT-Tiny from random weights."""
    return _camvid("naive")


def camvid_pup() -> RunConfig:
    """SETR-PUP on CamVid's 367 real street scenes, ViT-Tiny from random weights."""
    return _camvid("pup")


def camvid_mla() -> RunConfig:
    """SETR-MLA on CamVid's 367 real street scenes, ViT-Tiny from random weights."""
    return _camvid("mla")


RECIPES: dict[str, Callable[[], RunConfig]] = {
    f.__name__: f
    for f in (toytown_naive, toytown_pup, toytown_mla, camvid_naive, camvid_pup, camvid_mla)
}


def get_recipe(name: str) -> RunConfig:
    """The `RunConfig` of a named recipe.

    Raises:
        UserError: no recipe of that name; the nearest is offered.
    """
    if name not in RECIPES:
        raise UserError(f"no recipe {name!r}{nearest(name, RECIPES)}")
    return RECIPES[name]()
