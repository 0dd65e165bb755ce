"""The page of promises: each names a test, and the test is there."""

import ast
import json
import re
from pathlib import Path

import mutants
import mutations
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "book" / "promises.md").read_text("utf-8")
NAMED = re.findall(r"(tests/[\w/]+\.py)::(\w+)", PAGE)

pytestmark = pytest.mark.smoke


def test_every_promise_has_its_test():
    assert len(NAMED) > 30
    for path, name in NAMED:
        tree = ast.parse((ROOT / path).read_text("utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{path}::{name}"


def test_the_name_of_a_test_finds_it():
    """The page shows names without their files, and says to run them with ``pytest -k``."""
    (shown,) = re.findall(r"pytest -k (\w+)", PAGE)
    assert shown in [name for _, name in NAMED]
    paths = {}
    for path, name in NAMED:
        paths.setdefault(name, set()).add(path)
    assert {name: files for name, files in paths.items() if len(files) > 1} == {}


def test_every_item_names_a_test():
    items = re.findall(r"^- .*\n(.*)$", PAGE, re.M)
    assert len(items) > 30
    assert [item for item in items if not re.fullmatch(r"  <br>`tests/[^`]+::\w+`", item)] == []


def test_the_overview_counts_them():
    sections = re.split(r"^## ", PAGE, flags=re.M)
    counted = {re.sub(r"[^\w-]", "", text.partition("\n")[0].lower().replace(" ", "-")):
               len(re.findall(r"^- ", text, re.M)) for text in sections[1:]}  # fmt: skip
    told = re.findall(r"^\| \[[^]]+\]\(#([\w-]+)\) \| (\d+) \|", sections[0], re.M)
    assert {name: int(number) for name, number in told} == {
        name: number for name, number in counted.items() if number}


def test_every_command_exists():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in set(re.findall(r"`make ([\w-]+)`", PAGE)):
        assert re.search(rf"^{target}:", makefile, re.M), target
    assert "--unsafe-pickle" in (ROOT / "setr_lite" / "cli.py").read_text("utf-8")


def test_the_bounds_are_those_of_the_code():
    from PIL import Image

    from setr_lite.config import MOST_PIXELS

    page = " ".join(PAGE.split())
    assert f"{Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels is not opened" in page
    assert f"at most {MOST_PIXELS / 1e6:.0f} million pixels" in page
    drill = (ROOT / "tests" / "test_bad_input.py").read_text("utf-8")
    bound = re.search(r"^GROWTH = (\d+) << 20", drill, re.M)[1]
    assert f"at most {bound} MiB" in page
    seconds = re.search(r"^SECONDS = (\d+)", drill, re.M)[1]
    assert f"longer than {seconds} seconds" in page


def test_the_oldest_packages_are_those_of_the_project():
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    bounds = {name: re.search(rf'"{name}>=([^"]+)"', project)[1] for name in ("torch", "timm")}
    oldest = [f"{name} {bound}" for name, bound in bounds.items()]
    assert f"packages that it allows are {' and '.join(oldest)}." in " ".join(PAGE.split())


def test_every_change_to_the_library_can_be_made():
    for file, old, new, chapter in mutations.CHANGES.values():
        assert (ROOT / "setr_lite" / file).read_text("utf-8").count(old) == 1, old
        assert old != new
        assert (ROOT / "book" / f"{chapter}.ipynb").exists()


def test_random_mutants_can_be_planted():
    """Every one leaves a module that Python can read and that is another; all have their tests."""
    for file in mutants.SEEN_BY:
        assert all((ROOT / path).exists() for path in mutants.tests_of(file)), file
    order = mutants.draw(seed=1)
    assert len({mutant.key for mutant in order}) == len(order) > 1000
    kinds = {mutant.kind for mutant in order[:6]}
    assert kinds == {
        "arguments", "comparison", "constant", "off by one", "operator", "statement"}
    assert [m.key for m in mutants.draw(seed=2)[:6]] != [m.key for m in order[:6]]
    for mutant in order[:30]:
        text = (ROOT / "setr_lite" / mutant.file).read_text("utf-8")
        wrong = ast.unparse(ast.parse(mutants.planted(text, mutant)))
        assert wrong != ast.unparse(ast.parse(text)), mutant.key
    assert set(mutants.equivalent()) <= {mutant.key for mutant in order}


def first_outcomes(*seeds):
    """What the tests said of each mutant when they met it first."""
    first = {}
    for seed in seeds:
        path = ROOT / "data" / "runs" / "mutants" / f"seed_{seed}.jsonl"
        for row in map(json.loads, path.read_text("utf-8").splitlines()):
            first.setdefault(row["key"], row["outcome"])
    return first


@pytest.mark.parametrize("seeds", [(11, 12), (21, 22), (31, 32), (41, 42)])
def test_the_mutants_are_told_as_they_were(seeds):
    known, first = mutants.equivalent(), first_outcomes(*seeds)
    counted = [outcome for key, outcome in first.items()
               if outcome == "killed" or key not in known]  # fmt: skip
    killed, left = counted.count("killed"), len(first) - len(counted)
    assert (f"| {', '.join(map(str, seeds))} | {len(first)} | {left} | {killed} of {len(counted)} "
            f"| {100 * killed / len(counted):.0f} % |") in PAGE


def test_the_table_has_every_draw():
    drawn = {path.stem.removeprefix("seed_") for path in (ROOT / "data/runs/mutants").iterdir()}
    rows = re.findall(r"^\| [^|]+ \| ([\d, ]+) \| \d+ \| \d+ \| \d+ of \d+ \|", PAGE, re.M)
    assert set(", ".join(rows).split(", ")) == drawn


def test_the_siege_is_told_as_it_was():
    record = json.loads((ROOT / "data" / "runs" / "siege" / "siege.json").read_text())
    assert record["accidents"] == sum(record["by_kind"].values())
    told = " ".join(PAGE.split())
    hours, late = record["seconds"] / 3600, sum(
        number for kind, number in record["by_kind"].items() if kind.endswith(", too late"))
    assert (f"In {hours:.1f} hours, {record['accidents']:,} accidents, of which at least {late} "
            "came after the end of their run, lost no saved step, and "
            f"{record['runs_finished_equal']} runs ended with the same") in told
