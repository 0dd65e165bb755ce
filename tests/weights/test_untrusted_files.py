"""Files of weights from anybody: crafted, damaged, wrapped, of other programs; each is read rightly
or ends in one line, and none costs more than a model that it fits."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.make_heads import DEPTH, DIM, HEADS
from test_read import augreg_arrays, jx_state, published, save, setr, setr_config, vit

from setr_lite import checkpoint, encoder, weights
from setr_lite.cli import main
from setr_lite.config import RunConfig
from setr_lite.errors import UserError
from setr_lite.model import SETR
from setr_lite.weights import write
from setr_lite.weights.convert import convert, identify
from setr_lite.weights.files import open_weight_file, read_weight_file

TAPS = (0, 1, 2, 3)


@pytest.fixture(autouse=True)
def _golden_sizes(monkeypatch):
    sizes = {"patch_size": 16, "embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS}
    monkeypatch.setitem(encoder.PRESETS, "golden", sizes)


# ---- grids of position tables ------------------------------------------------------------------


def wide_model(spread, head="naive"):
    """A model for 256 x 1024 pixels: 16 x 64 rows are as many as 32 x 32."""
    config = setr_config(head, "mmseg", img_size=(256, 1024), aux=False)
    return spread(SETR.from_config(config)).eval(), config


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("verb", ["convert", "export"])
@torch.no_grad()
def test_a_wide_table_comes_back_with_its_grid_and_its_labels(tmp_path, spread, verb, ending):
    model, config = wide_model(spread)
    checkpoint.save_checkpoint(tmp_path / "a", model, RunConfig(model=config))
    file = tmp_path / f"there{ending}"
    words = (("convert", tmp_path / "a", file, "--to", "mmseg") if verb == "convert" else
             ("export", tmp_path / "a", "--format", "mmseg", "--out", file))  # fmt: skip
    assert main([*map(str, words)]) == 0
    assert main(["convert", str(file), str(tmp_path / "back")]) == 0
    back = SETR.from_pretrained(tmp_path / "back")
    assert back.config.model.img_size == (256, 1024)
    assert back.config.model.taps == config.taps
    image = torch.randn(1, 3, 128, 512)
    assert torch.equal(back.logits(image), model.logits(image))
    again = SETR.from_config(config)
    weights.load_setr(again, file)
    assert torch.equal(again.encoder.pos_embed, model.encoder.pos_embed)


def test_a_table_that_is_a_square_and_the_models_own_grid_is_never_guessed(tmp_path, spread):
    model, config = wide_model(spread)
    state = write.to_mmseg(model.state_dict(), config)
    path = save({"state_dict": state}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x.pth: 'backbone.pos_embed' has 1024 rows .*, 32 x 32 or "
                                        r"the model's own 16 x 64; say which with grid="):
        weights.load_setr(SETR.from_config(config), path)
    loaded = SETR.from_config(config)
    weights.load_setr(loaded, path, grid=(16, 64))
    assert torch.equal(loaded.encoder.pos_embed, model.encoder.pos_embed)


def test_what_is_assumed_is_printed(tmp_path, spread, capsys):
    model, config = wide_model(spread)
    state = write.to_mmseg(model.state_dict(), config)
    path = save({"state_dict": state}, tmp_path / "x.pth")
    assert main(["convert", str(path), str(tmp_path / "a"), "--taps", "0,1,2,3"]) == 0
    said = capsys.readouterr().out
    assert "grid 32 x 32 for images of 512 x 512\n  assumed: the position table is a square" in said
    assert "blocks" not in said
    six = setr_config("mla", "official", aux=False, encoder="six", taps=None)
    encoder.PRESETS["six"] = {**encoder.PRESETS["golden"], "depth": 6}
    try:
        state = write.to_official(SETR.from_config(six).state_dict(), six)
        found = identify(save(state, tmp_path / "six.pth"))
    finally:
        del encoder.PRESETS["six"]
    assert found.assumed[1].startswith("the heads read blocks 1, 2, 4, 5, as published; --taps")


@pytest.mark.parametrize("told", [{"img_size": [64, "64"]}, {"img_size": 7}, {"taps": [0, 1]},
                                  {"img_size": [0, 64]}, {"img_size": [10**9, 1]}])  # fmt: skip
def test_a_size_that_a_file_tells_is_checked(tmp_path, told):
    path = save({"state_dict": published("official", "model_naive_64"),
                 "meta": {"setr_lite": told}}, tmp_path / "x.pth")  # fmt: skip
    with pytest.raises(UserError, match=r"x.pth: (setr_lite\.)?(img_size|taps)"):
        convert(path, tmp_path / "out", taps=None if "taps" in told else TAPS)


# ---- objects besides the tensors ---------------------------------------------------------------

MMENGINE = """
import collections, sys, types, numpy, torch

