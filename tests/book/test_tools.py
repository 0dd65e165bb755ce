"""The book's tools: each can be imported and asked for help without doing its work."""

import ast
import csv
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from setr_lite.datasets import Cityscapes
from setr_lite.recipes import get_recipe

ROOT = Path(__file__).resolve().parents[2]
TOOLS = sorted((ROOT / "book" / "_tools").glob("*.py"))
PROGRAMS = [path for path in TOOLS if path.stem != "records"]


@pytest.fixture(autouse=True)
def _on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_tools"))


def works_at_import(source):
    """Statements of a module that do more than to name things, but for the main guard."""
    quiet = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for node in ast.parse(source).body:
        guard = isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        words = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not (guard or words or isinstance(node, quiet)):
            yield ast.unparse(node)


@pytest.mark.smoke
@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.stem)
def test_nothing_happens_at_import(path):
    assert list(works_at_import(path.read_text("utf-8"))) == []
    assert list(works_at_import("import sys\nmain()\nfor x in y: print(x)")) != []


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_every_tool_loads_and_explains_itself(path, capsys):
    tool = importlib.import_module(path.stem)
    assert Path(tool.__file__) == path
    with pytest.raises(SystemExit) as ended:
        tool.main(["--help"])
    assert ended.value.code == 0
    assert f"python book/_tools/{path.name}" in capsys.readouterr().out


def test_the_heads_of_the_studies_are_heads():
    features = [torch.randn(2, 8, 3, 5) for _ in range(4)]
    for tool, name, settings, cells in (
        ("measure_camvid_controls", "FourTaps", (8, 6), 1),
        ("measure_camvid_poles", "Cells", (8, 6, 7), 7),
    ):
        head = getattr(importlib.import_module(tool), name)(*settings)
        assert head.lazy(features).full().shape == (2, 6, 3 * cells, 5 * cells)


def test_the_training_that_is_watched(tmp_path, monkeypatch):
    """record_focus on two steps: the files that the chapter loads, in their form."""
    tool = importlib.import_module("record_focus")
    town = ROOT / "data" / "sample" / "toytown_cityscapes"
    config = get_recipe("toytown_pup").override(
        f"data.root={town}", "train.device=cpu", "train.steps=2", "train.batch_size=2",
        "train.workers=0")
    val = Cityscapes(town, "val")
    monkeypatch.setattr(tool, "KEPT", (1, 0, 1))
    tool.record(config, (0, 2), [val[0], val[1]], tmp_path)
    found = json.loads((tmp_path / "record.json").read_text("utf-8"))
    kept = json.loads((tool.RUNS / "toytown_pup_focus" / "record.json").read_text("utf-8"))
    assert found.keys() == kept.keys()
    assert found["steps"] == [0, 2]
    assert len(found["miou_of_the_sample"]) == 2
    with np.load(tmp_path / "labels.npz") as new, np.load(
        tool.RUNS / "toytown_pup_focus" / "labels.npz") as old:  # fmt: skip
        assert new["labels"].shape == (2, *old["labels"].shape[1:])
        assert new["labels"].dtype == old["labels"].dtype
        assert (new["labels"][0] != new["labels"][1]).any()
        assert new["streets"].shape == old["streets"].shape
    with open(tmp_path / "log.csv", newline="") as file:
        assert next(csv.reader(file)) == ["step", "loss"]


STUDIES = [path for path in PROGRAMS if "\ndef fresh(" in path.read_text("utf-8")]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_begins_with_what_every_record_says(path):
    """Studies of several runs begin a file, and go on with it later."""
    found = importlib.import_module(path.stem).fresh()
    assert list(found)[:4] == ["command", "date", "device", "versions"]
    assert f"python book/_tools/{path.name}" in found["command"]
    assert found["runs"] == []
    assert list(found)[-1] == "runs"  # their writer puts them last


def test_the_parts_of_measure_inside_say_how_they_were_made(tmp_path):
    tool = importlib.import_module("measure_inside")
    tool.write_facts(tmp_path / "heads.json", {"found": 1}, 0.0)
    found = json.loads((tmp_path / "heads.json").read_text("utf-8"))
    assert list(found) == ["command", "date", "device", "versions", "cpu_seconds", "found"]
    assert found["command"].endswith("measure_inside.py heads")


def test_a_record_says_how_it_was_made(tmp_path):
    records = importlib.import_module("records")
    records.write(tmp_path / "new" / "record.json", records.about("make me") | {"found": 1})
    found = json.loads((tmp_path / "new" / "record.json").read_text("utf-8"))
    assert list(found) == ["command", "date", "device", "versions", "found"]
    assert found["command"] == "make me"
    assert found["versions"]["python"] == sys.version.split()[0]
