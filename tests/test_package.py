"""The house: floors, imports, names."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import setr_lite

HOUSE = Path(setr_lite.__file__).parent
FLOORS = [
    ["errors", "bench_turns", "config", "transforms", "resize", "losses", "metrics", "optim",
     "inference", "distributed", "sync_bn", "parallel", "nonfinite", "protocols", "visualize",
     "interactive", "dials", "image_files", "pascal_json", "frozen", "recompute", "run_log",
     "stages", "files", "attention_stats", "calibration"],
    ["canvas", "figures", "townscape", "encoder", "timm_encoder", "heads", "toytown",
     "dataset_base", "data_report", "folder_data", "datasets", "published", "recipes",
     "weight_files", "weight_tables"],
    ["checkpoint", "check_data", "feed", "weight_account", "weights", "weights_out"],
    ["model", "pretrained"],
    ["evaluate", "scores", "convert", "memory", "meters", "fit", "scaling", "export"],
    ["train", "describe", "bench_work"],
    ["bench"],
    ["cli", "__main__"],
]  # fmt: skip


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            yield from [node.module] if node.module else [a.name for a in node.names]


@pytest.mark.smoke
def test_every_module_has_a_floor():
    modules = {".".join(p.relative_to(HOUSE).with_suffix("").parts) for p in HOUSE.rglob("*.py")}
    assert modules - {"__init__"} == {name for floor in FLOORS for name in floor}


@pytest.mark.smoke
def test_imports_go_down_and_never_in_circles():
    floor_of = {name: i for i, floor in enumerate(FLOORS) for name in floor}
    arrows = {name: set(imports(HOUSE / f"{name}.py")) for name in floor_of}
    up = [(a, b) for a, targets in arrows.items() for b in targets if floor_of[b] > floor_of[a]]
    assert up == []

    graphlib.TopologicalSorter(arrows).prepare()  # raises for a circle, and names it


def test_importing_costs_no_more_than_pytorch():
    """`SETR` needs nothing beside PyTorch, the training loop nothing heavy: what takes seconds to
    import loads where it is used."""
    code = (
        "import sys, torch; before = set(sys.modules); import setr_lite; setr_lite.SETR;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(*sorted(new - sys.stdlib_module_names)); import setr_lite.train; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    model, loop = done.stdout.splitlines()
    assert model == "setr_lite"
    heavy = {"timm", "torchvision", "matplotlib", "ipywidgets", "cv2", "tensorboard"}
    assert heavy & set(loop.split()) == set()


def test_public_names_exist():
    assert [n for n in setr_lite.__all__ if getattr(setr_lite, n, None) is None] == []
    modules = {p.stem for p in HOUSE.glob("*.py")}
    assert modules & set(setr_lite.__all__) == set()  # a module would hide the function
    with pytest.raises(AttributeError, match="no attribute 'STER'"):
        _ = setr_lite.STER


def test_public_docstrings_exist():
    bare = []
    for path in sorted(HOUSE.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            public = isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_"
            if public and not ast.get_docstring(node):
                bare.append(f"{path.name}: {node.name}")
    assert bare == []
