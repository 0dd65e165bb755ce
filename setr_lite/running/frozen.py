"""Training heads on an encoder that does not learn, and whose features are computed once.

A frozen encoder gives the same tokens for the same image, step after step. Where augmentation
leaves nothing but the mirror image, a run sees each image in two forms only, so their tokens can
be kept: a step then costs the heads and a read from disk. Images are encoded one by one, so the
tokens do not depend on the batch that an image first came in.

Shape legend: B images, N patches, C channels of the encoder.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import RunConfig
from ..encoder import VisionTransformer
from ..errors import UserError
from ..timm_encoder import TimmEncoder


def freeze_encoder(encoder: VisionTransformer | TimmEncoder, config: RunConfig) -> None:
    """Take `encoder` out of the training as `config.train` asks, perhaps with a feature cache.

    Raises:
        UserError: an encoder whose BatchNorm would go on learning, or a cache where every crop is
            another one.
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
    base, crop = sorted(data.base_size), sorted(data.crop_size)
    if (
        data.distort or data.ratio_range != (1, 1) or config.model.drop_path
        or crop[0] < base[0] or crop[1] < base[1]
    ):  # fmt: skip
        raise UserError(
            "train.feature_cache: every crop would be another one; set data.distort=false "
            "data.ratio_range=1,1 model.drop_path=0 and a data.crop_size that holds "
            f"data.base_size={data.base_size}"
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

    def attach(self) -> None:
        """Let ``encoder(image)`` look here first; its state dict stays as it is."""
        self.encoder.__dict__["forward"] = self

    def __call__(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one (B, N, C) for each tap, shallow first, as the encoder gives them."""
        files = [self.folder / f"{self._key(one)}.safetensors" for one in image]
        for file, one in zip(files, image, strict=True):
            if not file.exists():
                with torch.no_grad():
                    self._write(file, [tokens[0] for tokens in self._compute(one[None])])
        rows = [self._read(file, image.device) for file in files]
        return [torch.stack(tap) for tap in zip(*rows, strict=True)]

    def _key(self, image: Tensor) -> str:
        kind = image.device.type
        amp = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else image.dtype
        state = hashlib.blake2b(self._weights, digest_size=20)
        state.update(f"{tuple(image.shape)} {image.dtype} {amp}".encode() + _bytes(image))
        return state.hexdigest()

    def _write(self, file: Path, taps: list[Tensor]) -> None:
        from safetensors.torch import save_file

        beside = file.with_name(f"{file.name}.{os.getpid()}")
        try:
            save_file({str(i): t.contiguous() for i, t in enumerate(taps)}, str(beside))
            beside.replace(file)
        except Exception as error:  # a full disk: safetensors raises its own kind
            beside.unlink(missing_ok=True)
            raise UserError(f"{file}: cannot be written ({error})") from error

    def _read(self, file: Path, device: torch.device) -> list[Tensor]:
        from safetensors.torch import load_file

        try:
            taps = load_file(str(file), device=str(device))
        except Exception as error:
            raise UserError(f"{file}: damaged ({error}); delete it") from error
        return [taps[str(i)] for i in range(len(taps))]


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
