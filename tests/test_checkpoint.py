"""A checkpoint is complete or absent, and errors name what differs."""

import json
import os
import shutil
from collections import namedtuple
from dataclasses import replace

import pytest
import torch

from setr_lite import checkpoint, files
from setr_lite.config import ModelConfig, OptimConfig, RunConfig
from setr_lite.errors import UserError
from setr_lite.model import SETR
from setr_lite.optim import build_optimizer

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
    assert (twin.classes, twin.palette) == (("a", "b", "c"), ((1, 2, 3),) * 3)
    assert checkpoint.read_state(folder) == {"step": 7, "moments": 0}
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
        monkeypatch.setattr(files, "flush", crash)
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
    monkeypatch.setattr(files, "flush", _full)
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
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", None)
        with pytest.raises(UserError, match=r"No space left on device: \d+ MiB to write, \d+ free"):
            checkpoint.save_checkpoint(folder, model, CONFIG, state={"step": 2})
    assert [(p, p.stat().st_mtime_ns, p.stat().st_ino) for p in sorted(folder.iterdir())] == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last"]
    needed = sum(value.nbytes for value in model.state_dict().values()) + 2**20
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, needed - 1))
    with pytest.raises(UserError, match="No space left on device"):
        checkpoint.save_checkpoint(folder, model, CONFIG, state={"step": 2})
    for told in (usage(10**9, 0, needed), usage(0, 0, 0)):  # some network disks tell no sizes
        monkeypatch.setattr(shutil, "disk_usage", lambda path, told=told: told)
        checkpoint.save_checkpoint(folder, model, CONFIG, state={"step": 3})


@pytest.mark.parametrize("cut_up", [False, True])
def test_who_does_not_write_gives_its_pieces_and_else_nothing(tmp_path, model, monkeypatch, cut_up):
    asked = []
    monkeypatch.setattr(checkpoint, "writes", lambda: False)
    monkeypatch.setattr(checkpoint, "is_cut_up", lambda model: cut_up)
    monkeypatch.setattr(checkpoint, "whole_state", asked.append)
    folder = checkpoint.save_checkpoint(
        tmp_path / "last", model, CONFIG, optimizer=torch.optim.SGD(model.parameters()))
    assert len(asked) == 2 * cut_up
    assert not folder.exists()


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
    for file in folder.iterdir():
        assert file.samefile(tmp_path / "step_20000000" / file.name) == links
    checkpoint.keep_numbered(folder, 5, 1)
    assert not (tmp_path / "step_0000005").exists()
    monkeypatch.setattr(files, "flush", _full)
    with pytest.raises(UserError, match=r"could not save .*step_0000005: .* device; .*last is unt"):
        checkpoint.keep_numbered(folder, 5, 3)


def _full(*args, **kwargs):
    raise OSError(28, "No space left on device")


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
    with pytest.raises(UserError, match=r"has no 'aux_heads.0.classifier.bias', which the model"):
        SETR.from_pretrained(small)
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


def trained(model):
    """An optimiser that has a moment of every parameter, as after a step."""
    optimizer = build_optimizer(model, OptimConfig())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def test_an_optimizer_that_does_not_fit_is_refused_by_file(tmp_path, model):
    optimizer, folder = trained(model), tmp_path / "last"
    checkpoint.save_checkpoint(folder, model, CONFIG, state={"step": 1}, optimizer=optimizer)
    other = build_optimizer(model, OptimConfig())
    checkpoint.read_optimizer(folder, other)
    assert len(other.state) == len(optimizer.state) == len(list(model.parameters()))
    content = torch.load(folder / "optimizer.pt")
    short = content | {"state": {k: v for k, v in content["state"].items() if k}}
    content["state"][0]["momentum_buffer"] = torch.zeros(1)
    for spoilt, message in ((content, r"parameter 0: 'momentum_buffer' is 'torch.float32 \(1,\)'"),
                            (short, r"state is an object of \d+, expected an object of \d+ par")):
        torch.save(spoilt, folder / "optimizer.pt")
        other = build_optimizer(model, OptimConfig())
        with pytest.raises(UserError, match=rf"last/optimizer.pt: {message}.*; the checkpoint is"):
            checkpoint.read_optimizer(folder, other)
        assert len(other.state) == 0


@pytest.mark.parametrize(("where", "value"), [
    ("weight", float("nan")), ("statistic", float("inf")), ("moment", -float("inf"))])
