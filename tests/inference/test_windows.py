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
    predict_each,
    predict_views,
    sliding_window,
    tiles,
    window_starts,
    windows,
)
from setr_lite.inference.tiles import TILE, View, cut_tiles
from setr_lite.logits import LazyLogits


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
    assert window_starts(3, 4, 1) == [0]
    for wrong in ((0, 4, 3), (10, 0, 3), (10, 4, 0)):
        with pytest.raises(UserError, match="=0: give a whole number, 1 up"):
            window_starts(*wrong)


def test_rectangular_window():
    assert Window((2, 4), (1, 4)).boxes((3, 8)) == [
        (0, 0, 2, 4), (0, 4, 2, 8), (1, 0, 3, 4), (1, 4, 3, 8),
    ]


def test_a_number_stands_for_both_sides():
    assert Window(4, 2) == Window([4, 4], (2, 2))
    with pytest.raises(UserError, match=r"a side or stride of a window=4.5: give a whole number"):
        Window(4.5, 2)


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


@pytest.mark.parametrize("call", [
    lambda fn, x, window: sliding_window(fn, x, window),
    lambda fn, x, window: multi_scale_probabilities(fn, [x], (4, 14), window=window),
    lambda fn, x, window: predict_views(fn, [x], (4, 14), window=window),
    lambda fn, x, window: list(predict_each(fn, [([x], (4, 14))], window=window)),
    lambda fn, x, window: predict(fn, x, window=window),
])  # fmt: skip
def test_four_windows_go_through_together_unless_told(call):
    fn = Counting()
    call(fn, image(4, 14), Window(4, 2))  # 6 windows
    assert [shape[0] for shape in fn.shapes] == [4, 2]


@pytest.mark.parametrize("batch", [0, "4"])
def test_a_batch_of_no_windows_is_refused(batch):
    with pytest.raises(UserError, match="batch: windows that go through together="):
        sliding_window(pointwise, image(4, 14), Window(4, 2), batch=batch)
    with pytest.raises(UserError, match="batch: windows that go through together="):
        next(predict_each(pointwise, None, batch=batch))  # before an image is asked for


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
    alone = multi_scale_probabilities(directional, [x], (5, 6))  # no mirror unless told
    torch.testing.assert_close(alone, there, rtol=1e-12, atol=1e-12)
    labels = predict_views(directional, [x], (5, 6)), *predict_each(directional, [([x], (5, 6))])
    for label in labels:
        assert torch.equal(label, directional(x).argmax(1))


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
    assert fn.shapes == [(2, 3, 3, 4), (2, 3, 5, 7), (2, 3, 8, 11)]  # each with its mirror image
    assert label.shape == (5, 7)
    fn = Counting()
    predict(fn, image(5, 7), ratios=(1.0, 2.0), window=Window(5, 5))
    assert [shape[-2:] for shape in fn.shapes] == [(5, 5)] * 2  # 2 windows and 6, four a batch


@pytest.mark.parametrize("size", [(3, 40), (40, 3)])
def test_the_smallest_ratio_leaves_a_pixel(size):
    fn = Counting()
    assert predict(fn, image(*size), ratios=(0.1,)).shape == size
    assert min(fn.shapes[0][-2:]) == 1


def test_a_tile_is_a_pixel_at_least():
    view = View(torch.zeros(1, 3, 2, 3), (2, 3), [(0, 0, 2, 3)])
    assert len(cut_tiles([view], classes=2 * TILE)) == 6


@pytest.mark.parametrize(("width", "count"), [(1 << 14, 1), ((1 << 14) + 1, 2)])
def test_a_tile_takes_a_gibibyte_of_float32(width, count):
    size = (1 << 14, width)
    view = View(torch.empty(1).expand(1, 3, *size), size, [(0, 0, *size)])
    assert len(cut_tiles([view], classes=1)) == count


def test_views_share_batches_where_their_windows_have_one_size():
    fn = Counting()
    predict(fn, image(5, 7), ratios=(1.0, 2.0), window=Window(5, 5), flip=True, batch=3)
    windows = 2 * (2 + 2 * 3)
    assert [shape[0] for shape in fn.shapes] == [3] * (windows // 3) + [windows % 3]


class Texture:
    """Logits that depend on a pixel's place in its window and on all of the window."""

    def __init__(self, classes=5):
        generator = torch.Generator().manual_seed(3)
        self.mix = torch.randn(classes, 3, 3, 3, generator=generator, dtype=torch.float64)
        self.seen = 0

    def __call__(self, x):
        self.seen += len(x)
        bend = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype)
        return F.conv2d(x, self.mix, padding=1) * (bend + x.mean((1, 2, 3), keepdim=True))