class HistoryBuffer:  # as mmengine.logging has it: its pickle names functions, too
    def __init__(self):
        self._log_history, self._max_length = numpy.arange(3.0), 1000000
    def mean(self): ...
    def __getstate__(self):
        return {**self.__dict__, "statistics_methods": {"mean": HistoryBuffer.mean}}

module = types.ModuleType("mmengine.logging.history_buffer")
module.HistoryBuffer = HistoryBuffer
HistoryBuffer.__module__ = HistoryBuffer.mean.__module__ = module.__name__
for name in ("mmengine", "mmengine.logging"):
    sys.modules[name] = types.ModuleType(name)
sys.modules[module.__name__] = module
state = torch.load(sys.argv[1])
hub = {"log_scalars": collections.OrderedDict({"train/loss": HistoryBuffer()}),
       "runtime_info": {"iter": 3}}
meta = {"iter": 3, "dataset_meta": {"classes": tuple("abcde"), "palette": [[1, 2, 3]] * 5}}
torch.save({"state_dict": state, "message_hub": hub, "meta": meta}, sys.argv[2],
           _use_new_zipfile_serialization=sys.argv[3] == "zip")
"""
"""Writes what mmsegmentation 1.x writes in training, in a process that has an mmengine."""


@pytest.mark.parametrize("kind", ["zip", pytest.param("old", marks=pytest.mark.slow)])
def test_a_checkpoint_of_mmengine_needs_no_permission(tmp_path, capsys, kind):
    state = save(published("mmseg", "model_mla"), tmp_path / "state.pth")
    path, out = tmp_path / "iter_3.pth", tmp_path / "out"
    subprocess.run([sys.executable, "-c", MMENGINE, state, path, kind], check=True)
    words = ["convert", str(path), str(out), "--taps", "0,1,2,3", "--img-size", "64x96"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "note: read without running mmengine.logging.history_buffer.HistoryBuffer, " in said
    assert "builtins.getattr" in said
    assert checkpoint.read_info(out)["classes"] == list("abcde")
    other = weights.load_setr(
        model := setr("mla", "mmseg", img_size=(64, 96)), state, grid=(4, 6))
    loaded = SETR.from_pretrained(out).state_dict()
    assert len(other.used) > 100
    assert all(torch.equal(v.float(), loaded[n].float()) for n, v in model.state_dict().items())


class Ran:
    """Its pickle calls a function of the system."""

    def __init__(self, trace: Path, how: str) -> None:
        self.trace, self.how = trace, how

    def __reduce__(self):
        if self.how == "posix":
            import os

            return os.mkdir, (str(self.trace),)
        return Path.mkdir, (self.trace,)


@pytest.mark.parametrize("how", ["posix", "pathlib"])
@pytest.mark.parametrize("new", [True, False])
def test_nothing_in_a_file_runs(tmp_path, how, new):
    trace, path = tmp_path / "it ran", tmp_path / "x.pth"
    content = {"state_dict": {"a": torch.randn(3)}, "hook": Ran(trace, how)}
    torch.save(content, path, _use_new_zipfile_serialization=new)
    why = {"posix": "asks for posix.mkdir when it is opened, as no file of weights does",
           "pathlib": "holds objects besides its tensors that cannot be left out (Trying to call"}
    with pytest.raises(UserError, match=rf"x.pth: {re.escape(why[how])}"):
        read_weight_file(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # it would have run


def test_a_dictionary_of_another_class_cannot_be_stood_in_for(tmp_path):
    class Odd(dict):
        pass

    Odd.__qualname__, Odd.__module__ = "Odd", __name__
    globals()["Odd"] = Odd
    path = save({"state_dict": Odd(a=torch.zeros(2)), "b": 1}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x.pth: holds objects besides its tensors that cannot be "
                                        r"left out \(Can only SETITEM for dict.*--unsafe-pickle"):
        read_weight_file(path)
    assert len(read_weight_file(path, allow_pickle=True).tensors) == 1


# ---- what a file may cost ----------------------------------------------------------------------


def peak_growth(code: str, *words) -> int:
    """Bytes that a piece of code adds to the highest resident memory of a fresh process."""
    done = subprocess.run([sys.executable, "-c", BEFORE + code + AFTER, *map(str, words)],
                          capture_output=True, text=True, check=True)  # fmt: skip
    return int(done.stdout.splitlines()[-1])


BEFORE = """
import sys
import torch
from setr_lite import weights
from setr_lite.encoder import VisionTransformer
from setr_lite.errors import UserError
from setr_lite.running.meters import peak_memory
first = peak_memory(torch.device("cpu"))
"""
AFTER = """
print(peak_memory(torch.device("cpu")) - first)
"""
LOAD = """
encoder = VisionTransformer((32, 32), 16, 32, 4, 2)
try:
    weights.load_pretrained(encoder, sys.argv[1])
