"""From logits to label maps: whole images, sliding windows, several scales and mirror images.

Pure functions round a `logits_fn`: any callable from an image batch (B, 3, h, w) to logits
(B, K, h, w) of the same height and width, such as ``model.logits``. Where it returns
`resize.LazyLogits` or a model's output, such as `model` itself does, the logits are resized in
strips and never there at full size.

Protocol (the published one): windows average *logits*; scales and mirror images average
*probabilities*, after resizing each view's logits to the final size.

Memory. Beside the images and the label map, what is there at a time does not grow with the image:
`predict_views` works on one tile of the result after the other, so large that its scores take
`TILE`. An image of usual size is one tile. In a larger one, the windows that lie across the edge
of two tiles are run for both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice, pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import UserError
from .logits import Box, LazyLogits, Size, label_dtype, used


class Output(Protocol):
    """What a model returns, as far as predicting needs it (`model.SETROutput`)."""

    def lazy(self) -> LazyLogits: ...


LogitsFn = Callable[[Tensor], Tensor | LazyLogits | Output]

TILE = 1 << 28
"""Scores, classes x pixels, of a tile: 1 GiB in float32, or 1.8 million pixels at 150 classes."""


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
    boxes, whole = window.boxes(image.shape[-2:]), (0, 0, *image.shape[-2:])
    crops = (image[..., y0:y1, x0:x1] for y0, x0, y1, x1 in boxes)
    return _average(_parts(logits_fn, crops, batch), boxes, whole)


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
        batch: windows, or whole images where there are none, that go through `logits_fn`
            together, for each of the B images. Views share a batch where their windows have one
            size.

    Returns:
        (B, K, H, W), every pixel sums to 1.
    """
    views, whole = _views(images, size, window, flip), (0, 0, *size)
    return _probabilities(views, whole, _view_parts(logits_fn, views, whole, batch))


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
        (B, H, W) on the device of the logits, uint8 for up to 256 classes, else int64.
    """
    one = [(images, size)]
    return next(predict_each(logits_fn, one, window=window, flip=flip, batch=batch))


def predict_each(
    logits_fn: LogitsFn,
    images: Iterable[tuple[Sequence[Tensor], Size]],
    *,
    window: Window | None = None,
    flip: bool = False,
    batch: int = 4,
) -> Iterator[Tensor]:
    """`predict_views` of one image after the other; windows of neighbours share batches.

    Args:
        images: (views, size) of each image. They may come from a loader: no more are asked for
            than fill a batch of windows, and one.

    Yields:
        What `predict_views` returns, in the order of `images`.
    """
    group, windows = [], 0
    for views, size in images:
        if not views:
            raise UserError("no view to predict from: give at least one image")
        group.append(_views(views, size, window, flip))
        more = _count(group[-1])
        if windows + more > batch and len(group) > 1:
            yield from _labels(logits_fn, group[:-1], batch)
            group, windows = group[-1:], 0
        windows += more
    yield from _labels(logits_fn, group, batch)


def _labels(
    logits_fn: LogitsFn, group: Sequence[list[_View]], batch: int
) -> Iterator[Tensor]:
    """Label maps of some images, of all their views each."""
    for label in _inference_labels(logits_fn, group, batch):
        yield label.clone()  # an ordinary tensor, fit for autograd


@torch.inference_mode()
def _inference_labels(
    logits_fn: LogitsFn, group: Sequence[list[_View]], batch: int
) -> Iterator[Tensor]:
    crops = (crop for views in group for view in views for crop in view.crops((0, 0, *view.size)))
    parts, mine = _parts(logits_fn, crops, batch), iter(())
    for views in group:
        for _ in mine:  # left over by an image that was run again, tile by tile
            pass
        mine = islice(parts, _count(views))
        first = next(mine)  # says how many classes there are
        classes, image_parts = first.logits.shape[1], chain([first], mine)
        tiles = _tiles(views, classes)
        again = len(tiles) > 1 and any(len(view.boxes) > 1 for view in views)
        if again:
            _keep_small(views, classes)
        shape = (len(views[0].image), *views[0].size)
        label = first.logits.new_empty(shape, dtype=label_dtype(classes))
        for tile in tiles:
            if again:
                image_parts = _view_parts(logits_fn, views, tile, batch)
            y0, x0, y1, x1 = tile
            label[:, y0:y1, x0:x1] = _tile_label(views, tile, image_parts)
        yield label


def _count(views: Sequence[_View]) -> int:
    """Windows of an image in all its views."""
    return sum(len(view.boxes) for view in views)


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
    label = predict_views(logits_fn, scaled, size, window=window, flip=flip, batch=batch)
    return label[0].cpu()


class _View:
    """One image, mirrored or not, the windows it is seen through, and the result's size."""

    def __init__(self, image: Tensor, size: Size, window: Window | None, mirrored: bool) -> None:
        self.image = image.flip(-1) if mirrored else image
        self.shape, self.size, self.mirrored = tuple(image.shape[-2:]), tuple(size), mirrored
        self.boxes = window.boxes(self.shape) if window else [(0, 0, *self.shape)]
        self.keep = len(self.boxes) == 1
        self.kept: LazyLogits | None = None

    def crops(self, tile: Box) -> Iterator[Tensor]:
        """The windows that a tile needs, or all if they are kept, (B, 3, h, w) each."""
        if self.kept is None:
            for y0, x0, y1, x1 in self._boxes(self._region(tile)):
                yield self.image[..., y0:y1, x0:x1]

    def logits(self, tile: Box, parts: Iterator[LazyLogits]) -> LazyLogits:
        """Averaged over windows, for a tile; `parts` are what became of `crops`, in their order.

        Of a view that is one window, or small, they are kept for the next tile.
        """
        if self.kept is not None:
            return self.kept
        if len(self.boxes) == 1:
            lazy = next(parts).resized(self.size)
        else:
            region = self._region(tile)
            average = _average(parts, self._boxes(region), region)
            lazy = LazyLogits(average, self.shape, origin=region[:2]).resized(self.size)
        if self.keep and tile != (0, 0, *self.size):
            self.kept = lazy
        return lazy

    def own(self, tile: Box) -> Box:
        """A tile of the result where it lies in this view, which may be mirrored."""
        y0, x0, y1, x1 = tile
        return (y0, self.size[1] - x1, y1, self.size[1] - x0) if self.mirrored else tile

    def _region(self, tile: Box) -> Box:
        """What the resize of a tile looks at, in pixels of the view; all of it if it is kept."""
        if self.keep:
            return (0, 0, *self.shape)
        top, left, bottom, right = self.own(tile)
        rows = used(top, bottom, ((self.shape[0], self.size[0]),))
        columns = used(left, right, ((self.shape[1], self.size[1]),))
        return rows.start, columns.start, rows.stop, columns.stop

    def _boxes(self, region: Box) -> list[Box]:
        """The windows that touch a region."""
        top, left, bottom, right = region
        return [
            (y0, x0, y1, x1) for y0, x0, y1, x1 in self.boxes
            if y0 < bottom and y1 > top and x0 < right and x1 > left
        ]


