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
    """What a single page needs stands there, and not among what every reader has to know."""
    assert ".ipynb" not in NOTATION.partition("## Symbols")[2].partition("## Words")[0]
