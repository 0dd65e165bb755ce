"""`SETR.predict`: any image in, its labels out, digit for digit those that are scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from setr_lite import predict_images
from setr_lite.checkpoint import save_checkpoint
from setr_lite.config import ModelConfig, RunConfig
from setr_lite.datasets import Cityscapes
from setr_lite.errors import UserError
from setr_lite.evaluate import evaluate
from setr_lite.evaluate.predictions import THREADS
from setr_lite.inference import Window, predict
from setr_lite.model import SETR

SAMPLE = Path(__file__).parents[2] / "data" / "sample" / "toytown_cityscapes"
SIZES = [(20, 29), (17, 40), (33, 12)]


def fresh(classes=5):
    """Without a run, its weights so wide that labels vary."""
    torch.manual_seed(3)
    model = SETR(classes, "naive", "toy", img_size=(16, 24), channels=8)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    return model


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    model = fresh(19)
    config = RunConfig(model=ModelConfig(
        encoder="toy", head="naive", num_classes=19, img_size=(16, 24), channels=8))
    config = config.override(
        "data.base_size=24x64", "eval.window=16x16", "eval.stride=11x11", "data.name=cityscapes")
    return SETR.from_pretrained(
        save_checkpoint(tmp_path_factory.mktemp("run") / "model", model, config))


@pytest.fixture
def photos():
    """Of three sizes, none of them square, cut out of a street."""
    street = Cityscapes(SAMPLE, "val")[1].image
    return [np.ascontiguousarray(street[:, 30:30 + h, -w:].permute(1, 2, 0)) for h, w in SIZES]


@pytest.mark.smoke
def test_an_image_in_any_form_gives_the_same_labels(trained, photos, tmp_path):
    array = photos[0]
    Image.fromarray(array).save(tmp_path / "a.png")
    wanted = trained.predict(array)
    assert (wanted.shape, wanted.dtype, wanted.device.type) == (SIZES[0], torch.uint8, "cpu")
    assert len(wanted.unique()) > 2
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    for one in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(array), tensor):
        assert torch.equal(trained.predict(one), wanted)


def test_several_images_of_several_sizes(trained, photos):
    found = trained.predict(photos)
    assert [tuple(label.shape) for label in found] == SIZES
    for label, photo in zip(found, photos, strict=True):
        assert (label != trained.predict(photo)).float().mean() < 1e-3  # rounding decides ties
    assert trained.predict([]) == []
    batch = np.stack([photos[0], photos[0][:, ::-1]])
    both = trained.predict(batch)
    assert both.shape == (2, *SIZES[0])
    assert torch.equal(both, trained.predict(torch.from_numpy(batch).permute(0, 3, 1, 2)))
    assert torch.equal(both[0], torch.stack(trained.predict(list(batch)))[0])
    scores = trained.predict(batch, probabilities=True)
    assert scores.shape == (2, 19, *SIZES[0])


@pytest.mark.parametrize("protocol", ["none", "official+ms", "mmseg-0.x"])
def test_labels_are_those_that_are_scored(trained, protocol):
    """Of every image of a split whose sides the patch does not divide."""
    config = trained.config.override(
        f"eval.protocol={protocol}", "eval.base_size=21x80", "eval.window=16x16",
        "eval.stride=16x16", "eval.limit=2", "eval.window_batch=1", f"data.root={SAMPLE}")
    streets, scored = Cityscapes(SAMPLE, "val"), []
    evaluate(trained, streets, config, on_image=lambda i, label, _: scored.append(label))
    assert len(scored) == 2
    paths = [streets.files[i][0] for i in range(2)]
    for label, path in zip(scored, paths, strict=True):
        assert torch.equal(trained.predict(path, config=config), label)
    assert not torch.equal(trained.predict(paths[0]), scored[0])  # by the run's own protocol


def test_probabilities(trained, photos):
    config = trained.config.override("eval.protocol=paper+ms")
    for run in (None, config):
        scores = trained.predict(photos[1], probabilities=True, config=run)
        assert (scores.shape, scores.dtype) == ((19, *SIZES[1]), torch.float32)
        assert scores.min() >= 0
        torch.testing.assert_close(scores.sum(0), torch.ones(SIZES[1]))
        label = trained.predict(photos[1], config=run)
        best = scores.gather(0, label[None].long())[0]
        assert (scores.max(0).values - best).max() < 1e-6
    assert not scores.requires_grad
    assert not scores.is_inference()


def test_a_model_without_a_run_takes_windows_of_its_own_size(photos):
    model = fresh().eval()
    assert model.config is None
    window = Window((16, 24), (10, 16))
    by_hand = predict(model, model.preprocess(photos[0]), window=window)
    assert torch.equal(model.predict(photos[0]), by_hand)
    assert not torch.equal(predict(model, model.preprocess(photos[0])), by_hand)
    model.config = RunConfig().override("eval.mode=whole", "data.base_size=20x29")
    assert torch.equal(model.predict(photos[0]), predict(model, model.preprocess(photos[0])))
    wide = Image.new("RGB", (16_400, 1))  # longer than a setting may be
    model.config = None
    assert model.predict(wide).shape == (1, 16_400)


def test_the_model_keeps_its_mode_and_statistics(photos):
    model = fresh()
    with torch.no_grad():
        wanted = model.eval().predict(photos[0])
    model.train()
    model.head.convs[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert torch.equal(model.predict(photos[0]), wanted)
    assert model.training
    assert not model.head.convs[0].training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_more_than_256_classes_need_more_than_a_byte(photos):
    assert fresh(256).predict(photos[0]).dtype == torch.uint8
    model = fresh(300)
    with torch.no_grad():
        model.head.classifier.bias[299] = 1e6
    label = model.predict(photos[0])
    assert label.dtype == torch.int64
    assert (label == 299).all()


def test_images_are_asked_for_as_they_are_needed(photos):
    asked = 0

    def endless():
        nonlocal asked
        while True:
            asked += 1
            yield photos[0]

    stream = predict_images(fresh(), endless())
    for _ in range(3):
        assert next(stream).shape == SIZES[0]
    stream.close()
    assert asked <= 3 + THREADS + 5  # and the windows of a batch


def test_what_is_no_image_is_refused_in_words(trained, photos, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    tensor = torch.from_numpy(photos[0]).permute(2, 0, 1)
    for bad, said in (
        (tmp_path / "nowhere.png", "nowhere.png: no such file"),
        (tmp_path, "cannot be read as an image"),
        (tmp_path / "text.png", "text.png: cannot be read as an image"),
        (tensor.float(), "type float32 is no image"),
        (photos[0].astype(np.uint16), "type uint16 is no image"),
        (torch.from_numpy(photos[0]), r"shape \(20, 29, 3\) .* no single image"),
        (tensor[None].float(), "type float32 is no image"),
        (photos[0][:, :, :2], r"shape \(20, 29, 2\)"),
        (np.zeros((0, 5, 3), np.uint8), r"shape \(0, 5, 3\)"),
        (np.zeros((0, 5, 5, 3), np.uint8), "a batch of no images"),
        (np.zeros((1, 1, 5, 5, 3), np.uint8), "no single image"),
        (None, "an image of type NoneType"),
        ([*photos[:1], None], "an image of type NoneType"),
        ({"image": photos[0]}, "an image of type dict"),
    ):
        with pytest.raises(UserError, match=said):
            trained.predict(bad)
    with pytest.raises(UserError, match="leaves gaps"):
        trained.predict(photos[0], config=trained.config.override("eval.stride=500x500"))
