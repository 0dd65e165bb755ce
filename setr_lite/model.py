"""SETR: encoder, neck, head and auxiliary heads in one module.

Shapes: B images of H x W pixels, padded to H' x W' (multiples of the patch), grid h x w, K
classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checkpoint import check_fit, read_config, read_info, read_tensors, steady
from .config import DataConfig, ModelConfig, RunConfig, Size
from .encoder import PRESETS, VisionTransformer, default_taps
from .errors import UserError, nearest
from .heads import (
    Head,
    LinearHead,
    MLAAuxHead,
    MLAHead,
    MultiLevelAggregation,
    NaiveAuxHead,
    NaiveHead,
    PUPAuxHead,
    PUPHead,
    init_like_mmseg,
)
from .logits import Odd, SETROutput
from .timm_encoder import HYBRIDS, PREFIX, SIZES, HybridTransformer, TimmEncoder

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image


class SETR(nn.Module):
    """SEgmentation TRansformer (arXiv 2012.15840).

    ``model(image)`` returns a `SETROutput`, ``model.logits(image)`` the full-size logits, and
    ``model.predict(image)`` the label map of an image: a path, a PIL image, an array or a tensor.
    Any image size works: one that is not a multiple of the patch is padded with the mean colour
    and the result cut (or squeezed: `odd`), and for another grid the position table is resized.

    Args:
        num_classes: number of classes K, without the ignored label.
        head: ``naive``, ``pup`` or ``mla``; ``linear`` is a baseline, see `heads.LinearHead`.
        encoder: a key of `encoder.PRESETS`, ``hybrid_base``, or ``timm:NAME``, any plain ViT of
            timm, which brings its own patch size.
        others: names, meanings and defaults are those of `config.ModelConfig`.

    Raises:
        UserError: an unknown name, sizes that the encoder cannot have, or taps that it does not
            have.
    """

    def __init__(
        self,
        num_classes: int = 150,
        head: str = "pup",
        encoder: str = "vit_large_patch16",
        *,
        dialect: str = "official",
        patch_size: int | None = None,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
        mlp_ratio: float | None = None,
        patch_bias: bool = True,
        img_size: Size = (512, 512),
        odd: Odd = "crop",
        channels: int = 256,
        taps: tuple[int, ...] | None = None,
        aux: bool = True,
        aux_units: int | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        _check_name("head", head, ("naive", "pup", "mla", "linear"))
        _check_name("dialect", dialect, ("official", "mmseg"))
        _check_name("odd", odd, ("crop", "squeeze"))
        self.odd: Odd = odd
        self.config: RunConfig | None = None  #: the run that trained it, None if none did
        self.classes: tuple[str, ...] = ()  #: names by label; empty if no run trained it
        self.palette: tuple[tuple[int, int, int], ...] = ()  #: RGB colours by label, 0..255
        sizes = zip(SIZES, (patch_size, embed_dim, depth, num_heads, mlp_ratio), strict=True)
        self.encoder: VisionTransformer | TimmEncoder = _encoder(  #: image -> tokens of four blocks
            encoder, head, img_size=img_size, taps=taps, drop_path=drop_path,
            patch_bias=patch_bias, sizes={key: n for key, n in sizes if n is not None})
        dim, patch = self.encoder.embed_dim, self.encoder.patch_size
        #: the `MultiLevelAggregation` of MLA, else ``nn.Identity``
        self.neck = MultiLevelAggregation(dim, channels) if head == "mla" else nn.Identity()
        self.head: Head = _main_head(head, dim, channels, num_classes, dialect, patch)  #: main head
        self.aux_streams = AUX_STREAMS.get((head, dialect), ()) if aux else ()
        self.aux_heads = nn.ModuleList(  #: one for each auxiliary loss
            _aux_head(head, dim, channels, num_classes, dialect, aux_units)
            for _ in self.aux_streams
        )
        if dialect == "mmseg":
            init_like_mmseg(self.neck, self.head, self.aux_heads)

    @classmethod
    def from_config(cls, config: ModelConfig) -> SETR:
        """The model that a run's `ModelConfig` describes, with random weights.

        `config.pretrained` is for the start of a training and not read here.
        """
        return cls(**{key: value for key, value in vars(config).items() if key != "pretrained"})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> SETR:
        """A trained model on the CPU, in eval mode; ``.to("cuda")`` moves it, `predict` follows.

        Args:
            folder: of a checkpoint; or the name of a recipe with published weights, which
                `setr-lite download` lists, or ``user/name`` on the Hugging Face hub. These are
                downloaded once and kept in ``$SETR_HOME``, by default in the user's cache folder.

        Returns:
            The model, with its run in ``config``, its classes in ``classes`` and ``palette``.

        Raises:
            UserError: no checkpoint there, weights that do not fit its config, or a download that
                failed.
        """
        info, config, tensors = steady(
            folder, lambda now: (read_info(now), read_config(now), read_tensors(now)))
        with torch.device("meta"):  # a config that is not that of the file may ask for gigabytes
            check_fit(folder, tensors, cls.from_config(config.model))
        model = cls.from_config(config.model)
        model.load_state_dict(tensors)
        model.config = config
        model.classes = tuple(info["classes"])
        model.palette = tuple((r, g, b) for r, g, b in info["palette"])
        return model.eval()

    def push_to_hub(self, name: str, **about: Any) -> str:
        """Upload to the Hugging Face hub as ``user/name``, with a model card.

        Args:
            name: of the repository; `from_pretrained` takes it.
            about: ``license=``, ``data=``, ``scores=``, ``private=`` of `weights.hub.push_to_hub`.

        Returns:
            The address of the commit.

        Raises:
            UserError: a model without settings, no network, or no right to write there.
        """
        from . import push_to_hub  # by its public name: it lies further up

        return push_to_hub(self, name, **about)

    def forward(self, image: Tensor, *, aux: bool | None = None) -> SETROutput:
        """(B, 3, H, W) normalised -> SETROutput; ``aux=None``: auxiliary heads in training only."""
        features, patch = self.features(image), self.encoder.patch_size
        size, (h, w) = (image.shape[-2], image.shape[-1]), self._grid(image)
        streams = self.aux_streams if (self.training if aux is None else aux) else ()
        heads = cast("Iterable[Head]", self.aux_heads)
        extra = (head.lazy([features[i]]) for head, i in zip(heads, streams, strict=False))
        main = self.head.lazy(features)
        return SETROutput(main, tuple(extra), size, (h * patch, w * patch), self.odd)

    def features(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised -> the maps (B, D, h, w) that the heads read, shallow first.

        D is the width of the encoder; with the MLA neck, which comes before them, `channels`.
        """
        (h, w), patch = self._grid(image), self.encoder.patch_size
        below, right = h * patch - image.shape[-2], w * patch - image.shape[-1]
        if below or right:  # F.pad copies the batch even where it adds nothing
            image = F.pad(image, (0, right, 0, below))
        return self.neck([t.transpose(1, 2).unflatten(2, (h, w)) for t in self.encoder(image)])

    def _grid(self, image: Tensor) -> Size:
        """(h, w) in patches, rounded up."""
        patch = self.encoder.patch_size
        return (image.shape[-2] + patch - 1) // patch, (image.shape[-1] + patch - 1) // patch

    def logits(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, K, H, W), the image's size.

        ``model(image).logits`` is smaller: what the head puts out, before the last resize.
        """
        return self(image).full()

    def preprocess(self, image: Any) -> Tensor:
        """One image -> (1, 3, h, w) normalised, on the model's device.

        A path, a PIL image, a uint8 array (H, W, 3) or (H, W), or a uint8 tensor (3, H, W) or
        (1, H, W); colour is RGB. A model from a checkpoint also resizes to the size it was
        evaluated at. `predict` does this, and all that follows; `inference.predict` brings labels
        back to the size of the image with ``size=(H, W)``.

        Raises:
            UserError: the image is a batch, is already normalised, or is of another type.
        """
        from .datasets.images import as_image
        from .transforms import TestTransform

        image = as_image(image)
        _, height, width = image.shape
        plain = DataConfig(base_size=(height, width))
        data = self.config.test_data() if self.config else plain
        return TestTransform(self.normalization(data))(image)[None].to(self.device)

    @overload
    def predict(
        self, image: list[Any] | tuple[Any, ...], *, probabilities: bool = ...,
        config: RunConfig | None = ...,
    ) -> list[Tensor]: ...
    @overload
    def predict(
        self, image: str | Path | Image | np.ndarray | Tensor, *, probabilities: bool = ...,
        config: RunConfig | None = ...,
    ) -> Tensor: ...
    def predict(
        self, image: Any, *, probabilities: bool = False, config: RunConfig | None = None
    ) -> Tensor | list[Tensor]:
        """The class of every pixel of an image, or of several.

        A model from a checkpoint predicts as it was evaluated: protocol, windows, size,
        normalisation and precision of its run, ``model.config``. A model built by ``SETR(...)`` has
        no run: it predicts at the image's own size, with sliding windows of `img_size` at a stride
        of two thirds of that (as published), and normalises as its encoder expects.

        Args:
            image: a path, a PIL image, a uint8 array (H, W, 3) or (H, W), or a uint8 tensor
                (3, H, W) or (1, H, W); colour is RGB. Or a list of these, of any sizes; or a batch,
                an array (B, H, W, 3) or a tensor (B, 3, H, W).
            probabilities: return them instead, float32, K x H x W x 4 bytes each.
            config: a run to take instead of the model's own, such as
                ``model.config.override("eval.protocol=official+ms")``.

        Returns:
            (H, W) on the CPU, uint8 for up to 256 classes, else int64; or (K, H, W), whose K values
            sum to one. A list for a list, (B, ...) for a batch. `predict_images` streams more
            images than memory holds.

        Raises:
            UserError: an image of another type, or a file that cannot be read.
        """
        from . import predict_images  # by its public name: it lies further up

        several, batch = isinstance(image, list | tuple), getattr(image, "ndim", None) == 4
        found = list(predict_images(
            self, image if several or batch else [image], probabilities=probabilities,
            config=config))
        if batch and not found:
            raise UserError("a batch of no images: give at least one")
        if batch:
            return torch.stack(found)
        return found if several else found[0]

    def normalization(self, data: DataConfig) -> DataConfig:
        """A copy of `data` in which mean and std are numbers: its own, else the encoder's."""
        encoder = self.encoder
        return replace(data, mean=data.mean or encoder.mean, std=data.std or encoder.std)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device


