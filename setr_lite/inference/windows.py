"""From logits to label maps: whole images, sliding windows, several scales and mirror images.

Pure functions round a `logits_fn`: any callable from an image batch (B, 3, h, w) to logits
(B, K, h, w) of the same height and width, such as ``model.logits``. Where it returns
`LazyLogits` or a model's output, such as `model` itself does, the logits are resized in strips and
never there at full size.

Protocol (the published one): windows average *logits*; scales and mirror images average
*probabilities*, after resizing each view's logits to the final size.

Memory. Beside the images and the label map, what is there at a time does not grow with the image:
`predict_views` works on one tile of the result after the other, see `tiles`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..config import Box, Size
from ..errors import UserError, shortly
from ..typed import LARGEST_NUMBER, MIN_RATIO, number, size_of, whole
from .tiles import LogitsFn, View, average, count_windows, labels, probabilities, run, run_tile


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
        size, stride = _pair(self.size), _pair(self.stride)
        object.__setattr__(self, "size", size)  # always (height, width) from here on
        object.__setattr__(self, "stride", stride)
        if len(size) != 2 or len(stride) != 2 or min(size + stride) < 1:
            raise UserError(f"{self}: give positive whole numbers, or pairs (height, width)")
        if any(s > k for s, k in zip(stride, size, strict=True)):
            raise UserError(f"{self}: a stride above the size leaves gaps; make it smaller")

    def boxes(self, image_size: Size) -> list[Box]:
        """(top, left, bottom, right) of every window in an image, row by row."""
        (height, width), (size_y, size_x) = image_size, _pair(self.size)
        down, across = _pair(self.stride)
        return [
            (y, x, min(y + size_y, height), min(x + size_x, width))
            for y in window_starts(height, size_y, down)
            for x in window_starts(width, size_x, across)
        ]


def _pair(value: int | Size) -> tuple[int, ...]:
    """A number stands for both sides; a pair may come as a list."""
    if isinstance(value, (tuple, list)):
        pair = tuple(value)
    else:
        pair = value, value
    for side in pair:
        whole("a side or stride of a window", side, -LARGEST_NUMBER)
    return pair


def window_starts(length: int, size: int, stride: int) -> list[int]:
    """Where windows start on an axis of `length` pixels.

    There are max(length - size + stride - 1, 0) // stride + 1 of them; the last is shifted back
    to end with the image. An axis shorter than a window has one start, 0.
    """
    for name, value in {"length": length, "size": size, "stride": stride}.items():
        whole(name, value, 1)
    count = max(length - size + stride - 1, 0) // stride + 1
    return [max(min(i * stride, length - size), 0) for i in range(count)]


def sliding_window(
    logits_fn: LogitsFn, image: Tensor, window: Window, *, batch: int = 4
) -> Tensor:
    """Logits of overlapping windows, averaged where they overlap.

    Args:
        logits_fn: a callable from a batch (B, 3, h, w) to logits (B, K, h, w), such as
            ``model.logits``.
        image: (B, 3, H, W). An image smaller than the window is one smaller window.
        window: size and stride.
        batch: windows that go through `logits_fn` together, for each of the B images.

    Returns:
        (B, K, H, W), float32 or better.

    Raises:
        UserError: `logits_fn` returns another height and width than it was given, or `image` holds
            NaN or infinity.
    """
    _require_numbers(image)
    *_, height, width = image.shape
    boxes = window.boxes((height, width))
    crops = (image[..., top:bottom, left:right] for top, left, bottom, right in boxes)
    return average(run(logits_fn, crops, batch), boxes, (0, 0, height, width))


def multi_scale_probabilities(
    logits_fn: LogitsFn, images: Sequence[Tensor], size: Size, *, window: Window | None = None,
    flip: bool = False, batch: int = 4,
) -> Tensor:
    """Probabilities averaged over one image at several scales, each also mirrored if `flip`.

    Each view: logits (by windows if `window`), resized to `size`, softmax, mirrored back.

    Args:
        images: views (B, 3, h_i, w_i), normalised.
        size: (H, W) of the result.
        batch: windows, or whole images where there are none, that go through `logits_fn`
            together, for each of the B images. Views share a batch where their windows have one
            size.

    Returns:
        (B, K, H, W), every pixel sums to 1.
    """
    views = _views(images, size, window, flip)
    tile = views[0].whole
    return probabilities(views, tile, run_tile(logits_fn, views, tile, batch))


def predict_views(
    logits_fn: LogitsFn, images: Sequence[Tensor], size: Size, *, window: Window | None = None,
    flip: bool = False, batch: int = 4,
) -> Tensor:
    """The most probable classes, from views of one image that were scaled beforehand.

    Arguments as in `multi_scale_probabilities`. A single view skips the softmax, which does not
    change the order of the classes.

    Returns:
        (B, H, W) on the device of the logits, uint8 for up to 256 classes, else int64.
    """
    one = [(images, size)]
    return next(predict_each(logits_fn, one, window=window, flip=flip, batch=batch))


def predict_each(
    logits_fn: LogitsFn, images: Iterable[tuple[Sequence[Tensor], Size]], *,
    window: Window | None = None, flip: bool = False, batch: int = 4,
) -> Iterator[Tensor]:
    """`predict_views` of one image after the other; windows of neighbours share batches.

    Args:
        images: (views, size) of each image. They may come from a loader: no more are asked for
            than fill a batch of windows, and one.

    Yields:
        What `predict_views` returns, in the order of `images`.
    """
    whole("batch: windows that go through together", batch, 1)
    group: list[list[View]] = []
    windows = 0
    for scaled, size in images:
        views = _views(scaled, size, window, flip)
        more = count_windows(views)
        if group and windows + more > batch:
            yield from labels(logits_fn, group, batch)
            group, windows = [], 0
        group.append(views)
        windows += more
    yield from labels(logits_fn, group, batch)


def predict(
    logits_fn: LogitsFn, image: Tensor, *, window: Window | None = None, flip: bool = False,
    ratios: Sequence[float] = (1.0,), size: Size | None = None, batch: int = 4,
) -> Tensor:
    """The label map of one image, from any function that returns logits.

    For a SETR, `SETR.predict` does all of it.

    Args:
        logits_fn: a callable from a batch (B, 3, h, w) to logits (B, K, h, w) or to a
            `SETROutput`, such as ``model``; `image` must be on its device.
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
        UserError: image of another shape or not floating point, with NaN or infinity in it, or no
            positive ratio.
    """
    if not isinstance(image, Tensor):
        raise UserError(f"image of type {type(image).__name__}: give a tensor, of model.preprocess")
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.shape[:2] != (1, 3) or 0 in image.shape:
        raise UserError(f"image of shape {tuple(image.shape)}: give (3, H, W) or (1, 3, H, W)")
    if not image.is_floating_point():
        raise UserError(f"image of type {image.dtype}: normalise it, e.g. by model.preprocess")
    if not isinstance(ratios, (tuple, list)) or not ratios:
        raise UserError(f"ratios={shortly(ratios)}: give one or more positive numbers")
    for ratio in ratios:
        number("ratios", ratio, MIN_RATIO)
    _require_numbers(image)
    *_, height, width = image.shape
    scaled = [
        _resize(image, (max(int(height * r + 0.5), 1), max(int(width * r + 0.5), 1)))
        for r in ratios
    ]
    size = (height, width) if size is None else size_of("size", size)
    (label,) = predict_views(logits_fn, scaled, size, window=window, flip=flip, batch=batch)
    return label.cpu()


def _require_numbers(image: Tensor) -> None:
    """One value that is none would reach every pixel through attention."""
    if not image.isfinite().all():
        count = int(image.isfinite().logical_not().sum())
        raise UserError(f"image with {count} values that are NaN or infinity: leave them out")


def _views(
    images: Sequence[Tensor], size: Size, window: Window | None, flip: bool
) -> list[View]:
    """Every image as it is and, if `flip`, mirrored."""
    if not images:
        raise UserError("no view to predict from: give at least one image")
    views = []
    for image in images:
        *_, height, width = image.shape
        boxes = window.boxes((height, width)) if window else [(0, 0, height, width)]
        views.append(View(image, size, boxes))
        if flip:
            views.append(View(image.flip(-1), size, boxes, mirrored=True))
    return views


def _resize(x: Tensor, size: Size) -> Tensor:
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, size=size, mode="bilinear")
