"""Every symbol of every formula is explained, in book/notation.md or for its page in symbols.md."""

import re
from pathlib import Path

import nbformat
import pytest

BOOK = Path(__file__).resolve().parents[2] / "book"
NOTATION = (BOOK / "notation.md").read_text("utf-8")
LOCAL = (BOOK / "symbols.md").read_text("utf-8")
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
GREEK = set(re.findall(
    r"\w+",
    "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi "
    "psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega ell",
))

pytestmark = pytest.mark.smoke


def formulas(markdown):
    """What stands between dollars, fenced code and `code` left out."""
    text = re.sub(r"^(`{3,})(?![^\n]*\{).*?^\1$", "", markdown, flags=re.S | re.M)
    text = re.sub(r"`[^`\n]*`", "", text)
    displayed = re.findall(r"\$\$(.+?)\$\$", text, flags=re.S)
    text = re.sub(r"\$\$.+?\$\$", "", text, flags=re.S)
    return displayed + re.findall(r"(?<![\\\w])\$(?! )([^$]+?)(?<! )\$", text)


def symbols(formula):
    """Its letters and Greek letters; not words, operators or functions."""
    formula = re.sub(r"\\(text|operatorname\*?|mathrm|begin|end|tag)\{[^}]*\}", " ", formula)
    named = re.findall(r"\\([A-Za-z]+)", formula)
    letters = re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", formula))
    return {name for name in named if name in GREEK} | set(letters)


def table():
    """(symbol, page) pairs; the page is its number, or "" for everywhere."""
    found = set()
    for row in re.findall(r"^\| (\$.*) \|$", NOTATION + LOCAL, flags=re.M):
        cells = row.split(" | ")
        pages = re.findall(r"\]\((\w+?)_\w+\.ipynb\)", cells[2]) if len(cells) == 3 else [""]
        for name in set().union(*map(symbols, formulas(cells[0]))):
            found |= {(name, page) for page in pages}
    return found


def test_the_reader_of_formulas():
    text = "Let $x_i$ be\n$$ \\sigma(d) = \\text{one} \\cdot \\frac{W}{2} $$\nfor `$HOME` and $5."
    assert [symbols(f) for f in formulas(text)] == [{"sigma", "d", "W"}, {"x", "i"}]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_symbol_is_explained(path):
    cells = nbformat.read(path, as_version=4).cells
    text = [cell.source for cell in cells if cell.cell_type == "markdown"]
    used = set().union(*(symbols(f) for source in text for f in formulas(source)))
    known, page = table(), path.stem.split("_")[0]
    missing = {name for name in used if not {(name, ""), (name, page)} & known}
    assert not missing, "explain them on the page, and in book/symbols.md"


def test_the_table_names_nothing_that_is_not_there():
    pages = {path.stem.split("_")[0] for path in NOTEBOOKS}
    assert {page for _, page in table()} <= pages | {""}


def test_the_notation_page_is_for_all_pages():
    """What a single page needs stands in symbols.md, not among what every reader has to know:
    outside the tables, whose last column says where a symbol is met first, no chapter is named."""
    section = NOTATION.partition("## Symbols")[2].partition("## Words")[0]
    assert ".ipynb" not in re.sub(r"(?m)^\|.*", "", section)
    rows = re.findall(r"^\| (\$.*) \|$", NOTATION, flags=re.M)
    assert {len(row.split(" | ")) for row in rows} == {5}
    assert {row.count(".ipynb") for row in rows} == {1}


@pytest.mark.smoke
def test_the_numbers_of_the_table_are_those_of_its_recipes():
    from setr_lite import get_recipe
    from setr_lite.encoder import PRESETS

    rows = {row[0]: row[2:4] for row in (
        line.split(" | ") for line in re.findall(r"^\| (\$.*) \|$", NOTATION, flags=re.M))}
    for column, name in enumerate(("pup_ade20k_512_160k", "toytown_pup")):
        run, value = get_recipe(name), {symbol: row[column] for symbol, row in rows.items()}
        size = PRESETS[run.model.encoder]
        height, width = run.data.crop_size
        patch, dim, heads = size["patch_size"], size["embed_dim"], size["num_heads"]
        h, w = height // patch, width // patch
        assert value["$B$"] == str(run.train.batch_size)
        assert value["$H$, $W$"] == f"{height}, {width}"
        assert value["$P$"] == str(patch)
        assert value["$h$, $w$"] == f"{h}, {w}"
        assert value["$N$"] == str(h * w)
        assert value["$C$"] == value["$D$"] == str(dim)
        assert value["$A$, $d$"] == f"{heads}, {dim // heads}"
        assert value["$L$"] == str(size["depth"])
        assert value["$c$"] == str(run.model.channels)
        assert value["$K$"] == str(run.model.num_classes)
        assert value["$T$, $t$"].replace(",", "") == str(run.train.steps)
