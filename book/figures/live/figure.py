"""The live figure as a notebook and a page without scripts have it: a still, and what starts it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from safetensors.torch import save

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

TOOLS = (
    "stamps", "heads", "own", "look", "stages", "positions", "attend", "bits", "measure", "walk",
)  # fmt: skip
"""What a live figure can offer. A street to choose and one model's answer are always there."""


class Live(Figure):
    """The trained model at work in the built page.

    Without the page's scripts (in Jupyter, on GitHub, in a PDF) it is a still picture. Nothing of
    the model is kept in the notebook: the build lays it beside the page.

    Args:
        tools: names from `TOOLS`.
        name: identifies the figure on its page.
        panes: the still, one or several pictures with text. One named like a panel (a model,
            ``SETR-PUP``, or ``What the patch attends to``) is seen until that has its answer.
        street: index of the street shown first.
        head: the model that answers, ``naive``, ``pup`` or ``mla``; ``walk`` and ``stages`` need
            ``pup``.
        patch: number of the patch looked at first, counted row by row; None is on the road.
        stamp: name, column and row of a stamp that stands in the street at first.
        probes: for ``stages``: module of the head -> a 1 x 1 classifier of what it puts out. They
            are kept in the notebook, in 16 bits.
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
        head: str = "pup",
        patch: int | None = None,
        stamp: tuple[str, int, int] | None = None,
        probes: Mapping[str, Any] | None = None,
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
        extra = "" if head == "pup" else f' data-head="{head}"'
        extra += "" if patch is None else f' data-patch="{patch}"'
        extra += ' data-stamp="{} {} {}"'.format(*stamp) if stamp else ""
        extra += f' data-probes="{_probes_url(probes)}"' if probes else ""
        lines = (
            f'<div class="setr-live" data-tools="{" ".join(tools)}" data-street="{street}"{extra}>',
            f'<div class="setr-live-still">{sheet_html(panes)}'
            f'<p class="setr-live-note">{note}</p></div>',
            "</div>",
            f"<script>{script_line('live/start.js')}</script>",
        )
        self._bundle["text/html"] = figure_html(identifier(name), "", lines, caption)



def _probes_url(probes: Mapping[str, Any]) -> str:
    """The probes as a ``data:`` URL of a .safetensors file."""
    tensors = {f"{name}.probe.weight": probe.weight.half() for name, probe in probes.items()}
    tensors |= {f"{name}.probe.bias": probe.bias for name, probe in probes.items()}
    raw = base64.b64encode(save(tensors)).decode()
    return f"data:application/octet-stream;base64,{raw}"
