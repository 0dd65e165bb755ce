"""The runbooks say what the program does: their commands parse, their messages are printed."""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest

from setr_lite.cli import _parser
from setr_lite.evaluate.protocols import protocol_of
from setr_lite.recipes import RECIPES, get_recipe
from setr_lite.recipes.downloads import SETRS

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("12_weight_conversion", "13_ade20k", "14_cityscapes", "15_pascal_context")
pytestmark = pytest.mark.smoke


def markdown(page):
    cells = json.loads((ROOT / "book" / f"{page}.ipynb").read_text("utf-8"))["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


TEXTS = {page: markdown(page) for page in PAGES}
TEXTS |= {"data/README": (ROOT / "data" / "README.md").read_text("utf-8")}


def commands(text):
    """The words of every line of a bash block that calls the program, variables filled in."""
    for block in re.findall(r"^```bash\n(.*?)^```", text, flags=re.S | re.M):
        known = {}
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            for name, value in known.items():
                line = line.replace(f"${name}", value)
            words = shlex.split(line, comments=True)
            if words and (found := re.fullmatch(r"([A-Z]+)=(.*)", words[0])):
                known[found[1]] = found[2]
            elif "setr_lite" in words:
                yield words[words.index("setr_lite") + 1 :]
            elif words and words[0] == "setr-lite":
                yield words[1:]


COMMANDS = [(page, " ".join(words), words) for page, text in TEXTS.items()
            for words in commands(text)]  # fmt: skip


def test_enough_commands_are_seen():
    seen = {(page, words[0]) for page, _, words in COMMANDS}
    wanted = {("12_weight_conversion", "download"), ("13_ade20k", "compare")}
    wanted |= {(page, verb) for page in PAGES[1:] for verb in ("check-data", "train", "eval")}
    assert wanted <= seen


@pytest.mark.parametrize(("page", "words"), [(p, w) for p, _, w in COMMANDS],
                         ids=[f"{p}: {c}" for p, c, _ in COMMANDS])  # fmt: skip
def test_command_can_be_given(page, words):
    options, rest = _parser().parse_known_args(words)
    settings = [*getattr(options, "settings", []), *rest]
    assert all("=" in word for word in settings), words
    if options.verb == "train":
        get_recipe(options.recipe).override(*settings)
    if options.verb == "eval":
        run = next((part for part in options.checkpoint.split("/") if part in RECIPES), "")
        assert run or options.checkpoint.startswith("runs/")
        assert "/" in options.checkpoint or run in SETRS, "no weights are published under this name"
        protocol_of(get_recipe(run or "finetune_mla").override(*settings))


def printed():
    """Every text in the library's source, with a mark where a value is filled in."""
    for path in (ROOT / "setr_lite").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(v.value) if isinstance(v, ast.Constant) else "\0"
                              for v in node.values)  # fmt: skip
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def symptoms():
    """The first column of the table of symptoms."""
    section = TEXTS["13_ade20k"].partition("## What goes wrong")[2].partition("\n## ")[0]
    return [row.split(" | ")[0] for row in re.findall(r"^\| (?!you see|---)(.*)", section, re.M)]


def test_symptoms_are_what_the_library_prints():
    texts = set(printed())
    messages = [word for row in symptoms() for word in re.findall(r"`([^`]+)`", row)]
    assert len(messages) > 7
    for message in messages:
        assert any(message in text for text in texts), message
        assert len(message) > 2