def _views(
    images: Sequence[Tensor], size: Size, window: Window | None, flip: bool
) -> list[_View]:
    ways = (False, True) if flip else (False,)
    return [_View(image, size, window, mirrored) for image in images for mirrored in ways]


def _tiles(views: Sequence[_View], classes: int) -> list[Box]:
    """The result in tiles, about square so that few windows lie across their edges."""
    size = views[0].size
    zoom = max(math.prod(view.shape) / math.prod(size) for view in views)
    pixels = int(TILE / classes / max(zoom, 1))  # what is held of a view counts, too
    side = math.isqrt(pixels)
    height = min(size[0], max(side, pixels // size[1], 1))
    width = min(size[1], max(pixels // height, 1))
    return [(y0, x0, y1, x1) for y0, y1 in _cut(size[0], height) for x0, x1 in _cut(size[1], width)]


def _keep_small(views: Sequence[_View], classes: int) -> None:
    """Views whose logits together take no more than a tile are run once, not for every tile."""
    free = TILE
    for view in views:
        scores = math.prod(view.shape) * classes * len(view.image)
        if scores <= free:
            view.keep, free = True, free - scores


def _cut(length: int, most: int) -> list[Size]:
    """Start and end of the fewest equal pieces of at most so many pixels."""
    count = math.ceil(length / most)
    ends = [length * i // count for i in range(count + 1)]
    return list(pairwise(ends))


def _view_parts(
    logits_fn: LogitsFn, views: Sequence[_View], tile: Box, batch: int
) -> Iterator[LazyLogits]:
    return _parts(logits_fn, (crop for view in views for crop in view.crops(tile)), batch)


def _parts(logits_fn: LogitsFn, crops: Iterable[Tensor], batch: int) -> Iterator[LazyLogits]:
    """Logits of each crop (B, 3, h, w), in order; crops of one size go through together."""
    for _, alike in groupby(crops, key=lambda crop: crop.shape):
        while group := list(islice(alike, batch)):
            lazy = _call(logits_fn, torch.cat(group))
            for logits in lazy.logits.split(len(group[0])):
                yield lazy._replace(logits=logits)


def _average(parts: Iterator[LazyLogits], boxes: Sequence[Box], region: Box) -> Tensor:
    """The mean of windows in a region (B, K, h, w) that they cover; one of `parts` for each."""
    top, left, bottom, right = region
    total = count = None
    for (y0, x0, y1, x1), part in zip(boxes, parts, strict=False):
        logits = part.full()
        if total is None:
            shape = (*logits.shape[:2], bottom - top, right - left)
            total = logits.new_zeros(shape, dtype=torch.promote_types(logits.dtype, torch.float32))
            count = logits.new_zeros(shape[2:], dtype=torch.float32)
        rows = slice(max(y0, top) - top, min(y1, bottom) - top)
        columns = slice(max(x0, left) - left, min(x1, right) - left)
        y, x = top - y0, left - x0
        total[..., rows, columns] += logits[
            ..., rows.start + y : rows.stop + y, columns.start + x : columns.stop + x]
        count[rows, columns] += 1
    return total.div_(count)


def _probabilities(views: Sequence[_View], tile: Box, parts: Iterator[LazyLogits]) -> Tensor:
    """(B, K, height, width) of a tile, the mean over views."""
    total = None
    for view in views:
        lazy = view.logits(tile, parts)
        if total is None:
            y0, x0, y1, x1 = tile
            dtype = torch.promote_types(lazy.logits.dtype, torch.float32)
            total = lazy.logits.new_zeros(*lazy.logits.shape[:2], y1 - y0, x1 - x0, dtype=dtype)
        for image, rows, strip in lazy.strips(view.own(tile)):
            scores = strip.softmax(dim=-1).permute(2, 0, 1)
            total[image, :, rows] += scores.flip(-1) if view.mirrored else scores
    return total.div_(len(views))


def _tile_label(views: Sequence[_View], tile: Box, parts: Iterator[LazyLogits]) -> Tensor:
    if len(views) == 1:
        lazy, box = views[0].logits(tile, parts), tile
    else:
        scores = _probabilities(views, tile, parts)
        lazy, box = LazyLogits(scores, scores.shape[-2:]), None
    return lazy.label(box)


def _call(logits_fn: LogitsFn, image: Tensor) -> LazyLogits:
    output = logits_fn(image)
    if isinstance(output, Tensor):
        lazy = LazyLogits(output, tuple(output.shape[-2:]))
    else:
        lazy = output if isinstance(output, LazyLogits) else output.lazy()
    if lazy.logits.ndim != 4 or lazy.size != tuple(image.shape[-2:]):
        raise UserError(
            f"logits of shape {tuple(lazy.logits.shape)} for an image of shape "
            f"{tuple(image.shape)}: give a function that keeps height and width, such as "
            "model.logits"
        )
    return lazy


def _resize(x: Tensor, size: Size) -> Tensor:
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, size=size, mode="bilinear")
