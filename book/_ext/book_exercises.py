"""Sphinx extension: exercises that can be answered on the page, without a kernel.

``book/exercises/PAGE.yml`` holds a question for each exercise of a page, by its label:

* ``numbers``: names and values to be found, right to ``within`` (absolute; exact if missing);
* ``choices``: answers, each ``true`` or what is said to one who takes it; ``several: true``, or
  more than one right answer, asks for all that apply;
* ``patch``: the row and the column of a patch, which is chosen on a street of the sample, 96 x 192
  pixels in patches of 16. It or ``choices`` may stand beside ``numbers``;
* ``ask``: what is asked, where it is not the exercise's own question.

Each becomes a form at the end of its exercise; ``quiz.js`` shows and checks it. What the cells of
the notebook print while nobody has answered is taken off the page.
"""

from __future__ import annotations

import base64
import html
import io
import re
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from PIL import Image
from sphinx.util import logging

log = logging.getLogger(__name__)

QUESTIONS = Path(__file__).resolve().parents[1] / "exercises"
STREET = QUESTIONS.parents[1] / (
    "data/sample/toytown_cityscapes/leftImg8bit/val/toytown/toytown_000000_000000_leftImg8bit.png")
ROWS, COLUMNS = 6, 12
UNANSWERED = "not answered yet"


def words(text: str) -> str:
    """A line of Markdown with nothing but code and emphasis, as HTML."""
    text = html.escape(text)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", text)


def form(label: str, question: dict[str, Any]) -> str:
    """The HTML of one question. Hidden until a script can check it."""
    ask = f'<p id="{label}-ask">{words(question["ask"])}</p>' if "ask" in question else ""
    fields = "".join(
        fill(label, question) for kind, fill in
        (("numbers", numbers), ("choices", choices), ("patch", patches)) if kind in question)
    return (
        f'<form class="setr-quiz" hidden>{ask}{fields}<button type="submit">Check</button> '
        '<output role="status"></output></form>'
    )


def numbers(label: str, question: dict[str, Any]) -> str:
    within = question.get("within", 0)
    return "".join(
        f'<label>{words(name)} <input type="text" inputmode="decimal" autocomplete="off" '
        f'data-answer="{value}" data-within="{within}"></label>'
        for name, value in question["numbers"].items())


def choices(label: str, question: dict[str, Any]) -> str:
    right = [reply is True for reply in question["choices"].values()]
    several = question.get("several", False) or sum(right) > 1
    fields = "".join(
        f'<label><input type="{"checkbox" if several else "radio"}" name="{label}" value="{i}"'
        + (" data-right" if reply is True else f' data-reply="{html.escape(words(reply))}"')
        + f"> <span>{words(answer)}</span></label>"
        for i, (answer, reply) in enumerate(question["choices"].items()))
    legend = "All that apply" if several else "One of these"
    return f"<fieldset><legend>{legend}</legend>{fields}</fieldset>"


def patches(label: str, question: dict[str, Any]) -> str:
    """A radio button over every patch of a street."""
    street = io.BytesIO()
    Image.open(STREET).convert("RGB").save(street, "JPEG", quality=90)
    source = base64.b64encode(street.getvalue()).decode()
    fields = "".join(
        f'<label><input type="radio" name="{label}" value="{row * COLUMNS + column}" '
        f'aria-label="row {row}, column {column}"'
        + (" data-right" if [row, column] == question["patch"] else
           f' data-reply="That is row {row}, column {column}: token '
           f'{1 + row * COLUMNS + column}."') + "></label>"
        for row in range(ROWS) for column in range(COLUMNS))
    return (
        "<fieldset><legend>Click a patch; rows and columns count from 0</legend>"
        f'<div class="patches" style="--columns: {COLUMNS}">'
        f'<img alt="A street, cut into patches" src="data:image/jpeg;base64,{source}">'
        f"{fields}</div></fieldset>")


def code_cells(tree: Any) -> list[Any]:
    return [node for node in tree.findall(nodes.container) if node.get("nb_element") == "cell_code"]


def clear_unanswered(tree: Any) -> None:
    """Without a kernel nothing answers to a check: keep only what a reader is to complete."""
    for cell in code_cells(tree):
        parts = {node.get("nb_element"): node for node in cell.children}
        source, output = (
            parts[name].astext() if name in parts else ""
            for name in ("cell_code_source", "cell_code_output"))
        if UNANSWERED not in source + output:
            continue
        if UNANSWERED in output and re.search(r"^def ", source, re.M):
            cell.remove(parts["cell_code_output"])
        else:
            cell.parent.remove(cell)


def put_forms(app: Any, doctree: Any) -> None:
    """The questions of one page into its exercises."""
    path = QUESTIONS / f"{Path(app.env.docname).name}.yml"
    if app.builder.format != "html" or not path.exists():
        return
    app.env.note_dependency(str(path))
    questions = yaml.safe_load(path.read_text("utf-8"))
    there = {
        node["label"]: node for node in doctree.findall(nodes.Admonition)
        if type(node).__name__ in ("exercise_node", "exercise_enumerable_node")
    }
    for label in questions.keys() ^ there.keys():
        log.warning("%s: an exercise without a question, or the reverse: %s", path.name, label)
    for label in questions.keys() & there.keys():
        there[label] += nodes.raw("", form(label, questions[label]), format="html")
    clear_unanswered(doctree)


def setup(app: Any) -> dict[str, Any]:
    app.connect("doctree-read", put_forms)
    app.add_css_file("quiz.css")
    app.add_js_file("quiz.js", loading_method="defer")
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
