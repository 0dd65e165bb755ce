"""Scoring a data set: the views, the windows, which image is counted."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from setr_lite import distributed
from setr_lite.config import IMAGENET_MEAN, IMAGENET_STD, DataConfig, EvalConfig, RunConfig
from setr_lite.datasets import Cityscapes
from setr_lite.errors import UserError
from setr_lite.evaluate import check_settings, check_views, evaluate, image_views
from setr_lite.inference import Window, sliding_window
from setr_lite.metrics import ConfusionMatrix
from setr_lite.model import SETR
from setr_lite.transforms import Sample

DATA = Path(__file__).parents[2] / "data"
SAMPLE = DATA / "sample" / "toytown_cityscapes"
TRAINED = DATA / "runs" / "toytown_pup" / "model"
CONFIG = RunConfig(
    data=DataConfig(name="cityscapes", base_size=(40, 80), crop_size=(48, 48)),
    eval=EvalConfig(window=(48, 48), stride=(31, 31), protocol="official+ms"),
)


@pytest.fixture
def model(spread):
    return spread(SETR(19, "naive", encoder="toy", img_size=(48, 48), channels=8)).eval()


@pytest.fixture
def trained():
    """A model whose labels vary with the picture."""
    return SETR.from_pretrained(TRAINED)


@pytest.fixture(scope="module")
def streets():
    return Cityscapes(SAMPLE, "val")


def picture(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))


def test_views_are_resized_as_bytes():
    image = picture(45, 90)
    views = image_views(image, CONFIG)
    expected = [(48, 96), (48, 96), (48, 96), (50, 100), (60, 120), (70, 140)]
    assert [tuple(view.shape[1:]) for view in views] == expected
    for view, (height, width) in zip(views, expected, strict=True):
        pixels = cv2.resize(np.ascontiguousarray(image.permute(1, 2, 0)), (width, height))
        assert pixels.dtype == np.uint8
        by_hand = (pixels.astype(np.float64) - IMAGENET_MEAN) / IMAGENET_STD
        np.testing.assert_allclose(view.permute(1, 2, 0), by_hand, atol=1e-6)


@pytest.mark.parametrize("protocol", ["official+ms", "mmseg-0.x+ms"])
def test_prediction_by_hand(trained, streets, protocol):
    """Views, windows, resize, softmax, mirrored back, mean, argmax: written out."""
    image = streets[0].image[:, :90, :154]
    config = CONFIG.override(f"eval.protocol={protocol}")
    odd = "crop" if protocol == "official+ms" else "squeeze"
    total = 0
    with torch.no_grad():
        for view in image_views(image, config):
            for mirror in (False, True):
                x = view[None].flip(-1) if mirror else view[None]
                logits = loop(lambda crop: trained(crop).full(odd), x)
                scores = F.interpolate(logits, size=(90, 154), mode="bilinear").softmax(1)
                total = total + (scores.flip(-1) if mirror else scores)
    label = trained.predict(image, config=config)
    best, second = (total / 12).topk(2, dim=1).values[0]
    sure = best - second > 1e-4  # sums in another order may turn a tie
    assert sure.float().mean() > 0.99
    assert torch.equal(label[sure], total.argmax(1)[0].to(torch.uint8)[sure])
    assert len(label.unique()) > 4


def loop(logits_fn, image, size=48, stride=31):
    """The sliding window one by one, as it is published."""
    height, width = image.shape[-2:]
    rows = max(height - size + stride - 1, 0) // stride + 1
    columns = max(width - size + stride - 1, 0) // stride + 1
    total, count = 0, image.new_zeros(height, width)
    for row in range(rows):
        for column in range(columns):
            bottom, right = min(row * stride + size, height), min(column * stride + size, width)
            top, left = max(bottom - size, 0), max(right - size, 0)
            logits = logits_fn(image[..., top:bottom, left:right])
            total = total + F.pad(logits, (left, width - right, top, height - bottom))
            count[top:bottom, left:right] += 1
    return total / count


@pytest.mark.parametrize("size", [(70, 131), (48, 48), (30, 101), (21, 37)])
@pytest.mark.parametrize("batch", [2, 64])
def test_windows_in_batches_equal_the_loop(model, size, batch):
    model.double()
    image = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        batched = sliding_window(model.logits, image, Window(48, 31), batch=batch)
        one_by_one = loop(model.logits, image)
    assert batched.dtype == torch.float64
    torch.testing.assert_close(batched, one_by_one, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_setting_bounds_the_windows_of_a_pass(model, batch):
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    config = CONFIG.override("eval.protocol=none", "data.base_size=96x192")
    model.predict(picture(96, 192), config=config.override(f"eval.window_batch={batch}"))
    assert sum(seen) == 3 * 6
    assert max(seen) == batch


@pytest.mark.parametrize(("batch", "passes"), [(1, 8), (4, 2), (16, 1)])
def test_windows_of_several_images_share_a_pass(trained, streets, batch, passes):
    """Four images of two windows each: as many as fit go through together, labels unchanged."""
    config = CONFIG.override(
        "eval.protocol=none", "data.base_size=48x96", "eval.stride=48x48", "eval.limit=4",
        f"eval.window_batch={batch}",
    )
    seen, found = [], {}
    trained.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    evaluate(trained, streets, config, on_image=lambda i, label, _: found.update({i: label}))
    assert (len(seen), sum(seen)) == (passes, 8)
    for i, label in found.items():
        alone = trained.predict(streets[i].image, config=config)
        assert (label != alone).float().mean() < 1e-3  # rounding decides ties


def test_the_encoders_own_normalisation_is_used(trained, streets):
    image, config = streets[0].image, CONFIG.override("eval.protocol=none")
    usual = trained.predict(image, config=config)
    imagenet = config.override("data.mean=123.675,116.28,103.53")
    assert torch.equal(usual, trained.predict(image, config=imagenet))
    trained.encoder.mean = (0.0, 0.0, 0.0)
    assert not torch.equal(trained.predict(image, config=config), usual)


def test_which_images_are_counted(model, streets, capfd):
    config = CONFIG.override("eval.protocol=none", "eval.limit=3")
    seen = []

    def remember(index, prediction, label):
        seen.append(index)
        one = ConfusionMatrix(19)
        one.update(prediction, label)
        parts.append(one.matrix)

    parts = []
    first = evaluate(model, streets, config, on_image=remember)
    assert seen == [0, 1, 2]
    assert torch.equal(first.matrix, sum(parts))
    parts.clear()
    chosen = evaluate(model, streets, config, indices=[5, 1], on_image=remember, workers=1)
    assert seen[3:] == [5, 1]
    assert torch.equal(chosen.matrix, sum(parts))
    assert not torch.equal(chosen.matrix, first.matrix)
    assert "evaluate" not in capfd.readouterr().err  # no bar unless asked
    evaluate(model, streets, config, indices=[0], progress=True)
    assert "evaluate" in capfd.readouterr().err


def test_ranks_share_the_images(model, streets, monkeypatch):
    """Five images on three ranks: every one once, none again to fill up the last round."""
    config, seen, total = CONFIG.override("eval.protocol=none", "eval.limit=5"), [], 0
    whole = evaluate(model, streets, config).matrix
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        total = total + evaluate(
            model, streets, config, on_image=lambda index, *_: seen.append(index)).matrix
    assert seen == [0, 3, 1, 4, 2]
    assert torch.equal(total, whole)


class Loader(torch.utils.data.Dataset):
    """A data set whose labels say with how many of OpenCV's threads they were loaded."""

    classes = tuple(map(str, range(19)))

    def __len__(self):
        return 2

    def __getitem__(self, index):
        threads = min(cv2.getNumThreads(), 18)
        return Sample(picture(40, 80), torch.full((40, 80), threads, dtype=torch.uint8), "")


