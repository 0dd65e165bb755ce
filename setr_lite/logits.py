"""Logits at low resolution and the resize that is still to be done: of heads, loss, prediction.

A head classifies on a small map. `LazyLogits` is that map and the way from there to the image; a
model returns one for each head, a `SETROutput`. Whoever needs the full size resizes as much of it
as fits a cache, a strip of rows at a time: the loss, `LazyLogits.label`, averages over scales.

Resizing is linear along each axis, so any rectangle of the result is ``rows @ logits @ columns.T``
with two small matrices, and a chain of resizes is the product of theirs. The numbers are
PyTorch's ``F.interpolate(mode="bilinear", align_corners=False)``; no final resize of SETR aligns
corners, only a step inside the official MLA head does.

Shapes: B images, K classes, logits (h, w), result (H, W), strip of s rows.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import Box, Size

Odd = Literal["crop", "squeeze"]
"""For sizes the patch does not divide: ``crop`` resizes to the padded size and cuts the padding
off; ``squeeze`` presses the padded map into the image's size, a small distortion, as mmsegmentation
does."""
Steps = tuple[tuple[int, int], ...]
"""Resizes along one axis, in order: (inputs, outputs) of each. A step that takes fewer inputs
than the one before has put out leaves out the last ones."""

STRIP = {"cpu": 1 << 20, "cuda": 1 << 24}
"""Full-size logits worked on at a time. 4 MB in float32 are about what a CPU's caches hold: at
150 classes and 512 x 512 pixels one core took half the time of a whole image at once. A GPU wants
longer strips, as each costs a dozen kernel launches; that length is a guess, not measured."""

TALLEST = 1024
"""Rows of a strip at most: its matrix has the square of them, 800 MB for a picture 10000 x 1."""
CHUNK = 128
"""Columns resized by one matrix, which then has few inputs."""
DENSE = 48
"""Rows and columns of logits up to which two products with whole matrices, mostly zeros, are
quicker on a CPU than PyTorch's own resize, 1.1 to 1.4 times; at 64 it was a draw."""
KEPT = 1 << 25
"""Bytes of matrices kept for the next image of the same size, on all devices together. The loss of
512 x 512 pixels needs 0.6 MiB or less, the label map of 4096 x 4096 up to 1 MiB; images of 200
different sizes took 16."""
OVERHEAD = 1 << 10
"""Bytes that a kept matrix is taken to need beside its values; 690 were counted for small ones."""


