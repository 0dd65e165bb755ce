"""Bad input of every kind: one line and exit code 2, never a traceback, a hang, or a partial file.

`make test` runs a part of the cases, always the same; ``make test-input`` all, and others each
time. Every case has at most `SECONDS` and may take at most `GROWTH` bytes on top of what the
program had.
"""

import contextlib
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import bad_arguments
import bad_files
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from setr_lite.bench.turns import _forget_peak, _peak
from setr_lite.checkpoint import read_optimizer, read_state, save_checkpoint
from setr_lite.cli import main
from setr_lite.config import DataConfig, EvalConfig, ModelConfig, RunConfig
from setr_lite.datasets import Folder
from setr_lite.datasets.doctor import check_data
from setr_lite.datasets.images import read_image, read_label
from setr_lite.encoder import VisionTransformer
from setr_lite.errors import UserError
from setr_lite.model import SETR
from setr_lite.weights import load_pretrained

FULL = os.environ.get("DRILL") == "full"
SECONDS = 60
GROWTH = 256 << 20
"""Most bytes of memory that a case may add, imports included. Where a setting asks for a large
model or large pictures it may be `ASKED`; where a picture's header claims many pixels, 12 bytes for
each, which `read_image` states."""
ASKED = 3 << 30
CPU = torch.device("cpu")
COUNT = Counter()
LARGEST = Counter()

CONFIG = RunConfig(
    model=ModelConfig(encoder="toy", head="naive", num_classes=3, img_size=(16, 16), channels=4),
    data=DataConfig(name="folder", crop_size=(8, 16), base_size=(16, 32)),
    eval=EvalConfig(window=(16, 16), stride=(16, 16)),
)
SHORT = (
    "data.name=folder", "data.base_size=16,32", "data.crop_size=8,16", "model.num_classes=3",
    "model.channels=4", "model.img_size=16", "eval.window=16", "eval.stride=16", "train.steps=1",
    "train.batch_size=2", "train.workers=0", "train.device=cpu",
)  # fmt: skip


def cases(full, short):
    """Settings of a property: so many examples, the same ones in the short form."""
    return settings(
        max_examples=full if FULL else short, deadline=None, derandomize=not FULL, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def some(items, step):
    """All of them, or every so-manieth in the short form."""
    return list(items) if FULL else list(items)[::step]


@contextlib.contextmanager
def bounded(kind, most=GROWTH):
    """Count a case; it must end in time and add at most `most` bytes."""
    COUNT[kind] += 1
    before = _forget_peak(CPU)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":  # a case that wants all memory must not take it from the others
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (4 << 30), limits[1]))

    def late(number, frame):
        raise AssertionError(f"not ready after {SECONDS} s")

    handler = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, limits)
    growth = _peak(CPU) - before
    LARGEST[kind] = max(LARGEST[kind], growth)
    assert growth <= most, f"{growth >> 20} MiB"


def run(kind, folder, *words, most=GROWTH):
    """Run a command line; its exit code. What it prints and leaves in `folder` must be in order."""
    out, err = io.StringIO(), io.StringIO()
    most = ASKED if kind == "extreme" else most
    with bounded(kind, most), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in words])
        except SystemExit as end:  # argparse
            code = end.code
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", err.getvalue())  # two bars move the cursor
    lines = [line.strip() for line in plain.splitlines()]
    said = [line for line in lines if line and not re.search(r"\d%\|", line)]  # not the bars
    assert code in (0, 1, 2), words
    assert "Traceback" not in err.getvalue()
    if code == 2:
        verb = next((w for w in words if str(w)[:1] != "-"), "")
        assert said[-1].startswith("setr-lite"), said
        assert len(said[-1]) > len(f"setr-lite {verb}: ") + 10, said
        assert len(said) == 1 or said[0].startswith("usage"), said
    complete(folder)
    return code


def complete(folder):
    """Every file of the program's below `folder` can be read to its end."""
    for path in Path(folder).rglob("*"):
        assert not path.name.endswith(".part"), path
        if path.name.endswith((
            "_ids.png", "_labels.png", "_overlay.png", "histogram.png", "samples.png")):
            with Image.open(path) as picture:
                picture.load()
        if path.name in ("scores.json", "toytown.json"):
            json.loads(path.read_text())


