"""Several processes train what one trains, as copies or in pieces, and exchange checkpoints.

All runs here are in float64 and compared to 1e-9.
"""

import csv
import functools
import shutil
from pathlib import Path

import pytest
import torch
from processes import run_ranks
from safetensors.torch import load_file
from torch import nn

from setr_lite import checkpoint, distributed
from setr_lite.config import OptimConfig
from setr_lite.datasets import load_dataset
from setr_lite.datasets.feed import Faults, Feed
from setr_lite.distributed.parallel import load_optimizer, whole_state
from setr_lite.errors import UserError
from setr_lite.optim import build_optimizer
from setr_lite.recipes import get_recipe
from setr_lite.train import train

SAMPLE = Path(__file__).parents[2] / "data" / "sample" / "toytown_cityscapes"
SGD = ("optim.name=sgd", "optim.lr=0.05", "optim.head_multiplier=10", "optim.weight_decay=0",
       "optim.clip_norm=0")  # fmt: skip
WAYS = {
    "adamw, all": ("loss.normalize=all",),
    "sgd, valid": ("loss.normalize=valid", *SGD),
}
SEVERAL = {"adamw, all": (), "sgd, valid": ("train.micro_batch=1",)}
"""What the processes set besides: micro-batches are exact, whoever holds the weights."""


def config_of(out, *settings):
    return get_recipe("toytown_mla").override(
        f"data.root={SAMPLE}", f"train.out={out}", "train.device=cpu", "train.steps=3",
        "train.batch_size=4", "train.workers=0", "train.eval_every=0", "train.save_every=1",
        "train.log_every=1", "train.keep_last=9", "data.crop_size=32x48", "eval.limit=1",
        "data.ratio_range=0.1,0.4",  # a small image is padded with ignored pixels
        "model.channels=8", "optim.warmup=0", "optim.min_lr=1e-4", *settings,
    )  # fmt: skip


def go(out, settings, resume=False):
    """A run in float64, in this process or as one of several."""
    torch.set_default_dtype(torch.float64)
    try:
        train(config_of(out, *settings), resume=resume, progress=False)
    finally:
        torch.set_default_dtype(torch.float32)


def same(one, other):
    """Losses, score, weights, and the optimiser's state."""
    for folder in (one, other):
        assert checkpoint.read_state(folder / "last")["finished"]
    torch.testing.assert_close(losses(one), losses(other), rtol=1e-9, atol=0)
    miou = [checkpoint.read_state(folder / "last")["miou"] for folder in (one, other)]
    assert miou[0] == miou[1]
    weights, states = zip(*map(contents, (one, other)), strict=True)
    torch.testing.assert_close(*weights, rtol=1e-9, atol=1e-9)
    # fused AdamW counts its steps in float32, the other in the default type
    torch.testing.assert_close(*states, rtol=1e-9, atol=1e-12, check_dtype=False)


def losses(folder):
    with open(folder / "log.csv", newline="") as file:
        values = [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]
    assert len(values) == 3
    return torch.tensor(values, dtype=torch.float64)


