"""Nothing that is read gets executed, and nothing loads from other hosts."""

import ast
import inspect
import json
import re
from pathlib import Path

import pytest

import setr_lite.weights
import setr_lite.weights.convert
import setr_lite.weights.files
import setr_lite.weights.formats
import setr_lite.weights.read

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [path for folder in ("setr_lite", "book")
           for path in sorted((ROOT / folder).rglob("*.py"))]  # fmt: skip
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "code"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load",
                "yaml.unsafe_load", "pickle.load", "pickle.loads", "torch.hub.load"}  # fmt: skip

pytestmark = pytest.mark.smoke


def unsafe(source):
    """What a piece of Python may not do, one text each."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        yield from (f"imports {n}" for n in names if n.partition(".")[0] in UNSAFE_MODULES)
        if not isinstance(node, ast.Call):
            continue
        call, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        if call in UNSAFE_CALLS:
            yield f"calls {call}"
        if given.get("shell", "False") != "False":
            yield f"{call} with a shell"
        if call == "torch.load" and given.get("weights_only") not in ("True", "not allow_pickle"):
            yield "torch.load without weights_only"
        if call in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False":
            yield "np.load of pickles"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_source_executes_data(path):
    assert list(unsafe(path.read_text("utf-8"))) == []


def test_the_search_finds_what_it_looks_for():
    wrong = (
        "import pickle", "from dill import load", "eval('1')", "os.system('id')", "torch.load(f)",
        "torch.load(f, weights_only=False)", "subprocess.run('id', shell=True)",
        "np.load(f, allow_pickle=True)", "from yaml import load\nyaml.load(f)",
    )  # fmt: skip
    assert [line for line in wrong if not list(unsafe(line))] == []
    assert list(unsafe("torch.load(f, weights_only=True); np.load(f); block.compile()")) == []


NETWORK = {"aiohttp", "ftplib", "http", "httpx", "huggingface_hub", "requests", "smtplib", "socket",
           "ssl", "urllib", "urllib3", "webbrowser", "xmlrpc"}  # fmt: skip
CONNECTS = {"torch.hub.load_state_dict_from_url", "torch.hub.download_url_to_file"}


def connections(source):
    """What of a piece of Python reaches for another machine, one text each."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        else:
            names = []
        yield from (f"imports {n}" for n in names if n.partition(".")[0] in NETWORK)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in CONNECTS:
            yield ast.unparse(node.func)
        if isinstance(node, ast.keyword) and ast.unparse(node) == "pretrained=True":
            yield "downloads weights"


def test_no_source_opens_a_connection():
    """timm downloads what ``timm:NAME`` asks for, in one place; published checkpoints and the hub's
    come when they are named; the lock of a run says its host's name; setting the book up fetches
    files for the browser; a check of two processes asks for a port that is free."""
    found = {(path.relative_to(ROOT).as_posix(), what) for path in SOURCES
             for what in connections(path.read_text("utf-8"))}  # fmt: skip
    assert found == {
        ("book/_tools/silent/checks.py", "imports socket"),
        ("setr_lite/weights/first.py", "downloads weights"),
        ("setr_lite/weights/published_files.py", "imports http.client"),
        ("setr_lite/weights/published_files.py", "imports urllib.error"),
        ("setr_lite/weights/published_files.py", "imports urllib.request"),
        ("setr_lite/weights/hub.py", "imports huggingface_hub"),
        ("setr_lite/running/lock.py", "imports socket"),
        ("book/_web/vendor.py", "imports http.client"),
        ("book/_web/vendor.py", "imports urllib.request"),
    }
    planted = ("import socket", "from urllib.request import urlopen", "import requests.api",
               "create_model(name, pretrained=True)",
               "torch.hub.load_state_dict_from_url(url)")  # fmt: skip
    assert [source for source in planted if not list(connections(source))] == []


def test_pickles_are_opened_on_request_only():
    asked = [
        function
        for module in (setr_lite.weights.formats, setr_lite.weights.files, setr_lite.weights.read,
                       setr_lite.weights.convert)
        for _, function in inspect.getmembers(module, inspect.isfunction)
        if "allow_pickle" in inspect.signature(function).parameters
        and not function.__name__.startswith("_")
    ]  # fmt: skip
    assert len(asked) >= 5
    for function in asked:
        assert inspect.signature(function).parameters["allow_pickle"].default is False
    sources = [p.name for p in SOURCES if "weights_only=not allow_pickle" in p.read_text("utf-8")]
    assert sources == ["formats.py"]


LOADS = re.compile(
    r"<(?:script|img|iframe|link|source|video|embed|object)\b[^>]*?"
    r"\b(?:src|href|data)\s*=\s*[\"']?(?:https?:)?//[^\"'>\s]*|!\[[^\]]*\]\(https?://[^)]*", re.I)


def pieces(notebook):
    """All text of a notebook's cells and outputs that a page shows as HTML or Markdown."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            yield "".join(cell["source"])
        for output in cell.get("outputs", []):
            yield from ("".join(text) for kind, text in output.get("data", {}).items()
                        if kind in ("text/html", "text/markdown", "image/svg+xml"))  # fmt: skip
    state = notebook["metadata"].get("widgets", {})
    for kind in state.values():
        for model in kind["state"].values():
            yield str(model["state"].get("value", ""))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_load_nothing_from_other_hosts(path):
    notebook = json.loads(path.read_text("utf-8"))
    assert [found[:100] for text in pieces(notebook) for found in LOADS.findall(text)] == []
    code = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    for cell in code:
        assert not re.search(r"^\s*[!%]|urllib|requests\.|urlopen|wget|curl ", cell, re.M), cell


def test_the_search_for_hosts_finds_them():
    assert LOADS.search('<img alt="x" src="https://host/x.png">')
    assert LOADS.search("<script src=//host/x.js></script>")
    assert LOADS.search("![x](https://host/x.png)")
    assert not LOADS.search('<a href="https://host/x">text</a> <img src="data:image/png;base64,">')
