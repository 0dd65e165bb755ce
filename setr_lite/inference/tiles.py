"""Tiles of a label map: predicting from several views in memory that does not grow with the image.

A view is an image at one scale, mirrored or not, seen through windows. All its logits at the size
of the result may be too many to hold; then the result is worked on in tiles, so large that the
logits of one take `TILE`. An image of usual size is one tile. In a larger one, the windows that lie
across the edge of two tiles are run for both.

Shapes: B images, K classes, view (h, w), result (H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain, groupby, islice, pairwise

import torch
from torch import Tensor, nn

from ..config import Box, Size
from ..errors import UserError
from ..logits import LazyLogits, SETROutput, label_dtype, used
from ..typed import whole

LogitsFn = Callable[[Tensor], Tensor | LazyLogits | SETROutput]
"""From images (B, 3, h, w) to logits (B, K, h, w), or to low ones with the way there."""

TILE = 1 << 28
"""Values, classes x pixels, of a tile: 1 GiB in float32, or 1.8 million pixels at 150 classes."""


class View:
    """An image, the windows it is seen through, and the size of the result.

    Args:
        image: (B, 3, h, w).
        size: (H, W).
        boxes: the windows, row by row; the whole image may be one.
        mirrored: `image` is a mirror image, and what is found is turned back.
    """

    def __init__(
        self, image: Tensor, size: Size, boxes: Sequence[Box], mirrored: bool = False
    ) -> None:
        self.image, self.boxes, self.mirrored = image, boxes, mirrored
        self.shape: Size = (image.shape[-2], image.shape[-1])
        self.size: Size = (size[0], size[1])  # of whatever kind, steps have pairs
        self.whole: Box = (0, 0, *self.size)
        self.keep = len(boxes) == 1
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
            mean = average(parts, self._boxes(region), region)
            lazy = LazyLogits(mean, self.shape, origin=(region[0], region[1])).resized(self.size)
        if self.keep and tile != self.whole:
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


def labels(
    logits_fn: LogitsFn, group: Sequence[Sequence[View]], batch: int
) -> Iterator[Tensor]:
    """Label maps (B, H, W) of some images, of all their views each; windows share batches.

    Memory beside the images and the label maps: the logits of a tile, and of one batch.
    """
    for label in _inference_labels(logits_fn, group, batch):
        yield label.clone()  # an ordinary tensor, fit for autograd


@torch.inference_mode()
def _inference_labels(
    logits_fn: LogitsFn, group: Sequence[Sequence[View]], batch: int
) -> Iterator[Tensor]:
    crops = (crop for views in group for view in views for crop in view.crops(view.whole))
    parts: Iterator[LazyLogits] = run(logits_fn, crops, batch)
    mine: Iterator[LazyLogits] = iter(())
    for views in group:
        for _ in mine:  # left over by an image that was run again, tile by tile
            pass
        mine = islice(parts, count_windows(views))
        first = next(mine)  # says how many classes there are
        (images, classes), image_parts = first.logits.shape[:2], chain([first], mine)
        tiles = cut_tiles(views, classes)
        again = len(tiles) > 1 and any(len(view.boxes) > 1 for view in views)
        if again:
            _keep_small(views, classes)
        label = first.logits.new_empty(images, *views[0].size, dtype=label_dtype(classes))
        for tile in tiles:
            tile_parts = run_tile(logits_fn, views, tile, batch) if again else image_parts
            y0, x0, y1, x1 = tile
            label[:, y0:y1, x0:x1] = _tile_label(views, tile, tile_parts)
        yield label


def count_windows(views: Sequence[View]) -> int:
    """Windows of an image in all its views."""
    return sum(len(view.boxes) for view in views)


def run(logits_fn: LogitsFn, crops: Iterable[Tensor], batch: int) -> Iterator[LazyLogits]:
    """Logits of each crop (B, 3, h, w), in order; crops of one size go through together.

    Raises:
        UserError: a `batch` below 1, or what `logits_fn` returns is no logits of its input.
    """
    whole("batch: windows that go through together", batch, 1)
    for _, alike in groupby(crops, key=lambda crop: crop.shape):
        while group := list(islice(alike, batch)):
            lazy = _call(logits_fn, torch.cat(group))
            for logits in lazy.logits.chunk(len(group)):
                yield lazy._replace(logits=logits)


def run_tile(
    logits_fn: LogitsFn, views: Sequence[View], tile: Box, batch: int
) -> Iterator[LazyLogits]:
    """Logits of the windows that a tile needs, view by view."""
    return run(logits_fn, (crop for view in views for crop in view.crops(tile)), batch)


def average(parts: Iterator[LazyLogits], boxes: Sequence[Box], region: Box) -> Tensor:
    """The mean of windows in a region (B, K, h, w) that they cover; one of `parts` for each."""
    top, left, bottom, right = region
    total = count = Tensor()
    for i, ((y0, x0, y1, x1), part) in enumerate(zip(boxes, parts, strict=False)):
        logits = part.full()
        if i == 0:  # classes, type and device are not known before
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


def probabilities(views: Sequence[View], tile: Box, parts: Iterator[LazyLogits]) -> Tensor:
    """(B, K, height, width) of a tile, the mean over views."""
    (y0, x0, y1, x1), total = tile, Tensor()
    for i, view in enumerate(views):
        lazy = view.logits(tile, parts)
        if i == 0:
            dtype = torch.promote_types(lazy.logits.dtype, torch.float32)
            total = lazy.logits.new_zeros(*lazy.logits.shape[:2], y1 - y0, x1 - x0, dtype=dtype)
        for image, rows, strip in lazy.strips(view.own(tile)):
            scores = strip.softmax(dim=-1).permute(2, 0, 1)
            total[image, :, rows] += scores.flip(-1) if view.mirrored else scores
    return total.div_(len(views))


def _tile_label(views: Sequence[View], tile: Box, parts: Iterator[LazyLogits]) -> Tensor:
    if len(views) == 1:  # the softmax does not change the order of the classes
        return views[0].logits(tile, parts).label(tile)
    return LazyLogits.of(probabilities(views, tile, parts)).label()


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; then every part has its own mode again, frozen ones too.

    BatchNorm's running statistics must not move because of a look.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def looking(logits_fn: LogitsFn) -> AbstractContextManager[None]:
    """Eval mode where a model that is in training mode, or a method of it, is asked."""
    model = getattr(logits_fn, "__self__", logits_fn)
    if isinstance(model, nn.Module) and model.training:
        return in_eval_mode(model)
    return nullcontext()


def _call(logits_fn: LogitsFn, image: Tensor) -> LazyLogits:
    with looking(logits_fn):
        output = logits_fn(image)
    if isinstance(output, Tensor):
        lazy = LazyLogits.of(output)
    else:
        lazy = output if isinstance(output, LazyLogits) else output.lazy()
    if lazy.logits.ndim != 4 or lazy.size != tuple(image.shape[-2:]):
        raise UserError(
            f"logits of shape {tuple(lazy.logits.shape)} for an image of shape "
            f"{tuple(image.shape)}: give a function that keeps height and width, such as "
            "model.logits"
        )
    return lazy


def cut_tiles(views: Sequence[View], classes: int) -> list[Box]:
    """The result in tiles, about square so that few windows lie across their edges."""
    size = views[0].size
    zoom = max(math.prod(view.shape) / math.prod(size) for view in views)
    pixels = int(TILE / classes / max(zoom, 1))  # what is held of a view counts, too
    side = math.isqrt(pixels)
    height = min(size[0], max(side, pixels // size[1], 1))
    width = min(size[1], max(pixels // height, 1))
    return [(y0, x0, y1, x1) for y0, y1 in _cut(size[0], height) for x0, x1 in _cut(size[1], width)]


def _keep_small(views: Sequence[View], classes: int) -> None:
    """Views whose logits together take no more than a tile are run once, not for every tile."""
    free = TILE
    for view in views:
        scores = math.prod(view.shape) * classes * len(view.image)
        if scores <= free:
            view.keep, free = True, free - scores


def _cut(length: int, most: int) -> list[tuple[int, int]]:
    """Start and end of the fewest equal pieces of at most so many pixels."""
    count = math.ceil(length / most)
    ends = [length * i // count for i in range(count + 1)]
    return list(pairwise(ends))
