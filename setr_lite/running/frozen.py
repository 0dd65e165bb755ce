"""Training heads on an encoder that does not learn, and whose features are computed once.

A frozen encoder gives the same tokens for the same image, step after step. Where augmentation
leaves nothing but the mirror image, a run sees each image in two forms only, so their tokens can
be kept: a step then costs the heads and a read from disk. Images are encoded one by one, so the
tokens do not depend on the batch that an image first came in.

Shape legend: B images, N patches, C channels of the encoder.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import RunConfig
from ..datasets.base import SegmentationDataset
from ..datasets.images import image_size
from ..encoder import VisionTransformer
from ..errors import UserError, in_short
from ..files import written_beside
from ..timm_encoder import TimmEncoder
from ..transforms import fit_size


def freeze_encoder(encoder: VisionTransformer | TimmEncoder, config: RunConfig) -> None:
    """Take `encoder` out of the training as `config.train` asks, perhaps with a feature cache.

    Raises:
        UserError: an encoder whose BatchNorm would go on learning, or a cache where every crop is
            another one (see `refuse_random_crops`, too).
    """
    if not config.train.freeze_encoder:
        if config.train.feature_cache:
            raise UserError("train.feature_cache: needs train.freeze_encoder=true")
        return
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in encoder.modules()):
        raise UserError(
            f"train.freeze_encoder: model.encoder={config.model.encoder} has BatchNorm, whose "
            "statistics would go on learning; take an encoder without it"
        )
    encoder.requires_grad_(False)
    if config.train.feature_cache:
        _refuse_random(config)
        FeatureCache(encoder, config.train.feature_cache).attach()


def _refuse_random(config: RunConfig) -> None:
    data = config.data
    if data.distort or data.ratio_range != (1, 1) or config.model.drop_path:
        raise UserError(
            "train.feature_cache: every crop would be another one; set data.distort=false "
            "data.ratio_range=1,1 model.drop_path=0"
        )


def refuse_random_crops(config: RunConfig, dataset: SegmentationDataset) -> None:
    """Look whether the crops of a run with a feature cache hold whole images.

    An image that is larger than the crop would be cut at random and encoded anew every time. Only
    the images know: what is landscape may fit where a portrait does not.

    Raises:
        UserError: the first image that does not fit, and a size of crops that does.
    """
    if not config.train.feature_cache:
        return
    crop = config.data.crop_size
    for path, _ in dataset.files:
        size = fit_size(image_size(path), config.data.base_size)
        if size[0] > crop[0] or size[1] > crop[1]:
            raise UserError(
                f"train.feature_cache: {path} becomes {size[0]}x{size[1]}, which crops of "
                f"{crop[0]}x{crop[1]} cut at random, so it would be computed anew in every step; "
                f"set data.crop_size={max(*size, *crop)}"
            )


class FeatureCache:
    """The tokens of every image that the encoder has seen, each in a file.

    A file's name is the hash of the image's values, the encoder's weights and its taps, so several
    runs share a folder and none can read what another encoder wrote. Values keep their type: what
    comes back is what was computed.
    """

    def __init__(self, encoder: VisionTransformer | TimmEncoder, folder: str | Path) -> None:
        self.encoder, self.folder = encoder, Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written ({error.strerror})") from error
        state = hashlib.blake2b(repr(tuple(encoder.taps)).encode())
        for name, value in encoder.state_dict().items():
            state.update(name.encode() + _bytes(value))
        self._weights, self._compute = state.digest(), encoder.forward
        self._known: set[Path] = set()

    def attach(self) -> None:
        """Let ``encoder(image)`` look here first; its state dict stays as it is."""
        self.encoder.__dict__["forward"] = self

    def __call__(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one (B, N, C) for each tap, shallow first, as the encoder gives them."""
        here = image.cpu()  # from a GPU once, not image by image
        files = [self.folder / f"{self._key(one, image.device)}.safetensors" for one in here]
        for file, one in zip(files, image, strict=True):
            if not file.exists():
                with torch.no_grad():
                    self._write(file, [tokens[0] for tokens in self._compute(one[None])])
        rows = [self._read(file) for file in files]
        taps = [torch.stack(tap) for tap in zip(*rows, strict=True)]
        if image.device.type == "cuda":
            taps = [tap.pin_memory() for tap in taps]
        return [tap.to(image.device, non_blocking=True) for tap in taps]

    def _key(self, image: Tensor, device: torch.device) -> str:
        kind = device.type
        amp = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else image.dtype
        state = hashlib.blake2b(self._weights, digest_size=20)
        state.update(f"{tuple(image.shape)} {image.dtype} {amp}".encode() + _bytes(image))
        return state.hexdigest()

    def _write(self, file: Path, taps: list[Tensor]) -> None:
        from safetensors.torch import save_file

        tensors = {str(i): t.contiguous() for i, t in enumerate(taps)}
        try:
            with written_beside(file) as part:
                save_file(tensors, str(part), metadata={SUM: _sum(tensors)})
        except Exception as error:  # a full disk: safetensors raises its own kind
            raise UserError(f"{file}: cannot be written ({in_short(error)})") from error

    def _read(self, file: Path) -> list[Tensor]:
        from safetensors import safe_open

        try:
            with safe_open(str(file), "pt") as content:
                taps = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
                said = (content.metadata() or {}).get(SUM)
        except Exception as error:
            raise UserError(f"{file}: damaged ({in_short(error)}); delete it") from error
        if file not in self._known:  # once in a run: it takes as long as to read
            if said is None or said != _sum(taps):
                raise UserError(f"{file}: damaged (its sum is another one); delete it")
            self._known.add(file)
        return [taps[str(i)] for i in range(len(taps))]


SUM = "blake2b"
"""Under this name a file holds the hash of its values."""


def _sum(tensors: dict[str, Tensor]) -> str:
    state = hashlib.blake2b(digest_size=20)
    for name, value in sorted(tensors.items()):
        state.update(f"{name} {tuple(value.shape)} {value.dtype}".encode() + _bytes(value))
    return state.hexdigest()


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