def one_pass(fn, images, size, window, flip):
    """Probabilities with everything at full size, one window at a time."""
    total, views = 0, 0
    for x in images:
        for mirrored in (False, True) if flip else (False,):
            view = x.flip(-1) if mirrored else x
            logits, count = 0, torch.zeros(view.shape[-2:], dtype=view.dtype)
            whole = [(0, 0, *view.shape[-2:])]
            for y0, x0, y1, x1 in window.boxes(view.shape[-2:]) if window else whole:
                edges = (x0, view.shape[-1] - x1, y0, view.shape[-2] - y1)
                logits = logits + F.pad(fn(view[..., y0:y1, x0:x1]), edges)
                count[y0:y1, x0:x1] += 1
            scores = F.interpolate(logits / count, size=size, mode="bilinear").softmax(1)
            total, views = total + (scores.flip(-1) if mirrored else scores), views + 1
    return total / views


SCALES = [(37, 61), (19, 31), (64, 101), (8, 7)]  # the last is smaller than the window


@pytest.mark.parametrize("window", [None, Window((16, 12), (11, 8))])
@pytest.mark.parametrize(("sizes", "flip"), [(SCALES[:1], False), (SCALES[2:3], False),
                                             (SCALES[3:], True), (SCALES, True)])
@pytest.mark.parametrize("tile", [5 * 150, 1 << 28])  # classes x pixels
def test_tiles_equal_one_pass(window, sizes, flip, tile, monkeypatch):
    """Probabilities of each tile to 1e-9, and the label map they are for."""
    size, fn = (37, 61), Texture()
    monkeypatch.setattr(tiles, "TILE", tile)
    images = [image(*shape, seed=i) for i, shape in enumerate(sizes)]
    expected = one_pass(fn, images, size, window, flip)
    label = predict_views(fn, images, size, window=window, flip=flip)
    assert torch.equal(label, expected.argmax(1).to(torch.uint8))
    probabilities = multi_scale_probabilities(fn, images, size, window=window, flip=flip)
    torch.testing.assert_close(probabilities, expected, rtol=1e-9, atol=1e-9)


def test_tiles_cover_the_map_once_and_keep_to_their_size(monkeypatch):
    for size in [(37, 61), (1, 500), (500, 1), (64, 64)]:
        views = windows._views([image(*size)], size, None, False)
        for pixels in (1, 10, 63, 100, 5000):
            monkeypatch.setattr(tiles, "TILE", 7 * pixels)
            covered, cut = torch.zeros(size), tiles.cut_tiles(views, 7)
            for y0, x0, y1, x1 in cut:
                covered[y0:y1, x0:x1] += 1
                assert (y1 - y0) * (x1 - x0) <= pixels
            assert (covered == 1).all()
            assert len(cut) == 1 or pixels < size[0] * size[1]


