"""The house: floors, imports, names."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import setr_lite

HOUSE = Path(setr_lite.__file__).parent
ROOMS = [
    ["errors", "files", "typed", "config"],
    ["distributed", "toytown", "transforms", "precision", "logits", "metrics", "visualize"],
    ["datasets", "encoder", "timm_encoder", "heads", "losses", "optim", "inference", "checkpoint"],
    ["model", "step"],
    ["evaluate", "running", "inside", "web"],
    ["recipes", "weights"],
    ["train"],
    ["bench"],
    ["cli", "__main__"],
]
"""The library from its ground up, files and rooms: each imports its own row or earlier ones."""
MODULES = {
    ".".join(path.relative_to(HOUSE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in HOUSE.rglob("*.py")
}


def room(module):
    """``setr_lite.datasets.feed`` is in ``datasets``; the package itself in none."""
    return module.split(".")[1] if "." in module else ""


def imports(module, path):
    """The modules of this library that a file imports, also inside of its functions."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "setr_lite")
        elif isinstance(node, ast.ImportFrom) and (node.level or "setr_lite" in node.module):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(filter(None, [base, node.module]))
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in MODULES else base


@pytest.fixture(scope="module")
def arrows():
    return {name: set(imports(name, path)) for name, path in MODULES.items()}


@pytest.mark.smoke
def test_every_module_has_a_room():
    assert {room(name) for name in MODULES} - {""} == {name for row in ROOMS for name in row}
    assert len(list(HOUSE.glob("*.py"))) <= 20


@pytest.mark.smoke
def test_every_room_says_in_one_sentence_what_it_is_for():
    for path in HOUSE.glob("*/__init__.py"):
        said = ast.get_docstring(ast.parse(path.read_text()))
        assert re.fullmatch(r"[A-Z][^.]+\. Imports [^.]+\.", said), path


@pytest.mark.smoke
def test_imports_go_down_and_never_in_circles(arrows):
    row_of = {name: i for i, row in enumerate(ROOMS) for name in row} | {"": -1}
    up = [f"{a} imports {b}" for a, targets in arrows.items() for b in targets
          if row_of[room(b)] > row_of[room(a)] and a != "setr_lite"]  # fmt: skip
    assert up == []

    between = {name: set() for name in row_of}
    for a, targets in arrows.items():
        between[room(a)] |= {room(b) for b in targets} - {room(a)}
    graphlib.TopologicalSorter(between).prepare()  # raises for a circle of rooms, and names it
    inside = {a: {b for b in targets if MODULES[b].name != "__init__.py"}
              for a, targets in arrows.items()}  # fmt: skip
    graphlib.TopologicalSorter(inside).prepare()


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
    # OpenCV, 0.16 s, comes with the data sets: every run needs it
    heavy = {"timm", "torchvision", "matplotlib", "ipywidgets", "tensorboard"}
    assert heavy & set(loop.split()) == set()


def test_public_names_exist():
    assert [n for n in setr_lite.__all__ if getattr(setr_lite, n, None) is None] == []
    modules = {p.stem for p in HOUSE.iterdir()}
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
