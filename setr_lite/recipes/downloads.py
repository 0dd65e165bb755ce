"""Weights that can be downloaded: mmsegmentation's seven SETRs and the encoders they began with.

Addresses are those of mmsegmentation (``configs/setr/metafile.yaml``), of timm's releases of 2021
and of DeiT. Eight hexadecimal digits at the end of a file's name are the first of its SHA-256.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_MMSEG = "https://download.openmmlab.com/mmsegmentation/v0.5/setr"
_JX = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-vitjx"
_DEIT = "https://dl.fbaipublicfiles.com/deit"


class Download(NamedTuple):
    """A file that can be had."""

    url: str
    """Its address."""
    log: str = ""
    """Address of the log of its training, JSON of mmsegmentation 0.x."""

    @property
    def file(self) -> str:
        """Its name."""
        return self.url.rpartition("/")[2]

    @property
    def digits(self) -> str:
        """The first digits of its SHA-256, hexadecimal."""
        found = re.search(r"-([0-9a-f]{8,64})\.\w+$", self.file)
        return found[1] if found else ""


def _of_mmseg(stem: str, digits: str) -> Download:
    folder = re.sub(r"_\d{8}_\d{6}$", "", stem)
    start = f"{_MMSEG}/{folder}/{stem}"
    return Download(f"{start}-{digits}.pth", f"{start}.log.json")


SETRS: dict[str, Download] = {
    "naive_ade20k_512_160k_mmseg":
        _of_mmseg("setr_naive_512x512_160k_b16_ade20k_20210619_191258", "061f24f5"),
    "pup_ade20k_512_160k_mmseg":
        _of_mmseg("setr_pup_512x512_160k_b16_ade20k_20210619_191343", "7e0ce826"),
    "mla_ade20k_512_160k_b8_mmseg":
        _of_mmseg("setr_mla_512x512_160k_b8_ade20k_20210619_191118", "c6d21df0"),
    "mla_ade20k_512_160k_mmseg":
        _of_mmseg("setr_mla_512x512_160k_b16_ade20k_20210619_191057", "f9741de7"),
    "naive_cityscapes_768_80k_mmseg": _of_mmseg(
        "setr_naive_vit-large_8x1_768x768_80k_cityscapes_20211123_000505", "20728e80"),
    "pup_cityscapes_768_80k_mmseg": _of_mmseg(
        "setr_pup_vit-large_8x1_768x768_80k_cityscapes_20211122_155115", "f6f37b8f"),
    "mla_cityscapes_768_80k_mmseg": _of_mmseg(
        "setr_mla_vit-large_8x1_768x768_80k_cityscapes_20211119_101003", "7f8dccbe"),
}  # fmt: skip
"""Recipe -> the checkpoint that its published scores were measured on."""

ENCODERS: dict[str, Download] = {
    "jx_vit_large_p16_384": Download(f"{_JX}/jx_vit_large_p16_384-b3be5167.pth"),
    "jx_vit_base_p16_384": Download(f"{_JX}/jx_vit_base_p16_384-83fb41ba.pth"),
    "deit_base_distilled_patch16_384":
        Download(f"{_DEIT}/deit_base_distilled_patch16_384-d0272ac0.pth"),
}  # fmt: skip
"""Plain ViTs that the published trainings started from, for ``model.pretrained=NAME``."""
