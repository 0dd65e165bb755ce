"""The settings of a run: frozen dataclasses, typed ``section.key=value`` overrides, JSON.

A :class:`RunConfig` holds everything that decides a result, so a checkpoint that carries it can
be evaluated, resumed or repeated without other files. Sizes are ``(height, width)`` in pixels.
"""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import UserError, nearest
from .typed import as_object, at_least, check_types, from_json, text_of, value_of, within

Head = Literal["naive", "pup", "mla", "linear"]
"""The paper's decoders, and a linear probe as a baseline."""
Dialect = Literal["official", "mmseg"]
"""Whose code a head follows, see `heads`."""
Size = tuple[int, int]
"""(height, width)."""
Box = tuple[int, int, int, int]
"""(top, left, bottom, right): rows top to bottom - 1, columns left to right - 1."""
Colour = tuple[float, float, float]
"""(red, green, blue)."""

IGNORE = 255
"""The label of pixels that count nowhere: nothing is learned from them, nothing is scored."""

IMAGENET_MEAN: Colour = (123.675, 116.28, 103.53)
"""Mean of ImageNet's RGB in 0..255; every published SETR recipe subtracts it."""
IMAGENET_STD: Colour = (58.395, 57.12, 57.375)
"""Standard deviation of ImageNet's RGB in 0..255."""
LARGEST_SIDE = 16_384
"""Most pixels that a setting may ask for in height or width."""
MOST_PIXELS = 1 << 27
"""Of a crop or a resized image; 1.5 GiB as float32."""
MOST_RATIOS = 64
"""Of an image whose predictions are averaged; published protocols have six."""
MOST_IN_ENCODER = {
    "patch_size": 256, "embed_dim": 16_384, "depth": 1024, "num_heads": 1024, "mlp_ratio": 64}
"""Of the sizes of an encoder, far above the largest that was ever published."""


@dataclass(frozen=True)
class ModelConfig:
    """The model: encoder, neck and heads."""

    encoder: str = "vit_large_patch16"
    """A key of `encoder.PRESETS`, ``hybrid_base``, or ``timm:NAME``, any plain ViT of timm, with
    timm's patch size and, unless `data.mean` and `data.std` are given, timm's normalisation."""
    pretrained: str = "none"
    """Where the encoder's first weights come from: ``none`` (random); FILE (a ViT as timm, DeiT,
    AugReg or mmsegmentation store it: .pth .safetensors .npz); FOLDER (a checkpoint of this
    library, whose encoder goes on behind new heads); ``timm:NAME`` (timm's download); for
    ``hybrid_base`` two of these files, ``RESNET,VIT``. A name that `setr-lite download` lists is
    fetched the first time.
    Empty: the recipe needs weights and none are named, so training refuses to start. Only
    the start of a fresh run reads it; a checkpoint has its own weights."""
    head: Head = "pup"
    """Decoder of the paper's section 3.3; ``linear`` is a baseline, see `heads.LinearHead`."""
    dialect: Dialect = "official"
    """The implementation that the heads follow, ``official`` (the authors' code) or ``mmseg``
    (mmsegmentation)."""
    num_classes: int = 150
    """Number of outputs, without the ignored label."""
    patch_size: int | None = None
    """Side of a patch in pixels; None keeps the encoder's own."""
    embed_dim: int | None = None
    """Width of a token, in channels; None keeps the encoder's own."""
    depth: int | None = None
    """Number of blocks; None keeps the encoder's own."""
    num_heads: int | None = None
    """Attention heads of a block; must divide the width. None keeps the encoder's own."""
    mlp_ratio: float | None = None
    """Hidden width of a block's MLP, in units of the token's; None keeps the encoder's own."""
    patch_bias: bool = True
    """The patch projection adds a bias, as the paper's and timm's do; mmsegmentation 1.x has none
    (``patch_bias=False`` in its configs). Presets only."""
    img_size: Size = (512, 512)
    """Image size whose grid the position table has; for other sizes the table is resized."""
    odd: Literal["crop", "squeeze"] = "crop"
    """``crop`` cuts off the padding of a size that the patch does not divide, ``squeeze`` resizes
    the padded map to the image, as mmsegmentation does. Holds for the loss, too; a named
    `eval.protocol` has its own way."""
    channels: int = 256
    """Width of the heads and of the MLA neck."""
    taps: tuple[int, ...] | None = None
    """Four 0-based blocks whose output is read, shallow to deep. Naive and PUP decode the last one;
    their auxiliary heads read the others, official PUP's the last, too. None takes the rule of
    `encoder.default_taps` (blocks 9, 14, 19, 23 of 24; MLA 5, 11, 17, 23)."""
    aux: bool = True
    """Build the auxiliary heads (used in training only)."""
    aux_units: int | None = None
    """Units of a Naive auxiliary head; None takes the dialect's own: 1, mmseg 2 (its Cityscapes
    configs have 1)."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last block, rising linearly from 0; 0 in published recipes."""

    def __post_init__(self) -> None:
        if self.pretrained.strip() in ("timm:", "timm"):
            raise UserError(
                f"model.pretrained={self.pretrained}: name the weights, such as "
                "timm:vit_base_patch16_384"
            )
        check_types("model", self)
        within("model.num_classes", self.num_classes, 1, 65_535)
        within("model.channels", self.channels, 2, 4096)
        for key, most in MOST_IN_ENCODER.items():
            value = getattr(self, key)
            within(f"model.{key}", 1 if value is None else value, 1, most)
        within("model.aux_units", self.aux_units or 1, 1, 64)
        within("model.drop_path", self.drop_path, 0, 0.99)
        for side in self.img_size:
            within("model.img_size", side, 1, LARGEST_SIDE)
        if self.taps is not None and (
            len(self.taps) != 4 or sorted(set(self.taps)) != list(self.taps) or self.taps[0] < 0
        ):
            raise UserError(f"model.taps={self.taps}: give four rising block indices, first is 0")