def test_memory_does_not_grow_with_the_image(monkeypatch, largest):
    """Scores of a tile and its edges are the largest thing there is."""

    def most(side):
        images = [image(side, side), image(side * 3 // 2, side * 3 // 2)]
        with largest() as mode:
            predict_views(
                Texture(40), images, (side, side), window=Window(8, 5), flip=True, batch=9)
        return mode.values

    monkeypatch.setattr(tiles, "TILE", 40 * 30 * 30)
    small, large = most(40), most(60)  # tiles of 20 x 20, and 30 x 30 of the larger view
    assert max(small, large) <= 40 * 32 * 32
    monkeypatch.setattr(tiles, "TILE", 1 << 28)
    assert most(60) == 40 * 90 * 90


def test_one_window_is_run_once_for_all_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 5 * 100)
    fn = Texture()
    predict_views(fn, [image(37, 61), image(19, 31)], (37, 61), flip=True)
    assert fn.seen == 4


def test_windows_of_small_views_are_run_once_for_all_tiles(monkeypatch):
    """A photograph seen small: its windows are few, the tiles of its label map many."""
    monkeypatch.setattr(tiles, "TILE", 5 * 700)
    fn, window, x = Texture(), Window(16, 11), image(20, 31)
    label = predict_views(fn, [x], (137, 161), window=window)
    first = 4  # a batch that tells how many classes there are
    assert fn.seen == first + len(window.boxes((20, 31)))
    expected = one_pass(fn, [x], (137, 161), window, False)
    assert torch.equal(label, expected.argmax(1).to(torch.uint8))


@pytest.mark.parametrize(("count", "flip"), [(1, True), (2, False)])
def test_views_and_images_share_the_room_for_what_is_kept(monkeypatch, count, flip):
    """Twice 5 x 620 scores are run once where they fit, and again for some tiles where not."""
    x, size, window = image(20, 31, batch=count), (137, 161), Window(16, 11)

    def seen(tile):
        monkeypatch.setattr(tiles, "TILE", tile)
        fn = Texture()
        predict_views(fn, [x], size, window=window, flip=flip)
        return fn.seen

    first = 4 * count  # a batch that tells how many classes there are
    assert seen(6200) == first + 2 * len(window.boxes((20, 31)))
    assert seen(6199) > seen(6200)


def test_a_view_that_is_kept_has_all_of_its_logits_and_no_more():
    x, tile = image(20, 31), (5, 7, 60, 80)
    (view,) = windows._views([x], (137, 161), Window(16, 11), False)
    view.keep = True
    lazy = view.logits(tile, tiles.run_tile(pointwise, [view], tile, 4))
    torch.testing.assert_close(lazy.logits, pointwise(x), rtol=1e-12, atol=1e-12)


def test_two_tiles_of_two_windows(monkeypatch):
    """The fewest that are run again for every tile."""
    monkeypatch.setattr(tiles, "TILE", 5 * 160)
    fn, window, x = Texture(), Window((8, 24), (8, 16)), image(8, 40)
    label = predict_views(fn, [x], (8, 40), window=window)
    assert fn.seen == 2 + 2 * 2  # they overlap where the tiles meet
    expected = one_pass(fn, [x], (8, 40), window, False)
    assert torch.equal(label, expected.argmax(1).to(torch.uint8))


def test_logits_at_low_resolution(largest):
    """A function may leave the resize to be done in strips: same labels, no full-size logits."""

    def low(x):
        small = F.avg_pool2d(F.pad(x, (0, -x.shape[-1] % 8, 0, -x.shape[-2] % 8)), 8)
        size = tuple(8 * n for n in small.shape[-2:])
        logits = torch.cat([small, -small, small.roll(1, 1)] * 4, dim=1)
        return LazyLogits.of(logits).resized(size).cropped(tuple(x.shape[-2:]))

    x, window = image(149, 203), Window(96, 64)
    for settings in ({}, {"window": window}, {"flip": True}, {"size": (170, 99)},
                     {"ratios": (0.5, 1.5), "flip": True, "window": window}):
        expected = predict(lambda crop: low(crop).full(), x, **settings)
        assert torch.equal(predict(low, x, **settings), expected)
    with largest() as mode:
        predict(low, x)
    assert mode.values < 36 * 149 * 203


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
    with pytest.raises(UserError, match=r"shape \(1, 3, 0, 4\): give \(3, H, W\)"):
        predict(pointwise, x[:, :, :0])
    with pytest.raises(UserError, match=r"image of type torch.uint8: normalise it"):
        predict(pointwise, x.to(torch.uint8))
    with pytest.raises(UserError, match=r"image of type ndarray: give a tensor"):
        predict(pointwise, x.numpy())
    with pytest.raises(UserError, match=r"ratios=.*positive"):
        predict(pointwise, x, ratios=())
    for ratio in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match=f"ratios={ratio}: give a number"):
            predict(pointwise, x, ratios=(1.0, ratio))
    with pytest.raises(UserError, match=r"logits of shape \(1, 3, 2, 2\).*such as model.logits"):
        predict(lambda y: pointwise(y)[..., ::2, ::2], x)
    for function in (predict_views, multi_scale_probabilities):
        with pytest.raises(UserError, match="no view to predict from"):
            function(pointwise, [], (2, 2))


class WithBatchNorm(torch.nn.Module):
    """A model in training mode, whose statistics would move."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3).double()

    def forward(self, x):
        return self.logits(x)

    def logits(self, x):
        return pointwise(self.norm(x))


@pytest.mark.parametrize("name", ["forward", "logits", "itself"])
def test_a_model_in_training_mode_is_looked_at_in_eval_mode(name):
    model, x = WithBatchNorm(), image(20, 30)
    function = model if name == "itself" else getattr(model, name)
    found = [predict(function, x), sliding_window(function, x, Window(16, 8))]
    assert model.training
    assert model.norm.training
    assert model.norm.num_batches_tracked == 0
    model.eval()
    assert torch.equal(found[0], predict(function, x))
    assert torch.equal(found[1], sliding_window(function, x, Window(16, 8)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_pixel_that_is_no_number_is_refused(value):
    x = image(20, 30)
    x[0, 1, 7, 9] = value
    for predicted in (lambda: predict(pointwise, x), lambda: sliding_window(pointwise, x,
                                                                            Window(16, 8))):
        with pytest.raises(UserError, match="image with 1 values that are NaN or infinity"):
            predicted()


def test_no_more_images_are_asked_for_than_fill_a_batch_and_one():
    """A loader's images wait in memory, so they are taken when they are needed."""
    asked = []

    def images():
        for i in range(9):
            asked.append(i)
            yield [image(16, 24, seed=i)], (16, 24)

    found = predict_each(pointwise, images(), window=Window(16, 8), batch=4)  # two windows each
    labels = [next(found)]
    assert asked == [0, 1, 2]
    labels += [next(found), next(found)]
    assert asked == [0, 1, 2, 3, 4]
    labels += list(found)
    assert len(labels) == 9
    assert torch.equal(labels[7], predict_views(pointwise, [image(16, 24, seed=7)], (16, 24)))


def test_a_batch_is_filled_before_it_goes():
    asked = []

    def images():
        for i in range(10):
            asked.append(i)
            yield [image(8, 8, seed=i)], (8, 8)

    found = predict_each(pointwise, images(), batch=4)  # a window each
    assert [len(asked) for _ in found] == [5] * 4 + [9] * 4 + [10] * 2
