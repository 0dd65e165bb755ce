"""The built pages (`make book`; BOOK_HTML names another folder), read without a browser."""

import ast
import functools
import os
import re
from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from book_paper import is_on_paper, read
from bs4 import BeautifulSoup
from conftest import one_worker_each

ROOT = Path(__file__).resolve().parents[2]
HTML = Path(os.environ.get("BOOK_HTML", ROOT / "_build" / "html"))
PAGES = sorted((HTML / "book").glob("*.html"))
VENDORED = (HTML / "_static" / "vendor" / "widgets" / "embed.js").exists()
PAGE_KB = 1500  # the page's own HTML; its scripts are shared and cached
EXPLORER_KB = 3000  # where attention maps are explored

pytestmark = pytest.mark.skipif(not PAGES, reason="the book is not built: make book")


@functools.cache
def soup_of(path):
    return BeautifulSoup(path.read_text("utf-8"), "html.parser")


@functools.cache
def ids_of(path):
    """By a pattern: it is asked of all pages, and to parse one takes a second."""
    markup = re.sub(r"<(script|style)\b.*?</\1>", "", path.read_text("utf-8"), flags=re.S)
    return set(re.findall(r'<[^<>]*?\sid="([^"]*)"', markup))


@pytest.fixture(params=one_worker_each(PAGES))
def page(request):
    return request.param


@pytest.fixture
def soup(page):
    return soup_of(page)


def test_every_page_of_the_contents_is_built():
    toc = (ROOT / "_toc.yml").read_text("utf-8")
    listed = re.findall(r"(?:file|root): (book/\S+)", toc)
    assert sorted(listed) == sorted(f"book/{path.stem}" for path in PAGES)


@pytest.mark.skipif(not VENDORED, reason="no browser files: the pages use CDNs")
def test_nothing_loads_from_elsewhere(soup):
    for tag in soup.find_all(["script", "img", "link", "iframe", "source", "video"]):
        url = tag.get("src") or (tag.get("href") if tag.name == "link" else None) or ""
        assert not urlsplit(url).netloc, url[:200]


def test_links_and_anchors_exist(page, soup):
    for link in soup.find_all("a", href=True):
        url = urlsplit(link["href"])
        if url.scheme or url.netloc or link["href"] == "#":
            continue
        target = (page.parent / unquote(url.path)).resolve() if url.path else page.resolve()
        assert target.exists(), link["href"]
        if url.fragment and target.suffix == ".html":
            assert unquote(url.fragment) in ids_of(target), link["href"]


def test_local_files_exist(page, soup):
    for tag in soup.find_all(["script", "img", "link"]):
        url = tag.get("src") or (tag.get("href") if tag.name == "link" else None) or ""
        if url and not urlsplit(url).scheme and not urlsplit(url).netloc:
            assert (page.parent / unquote(urlsplit(url).path)).exists(), url


def test_pictures_have_alternative_text(soup):
    for image in soup.find_all("img"):
        alt = image.get("alt", "")
        # Sphinx falls back to the file name, which tells nobody anything
        assert alt, str(image)[:200]
        assert not re.search(r"\.(png|jpe?g|svg|webp)$", alt), alt


def test_ids_are_unique(soup):
    counts = Counter(tag["id"] for tag in soup.find_all(id=True))
    assert [name for name, count in counts.items() if count > 1] == []


def test_weight(page, soup):
    limit = EXPLORER_KB if soup.select(".setr-explorer") else PAGE_KB
    assert page.stat().st_size < limit * 1000


def test_no_markup_is_left_over(soup):
    quoted = {id(text) for tag in soup.select("pre, script, style, code")
              for text in tag.find_all(string=True)}  # fmt: skip
    words = "".join(text for text in soup.find_all(string=True) if id(text) not in quoted)
    assert len(words) > 500
    assert not re.search(r"\{(ref|doc|numref|cite\w*|eq)[:}]|:::|``\{|\$\$", words)


def test_pictures_on_white_paper_are_marked(soup, page):
    """For the dark: their paper is turned dark, or shown as a card."""
    for image in soup.select("article img[src*=_images]"):
        if not image.find_parent(class_="tag_chart"):
            marked = set(image.parent.get("class", [])) & {"setr-paper", "setr-card"}
            on_paper = is_on_paper(read(image["src"], page.parent))
            assert bool(marked) == on_paper, image["alt"]


def test_every_widget_has_a_still(soup):
    views = soup.find_all("script", type="application/vnd.jupyter.widget-view+json")
    assert len(soup.select("img.setr-still")) == len(views)


def test_the_repository_is_linked_when_it_has_an_address(page, soup):
    config = (ROOT / "_config.yml").read_text("utf-8")
    address = re.search(r'^repository:\n\s+url: "?([^"\n]*)"?$', config, re.M)[1]
    launch = soup.select('a[href*="mybinder.org"], a[href*="colab.research.google.com"]')
    notebook = (ROOT / "book" / f"{page.stem}.ipynb").exists()
    assert len(launch) == (2 if address and notebook else 0)
    assert bool(soup.select(".btn-source-repository-button")) == bool(address)


def test_every_chapter_has_the_map_with_its_parts_lit(page, soup):
    from figures.map import LIT

    wanted = {"intro": "", **LIT}.get(page.stem)
    maps = soup.select("nav.setr-map")
    assert len(maps) == (wanted is not None)
    if maps:
        lit = {a["data-part"] for a in maps[0].select("svg.d-wide a.d-lit")}
        assert lit == set(wanted.split())


def test_nothing_waits_for_an_answer_that_cannot_come(soup):
    assert "not answered yet" not in soup.get_text()


def test_every_public_name_is_in_the_reference():
    """With an entry of its own, or in the list of modules."""
    soups = [soup_of(path) for path in PAGES if path.stem.startswith("api")]
    names = {
        (".".join(path.relative_to(ROOT / "setr_lite").with_suffix("").parts), node.name)
        for path in (ROOT / "setr_lite").rglob("[a-z]*.py")
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_"
    }
    there = Counter(tag["id"] for soup in soups for tag in soup.select("dt[id]"))
    listed = {(line.strong.get_text(), code.get_text()) for soup in soups
              for line in soup.select("details.setr-inside li") for code in line.select("code")}
    entries = {name: there[f"setr_lite.{'.'.join(name)}"] for name in names}
    assert sum(entries.values()) > 70
    assert [n for n, count in entries.items() if count > 1 or not (count or n in listed)] == []
    # with what its docstring says
    update = "setr_lite.metrics.ConfusionMatrix.update"
    entry = next(filter(None, (soup.find(id=update) for soup in soups))).find_parent("dl")
    assert "integers of one shape" in entry.get_text()


def test_every_verb_is_in_the_reference():
    from setr_lite.cli import _parser

    text = soup_of(HTML / "book" / "cli.html").get_text()
    verbs = next(a.choices for a in _parser()._actions if a.choices)
    assert len(verbs) > 5
    for name, verb in verbs.items():
        assert f"usage: setr-lite {name}" in text
        for action in verb._actions:
            assert all(option in text for option in action.option_strings)


def test_the_theme_defects_are_cured(soup):
    scripts = [str(tag.get("src", "")) + (tag.string or "") for tag in soup.find_all("script")]
    assert not [s[:80] for s in scripts if "fontawesome.js" in s or "thebe" in s.lower()]
