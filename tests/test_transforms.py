"""Augmentation: byte for byte what mmsegmentation 1.2.2 does with the same draws.

The expected arrays come from tests/golden/make_transforms.py.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from setr_lite import transforms
from setr_lite.config import IMAGENET_MEAN, IMAGENET_STD, DataConfig
from setr_lite.errors import UserError
from setr_lite.transforms import Normalize, Sample, TestTransform, TrainTransform, normalize

GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "transforms.npz"))
pytestmark = pytest.mark.smoke


class Script:
    """Answers like a numpy Generator, from a list; whatever is left or missing is an error."""

    def __init__(self, answers: np.ndarray) -> None:
        self.answers = list(answers)
        self.between: set[tuple[float, float]] = set()

    def integers(self, low: int, high: int | None = None) -> int:
        low, high = (0, low) if high is None else (low, high)
        answer = self.answers.pop(0)
        assert low <= answer < high
        self.between.add((low, high))
        return int(answer)

    def uniform(self, low: float, high: float) -> float:
        answer = float(self.answers.pop(0))
        assert low <= answer <= high
        self.between.add((low, high))
        return answer

    def random(self) -> float:
        return float(self.answers.pop(0))


def cases(prefix: str) -> list[int]:
    return [int(key.rsplit("_", 1)[1]) for key in GOLDEN if key.startswith(f"{prefix}_draws_")]


def photo(height: int, width: int) -> Sample:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    label = rng.integers(0, 5, (height, width), dtype=np.uint8)
    return Sample(torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(label), "photo")


@pytest.fixture
def data() -> DataConfig:
    return DataConfig(base_size=(40, 64), crop_size=(32, 32))


def test_sizes_are_those_of_the_published_resize() -> None:
    for height, width, short, long, ratio, *expected in GOLDEN["sizes"]:
        size, base = (int(height), int(width)), (int(short), int(long))
        rng = Script(np.array([ratio]))
        assert transforms.random_size(rng, size, base, (0.5, 2.0)) == tuple(expected)


@pytest.mark.parametrize(
    ("size", "base", "fitted"),
    [
        ((1024, 2048), (1025, 2049), (1025, 2049)),  # long side bounds: 1024 * 2049 / 2048 = 1024.5
        ((96, 192), (96, 192), (96, 192)),
        ((360, 480), (512, 2048), (512, 683)),  # 682.67
        ((100, 10), (20, 40), (40, 4)),  # upright: the long side is the height
        ((3, 3000), (10, 100), (1, 100)),  # 0.1 would round to nothing
        ((3000, 3), (10, 100), (100, 1)),
    ],
)
def test_fit_size_by_hand(size: tuple, base: tuple, fitted: tuple) -> None:
    assert transforms.fit_size(size, base) == fitted
    assert transforms.fit_size(size, base[::-1]) == fitted


def test_an_image_may_become_as_large_as_the_limit_and_no_larger() -> None:
    size = (1 << 13, 1 << 14)
    assert transforms.fit_size(size, size) == size
    taller = (size[0] + 1, size[1])
    with pytest.raises(UserError, match=r"of 8193x16384 becomes 8193x16384, more than 134217728"):
        transforms.fit_size(taller, taller)


def test_what_has_the_size_already_is_not_copied() -> None:
    image, label = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint8)
    assert transforms.resize_image(image, (4, 6)) is image
    assert transforms.resize_label(label, (4, 6)) is label


@pytest.mark.parametrize("key", [k for k in GOLDEN if k.startswith("resize_") and "x" in k])
def test_resized_bytes(key: str) -> None:
    _, kind, text = key.split("_")
    resize = getattr(transforms, f"resize_{kind}")
    size = tuple(int(side) for side in text.split("x"))
    np.testing.assert_array_equal(resize(GOLDEN[f"resize_{kind}"], size), GOLDEN[key])


@pytest.mark.parametrize("case", cases("crop"))
def test_crop_boxes(case: int) -> None:
    label, rng = GOLDEN[f"crop_label_{case}"], Script(GOLDEN[f"crop_draws_{case}"])
    box = transforms.random_crop_box(rng, label, tuple(GOLDEN[f"crop_size_{case}"]), 0.75)
    assert not rng.answers  # as many draws as the oracle
    y0, y1, x0, x1 = GOLDEN[f"crop_box_{case}"]
    assert box == (y0, x0, min(y1, 30), min(x1, 40))  # ours ends at the border at once
    np.testing.assert_array_equal(transforms.crop(label, box), label[y0:y1, x0:x1])


def test_resizing_for_a_box_gives_the_bytes_of_resizing_all() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (90, 110, 3), dtype=np.uint8)
    sizes = [(180, 220), (45, 55), (90, 110), (91, 111), (134, 164), (30, 37), (163, 90)]
    for size in [*sizes, *rng.integers(20, 300, (60, 2)).tolist()]:
        whole = transforms.resize_image(image, tuple(size))
        for end in (1, 20, *size):  # 1 and both borders among the ends of a box
            box = (max(end - 30, 0), max(end - 25, 0), min(end, size[0]), min(end, size[1]))
            part = transforms.resize_crop(image, tuple(size), box)
            np.testing.assert_array_equal(part, transforms.crop(whole, box))


def test_crops_reach_every_place_and_are_never_smaller() -> None:
    label, rng = np.zeros((10, 11), np.uint8), np.random.default_rng(0)
    boxes = {transforms.random_crop_box(rng, label, (8, 9), 1.0) for _ in range(200)}
    assert boxes == {(y, x, y + 8, x + 9) for y in range(3) for x in range(3)}


@pytest.mark.parametrize("size", [(5, 6), (8, 9), (8, 6)])
def test_an_image_no_larger_than_the_crop_is_taken_whole(size: tuple[int, int]) -> None:
    label, rng = np.zeros(size, np.uint8), np.random.default_rng(0)
    boxes = {transforms.random_crop_box(rng, label, (8, 9), 1.0) for _ in range(20)}
    assert boxes == {(0, 0, *size)}


def test_crop_boxes_end_after_one_some_and_eleven_draws() -> None:
    draws = {len(GOLDEN[f"crop_draws_{case}"]) // 2 for case in cases("crop")}
    assert {1, 11} < draws


def test_a_class_that_has_just_the_share_is_too_much() -> None:
    """As mmsegmentation's ``< cat_max_ratio``; after it, the box whose class has less."""
    label = np.zeros((4, 8), np.uint8)
    label[3, :4] = label[2:, 4:] = 1  # three quarters of the left half are 0, half of the right
    assert transforms.random_crop_box(Script(np.array([0, 0, 0, 4])), label, (4, 4), 0.75) == (
        0, 4, 4, 8)