def test_what_is_not_finite_never_replaces_what_is(tmp_path, model, where, value):
    optimizer, folder = trained(model), tmp_path / "last"
    save = {"state": {"step": 1}, "optimizer": optimizer}
    checkpoint.save_checkpoint(folder, model, CONFIG, **save)
    spoilt = {
        "weight": model.head.classifier.weight, "statistic": next(model.head.buffers()),
        "moment": next(iter(optimizer.state.values()))["momentum_buffer"],
    }[where]  # fmt: skip
    with torch.no_grad():
        spoilt.view(-1)[-1] = value
    with pytest.raises(UserError, match=r"could not save .*last: .* holds NaN or infinity; what"):
        checkpoint.save_checkpoint(folder, model, CONFIG, **save | {"state": {"step": 2}})
    assert checkpoint.read_state(folder)["step"] == 1
    SETR.from_pretrained(folder)
    checkpoint.save_checkpoint(tmp_path / "to look at", model, CONFIG, **save, spoilt=True)


def test_links_in_a_run_are_replaced_and_not_followed(tmp_path, model):
    run, outside = tmp_path / "run", tmp_path / "outside"
    checkpoint.save_checkpoint(outside, model, CONFIG, state={"step": 0})
    before = {p: (p.stat().st_ino, p.read_bytes()) for p in outside.iterdir()}
    run.mkdir()
    for name in ("last", "last.part", "last.old", "step_0000002"):
        (run / name).symlink_to(outside)
    for step in (1, 2, 3):
        checkpoint.save_checkpoint(run / "last", model, CONFIG, state={"step": step})
        checkpoint.keep_numbered(run / "last", step, 2)
    assert checkpoint.read_state(run / "last") == {"step": 3}
    assert checkpoint.read_state(run / "step_0000002") == {"step": 2}
    assert {p: (p.stat().st_ino, p.read_bytes()) for p in outside.iterdir()} == before
    assert sorted(p.name for p in run.iterdir()) == ["last", "step_0000002", "step_0000003"]


def test_a_folder_of_something_else_is_not_replaced(tmp_path, model):
    """Replacing a folder deletes it: only a checkpoint may go."""
    home, file = tmp_path / "home", tmp_path / "file"
    home.mkdir()
    checkpoint.save_checkpoint(home, model, CONFIG)  # an empty one may
    for path in home.iterdir():
        path.unlink()
    (home / "thesis.tex").write_text("all of it")
    file.write_text("text")
    with pytest.raises(UserError, match="its name is not UTF-8"):
        checkpoint.save_checkpoint(tmp_path / "a\udcff", model, CONFIG)
    for place in (home, file):
        with pytest.raises(UserError, match="holds something that is no checkpoint, which writing"):
            checkpoint.save_checkpoint(place, model, CONFIG)
    assert (home / "thesis.tex").read_text() == "all of it"
    assert file.read_text() == "text"


def test_everybody_whom_the_umask_lets_can_read_it(tmp_path, model):
    before = os.umask(0o022)
    try:
        folder = checkpoint.save_checkpoint(
            tmp_path / "last", model, CONFIG, optimizer=trained(model))
    finally:
        os.umask(before)
    assert {p.name: oct(p.stat().st_mode & 0o777) for p in folder.iterdir()} == dict.fromkeys(
        checkpoint.FILES, "0o644")


STATES = (
    ("step", -5), ("step", 1e30), ("step", 1.0), ("step", True), ("step", "7"), ("step", None),
    ("step", 10**30), ("samples", -1), ("scored", 8), ("scored", -1), ("best", "high"),
    ("best", float("nan")), ("best", 1.1), ("best", -1.1), ("best", True), ("miou", float("inf")),
    ("miou", -0.1), ("miou", 1.1), ("miou", "x"), ("finished", 1), ("faults", 3),
    ("faults", {"images": -1}), ("faults", {"images": "x", "workers": 0}),
    ("faults", {"more": 0}), ("moments", -1),
)  # fmt: skip


def test_state_is_checked_by_key(tmp_path, model):
    good = {"step": 7, "samples": 14, "scored": 7, "best": 0.5, "miou": None, "finished": False,
            "faults": {"images": 0, "workers": 1}}  # fmt: skip
    folder = checkpoint.save_checkpoint(tmp_path / "last", model, CONFIG, state=good)
    assert checkpoint.read_state(folder, "step", "best", "miou") == good
    for key, value in (("best", -1), ("best", 1), ("miou", 0), ("miou", 0.5), ("miou", 1)):
        (folder / "state.json").write_text(json.dumps(good | {key: value}))
        assert checkpoint.read_state(folder)[key] == value
    for key, value in STATES:
        (folder / "state.json").write_text(json.dumps(good | {key: value}))
        with pytest.raises(UserError, match=rf"state.json: '{key}' is .*, expected .*; the check"):
            checkpoint.read_state(folder)


