"""What the record of the silent bugs says, and two figures that show all of it without a script.

The record is ``data/runs/silent_bugs/record.json``:

===================  ===============================================================================
``checks``           ``id``, ``name``, ``what`` (a sentence), ``seconds`` (a measured median); where
                     it reads a run, ``run_seconds`` to train one
``bugs``             ``id``, ``name``, ``what``, ``file``, ``before``, ``after``, ``bites`` and
                     ``head``
``outcomes``         bug -> check -> ``found`` and what the check ``says``; also for ``healthy``;
                     without a check that cannot be run on the bug
``trained``          bug -> mIoU of each seed, or None; also ``healthy_HEAD``
``trained_cost``     bug -> ``mean``, ``low``, ``high`` of pairs by seed, in points; or None
``evaluated``        bug -> mIoU of a good checkpoint scored under it, or None; also
                     ``healthy_HEAD``, and ``healthy_for_BUG`` of one scored in another way
``..._reported``     the same two as the code with the bug reports them
``curves``, ``iou``  bug -> (step, loss) pairs, and class -> IoU, of seed 0
===================  ===============================================================================
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .interactive import Figure, figure_html, identifier, script_line

Record = Mapping[str, Any]
Bug = Mapping[str, Any]
Check = Mapping[str, Any]
HEALTHY = "healthy"
NOT_RUN = {"found": None, "says": "it does not apply to this run"}
SHORTEST = 0.01
"""Seconds; the clock of the record counts no finer."""


# --- numbers ------------------------------------------------------------------------------------


def short_time(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``2.5 min``: two digits, as `laboratory.js` writes them."""
    number, unit = (seconds, "s") if seconds < 59.5 else (seconds / 60, "min")
    return f"{float(f'{number:.2g}'):g}\N{NO-BREAK SPACE}{unit}"


def seconds_of(check: Check) -> float:
    """What a check takes, with the run that it reads, if it does; at least `SHORTEST`."""
    return max((check["seconds"] or 0) + (check.get("run_seconds") or 0), SHORTEST)


def outcome(record: Record, bug: str, check: str) -> Mapping[str, Any]:
    """``found`` (None where it was not run) and what the check ``says``."""
    return record["outcomes"][bug].get(check, NOT_RUN)


def found(record: Record, bug: str, check: str) -> bool:
    """Whether this check raises an alarm about this bug."""
    return bool(outcome(record, bug, check)["found"])


def finders(record: Record, bug: str) -> list[Check]:
    """The checks that find the bug, the cheapest first."""
    there = [check for check in record["checks"] if found(record, bug, check["id"])]
    return sorted(there, key=seconds_of)


def baseline(bug: Bug) -> str:
    """The key of the runs without a bug that this one is compared with."""
    return f"{HEALTHY}_{bug['head']}"


def cost_of_training(record: Record, bug: Bug) -> tuple[float, float, float] | None:
    """(mean, low, high): points of mIoU against training without the bug, with a 95 % interval.

    Pairs of one seed, which have the same first weights and the same crops. None where nothing was
    trained.
    """
    cost = record["trained_cost"].get(bug["id"])
    return cost and (cost["mean"], cost["low"], cost["high"])


def cost_of_scoring(record: Record, bug: Bug) -> float | None:
    """Points of mIoU of a good checkpoint scored under the bug against the same without."""
    with_, without = record["evaluated"].get(bug["id"]), unharmed(record, bug)
    return None if with_ is None or without is None else 100 * (with_ - without)


def unharmed(record: Record, bug: Bug) -> float | None:
    """mIoU of the good checkpoint without the bug, scored in the same way."""
    scored = record["evaluated"]
    return scored.get(f"{HEALTHY}_for_{bug['id']}", scored.get(baseline(bug)))


class Step(NamedTuple):
    """A check in the order of `best_order`."""

    check: Check
    new: int
    """Bugs that it finds and none before it."""
    bugs: int
    """Bugs that are found by now."""
    seconds: float
    """What the checks up to this one take."""


def best_order(record: Record, bugs: Iterable[str] | None = None) -> list[Step]:
    """Again and again the check that finds most of the bugs not yet found; of two, the quicker.

    Those that read a trained run come last. Greedy, and ends when no check finds anything new.
    ``bugs``: ids, all by default.
    """
    left = list(bugs if bugs is not None else (bug["id"] for bug in record["bugs"]))
    whole, seconds, steps = len(left), 0.0, list[Step]()
    while True:
        finds = {check["id"]: [bug for bug in left if found(record, bug, check["id"])]
                 for check in record["checks"]}  # fmt: skip
        best = max(record["checks"], key=lambda c: (
            bool(finds[c["id"]]), not c.get("run_seconds"), len(finds[c["id"]]), -seconds_of(c)))
        if not finds[best["id"]]:
            return steps
        new = len(finds[best["id"]])
        left = [bug for bug in left if bug not in finds[best["id"]]]
        seconds += seconds_of(best)
        steps.append(Step(best, new, whole - len(left), seconds))


