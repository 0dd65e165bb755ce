"""Sphinx extension: titles of claims, and the glossary where it is needed.

* On claims.md a comment below a heading becomes the heading's words; what links to it stays.
* On every page the first mention of a word of the glossary links to it. Words of two senses link
  only where the glossary's is the sense: ``ONLY_ON``, ``INSTEAD`` and ``OTHER_SENSE`` say where.
* ``<!-- symbols of single pages -->`` becomes the table of symbols.md, a folded one for each page.
  On the page of notation a link to a chapter has the chapter's own title, up to its colon, but
  for those in tables.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes

NOTATION = Path(__file__).resolve().parents[1] / "notation.md"
SYMBOLS = NOTATION.with_name("symbols.md")
CONTENTS = NOTATION.parents[1] / "_toc.yml"
MARKER = "<!-- symbols of single pages -->"
# what a word must not stand in to be linked: it is a name there, or a link already
APART = (nodes.reference, nodes.literal, nodes.title, nodes.caption, nodes.math, nodes.raw,
         addnodes.pending_xref, nodes.literal_block)  # fmt: skip

# a word of everyday use, or of another field -> the only pages on which it has the glossary's sense
ONLY_ON = {
    "view": "10_measuring 10b_protocols 20_results",
    "unit": "05_naive 06_pup 07_mla 08_auxiliary 11_five_minutes 12_weight_conversion 20_results",
    "stage": "06_pup",
    "key": "04_encoding 19_speed 21_after_setr",
    "value": "04_encoding",
    "grid": "03_position 05_naive 06_pup 12_weight_conversion 19_speed 20_results",
    "interval": "10_measuring 10b_protocols",
    "sequence": "02_patch_embedding 03_position 04_encoding 05_naive",
    "segmenter": "21_after_setr",
    "step": "08_auxiliary 11_five_minutes 13_ade20k 15_pascal_context 16_scaling_out 17_camvid "
    "19_speed",
    "mask": "09_data 09b_your_pictures 11_five_minutes 15_pascal_context 21_after_setr",
}
# on these pages a head is one of attention, not the decoder
INSTEAD = {page: {"head": "attention head"} for page in ("04_encoding", "18_inside")}
# a mention within such words means something else; the next one may be linked
OTHER_SENSE = re.compile(
    r"block of (?=memory|code)|loss of (?=mIoU|points|detail|precision)|loss in (?=mIoU)"
    r"|whose loss costs|label (?=next|none|less|more|it|them)|per unit", re.I)


# --- claims -------------------------------------------------------------------------------------


def say_claims(app: Any, doctree: Any) -> None:
    """``### rollout`` and below it ``% Rollout beats ...``: the reader sees the sentence."""
    if Path(app.env.docname).name != "claims":
        return
    for section in doctree.findall(nodes.section):
        title, *rest = section.children
        if rest and isinstance(rest[0], nodes.comment):
            title.children = []
            title += nodes.Text(rest[0].astext())


# --- symbols ------------------------------------------------------------------------------------


def symbols_table() -> str:
    """MyST of the symbols that pages have to themselves: a folded table for each page, in the
    book's order, which names its symbols while it is shut."""
    listed = re.findall(r"^\| (\$.*) \| (.*) \| (\[.*) \|$", SYMBOLS.read_text("utf-8"), re.M)
    told = []
    for page in re.findall(r"file: book/(\w+)$", CONTENTS.read_text("utf-8"), re.M):
        rows = [(symbol, *meaning.partition("; shape ")[::2]) for symbol, meaning, pages in listed
                if f"]({page}.ipynb)" in pages]  # fmt: skip
        if not rows:
            continue
        letters = dict.fromkeys(letter for row in rows for letter in re.findall(r"\$.+?\$", row[0]))
        shut = " ".join(f'<span class="math notranslate nohighlight">\\({letter[1:-1]}\\)</span>'
                        for letter in letters)  # fmt: skip
        shapes = any(shape for *_, shape in rows)
        rows = [(symbol, said, shape or "-") for symbol, said, shape in rows]
        head = ["| symbol | meaning | at 512 |", "|---|---|---|"] if shapes else [
            "| symbol | meaning |", "|---|---|"]
        told += ['<details class="setr-inside setr-letters">\n<summary><b>'
                 f"{title_of(page)}</b> {shut}</summary>\n",
                 f"Page: [{title_of(page)}]({page}.ipynb)\n",
                 *head, *(f"| {' | '.join(row if shapes else row[:2])} |" for row in rows),
                 "", "</details>\n"]
    return "\n".join(told)


