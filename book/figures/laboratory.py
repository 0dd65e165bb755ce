"""The laboratory of silent bugs: a run with one bug in it, checks to buy, the bug to name.

Everything a case needs stands in the page, as recorded (see `silent_bugs`); ``laboratory.js`` deals
it. What a reader does is kept in the open page and nowhere else.
"""

from __future__ import annotations

import html
import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from setr_lite.errors import UserError

from .interactive import (
    MAX_EXPLORER_BYTES,
    Figure,
    _img,
    as_rgb,
    data_url,
    figure_html,
    identifier,
    script_line,
)
from .silent_bugs import (
    HEALTHY,
    Bug,
    Record,
    baseline,
    costs_in_words,
    diff,
    finders,
    lab_style,
    outcome,
    seconds_of,
    short_time,
)

CLEAN: Bug = {
    "id": HEALTHY, "name": "nothing is wrong", "file": "", "before": "", "after": "", "bites": [],
    "what": "This run has no bug: a check that is worth its minutes has to say so, too.",
}  # fmt: skip
"""The case without a bug, and its answer."""
CONTEXT = {
    "conversion": "Its weights were converted from another program's.",
    "ranks": "Two processes trained it, each with half of the batch.",
}
"""What anyone knows who has such a run, by where its bug bites: without the step there is none."""
OFF = (
    "With scripts on, this is a game: you buy checks, read what each of them said, and name the "
    "bug. Without, it is the first case; what each check says of each bug stands further down."
)
WIDE, HIGH, LEFT, BELOW, ABOVE = 340, 190, 26, 24, 8
"""The drawing of a loss, and what is left around it for the numbers of its axes."""


class Laboratory(Figure):
    """A game over the record of the silent bugs.

    Args:
        record: see `silent_bugs`. Every bug is a case, and one more has none; they are shuffled,
            always in the same way.
        pictures: label maps in colours (see `as_rgb`) of one street, by bug; ``healthy_HEAD``
            where a bug has none, and ``truth``.
        classes: name -> colour (3,) of the classes in ``iou``.
        name: identifies the figure on its page.
        caption: below the figure.

    Raises UserError for a case without a picture, and above 450 kB.
    """

    def __init__(
        self,
        record: Record,
        pictures: Mapping[str, Any],
        classes: Mapping[str, Sequence[int]],
        *,
        name: str,
        caption: str = "",
    ):
        truth = as_rgb(pictures["truth"])
        bugs = _dealt(record)
        maps = [_map_of(bug, pictures) for bug in bugs]
        cases = [_case(record, bug, rgb, truth, list(classes))
                 for bug, rgb in zip(bugs, maps, strict=True)]  # fmt: skip
        still = np.concatenate([truth, np.full_like(truth[:, :8], 255), maps[0]], axis=1)
        plain = f"{len(cases)} cases, {len(record['checks'])} checks"
        super().__init__(plain, still.repeat(2, 0).repeat(2, 1), [still], 2)
        lines = [lab_style(), *_game(record, cases, truth, classes, identifier(name))]
        self._bundle["text/html"] = figure_html(name, "setr-lab", lines, caption)
        self._check_size(len(self._bundle["text/html"]), "thin the curves", MAX_EXPLORER_BYTES)


def _dealt(record: Record) -> list[Bug]:
    """The bugs and the clean run in an order that tells nothing, but for its ends.

    The first case is the bug that most checks find, the last ones are those that none finds: a
    game that begins with a case that cannot be won teaches that it is unfair.
    """
    cases = [*record["bugs"], {**CLEAN, "head": record["bugs"][0]["head"]}]
    random.Random(22).shuffle(cases)
    found_by = {case["id"]: len(finders(record, case["id"])) for case in cases}
    easiest = max(cases, key=lambda case: found_by[case["id"]])
    cases.sort(key=lambda case: not found_by[case["id"]] and case["id"] != HEALTHY)
    cases.remove(easiest)
    return [easiest, *cases]


def _map_of(bug: Bug, pictures: Mapping[str, Any]) -> np.ndarray:
    """The label map under a bug; that of the clean run where the bug does not touch it."""
    for key in (bug["id"], baseline(bug)):
        if key in pictures:
            return as_rgb(pictures[key])
    raise UserError(f"{bug['id']}: no label map of it, nor of {baseline(bug)}")