def test_images_are_loaded_in_this_process_unless_told(model):
    class Remembering(Loader):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    seen, config = [], CONFIG.override("eval.protocol=none")
    evaluate(model, Remembering(), config)
    assert seen == [0, 1]
    evaluate(model, Remembering(), config, workers=-1 if torch.get_num_threads() > 1 else 1)
    assert seen == [0, 1]


def test_loader_processes_have_one_thread(model):
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        confusion = evaluate(model, Loader(), CONFIG.override("eval.protocol=none"), workers=1)
    finally:
        cv2.setNumThreads(before)
    assert confusion.matrix.sum(1).nonzero().flatten().tolist() == [1]


def test_every_part_has_its_own_mode_again(model, streets):
    model.train()
    frozen = next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, streets, CONFIG, indices=[0])
    assert model.training
    assert not frozen.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_run_begins_with_the_sizes_of_its_evaluation(streets):
    """A strip would be enlarged until its short side is a window."""
    check_views(CONFIG, streets)
    strip = Sample(torch.zeros(3, 1, 60_000, dtype=torch.uint8), torch.zeros(1, 60_000), "strip")
    check_views(CONFIG, [streets[0], strip])  # the first tells, the others are not read
    with pytest.raises(UserError, match="60000"):
        check_views(CONFIG, [strip, streets[0]])


@pytest.mark.parametrize(("setting", "message"), [
    ("eval.stride=49x49", "a stride above the size leaves gaps"),
    ("eval.flip=true", "has ratios and flip of its own"),
])
def test_a_run_begins_with_the_settings_of_its_evaluation(setting, message):
    check_settings(CONFIG)
    with pytest.raises(UserError, match=message):
        check_settings(CONFIG.override(setting))
