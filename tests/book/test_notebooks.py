"""What nbval does not look at: cells that never ran, warnings, pictures, sizes, code width."""

import ast
import itertools
import re
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
STATE = "application/vnd.jupyter.widget-state+json"
VIEW = "application/vnd.jupyter.widget-view+json"
NOTEBOOK_KB = 1000
COLUMNS = 72  # what a page of 1280 pixels shows without scrolling
RERUN = "run book/_tools/execute.py on it"

pytestmark = [
    pytest.mark.smoke,
    pytest.mark.skipif(not NOTEBOOKS, reason="there is no notebook in book/"),
]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem, scope="module")
def notebook(request):
    nb = nbformat.read(request.param, as_version=4)
    nbformat.validate(nb)
    nb.path = request.param
    return nb


def code_cells(nb):
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def tags(cell):
    return set(cell.metadata.get("tags", []))


def outputs(nb):
    return [(cell, output) for cell in code_cells(nb) for output in cell.outputs]


def models(nb):
    return nb.metadata.get("widgets", {}).get(STATE, {}).get("state", {})


def is_picture(data):
    return "image/png" in data or "image/jpeg" in data


def test_every_cell_ran_in_order(notebook):
    # a cell without count would run under nbval and pass without being compared
    cells = [c for c in code_cells(notebook) if "skip-execution" not in tags(c)]
    counts = [c.execution_count for c in cells]
    assert counts == list(range(1, len(cells) + 1)), RERUN


def test_no_warnings_and_no_stray_errors(notebook):
    for cell, output in outputs(notebook):
        assert output.get("name") != "stderr", cell.source
        if output.output_type == "error":
            assert "raises-exception" in tags(cell), cell.source


def test_unchecked_cells_say_why(notebook):
    for cell in code_cells(notebook):
        if tags(cell) & {"nbval-ignore-output", "nbval-skip", "skip-execution"}:
            assert "#" in cell.source, f"why is this not compared?\n{cell.source}"


def test_outputs_are_normalised(notebook):
    ids = set(re.findall(r"\b[0-9a-f]{32}\b", " ".join(models(notebook))))
    assert not ids, RERUN
    assert notebook.metadata.language_info == {"name": "python"}, RERUN
    assert not any("execution" in cell.metadata for cell in notebook.cells), RERUN


def test_widgets_are_saved_with_a_still(notebook):
    for cell, output in outputs(notebook):
        data = output.get("data", {})
        if VIEW in data:
            assert data[VIEW]["model_id"] in models(notebook), cell.source
            assert is_picture(data), f"no picture for readers without scripts:\n{cell.source}"


def test_no_widgets_that_need_a_kernel(notebook):
    # interact and Output are dead on a page
    names = {model["model_name"] for model in models(notebook).values()}
    assert "OutputModel" not in names


def test_tables_are_drawn_as_tables(notebook):
    """Without the word, Markdown that a cell returns is CommonMark, which has no tables."""
    for cell, output in outputs(notebook):
        if "text/markdown" in output.get("data", {}) and not hidden(cell):
            assert cell.metadata.get("mystnb", {}).get("markdown_format") == "myst", cell.source


def test_pictures_have_alternative_text(notebook):
    for cell, output in outputs(notebook):
        data = output.get("data", {})
        if is_picture(data) and not {VIEW, "text/html"} & set(data) and not hidden(cell):
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt")
            assert alt, f"its metadata lack mystnb.image.alt:\n{cell.source}"
    parts = [m["state"].get("value", "") for m in models(notebook).values()]
    parts += [output.get("data", {}).get("text/html", "") for _, output in outputs(notebook)]
    for part in parts:
        for image in BeautifulSoup(str(part), "html.parser").find_all("img"):
            assert image.get("alt")


def hidden(cell):
    return bool(tags(cell) & {"remove-cell", "remove-output"})


def test_figures_have_different_names(notebook):
    names = [
        figure["id"]
        for _, output in outputs(notebook)
        for figure in BeautifulSoup(
            str(output.get("data", {}).get("text/html", "")), "html.parser"
        ).select("figure[id]")
    ]
    assert len(names) == len(set(names))


def test_size(notebook):
    assert notebook.path.stat().st_size < NOTEBOOK_KB * 1000


def test_shown_code_fits_the_page(notebook):
    for cell in code_cells(notebook):
        if tags(cell) & {"remove-cell", "remove-input"}:
            continue
        long = [line for line in cell.source.splitlines() if len(line) > COLUMNS]
        assert not long, f"more than {COLUMNS} columns"


def test_headings_do_not_skip_a_level(notebook):
    text = "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    text = re.sub(r"^(`{3,}|:{3,}).*?^\1", "", text, flags=re.S | re.M)
    levels = [len(m) for m in re.findall(r"^(#+) ", text, flags=re.M)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_no_library_class_is_declared_again(notebook):
    library = {
        node.name
        for file in (ROOT / "setr_lite").rglob("*.py")
        for node in ast.parse(file.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    declared = re.findall(
        r"^class (\w+)", "\n".join(c.source for c in code_cells(notebook)), flags=re.M
    )
    assert not library & set(declared)
