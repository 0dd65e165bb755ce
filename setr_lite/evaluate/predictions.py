"""Images become labels by the protocol of a run: what `SETR.predict` does, and what is scored.

Labels keep the size of the image: logits are brought to it before the argmax, as the published
evaluation does. `protocols` decides which sizes of an image are looked at.

Shapes: an image of H x W pixels, K classes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..config import EvalConfig, RunConfig, Size
from ..datasets.images import as_image
from ..inference import Window, multi_scale_probabilities, predict_each
from ..inference.tiles import looking
from ..logits import LazyLogits
from ..model import SETR
from ..precision import autocast, uses_bf16
from ..transforms import test_view
from .protocols import protocol_of, view_sizes

THREADS = 4
"""That read files beside the model, and as many that write them."""
Views = tuple[Sequence[Tensor], Size]
"""The views of an image, (3, h, w) each, and its size (H, W)."""
Item = TypeVar("Item")
Result = TypeVar("Result")


def image_views(image: Tensor, config: RunConfig) -> list[Tensor]:
    """The views of an image that the run's protocol averages, without the mirrored ones.

    Each is resized from the 8-bit image, as published, and normalised by `config.data`, where
    None stands for ImageNet's numbers (`predict_images` takes the encoder's).

    Args:
        image: (3, H, W) uint8 RGB.

    Returns:
        (3, h, w) float32 each, in the order of the protocol's ratios.
    """
    image = as_image(image)
    data, (height, width) = config.test_data(), image.shape[-2:]
    return [test_view(image, size, data) for size in view_sizes(config, (height, width))]


def predict_images(
    model: SETR,
    images: Iterable[Any],
    *,
    config: RunConfig | None = None,
    probabilities: bool = False,
) -> Iterator[Tensor]:
    """`SETR.predict` of one image after the other, for more of them than fit into memory.

    Files are read in threads beside the model, a few ahead; windows of neighbours share batches.

    Args:
        model: its train/eval mode does not matter and is not changed.
        images: each in one of the forms that `SETR.predict` takes for one image.
        config, probabilities: as for `SETR.predict`.

    Yields:
        What `SETR.predict` returns for each, in their order, on the CPU.

    Raises:
        UserError: on reaching an item that is not an image.
    """
    prepared, run = preparation(model, config), settings_of(model, config)
    with ThreadPoolExecutor(THREADS) as pool:
        views = (views for _, views in ahead(pool, prepared, images))
        for found in predictions(model, run, views, probabilities=probabilities):
            yield found.cpu()


def predictor(model: SETR, config: RunConfig) -> Callable[[Tensor], Tensor]:
    """``image (3, H, W) uint8 RGB -> label (H, W)``: `SETR.predict` by a run, as a function."""
    return lambda image: model.predict(image, config=config)


def settings_of(model: SETR, config: RunConfig | None = None) -> RunConfig:
    """The run by whose settings `model` predicts, with the encoder's normalisation written in.

    `config` if there is one, else the model's own; for a model without, see `SETR.predict`.
    """
    config = config or model.config or RunConfig(eval=_own_windows(model))
    return replace(config, data=model.normalization(config.data))


def _own_windows(model: SETR) -> EvalConfig:
    """Windows of the size that the position table is for, every two thirds, as published."""
    patch, (h, w) = model.encoder.patch_size, model.encoder.grid
    stride = max(h * patch * 2 // 3, 1), max(w * patch * 2 // 3, 1)
    return EvalConfig(window=(h * patch, w * patch), stride=stride)


def preparation(
    model: SETR, config: RunConfig | None = None
) -> Callable[[Any], tuple[Tensor, Views]]:
    """What makes of an image in any form its pixels, (3, H, W) uint8, and its views."""
    run, as_it_is = settings_of(model, config), config is None and model.config is None

    def prepared(image: Any) -> tuple[Tensor, Views]:
        pixels = as_image(image)
        size = pixels.shape[-2], pixels.shape[-1]
        views = [test_view(pixels, size, run.data)] if as_it_is else image_views(pixels, run)
        return pixels, (views, size)

    return prepared


def predictions(
    model: SETR, config: RunConfig, images: Iterable[Views], *, probabilities: bool = False
) -> Iterator[Tensor]:
    """Labels (H, W), or probabilities (K, H, W), of each image, on the model's device.

    Nothing in it waits for the device: the next images are loaded while these are computed.
    """
    settings, protocol, weight = config.eval, protocol_of(config), next(model.parameters())
    how: dict[str, Any] = {
        "window": window_of(config), "flip": protocol.flip, "batch": settings.window_batch}
    bf16 = uses_bf16(settings.amp, model.device)

    def run(image: Tensor) -> LazyLogits:
        with looking(model), autocast(model.device, bf16):
            return model(image).lazy(protocol.odd)

    there = (
        ([view[None].to(weight, non_blocking=True) for view in views], size)  # device and type
        for views, size in images
    )
    if not probabilities:
        for label in predict_each(run, there, **how):
            yield label[0]
        return
    for views, size in there:
        with torch.no_grad():
            found = multi_scale_probabilities(run, views, size, **how)[0]
        yield found


def window_of(config: RunConfig) -> Window | None:
    """The sliding window of a run; None where it takes whole images.

    Raises:
        UserError: a stride above the window.
    """
    settings = config.eval
    return Window(settings.window, settings.stride) if settings.mode == "slide" else None


def ahead(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """``map(work, items)`` in the threads of a pool, at most `THREADS` items ahead of who asks."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > THREADS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