AUX_STREAMS = {
    ("naive", "official"): (0, 1, 2),
    ("naive", "mmseg"): (0, 1, 2),
    ("pup", "official"): (0, 1, 2, 3),
    ("pup", "mmseg"): (0, 1, 2),
    ("mla", "official"): (0, 1, 2, 3),
    ("mla", "mmseg"): (0, 1, 2, 3),
}
"""Which of the four streams carry an auxiliary head (paper, section 4.1; mmsegmentation's PUP
leaves the last one out)."""


def _encoder(
    name: str, head: str, *, taps: tuple[int, ...] | None, sizes: dict[str, Any],
    patch_bias: bool, **settings: Any,
) -> VisionTransformer | TimmEncoder:
    """The encoder of a name, with the contract of `VisionTransformer`."""
    if not patch_bias and name not in PRESETS:
        raise UserError(f"patch_bias=False: encoder {name} has its own; take a preset")
    settings |= sizes
    if name.startswith(PREFIX):
        return TimmEncoder.from_name(name.removeprefix(PREFIX), head=head, taps=taps, **settings)
    _check_name("encoder", name, (*PRESETS, *HYBRIDS))
    depth = sizes.get("depth", PRESETS[HYBRIDS.get(name, name)]["depth"])
    # the class token stays out of SETR-MLA's blocks, as published
    settings |= {"taps": taps or default_taps(depth, head), "keep_class_token": head != "mla"}
    if name not in HYBRIDS:
        return VisionTransformer.from_preset(name, patch_bias=patch_bias, **settings)
    if "patch_size" in sizes:
        raise UserError(f"patch_size={sizes['patch_size']}: encoder {name} has a ResNet's 16")
    return HybridTransformer.from_preset(name, **settings)


def _main_head(
    head: str, dim: int, channels: int, num_classes: int, dialect: str, patch_size: int
) -> Head:
    if head == "naive":
        return NaiveHead(dim, channels, num_classes, dialect)
    if head == "mla":
        return MLAHead(channels, num_classes, dialect)
    if head == "linear":
        return LinearHead(dim, num_classes)
    return PUPHead(dim, channels, num_classes, dialect, round(math.log2(patch_size)))


def _aux_head(
    head: str, dim: int, channels: int, num_classes: int, dialect: str, units: int | None
) -> Head:
    if head == "mla":
        return MLAAuxHead(channels, num_classes, dialect)
    if head == "pup":
        return PUPAuxHead(dim, channels, num_classes, dialect)
    return NaiveAuxHead(dim, channels, num_classes, dialect, units)


def _check_name(what: str, name: str, choices: Iterable[str]) -> None:
    if name not in choices:
        raise UserError(f"no {what} {name!r:.200}{nearest(name, choices)}")


def count_parameters(module: nn.Module) -> int:
    """Number of values in all parameters; BatchNorm's running statistics are not parameters."""
    return sum(p.numel() for p in module.parameters())