@pytest.mark.parametrize("label", [np.zeros((30, 40), np.uint8), np.full((30, 40), 255, np.uint8)])
def test_ratio_one_takes_the_first_box(label: np.ndarray) -> None:
    rng = Script(np.array([3, 4]))
    assert transforms.random_crop_box(rng, label, (8, 8), 1.0) == (3, 4, 11, 12)


@pytest.mark.parametrize("case", cases("distort"))
def test_distorted_bytes(case: int) -> None:
    rng = Script(GOLDEN[f"distort_draws_{case}"])
    before = GOLDEN["distort_image"].copy()
    result = transforms.photometric_distortion(rng, before)
    assert not rng.answers
    np.testing.assert_array_equal(result, GOLDEN[f"distort_{case}"])
    np.testing.assert_array_equal(before, GOLDEN["distort_image"])  # the input is left alone


def test_strengths_and_coins_of_the_distortion_are_drawn_as_in_mmsegmentation() -> None:
    between = set()
    for case in cases("distort"):
        rng = Script(GOLDEN[f"distort_draws_{case}"])
        transforms.photometric_distortion(rng, GOLDEN["distort_image"].copy())
        between |= rng.between
    assert between == {(-32, 32), (0.5, 1.5), (-18, 18), (0, 2)}


def test_the_scripts_reach_every_step_of_the_distortion(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for name in ("scale_bytes", "scale_saturation", "turn_hue"):
        real = getattr(transforms, name)

        def spy(rgb: np.ndarray, *values: float, real=real, name=name) -> np.ndarray:
            seen.add((name, len(values)))
            return real(rgb, *values)

        monkeypatch.setattr(transforms, name, spy)
    for case in cases("distort"):
        rng = Script(GOLDEN[f"distort_draws_{case}"])
        transforms.photometric_distortion(rng, GOLDEN["distort_image"])
    steps = {("scale_bytes", 2), ("scale_bytes", 1), ("scale_saturation", 1), ("turn_hue", 1)}
    assert seen == steps


def test_scaling_cuts_and_clips() -> None:
    pixels = np.array([[[0, 1, 2], [3, 200, 255]]], dtype=np.uint8)
    assert transforms.scale_bytes(pixels, 1.5).tolist() == [[[0, 1, 3], [4, 255, 255]]]
    assert transforms.scale_bytes(pixels, 1.0, -1.5).tolist() == [[[0, 0, 0], [1, 198, 253]]]


def test_rgb_conversion_gives_the_bytes_of_bgr() -> None:
    cv2 = pytest.importorskip("cv2")
    rgb = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
    np.testing.assert_array_equal(hsv, cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV))
    back = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[..., ::-1]
    np.testing.assert_array_equal(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), back)


