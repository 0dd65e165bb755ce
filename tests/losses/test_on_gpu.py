"""The GPU's form of the loss, on a CPU in float64, against the one by strips."""

from __future__ import annotations

import pytest
import torch

from setr_lite.logits import LazyLogits
from setr_lite.losses import cross_entropy, on_gpu, resize_cross_entropy
from setr_lite.losses.on_gpu import ImagesCrossEntropy, images_at_a_time, images_loss

SIZES = [
    # logits, then what is done to them
    ((8, 12), lambda lazy: lazy.resized((32, 48)).cropped((30, 44))),
    ((4, 6), lambda lazy: lazy.enlarged(4).resized((64, 96))),
    ((16, 8), lambda lazy: lazy),
    ((3, 5), lambda lazy: lazy.enlarged(2).resized((48, 80)).cropped((41, 67))),
    ((6, 6), lambda lazy: lazy.resized((48, 48)).cropped((10, 12))),
    ((5, 7), lambda lazy: lazy.cropped((4, 6)).resized((20, 18)).resized((31, 40))),
    ((20, 18), lambda lazy: lazy.resized((9, 11))),
]


def both(lazy: LazyLogits, label: torch.Tensor, weights=None) -> list[tuple[torch.Tensor, ...]]:
    """Loss and gradient by strips, and by images."""
    strips = resize_cross_entropy(lazy, label, class_weights=weights)
    by_class = None if weights is None else torch.tensor(weights, dtype=strips.dtype)
    images = ImagesCrossEntropy.apply(
        lazy.logits, label, lazy.size, lazy.steps, 255, by_class, images_loss)
    return [(loss, *torch.autograd.grad(loss * 3, lazy.logits)) for loss in (strips, images)]


@pytest.mark.parametrize(("grid", "resize"), SIZES)
@pytest.mark.parametrize("at_a_time", [1, 1 << 27])
@pytest.mark.parametrize("weights", [None, (0.3, 2, 1, 0, 7, 1, 0.5)])
def test_equal_to_the_strips_in_float64(grid, resize, at_a_time, weights, monkeypatch) -> None:
    monkeypatch.setattr(on_gpu, "AT_A_TIME", at_a_time)
    logits = torch.randn(4, 7, *grid, dtype=torch.float64).mul(9).requires_grad_()
    lazy = resize(LazyLogits.of(logits))
    label = torch.randint(7, (4, *lazy.size))
    label[:, : lazy.size[0] // 3] = 255
    label[1] = 255  # an image without a class
    strips, images = both(lazy, label, weights)
    torch.testing.assert_close(images, strips, rtol=1e-12, atol=1e-12)


def test_where_kernels_are_compiled_they_are_taken(monkeypatch) -> None:
    lazy = LazyLogits.of(torch.randn(2, 3, 4, 5, dtype=torch.float64)).resized((16, 18))
    label, weights = torch.randint(3, (2, 16, 18)), (0.5, 2.0, 1.0)
    label[0, :5] = 255
    strips, calls = resize_cross_entropy(lazy, label, class_weights=weights), []
    monkeypatch.setattr(cross_entropy, "compiles", lambda device: True)
    monkeypatch.setattr(cross_entropy, "compiled", lambda: lambda *args: (
        calls.append(len(args)), images_loss(*args))[1])  # fmt: skip
    images = resize_cross_entropy(lazy, label, class_weights=weights)
    torch.testing.assert_close(images, strips, rtol=1e-12, atol=0)
    assert calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_logits_are_computed_in_float32(dtype) -> None:
    logits = torch.randn(2, 5, 8, 8).to(dtype).to(memory_format=torch.channels_last)
    label = torch.randint(5, (2, 32, 32))
    strips, images = both(LazyLogits.of(logits.requires_grad_()).enlarged(4), label)
    assert images[0].dtype == torch.float32
    assert images[1].dtype == dtype
    rtol = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(images, strips, rtol=rtol, atol=1e-6)


def test_it_is_one_graph() -> None:
    found = torch.compile(images_loss, backend="eager", fullgraph=True)
    logits, label = torch.randn(2, 5, 4, 4), torch.randint(5, (2, 16, 16))
    rows = torch.rand(16, 4)
    for weights in (None, torch.rand(5)):
        arguments = (logits, label, (16, 16), 255, rows, rows, weights)
        torch.testing.assert_close(found(*arguments), images_loss(*arguments))


@pytest.mark.parametrize(("batch", "values", "count"), [
    (16, 150 * 512 * 512, 2), (8, 19 * 768 * 768, 8), (5, 1 << 26, 1), (2, 1 << 30, 1),
    (6, 1 << 25, 3),
])  # fmt: skip
def test_parts_divide_the_batch(batch, values, count) -> None:
    assert images_at_a_time(batch, values) == count
