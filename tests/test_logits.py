"""Resizing in pieces, held to PyTorch's own interpolation of the whole."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from setr_lite import logits as resize
from setr_lite.logits import LazyLogits, SETROutput, label_dtype, used, weights

CPU = torch.device("cpu")


def random_logits(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("inputs", "outputs"), [
    (5, 80), (7, 14), (9, 31), (31, 9), (6, 6), (1, 4)
])
def test_weights_are_those_of_interpolate(inputs, outputs):
    unit = torch.eye(inputs, dtype=torch.float64)[None]
    matrix = F.interpolate(unit, size=outputs, mode="linear")[0].T
    for first, last in [(0, outputs), (1, outputs - 1), (outputs - 1, outputs)]:
        inner, part = weights(first, last, ((inputs, outputs),), torch.float64, CPU)
        assert used(first, last, ((inputs, outputs),)) == inner
        torch.testing.assert_close(part, matrix[first:last, inner], rtol=0, atol=1e-12)
        assert matrix[first:last].sum() == pytest.approx(part.sum().item())  # nothing is left out


@pytest.mark.parametrize("dense", [0, 48])
def test_a_chain_of_resizes_is_one_matrix(dense, monkeypatch):
    """6 -> 24, of which 21 are kept, -> 50."""
    monkeypatch.setattr(resize, "DENSE", dense)
    x = random_logits(1, 3, 6, 8)
    lazy = LazyLogits.of(x).enlarged(4).cropped((21, 30)).resized((50, 40))
    by_hand = F.interpolate(x, size=(24, 32), mode="bilinear")[..., :21, :30]
    by_hand = F.interpolate(by_hand, size=(50, 40), mode="bilinear")
    torch.testing.assert_close(lazy.full(), by_hand, rtol=1e-12, atol=1e-12)
    inner, _ = weights(0, 50, ((6, 24), (21, 50)), torch.float64, CPU)
    assert inner == slice(0, 6)
    pieced = torch.cat([strip for _, _, strip in lazy.strips()]).permute(2, 0, 1)
    torch.testing.assert_close(pieced, by_hand[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("strip", [1, 300, 1 << 20])
@pytest.mark.parametrize("box", [(0, 0, 37, 53), (3, 5, 30, 12), (36, 52, 37, 53), (20, 0, 37, 53)])
def test_strips_of_a_box_are_cut_from_the_whole(strip, box, monkeypatch):
    monkeypatch.setitem(resize.STRIP, "cpu", strip)
    monkeypatch.setattr(resize, "CHUNK", 7)
    lazy = LazyLogits.of(random_logits(2, 4, 5, 9)).enlarged(8).cropped((37, 53))
    top, left, bottom, right = box
    expected = lazy.full()[..., top:bottom, left:right]
    result = torch.full_like(expected, torch.nan)
    for image, rows, logits in lazy.strips(box):
        result[image, :, rows] = logits.permute(2, 0, 1)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_logits_may_be_a_part():
    whole = random_logits(1, 3, 20, 30)
    lazy = LazyLogits.of(whole).resized((31, 70))
    rows, columns = used(10, 25, ((20, 31),)), used(50, 66, ((30, 70),))
    part = lazy._replace(logits=whole[..., rows, columns], origin=(rows.start, columns.start))
    assert torch.equal(part.label((10, 50, 25, 66)), lazy.label()[:, 10:25, 50:66])


@pytest.mark.parametrize("strip", [500, 1 << 20])
@pytest.mark.parametrize("odd", ["crop", "squeeze"])
@pytest.mark.parametrize("factor", [16, 4, 2, 1])
@pytest.mark.parametrize("size", [(64, 96), (49, 83), (3, 5)])
def test_label_is_the_argmax_of_full(size, factor, odd, strip, monkeypatch):
    monkeypatch.setitem(resize.STRIP, "cpu", strip)
    padded = tuple(-(-n // 16) * 16 for n in size)
    logits = random_logits(2, 11, padded[0] // factor, padded[1] // factor)
    output = SETROutput(LazyLogits.of(logits), (), size, padded)
    label = output.label(odd)
    assert label.dtype == torch.uint8
    assert torch.equal(label, output.full(odd).argmax(1).to(torch.uint8))
    assert len(label.unique()) == 11 or size == (3, 5)


def test_first_of_equal_classes_and_many_classes():
    logits = torch.zeros(1, 300, 2, 2)
    lazy = LazyLogits.of(logits).enlarged(4)
    assert lazy.label().dtype == torch.int64
    assert not lazy.label().any()
    assert (label_dtype(256), label_dtype(257)) == (torch.uint8, torch.int64)


def test_half_precision_is_resized_in_float32_also_under_autocast():
    lazy = LazyLogits.of(random_logits(1, 9, 4, 4).bfloat16()).enlarged(16).cropped((33, 33))
    wide = lazy._replace(logits=lazy.logits.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(lazy.label(), wide.label())


@pytest.mark.parametrize("factor", [16, 2])
def test_full_logits_never_exist(factor, largest, monkeypatch):
    monkeypatch.setitem(resize.STRIP, "cpu", 1 << 14)
    size, small = (128, 192), (128 // factor, 192 // factor)
    lazy = LazyLogits.of(random_logits(1, 20, *small)).resized(size)
    with largest() as seen:
        lazy.label()
    assert seen.values <= max(1 << 14, 128 * 192, lazy.logits.numel())
    with largest() as seen:
        lazy.full()
    assert seen.values == 20 * 128 * 192


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_strip_is_many_rows_but_of_a_wide_image(device):
    """At least one, for 150 classes and 512 columns some, at most so many as `TALLEST` says."""
    heights = [resize.strip_height(torch.empty(1, classes, 1, 1, device=device), width)
               for classes, width in ((150, 1 << 20), (150, 512), (1, 1))]  # fmt: skip
    assert heights[0] == 1 < heights[1] < heights[2] == resize.TALLEST


def test_the_next_image_of_a_size_has_its_matrices():
    key = (0, 512, ((32, 512),), torch.float32, CPU)
    assert weights(*key)[1] is weights(*key)[1]


def test_matrices_are_kept_by_weight(monkeypatch):
    """However many they are; the one used last stays, one too large for all is not kept."""
    part, kept = ((64, 640),), resize._kept
    kept.clear()
    monkeypatch.setattr(resize, "KEPT", 64 << 10)
    _, first = weights(0, 10, part, torch.float32, CPU)
    for start in range(10, 600):
        weights(start, start + 10, part, torch.float32, CPU)
        assert weights(0, 10, part, torch.float32, CPU)[1] is first
        held = sum(matrix.nbytes + resize.OVERHEAD for _, matrix in kept.found.values())
        assert held == kept.bytes <= 64 << 10
    assert 2 < len(kept.found) < 64
    before = list(kept.found)
    _, large = weights(0, 640, part, torch.float32, CPU)
    assert large.nbytes > 64 << 10
    assert list(kept.found) == before
    kept.clear()


def test_a_compiler_works_matrices_out():
    """What it traces has sizes without numbers, which nobody can weigh, and values of no use."""
    resize._kept.clear()

    def part(first, last):
        return 1 * weights(first, last, ((4, 12),), torch.float32, CPU)[1]

    compiled = torch.compile(part, backend="eager")
    for rows in ((0, 3), (2, 6)):
        assert torch.equal(compiled(*rows), part(*rows))


def test_matrices_made_for_a_prediction_serve_a_gradient():
    resize._kept.clear()
    lazy = LazyLogits.of(random_logits(1, 3, 5, 7)).resized((11, 13))
    with torch.inference_mode():
        lazy.full()
    x = lazy.logits.clone().requires_grad_()
    lazy._replace(logits=x).full().square().sum().backward()
    assert x.grad.isfinite().all()


def test_labels_of_logits_with_a_graph():
    """NumPy, which is faster, refuses tensors with one."""
    logits = torch.randn(1, 3, 5, 6, requires_grad=True)
    wanted = F.interpolate(logits, (7, 9), mode="bilinear").argmax(1)
    assert torch.equal(LazyLogits.of(logits).resized((7, 9)).label().long(), wanted)
