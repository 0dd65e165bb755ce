"""Exported files, run beside the model they were made from."""

from __future__ import annotations

import json
import math

import pytest
import torch

from setr_lite.checkpoint import save_checkpoint
from setr_lite.cli import main
from setr_lite.config import DataConfig, ModelConfig, RunConfig
from setr_lite.model import SETR
from setr_lite.weights import export
from setr_lite.weights.export import EXTRA, export_checkpoint, export_program

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's exporter warns about itself

CONFIG = RunConfig(
    model=ModelConfig(encoder="toy", head="naive", num_classes=4, img_size=(24, 32), channels=8,
                      aux=False),
    data=DataConfig(crop_size=(24, 32), mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0)),
)
CLASSES = ("road", "sky", "tree", "car")


@pytest.fixture
def checkpoint(tmp_path, spread):
    folder = tmp_path / "last"
    save_checkpoint(
        folder, spread(SETR.from_config(CONFIG.model)), CONFIG, classes=CLASSES,
        palette=[(0, 0, 0)] * 4, optimizer=None, state={},
    )
    return folder


def pictures(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.slow
def test_torch_program(checkpoint, tmp_path, capsys):
    """Another batch and other sizes, the table's own among them, from the command line."""
    file = tmp_path / "new" / "model.pt2"
    assert main(["export", str(checkpoint), "--format", "torch", "--out", str(file)]) == 0
    said = capsys.readouterr().out
    assert "any batch, height and width any multiples of 8; largest difference from PyTorch" in said
    extra = {EXTRA: ""}
    program = torch.export.load(file, extra_files=extra).module()
    assert json.loads(extra[EXTRA]) == {
        "classes": list(CLASSES), "mean": [1, 2, 3], "std": [4, 5, 6], "size": None}
    model = SETR.from_pretrained(checkpoint)
    with torch.no_grad():
        for image in (pictures(1, 3, 24, 32), pictures(3, 3, 16, 56)):
            torch.testing.assert_close(program(image), model.logits(image), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_onnx_file(checkpoint):
    onnxruntime = pytest.importorskip("onnxruntime")
    said = export_checkpoint(checkpoint, "onnx")
    assert "model.onnx: image (B, 3, H, W) normalised -> logits (B, 4, H, W)" in said
    session = onnxruntime.InferenceSession(checkpoint / "model.onnx")
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == list(CLASSES)
    assert json.loads(facts["std"]) == [4, 5, 6]
    model, image = SETR.from_pretrained(checkpoint), pictures(3, 3, 16, 56)
    (logits,) = session.run(["logits"], {"image": image.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(
            torch.from_numpy(logits), model.logits(image), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_fixed_size_says_so(checkpoint, tmp_path):
    file = tmp_path / "fixed.pt2"
    said = export_checkpoint(checkpoint, "torch", file, size=(17, 40), dynamic=False)
    assert "any batch, height 17 and width 40 fixed" in said
    program = torch.export.load(file).module()
    assert program(pictures(4, 3, 17, 40)).shape == (4, 4, 17, 40)
    with pytest.raises(export.UserError, match=r"size 17x40: a free size has whole patches of 8"):
        export_checkpoint(checkpoint, "torch", file, size=(17, 40))


@pytest.mark.slow
def test_a_crop_without_whole_patches_is_rounded_up_and_said(tmp_path, spread, capsys):
    config = RunConfig(model=CONFIG.model, data=DataConfig(crop_size=(20, 41)))
    model = spread(SETR.from_config(config.model))
    save_checkpoint(tmp_path / "last", model, config, classes=CLASSES, palette=[(0, 0, 0)] * 4)
    assert main(["export", str(tmp_path / "last"), "--format", "torch"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        "exported at 24x48, the run's crop of 20x41 rounded up to whole patches of 8; its check "
        "takes at least ")
    program = torch.export.load(tmp_path / "last" / "model.pt2").module()
    image = pictures(1, 3, 24, 48)
    with torch.no_grad():
        torch.testing.assert_close(program(image), model.eval().logits(image))


def test_a_size_beyond_the_memory_is_refused_before_any_work(checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(export, "free_memory", lambda device: 10**9)
    monkeypatch.setattr(export, "export_program", lambda *_, **__: pytest.fail("too late"))
    words = ["export", str(checkpoint), "--format", "torch", "--size", "16384x16384"]
    assert main(words) == 2
    need = 4 * 3 * 16384**2 * (3 + 2 * 4) / 2**30
    said = capsys.readouterr().err
    assert f"at least {need:.2f} GiB" in said
    assert "are free; export a smaller size, and cut images into windows of it" in said


def test_a_file_that_computes_something_else_is_refused(checkpoint, monkeypatch):
    model = SETR.from_pretrained(checkpoint)
    wrong = export_program(model, (16, 16), dynamic=False)
    monkeypatch.setattr(export, "_read_torch", lambda path: lambda x: model.logits(x) + 0.1)
    monkeypatch.setattr(export, "export_program", lambda *_, **__: wrong)
    with pytest.raises(export.UserError, match=r"computes something else, largest difference"):
        export_checkpoint(checkpoint, "torch", size=(16, 16), dynamic=False)
    monkeypatch.setattr(export, "_read_torch", lambda path: lambda x: x[:, :1] * math.nan)
    with pytest.raises(export.UserError, match="computes something else"):
        export_checkpoint(checkpoint, "torch", size=(16, 16), dynamic=False)


def test_mistakes_are_one_line(checkpoint, monkeypatch, capsys):
    assert main(["export", str(checkpoint / "nothing"), "--format", "torch"]) == 2
    with pytest.raises(export.UserError, match=r"--format onxx.*onnx"):
        export_checkpoint(checkpoint, "onxx")
    find = export.importlib.util.find_spec
    monkeypatch.setattr(
        export.importlib.util, "find_spec",
        lambda name: None if name == "onnxscript" else find(name))
    capsys.readouterr()
    assert main(["export", str(checkpoint)]) == 2
    said = capsys.readouterr().err
    assert said == (
        "setr-lite export: --format onnx needs onnxscript: pip install 'setr-lite[export]'\n")