def contents(folder):
    last = folder / "last"
    moments = torch.load(last / "optimizer.pt", weights_only=True)["state"]
    return load_file(last / "model.safetensors"), moments


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same run three times, alone, as two copies and in two pieces; each kind is made once."""

    @functools.cache
    def make(kind):
        home, settings = tmp_path_factory.mktemp("runs"), WAYS[kind]
        go(home / "one", settings)
        for way in ("ddp", "fsdp"):
            more = (*settings, *SEVERAL[kind], f"train.parallel={way}")
            run_ranks(2, go, str(home / way), more, logs=home / f"{way} says")
        return home, settings

    return make


def test_ignored_pixels_are_uneven_between_the_processes():
    config = config_of("", "loss.normalize=valid")
    feed = Feed(config, load_dataset(config.data, "train"), Faults())
    for _, batch in zip(range(3), feed.batches(0), strict=False):
        first, second = ((half != 255).sum() for half in batch.label.chunk(2))
        assert first != second


@pytest.mark.parametrize("kind", [
    pytest.param("adamw, all", marks=pytest.mark.slow), "sgd, valid"])
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_two_processes_equal_one(runs, kind, way):
    home, _ = runs(kind)
    same(home / way, home / "one")
    state = checkpoint.read_state(home / way / "last")
    assert state["processes"] == 2


@pytest.mark.parametrize(("kind", "saved", "resumed"), [
    ("sgd, valid", "fsdp", "one"),
    pytest.param("adamw, all", "ddp", "one", marks=pytest.mark.slow),
    pytest.param("adamw, all", "one", "fsdp", marks=pytest.mark.slow),
    pytest.param("sgd, valid", "one", "ddp", marks=pytest.mark.slow),
    pytest.param("sgd, valid", "ddp", "fsdp", marks=pytest.mark.slow),
])  # fmt: skip
def test_checkpoints_do_not_depend_on_the_processes(runs, kind, saved, resumed, tmp_path):
    home, settings = runs(kind)
    out = tmp_path / "run"
    shutil.copytree(home / saved / "step_0000001", out / "last")
    shutil.copy(home / saved / "log.csv", out)
    if resumed == "one":
        go(out, settings, resume=True)
    else:
        more = (*settings, f"train.parallel={resumed}")
        run_ranks(2, go, str(out), more, True, logs=tmp_path / "says")
    same(out, home / "one")


@pytest.mark.slow
def test_without_sync_bn_copies_differ_from_one(runs, tmp_path):
    """So the tests above would notice if BatchNorm saw one process's images only."""
    home, settings = runs("adamw, all")
    run_ranks(2, go, str(tmp_path / "own"), (*settings, "train.sync_bn=false"), logs=tmp_path)
    assert not torch.allclose(losses(tmp_path / "own"), losses(home / "one"), rtol=1e-4)


def test_a_feature_cache_needs_whole_models():
    with pytest.raises(UserError, match=r"train.feature_cache: .*use train.parallel=ddp"):
        config_of("", "train.feature_cache=tokens", "train.parallel=fsdp")


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_loaded_state_lies_in_memory_as_its_weight(name):
    """Fused updates on CUDA demand it, where convolutions have their channels last."""
    layer = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(layer, OptimConfig(name=name))
    layer(torch.randn(1, 4, 5, 5)).sum().backward()
    optimizer.step()
    saved = whole_state(optimizer.state_dict())
    load_optimizer(optimizer, saved)
    for parameter, state in optimizer.state.items():
        moments = [value for value in state.values() if value.shape == parameter.shape]
        assert {moment.stride() for moment in moments} == {parameter.stride()}
    again = whole_state(optimizer.state_dict())
    torch.testing.assert_close(again["state"], saved["state"], rtol=0, atol=0)


def test_an_optimizer_for_pieces_has_one_launch_for_many():
    layer = nn.Linear(2, 2)
    assert build_optimizer(layer, OptimConfig(name="adamw"), fused=False).defaults["fused"]
    plain = build_optimizer(layer, OptimConfig(name="sgd"), fused=False).defaults
    assert (plain["fused"], plain["foreach"]) == (None, None)  # PyTorch's choice: foreach on CUDA


TORCHRUN = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


@pytest.mark.parametrize(("name", "value"), [
    ("WORLD_SIZE", None), ("WORLD_SIZE", "x"), ("MASTER_ADDR", None), ("MASTER_PORT", ""),
    ("RANK", "-1"), ("LOCAL_RANK", "one"), ("LOCAL_WORLD_SIZE", "1.5")])  # fmt: skip
def test_half_an_environment_of_torchrun_is_one_line(monkeypatch, name, value):
    for key, good in TORCHRUN.items():
        monkeypatch.setenv(key, good)
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"has RANK, and {name}=.*: torchrun sets them all; start"):
        distributed.start("cpu")
