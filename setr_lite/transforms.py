"""From a :class:`Sample` to what the model reads: the published augmentation, step by step.

The order is that of the paper's code and of mmsegmentation: random resize, random crop, flip,
photometric distortion on bytes, normalisation, and padding only after it, so that padded pixels
are 0, the mean colour. Resizing and colour conversion are OpenCV's, so the same draws give the
same bytes as the published pipelines. Those read BGR; RGB is the same with the channels swapped.

Shapes: H, W height and width of the image in the file, h, w after resizing, S side of a crop.
Inside, images are numpy (H,W,3) uint8 RGB; tensors (3,H,W) at both ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .config import IGNORE, IMAGENET_MEAN, IMAGENET_STD, MOST_PIXELS, Box, Colour, DataConfig, Size
from .errors import UserError

_REDRAWS = 10
_BRIGHTNESS = 32.0  # these three: mmsegmentation's defaults, which every SETR recipe keeps
_CONTRAST = _SATURATION = (0.5, 1.5)
_HUE = 18
_HUES = 180  # OpenCV halves the angle to fit a byte
_BYTES = np.arange(256, dtype=np.float32)
_SAME = np.arange(256, dtype=np.uint8)
_SAME.flags.writeable = False


class Sample(NamedTuple):
    """One image with its labels, as a data set gives it."""

    image: Tensor
    """(3,H,W) uint8, RGB."""
    label: Tensor
    """(H,W) uint8: 0..K-1, or 255 where nothing is to be learned or counted."""
    name: str
    """Names the image in results; unique within a split."""


def fit_size(size: Size, base_size: tuple[float, float]) -> Size:
    """The largest (h, w) with the aspect of `size` that fits into `base_size`.

    The short side of `base_size` bounds the short side of the image, the long side the long
    one; both results are rounded half up, as the published pipelines do, and at least 1.

    Raises:
        UserError: more than `MOST_PIXELS`.
    """
    scale = min(max(base_size) / max(size), min(base_size) / min(size))
    height, width = max(int(size[0] * scale + 0.5), 1), max(int(size[1] * scale + 0.5), 1)
    if height * width > MOST_PIXELS:
        raise UserError(
            f"an image of {size[0]}x{size[1]} becomes {height}x{width}, more than {MOST_PIXELS} "
            "pixels; lower data.base_size, eval.base_size, the ratios or the window, or leave an "
            "image of such an aspect out"
        )
    return height, width


def scale_base(base_size: Size, ratio: float) -> Size:
    """`base_size` times `ratio`, both sides cut (not rounded) to whole pixels."""
    return int(base_size[0] * ratio), int(base_size[1] * ratio)


def resize_image(image: np.ndarray, size: Size) -> np.ndarray:
    """(H,W,3) uint8 to (h,w,3), OpenCV's bilinear without antialiasing."""
    return _resize(image, size, cv2.INTER_LINEAR)


def resize_label(label: np.ndarray, size: Size) -> np.ndarray:
    """(H,W) uint8 to (h,w), OpenCV's nearest neighbour: no new label appears."""
    return _resize(label, size, cv2.INTER_NEAREST)


def _resize(array: np.ndarray, size: Size, mode: int) -> np.ndarray:
    if array.shape[:2] == tuple(size):
        return array
    return cv2.resize(array, (size[1], size[0]), interpolation=mode)


def resize_crop(image: np.ndarray, size: Size, box: Box) -> np.ndarray:
    """``crop(resize_image(image, size), box)``, to the byte, without most of the resizing.

    What lies below the box and right of it is left out. What lies above it and left of it is
    not: OpenCV counts from the first pixel of what it is given, and a box begins in general
    between two pixels of the file. Its functions that take such a beginning (`remap`,
    `warpAffine`) round more coarsely, one grey level off in a tenth of the values.
    """
    # A bilinear result is mixed from the pixel at ``(i + 0.5) * old / new - 0.5`` and the next.
    (height, width), (_, _, bottom, right) = image.shape[:2], box
    part = image[: math.ceil(bottom * height / size[0]) + 1]
    part = part[:, : math.ceil(right * width / size[1]) + 1]
    # By factors: a target size would be divided by the size of the part, which is not the same.
    factors = {"fx": size[1] / width, "fy": size[0] / height}
    resized = cv2.resize(part, None, **factors, interpolation=cv2.INTER_LINEAR)
    if resized.shape == part.shape:  # a factor close to 1: then OpenCV only copied
        resized = resize_image(image, size)
    return crop(resized, box)


def random_size(
    rng: np.random.Generator, size: Size, base_size: Size, ratio_range: tuple[float, float]
) -> Size:
    """(h, w) for an image of `size`: fitted into `base_size` times a ratio drawn uniformly."""
    return fit_size(size, scale_base(base_size, rng.uniform(*ratio_range)))