def test_missing_keys_of_the_state_are_named(tmp_path, model):
    folder = checkpoint.save_checkpoint(tmp_path / "last", model, CONFIG, state={"step": 1})
    with pytest.raises(UserError, match=r"state.json: 'best' is 'missing', expected a number in"):
        checkpoint.read_state(folder, "step", "best")


def test_no_score_is_of_a_later_step(tmp_path, model):
    folder = checkpoint.save_checkpoint(tmp_path / "last", model, CONFIG)
    for state in ({"step": 0}, {"step": 8, "scored": 8}, {"scored": 8}, {}):
        (folder / "state.json").write_text(json.dumps(state))
        assert checkpoint.read_state(folder) == state
    (folder / "state.json").write_text(json.dumps({"step": 7, "scored": 8}))
    with pytest.raises(UserError, match=r"state.json: 'scored' is 8, expected no more than 'step'"):
        checkpoint.read_state(folder)


SETTINGS = (
    ({"classes": ["a", "b"]}, r"'classes' is a list of 2, expected 3 names"),
    ({"classes": ["a", "b", "b"]}, r"is 'b', expected every name once"),
    ({"classes": ["a", "b", "\x1b[31mred"]}, r"is '\\x1b\[31mred', expected a name in printable"),
    ({"classes": ["a", "b", 3]}, r"one of 'classes' is 3, expected a name"),
    ({"classes": "abc"}, r"'classes' is 'abc', expected a JSON list"),
    ({"palette": [[1, 2, 256]] * 3}, r"a row of 'palette' is a list of 3, expected a colour"),
    ({"palette": [[1, -1, 3]] * 3}, r"a row of 'palette' is a list of 3, expected a colour"),
    ({"palette": [[True, 2, 3]] * 3}, r"a row of 'palette' is a list of 3, expected a colour"),
    ({"palette": [7]}, r"a row of 'palette' is 7, expected a colour"),
    ({"config": []}, r"'config' is a list of 0, expected a JSON object"),
    ({"config": {"optim": {"lr": -1}}}, r"config.json: optim.lr=-1.0: must be positive"),
    ({"config": {"modell": {}}}, r"config.json: no section 'modell'"),
)  # fmt: skip


def test_settings_are_checked_by_key(tmp_path, model):
    folder = checkpoint.save_checkpoint(
        tmp_path / "last", model, CONFIG, classes="abc", palette=[[1, 2, 3]] * 3)
    info = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(info | {"palette": [[0, 1, 255]] * 3}))
    assert checkpoint.read_info(folder)["palette"] == [[0, 1, 255]] * 3
    for change, message in SETTINGS:
        (folder / "config.json").write_text(json.dumps(info | change))
        with pytest.raises(UserError, match=message) as caught:
            checkpoint.read_config(folder)
        assert str(caught.value).startswith(f"{folder / 'config.json'}: ")


def test_classes_are_compared_by_name_and_place(tmp_path, model):
    folder = checkpoint.save_checkpoint(
        tmp_path / "last", model, CONFIG, classes=("sky", "road", "Traffic light"))
    checkpoint.check_classes(folder, ("Sky", "road", "traffic-light"), "toys")
    with pytest.raises(UserError, match="its class 0 is 'sky', that of toys is 'road'; a score"):
        checkpoint.check_classes(folder, ("road", "sky", "traffic light"), "toys")
    nameless = checkpoint.save_checkpoint(tmp_path / "converted", model, CONFIG)
    checkpoint.check_classes(nameless, ("road", "sky", "traffic light"), "toys")


def test_reading_goes_on_while_a_run_writes(tmp_path, model, monkeypatch):
    """Whatever is read belongs to one checkpoint, also where it is replaced in between."""
    folder = tmp_path / "last"

    def save(step):
        with torch.no_grad():
            model.head.classifier.bias.fill_(step)
        checkpoint.save_checkpoint(folder, model, CONFIG, state={"step": step})

    def read(place):
        step = checkpoint.read_state(place)["step"]
        if len(seen) < 3:
            save(step + 1)
        seen.append(step)
        return step, checkpoint.read_tensors(place)["head.classifier.bias"][0].item()

    save(1)
    seen = []
    step, bias = checkpoint.steady(folder, read)
    assert step == bias == 4
    assert seen == [1, 2, 3, 4]
    monkeypatch.setattr(checkpoint, "TRIES", 2)
    with pytest.raises(UserError, match="was replaced 2 times while it was read; copy it"):
        checkpoint.steady(folder, lambda place: save(5))
    (folder / "model.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        checkpoint.steady(folder, checkpoint.read_tensors)