@dataclass(frozen=True)
class DataConfig:
    """What is read and how it is augmented (facts of the published pipeline, in its order)."""

    name: str = "ade20k"
    """Data set: ``ade20k``, ``cityscapes``, ``pascal_context`` (60 classes), ``pascal_context_59``,
    ``camvid``, ``camvid_unseen`` (scored on a drive not trained on), ``folder`` (your own)."""
    root: str = ""
    """Its folder; empty takes ``$SETR_DATA/<name>``, else ``data/<name>``."""
    classes: str = ""
    """List of the classes of a ``folder`` data set: one per line, ``NAME``, ``NAME #rrggbb`` or
    ``ID NAME``; empty takes ``classes.txt`` in the folder. The other data sets have their own."""
    base_size: Size = (512, 2048)
    """Short and long side that an image is fitted into before the random ratio is applied."""
    crop_size: Size = (512, 512)
    """Height and width of a training crop."""
    ratio_range: tuple[float, float] = (0.5, 2.0)
    """Range of the random resize; ``1,1`` keeps the base size."""
    cat_max_ratio: float = 0.75
    """A crop is redrawn, up to ten times, while one class covers this share of it; 1 never."""
    flip: float = 0.5
    """Chance of a horizontal flip."""
    distort: bool = True
    """Photometric distortion: brightness, contrast, saturation, hue."""
    mean: Colour | None = None
    """Mean that is subtracted, per channel, from RGB in 0..255. None takes what the encoder was
    trained with: `IMAGENET_MEAN` for the presets, as published; timm's constants for a ``timm:``
    encoder. A run writes the numbers it used into its checkpoint."""
    std: Colour | None = None
    """Standard deviation that each channel is divided by; None as for `mean`, `IMAGENET_STD` for
    the presets."""

    def __post_init__(self) -> None:
        check_types("data", self)
        within("data.flip", self.flip, 0, 1)
        within("data.cat_max_ratio", self.cat_max_ratio, 0, 1)
        for side in (*self.crop_size, *self.base_size):
            within("data.crop_size and data.base_size", side, 1, LARGEST_SIDE)
        within("data.crop_size: height x width", math.prod(self.crop_size), 1, MOST_PIXELS)
        low, high = self.ratio_range
        if not 0 < low <= high:
            raise UserError(f"data.ratio_range={self.ratio_range}: give 0 < low <= high")
        for value in self.std or ():
            within("data.std", value, 1e-3, 1e6)
        for value in self.mean or ():
            within("data.mean", value, -1e6, 1e6)


