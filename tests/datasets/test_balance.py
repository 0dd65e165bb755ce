"""Weights by rarity, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from setr_lite.config import LossConfig, RunConfig
from setr_lite.datasets.balance import balanced_weights
from setr_lite.errors import UserError


def test_by_hand():
    # shares 64:16:4, the median is 16, so sqrt gives 1/2, 1, 2; their mean by pixels is 56/84
    assert balanced_weights([64, 16, 4]) == pytest.approx((0.75, 1.5, 3), abs=1e-9)
    assert balanced_weights([64, 0, 16, 4]) == pytest.approx((0.75, 1, 1.5, 3), abs=1e-9)
    assert balanced_weights([0, 0]) == (1, 1)


def test_a_handful_of_pixels_is_bounded():
    counts = np.array([10**6, 10**6, 1])
    weights = np.array(balanced_weights(counts))
    assert weights[2] / weights[0] == pytest.approx(10, rel=1e-3)
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1, rel=1e-3)


def test_the_setting_is_numbers_auto_or_none():
    config = RunConfig()
    assert config.loss.weights() is None
    listed = config.override("loss.class_weights=1,2.5,0")
    assert listed.loss.weights() == (1, 2.5, 0)
    auto = config.override("loss.class_weights=auto")
    for one in (config, listed, auto):
        assert RunConfig.from_dict(one.to_dict()) == one
    assert listed.override("loss.class_weights=none") == config
    with pytest.raises(UserError, match=r"class_weights=auto: `train` puts the numbers"):
        auto.loss.weights()
    with pytest.raises(UserError, match=r"one or more numbers, comma-separated, or auto, or none"):
        config.override("loss.class_weights=median")
    with pytest.raises(UserError, match=r"must lie in 0..1"):
        LossConfig(class_weights=(1, -1))