class LazyLogits(NamedTuple):
    """Logits with the resizes that are still to be done."""

    logits: Tensor
    """(B, K, h, w)."""
    size: Size
    """(H, W) of the result."""
    steps: tuple[tuple[Size, Size], ...] = ()
    """Resizes in order, from (height, width) to (height, width); what a step, or `size`, does not
    take of the step before is cut off below and on the right."""
    origin: Size = (0, 0)
    """Row and column of ``logits[..., 0, 0]`` where only a part of the logits is there."""

    @classmethod
    def of(cls, logits: Tensor) -> LazyLogits:
        """Logits (B, K, H, W) with nothing to be done."""
        return cls(logits, (logits.shape[-2], logits.shape[-1]))

    def resized(self, size: Size) -> LazyLogits:
        """The same with one more resize."""
        if size == self.size:
            return self
        return self._replace(size=size, steps=(*self.steps, (self.size, size)))

    def enlarged(self, factor: int) -> LazyLogits:
        """The same with one more resize, by a whole factor."""
        return self.resized((self.size[0] * factor, self.size[1] * factor))

    def cropped(self, size: Size) -> LazyLogits:
        """The same without what lies below and right of `size`."""
        return self._replace(size=size)

    def full(self) -> Tensor:
        """(B, K, H, W), all at once; needs all of the logits."""
        if torch.compiler.is_compiling():  # also exporting, where sizes are no numbers
            return self.interpolated()
        small = self.logits.device.type == "cpu" and max(self.logits.shape[-2:]) <= DENSE
        return self._dense() if small else self.interpolated()

    def interpolated(self) -> Tensor:
        """`full` by PyTorch's own resize, step by step; the same but for rounding."""
        logits = self.logits
        for (height, width), size in self.steps:
            logits = logits[..., :height, :width]
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return logits[..., : self.size[0], : self.size[1]]

    def _dense(self) -> Tensor:
        x = self.logits.to(torch.promote_types(self.logits.dtype, torch.float32))
        with no_autocast("cpu"):
            for axis in (1, 0):
                steps, length = self.axis(axis), self.size[axis]
                if not steps:
                    x = x.narrow(axis - 2, 0, length)
                    continue
                inner, matrix = weights(0, length, steps, x.dtype, x.device)
                x = x.narrow(axis - 2, inner.start, inner.stop - inner.start)
                x = x @ matrix.T if axis else matrix @ x
        return x.to(self.logits.dtype)

    def label(self, box: Box | None = None) -> Tensor:
        """(B, H, W) or (B, height, width of a box): the class of the largest logit.

        ``full().argmax(1)`` without the full logits. Where two classes tie but for rounding, it
        may be the other one. Its type is `label_dtype`.
        """
        top, left, bottom, right = box or (0, 0, *self.size)
        batch, classes = self.logits.shape[:2]
        label = self.logits.new_empty(
            batch, bottom - top, right - left, dtype=label_dtype(classes))
        for image, rows, strip in self.strips(box):
            label[image, rows] = _largest(strip)
        return label

    def strips(self, box: Box | None = None) -> Iterator[tuple[int, slice, Tensor]]:
        """The result, or a box of it, in strips of rows, one image after the other.

        Args:
            box: (top, left, bottom, right) of the result.

        Yields:
            Number of the image, rows of the box, and their logits (s, width of the box, K) in
            float32 or better. The logits may be a view of `self.logits`.
        """
        top, left, bottom, right = box or (0, 0, *self.size)
        height = strip_height(self.logits, right - left)
        for image in range(len(self.logits)):
            for first in range(top, bottom, height):
                last = min(first + height, bottom)
                strip = self._strip(image, (first, left, last, right))
                yield image, slice(first - top, last - top), strip

    def _strip(self, image: int, box: Box) -> Tensor:
        """(s, width, K) of a box, columns first: there are fewer rows before than after."""
        top, left, bottom, right = box
        steps, start = self.axis(0), self.origin[0]
        inner = used(top, bottom, steps)
        x = self.logits[image, :, inner.start - start : inner.stop - start].permute(1, 2, 0)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        with no_autocast(x.device.type):
            x = self._columns(x, left, right)
            if not steps:
                return x
            _, matrix = weights(top, bottom, steps, x.dtype, x.device)
            return (matrix @ x.flatten(1)).unflatten(1, x.shape[1:])

    def _columns(self, x: Tensor, left: int, right: int) -> Tensor:
        """(rows, w, K) -> (rows, right - left, K)."""
        steps, start, parts = self.axis(1), self.origin[1], []
        if not steps:
            return x[:, left - start : right - start]
        for first in range(left, right, CHUNK):
            last = min(first + CHUNK, right)
            inner, matrix = weights(first, last, steps, x.dtype, x.device)
            parts.append(matrix @ x[:, inner.start - start : inner.stop - start])
        return torch.cat(parts, dim=1)

    def axis(self, axis: int) -> Steps:
        """The resizes from row to row (0) or from column to column (1) that change anything."""
        steps = ((before[axis], after[axis]) for before, after in self.steps)
        return tuple(step for step in steps if step[0] != step[1])


