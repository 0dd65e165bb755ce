"""Sphinx extension: titles of claims, and the glossary where it is needed.

* On claims.md a comment below a heading becomes the heading's words; what links to it stays.
* On every page the first mention of a word of the glossary links to it.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes

NOTATION = Path(__file__).resolve().parents[1] / "notation.md"
# what a word must not stand in to be linked: it is a name there, or a link already
APART = (nodes.reference, nodes.literal, nodes.title, nodes.caption, nodes.math, nodes.raw,
         addnodes.pending_xref, nodes.literal_block)  # fmt: skip


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


# --- glossary -----------------------------------------------------------------------------------


@cache
def terms() -> dict[str, str]:
    """Word as it stands in a sentence -> its entry in the glossary."""
    glossary = NOTATION.read_text("utf-8").partition("```{glossary}\n")[2].partition("```")[0]
    entries = re.findall(r"^(\S.*)$", glossary, re.M)
    return {word.strip().lower(): entry for entry in entries for word in entry.split(",")}


def link_words(doctree: Any) -> None:
    """The first mention of each term becomes a link to it."""
    left = dict(terms())
    for text in list(doctree.findall(nodes.Text)):
        if left and in_prose(text):
            pieces = cut(text.astext(), left)
            if len(pieces) > 1:
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
    while left:
        words = "|".join(sorted(map(re.escape, left), key=len, reverse=True))
        found = re.compile(rf"(?<![\w-])({words})(?![\w-])", re.I).search(text, start)
        if not found:
            break
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
        link_words(doctree)


def setup(app: Any) -> dict[str, Any]:
    app.connect("doctree-read", link_page)
    app.connect("doctree-read", say_claims, priority=400)  # before the contents are collected
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