@dataclass(frozen=True)
class LossConfig:
    """Cross-entropy of the main head and the auxiliary heads."""

    aux_weight: float = 0.4
    """Weight of each auxiliary loss (published configurations)."""
    normalize: Literal["all", "valid"] = "all"
    """Divide the sum over pixels by all of them (as the published code does) or by those not
    ignored."""
    class_weights: tuple[float, ...] | Literal["auto"] | None = None
    """Weight of a pixel of each class, one number a class; None weights all alike, as in every SETR
    recipe. ``auto`` counts the pixels of the training masks first and takes
    `datasets.balance.balanced_weights`; a run writes the numbers into its checkpoint. Frequent
    classes pay for what rare ones gain: look at the IoU of all classes, not at recall alone."""

    def __post_init__(self) -> None:
        check_types("loss", self)
        at_least("loss.aux_weight", self.aux_weight, 0)
        if isinstance(self.class_weights, (tuple, list)):
            for weight in self.class_weights:
                within("loss.class_weights", weight, 0, 1e6)

    def weights(self) -> tuple[float, ...] | None:
        """`class_weights` as numbers, or None.

        Raises:
            UserError: ``auto``, where the masks have not been looked at.
        """
        if self.class_weights == "auto":
            raise UserError(
                "loss.class_weights=auto: `train` puts the numbers in its place; give "
                "`datasets.balance.balanced_weights(...)` to a loop of your own"
            )
        return self.class_weights


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and learning-rate schedule."""

    name: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum as published, or AdamW."""
    lr: float = 0.001
    """Base learning rate, of the encoder and, by `neck_multiplier`, the MLA neck."""
    head_multiplier: float = 10.0
    """Learning rate of the heads in units of `lr`."""
    neck_multiplier: float = 1.0
    """Learning rate of the MLA neck in units of `lr`; 1 as published, which is slow for a new neck
    beside an encoder with a low rate."""
    layer_decay: float = 1.0
    """Each encoder block's learning rate is this factor times the next one's, and the embeddings'
    this factor times the first block's; 1, as in every SETR recipe, leaves the encoder at `lr`.
    With 0.75 the last of 12 blocks trains at 0.75 `lr`, the first at 0.03 (the rule of BEiT, Bao et
    al., ICLR 2022)."""
    momentum: float = 0.9
    """Momentum of SGD; first beta of AdamW."""
    beta2: float = 0.999
    """AdamW's second beta; 0.98 in ``toytown_*`` and ``camvid_*``, short runs."""
    weight_decay: float = 0.0
    """Weight decay, 0 in all published recipes. Biases, norms, class token and position table
    never decay."""
    warmup: int = 0
    """Steps over which the rate rises linearly to `lr`; 0 in all published recipes."""
    power: float = 0.9
    """Exponent of the poly schedule."""
    poly_steps: Literal["steps", "steps-1"] = "steps"
    """Divisor of the poly schedule, T = `train.steps`: T in the authors' code and mmsegmentation
    0.x, where the last step still runs above `min_lr`; T - 1 in mmsegmentation 1.x, whose last
    step runs at `min_lr`."""
    min_lr: float = 1e-4
    """Floor of the schedule, the same for every parameter group."""
    clip_norm: float = 0.0
    """Gradients are scaled down to this total norm; 0 never clips."""

    def __post_init__(self) -> None:
        check_types("optim", self)
        if self.lr <= 0:
            raise UserError(f"optim.lr={self.lr}: must be positive")
        for key in ("head_multiplier", "neck_multiplier", "weight_decay", "warmup", "power",
                    "min_lr", "clip_norm"):  # fmt: skip
            at_least(f"optim.{key}", getattr(self, key), 0)
        within("optim.layer_decay", self.layer_decay, 0.01, 1)
        within("optim.momentum", self.momentum, 0, 0.9999)
        within("optim.beta2", self.beta2, 0, 0.99999)


