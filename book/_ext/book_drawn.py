"""Sphinx extension: the drawn figures become part of the page.

* An image ``figures/drawn/NAME-wide.svg`` of a page, which Jupyter and GitHub show as it is,
  becomes inline SVG: it follows the page's theme, its parts can be links, and on a phone the
  drawing for narrow screens takes its place. The image's title becomes the caption.
* Every page of ``figures.map.LIT`` gets the map of SETR above its first section, with its own
  parts lit: a strip of names, and the drawing folded below it. The opening page gets the drawing.
* The chapters of ``figures.stops.STOPS`` get their part of the journey of one pixel.
* A drawing with ``data-steps`` gets a button for each step (see ``drawn.js``).
"""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes

BOOK = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(BOOK))
from figures.map import LIT, NAMES, PARTS  # noqa: E402
from figures.stops import AGAIN, FIRST, STOPS, TITLE  # noqa: E402

sys.path.remove(str(BOOK))
DRAWN = BOOK / "figures" / "drawn"
WIDE = re.compile(r"figures/drawn/([\w-]+)-wide\.svg$")
STEPS = re.compile(r' data-steps="([^"]*)"')
OPENING = "intro"
LIT_HERE = '"d-lit" aria-current="true"'
WHOLE = (
    '<p class="setr-caption">The same at full size: SETR with ViT-Large on a crop of 512 × 512, '
    "for the 150 classes of ADE20K. Every box links to its chapter.</p>"
)
HINT = (
    "<figcaption>Point at a number, a symbol or a line of code to see what it is computed from. "
    "The arithmetic beside the code is that of the car.</figcaption>"
)


def svg_of(name: str, shape: str) -> str:
    """The drawing without its own style sheet: in a page, the page's does its work."""
    text = (DRAWN / f"{name}-{shape}.svg").read_text("utf-8")
    text = re.sub(r"\s*<style>.*?</style>", "", text, count=1, flags=re.S)
    return text.replace('class="drawn"', f'class="drawn d-{shape}"', 1)


def step_buttons(name: str, steps: str) -> str:
    """Radio buttons, which need no script: the style sheet dims what is not of the step."""
    choices = ["all", *steps.split("|")]
    buttons = "".join(
        f'<label><input type="radio" name="{name}-step" value="{i}"{" checked" * (i == 0)}> '
        f"{html.escape(words)}</label>" for i, words in enumerate(choices))
    return f'<fieldset class="setr-steps"><legend>step</legend>{buttons}</fieldset>'


def figure(name: str, caption: str = "") -> str:
    """HTML of one drawing, for wide and narrow screens."""
    pictures = [svg_of(name, shape) for shape in ("wide", "narrow")]
    steps = STEPS.search(pictures[0])
    buttons = step_buttons(name, html.unescape(steps[1])) if steps else ""
    hint = HINT * ("data-lights" in pictures[0])
    if caption:
        hint = f"<figcaption>{html.escape(caption)}</figcaption>" + hint
    return f'<figure class="setr-drawn">{buttons}{"".join(pictures)}{hint}</figure>'


def map_of_setr(lit: str | None) -> str:
    """HTML of the map with these parts lit: a strip of links, and the drawing to be opened.

    With None the drawing alone, in full.
    """
    text = svg_of("map", "wide") + svg_of("map", "narrow")
    if lit is None:
        return f'<nav class="setr-drawn setr-map" aria-label="Map of SETR">{WHOLE}{text}</nav>'
    for part in lit.split():
        text = text.replace(f'data-part="{part}"', f'data-part="{part}" class="d-lit" '
                                                   'aria-current="true"')
    strip = "".join(
        f'<li><a href="{page}.html"{" class=" + LIT_HERE if part in lit.split() else ""}>'
        f"{NAMES.get(part, part)}</a></li>" for part, page in PARTS.items())
    return (f'<nav class="setr-map" aria-label="Map of SETR"><ul class="setr-names">{strip}</ul>'
            f'<details><summary>The map of SETR</summary><div class="setr-drawn">{text}</div>'
            "</details></nav>")


def draw_into(app: Any, doctree: Any) -> None:
    """The pictures of one page, before Sphinx collects image files."""
    if app.builder.format != "html":
        return
    for image in list(doctree.findall(nodes.image)):
        if found := WIDE.search(image["uri"]):
            app.env.note_dependency(str(DRAWN / Path(image["uri"]).name))
            image.replace_self(nodes.raw("", figure(
                found[1], image.get("title", "")), format="html"))
    page = Path(app.env.docname).name
    sections = list(doctree.findall(nodes.section))
    if page in (OPENING, *LIT) and sections:
        app.env.note_dependency(str(DRAWN / "map-wide.svg"))
        put_map(sections[0], LIT.get(page))
    for name in STOPS.get(page, ()):
        app.env.note_dependency(str(DRAWN / f"journey-{name}-wide.svg"))
    put_journey(doctree, page)


def put_journey(doctree: Any, page: str) -> None:
    """The pixel's stops on this page, above its exercises."""
    exercises = [s for s in doctree.findall(nodes.section) if "exercises" in s["ids"]]
    if page in STOPS and exercises:
        words = FIRST if page == next(iter(STOPS)) else AGAIN
        drawings = "".join(figure(f"journey-{name}") for name in STOPS[page])
        box = (f'<section class="setr-journey" aria-label="{TITLE}"><p>{TITLE}</p>'
               f"<p>{words}</p>{drawings}</section>")
        top = exercises[0]
        top.parent.insert(top.parent.index(top), nodes.raw("", box, format="html"))


def put_map(top: Any, lit: str | None) -> None:
    """Above the first section inside the page's own; at its end if it has none."""
    places = [i for i, child in enumerate(top.children) if isinstance(child, nodes.section)]
    top.insert(places[0] if places else len(top), nodes.raw("", map_of_setr(lit), format="html"))


def setup(app: Any) -> dict[str, Any]:
    app.connect("doctree-read", draw_into, priority=400)
    app.add_css_file("drawn.css")
    app.add_js_file("drawn.js", loading_method="defer")
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