def random_crop_box(
    rng: np.random.Generator, label: np.ndarray, crop_size: Size, cat_max_ratio: float
) -> Box:
    """(top, left, bottom, right) of a crop, drawn again while one class fills it.

    A crop is good when at least two classes are in it and the largest covers less than
    `cat_max_ratio` of its pixels; ignored pixels (255) do not count. After ten redraws the box
    is taken as it is. Where the image is smaller than the crop, the box ends at its border.
    """
    for _ in range(_REDRAWS):
        box = _draw_box(rng, label.shape, crop_size)
        if cat_max_ratio >= 1 or _varied(crop(label, box), cat_max_ratio):
            return box
    return _draw_box(rng, label.shape, crop_size)


def _draw_box(rng: np.random.Generator, size: tuple[int, ...], crop_size: Size) -> Box:
    y = int(rng.integers(0, max(size[0] - crop_size[0], 0) + 1))
    x = int(rng.integers(0, max(size[1] - crop_size[1], 0) + 1))
    return y, x, min(y + crop_size[0], size[0]), min(x + crop_size[1], size[1])


def _varied(label: np.ndarray, cat_max_ratio: float) -> bool:
    # not np.bincount, which makes 64-bit numbers of all pixels first
    counts = cv2.calcHist([label], [0], None, [IGNORE], [0, IGNORE]).astype(int)
    return bool(counts.any() and counts.max() / counts.sum() < cat_max_ratio)


def crop(array: np.ndarray, box: Box) -> np.ndarray:
    """The part of an image or a label in a box: a view, not a copy."""
    top, left, bottom, right = box
    return array[top:bottom, left:right]