@dataclass(frozen=True)
class TrainConfig:
    """The training loop."""

    steps: int = 160_000
    """Optimiser steps."""
    batch_size: int = 16
    """Images per optimiser step, over all processes and accumulated parts. ``auto``, on the
    command line and in `RunConfig.override`, keeps the number and sets `fit`."""
    fit: bool = False
    """Choose `micro_batch`, `grad_checkpointing` and, as a last resort, `accumulate` so that the
    batch fits the free memory, the fastest way first. The batch stays as published; too little
    memory for one image is an error."""
    accumulate: int = 1
    """Parts into which a process's share of the batch is split; gradients add up. BatchNorm
    then sees the statistics of a part."""
    micro_batch: int = 0
    """Images that the encoder takes at a time; 0 takes all. Exact: the taps of all images are
    collected first, neck, heads and loss see the whole batch, with its true BatchNorm statistics,
    and the encoder then runs again, micro-batch by micro-batch, for its gradients. Costs one more
    forward pass of the encoder; its activations shrink to those of one micro-batch."""
    grad_checkpointing: bool = False
    """Keep only each block's input and run the block again for its gradients: exact, for one more
    forward pass of the encoder. Memory then holds one token map per block for the whole batch,
    and the activations of one block; with `micro_batch`, the taps, and all blocks' activations of a
    few images. Both together cost two more forward passes."""
    seed: int = 0
    """Seeds the weights, the order of the images and every augmentation."""
    out: str = ""
    """Folder of the run; empty takes ``runs/<recipe>``."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``, also for eval and predict; auto takes CUDA when
    there is one."""
    amp: Literal["auto", "off", "bf16"] = "auto"
    """bfloat16 autocast; auto uses it on processors that are faster in bfloat16. The published
    runs were in float32, ``off``."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Several processes each hold the model and average gradients (``ddp``), or share one in
    pieces (``fsdp``). Checkpoints do not depend on it, nor on the number of processes."""
    sync_bn: bool = True
    """With several processes BatchNorm sees the images of all, as published: one or two a GPU
    are too few for statistics of their own."""
    compile: bool = False
    """Compile each encoder block."""
    freeze_encoder: bool = False
    """The encoder keeps its first weights; neck and heads learn."""
    feature_cache: str = ""
    """Folder that keeps a frozen encoder's tokens of every image and its mirror image, so that
    they are computed once, also for later runs. Needs `data` settings that leave only the flip;
    empty keeps none."""
    workers: int = -1
    """Loader processes of each process that trains; -1 takes its share of the cores, eight at
    most. The result does not depend on it."""
    eval_every: int = 16_000
    """Steps between evaluations; 0 evaluates only at the end."""
    save_every: int = 2_000
    """Steps between checkpoints; the last one and the best by mIoU are kept."""
    keep_last: int = 1
    """Number of the latest checkpoints to keep; above 1 they are kept under their step's number,
    beside ``last`` and ``best``."""
    log_every: int = 20
    """Steps between lines of the log."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """An image that cannot be read ends the run, or another takes its place; with ``skip`` a loader
    process that dies is started again, too. Both are counted in the checkpoint."""

    def __post_init__(self) -> None:
        check_types("train", self)
        if self.parallel == "fsdp" and self.feature_cache:
            raise UserError(
                "train.feature_cache: its encoder runs for new images only, and the pieces of "
                "train.parallel=fsdp have to run together; use train.parallel=ddp"
            )
        for key in ("steps", "batch_size", "accumulate", "save_every", "keep_last", "log_every"):
            at_least(f"train.{key}", getattr(self, key), 1)
        at_least("train.workers", self.workers, -1)
        for key in ("eval_every", "seed", "micro_batch"):
            at_least(f"train.{key}", getattr(self, key), 0)

    def local_batch(self, processes: int) -> int:
        """Images of a step that one of `processes` takes.

        Raises:
            UserError: the batch does not divide into processes and accumulated parts.
        """
        if self.batch_size % (processes * self.accumulate):
            raise UserError(
                f"train.batch_size={self.batch_size}: not a multiple of {processes} processes x "
                f"train.accumulate={self.accumulate}"
            )
        return self.batch_size // processes


@dataclass(frozen=True)
class EvalConfig:
    """How an image is turned into labels."""

    mode: Literal["whole", "slide"] = "slide"
    """The whole image at once, or overlapping windows whose logits are averaged."""
    protocol: Literal[
        "none", "paper", "paper+ms", "official", "official+ms",
        "mmseg-0.x", "mmseg-0.x+ms", "mmseg-1.x", "mmseg-1.x+ms",
    ] = "none"  # fmt: skip
    """A published protocol, a key of `PROTOCOLS`: how images are scaled and what is averaged.
    ``+ms`` averages several scales and mirror images. ``none`` goes by `ratios` and `flip`."""
    window: Size = (512, 512)
    """Height and width of a window."""
    stride: Size = (341, 341)
    """Vertical and horizontal distance between windows."""
    window_batch: int = 4
    """Windows of an image that go through the model together, or whole images of its views; changes
    memory and speed only."""
    base_size: Size | None = None
    """Short and long side that an image is fitted into at test time; None takes
    `data.base_size`. The published Pascal Context recipes train and test at different ones."""
    ratios: tuple[float, ...] = (1.0,)
    """Scales, up to 64, relative to `base_size`, whose probabilities are averaged."""
    flip: bool = False
    """Average with the prediction of the mirrored image."""
    amp: Literal["auto", "off", "bf16"] = "off"
    """bfloat16 autocast, as for `train.amp`. ``off`` computes in float32, as the published runs
    did. With bfloat16, pixels whose two best classes are nearly tied can change, and the scores
    with them."""
    limit: int = 0
    """Number of images to evaluate, the first ones; 0 evaluates all."""

    def __post_init__(self) -> None:
        check_types("eval", self)
        for side in (*self.window, *self.stride):
            within("eval.window and eval.stride", side, 1, LARGEST_SIDE)
        if len(self.ratios) > MOST_RATIOS:
            raise UserError(f"eval.ratios: {len(self.ratios)} of them; give up to {MOST_RATIOS}")
        for side in self.base_size or ():
            within("eval.base_size", side, 1, LARGEST_SIDE)
        if not self.ratios or min(self.ratios) <= 0:
            raise UserError(f"eval.ratios={self.ratios}: give one or more positive numbers")
        at_least("eval.limit", self.limit, 0)
        within("eval.window_batch", self.window_batch, 1, 4096)


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run: model, data, loss, optimiser, training, evaluation.

    Start from a recipe and override single settings.
    """

    recipe: str = ""
    """Name of the recipe it started from."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Encoder, neck and heads."""
    data: DataConfig = field(default_factory=DataConfig)
    """What is read, and how it is augmented."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Cross-entropy of main and auxiliary heads."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and learning-rate schedule."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The training loop."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """How an image is turned into labels."""

    def override(self, *settings: str) -> RunConfig:
        """A copy with ``"section.key=value"`` settings applied, left to right.

        Values are parsed by the field's type: ``train.steps=100``, ``data.crop_size=96,192``,
        ``data.flip=0``, ``model.taps=none``, ``model.aux=false``. ``train.batch_size=auto`` is
        ``train.fit=true``.

        Raises:
            UserError: unknown section or key (the nearest name is offered), or a value that does
                not fit the type or the allowed range.
        """
        config = self
        for setting in settings:
            if setting.replace(" ", "") == "train.batch_size=auto":
                setting = "train.fit=true"
            path, equals, text = setting.partition("=")
            section, dot, key = path.partition(".")
            if not (equals and dot):
                raise UserError(f"{setting!r} is not a setting; write section.key=value")
            sections = [f.name for f in dataclasses.fields(config) if f.name != "recipe"]
            if section not in sections:
                hint = nearest(section, sections)
                raise UserError(f"no section {section!r} in {setting!r}{hint}")
            part = getattr(config, section)
            value = value_of(path, text.strip(), typing.get_type_hints(type(part)))
            part = dataclasses.replace(part, **{key: value})
            config = dataclasses.replace(config, **{section: part})
        return config

    def test_data(self) -> DataConfig:
        """`data` as images are prepared at test time: with `eval.base_size`, if one is set."""
        base_size = self.eval.base_size or self.data.base_size
        return dataclasses.replace(self.data, base_size=base_size)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings, as JSON knows them."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunConfig:
        """The inverse of :meth:`to_dict`; missing keys take their defaults.

        Raises:
            UserError: a key that no section has, or a value of the wrong type.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        for name in as_object("a run's settings", values):
            if name not in known:
                raise UserError(f"no section {name!r} in a run's settings{nearest(name, known)}")
        parts: dict[str, Any] = {"recipe": str(values.get("recipe", ""))}
        for name, kind in typing.get_type_hints(cls).items():
            if name != "recipe":
                parts[name] = from_json(name, kind, values.get(name, {}))
        return cls(**parts)


def settings_table(config: RunConfig) -> str:
    """Every setting with its value, one ``section.key=value`` per line, as `override` reads it."""
    return "\n".join(
        f"{section}.{key}={text_of(value)}"
        for section, part in config.to_dict().items()
        if section != "recipe"
        for key, value in part.items()
    )