class SETROutput(NamedTuple):
    """Output of the model for a batch: the logits of each head, at low resolution.

    ===========  ===============  ===========================================================
    member       shape            use
    ===========  ===============  ===========================================================
    `full`       (B, K, H, W)     logits at the image's size
    `label`      (B, H, W)        predicted classes, without the memory of K full-size maps
    `logits`     (B, K, h', w')   logits of the head, before the last resize
    `scores`     (B, K, h, w)     logits of its classifier, on the grid or a multiple of it
    ===========  ===============  ===========================================================
    """

    main: LazyLogits
    """Of the main head, over the padded image, with the bilinear step that ends the head, if one
    does, still to be done."""
    aux: tuple[LazyLogits, ...]
    """One entry for each auxiliary head, shallow to deep; empty in eval mode unless
    ``model(image, aux=True)``."""
    size: Size
    """(H, W) of the image."""
    padded: Size
    """(H', W') after padding to whole patches."""
    odd: Odd = "crop"
    """What undoes the padding to whole patches, ``crop`` or ``squeeze``."""

    @property
    def scores(self) -> Tensor:
        """(B, K, h, w), the logits of the main head as its classifier leaves them."""
        return self.main.logits

    @property
    def aux_scores(self) -> tuple[Tensor, ...]:
        """The same of each auxiliary head."""
        return tuple(lazy.logits for lazy in self.aux)

    @property
    def logits(self) -> Tensor:
        """(B, K, h', w'): `scores` after the bilinear step that ends the main head, if one does."""
        return self.main.interpolated()

    @property
    def aux_logits(self) -> tuple[Tensor, ...]:
        """The same of each auxiliary head."""
        return tuple(lazy.interpolated() for lazy in self.aux)

    def full(self, odd: Odd | None = None) -> Tensor:
        """(B, K, H, W): the main logits at the image's size; None takes `self.odd`."""
        return self.lazy(odd).full()

    def label(self, odd: Odd | None = None) -> Tensor:
        """(B, H, W), the class of the largest logit: ``full(odd).argmax(1)`` strip by strip.

        Takes less time, and the memory of a strip instead of K full-size maps. uint8 for up to
        256 classes, else int64.
        """
        return self.lazy(odd).label()

    def lazy(self, odd: Odd | None = None) -> LazyLogits:
        """The main logits with the resizes that `full` does, not done yet."""
        odd = odd or self.odd
        # mmsegmentation's PUP, too, takes its last 2x step, not done here, on the padded grid
        half = not self.main.steps and self.main.size[0] * 2 == self.padded[0]
        twice = odd == "squeeze" and half
        return self._to_image(self.main.resized(self.padded) if twice else self.main, odd)

    def heads(self) -> tuple[LazyLogits, ...]:
        """The logits of every head at the image's size, the main one's first, not resized yet."""
        return (self.lazy(), *(self._to_image(lazy, self.odd) for lazy in self.aux))

    def _to_image(self, lazy: LazyLogits, odd: Odd) -> LazyLogits:
        if odd == "squeeze":
            return lazy.resized(self.size)
        return lazy.resized(self.padded).cropped(self.size)


def _largest(strip: Tensor) -> Tensor:
    """(s, width, K) -> (s, width), the number of the largest."""
    if strip.device.type == "cpu" and strip.is_contiguous() and not strip.requires_grad:
        return torch.from_numpy(strip.numpy().argmax(-1))  # a third of the time of PyTorch's
    return strip.max(dim=-1).indices  # argmax takes twice as long on a CPU


def label_dtype(classes: int) -> torch.dtype:
    """uint8 for up to 256 classes, else int64."""
    return torch.uint8 if classes <= 256 else torch.int64


def used(first: int, last: int, steps: Steps) -> slice:
    """Which inputs of a resized axis its outputs `first` to `last` are mixed from."""
    for inputs, outputs in reversed(steps):
        if inputs != outputs:
            ends = torch.tensor([first, last - 1], device="cpu")
            below, above, _ = _neighbours(ends, inputs, outputs)
            first, last = int(below[0]), int(above[1]) + 1
    return slice(first, last)