@cache
def title_of(page: str) -> str:
    """``PUP`` of ``# PUP: enlarge in small steps``, the first line of a notebook."""
    notebook = json.loads((NOTATION.parent / f"{page}.ipynb").read_text("utf-8"))
    first = "".join(notebook["cells"][0]["source"]).partition("\n")[0]
    return first.removeprefix("# ").partition(":")[0]


def titled(text: str) -> str:
    """MyST whose links to chapters are called as the contents call these, short in tables."""
    return re.sub(r"(?m)^(?!\|).*", lambda line: re.sub(
        r"\[[^]]+\]\((\w+)\.ipynb\)",
        lambda link: f"[{title_of(link[1])}]({link[1]}.ipynb)", line[0]), text)


def show_symbols(app: Any, page: str, source: list[str]) -> None:
    if MARKER in source[0]:
        source[0] = titled(source[0]).replace(MARKER, symbols_table())


# --- glossary -----------------------------------------------------------------------------------


@cache
def terms() -> dict[str, str]:
    """Word as it stands in a sentence -> its entry in the glossary."""
    glossary = NOTATION.read_text("utf-8").partition("```{glossary}\n")[2].partition("```")[0]
    entries = re.findall(r"^(\S.*)$", glossary, re.M)
    return {word.strip().lower(): entry for entry in entries for word in entry.split(",")}


def terms_of(page: str) -> dict[str, str]:
    """Those that may be linked on a page."""
    words = {word: entry for word, entry in terms().items()
             if page in ONLY_ON.get(word, page).split()}  # fmt: skip
    return words | INSTEAD.get(page, {})


def link_words(doctree: Any, page: str = "") -> None:
    """The first mention of each term, in the glossary's sense, becomes a link to it."""
    left = terms_of(page)
    for text in list(doctree.findall(nodes.Text)):
        if left and in_prose(text):
            pieces = cut(text.astext(), left)
            if any(isinstance(piece, addnodes.pending_xref) for piece in pieces):
                text.parent.replace(text, pieces)


def in_prose(text: nodes.Text) -> bool:
    above, prose = text.parent, False
    while above is not None:
        if isinstance(above, APART):
            return False
        prose = prose or isinstance(above, nodes.paragraph)
        above = above.parent
    return prose


def cut(text: str, left: dict[str, str]) -> list[Any]:
    """Text and links in turn; what has been linked is taken out of `left`."""
    pieces, start = [], 0
    elsewhere = [match.span() for match in OTHER_SENSE.finditer(text)]
    words = "|".join(sorted(map(re.escape, left), key=len, reverse=True))
    for found in re.finditer(rf"(?<![\w-])({words})(?![\w-])", text, re.I):
        if found[0].lower() not in left or any(a <= found.start() < b for a, b in elsewhere):
            continue
        if found.start() > start:
            pieces.append(nodes.Text(text[start : found.start()]))
        pieces.append(xref(found[0], left.pop(found[1].lower())))
        start = found.end()
    return [*pieces, nodes.Text(text[start:])] if start < len(text) or not pieces else pieces


def xref(word: str, entry: str) -> addnodes.pending_xref:
    reference = addnodes.pending_xref(
        "", refdomain="std", reftype="term", reftarget=entry, refexplicit=True, refwarn=True)
    reference += nodes.inline("", word, classes=["setr-term"])
    return reference


# --- Sphinx -------------------------------------------------------------------------------------


def link_page(app: Any, doctree: Any) -> None:
    """Chapters only: the reference has its own words, and the notation defines them."""
    path = Path(app.env.doc2path(app.env.docname))
    if path.suffix == ".ipynb":
        app.env.note_dependency(str(NOTATION))
        link_words(doctree, path.stem)


def setup(app: Any) -> dict[str, Any]:
    app.connect("source-read", show_symbols)
    app.connect("doctree-read", link_page)
    app.connect("doctree-read", say_claims, priority=400)  # before the contents are collected
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
