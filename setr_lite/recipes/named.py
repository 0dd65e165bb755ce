"""Named experiments: each is a function that returns its `RunConfig`.

A recipe states what it trains, for how long, and what it reached, so a run starts from a name:
``setr-lite train toytown_pup``. Settings are overridden one by one, ``train.steps=100``.

Every experiment of the paper, of the authors' configs and of mmsegmentation's is one; `published`
has the table of what they do not share.
"""

from __future__ import annotations

from collections.abc import Callable

from ..config import (
    DataConfig,
    EvalConfig,
    Head,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
)
from ..errors import UserError, nearest
from .downloads import SETRS
from .published import PUBLISHED, VARIANTS, Published


def _toytown(head: Head) -> RunConfig:
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
            steps=2200, batch_size=2, amp="off",  # so small that it gains nothing
            eval_every=1100, save_every=200, log_every=20, workers=0),
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


def _camvid(head: Head) -> RunConfig:
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
            steps=1800, batch_size=4, eval_every=0, save_every=200, log_every=20, workers=1),
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


def _camvid_dinov2(head: Head) -> RunConfig:
    """Whole images and their mirror images only, so that `train.feature_cache` can serve."""
    return RunConfig(
        recipe=f"camvid_dinov2_{head}",
        model=ModelConfig(
            encoder="timm:vit_small_patch14_dinov2.lvd142m", head=head, num_classes=11,
            img_size=(360, 480), channels=64, taps=(2, 5, 8, 11), aux=head == "mla",
            pretrained=""),
        data=DataConfig(
            name="camvid", base_size=(360, 480), crop_size=(360, 480), ratio_range=(1, 1),
            cat_max_ratio=1, distort=False),
        optim=OptimConfig(
            name="adamw", lr=1.5e-2, beta2=0.98, head_multiplier=1, weight_decay=0.05, warmup=100,
            min_lr=1e-6, clip_norm=1.0),
        train=TrainConfig(
            steps=1200, batch_size=2, eval_every=0, save_every=200, log_every=20, workers=1,
            freeze_encoder=True),
        eval=EvalConfig(mode="whole"),
    )


def camvid_dinov2_linear() -> RunConfig:
    """A linear probe on CamVid, DINOv2 ViT-S/14 frozen: the yardstick for the three heads."""
    return _camvid_dinov2("linear")


def camvid_dinov2_naive() -> RunConfig:
    """SETR-Naive on CamVid, DINOv2 ViT-S/14 frozen. Without auxiliary heads: they have layers of
    their own, so with a frozen encoder the main head's gradients would be the same."""
    return _camvid_dinov2("naive")


def camvid_dinov2_pup() -> RunConfig:
    """SETR-PUP on CamVid, DINOv2 ViT-S/14 frozen; without auxiliary heads, as Naive."""
    return _camvid_dinov2("pup")


def camvid_dinov2_mla() -> RunConfig:
    """SETR-MLA on CamVid, DINOv2 ViT-S/14 frozen. Its auxiliary heads stay: they train the neck."""
    return _camvid_dinov2("mla")


def _finetune(head: Head) -> RunConfig:
    """What the encoder knows is kept: a low rate for it, twenty times that for what is new.

    A crop of 224 pixels is a whole number of patches of 8, 14, 16, 28 and 32.
    """
    return RunConfig(
        recipe=f"finetune_{head}",
        model=ModelConfig(
            encoder="timm:vit_small_patch14_dinov2.lvd142m", pretrained="", head=head,
            num_classes=2, img_size=(224, 224), channels=64, aux=head != "linear",
            drop_path=0.1),
        data=DataConfig(
            name="folder", base_size=(360, 1440), crop_size=(224, 224), ratio_range=(0.5, 2.0)),
        loss=LossConfig(normalize="valid"),
        optim=OptimConfig(
            name="adamw", lr=5e-5, head_multiplier=20, neck_multiplier=20, weight_decay=0.05,
            warmup=100, min_lr=1e-6, clip_norm=1.0),
        train=TrainConfig(
            steps=1200, batch_size=8, eval_every=300, save_every=100, log_every=20),
        eval=EvalConfig(mode="whole"),
    )


def finetune_linear() -> RunConfig:
    """A 1x1 classifier on your own images, a pretrained encoder learning slowly: the yardstick."""
    return _finetune("linear")


def finetune_naive() -> RunConfig:
    """SETR-Naive on your own images, a pretrained encoder learning slowly."""
    return _finetune("naive")


def finetune_pup() -> RunConfig:
    """SETR-PUP on your own images, a pretrained encoder learning slowly."""
    return _finetune("pup")


def finetune_mla() -> RunConfig:
    """SETR-MLA on your own images, a pretrained encoder learning slowly."""
    return _finetune("mla")


