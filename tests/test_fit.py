"""The published batch on a device of any size, by made-up capacities."""

import pytest
import torch

from setr_lite import meters
from setr_lite.config import RunConfig
from setr_lite.errors import UserError
from setr_lite.fit import SHARE, fit_memory, fit_to_device
from setr_lite.memory import estimate_memory
from setr_lite.recipes import get_recipe

ORDER = ("accumulate", "grad_checkpointing", "micro_batch")


def config(*settings):
    return get_recipe("toytown_pup").override(
        "train.batch_size=8", "train.amp=off", "data.crop_size=96,96", "optim.name=sgd", *settings)


def peak(run, **levers):
    settings = [f"train.{key}={value}" for key, value in levers.items()]
    return estimate_memory(run.override(*settings)).peak


def levers(fit):
    return {key: getattr(fit.config.train, key) for key in ORDER}


def test_the_fastest_way_that_fits_is_taken():
    run = config()
    wanted = [
        {"micro_batch": 0, "grad_checkpointing": False, "accumulate": 1},
        {"micro_batch": 4, "grad_checkpointing": False, "accumulate": 1},
        {"micro_batch": 1, "grad_checkpointing": False, "accumulate": 1},
        {"micro_batch": 1, "grad_checkpointing": True, "accumulate": 2},
        {"micro_batch": 1, "grad_checkpointing": True, "accumulate": 8},
    ]
    for expected in wanted:
        found = fit_memory(run, int(peak(run, **expected) / SHARE) + 1)
        assert levers(found) == expected
        assert found.config.train.batch_size == 8
        assert found.estimate.peak <= SHARE * found.capacity
        assert ("BatchNorm sees" in str(found)) == (expected["accumulate"] > 1)
        for key, value in expected.items():
            if value not in (0, 1, False):
                assert f"train.{key}={str(value).lower()}" in str(found)


def test_less_memory_is_never_more_work():
    run, found = config("model.head=mla"), []
    most = peak(run) / SHARE
    for share in (1.01, 0.8, 0.6, 0.4):
        try:
            found.append(tuple(levers(fit_memory(run, int(share * most))).values()))
        except UserError:
            break
    assert len(found) > 1
    assert [f[0] for f in found] == sorted(f[0] for f in found)


def test_not_even_one_image():
    run = config()
    with pytest.raises(UserError) as caught:
        fit_memory(run, 2**20, where="cuda:0")
    message = str(caught.value)
    assert "even one image at a time takes" in message
    assert "cuda:0 has 1 MiB free and 90% of that are planned with" in message
    assert "set train.amp=bf16 or model.aux=false, or take a smaller data.crop_size" in message
    assert "\n" not in message


def test_several_processes_share_the_batch():
    run = config()
    alone = fit_memory(run, int(peak(run) / SHARE / 2))
    four = fit_memory(run, int(peak(run) / SHARE / 2), processes=4)
    assert alone.config.train.micro_batch > 0
    assert four.config.train.micro_batch == 0


def test_auto_is_a_way_to_say_fit(monkeypatch):
    run = RunConfig().override("train.batch_size=auto")
    assert run.train.fit
    assert run.train.batch_size == RunConfig().train.batch_size
    asked = config("train.batch_size=auto", "train.amp=auto")
    monkeypatch.setattr(meters, "free_memory", lambda device: int(1.2 * peak(config())))
    found = fit_to_device(asked, torch.device("cpu"))
    assert levers(found)["micro_batch"] == 0
    assert found.config == asked  # on a CPU auto is off, yet a resumed run may move to a GPU
    with pytest.raises(UserError, match=r"train.batch_size=many: expected a whole number"):
        RunConfig().override("train.batch_size=many")


def test_an_encoder_with_batchnorm_is_not_cut():
    from setr_lite.fit import _ways

    hybrid = config("model.encoder=hybrid_base")
    assert all(not way["micro_batch"] for way in _ways(hybrid, 1))
    assert any(way.get("micro_batch") for way in _ways(config(), 1))
