"""A figure of several dials over a table of numbers, that moves without a kernel.

`Frames` and `Grid` of `interactive` keep pictures, so at most 32 of them. Here a page keeps the
numbers of every setting of the dials and draws a bar of them, so there may be hundreds.
"""

from __future__ import annotations

import html
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from setr_lite.errors import UserError

from .interactive import Figure, figure_html, identifier, script_line

MAX_ROWS = 2000
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
"""Of the parts; they stay apart for the colour-blind, on white and on black."""


class Dials(Figure):
    """Dials to turn, and a bar of what the numbers of the chosen setting are made of.

    ``dials`` maps a label to the values of a slider; ``parts(*values)`` gives the named parts of
    one setting, numbers of at least 0 and always the same names, at most seven. They stand in one
    bar that ends at ``most``; a longer one shrinks the scale. ``marks`` are named limits on the
    same scale, and the figure says between which of them the sum lies.

    ``name`` identifies the figure on its page: letters, digits and hyphens, unique. ``unit`` and
    ``total`` are words for the numbers ("GiB") and for their sum ("in all"). ``start`` holds an
    index for each dial; ``show`` maps a label to the function that turns its values into text.
    Numbers are kept and shown to three digits.

    Raises UserError for too many settings, other parts than before, and above 200 kB.
    """

    def __init__(
        self,
        dials: Mapping[str, Sequence[Any]],
        parts: Callable[..., Mapping[str, float]],
        *,
        name: str,
        unit: str,
        most: float,
        total: str = "in all",
        marks: Mapping[str, float] | None = None,
        start: Sequence[int] | None = None,
        show: Mapping[str, Callable[[Any], str]] | None = None,
        caption: str = "",
    ):
        count = int(np.prod([len(values) for values in dials.values()]))
        if not 1 <= count <= MAX_ROWS:
            raise UserError(f"{name}: {count} settings of the dials, expected 1..{MAX_ROWS}")
        start = list(start or [0] * len(dials))
        found = [dict(parts(*values)) for values in itertools.product(*dials.values())]
        names = list(found[0])
        if len(names) > len(COLORS) or any(list(row) != names for row in found):
            raise UserError(f"{name}: every setting needs the same {len(COLORS)} parts or fewer")
        rows = [[_three_digits(value) for value in row.values()] for row in found]
        shape = [len(values) for values in dials.values()]
        first = rows[int(np.ravel_multi_index(start, shape))]
        size = "x".join(map(str, shape))
        super().__init__(f"{' x '.join(dials)!r}, {size} settings", _bar(first, most), [rows], 2)
        shown = {
            label: [(show or {}).get(label, str)(value) for value in values]
            for label, values in dials.items()
        }
        self._bundle["text/html"] = _dials_html(
            identifier(name), shown, start, names, first, caption,
            {"rows": rows, "most": most, "unit": unit, "total": total,
             "marks": sorted((marks or {}).items(), key=lambda mark: mark[1])},
        )  # fmt: skip
        self._check_size(len(self._bundle["text/html"]), "give the dials fewer values")


def _three_digits(value: float) -> float | int:
    number = float(f"{value:.3g}")
    return int(number) if number.is_integer() else number


def _bar(parts: Sequence[float], most: float) -> np.ndarray:
    """The bar as a picture, for places without scripts or styles; uint8 (32, 480, 3)."""
    rgb = np.full((32, 480, 3), 238, np.uint8)
    ends = np.cumsum([0, *parts]) / max(most, sum(parts)) * 480
    for color, left, right in zip(COLORS, ends, ends[1:], strict=False):
        rgb[:, round(left) : round(right)] = tuple(bytes.fromhex(color[1:]))
    return rgb


def _dials_html(
    name: str,
    shown: Mapping[str, Sequence[str]],
    start: Sequence[int],
    parts: Sequence[str],
    first: Sequence[float],
    caption: str,
    table: Mapping[str, Any],
) -> str:
    knobs = []
    for (label, texts), at in zip(shown.items(), start, strict=True):
        text, values = html.escape(label), html.escape(json.dumps(texts))
        knobs.append(
            f'<label><span>{text}</span><input type="range" min="0" max="{len(texts) - 1}" '
            f'value="{at}" aria-valuetext="{html.escape(texts[at])}" data-label="{text}" '
            f'data-shown="{values}"><output>{html.escape(texts[at])}</output></label>'
        )
    wide = max(table["most"], sum(first))
    pieces = [
        f'<span style="background:{color};width:{100 * value / wide:.1f}%"></span>'
        for color, value in zip(COLORS, first, strict=False)
    ]
    rules = [
        f'<span class="setr-rule" style="left:{100 * at / wide:.1f}%">{html.escape(text)}</span>'
        for text, at in table["marks"]
    ]
    keys = [
        f'<li><i style="background:{color}"></i>{html.escape(part)} <b>{value} '
        f"{html.escape(table['unit'])}</b></li>"
        for color, part, value in zip(COLORS, parts, first, strict=False)
    ]
    whole = f"{table['total']} {_three_digits(sum(first))} {table['unit']}"
    packed = html.escape(json.dumps(table, separators=(",", ":")))
    lines = [
        '<div class="setr-knobs">', *knobs, "</div>",
        f'<div class="setr-scale"><div class="setr-stack" role="img" aria-label="'
        f'{html.escape(whole)}" data-table="{packed}">', *pieces, "</div>", *rules, "</div>",
        f'<p class="setr-readout">{html.escape(whole)}</p>',
        '<ul class="setr-key">', *keys, "</ul>",
        f"<script>({script_line('dials.js')})(document.currentScript, '{name}');</script>",
    ]  # fmt: skip
    return figure_html(name, "setr-dials", lines, caption)