def answers(kind, function, *arguments, most=GROWTH):
    """The result of a function, or None for a UserError with a message of one line."""
    with bounded(kind, most):
        try:
            return function(*arguments)
        except UserError as error:
            message = str(error)
    assert 10 < len(message) < 1000 + len(str(arguments))
    assert "\n" not in message
    return None


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Good data and a good checkpoint, of an untrained model."""
    root = tmp_path_factory.mktemp("house")
    bad_files.folder_data(root / "data")
    torch.manual_seed(0)
    model = SETR.from_config(CONFIG.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    save_checkpoint(
        root / "run" / "last", model, CONFIG, classes=("sky", "road", "tree"),
        palette=[[1, 2, 3]] * 3, optimizer=optimizer,
        state={"step": 1, "samples": 2, "best": 0.5, "miou": 0.5},
    )  # fmt: skip
    torch.save(model.encoder.state_dict(), root / "vit.pth")
    save_file(model.encoder.state_dict(), root / "vit.safetensors")
    np.savez(root / "vit.npz", **{n: v.numpy() for n, v in model.encoder.state_dict().items()})
    return root


# ---- pictures ----------------------------------------------------------------------------------

GOOD, BAD = bad_files.good_images(), bad_files.bad_images()


@pytest.mark.parametrize("name", GOOD)
def test_odd_pictures_are_read(tmp_path, name):
    data, size = GOOD[name]
    path = tmp_path / name
    path.write_bytes(data)
    image = answers("picture", read_image, path)
    assert image.shape == (3, *size)
    assert image.dtype == torch.uint8
    answers("picture as mask", read_label, path)


@pytest.mark.parametrize("name", some(GOOD, 5))
def test_odd_pictures_are_segmented(house, tmp_path, name):
    data, size = GOOD[name]
    path = tmp_path / name
    path.write_bytes(data)
    assert run("predict", tmp_path, "predict", house / "run/last", path, "--out", tmp_path) == 0
    with Image.open(tmp_path / f"{path.stem}_labels.png") as labels:
        assert labels.size == size[::-1]


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_are_refused_by_name(house, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(BAD[name])
    most = may_take(path, 4)
    assert answers("picture", read_image, path, most=most) is None
    assert answers("picture as mask", read_label, path, most=most) is None
    with pytest.raises(UserError) as caught:
        read_image(path)
    assert str(path) in str(caught.value)


def test_check_data_writes_a_whole_report(tmp_path):
    town = bad_files.folder_data(tmp_path / "town", bad_files.bad_masks()["out of range"])
    (town / "images" / "val" / "0.png").write_bytes(BAD["bomb.png"])
    out = tmp_path / "out"
    assert run("check-data", tmp_path, "check-data", "folder", town, "--out", out) == 1
    report = (out / "report.txt").read_text()
    assert str(town / "images" / "val" / "0.png") in report
    assert str(town / "labels" / "train" / "1.png") in report


@pytest.mark.parametrize("name", some(BAD, 6))
def test_bad_pictures_end_every_verb_with_one_line(house, tmp_path, name):
    path, town = tmp_path / name, bad_files.folder_data(tmp_path / "town")
    path.write_bytes(BAD[name])
    out, most = tmp_path / "out", may_take(path, 4)
    words = ["predict", house / "run/last", path, "--out", out]
    assert run("predict", tmp_path, *words, most=most) == 2
    (town / "images" / "val" / "0.png").write_bytes(BAD[name])
    words = ["eval", house / "run/last", f"data.root={town}"]
    assert run("eval", tmp_path, *words, most=most) == 2
    health = answers("check-data", check_data, "folder", town, most=most)
    assert [fault.kind for fault in health.faults] == ["unreadable image"]


def test_a_bad_picture_among_good_ones_spares_what_is_written(house, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    (photos / "a.png").write_bytes(GOOD["plain.png"][0])
    (photos / "b.png").write_bytes(BAD["50%.png"])
    (photos / "folder.png").mkdir()
    (photos / "nowhere.png").symlink_to("nowhere")
    assert run("predict", tmp_path, "predict", house / "run/last", photos, "--out", out) == 2
    assert sorted(p.name for p in out.iterdir()) == [
        "a_ids.png", "a_labels.png", "a_overlay.png"]


def test_a_bad_picture_in_a_loader_process_is_one_line_too(house, tmp_path, capsys):
    town = bad_files.folder_data(tmp_path / "town")
    for path in (town / "images" / "train").iterdir():
        path.write_bytes(BAD["50%.png"])
    words = ["train", "toytown_naive", f"data.root={town}", f"train.out={tmp_path / 'run'}"]
    assert main([*words, *SHORT, "train.workers=1"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    last = error.strip().splitlines()[-1]
    assert last.startswith("setr-lite train: step 1, epoch 1: ")
    assert f"{town / 'images'}" in last


def test_the_largest_picture_takes_at_most_1_gib(tmp_path):
    side = int(Image.MAX_IMAGE_PIXELS**0.5) if FULL else 3000
    grey, wide = Image.new("L", (side, side)), Image.new("I;16", (side, side))
    for name, picture in {"grey.png": grey, "one bit.png": grey.convert("1"), "16.tif": wide,
                          "palette.png": grey.convert("P")}.items():  # fmt: skip
        picture.save(tmp_path / name)
    del grey, wide, picture
    for name in ("grey.png", "one bit.png", "16.tif", "palette.png"):
        before = _forget_peak(CPU)
        assert read_image(tmp_path / name).shape == (3, side, side)
        growth = _peak(CPU) - before
        COUNT["large picture"] += 1
        LARGEST["large picture"] = max(LARGEST["large picture"], growth)
        assert growth <= 12 * side**2 + (32 << 20), (name, growth >> 20)


@st.composite
def spoilt(draw, data):
    """Bytes cut short, changed, filled up or repeated somewhere."""
    at = draw(st.integers(0, len(data)))
    kind = draw(st.sampled_from(("cut", "change", "fill", "insert", "twice", "lose")))
    junk = draw(st.binary(min_size=1, max_size=8))
    return {
        "cut": data[:at], "change": data[:at] + junk + data[at + len(junk):],
        "fill": data[:at] + b"\xff" * 16 + data[at + 16:], "insert": data[:at] + junk + data[at:],
        "twice": data[:at] + data, "lose": data[:at] + data[at + len(junk):],
    }[kind]  # fmt: skip


def claimed(path):
    """The pixels that a header claims; 0 where it is none, or where so many are not read."""
    try:
        with Image.open(path) as picture:
            return picture.width * picture.height
    except Exception:  # Pillow has many
        return 0


def may_take(path, each=12):
    """Bytes for the pixels that a header claims and that are read: 12 each are what `read_image`
    promises, 4 what a decoder takes before it finds that they are not there."""
    return max(GROWTH, each * claimed(path) + (32 << 20))


def test_a_header_may_claim_a_large_picture(tmp_path):
    """316 bytes that claim 81 million pixels, as spoilt bytes rarely do."""
    data = bytearray(bad_files.FORMATS[".webp"])
    at = data.index(b"\x9d\x01\x2a") + 3  # behind VP8's start code: width and height
    data[at : at + 4] = (9000).to_bytes(2, "little") * 2
    path = tmp_path / "claims.webp"
    path.write_bytes(data)
    assert claimed(path) == 9000**2
    most = 12 * 9000**2 + (32 << 20)
    assert answers("spoilt picture", read_image, path, most=most) is None


@cases(full=150, short=6)
@given(data=st.data())
@pytest.mark.parametrize("ending", bad_files.FORMATS)
def test_spoilt_pictures_are_read_or_refused(tmp_path, ending, data):
    path = tmp_path / f"spoilt{ending}"
    path.write_bytes(data.draw(spoilt(bad_files.FORMATS[ending])))
    image = answers("spoilt picture", read_image, path, most=may_take(path))
    if image is not None:
        assert image.dtype == torch.uint8
        assert image.ndim == 3
        assert image.shape[0] == 3
        assert image.numel() > 0


# ---- masks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", bad_files.bad_masks())
def test_bad_masks_are_refused_by_name(tmp_path, name):
    town = bad_files.folder_data(tmp_path / "town", bad_files.bad_masks()[name])
    assert answers("mask", Folder(town, "val").__getitem__, 0) is None
    health = answers("check-data", check_data, "folder", town)
    assert str(town / "labels" / "val" / "0.png") in health.text()


@pytest.mark.parametrize("name", some(bad_files.bad_masks(), 8))
def test_bad_masks_end_training_and_scoring_with_one_line(house, tmp_path, name):
    town = bad_files.folder_data(tmp_path / "town", bad_files.bad_masks()[name])
    root, out = f"data.root={town}", tmp_path / "run"
    assert run("train", tmp_path, "train", "toytown_naive", *SHORT, root, f"train.out={out}") == 2
    assert run("eval", tmp_path, "eval", house / "run/last", root) == 2


@cases(full=150, short=8)
@given(ids=st.lists(st.integers(0, 255), min_size=1, max_size=6))
def test_masks_hold_known_ids_or_are_refused(tmp_path, ids):
    size = bad_files.SIZE
    array = np.resize(np.array(ids, np.uint8), size)
    town = bad_files.folder_data(
        tmp_path / "town", bad_files.encoded(Image.fromarray(array), "PNG"))
    sample = answers("mask", Folder(town, "val").__getitem__, 0)
    assert (sample is not None) == (set(ids) <= {0, 1, 2, 255})


# ---- checkpoints and files of weights ----------------------------------------------------------

FILES = ("model.safetensors", "config.json", "state.json", "optimizer.pt")


def copy_of(house, tmp_path):
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    shutil.copytree(house / "run", tmp_path / "run")
    return tmp_path / "run" / "last"


def use(folder):
    """All that a resumed run reads of a checkpoint."""
    model = SETR.from_pretrained(folder)
    read_optimizer(folder, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    return read_state(folder, "step", "best", "miou")


@cases(full=130, short=6)
@given(data=st.data())
@pytest.mark.parametrize("name", FILES)
def test_spoilt_checkpoints_are_used_or_refused(house, tmp_path, name, data):
    folder = copy_of(house, tmp_path)
    whole = (folder / name).read_bytes()
    if name == "model.safetensors" and data.draw(st.booleans()):  # 99 % of it are weights
        head = 8 + int.from_bytes(whole[:8], "little")
        (folder / name).write_bytes(data.draw(spoilt(whole[:head])) + whole[head:])
    else:
        (folder / name).write_bytes(data.draw(spoilt(whole)))
    state = answers("spoilt checkpoint", use, folder)
    assert state is None or state["step"] >= 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner,
                                                                max_size=3), max_leaves=5,
)  # fmt: skip


@cases(full=200, short=10)
@given(value=JSON, key=st.sampled_from(("", "config", "palette", "step", "best", "miou")))
def test_a_checkpoint_with_other_json_is_used_or_refused(house, tmp_path, value, key):
    folder = copy_of(house, tmp_path)
    path = folder / ("state.json" if key in ("step", "best", "miou") else "config.json")
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, key: value} if key else value))
    answers("other JSON", use, folder)


def spoil_tensor(folder, value):
    tensors = load_file(folder / "model.safetensors")
    tensors["head.classifier.bias"][1] = value
    save_file(tensors, folder / "model.safetensors")


CHECKPOINTS = {
    "NaN": lambda folder: spoil_tensor(folder, float("nan")),
    "infinite": lambda folder: spoil_tensor(folder, float("inf")),
    "another model": lambda folder: save_file(
        {"fc.weight": torch.zeros(2)}, folder / "model.safetensors"),
    "a pickle": lambda folder: torch.save({"a": torch.zeros(2)}, folder / "model.safetensors"),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no settings": lambda folder: (folder / "config.json").unlink(),
    "no state": lambda folder: (folder / "state.json").unlink(),
    "empty": lambda folder: [path.unlink() for path in folder.iterdir()],
    "a file": lambda folder: (shutil.rmtree(folder), folder.write_text("checkpoint")),
    "a folder inside": lambda folder: (
        (folder / "config.json").unlink(), (folder / "config.json").mkdir()),
    "wider": lambda folder: (folder / "config.json").write_text(
        (folder / "config.json").read_text().replace('"channels": 4', '"channels": 8')),
    "not UTF-8": lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe{}"),
    "deep": lambda folder: (folder / "config.json").write_text("[" * 100_000),
}  # fmt: skip


@pytest.mark.parametrize("name", some(CHECKPOINTS, 3))
def test_bad_checkpoints_end_every_verb_with_one_line(house, tmp_path, name):
    folder = copy_of(house, tmp_path)
    CHECKPOINTS[name](folder)
    root, out = f"data.root={house / 'data'}", tmp_path / "out"
    for words in (
        ("eval", folder, root), ("predict", folder, house / "data/images/val", "--out", out),
        ("export", folder, "--format", "torch", "--out", out / "m.pt2"),
        ("convert", folder, out / "mmseg.pth", "--to", "mmseg"),
        ("train", "toytown_naive", *SHORT, root, "train.steps=2", "--resume",
         f"train.out={folder.parent}"),
    ):  # fmt: skip
        assert run("bad checkpoint", out, *words) == 2
    assert not out.exists()


@pytest.mark.parametrize("ending", [".pth", ".safetensors", ".npz"])
def test_bad_weights_end_with_one_line(house, tmp_path, ending):
    other = {"fc.weight": torch.zeros(2)}
    vit = load_file(house / "vit.safetensors")
    few = dict(list(vit.items())[:5])
    poisoned = {**vit, "pos_embed": vit["pos_embed"] * torch.nan}
    write = {
        ".pth": torch.save, ".safetensors": save_file,
        ".npz": lambda tensors, path: np.savez(path, **{n: v.numpy() for n, v in tensors.items()}),
    }[ending]  # fmt: skip
    for name, tensors in {"other": other, "few": few, "NaN": poisoned}.items():
        path = tmp_path / f"{name}{ending}"
        write(tensors, path)
        out = tmp_path / "out"
        assert run("bad weights", tmp_path, "convert", path, out) == 2
        words = [f"data.root={house / 'data'}", f"train.out={out}", f"model.pretrained={path}"]
        assert run("bad weights", tmp_path, "train", "toytown_naive", *SHORT, *words) == 2
        assert not out.exists()


@cases(full=90, short=4)
@given(data=st.data())
@pytest.mark.parametrize("ending", [".pth", ".safetensors", ".npz"])
def test_spoilt_weights_are_used_or_refused(house, tmp_path, ending, data):
    path = tmp_path / f"spoilt{ending}"
    whole = (house / f"vit{ending}").read_bytes()
    part = data.draw(st.sampled_from((slice(0, 2000), slice(-2000, None), slice(None))))
    at = slice(*part.indices(len(whole)))
    path.write_bytes(whole[: at.start] + data.draw(spoilt(whole[at])) + whole[at.stop :])
    encoder = VisionTransformer.from_preset("toy", img_size=(16, 16))
    answers("spoilt weights", load_pretrained, encoder, path)


def test_a_pickle_with_code_is_not_run(house, tmp_path):
    trace, path = tmp_path / "it ran", tmp_path / "weights.pth"
    code = bad_files.pickle_with_code(trace)
    path.write_bytes(code)
    out = tmp_path / "out"
    assert run("code", tmp_path, "convert", path, out) == 2
    assert run("code", tmp_path, "convert", "vit2mmseg", path, out) == 2
    train = ("train", "toytown_naive", *SHORT, f"data.root={house / 'data'}", f"train.out={out}")
    assert run("code", tmp_path, *train, f"model.pretrained={path}") == 2
    folder = copy_of(house, tmp_path)
    (folder / "optimizer.pt").write_bytes(code)
    assert answers("code", use, folder) is None
    np.savez(tmp_path / "weights.npz", weight=np.array([bad_files.Runs(trace)], dtype=object))
    assert run("code", tmp_path, "convert", tmp_path / "weights.npz", out) == 2
    assert not trace.exists()
    careless = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    subprocess.run([sys.executable, "-c", careless, path], check=True)
    assert trace.exists()  # opened by other programs it does run


# Every key of the two files, with values that no run writes.
STATE = {"step": 1, "samples": 2, "scored": 1, "moments": 2, "best": 0.5, "miou": 0.5,
         "finished": False, "faults": {"images": 0, "workers": 0}}  # fmt: skip
KEYS = [
    ("config.json", key) for key in (
        ("config",), ("classes",), ("palette",), ("classes", 0), ("palette", 0), ("palette", 0, 2),
        ("config", "recipe"),
        *(("config", section) for section in CONFIG.to_dict() if section != "recipe"),
        *(("config", section, key) for section, part in CONFIG.to_dict().items()
          if section != "recipe" for key in part))
] + [("state.json", (key,)) for key in STATE] + [("state.json", ("faults", "images"))]
VALUES = (None, True, -1, 0, 10**30, 1e308, float("nan"), -float("inf"), 0.5, "", "x", "1" * 5000,
          [], [[]], [None], [1, 2, 3], {}, {"a": 1}, "\x1b[31m")  # fmt: skip
EDITS = [(name, key, value) for name, key in KEYS for value in VALUES]


@pytest.fixture(scope="module")
def scratch(house, tmp_path_factory):
    folder = tmp_path_factory.mktemp("edited") / "last"
    return shutil.copytree(house / "run" / "last", folder)


def test_checkpoints_edited_at_every_key_are_used_or_refused(scratch):
    whole = {name: (scratch / name).read_text() for name in ("config.json", "state.json")}
    whole["state.json"] = json.dumps({**json.loads(whole["state.json"]), **STATE} | {
        "moments": json.loads(whole["state.json"])["moments"]})
    problems = []
    for name, key, value in some(EDITS, 37):
        info = json.loads(whole[name])
        place = info
        for part in key[:-1]:
            place = place[part]
        place[key[-1]] = value
        (scratch / name).write_text(json.dumps(info))
        try:
            state = answers("edited checkpoint", use, scratch)
            assert state is None or state["step"] >= 0
        except Exception as error:
            problems.append(f"{key} = {value!r:.30}: {error!r:.100}")
        (scratch / name).write_text(whole[name])
    assert use(scratch)["step"] == 1
    assert not problems, "\n".join(problems)


# ---- the API -----------------------------------------------------------------------------------


def test_every_public_function_has_its_wrong_arguments_or_a_reason():
    called = {name.partition("(")[0] for name, *_ in bad_arguments.calls(Path(), Untouched())}
    left_out = {name for names in bad_arguments.LEFT_OUT.values() for name in names}
    assert bad_arguments.public() - called == left_out
    assert called <= bad_arguments.public()


class Untouched:
    """Stands for a model that nobody calls."""

    def __getattr__(self, name):
        return self


def test_wrong_arguments_are_refused_in_one_line(house, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, problems = SETR.from_pretrained(house / "run" / "last"), []
    for name, call, value in some(bad_arguments.cases(house, model), 11):
        try:
            with bounded("API"), pytest.raises(UserError) as caught:
                call(value)
            assert 10 < len(str(caught.value)) < 2000  # all recipes, where none comes near
            assert "\n" not in str(caught.value)
        except (Exception, pytest.fail.Exception) as error:
            problems.append(f"{name}, {value!r:.40}: {error!r:.100}")
    assert not problems, "\n".join(problems)
    assert list(tmp_path.iterdir()) == []


# ---- settings ----------------------------------------------------------------------------------

SETTINGS = [
    f"{section}.{key}"
    for section, part in RunConfig().to_dict().items()
    if section != "recipe"
    for key in part
]
JUNK = (
    "", " ", "none", "true", "-1", "0", "nan", "inf", "1e999", "9" * 30, "9" * 5000, "1,2", "1,2,3",
    "()", "[[1]]", "{}", "word", "ünï", "../..", "--", "=", "1x1x1", "0.5", "\n", "%s", "$HOME",
)  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_every_kind_of_value(tmp_path, name):
    shift = SETTINGS.index(name)
    for i, junk in enumerate(JUNK):
        if FULL or (i + shift) % 9 == 0:
            words = ("train", "toytown_pup", f"{name}={junk}", f"data.root={tmp_path / 'no'}")
            assert run("setting", tmp_path, *words) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_every_kind_of_json(name):
    section, _, key = name.partition(".")
    values = (None, True, -1, 10**30, 1e308, float("nan"), "", "x", [], [[]], [None], [1, 2, 3], {},
              {"a": 1}, "1" * 5000)  # fmt: skip
    for i, value in enumerate(values):
        if FULL or (i + SETTINGS.index(name)) % 7 == 0:
            found = answers("JSON setting", RunConfig.from_dict, {section: {key: value}})
            assert found is None or RunConfig.from_dict(found.to_dict()) == found


EXTREMES = (
    ("eval.stride=17",), ("eval.protocol=paper", "eval.flip=true"), ("model.taps=1,2,3,5",),
    ("model.num_classes=4",), ("train.accumulate=3",), ("train.batch_size=3", "train.accumulate=2"),
    ("model.head=mla", "model.channels=3"), ("model.pretrained=nowhere.pth",),
    ("model.encoder=timm:resnet50",), ("model.encoder=hybrid",), ("data.classes=nowhere.txt",),
    ("train.device=cuda:99",), ("train.device=meta",), ("data.name=ade20k",),
    ("train.feature_cache=cache",), ("train.feature_cache=cache", "train.freeze_encoder=true"),
    ("model.channels=2048", "model.head=pup"), ("optim.lr=1e30",), ("optim.lr=1e-30",),
    ("train.seed=" + "9" * 40,), ("data.crop_size=16384",), ("data.crop_size=1",),
    ("data.base_size=1",), ("data.base_size=16384",), ("data.ratio_range=1e-9,1e9",),
    ("data.ratio_range=1e-9,1e-9",), ("data.ratio_range=1e9,1e9",), ("data.mean=1e30,1,1",),
    ("data.std=1e-30,1,1",), ("eval.ratios=1e-9",), ("eval.ratios=1e9",), ("eval.window=1",
    "eval.stride=1"), ("eval.window=16384", "eval.stride=16384"), ("model.img_size=1",),
    ("eval.base_size=16384",), ("eval.window_batch=4096",), ("loss.aux_weight=1e30",),
    ("model.drop_path=1",), ("model.dialect=mmseg",), ("optim.warmup=1000",), ("optim.power=1e9",),
    ("optim.momentum=0",), ("eval.limit=99",), ("data.cat_max_ratio=0",), ("model.aux_units=64",),
    ("optim.clip_norm=1e-30",), ("model.num_classes=65535",), ("train.amp=bf16",),
)  # fmt: skip


@pytest.mark.parametrize("changes", some(EXTREMES, 9), ids=" ".join)
def test_extreme_and_contradictory_settings(house, tmp_path, monkeypatch, changes):
    monkeypatch.chdir(tmp_path)
    town = f"data.root={house / 'data'}"
    words = ("train", "toytown_naive", *SHORT, town, "train.out=run", *changes)
    code = run("extreme", tmp_path, *words)
    if code == 0:  # then it is a checkpoint like others
        assert run("extreme", tmp_path, "eval", "run/last", "--json", "scores.json") == 0
    else:
        assert not (tmp_path / "run" / "last").exists()


@pytest.mark.parametrize("changes", some(EXTREMES, 9), ids=" ".join)
def test_extreme_settings_of_a_checkpoint(house, tmp_path, changes):
    words = ("eval", house / "run/last", f"data.root={house / 'data'}", *changes)
    assert run("extreme", tmp_path, *words) in (0, 2)


# ---- command lines and paths -------------------------------------------------------------------

VERBS = ("recipes", "toytown", "check-data", "train", "eval", "predict", "convert", "export",
         "bench", "make-masks", "split", "tarin", "")  # fmt: skip
WORDS = (
    "toytown_pup", "toytown_pub", "folder", "camvid", "nowhere", "-1", "--resume", "--json",
    "--out", "--images", "--split", "test", "--size", "9x9", "99999x99999", "x", "--layout",
    "ade20k", "--train", "--val", "2", "--fast", "--classes", "--alpha", "nan", "--to", "mmseg",
    "--img-size", "--taps", "1,2", "--format", "onnx", "--csv", "-h", "--", "-", "=", "a=b",
    "model.head=mla", "train.steps=x", "--unsafe-pickle", "--against", "plain", "--turns", "0",
    "--batch", "--seed", "--save-predictions", "ünï cödé", "", " ", "\n", "data.root=nowhere",
    "vit2mmseg", ".", "/", "/dev/null", "--no-aux", "--threads",
)  # fmt: skip


@cases(full=500, short=25)
@given(verb=st.sampled_from(VERBS), words=st.lists(st.sampled_from(WORDS), max_size=5))
def test_command_lines(tmp_path_factory, verb, words):
    folder = tmp_path_factory.mktemp("here")
    (folder / ".").joinpath("a file").write_text("no folder")
    before = Path.cwd()
    if verb == "toytown":  # not 1500 scenes: the last one counts
        words = [*words, "--train=1", "--val=1"]
    os.chdir(folder)
    try:
        run("command line", folder, verb, *words)
    finally:
        os.chdir(before)
        shutil.rmtree(folder)


NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=20
).filter(lambda name: name not in (".", "..") and not name.startswith("-"))


@cases(full=60, short=3)
@given(name=NAMES)
def test_paths_of_any_characters(house, tmp_path_factory, name):
    base = tmp_path_factory.mktemp("paths")
    folder = base / name
    folder.mkdir()
    try:
        town, last = folder / "dätä 1", folder / "rün 1" / "last"
        shutil.copytree(house / "data", town)
        shutil.copytree(house / "run" / "last", last)
        root = f"data.root={town}"
        scores = ("--json", folder / "scores.json", "--csv", folder / "scores.csv")
        assert run("path", folder, "eval", last, root, *scores) == 0
        assert json.loads((folder / "scores.json").read_text())["checkpoint"] == str(last)
        (town / "images" / "val" / "0.png").rename(folder / f"{name}.png")
        words = ("predict", last, folder / f"{name}.png", "--out", folder / "öut")
        assert run("path", folder, *words) == 0
        assert len(list((folder / "öut").iterdir())) == 3
        assert run("path", folder, "eval", last, root) == 2  # its picture is gone
    finally:
        shutil.rmtree(base)


def test_names_that_are_no_utf8(house, tmp_path):
    """Read wherever they are; written where the libraries below can, and else refused in a line."""
    odd = os.fsdecode(b"a\xff")
    try:
        town = bad_files.folder_data(tmp_path / odd)
    except OSError:
        pytest.skip("a disk that takes UTF-8 only")
    for kind in ("images", "labels"):
        for split in ("train", "val"):
            path = town / kind / split / "0.png"
            path.rename(path.with_name(f"{odd}.png"))
    root, out, last = f"data.root={town}", tmp_path / "out", house / "run" / "last"
    assert run("path", tmp_path, "check-data", "folder", town, "--out", tmp_path / f"{odd}r") == 0
    words = ("train", "toytown_naive", *SHORT, root)
    assert run("path", tmp_path, *words, f"train.out={out / 'run'}") == 0
    assert run("path", tmp_path, *words, f"train.out={out / odd}") == 2
    files = ("--json", out / f"{odd}.json", "--csv", out / f"{odd}.csv")
    assert run("path", tmp_path, "eval", last, root, *files, "--save-predictions", out / odd) == 0
    assert json.loads((out / f"{odd}.json").read_text())["images"] == 1
    assert (out / odd / f"{odd}.png").exists()
    picture = town / "images" / "val" / f"{odd}.png"
    assert run("path", tmp_path, "predict", last, picture, "--out", out / f"{odd}p") == 0
    assert (out / f"{odd}p" / f"{odd}_labels.png").exists()
    for kind in ("torch", "onnx"):
        words = ("export", last, "--format", kind, "--out", out / f"{odd}.bin")
        assert run("path", tmp_path, *words) == 2
    shutil.copytree(last, out / f"{odd}c")
    assert run("path", tmp_path, "eval", out / f"{odd}c", root) == 2


def test_what_cannot_be_written_is_one_line(house, tmp_path):
    wall, last, root = tmp_path / "wall", house / "run" / "last", f"data.root={house / 'data'}"
    wall.write_text("a file where a folder is wanted")
    photo = house / "data/images/val/0.png"
    for words in (
        ("toytown", wall), ("toytown", wall / "town"), ("check-data", "folder", house / "data",
        "--out", wall), ("predict", last, photo, "--out", wall), ("eval", last, root, "--json", wall
        / "scores.json"), ("eval", last, root, "--save-predictions", wall), ("convert", last, wall
        / "m.pth", "--to", "mmseg"), ("export", last, "--format", "torch", "--out", wall / "m.pt2"),
        ("train", "toytown_naive", *SHORT, root, f"train.out={wall}"),
        ("predict", last, photo, "--out", tmp_path / ("long" * 100)),
        ("eval", last, root, "--json", tmp_path / ("long" * 100)),
        ("toytown", tmp_path / ("long" * 100)), ("convert", last, house, "--to", "mmseg"),
        ("eval", last, root, "--json", tmp_path),
    ):  # fmt: skip
        assert run("wall", tmp_path, *words) == 2
    assert wall.read_text() == "a file where a folder is wanted"


def test_the_drill_was_as_large_as_promised(capsys):
    total = sum(COUNT.values())
    if FULL:
        with capsys.disabled():
            print(f"\n{'cases':>6} {'most memory':>12}")
            for kind, count in COUNT.most_common():
                print(f"{count:6} {LARGEST[kind] / 2**20:8.0f} MiB  {kind}")
            print(f"{total:6} cases in all")
        assert total >= 2000
