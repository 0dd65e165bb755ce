"""What moves when a square of an image is covered, and how well a guess ranks it: for the page on
what the encoder learned and for `measure_inside.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from setr_lite import SETR

SQUARES = 72
"""Of 2 x 2 patches, in 6 rows of 12."""


def moved(model: SETR, image: Tensor, cover: Tensor) -> Tensor:
    """(72, 288): how far each token of the last block moves when a square is covered."""
    covered = image.repeat(SQUARES, 1, 1, 1)
    for i in range(SQUARES):
        y, x = 16 * (i // 12), 16 * (i % 12)
        covered[i, :, y:y + 16, x:x + 16] = cover[0, :, y:y + 16, x:x + 16]
    encoder = model.encoder
    last = torch.cat([encoder(part)[-1] for part in covered.split(12)])
    return (last - encoder(image)[-1]).norm(dim=-1)


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's over the squares, mean over the asking patches."""
    if a.shape[1] < b.shape[1]:
        b = b[:, :: b.shape[1] // a.shape[1]]
    a, b = (ranks(v).double() - (SQUARES - 1) / 2 for v in (a, b))
    return float(((a * b).sum(0) / (a * a).sum(0)).mean())


def ranks(values: Tensor) -> Tensor:
    """(72, M) -> the rank of each square in its column, 0 to 71."""
    return values.argsort(0).argsort(0)
