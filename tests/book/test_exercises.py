"""Questions that are answered on the page: complete, and in agreement with the worked solutions."""

import re
from pathlib import Path

import nbformat
import pytest
import yaml

BOOK = Path(__file__).resolve().parents[2] / "book"
PAGES = sorted((BOOK / "exercises").glob("*.yml"))


def cells_of(page):
    return nbformat.read(BOOK / f"{page.stem}.ipynb", as_version=4).cells


def printed(cell):
    return "".join(out.get("text", "") for out in cell.get("outputs", []))


def worked(page):
    """Label of an exercise -> its own text, its solution's, and what the solution prints."""
    texts, label = {}, None
    for cell in cells_of(page):
        if found := re.search(r"\{(?:exercise|solution)-start\}.*?(ex-[\w-]+)", cell.source, re.S):
            label = found[1]
        if label:
            texts[label] = texts.get(label, "") + cell.source + printed(cell) + "\n"
    return texts


@pytest.mark.smoke
def test_the_exercise_that_the_page_on_building_shows_is_a_real_one():
    jupytext = pytest.importorskip("jupytext")
    text = (BOOK / "building.md").read_text("utf-8")
    shown = re.search(r"^`{5}python\n(.*?)^`{5}$", text, re.S | re.M)[1]
    cells = [cell.source for cell in jupytext.reads(shown, "py:percent").cells]
    page = BOOK / "exercises" / re.search(r"`book/exercises/(\w+\.yml)`", text)[1]
    there = [cell.source for cell in cells_of(page)]
    start = there.index(cells[0])
    assert cells == there[start : start + len(cells)]
    answers = yaml.safe_load(re.search(r"^```yaml\n(.*?)^```$", text, re.S | re.M)[1])
    assert answers.items() <= yaml.safe_load(page.read_text("utf-8")).items()


@pytest.mark.smoke
def test_every_exercise_has_a_question():
    labels = {
        label for path in BOOK.glob("*.ipynb")
        for label in re.findall(r":label: (ex-[\w-]+)", path.read_text("utf-8"))
    }
    asked = {label for page in PAGES for label in yaml.safe_load(page.read_text("utf-8"))}
    assert len(labels) > 70
    assert asked == labels


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_questions_can_be_answered(page):
    for label, question in yaml.safe_load(page.read_text("utf-8")).items():
        assert len({"choices", "patch"} & question.keys()) <= 1, label  # one group of buttons
        assert {"numbers", "choices", "patch"} & question.keys(), label
        replies = list(question.get("choices", {True: True, False: "x"}).values())
        assert True in replies, label
        assert len(replies) > 1, label
        assert all(reply is True or isinstance(reply, str) for reply in replies), label


def test_a_patch_is_that_of_its_token():
    found = [
        question for page in PAGES for question in yaml.safe_load(page.read_text("utf-8")).values()
        if "patch" in question]
    for question in found:
        row, column = question["patch"]
        assert f"token {1 + row * 12 + column}." in question["ask"]
    assert found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_numbers_are_those_of_the_solutions(page):
    texts = worked(page)
    for label, question in yaml.safe_load(page.read_text("utf-8")).items():
        text = re.sub(r"(?<=\d)[,_](?=\d{3})", "", texts[label])
        there = {float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", text)}
        there |= {int(a) / int(b) for a, b in re.findall(r"(\d+) ?/ ?([1-9]\d*)", text)}
        there |= {int(a) * int(b) for a, b in re.findall(r"(\d+) \* (\d+)", text)}
        within = question.get("within", 0)
        for name, value in question.get("numbers", {}).items():
            near = [n for n in there if abs(n - value) <= within]
            assert near, f"{label}, {name}: {value} is not in the solution"