def reads_a_run(record: Record) -> list[str]:
    """The checks that look at a trained run; the others compare."""
    return [check["id"] for check in record["checks"] if check.get("run_seconds")]


def found_by_drawn(record: Record, checks: Sequence[str], count: int) -> float:
    """How many bugs ``count`` of these checks find, on average over all ways to draw them."""
    finds = [sum(found(record, bug["id"], check) for check in checks) for bug in record["bugs"]]
    ways = math.comb(len(checks), count)
    return sum(1 - math.comb(len(checks) - k, count) / ways for k in finds)


def chosen_on_half(
    record: Record, count: int = 3, splits: int = 1000, seed: int = 0
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(splits, 2): what share of the bugs ``count`` comparisons find, and those that read a run.

    Comparisons are the first of `best_order` on a random half of the bugs, and both shares are of
    the other half: scored where they were chosen, they would look better than they are.
    """
    looks, shares = reads_a_run(record), []
    draw = np.random.default_rng(seed)
    for _ in range(splits):
        mixed = draw.permutation([bug["id"] for bug in record["bugs"]]).tolist()
        chosen_on, rest = mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]
        order = (step.check["id"] for step in best_order(record, chosen_on))
        chosen = [check for check in order if check not in looks][:count]
        shares.append([np.mean([any(found(record, bug, check) for check in group) for bug in rest])
                       for group in (chosen, looks)])
    return np.array(shares)


# --- figures ------------------------------------------------------------------------------------


def lab_style() -> str:
    return f"<style>{script_line('laboratory.css')}</style>"


def signed(points: float) -> str:
    """``-3.2``, ``+0.4`` or ``0.0``, with a real minus."""
    text = f"{points:+.1f}".replace("-", "\N{MINUS SIGN}")
    return text[1:] if text[1:] == "0.0" else text


class BugMatrix(Figure):
    """Bugs x checks: found or missed, what each bug costs, and what each check takes.

    Rows from the bug that most checks find to those that none does, columns from the check that
    finds most; a table of real text, without a script. ``name`` identifies it on its page.
    """

    def __init__(self, record: Record, *, name: str, caption: str = ""):
        checks = sorted(record["checks"], key=lambda c: (-_finds(record, c), seconds_of(c)))
        bugs = sorted(record["bugs"], key=lambda bug: -len(finders(record, bug["id"])))
        cells = [[found(record, bug["id"], check["id"]) for check in checks] for bug in bugs]
        still = np.where(np.array(cells)[..., None], (0, 114, 178), (238, 238, 238))
        still = np.kron(still.astype(np.uint8), np.ones((16, 16, 1), np.uint8))
        super().__init__(f"{len(bugs)} bugs, {len(checks)} checks", still, [cells], 2)
        lines = [lab_style(), *_table(record, bugs, checks)]
        self._bundle["text/html"] = figure_html(identifier(name), "setr-matrix", lines, caption)
        self._check_size(len(self._bundle["text/html"]), "shorten the names")


OPEN = "const a = event.target.closest('a'); if (a) document.querySelector(a.hash).open = true"
"""A link into the list unfolds what it leads to."""


def _finds(record: Record, check: Check) -> int:
    return sum(found(record, bug["id"], check["id"]) for bug in record["bugs"])


def _table(record: Record, bugs: Sequence[Bug], checks: Sequence[Check]) -> list[str]:
    """Roles are spelt out: a phone lays the rows out as grids, and they would lose theirs."""
    heads = "".join(
        f'<th role="columnheader" scope="col"><span>{html.escape(check["name"])}</span></th>'
        for check in checks)
    costs = "".join(
        f'<th role="columnheader" scope="col" class="setr-cost"><span>{text}</span></th>'
        for text in ("trained", "scored"))
    return [
        f'<table role="table" class="setr-bugs" style="--checks:{len(checks)}" onclick="{OPEN}">'
        '<thead role="rowgroup"><tr role="row">'
        f'<th role="columnheader" scope="col" class="setr-bug">bug</th>{heads}{costs}</tr></thead>',
        '<tbody role="rowgroup">',
        *(_row(record, bug, checks) for bug in bugs),
        '</tbody><tfoot role="rowgroup">',
        _foot("finds", [str(_finds(record, check)) for check in checks]),
        _foot("takes", [short_time(seconds_of(check)) for check in checks]),
        "</tfoot></table>",
    ]


CELLS = {
    answer: f'<td role="cell" class="setr-{word}"><span aria-hidden="true">{sign}</span>'
    f"<i>{word}</i></td>"
    for answer, word, sign in ((True, "found", "●"), (False, "missed", "·"), (None, "not run", ""))
}
"""Of the matrix, by what the check answered."""


def _row(record: Record, bug: Bug, checks: Sequence[Check]) -> str:
    cells = "".join(CELLS[outcome(record, bug["id"], check["id"])["found"]] for check in checks)
    trained, scored = cost_of_training(record, bug), cost_of_scoring(record, bug)
    interval = trained and f"<small>{signed(trained[1])} to {signed(trained[2])}</small>"
    costs = [f"{signed(trained[0])} {interval}" if trained else "–",
             "–" if scored is None else signed(scored)]  # fmt: skip
    return (
        f'<tr role="row"><th role="rowheader" scope="row" class="setr-bug">'
        f'<a href="#{anchor(bug)}">{html.escape(bug["name"])}</a></th>{cells}'
        + "".join(f'<td role="cell" class="setr-cost">{text}</td>' for text in costs) + "</tr>")


def _foot(word: str, values: Sequence[str]) -> str:
    """A row below the checks; ``setr-WORD`` is its class."""
    cells = "".join(f'<td role="cell"><span>{value}</span></td>' for value in values)
    return (f'<tr role="row" class="setr-{word}"><th role="rowheader" scope="row" class="setr-bug">'
            f"{word}</th>{cells}"
            '<td role="cell" class="setr-cost"></td><td role="cell" class="setr-cost"></td></tr>')


class BugList(Figure):
    """Every bug with its diff and with what the checks that found it said; without a script."""

    def __init__(self, record: Record, *, name: str, caption: str = ""):
        super().__init__(f"{len(record['bugs'])} bugs", np.full((8, 480, 3), 238, np.uint8), [], 2)
        lines = [lab_style(), *(_folded(record, bug) for bug in record["bugs"])]
        self._bundle["text/html"] = figure_html(identifier(name), "setr-list", lines, caption)
        self._check_size(len(self._bundle["text/html"]), "shorten what the checks say")


def anchor(bug: Bug) -> str:
    return identifier("bug-" + bug["id"].replace("_", "-"))


def _folded(record: Record, bug: Bug) -> str:
    run = [(check, out) for check in record["checks"]
           if (out := outcome(record, bug["id"], check["id"]))["found"] is not None]
    says = "".join(
        f'<li class="setr-alarm"><b>{html.escape(check["name"])}</b>: '
        f'{html.escape(out["says"])}</li>' for check, out in run if out["found"])
    passed = sum(not out["found"] for _, out in run)
    says += f'<li class="setr-pass">{passed} of {len(run)} checks pass.</li>'
    return (
        f'<details id="{anchor(bug)}"><summary>'
        f'{html.escape(bug["name"])}</summary><p>{html.escape(bug["what"])} '
        f"{html.escape(' '.join(costs_in_words(record, bug)))}</p>"
        f"{diff(bug)}<ul>{says}</ul></details>")


def diff(bug: Bug) -> str:
    """The line as it is, and as the bug has it."""
    texts = [bug[side].strip("\n").splitlines() for side in ("before", "after")]
    filled = [line for text in texts for line in text if line.strip()]
    margin = min((len(line) - len(line.lstrip()) for line in filled), default=0)
    lines = [(sign, kind, line[margin:])
             for sign, kind, text in zip("\N{MINUS SIGN}+", ("del", "ins"), texts, strict=True)
             for line in text]  # fmt: skip
    body = "".join(f"<{kind}>{sign} {html.escape(line)}\n</{kind}>" for sign, kind, line in lines)
    return f'<p class="setr-file">{html.escape(bug["file"])}</p><pre class="setr-diff">{body}</pre>'


def costs_in_words(record: Record, bug: Bug) -> list[str]:
    """Sentences with the mIoU that it was trained to and scored at, each beside its control."""
    said = []
    if trained := record["trained"].get(bug["id"]):
        said.append(f"Trained with it, {len(trained)} seeds: mIoU {_percents(trained)}; "
                    f"without: {_percents(record['trained'][baseline(bug)])}.")
        said += _own_word(trained[0], (record.get("trained_reported", {}).get(bug["id"]) or [])[:1])
    if (scored := record["evaluated"].get(bug["id"])) is not None:
        said.append(f"A good checkpoint scored with it: {_percents([scored])}; "
                    f"without: {_percents([unharmed(record, bug)])}.")
        if not trained:
            reported = record.get("evaluated_reported", {}).get(bug["id"])
            said += _own_word(scored, [reported] if reported is not None else [])
    return said or ["No mIoU was measured with it."]


def _own_word(miou: float, reported: Sequence[float]) -> list[str]:
    """Where the code with the bug says otherwise, by half a point or more."""
    return [f"What the code itself reports: {_percents([said])}."
            for said in reported if abs(said - miou) > 0.005]


def _percents(shares: Iterable[float | None]) -> str:
    return " ".join("-" if share is None else f"{100 * share:.1f}" for share in shares)
