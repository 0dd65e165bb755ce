"""Windows, scales and mirror images, with logits whose average is known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from setr_lite.errors import UserError
from setr_lite.inference import (
    Window,
    multi_scale_probabilities,
    predict,
    predict_views,
    sliding_window,
    window_starts,
)


def image(height, width, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, height, width, generator=generator, dtype=torch.float64)


def pointwise(x):
    """Logits that depend on each pixel alone: windows cannot change them."""
    return torch.stack([x[:, 0] + x[:, 1], x[:, 1] * x[:, 2], x[:, 2] - 1], dim=1)


class Counting:
    """A logits function that remembers the shapes it was called with."""

    def __init__(self, function=pointwise):
        self.function, self.shapes = function, []

    def __call__(self, x):
        self.shapes.append(tuple(x.shape))
        return self.function(x)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("size", "window", "rows", "columns"),
    [
        ((1025, 2049), Window(768, 512), 2, 4),  # Cityscapes
        ((512, 683), Window(512, 341), 1, 2),  # ADE20K
        ((520, 693), Window(480, 320), 2, 2),  # Pascal Context
        ((512, 512), Window(512, 341), 1, 1),
        ((300, 513), Window(512, 341), 1, 2),
    ],
)
def test_published_window_counts(size, window, rows, columns):
    boxes = window.boxes(size)
    assert len(boxes) == rows * columns
    assert len({box[0] for box in boxes}) == rows
    assert {(y1 - y0, x1 - x0) for y0, x0, y1, x1 in boxes} == {(min(size[0], window.size[0]),
                                                                min(size[1], window.size[1]))}


def test_starts_by_hand():
    assert window_starts(10, 4, 3) == [0, 3, 6]
    assert window_starts(11, 4, 3) == [0, 3, 6, 7]  # the last one is shifted back
    assert window_starts(4, 4, 3) == [0]
    assert window_starts(3, 4, 3) == [0]


def test_rectangular_window():
    assert Window((2, 4), (1, 4)).boxes((3, 8)) == [
        (0, 0, 2, 4), (0, 4, 2, 8), (1, 0, 3, 4), (1, 4, 3, 8),
    ]


@pytest.mark.parametrize(
    ("size", "stride"), [(4, 5), ((4, 4), (4, 5)), (0, 1), (4, 0), ((4, 4, 4), 1)]
)
def test_impossible_windows(size, stride):
    with pytest.raises(UserError, match=r"Window\(size=.*(leaves gaps|positive whole numbers)"):
        Window(size, stride)


@pytest.mark.parametrize("batch", [1, 3, 4, 100])
def test_windows_of_pointwise_logits_change_nothing(batch):
    x = image(11, 17, batch=2)
    logits = sliding_window(pointwise, x, Window(6, 4), batch=batch)
    torch.testing.assert_close(logits, pointwise(x), rtol=1e-12, atol=1e-12)


def test_overlapping_windows_average_logits_by_hand():
    """A window of logits 1, 2, 3, 4 from left to right, whatever the picture."""

    def ramp(x):
        steps = torch.arange(1.0, x.shape[-1] + 1, dtype=x.dtype)
        return steps.expand(len(x), 1, *x.shape[-2:])

    logits = sliding_window(ramp, image(2, 7), Window((2, 4), (2, 2)))  # starts 0, 2, 3
    expected = [1, 2, (3 + 1) / 2, (4 + 2 + 1) / 3, (3 + 2) / 2, (4 + 3) / 2, 4]
    assert logits[0, 0, 0].tolist() == pytest.approx(expected)
    assert logits[0, 0, 1].tolist() == pytest.approx(expected)


def test_windows_go_in_batches():
    fn = Counting()
    sliding_window(fn, image(4, 14, batch=2), Window(4, 2), batch=4)  # 6 windows
    assert fn.shapes == [(8, 3, 4, 4), (4, 3, 4, 4)]


def test_small_image_is_one_small_window():
    fn = Counting()
    x = image(5, 9)
    torch.testing.assert_close(sliding_window(fn, x, Window(8, 8)), pointwise(x))
    assert fn.shapes == [(2, 3, 5, 8)]  # shorter than the window, wide enough for two
    fn = Counting()
    sliding_window(fn, image(5, 7), Window(8, 8))
    assert fn.shapes == [(1, 3, 5, 7)]


def test_low_precision_logits_are_summed_in_float32():
    logits = sliding_window(lambda x: pointwise(x).bfloat16(), image(4, 9), Window(4, 2))
    assert logits.dtype == torch.float32


def test_probabilities_of_two_scales_by_hand():
    small, large = image(3, 4, seed=1), image(6, 8, seed=2)
    mean = multi_scale_probabilities(pointwise, [small, large], (6, 8))
    resized = F.interpolate(pointwise(small), size=(6, 8), mode="bilinear")
    expected = (resized.softmax(1) + pointwise(large).softmax(1)) / 2
    torch.testing.assert_close(mean, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mean.sum(1), torch.ones(1, 6, 8, dtype=torch.float64))


def directional(x):
    """Differs between an image and its mirror image: class 1 grows from left to right."""
    ramp = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype).expand_as(x[:, :1])
    return torch.cat([x[:, :1], ramp, x[:, 1:2]], dim=1)


def test_flip_averages_both_ways():
    x = image(5, 6)
    both = multi_scale_probabilities(directional, [x], (5, 6), flip=True)
    there, back = directional(x).softmax(1), directional(x.flip(-1)).softmax(1).flip(-1)
    torch.testing.assert_close(both, (there + back) / 2, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(there, back)


def test_flip_makes_prediction_equivariant():
    x = image(9, 13)
    label = predict(directional, x, flip=True)
    assert torch.equal(predict(directional, x.flip(-1), flip=True), label.flip(-1))
    plain = predict(directional, x)
    assert not torch.equal(predict(directional, x.flip(-1)), plain.flip(-1))


def test_predict_returns_the_largest_logit():
    x = image(7, 9)
    label = predict(pointwise, x[0])
    assert label.dtype == torch.uint8
    assert label.device.type == "cpu"
    assert torch.equal(label, pointwise(x)[0].argmax(0).to(torch.uint8))
    assert torch.equal(predict(pointwise, x, window=Window(4, 3)), label)
    assert not label.is_inference()


def test_predict_at_another_size():
    x = image(4, 6)
    label = predict(pointwise, x, size=(9, 5))
    logits = F.interpolate(pointwise(x), size=(9, 5), mode="bilinear")
    assert torch.equal(label, logits[0].argmax(0).to(torch.uint8))


def test_ratios_round_half_up_and_windows_apply_to_each():
    fn = Counting()
    label = predict(fn, image(5, 7), ratios=(0.5, 1.0, 1.5), flip=True)
    assert [shape[-2:] for shape in fn.shapes] == [(3, 4)] * 2 + [(5, 7)] * 2 + [(8, 11)] * 2
    assert label.shape == (5, 7)
    fn = Counting()
    predict(fn, image(5, 7), ratios=(1.0, 2.0), window=Window(5, 5))
    assert [shape[-2:] for shape in fn.shapes] == [(5, 5)] * 3  # 2 windows; 6 in two batches


def test_many_classes_need_int64():
    def logits(x):
        return x[:, :1].expand(-1, 300, -1, -1)

    assert predict(logits, image(2, 2)).dtype == torch.int64


def test_no_graph_is_kept():
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    seen = []

    def logits(x):
        seen.append(pointwise(x) * weight)
        return seen[-1]

    predict(logits, image(3, 3), flip=True)
    assert not any(x.requires_grad for x in seen)


def test_errors():
    x = image(4, 4)
    with pytest.raises(UserError, match=r"shape \(2, 3, 4, 4\): give \(3, H, W\)"):
        predict(pointwise, image(4, 4, batch=2))
    with pytest.raises(UserError, match=r"image of type torch.uint8: normalise it"):
        predict(pointwise, x.to(torch.uint8))
    with pytest.raises(UserError, match=r"ratios=.*positive"):
        predict(pointwise, x, ratios=())
    with pytest.raises(UserError, match=r"logits of shape \(1, 3, 2, 2\).*such as model.logits"):
        predict(lambda y: pointwise(y)[..., ::2, ::2], x)
    with pytest.raises(UserError, match="no view"):
        predict_views(pointwise, [], (2, 2))