except UserError as error:
    print(error)
else:
    raise SystemExit("taken")
"""


def expanded(path):
    save(jx_state() | {"pos_embed": torch.zeros(1).expand(1, 17, 20_000_000)}, path)


def packed(path):
    arrays = augreg_arrays()
    arrays["Transformer/posembed_input/pos_embedding"] = np.zeros((1, 17, 3_000_000), np.float32)
    np.savez_compressed(path, **arrays)


def packed_zip(path):
    save(jx_state() | {"pos_embed": torch.zeros(1, 17, 3_000_000)}, path)
    records = {}
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records.items():
            archive.writestr(name, data)


@pytest.mark.parametrize("make", [expanded, packed, packed_zip])
def test_a_small_file_cannot_cost_gigabytes(tmp_path, make):
    path = tmp_path / ("x.npz" if make is packed else "x.pth")
    make(path)
    assert path.stat().st_size < 10_000_000
    assert peak_growth(LOAD, path) < 100_000_000


def test_shapes_are_compared_before_a_number_is_read(tmp_path):
    """A file of 200 MB that is honest, and of another model."""
    path = tmp_path / "x.pth"
    save(jx_state() | {"pos_embed": torch.zeros(1, 17, 3_000_000)}, path)
    assert path.stat().st_size > 200_000_000
    assert peak_growth(LOAD, path) < 100_000_000
    path.unlink()


def test_a_file_is_opened_without_its_numbers(tmp_path):
    file = open_weight_file(save(jx_state(), tmp_path / "x.pth"))
    assert {value.device.type for value in file.tensors.values()} == {"meta"}
    assert {value.device.type for value in file.read().tensors.values()} == {"cpu"}
    assert file.read().tensors.keys() == file.tensors.keys() == jx_state().keys()


# ---- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".pth", ".npz"])
def test_a_flipped_bit_is_noticed(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    mark = np.full(64, 1.5, np.float32)
    if ending == ".npz":
        np.savez(path, **augreg_arrays(), extra=mark)
    else:
        save(jx_state() | {"extra": torch.from_numpy(mark)}, path)
    assert len(read_weight_file(path).tensors) > 10
    data = bytearray(path.read_bytes())
    data[data.index(mark.tobytes()) + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"x{ending}: not a readable file of weights \(.*"
                                        r"(check sum of .*data/|CRC).*download it again"):
        read_weight_file(path)


def test_a_negative_variance_is_refused(tmp_path):
    state = published("mmseg", "model_pup")
    name = "decode_head.up_convs.1.0.bn.running_var"
    state[name][3] = -0.5
    path = save(state, tmp_path / "x.pth")
    with pytest.raises(UserError, match=rf"x.pth: '{name}' is negative \(-0.5\), as no variance"):
        convert(path, tmp_path / "out", img_size=(64, 96), taps=TAPS)
    assert not (tmp_path / "out").exists()


NAME = "blocks.1.mlp.fc1.weight"
KINDS = {
    "whole": lambda v: v.to(torch.int32), "complex": lambda v: v.to(torch.complex64),
    "sparse": lambda v: v.to_sparse(), "rows": lambda v: v.to_sparse_csr(),
    "quantised": lambda v: torch.quantize_per_tensor(v.float(), 0.1, 0, torch.qint8),
    "flat": lambda v: v.flatten(), "scalar": lambda v: v.sum(), "bool": lambda v: v > 0,
    "none": lambda v: None, "float8": lambda v: v.to(torch.float8_e4m3fn),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # PyTorch's, of the odd ones
@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_of_numbers_are_not_converted(tmp_path, kind):
    state = jx_state()
    path = save(state | {NAME: KINDS[kind](state[NAME])}, tmp_path / "x.pth")
    for load in (lambda: weights.load_pretrained(vit(), path),
                 lambda: convert(path, tmp_path / "y.pth", to="mmseg")):  # fmt: skip
        with pytest.raises(UserError, match=r"x.pth: ") as error:
            load()
        assert "\n" not in str(error.value)
        if kind not in ("sparse", "rows", "quantised"):  # not to be read without numbers
            assert f"'{NAME}' is " in str(error.value)


@pytest.mark.parametrize("key", [7, ("a", "b"), None, b"a"])
def test_keys_that_are_no_names(tmp_path, key):
    path = save(jx_state() | {key: torch.zeros(2)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x.pth: .* is a Tensor, expected tensors by name"):
        weights.load_pretrained(vit(), path)


@pytest.mark.parametrize("name", ["patch_embed.proj.weight", "pos_embed", "cls_token"])
@pytest.mark.parametrize("shape", [(), (5,), (0,), (0, 0, 0, 0), (1, 0, 3)])
def test_tensors_with_too_few_dimensions(tmp_path, name, shape):
    path = save(jx_state() | {name: torch.zeros(shape)}, tmp_path / "x.pth")
    for load in (lambda: weights.load_pretrained(vit(), path),
                 lambda: convert(path, tmp_path / "y.pth", to="mmseg")):  # fmt: skip
        with pytest.raises(UserError, match=rf"x.pth: .*({name}|position table|no encoder)"):
            load()


@pytest.mark.parametrize("name", ["decode_head.conv_0.weight", "decode_head.conv_4.weight",
                                  "backbone.patch_embed.proj.weight", "backbone.pos_embed"])
def test_a_whole_model_with_too_few_dimensions(tmp_path, name):
    for shape in ((), (5,), (0, 1)):
        state = published("official", "model_pup_64") | {name: torch.zeros(shape)}
        path = save(state, tmp_path / "x.pth")
        with pytest.raises(UserError, match=r"x.pth: "):
            convert(path, tmp_path / "out", taps=TAPS)
        with pytest.raises(UserError, match=r"x.pth: "):
            weights.load_setr(setr("pup", "official"), path)


METAS = {
    "a number": ({"CLASSES": 7}, "meta.CLASSES is no list of classes but a int"),
    "numbers": ({"CLASSES": [1, 2, 3, 4, 5]}, "meta.CLASSES is no list of classes but a list"),
    "a list of facts": ({"dataset_meta": ["a"]}, "meta.dataset_meta is a list, expected a dict"),
    "colours": ({"CLASSES": list("abcde"), "PALETTE": [[0, 0, 300]] * 5},
                "meta.PALETTE holds [0, 0, 300], expected [r, g, b] in 0..255"),
    "few colours": ({"CLASSES": list("abcde"), "PALETTE": [[0, 0, 3]]},
                    "meta.PALETTE has 1 colours for 5 classes"),
    "a grey": ({"CLASSES": list("abcde"), "PALETTE": [7] * 5}, "meta.PALETTE is no list of palet"),
}  # fmt: skip


@pytest.mark.parametrize("name", METAS)
def test_what_a_file_says_about_itself_is_checked(tmp_path, capsys, name):
    meta, message = METAS[name]
    path = save({"meta": meta, "state_dict": published("official", "model_naive_64")},
                tmp_path / "x.pth")  # fmt: skip
    assert main(["convert", str(path), str(tmp_path / "out"), "--taps", "0,1,2,3"]) == 2
    said = capsys.readouterr().err
    assert f"x.pth: {message}" in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


# ---- wrapped models ----------------------------------------------------------------------------

WRAPPED = {
    "parallel": lambda n: f"module.{n}", "compiled": lambda n: f"_orig_mod.{n}",
    "both": lambda n: f"_orig_mod.module.{n}", "the other way": lambda n: f"module._orig_mod.{n}",
    "compiled backbone": lambda n: n.replace("backbone.", "backbone._orig_mod."),
    "compiled blocks": lambda n: n.replace("blocks.1.", "blocks.1._orig_mod."),
}  # fmt: skip


@pytest.mark.parametrize("how", WRAPPED)
def test_names_of_wrapped_models(tmp_path, how):
    state = published("official", "model_pup_64")
    wrapped = {WRAPPED[how](name): value for name, value in state.items()}
    assert wrapped.keys() != state.keys()
    model, plain = setr("pup", "official"), setr("pup", "official")
    report = weights.load_setr(model, save(wrapped, tmp_path / "x.pth"))
    weights.load_setr(plain, save(state, tmp_path / "y.pth"))
    assert "names without their " in str(report)
    assert all(torch.equal(v, plain.state_dict()[n]) for n, v in model.state_dict().items())


def test_a_tensor_that_is_there_twice_is_refused(tmp_path):
    state = jx_state()
    path = save(state | {f"module.{NAME}": state[NAME]}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x.pth: has a tensor twice, with and without module"):
        weights.load_pretrained(vit(), path)
