"""Sphinx extension: built pages that work offline, in the dark, and without scripts.

* MathJax and the widget embedder come from ``book/_web/static/vendor`` when it is there
  (``book/_web/vendor.py``), else from their CDNs.
* Each widget gets a still picture, seen until the script has drawn it (or instead of it).
* What the theme does to break widgets is taken out; the reasons stand beside each step.
* Links to the repository, and buttons that open a page in Binder or Colab, appear once
  ``repository.url`` in ``_config.yml`` is set.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from sphinx.util import logging

log = logging.getLogger(__name__)

STATIC = "book/_web/static"
EMBEDDER_CDN = "https://cdn.jsdelivr.net/npm/@jupyter-widgets/html-manager@1.0.15/dist/embed.js"

MIME = r"application/vnd\.jupyter\.widget-"
STATE = re.compile(rf'<script type="{MIME}state\+json">(.*?)</script>', re.S)
VIEW = re.compile(rf'(?<!\n<!-- still -->\n)<script type="{MIME}view\+json">(.*?)</script>', re.S)
CODE = re.compile(
    r'<div class="highlight(?: setr-long)?"(?: style="--columns:\d+")?>(<pre>.*?)</pre>', re.S
)
LONG = 86
CHART = re.compile(
    r'(<div class="cell [^"]*\btag_chart\b(?:(?!<div class="cell ).)*?'
    r'<div class="cell_output docutils container">\s*(?:<figure[^>]*>\s*)?)(<img[^>]*>)', re.S
)  # fmt: skip
ARGUMENTS = re.compile(r'<dl>\s*((?:<dd><em class="sig-param">.*?</dd>\s*)+)</dl>', re.S)
ICON_SCRIPT = re.compile(
    r"[ \t]*<(?:script|link)[^>]*scripts/fontawesome\.js[^>]*>(?:</script>)?\n?"
)


def use_local_files(app: Any, config: Any) -> None:
    """Point Sphinx and myst-nb at our copies of the browser libraries.

    They lie outside ``_static``, because Jupyter Book loads every ``.js`` below that folder on
    every page. The plain embedder is half the weight of the AMD one and needs no require.js.
    """
    config.html_static_path = [*config.html_static_path, STATIC]
    vendor = Path(app.srcdir) / STATIC / "vendor"
    if (vendor / "widgets" / "embed.js").exists():
        config.mathjax_path = "vendor/mathjax/tex-chtml.js"
        embedder, assets = "vendor/widgets/embed.js", {"data-assets": "vendor/widgets/"}
    else:
        log.info("book_pages: no browser files beside the book, the pages will use CDNs")
        embedder, assets = EMBEDDER_CDN, {}
    config.nb_ipywidgets_js = {"widgets.js": assets, embedder: {"defer": "defer"}}


def link_the_repository(app: Any, config: Any) -> None:
    """Repository links and launch buttons, if the repository has an address.

    Without one the theme would fail over the buttons, so that the settings cannot simply stand in
    ``_config.yml``.
    """
    options = config.html_theme_options
    if not options.get("repository_url"):
        options.pop("repository_url", None)
        return
    options["use_repository_button"] = options["use_issues_button"] = True
    options["launch_buttons"] = {
        "notebook_interface": "jupyterlab",
        "binderhub_url": "https://mybinder.org",
        "colab_url": "https://colab.research.google.com",
    }


def drop_thebe(app: Any, page: str, template: str, context: dict, doctree: Any) -> None:
    """sphinx-thebe declares its constants twice: a SyntaxError on every page."""

    def wanted(script: Any) -> bool:
        body = getattr(script, "attributes", {}).get("body") or ""
        name = str(getattr(script, "filename", script) or "")
        return "THEBE_JS_URL" not in body and "thebe" not in name

    context["script_files"] = [s for s in context.get("script_files", []) if wanted(s)]


def first_picture(models: dict[str, Any], model_id: str) -> str | None:
    """The ``<img>`` that a widget shows first, or None."""
    state = models.get(model_id.removeprefix("IPY_MODEL_"), {}).get("state", {})
    found = re.search(r"<img[^>]*>", str(state.get("value", "")))
    if found:
        return found.group()
    children = state.get("children", [])
    if state.get("selected_index") is not None:
        children = children[state["selected_index"] :][:1]
    pictures = (first_picture(models, child) for child in children)
    return next((picture for picture in pictures if picture), None)


def add_stills(page: str) -> str:
    """Put the first picture of each widget before it; widgets.js takes it away again."""
    found = STATE.search(page)
    if not found:
        return page
    models = json.loads(found.group(1))["state"]

    def put(view: re.Match) -> str:
        picture = first_picture(models, json.loads(view.group(1))["model_id"])
        if not picture:
            return view.group()
        still = picture.replace('class="', 'class="setr-still ', 1)
        return f"{still}\n<!-- still -->\n{view.group()}"

    return VIEW.sub(put, page)


def mark_long_code(page: str) -> str:
    """How wide each block is, for the style: what is printed gets as small as a phone asks for,
    and lines of more than 86 columns a little smaller than others everywhere."""

    def mark(block: re.Match) -> str:
        lines = html.unescape(re.sub(r"<[^>]*>", "", block.group(1))).splitlines()
        columns = max(map(len, lines), default=1)
        name = "highlight" + " setr-long" * (columns > LONG)
        return f'<div class="{name}" style="--columns:{columns}">{block.group(1)}</pre>'

    return CODE.sub(mark, page)


def as_lines(arguments: re.Match) -> str:
    lines = re.sub(r"(</?)dd>", r"\1span>", arguments[1])
    return f'<span class="setr-arguments">{lines}</span>'


def mend(page: str) -> str:
    """One page as the browser should get it. Applied twice it changes nothing more."""
    # The theme's 1.5 MB icon script swaps the <i> elements that ipywidgets' Play button needs,
    # and takes the slider down with it; the theme's web fonts draw the same icons.
    page = ICON_SCRIPT.sub("", page)
    # a label that hides the words a reader sees
    page = page.replace('<summary aria-label="Toggle hidden content">', "<summary>")
    # and, in the table of contents, one that is missing
    toggle = '<span class="toctree-toggle"'
    page = page.replace(f"<summary>{toggle}", f'<summary aria-label="Pages below">{toggle}')
    # sphinx-exercise gives all exercises of a page the same two ids, which nothing refers to
    page = re.sub(r' id="(exercise|solution)-content"', "", page)
    # Sphinx writes the arguments of a long signature as a list of definitions without terms
    page = ARGUMENTS.sub(as_lines, page)
    # a chart as wide as a phone could not be read: it keeps a width and scrolls, by keys as well
    page = CHART.sub(r'\1<div class="setr-chart" tabindex="0">\2</div>', page)
    return add_stills(mark_long_code(page))


def mend_pages(app: Any, error: Exception | None) -> None:
    if error or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        old = path.read_text("utf-8")
        new = mend(old)
        if new != old:
            path.write_text(new, "utf-8")


def setup(app: Any) -> dict[str, Any]:
    app.connect("config-inited", use_local_files, priority=900)
    app.connect("config-inited", link_the_repository, priority=100)
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("build-finished", mend_pages)
    app.add_css_file("book.css")
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