def photometric_distortion(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    """Brightness, contrast, saturation and hue of an (H,W,3) uint8 image, each half the time.

    Brightness moves by up to 32, contrast and saturation are multiplied by 0.5..1.5, hue turns
    by -18..17 of OpenCV's 180 steps. Contrast comes second or last, by a coin. Each step ends in
    bytes, cut and not rounded, as published (mmsegmentation's PhotoMetricDistortion).
    """
    table = _SAME  # brightness and contrast, gathered on 256 values instead of a whole image
    if _coin(rng):
        table = scale_bytes(table, 1.0, rng.uniform(-_BRIGHTNESS, _BRIGHTNESS))
    contrast_first = _coin(rng)
    if contrast_first and _coin(rng):
        table = scale_bytes(table, rng.uniform(*_CONTRAST))
    if _coin(rng):
        rgb, table = scale_saturation(_look_up(rgb, table), rng.uniform(*_SATURATION)), _SAME
    if _coin(rng):
        rgb, table = turn_hue(_look_up(rgb, table), int(rng.integers(-_HUE, _HUE))), _SAME
    if not contrast_first and _coin(rng):
        table = scale_bytes(table, rng.uniform(*_CONTRAST))
    return _look_up(rgb, table)


def _coin(rng: np.random.Generator) -> bool:
    return bool(rng.integers(2))


def scale_bytes(values: np.ndarray, factor: float, shift: float = 0.0) -> np.ndarray:
    """``values * factor + shift`` in float32, clipped to 0..255 and cut to uint8.

    `values` are bytes of any shape: an image, or a table of what has been done to each byte.
    """
    return _look_up(values, _byte_table(factor, shift))  # 256 sums instead of one per pixel


def _look_up(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """``table[values]``, of the shape of `values`; 256 entries."""
    return values if table is _SAME else cv2.LUT(values, table).reshape(values.shape)


def scale_saturation(rgb: np.ndarray, factor: float) -> np.ndarray:
    """The S of HSV times `factor`, clipped; through bytes both ways."""
    return _map_hsv(rgb, 1, _byte_table(factor, 0.0))


def turn_hue(rgb: np.ndarray, steps: int) -> np.ndarray:
    """The H of HSV moved by `steps` of 2 degrees, round the circle; through bytes both ways."""
    return _map_hsv(rgb, 0, ((np.arange(256) + steps) % _HUES).astype(np.uint8))


def _byte_table(factor: float, shift: float) -> np.ndarray:
    return np.clip(_BYTES * factor + shift, 0, 255).astype(np.uint8)


def _map_hsv(rgb: np.ndarray, channel: int, table: np.ndarray) -> np.ndarray:
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
    plane = _look_up(cv2.extractChannel(hsv, channel), table)
    return cv2.cvtColor(cv2.insertChannel(plane, hsv, channel), cv2.COLOR_HSV2RGB)


def normalize(image: np.ndarray, mean: Colour | None = None, std: Colour | None = None) -> Tensor:
    """(H,W,3) uint8 to (3,H,W) float32, ``(value - mean) / std`` per channel in 0..255.

    None stands for ImageNet's mean and standard deviation, as published.

    Raises:
        UserError: an array of another shape or type.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise UserError(
            f"an array of shape {image.shape} and type {image.dtype}: give (H, W, 3) uint8, RGB")
    image = np.ascontiguousarray(image)
    result = np.empty((3, *image.shape[:2]), dtype=np.float32)
    for channel, plane in enumerate(cv2.split(image)):
        shift, scale = (mean or IMAGENET_MEAN)[channel], (std or IMAGENET_STD)[channel]
        cv2.LUT(plane, (_BYTES - np.float32(shift)) / np.float32(scale), dst=result[channel])
    return torch.from_numpy(result)


class Normalize:
    """`normalize` and the padding of whole batches, on the device that computes.

    Args:
        data: whose mean and standard deviation are taken.
        device: of the batches; the constants go there once.
    """

    def __init__(self, data: DataConfig, device: torch.device) -> None:
        constants = (data.mean or IMAGENET_MEAN, data.std or IMAGENET_STD)
        self.mean, self.std = (
            torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
            for values in constants
        )  # fmt: skip

    def __call__(self, image: Tensor, inside: Sequence[tuple[int, int]]) -> Tensor:
        """(B,3,H,W) uint8 to float32, with 0 below and right of each image's `inside` (h, w)."""
        pixels = image.to(torch.float32).sub_(self.mean).div_(self.std)
        for one, (height, width) in zip(pixels, inside, strict=True):
            one[:, height:] = 0
            one[:, :, width:] = 0
        return pixels


def pad_to(image: Tensor, label: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Fill up to `size` at the bottom and right: image (3,h,w) with 0, label (h,w) with 255.

    Sides that are already that long stay as they are.
    """
    right, bottom = max(size[1] - label.shape[1], 0), max(size[0] - label.shape[0], 0)
    if not (right or bottom):
        return image, label
    border = (0, right, 0, bottom)
    return F.pad(image, border), F.pad(label, border, value=IGNORE)


class TrainTransform:
    """The training augmentation of `data`.

    Every draw comes from ``(seed, counter)`` alone: the same sample with the same counter gives
    the same crop in any process, whatever came before.
    """

    def __init__(self, data: DataConfig, seed: int) -> None:
        self.data, self.seed = data, seed

    def __call__(self, sample: Sample, counter: int) -> tuple[Tensor, Tensor]:
        """Image (3,h,w) float32 and label (h,w) uint8 of the crop number `counter`."""
        image, label = self._augmented(sample, counter)
        pixels = normalize(image, self.data.mean, self.data.std)
        return pad_to(pixels, torch.from_numpy(label), self.data.crop_size)

    def as_bytes(self, sample: Sample, counter: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """The same before it is normalised, in a quarter of the memory, for the library's loader.

        Returns:
            Image (3,h,w) uint8, label (h,w) uint8, and the height and width without padding. The
            image's padding is not initialised: fill it after normalisation.
        """
        image, label = self._augmented(sample, counter)
        planes = torch.from_numpy(np.stack(cv2.split(image)))
        return *pad_to(planes, torch.from_numpy(label), self.data.crop_size), label.shape

    def _augmented(self, sample: Sample, counter: int) -> tuple[np.ndarray, np.ndarray]:
        """(h,w,3) and (h,w), both uint8, not padded yet."""
        data, rng = self.data, np.random.default_rng([self.seed, counter])
        image, label = _as_hwc(sample.image), sample.label.numpy()

        size = random_size(rng, label.shape, data.base_size, data.ratio_range)
        label = resize_label(label, size)
        box = random_crop_box(rng, label, data.crop_size, data.cat_max_ratio)
        image, label = resize_crop(image, size, box), crop(label, box)
        mirror = rng.random() < data.flip
        image, label = _own(image, mirror), _own(label, mirror)
        if data.distort:
            image = photometric_distortion(rng, image)
        return image, label


def _own(array: np.ndarray, mirror: bool) -> np.ndarray:
    """A copy of a part of an image or label, mirrored or not, its rows one after the other.

    So the data set's own array stays as it is, and the large resized one can go.
    """
    return cv2.flip(array, 1) if mirror else array.copy()


class TestTransform:
    """What an image goes through before the model at test time: resize and normalise."""

    __test__ = False  # pytest takes a class named Test... for a test

    def __init__(self, data: DataConfig) -> None:
        self.data = data

    def __call__(self, image: Tensor) -> Tensor:
        """(3,H,W) uint8 to (3,h,w) float32, fitted into ``data.base_size``; never padded."""
        size = fit_size((image.shape[-2], image.shape[-1]), self.data.base_size)
        return test_view(image, size, self.data)


def test_view(image: Tensor, size: Size, data: DataConfig) -> Tensor:
    """(3,H,W) uint8 to (3,h,w) float32: resized to `size` as bytes, then normalised."""
    return normalize(resize_image(_as_hwc(image), size), data.mean, data.std)


def _as_hwc(image: Tensor) -> np.ndarray:
    """(3,H,W) to (H,W,3); no copy if the tensor is a view of such an array."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())
