"""Writes transforms.npz: what mmsegmentation 1.2.2 does, for tests/test_transforms.py.

Run ``DIR/bin/python tests/golden/make_transforms.py`` in the environment that ``sh
tests/oracle/setup.sh DIR`` makes (the project does not depend on mmsegmentation).

Random draws are answered from a script, so that both sides decide the same. A script is a list
of numbers in the order in which mmsegmentation asks; `setr_lite` asks in the same order.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import mmcv
import mmseg
import numpy as np
import torch
from mmcv.transforms import RandomFlip, RandomResize
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.datasets.transforms import PhotoMetricDistortion, RandomCrop
from mmseg.datasets.transforms import transforms as mmseg_transforms
from mmseg.models import SegDataPreProcessor
from mmseg.structures import SegDataSample

OUT = Path(__file__).with_name("transforms.npz")
NUMPY_RANDOM = np.random
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Script:
    """Stands in for ``numpy.random``: answers from a generator and writes down each answer."""

    def __init__(self, seed: int) -> None:
        self.rng, self.answers = np.random.default_rng(seed), []

    def _note(self, value: float) -> float:
        self.answers.append(float(value))
        return value

    def __getattr__(self, name: str) -> object:
        return getattr(NUMPY_RANDOM, name)  # whatever is no draw of the pipeline's

    def randint(self, low: int, high: int | None = None) -> int:
        low, high = (0, low) if high is None else (low, high)
        return self._note(int(self.rng.integers(low, high)))

    def uniform(self, low: float, high: float) -> float:
        return self._note(float(self.rng.uniform(low, high)))

    def choice(self, directions: list, p: list[float]) -> str | None:
        flipped = self.rng.random() < p[0]
        self._note(0.0 if flipped else 1.0)  # setr_lite flips where a draw is below the chance
        return directions[0] if flipped else None


def picture(height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Soft shapes with some noise and pure colours (RGB), and a label with 0..5 and 255."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    noisy = rng.random((height, width)) < 0.3
    image[noisy] = rng.integers(0, 256, (int(noisy.sum()), 3))
    corners = np.array(list(itertools.product((0, 255), repeat=3)), dtype=np.uint8)
    image[:2, :4] = corners.reshape(2, 4, 3)
    label = rng.choice(np.array([0, 0, 0, 1, 2, 5, 255], dtype=np.uint8), (4, 6))
    return image, cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)


def sizes() -> np.ndarray:
    """Rows (height, width, short, long, ratio, new height, new width)."""
    rng, rows = np.random.default_rng(0), []
    bases = [(512, 2048), (1025, 2049), (520, 520), (96, 192), (360, 480)]
    images = [(1024, 2048), (683, 512), (512, 683), (375, 500), (360, 480), (96, 192), (7, 300)]
    for (short, long), (height, width) in itertools.product(bases, images):
        for ratio in (1.0, *rng.uniform(0.5, 2.0, 4)):
            scale = RandomResize._random_sample_ratio((long, short), (ratio, ratio))
            new_width, new_height = mmcv.rescale_size((width, height), scale)
            rows.append((height, width, short, long, ratio, new_height, new_width))
    return np.array(rows)


def resized(store: dict[str, np.ndarray]) -> None:
    image, label = picture(33, 46, seed=1)
    store |= {"resize_image": image, "resize_label": label}
    for height, width in [(17, 23), (40, 56), (66, 92), (11, 64)]:
        bgr = np.ascontiguousarray(image[..., ::-1])
        bgr = mmcv.imresize(bgr, (width, height), interpolation="bilinear")
        store[f"resize_image_{height}x{width}"] = bgr[..., ::-1]
        store[f"resize_label_{height}x{width}"] = mmcv.imresize(
            label, (width, height), interpolation="nearest"
        )


def crop_boxes(store: dict[str, np.ndarray]) -> None:
    """Labels of rising monotony: boxes that come at once, after some redraws, and as the last."""
    for case, share in enumerate((0.0, 0.62, 0.66, 0.68, 0.8, 1.0, 0.0)):
        script = np.random = Script(seed=case)
        rng = np.random.default_rng(case)
        label = rng.integers(0, 4, (30, 40), dtype=np.uint8)
        label[rng.random((30, 40)) < 0.1] = 255
        label[rng.random((30, 40)) < share] = 2
        results = {"img": np.zeros((30, 40, 3), np.uint8), "gt_seg_map": label}
        size = (12, 20) if case < 6 else (12, 50)  # the last: wider than the image
        step = RandomCrop(crop_size=size, cat_max_ratio=0.75)  # wants to outlive the call
        box = step.crop_bbox(results)
        store[f"crop_label_{case}"] = label
        store[f"crop_draws_{case}"] = np.array(script.answers)
        store[f"crop_size_{case}"], store[f"crop_box_{case}"] = np.array(size), np.array(box)


def distorted(store: dict[str, np.ndarray]) -> None:
    image, _ = picture(20, 24, seed=2)
    store["distort_image"] = image
    for case in range(16):
        script = mmseg_transforms.random = Script(seed=case)
        results = {"img": np.ascontiguousarray(image[..., ::-1])}
        bgr = PhotoMetricDistortion().transform(results)["img"]
        store[f"distort_draws_{case}"] = np.array(script.answers)
        store[f"distort_{case}"] = bgr[..., ::-1]


def pipeline(store: dict[str, np.ndarray]) -> None:
    """All steps in their order, to the tensor that the model reads."""
    image, label = picture(36, 48, seed=3)
    store |= {"pipeline_image": image, "pipeline_label": label}
    for case, ratio in enumerate((0.6, 0.97, 1.7)):
        script = Script(seed=20 + case)
        script._note(ratio)
        mmseg_transforms.random = np.random = script
        results = {
            "img": np.ascontiguousarray(image[..., ::-1]),
            "gt_seg_map": label,
            "seg_fields": ["gt_seg_map"],
        }
        RandomResize._random_sample_ratio = staticmethod(
            lambda scale, _, r=ratio: (int(scale[0] * r), int(scale[1] * r))
        )
        for step in (
            RandomResize(scale=(64, 40), ratio_range=(0.5, 2.0), keep_ratio=True),
            RandomCrop(crop_size=(32, 32), cat_max_ratio=0.75),
            RandomFlip(prob=0.5),
            PhotoMetricDistortion(),
        ):
            results = step.transform(results)
        store[f"pipeline_draws_{case}"] = np.array(script.answers)
        pixels, labels = preprocess(results["img"], results["gt_seg_map"])
        store[f"pipeline_pixels_{case}"] = pixels
        store[f"pipeline_labels_{case}"] = labels


def preprocess(bgr: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sample = SegDataSample(metainfo={"img_shape": bgr.shape[:2]})
    sample.gt_sem_seg = PixelData(data=torch.from_numpy(label.copy())[None])
    data = {
        "inputs": [torch.from_numpy(np.ascontiguousarray(bgr.transpose(2, 0, 1)))],
        "data_samples": [sample],
    }
    size = {"size": (32, 32), "pad_val": 0, "seg_pad_val": 255}
    out = SegDataPreProcessor(mean=MEAN, std=STD, bgr_to_rgb=True, **size)(data, training=True)
    return out["inputs"][0].numpy(), out["data_samples"][0].gt_sem_seg.data[0].numpy()


def main() -> None:
    init_default_scope("mmseg")
    store: dict[str, np.ndarray] = {"sizes": sizes()}
    for part in (resized, crop_boxes, distorted, pipeline):
        part(store)
    versions = f"mmseg {mmseg.__version__}, mmcv {mmcv.__version__}, OpenCV {cv2.__version__}"
    np.savez_compressed(OUT, versions=np.array(versions), **store)
    print(f"{OUT}: {OUT.stat().st_size / 1024:.0f} KiB, {len(store)} arrays, {versions}")


if __name__ == "__main__":
    main()