def weights(
    first: int, last: int, steps: Steps, dtype: torch.dtype, device: torch.device
) -> tuple[slice, Tensor]:
    """Outputs `first` to `last` of a resized axis, as a mix of its inputs.

    Returns:
        Which inputs are used, and (last - first, inputs) what each output takes of them. Matrices
        are kept while they take no more than `KEPT` together; none may be written to.
    """
    key = (first, last, steps, dtype, device)
    # a compiler traces the calculation: what it would keep has no values
    return _make_weights(*key) if torch.compiler.is_compiling() else _kept.get(*key)


class _Matrices:
    """What `weights` has made; what was not used for longest goes first."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        self.found: OrderedDict[tuple[object, ...], tuple[slice, Tensor]] = OrderedDict()
        self.bytes = 0

    def get(self, *key: Any) -> tuple[slice, Tensor]:
        with self.lock:
            if key in self.found:
                self.found.move_to_end(key)
                return self.found[key]
        inner, matrix = _make_weights(*key)
        if self._weight(matrix) <= KEPT:
            self._keep(key, inner, matrix)
        return inner, matrix

    def _keep(self, key: tuple[object, ...], inner: slice, matrix: Tensor) -> None:
        with self.lock:
            if key not in self.found:
                self.found[key] = inner, matrix
                self.bytes += self._weight(matrix)
            while self.bytes > KEPT:
                _, (_, oldest) = self.found.popitem(last=False)
                self.bytes -= self._weight(oldest)

    @staticmethod
    def _weight(matrix: Tensor) -> int:
        return matrix.nbytes + OVERHEAD


_kept = _Matrices()


def _make_weights(
    first: int, last: int, steps: Steps, dtype: torch.dtype, device: torch.device
) -> tuple[slice, Tensor]:
    with torch.inference_mode(False), torch.no_grad():  # what is kept may meet gradients later
        matrix = None
        for inputs, outputs in reversed(steps):
            if inputs != outputs:
                part, first = _bilinear(first, last, inputs, outputs)
                last = first + part.shape[1]
                # by NumPy: who counts operations must not find more where nothing was kept yet
                matrix = part if matrix is None else torch.from_numpy(matrix.numpy() @ part.numpy())
        if matrix is None:
            matrix = torch.eye(last - first, dtype=torch.float64, device="cpu")
        matrix = matrix.to(dtype)
        if device.type == "cuda":  # from other memory the copy would wait for the GPU
            matrix = matrix.pin_memory()
        return slice(first, last), matrix.to(device, non_blocking=True)


def strip_height(logits: Tensor, width: int) -> int:
    """Rows of a strip of resized `logits` (B, K, h, w) that is `width` pixels wide."""
    length = STRIP.get(logits.device.type, STRIP["cuda"])
    return min(max(1, length // (logits.shape[1] * width)), TALLEST)


def _bilinear(first: int, last: int, inputs: int, outputs: int) -> tuple[Tensor, int]:
    """Rows `first` to `last` of the resize's matrix from the first input used, and its number."""
    below, above, share = _neighbours(torch.arange(first, last, device="cpu"), inputs, outputs)
    start = int(below[0])
    size = (last - first, int(above[-1]) + 1 - start)
    matrix = torch.zeros(size, dtype=torch.float64, device="cpu")
    matrix.scatter_add_(1, below[:, None] - start, 1 - share[:, None])
    return matrix.scatter_add_(1, above[:, None] - start, share[:, None]), start


def _neighbours(numbers: Tensor, inputs: int, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two inputs that each output lies between, and the share of the second."""
    centre = ((numbers.double() + 0.5) * (inputs / outputs) - 0.5).clamp(min=0)
    below = centre.long()
    return below, (below + 1).clamp(max=inputs - 1), centre - below


def no_autocast(device_type: str) -> contextlib.AbstractContextManager:
    """Autocast off. The meta device, where memory is estimated, has none to switch off."""
    if not torch.amp.is_autocast_available(device_type):
        return contextlib.nullcontext()
    return torch.autocast(device_type, enabled=False)