def _case(
    record: Record, bug: Bug, rgb: np.ndarray, truth: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """What the page has of one case; where the bug left nothing, the clean run's."""
    curve, iou = (record[what].get(bug["id"]) or record[what][baseline(bug)]
                  for what in ("curves", "iou"))  # fmt: skip
    known = [CONTEXT[place] for place in bug["bites"][:1] if place in CONTEXT]
    if bug.get("settings"):
        known.append(f"Scored with {' '.join(bug['settings'])}.")
    shares = [iou.get(name) for name in classes]
    right = (rgb == truth).all(-1).mean()
    return {
        "id": bug["id"], "name": bug["name"], "what": bug["what"], "diff": diff(bug),
        "story": " ".join([f"SETR-{HEADS[bug['head']]}, trained on ToyTown and scored.", *known]),
        "loss": _path(curve, _top(record)), "lossWords": _curve_in_words(curve),
        "twin": _path(record["curves"][baseline(bug)], _top(record)), "steps": curve[-1][0],
        "map": data_url(rgb), "mapWords": f"{right:.0%} of these pixels are right",
        "iou": [None if value is None else round(100 * value) for value in shares],
        "miou": f"{100 * np.mean([value for value in shares if value is not None]):.1f}",
        "says": [[out["found"], out["says"]] for check in record["checks"]
                 for out in [outcome(record, bug["id"], check["id"])]],
        "cost": " ".join(costs_in_words(record, bug)) if bug["id"] != HEALTHY else "",
        "par": _par(record, bug),
    }  # fmt: skip


HEADS = {"naive": "Naive", "pup": "PUP", "mla": "MLA", "linear": "Linear"}


def _par(record: Record, bug: Bug) -> str:
    """What would have been the fastest way."""
    there = finders(record, bug["id"])
    if bug["id"] == HEALTHY:
        alarms = " and ".join(check["name"] for check in there)
        return f"A false alarm: {alarms}." if there else "No check raises an alarm."
    if not there:
        return "None of the checks finds it."
    return f"The fastest that finds it: {there[0]['name']}, {short_time(seconds_of(there[0]))}."


# --- a loss as a drawing --------------------------------------------------------------------------


def _top(record: Record) -> int:
    """The end of the scale: above the losses of all clean runs."""
    clean = [curve for key, curve in record["curves"].items() if key.startswith(HEALTHY)]
    return math.ceil(max(loss for curve in clean for _, loss in curve))


def _path(curve: Sequence[Sequence[float]], top: float) -> str:
    """The ``d`` of a path; a loss beyond the scale runs along its end."""
    across = (WIDE - LEFT - 6) / curve[-1][0]
    down = (HIGH - BELOW - ABOVE) / top
    return "M" + "L".join(
        f"{LEFT + across * step:.0f} {ABOVE + down * (top - min(loss, top)):.1f}"
        for step, loss in curve if math.isfinite(loss))


def _curve_in_words(curve: Sequence[Sequence[float]]) -> str:
    losses = [loss for _, loss in curve]
    tail = np.mean(losses[-max(1, len(losses) // 10) :])
    return f"The loss of this run, from {losses[0]:.2f} to {tail:.2f} in {curve[-1][0]} steps"


def _loss_svg(case: Mapping[str, Any], top: int) -> str:
    bottom, end = HIGH - BELOW, WIDE - 6
    ticks = "".join(
        f'<text x="{LEFT - 6}" y="{ABOVE + (bottom - ABOVE) * (1 - loss / top) + 4:.0f}" '
        f'text-anchor="end">{loss}</text>' for loss in range(top + 1))
    return (
        f'<svg class="setr-curve" viewBox="0 0 {WIDE} {HIGH}" role="img" '
        f'aria-label="{case["lossWords"]}"><path class="setr-axis" d="M{LEFT} {ABOVE}V{bottom}'
        f'H{end}"/>{ticks}<text x="{LEFT}" y="{HIGH - 6}">step 0</text>'
        f'<text class="setr-last" x="{end}" y="{HIGH - 6}" text-anchor="end">{case["steps"]}</text>'
        f'<path class="setr-loss" d="{case["loss"]}"/>'
        f'<path class="setr-twin" d="{case["twin"]}"/></svg>')


# --- the page -------------------------------------------------------------------------------------


def _game(
    record: Record,
    cases: Sequence[Mapping[str, Any]],
    truth: np.ndarray,
    classes: Mapping[str, Sequence[int]],
    name: str,
) -> list[str]:
    checks = [{"name": c["name"], "what": c["what"], "seconds": seconds_of(c)}
              for c in record["checks"]]
    packed = json.dumps({"cases": cases, "checks": checks}, separators=(",", ":"))
    packed = packed.replace("</", r"<\/")
    return [
        '<div class="setr-bar setr-deal" hidden>', _case_choice(len(cases)),
        '<p class="setr-score"></p></div>',
        *_evidence(cases[0], truth, classes, _top(record)),
        f'<p class="setr-off">{OFF}</p>',
        '<div class="setr-desk" hidden>', *_shop(record), *_answer(record),
        '<div class="setr-verdict" tabindex="-1" hidden></div>',
        '<button type="button" class="setr-next" hidden>Next case</button></div>',
        f'<script type="application/json" class="setr-cases">{packed}</script>',
        f"<script>({script_line('laboratory.js')})(document.currentScript, '{name}');</script>",
    ]  # fmt: skip


def _case_choice(count: int) -> str:
    options = "".join(f'<option value="{i}">{i + 1} of {count}</option>' for i in range(count))
    return f'<label>case <select class="setr-case">{options}</select></label>'


def _evidence(
    case: Mapping[str, Any], truth: np.ndarray, classes: Mapping[str, Sequence[int]], top: int
) -> list[str]:
    """What the reader is dealt: a curve, two label maps, a table."""
    street = _img(data_url(truth), "The true label map of a street", shape=truth.shape)
    read = _img(case["map"], case["mapWords"], shape=truth.shape)
    return [
        f'<p class="setr-story">{html.escape(case["story"])}</p><div class="setr-panels">',
        *_panel("the true label map", f'<div class="setr-stage">{street}</div>'),
        *_panel("the label map that this run predicts",
                f'<div class="setr-stage setr-map">{read}</div>'
                f'<p class="setr-readout">{case["mapWords"]}</p>'),
        *_panel('its loss <label hidden><input type="checkbox" class="setr-beside"> beside a clean '
                "run</label>", _loss_svg(case, top)),
        f'<div class="setr-panel">{_iou_table(case, classes)}</div></div>',
    ]  # fmt: skip


def _panel(title: str, *lines: str) -> list[str]:
    return ['<div class="setr-panel">', f'<p class="setr-title">{title}</p>', *lines, "</div>"]


def _iou_table(case: Mapping[str, Any], classes: Mapping[str, Sequence[int]]) -> str:
    rows = "".join(
        f'<tr><th scope="row"><i style="background:rgb({",".join(map(str, colour))})"></i>{name}'
        f'</th><td><b style="width:{value or 0}%"></b></td>'
        f"<td>{'–' if value is None else value}</td></tr>"
        for (name, colour), value in zip(classes.items(), case["iou"], strict=True))
    return (
        '<table class="setr-iou"><caption>IoU of each class in percent; mIoU <b class="setr-miou">'
        f'{case["miou"]}</b></caption><thead><tr>'
        '<th scope="col">class</th><th scope="col" colspan="2">IoU</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>")


def _shop(record: Record) -> list[str]:
    """The checks, the cheapest first."""
    goods = sorted(enumerate(record["checks"]), key=lambda pair: seconds_of(pair[1]))
    buttons = [
        f'<button type="button" data-check="{i}" title="{html.escape(check["what"])}"><span>'
        f'{html.escape(check["name"])}</span> <b>{short_time(seconds_of(check))}</b></button>'
        for i, check in goods
    ]
    return [
        '<fieldset class="setr-shop"><legend>Buy a check</legend>', *buttons, "</fieldset>",
        '<ol class="setr-log" aria-live="polite" aria-label="what the checks said"></ol>',
    ]  # fmt: skip


def _answer(record: Record) -> list[str]:
    options = "".join(
        f'<option value="{bug["id"]}" data-what="{html.escape(bug["what"])}">'
        f'{html.escape(bug["name"])}</option>'
        for bug in (*sorted(record["bugs"], key=lambda bug: bug["name"].lower()), CLEAN))
    return [
        '<form class="setr-answer"><label>The bug is <select><option value="">choose</option>'
        f'{options}</select></label> <button type="submit">Name it</button>'
        '<p class="setr-what" role="status"></p></form>',
    ]
