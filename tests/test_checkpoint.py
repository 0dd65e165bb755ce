"""A checkpoint is complete or absent, and errors name what differs."""

import json
import shutil
from collections import namedtuple
from dataclasses import replace

import pytest
import torch

from setr_lite import checkpoint
from setr_lite.config import ModelConfig, RunConfig
from setr_lite.errors import UserError
from setr_lite.model import SETR

CONFIG = RunConfig(
    model=ModelConfig(encoder="toy", head="naive", num_classes=3, img_size=(16, 16), channels=4))


@pytest.fixture
def model():
    return SETR.from_config(CONFIG.model).eval()


def test_round_trip(tmp_path, model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    folder = checkpoint.save_checkpoint(
        tmp_path / "last", model, CONFIG, classes=("a", "b", "c"), palette=[[1, 2, 3]] * 3,
        state={"step": 7}, optimizer=optimizer,
    )
    twin = SETR.from_pretrained(folder)
    image = torch.randn(1, 3, 16, 16)
    assert torch.equal(twin.logits(image), model.logits(image))
    assert twin.config == CONFIG
    assert checkpoint.read_state(folder) == {"step": 7}
    assert checkpoint.read_info(folder)["classes"] == ["a", "b", "c"]
    other = torch.optim.AdamW(twin.parameters(), lr=0.1)
    checkpoint.read_optimizer(folder, other)
    assert other.param_groups[0]["lr"] == 0.5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last"]


@pytest.mark.parametrize("crash_at", ["first rename", "second rename", "weights", "flush"])
def test_a_crash_while_saving_leaves_the_last_good_one(tmp_path, model, monkeypatch, crash_at):
    folder = tmp_path / "last"
    checkpoint.save_checkpoint(folder, model, CONFIG, state={"step": 1})

    def crash(*args, **kwargs):
        raise KeyboardInterrupt

    if crash_at == "weights":
        monkeypatch.setattr("safetensors.torch.save_file", crash)
    elif crash_at == "flush":
        monkeypatch.setattr(checkpoint, "_flush", crash)
    else:
        rename, calls = type(folder).rename, []

        def sometimes(self, target):
            calls.append(target)
            if len(calls) == (1 if crash_at == "first rename" else 2):
                raise KeyboardInterrupt
            return rename(self, target)

        monkeypatch.setattr(type(folder), "rename", sometimes)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save_checkpoint(folder, model, CONFIG, state={"step": 2})
    monkeypatch.undo()
    assert checkpoint.exists(folder)
    assert checkpoint.read_state(folder) == {"step": 1}
    SETR.from_pretrained(folder)
    checkpoint.save_checkpoint(folder, model, CONFIG, state={"step": 3})
    assert checkpoint.read_state(folder) == {"step": 3}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last"]


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, model, monkeypatch):
    folder = tmp_path / "last"
    checkpoint.save_checkpoint(folder, model, CONFIG, state={"step": 1})

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_flush", full)
    with pytest.raises(UserError, match=r"No space left on device; what was saved there before is"):
        checkpoint.save_checkpoint(folder, model, CONFIG, state={"step": 2})
    assert checkpoint.read_state(folder) == {"step": 1}
    assert not (tmp_path / "last.part").exists()


def test_a_disk_that_is_too_small_is_left_alone(tmp_path, model, monkeypatch):
    """Asked before a byte is written: what was there is not even touched."""
    folder = checkpoint.save_checkpoint(tmp_path / "last", model, CONFIG, state={"step": 1})
    before = [(p, p.stat().st_mtime_ns, p.stat().st_ino) for p in sorted(folder.iterdir())]
    size = (folder / "model.safetensors").stat().st_size
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, size))
    monkeypatch.setattr("safetensors.torch.save_file", None)
    with pytest.raises(UserError, match=r"No space left on device: \d+ MiB to write, \d+ free; wh"):
        checkpoint.save_checkpoint(folder, model, CONFIG, state={"step": 2})
    assert [(p, p.stat().st_mtime_ns, p.stat().st_ino) for p in sorted(folder.iterdir())] == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last"]


@pytest.mark.parametrize("links", [True, False])
def test_numbered_checkpoints(tmp_path, model, monkeypatch, links):
    folder = tmp_path / "last"
    if not links:
        monkeypatch.setattr("os.link", _no_links)
    for step in (1, 2, 30, 1_000_000, 20_000_000):
        checkpoint.save_checkpoint(folder, model, CONFIG, state={"step": step})
        checkpoint.keep_numbered(folder, step, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "last", "step_0000030", "step_1000000", "step_20000000"]
    assert checkpoint.read_state(tmp_path / "step_0000030") == {"step": 30}
    SETR.from_pretrained(tmp_path / "step_0000030")
    checkpoint.keep_numbered(folder, 5, 1)
    assert not (tmp_path / "step_0000005").exists()


def _no_links(source, target):
    raise OSError(1, "Operation not permitted")


def test_another_shape_is_named(tmp_path, model):
    folder = checkpoint.save_checkpoint(tmp_path / "last", model, CONFIG)
    wider = SETR.from_config(replace(CONFIG.model, channels=8))
    with pytest.raises(UserError, match=r"'aux_heads.0.classifier.weight' is \(3, 4, 1, 1\), the"):
        checkpoint.read_weights(folder, wider)
    bare = SETR.from_config(replace(CONFIG.model, aux=False))
    small = checkpoint.save_checkpoint(tmp_path / "small", bare, CONFIG)
    with pytest.raises(UserError, match=r"has no 'aux_heads.0.classifier.bias', which the model"):
        checkpoint.read_weights(small, model)
    with pytest.raises(UserError, match=r"has 'aux_heads.0.classifier.bias', which the model does"):
        checkpoint.read_weights(folder, bare)


def test_missing_and_damaged_files(tmp_path, model):
    with pytest.raises(UserError, match="no checkpoint here"):
        checkpoint.read_config(tmp_path)
    folder = checkpoint.save_checkpoint(tmp_path / "last", model, CONFIG)
    with pytest.raises(UserError, match=r"is a run, not a checkpoint; use .*last"):
        checkpoint.read_config(tmp_path)
    with pytest.raises(UserError, match=r"optimizer.pt: not there; this checkpoint can be used"):
        checkpoint.read_optimizer(folder, torch.optim.SGD(model.parameters()))
    (folder / "model.safetensors").write_bytes(b"garbage!")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        SETR.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({})[:-1])
    with pytest.raises(UserError, match="not readable as JSON"):
        SETR.from_pretrained(folder)