@pytest.mark.parametrize("case", cases("pipeline"))
def test_whole_pipeline(case: int, data: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = Script(GOLDEN[f"pipeline_draws_{case}"])
    monkeypatch.setattr(np.random, "default_rng", lambda seed: rng)
    image = torch.from_numpy(GOLDEN["pipeline_image"]).permute(2, 0, 1)
    sample = Sample(image, torch.from_numpy(GOLDEN["pipeline_label"]), "golden")
    pixels, label = TrainTransform(data, seed=0)(sample, counter=0)
    assert not rng.answers
    np.testing.assert_array_equal(pixels.numpy(), GOLDEN[f"pipeline_pixels_{case}"])
    np.testing.assert_array_equal(label.numpy(), GOLDEN[f"pipeline_labels_{case}"])
    assert pixels.is_contiguous()
    assert label.is_contiguous()


def test_normalize_by_hand() -> None:
    image = np.array([[[10, 20, 30], [0, 255, 128]]], dtype=np.uint8)
    result = transforms.normalize(image, (10.0, 0.0, 28.0), (1.0, 2.0, 4.0))
    assert result.dtype == torch.float32
    assert result.tolist() == [[[0, -10]], [[10, 127.5]], [[0.5, 25]]]
    with pytest.raises(ValueError, match="shorter"):
        transforms.Normalize(DataConfig(), torch.device("cpu"))(
            torch.zeros(2, 3, 4, 4, dtype=torch.uint8), [(4, 4)])


def test_padding_is_the_mean_colour_and_the_ignored_label() -> None:
    ones = torch.ones(3, 2, 3), torch.ones(2, 3, dtype=torch.uint8)
    image, label = transforms.pad_to(*ones, (4, 4))
    assert image.shape == (3, 4, 4)
    assert image[:, :2, :3].min() == 1
    assert image.sum() == 18
    assert label.tolist() == [[1, 1, 1, 255], [1, 1, 1, 255], [255] * 4, [255] * 4]
    same = transforms.pad_to(image, label, (3, 2))
    assert same[0] is image
    assert same[1] is label


def test_draws_depend_on_seed_and_counter_only(data: DataConfig) -> None:
    sample, transform = photo(50, 70), TrainTransform(data, seed=3)
    first = transform(sample, 7)
    transform(sample, 8)
    again = TrainTransform(data, seed=3)(sample, 7)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (TrainTransform(data, seed=4)(sample, 7), transform(sample, 8)):
        assert not torch.equal(first[0], other[0])


def test_crops_have_one_shape_and_leave_the_sample_alone(data: DataConfig) -> None:
    sample = photo(20, 90)
    before = sample.image.clone(), sample.label.clone()
    for counter in range(20):
        image, label = TrainTransform(data, seed=0)(sample, counter)
        assert image.shape == (3, 32, 32)
        assert label.shape == (32, 32)
        assert (image.dtype, label.dtype) == (torch.float32, torch.uint8)
    assert torch.equal(sample.image, before[0])
    assert torch.equal(sample.label, before[1])


def test_image_and_label_move_together() -> None:
    """An image that shows its own label: after any geometry the two still agree."""
    label = torch.arange(6, dtype=torch.uint8).repeat_interleave(16).expand(64, 96).contiguous()
    data = DataConfig(
        base_size=(64, 96), crop_size=(48, 48), ratio_range=(1, 1), distort=False,
        mean=(0, 0, 0), std=(1, 1, 1),
    )  # fmt: skip
    sample = Sample(label.expand(3, 64, 96), label, "stripes")
    crops = [TrainTransform(data, seed=1)(sample, counter) for counter in range(8)]
    for image, crop in crops:
        assert torch.equal(image[0], crop.float())
    falling = [bool(crop[0, 0] > crop[0, -1]) for _, crop in crops]
    assert True in falling  # some were flipped
    assert False in falling


def test_flip_zero_and_one(data: DataConfig) -> None:
    sample = photo(40, 64)
    plain = dataclasses.replace(data, ratio_range=(1, 1), distort=False, cat_max_ratio=1, flip=0)
    mirrored = dataclasses.replace(plain, flip=1)
    image, label = TrainTransform(plain, 0)(sample, 5)
    image_flipped, label_flipped = TrainTransform(mirrored, 0)(sample, 5)
    assert torch.equal(image.flip(-1), image_flipped)
    assert torch.equal(label.flip(-1), label_flipped)


def test_test_transform_fits_and_never_pads() -> None:
    sample = photo(36, 48)
    data = DataConfig(base_size=(36, 100), crop_size=(64, 64))
    same = TestTransform(data)(sample.image)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    assert torch.equal(same, (sample.image.float() - mean) / std)
    assert TestTransform(data)(sample.image.contiguous()).equal(same)
    large = dataclasses.replace(data, base_size=transforms.scale_base(data.base_size, 1.5))
    assert TestTransform(large)(sample.image).shape == (3, 54, 72)
    # 36 * 0.51 = 18.36 is cut to 18 before the fit: 48 * 18 / 36 = 24
    assert transforms.fit_size((36, 48), transforms.scale_base(data.base_size, 0.51)) == (18, 24)


@pytest.mark.parametrize("array", [
    np.zeros((4, 6), np.uint8), np.zeros((4, 6, 1), np.uint8), np.zeros((4, 6, 4), np.uint8),
    np.zeros((3, 4, 6), np.uint8), np.zeros((4, 6, 3), np.int8), np.zeros((4, 6, 3), np.float32),
])  # fmt: skip
def test_normalize_takes_bytes_of_three_channels(array):
    """Of fewer it once left the others as memory that nobody had written."""
    with pytest.raises(UserError, match=r"give \(H, W, 3\) uint8, RGB"):
        normalize(array)


@pytest.mark.parametrize("distort", [True, False])
def test_bytes_are_normalised_on_the_device_to_the_same_bits(distort):
    """Also where a small image is padded, and for an encoder's own constants."""
    data = DataConfig(
        base_size=(40, 60), crop_size=(32, 48), ratio_range=(0.4, 1.2), distort=distort,
        mean=(127.5, 100.0, 3.0), std=(127.5, 60.0, 7.0))  # fmt: skip
    transform, sample = TrainTransform(data, seed=2), photo(50, 70)
    expected, labels = zip(*(transform(sample, i) for i in range(8)), strict=True)
    images, again, inside = zip(*(transform.as_bytes(sample, i) for i in range(8)), strict=True)
    assert {image.dtype for image in images} == {torch.uint8}
    assert len({*inside}) > 2
    found = Normalize(data, torch.device("cpu"))(torch.stack(images), inside)
    assert torch.equal(found, torch.stack(expected))
    assert torch.equal(torch.stack(again), torch.stack(labels))
