"""From logits to label maps: whole images, sliding windows, several scales and mirror images.

Pure functions round a `logits_fn`: any callable from an image batch (B, 3, h, w) to logits
(B, K, h, w) of the same height and width, such as ``model.logits``.

Protocol (the published one): windows average *logits*; scales and mirror images average
*probabilities*, after resizing each view's logits to the final size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import UserError

LogitsFn = Callable[[Tensor], Tensor]
Size = tuple[int, int]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Window:
    """A sliding window; sizes in pixels, one number for squares or (height, width).

    Published: 768/512 for Cityscapes, 512/341 for ADE20K, 480/320 for Pascal Context.

    Raises:
        UserError: a size or stride below 1, or a stride above the size (pixels would be missed).
    """

    size: int | Size
    """Height and width of a window."""
    stride: int | Size
    """Steps from window to window, down and across."""

    def __post_init__(self) -> None:
        for name in ("size", "stride"):
            value = getattr(self, name)
            pair = (value, value) if isinstance(value, int) else tuple(value)
            object.__setattr__(self, name, pair)  # always (height, width) from here on
        if len(self.size) != 2 or len(self.stride) != 2 or min(self.size + self.stride) < 1:
            raise UserError(f"{self}: give positive whole numbers, or pairs (height, width)")
        if any(s > k for s, k in zip(self.stride, self.size, strict=True)):
            raise UserError(f"{self}: a stride above the size leaves gaps; make it smaller")

    def boxes(self, image_size: Size) -> list[Box]:
        """(top, left, bottom, right) of every window in an image, row by row."""
        (height, width), (size_y, size_x) = image_size, self.size
        return [
            (y, x, min(y + size_y, height), min(x + size_x, width))
            for y in window_starts(height, size_y, self.stride[0])
            for x in window_starts(width, size_x, self.stride[1])
        ]


def window_starts(length: int, size: int, stride: int) -> list[int]:
    """Where windows start on an axis of `length` pixels.

    There are max(length - size + stride - 1, 0) // stride + 1 of them; the last is shifted back
    to end with the image. An axis shorter than a window has one start, 0.
    """
    count = max(length - size + stride - 1, 0) // stride + 1
    return [max(min(i * stride, length - size), 0) for i in range(count)]


def sliding_window(
    logits_fn: LogitsFn, image: Tensor, window: Window, *, batch: int = 4
) -> Tensor:
    """Logits of overlapping windows, averaged where they overlap.

    Args:
        logits_fn: see the module's text.
        image: (B, 3, H, W). An image smaller than the window is one smaller window.
        window: size and stride.
        batch: windows that go through `logits_fn` together, for each of the B images.

    Returns:
        (B, K, H, W), float32 or better.

    Raises:
        UserError: `logits_fn` returns another height and width than it was given.
    """
    boxes = window.boxes(image.shape[-2:])
    count = image.new_zeros(image.shape[-2:], dtype=torch.float32)
    total = None
    for first in range(0, len(boxes), batch):
        group = boxes[first : first + batch]
        crops = torch.cat([image[..., y0:y1, x0:x1] for y0, x0, y1, x1 in group])
        logits = _call(logits_fn, crops)
        if total is None:
            shape = (len(image), logits.shape[1], *image.shape[-2:])
            wide = torch.promote_types(logits.dtype, torch.float32)
            total = logits.new_zeros(shape, dtype=wide)
        for (y0, x0, y1, x1), part in zip(group, logits.split(len(image)), strict=True):
            total[..., y0:y1, x0:x1] += part
            count[y0:y1, x0:x1] += 1
    return total.div_(count)


def multi_scale_probabilities(
    logits_fn: LogitsFn,
    images: Sequence[Tensor],
    size: Size,
    *,
    window: Window | None = None,
    flip: bool = False,
    batch: int = 4,
) -> Tensor:
    """Probabilities averaged over one image at several scales, each also mirrored if `flip`.

    Each view: logits (by windows if `window`), resized to `size`, softmax, mirrored back.

    Args:
        images: views (B, 3, h_i, w_i), normalised.
        size: (H, W) of the result.

    Returns:
        (B, K, H, W), every pixel sums to 1.
    """
    total, views = None, 0
    for logits, mirrored in _views(logits_fn, images, size, window, flip, batch):
        view = logits.softmax(dim=1)
        view = view.flip(-1) if mirrored else view
        total = view if total is None else total.add_(view)
        views += 1
    return total.div_(views)


def predict_views(
    logits_fn: LogitsFn,
    images: Sequence[Tensor],
    size: Size,
    *,
    window: Window | None = None,
    flip: bool = False,
    batch: int = 4,
) -> Tensor:
    """The most probable classes, from views of one image that were scaled beforehand.

    Arguments as in `multi_scale_probabilities`. A single view skips the softmax, which does not
    change the order of the classes.

    Returns:
        (B, H, W) on the CPU, uint8 for up to 256 classes, else int64.
    """
    if not images:
        raise UserError("no view to predict from: give at least one image")
    with torch.inference_mode():
        if len(images) == 1 and not flip:
            scores, _ = next(_views(logits_fn, images, size, window, False, batch))
        else:
            scores = multi_scale_probabilities(
                logits_fn, images, size, window=window, flip=flip, batch=batch
            )
        kind = torch.uint8 if scores.shape[1] <= 256 else torch.int64
        label = scores.argmax(dim=1).to("cpu", kind)
    return label.clone()  # an ordinary tensor, fit for autograd


def predict(
    logits_fn: LogitsFn,
    image: Tensor,
    *,
    window: Window | None = None,
    flip: bool = False,
    ratios: Sequence[float] = (1.0,),
    size: Size | None = None,
    batch: int = 4,
) -> Tensor:
    """The label map of one image.

    Args:
        logits_fn: see the module's text; `image` must be on its device.
        image: (3, H, W) or (1, 3, H, W), float, normalised (``model.preprocess`` does it).
        window: sliding window; None takes the whole image at once.
        flip: average with the mirrored image.
        ratios: scales of the image whose probabilities are averaged. The scaled images come
            from a bilinear resize without anti-aliasing, as OpenCV's, here of the normalised
            floats; `evaluate` resizes the 8-bit file instead, as the published protocol does.
        size: (H, W) of the result, the image's own by default.
        batch: windows that go through `logits_fn` together.

    Returns:
        (H, W) on the CPU, uint8 for up to 256 classes, else int64.

    Raises:
        UserError: image of another shape or not floating point, or no positive ratio.
    """
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.shape[:2] != (1, 3):
        raise UserError(f"image of shape {tuple(image.shape)}: give (3, H, W) or (1, 3, H, W)")
    if not image.is_floating_point():
        raise UserError(f"image of type {image.dtype}: normalise it, e.g. by model.preprocess")
    if not ratios or min(ratios) <= 0:
        raise UserError(f"ratios={tuple(ratios)}: give one or more positive numbers")
    height, width = image.shape[-2:]
    scaled = [
        _resize(image, (max(int(height * r + 0.5), 1), max(int(width * r + 0.5), 1)))
        for r in ratios
    ]
    size = size or (height, width)
    return predict_views(logits_fn, scaled, size, window=window, flip=flip, batch=batch)[0]


def _views(
    logits_fn: LogitsFn,
    images: Sequence[Tensor],
    size: Size,
    window: Window | None,
    flip: bool,
    batch: int,
) -> Iterator[tuple[Tensor, bool]]:
    """Logits (B, K, *size) of each view, with whether it is still mirrored."""
    for image in images:
        for mirrored in (False, True) if flip else (False,):
            view = image.flip(-1) if mirrored else image
            if window is None:
                logits = _call(logits_fn, view)
            else:
                logits = sliding_window(logits_fn, view, window, batch=batch)
            wide = torch.promote_types(logits.dtype, torch.float32)
            yield _resize(logits.to(wide), size), mirrored


def _call(logits_fn: LogitsFn, image: Tensor) -> Tensor:
    logits = logits_fn(image)
    if logits.ndim != 4 or logits.shape[-2:] != image.shape[-2:]:
        raise UserError(
            f"logits of shape {tuple(logits.shape)} for an image of shape {tuple(image.shape)}: "
            "give a function that keeps height and width, such as model.logits"
        )
    return logits


def _resize(x: Tensor, size: Size) -> Tensor:
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, size=size, mode="bilinear")
