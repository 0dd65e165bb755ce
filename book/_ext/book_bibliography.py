"""Sphinx extension: the bibliography by author and year, each entry with the pages that cite it.

The text cites by author and year, so the list needs no keys; titles keep their capitals.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from pybtex.plugin import register_plugin
from pybtex.richtext import HRef
from pybtex.style.formatting import toplevel
from pybtex.style.formatting.unsrt import Style as Unsorted
from pybtex.style.formatting.unsrt import pages as page_range
from pybtex.style.sorting.author_year_title import SortingStyle
from pybtex.style.template import field, join, node, optional, optional_field, sentence, tag
from sphinx.util.nodes import make_refnode

PAGE = "bibliography"
MOST_PAGES = 10
"""An entry that more pages cite lists them folded."""
MOST_AUTHORS = 3
"""Of more the first three are shown, and et al."""
SHORT = {"intro": "Introduction", "04_encoding": "Encoding", "05_naive": "Naive"}
"""Page -> what the list calls it, where its title does not begin with a short name."""


@node
def authors(children: list, context: dict) -> Any:
    """``Abnar, S., and Zuidema, W.``; of a longer list, or one that ends with "others", et al."""
    people, style = context["entry"].persons["author"], context["style"]
    named = [person for person in people if str(person) != "others"]
    shown = [style.format_name(p, style.abbreviate_names) for p in named[:MOST_AUTHORS]]
    if len(people) > len(shown):
        return join(sep=", ")[*shown, "et al."].format_data(context)
    return join(sep=", ", sep2=", and ", last_sep=", and ")[shown].format_data(context)


@node
def address(children: list, context: dict) -> Any:
    """A link whose words are an archive's name or the address without https."""
    url = context["entry"].fields["url"]
    short = "CVF open access" if "openaccess.thecvf.com" in url else url.partition("://")[2]
    return HRef(url, short)


class ByName(SortingStyle):
    """By author, year and title; the braces round an organisation's name do not count."""

    def person_key(self, person: Any) -> str:
        return re.sub("[{}]", "", super().person_key(person))


class Style(Unsorted):
    """Authors (year). Title. Where."""

    default_name_style = "lastfirst"
    default_sorting_style = "book"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **(options | {"abbreviate_names": True}))

    def start(self, e: Any) -> Any:
        year = join["(", field("year"), ")."]
        return join(sep=" ")[authors, year, sentence[field("title")]]

    def entry(self, e: Any, *where: Any) -> Any:
        return toplevel[self.start(e), *where, sentence[optional_field("note")],
                        self.format_web_refs(e)]  # fmt: skip

    def format_url(self, e: Any) -> Any:
        return address if "url" in e.fields else field("url")

    def get_article_template(self, e: Any) -> Any:
        pages = optional[join[":", page_range]]
        issue = optional[join[field("volume"), optional["(", field("number"), ")"], pages]]
        return self.entry(e, sentence[tag("em")[field("journal")], issue])

    def get_inproceedings_template(self, e: Any) -> Any:
        return self.entry(e, sentence[tag("em")[field("booktitle")]])

    def get_misc_template(self, e: Any) -> Any:
        return self.entry(e, sentence[optional_field("howpublished")])


register_plugin("pybtex.style.formatting", "book", Style)
register_plugin("pybtex.style.sorting", "book", ByName)


def finish(app: Any, doctree: Any, docname: str) -> None:
    """Each entry without its key, and with links to the pages that cite it."""
    if Path(docname).name != PAGE:
        return
    domain = app.env.get_domain("cite")
    order = list(app.env.collect_relations())  # pages in the order of the contents
    keys = {citation.citation_id: citation.key for citation in domain.citations}
    for entry in list(doctree.findall(nodes.citation)):
        for label in list(entry.findall(nodes.label)):
            label.parent.remove(label)
        key = next(keys[name] for name in entry["ids"] if name in keys)
        citing = {ref.docname for ref in domain.citation_refs
                  if key in [target.key for target in ref.targets]}  # fmt: skip
        entry += cited_in(app, docname, sorted(citing, key=order.index))


def cited_in(app: Any, docname: str, pages: list[str]) -> nodes.Element:
    few = len(pages) <= MOST_PAGES
    said = nodes.paragraph("", "Cited in " if few else "", classes=["setr-cited"] if few else [])
    for i, page in enumerate(pages):
        said += nodes.Text(", " * (i > 0))
        title = app.env.titles[page].astext()
        name = nodes.Text(short(page, title))
        said += make_refnode(app.builder, docname, page, None, name, title)
    if few:
        return said
    opened = f"<details><summary>Cited on {len(pages)} pages</summary>"
    return nodes.container("", nodes.raw("", opened, format="html"), said,
                           nodes.raw("", "</details>", format="html"), classes=["setr-cited"])


def short(page: str, title: str) -> str:
    """A page's title up to its colon or comma."""
    return SHORT.get(Path(page).name) or re.split("[:,]", title)[0]


def always_written(app: Any, env: Any) -> list[str]:
    return [page for page in env.found_docs if Path(page).name == PAGE]


def setup(app: Any) -> dict[str, Any]:
    app.connect("doctree-resolved", finish)
    app.connect("env-updated", always_written)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