TAPS = {
    ("naive", "vit_large_patch16"): (9, 14, 19, 23),
    ("pup", "vit_large_patch16"): (9, 14, 19, 23),
    ("mla", "vit_large_patch16"): (5, 11, 17, 23),
    ("naive", "vit_base_patch16"): (2, 5, 8, 11),
    ("pup", "vit_base_patch16"): (4, 7, 9, 11),
    ("mla", "vit_base_patch16"): (2, 5, 8, 11),
    ("naive", "hybrid_base"): (2, 5, 8, 11),  # not published
}
"""Blocks that the published configs read, from 0. SETR-Naive on 12 blocks takes other shares of
the depth than on 24."""

AUX_UNITS = {("naive", "mmseg", "cityscapes"): 1, ("naive", "mmseg", "ade20k"): 2}
"""Units of an auxiliary head where mmsegmentation's configs differ by data set."""


def _published(published: Published) -> RunConfig:
    """The settings of an experiment; what is not in its row all published recipes share."""
    task, square = published.task, (published.task.crop, published.task.crop)
    encoder, steps = VARIANTS[published.variant][0], published.thousands * 1000
    family = published.head, published.dialect, published.data
    return RunConfig(
        recipe=published.name,
        model=ModelConfig(
            encoder=encoder, head=published.head, dialect=published.dialect,
            num_classes=task.classes, img_size=square, taps=TAPS[published.head, encoder],
            aux_units=AUX_UNITS.get(family),
            pretrained="none" if published.pretrained == "none" else ""),
        data=DataConfig(
            name=task.dataset, base_size=task.base_size, crop_size=square,
            ratio_range=(0.5, 2.0), cat_max_ratio=0.75, flip=0.5, distort=True),
        loss=LossConfig(aux_weight=0.4, normalize="all"),
        optim=OptimConfig(
            name="sgd", lr=published.lr, head_multiplier=10, momentum=0.9, weight_decay=0,
            power=0.9, min_lr=1e-4, poly_steps="steps"),
        train=TrainConfig(
            steps=steps, batch_size=published.batch, eval_every=steps // 10,
            save_every=steps // 10, log_every=50),
        eval=EvalConfig(
            mode="slide", window=square, stride=(task.stride, task.stride),
            base_size=task.test_size),
    )


def _recipe(published: Published) -> Callable[[], RunConfig]:
    """A function like those above, documented from the table."""

    def recipe() -> RunConfig:
        return _published(published)

    recipe.__name__ = recipe.__qualname__ = published.name
    recipe.__doc__ = "\n".join([published.describe(), "", *commands(_published(published))])
    return recipe


def commands(config: RunConfig) -> list[str]:
    """Lines that train a recipe on one device, on eight if its batch divides, and score it."""
    name = config.recipe
    settings = name if config.data.root else f"{name} data.root=DIR"
    if not config.model.pretrained:
        source = PUBLISHED[name].pretrained if name in PUBLISHED else config.model.encoder
        settings += f" model.pretrained={source}"
    if config.data.name == "folder":
        settings += " model.num_classes=K"
    lines = [f"setr-lite train {settings}"]
    if config.train.batch_size % 8 == 0:
        lines.append(f"torchrun --standalone --nproc_per_node=8 -m setr_lite train {settings}")
    return [*lines, f"setr-lite eval runs/{name}/last"]


RECIPES: dict[str, Callable[[], RunConfig]] = {
    f.__name__: f
    for f in (
        toytown_naive, toytown_pup, toytown_mla, camvid_naive, camvid_pup, camvid_mla,
        camvid_dinov2_linear, camvid_dinov2_naive, camvid_dinov2_pup, camvid_dinov2_mla,
        finetune_linear, finetune_naive, finetune_pup, finetune_mla,
        *map(_recipe, PUBLISHED.values()),
    )
}  # fmt: skip
"""Name of a recipe -> function that returns its `RunConfig`; `setr-lite recipes` lists them."""


def get_recipe(name: str) -> RunConfig:
    """The `RunConfig` of a named recipe.

    Raises:
        UserError: no recipe of that name; the nearest is offered.
    """
    if name not in list(RECIPES):
        raise UserError(f"no recipe {name!r}{nearest(name, RECIPES)}")
    return RECIPES[name]()


def recipe_table() -> str:
    """All recipes, a line each: data, head, encoder, dialect, crop, batch, steps, mIoU.

    mIoU is the published one, single scale and with six scales and flip; a dash where none was.
    The last column says whose trained weights can be downloaded.
    """
    rows: list[tuple[str, ...]] = [TABLE]
    for name, recipe in RECIPES.items():
        config, published = recipe(), PUBLISHED.get(name)
        scores = (published.miou, published.miou_ms) if published else (None, None)
        rows.append((
            name, config.data.name, config.model.head, config.model.encoder, config.model.dialect,
            "x".join(map(str, config.data.crop_size)), str(config.train.batch_size),
            str(config.train.steps), *(f"{score:.2f}" if score else "-" for score in scores),
            "yes" if name in SETRS else "-",
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    form = "  ".join(f"{{:{side}{n}}}" for side, n in zip("<<<<<>>>>><", widths, strict=True))
    return "\n".join(form.format(*row) for row in rows)


TABLE = (
    "recipe", "data", "head", "encoder", "dialect", "crop", "batch", "steps", "mIoU", "ms+flip",
    "download",
)  # fmt: skip
