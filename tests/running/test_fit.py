"""The published batch on a device of any size, by made-up capacities."""

import functools
from dataclasses import replace

import pytest
import torch

from setr_lite.config import RunConfig
from setr_lite.errors import UserError
from setr_lite.recipes import get_recipe
from setr_lite.running import fit, meters
from setr_lite.running.fit import SHARE, _ways, fit_memory, fit_to_device
from setr_lite.running.memory import estimate_memory

ORDER = ("accumulate", "grad_checkpointing", "micro_batch")


def config(*settings):
    return get_recipe("toytown_pup").override(
        "train.batch_size=4", "train.amp=off", "data.crop_size=64,64", "optim.name=sgd", *settings)


def levers(fit):
    return {key: getattr(fit.config.train, key) for key in ORDER}


@pytest.fixture(autouse=True)
def estimate(monkeypatch):
    """`estimate_memory`, once for each run."""
    once = functools.cache(estimate_memory)
    monkeypatch.setattr(fit, "estimate_memory", once)
    return once


def test_the_fastest_way_that_fits_is_taken(estimate):
    run, seen = config(), set()
    ways = [replace(run, train=replace(run.train, **way)) for way in _ways(run, 1)]
    assert [way.train.accumulate for way in ways] == [1] * 5 + [2, 4]
    peaks = [estimate(way, processes=1).peak for way in ways]
    for peak in peaks:
        capacity = int(peak / SHARE) + 1
        found = fit_memory(run, capacity)
        assert found.config == next(w for w, p in zip(ways, peaks, strict=True) if p <= peak)
        assert found.config.train.batch_size == 4
        assert found.estimate.peak <= SHARE * capacity
        values = levers(found)
        assert ("BatchNorm sees" in str(found)) == (values["accumulate"] > 1)
        for key, value in values.items():
            said = f"train.{key}={str(value).lower()}" in str(found)
            assert said == (value not in (0, False) and (key, value) != ("accumulate", 1))
        seen.add(tuple(values.values()))
    assert len(seen) > 2


def test_not_even_one_image():
    run = config()
    with pytest.raises(UserError) as caught:
        fit_memory(run, 2**20, where="cuda:0")
    message = str(caught.value)
    assert "even one image at a time takes" in message
    assert "cuda:0 has 1 MiB free and 90% of that are planned with" in message
    assert "set train.amp=bf16 or model.aux=false, or take a smaller data.crop_size" in message
    assert "\n" not in message


def test_several_processes_share_the_batch(estimate):
    run = config()
    capacity = int(0.9 * estimate(run, processes=1).peak / SHARE)
    alone, four = fit_memory(run, capacity), fit_memory(run, capacity, processes=4)
    assert alone.config.train.grad_checkpointing
    assert not four.config.train.grad_checkpointing


def test_auto_is_a_way_to_say_fit(monkeypatch, estimate):
    run = RunConfig().override("train.batch_size=auto")
    assert run.train.fit
    assert run.train.batch_size == RunConfig().train.batch_size
    asked = config("train.batch_size=auto", "train.amp=auto")
    monkeypatch.setattr(meters, "free_memory", lambda device: 2**40)
    found = fit_to_device(asked, torch.device("cpu"))
    assert levers(found)["micro_batch"] == 0
    assert found.config == asked  # on a CPU auto is off, yet a resumed run may move to a GPU
    with pytest.raises(UserError, match=r"train.batch_size=many: expected a whole number"):
        RunConfig().override("train.batch_size=many")


def test_an_encoder_with_batchnorm_is_not_cut():
    hybrid = config("model.encoder=hybrid_base")
    assert all(not way["micro_batch"] for way in _ways(hybrid, 1))
    assert any(way.get("micro_batch") for way in _ways(config(), 1))
