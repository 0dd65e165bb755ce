"""Confidence and accuracy, counted; a temperature that is known beforehand."""

import math

import pytest
import torch

from setr_lite.errors import UserError
from setr_lite.inside.calibration import Calibration, fit_temperature


def of_two_classes(confidences):
    """(1, 2, 1, n): the first class has these probabilities."""
    first = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([first, 1 - first])[None, :, None]


def test_counts_by_hand():
    seen = Calibration(bins=5)
    label = torch.tensor([[[0, 1, 0, 1, 255]]])
    seen.update(of_two_classes([0.7, 0.75, 1.0, 0.1, 0.9]), label)
    # 0.7 right, 0.75 wrong, 1.0 right and in the last bin, 0.1 is 0.9 for the other class: right
    assert seen.sums[0].tolist() == [0, 0, 0, 2, 2]
    assert seen.sums[1].tolist() == [0, 0, 0, 1, 2]
    confidence, accuracy, share = seen.curve()
    assert torch.isnan(accuracy[:3]).all()
    torch.testing.assert_close(confidence[3:], torch.tensor([0.725, 0.95]).double())
    assert accuracy[3:].tolist() == [0.5, 1]
    assert share.tolist() == [0, 0, 0, 0.5, 0.5]
    assert seen.error() == pytest.approx(0.5 * 0.225 + 0.5 * 0.05)


def test_updates_add_up():
    torch.manual_seed(0)
    p, label = torch.randn(4, 3, 5, 6).softmax(1), torch.randint(0, 3, (4, 5, 6))
    together, apart = Calibration(), Calibration()
    together.update(p, label)
    for i in range(4):
        apart.update(p[i : i + 1], label[i : i + 1])
    torch.testing.assert_close(together.sums, apart.sums)
    assert together.sums[0].sum() == label.numel()


def test_refusals():
    with pytest.raises(UserError, match=r"give probabilities, the softmax of logits"):
        Calibration().update(torch.full((1, 2, 1, 1), 3.0), torch.zeros(1, 1, 1))
    with pytest.raises(UserError, match=r"\(2, 2\) pixels for a label of \(4, 4\)"):
        Calibration().update(torch.ones(1, 2, 2, 2) / 2, torch.zeros(1, 4, 4))
    with pytest.raises(UserError, match="no labelled pixel"):
        fit_temperature(torch.zeros(1, 2, 1, 1), torch.full((1, 1, 1), 255))
    assert math.isnan(Calibration().error())


def test_temperature_of_labels_drawn_from_the_model():
    torch.manual_seed(0)
    logits = 2 * torch.randn(1, 4, 100, 200)
    p = logits.softmax(1).movedim(1, -1).flatten(0, 2)
    label = torch.multinomial(p, 1).view(1, 100, 200)
    label[0, 0, :50] = 255
    for temperature in (0.5, 1.0, 3.0):  # the model that says logits * T is off by T
        assert fit_temperature(logits * temperature, label) == pytest.approx(temperature, rel=0.03)


def test_temperature_is_where_the_loss_is_least():
    torch.manual_seed(1)
    logits, label = torch.randn(2, 3, 6, 7), torch.randint(0, 3, (2, 6, 7))
    label[logits.argmax(1) > 0] = 0  # better than chance, so that the best is inside
    label = torch.where(torch.rand(2, 6, 7) < 0.7, logits.argmax(1), label)
    best = fit_temperature(logits, label)

    def loss(t):
        return torch.nn.functional.cross_entropy(logits / t, label).item()

    assert loss(best) < min(loss(best * 1.05), loss(best / 1.05))
