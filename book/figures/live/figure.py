"""The live figure as a notebook and a page without scripts have it: a still, and what starts it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from setr_lite.errors import UserError

from ..interactive import (
    Figure,
    Pane,
    _side_by_side,
    figure_html,
    identifier,
    script_line,
    sheet_html,
)

TOOLS = ("stamps", "heads", "own", "look", "positions", "attend", "bits", "measure", "walk")
"""What a live figure can offer. A street to choose and the answer of SETR-PUP are always there."""


class Live(Figure):
    """The trained model at work in the built page.

    Without the page's scripts (in Jupyter, on GitHub, in a PDF) it is a still picture. Nothing of
    the model is kept in the notebook: the build lays it beside the page.

    Args:
        tools: names from `TOOLS`.
        name: identifies the figure on its page.
        panes: the still, one or several pictures with text.
        street: index of the street shown first.
        caption: below the figure.
        data: arrays whose summary goes into the ``repr``, which nbval compares.
        also: text for the ``repr``, such as scores in two digits.

    Raises UserError for an unknown tool.
    """

    def __init__(
        self,
        *tools: str,
        name: str,
        panes: Sequence[Pane],
        street: int = 0,
        caption: str = "",
        data: Iterable[Any] = (),
        also: str = "",
        digits: int = 2,
    ):
        unknown = [tool for tool in tools if tool not in TOOLS]
        if unknown:
            raise UserError(f"{name}: no tool {unknown[0]!r}; there are {', '.join(TOOLS)}")
        plain = ", ".join(filter(None, [" ".join(tools), also]))
        super().__init__(plain, _side_by_side(panes), data, digits)
        note = "The model runs here once the book is built and scripts are on; this is a still."
        lines = (
            f'<div class="setr-live" data-tools="{" ".join(tools)}" data-street="{street}">',
            f'<div class="setr-live-still">{sheet_html(panes)}'
            f'<p class="setr-live-note">{note}</p></div>',
            "</div>",
            f"<script>{script_line('live/start.js')}</script>",
        )
        self._bundle["text/html"] = figure_html(identifier(name), "", lines, caption)

