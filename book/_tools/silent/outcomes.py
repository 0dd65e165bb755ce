"""The record: what was measured, put together, and four checks that read a user's own run.

The user of a bug has a run: the loss curve, the pictures and the score of seed 0, trained with the
bug if it bites in training, else trained healthily and evaluated with it. An automatic stand-in
takes the place of the eye, and each bound is written into the record.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from records import about, write

from .planted import BUGS, RANKS, TRAINING, Bug

STUDENT = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776}
"""97.5 % quantiles of Student's t by degrees of freedom."""
EYE = 0.10
"""Share of pixels by which labels must be worse than healthy ones before an eye is said to notice.
A generous eye: one in ten of all pixels."""
TICK = 0.01
"""Seconds, those of the processor's clock: no check takes less."""
NAMES = {
    "loss_falls": ("Loss falls", "The last tenth of the run's loss curve is below half of the "
                   "first tenth."),
    "pictures": ("Pictures look right", "Stand-in for a look at label maps: on 100 streets the "
                 "share of correct pixels is at most 10 points below the mean of healthy runs."),
    "miou_100": ("mIoU on 100 images", "The run's own score lies in the 95 % prediction interval "
                 "for one more healthy seed."),
    "edges": ("Look at the edges", "Errors in the outer 8 pixels, relative to those inside, lie in "
              "the 95 % prediction interval for one more healthy seed."),
    "shapes": ("Shape tests", "Shape and finite values of three heads at two sizes."),
    "sizes": ("Every size", "The shape at 266 sizes, odd ones among them."),
    "init_oracle": ("Oracle at initial scale", "Logits of weights of std 0.02 in float32 against a "
                    "second implementation, to 0.001."),
    "float64_oracle": ("Oracle in float64", "Logits of weights of std 0.2 in float64 against a "
                       "second implementation, to 1e-9, at the table's square size."),
    "non_square": ("Oracle, not square", "The same at 70 x 100 pixels: another grid, odd sizes."),
    "overfit": ("Overfit one batch", "After 60 steps on one batch its loss is below a fifth."),
    "overfit_predict": ("Overfit, then predict", "After that, predict is right at 90 % of the "
                        "pixels of the same images, read from their files."),
    "gradient": ("Gradient check", "The loss's derivative along a random direction, backward "
                 "against differences, in float64."),
    "steps_by_hand": ("Three steps by hand", "Weights after three steps against the loss, clipping "
                      "and AdamW of PyTorch."),
    "rates": ("Rates by formula", "The learning rate at each step by the formula; what decays."),
    "one_batch": ("Batch against files", "16 crops as the network gets them beside their files, "
                  "and one test image."),
    "score_by_hand": ("Score by hand", "Labels of six streets by a second implementation, their "
                      "mIoU by counting pixels."),
    "windows": ("Windows of ones", "Sliding windows of a constant average to that constant."),
    "two_ranks": ("Two ranks against one", "Weights after two steps with uneven ignored pixels."),
    "round_trip": ("Round trip of weights", "Into the authors' names and back."),
    "conversion": ("Known foreign files", "Files with known content, made without the library, "
                   "come in tensor by tensor."),
}
"""Of every check: its name, and what passes."""
MEANING = {
    "evaluated": "mIoU of recorded, healthily trained weights (2200 steps) when labels are made "
    "with the bug; compared pixel by pixel with the streets as drawn, not by the library",
    "trained": "the same of models trained with the bug, 300 steps, a number for each seed",
    "evaluated_reported, trained_reported": "what the library with the bug says of the same "
    "labels, and its user reads",
    "trained_cost": "points of mIoU against the healthy run of the same seed, 95 % t interval",
    "null": "does not bite there, see the bug's 'untrained' and 'bites'",
    "seconds": "of a check: processor time, one thread, median over all bugs; the first four read "
    "a run, and 'run_seconds' is what that takes",
}


def write_record(study: Any) -> None:
    """All that is there, also of a study that goes on."""
    runs = {bug.id: run_of(study, bug) for bug in BUGS}
    healthy = {head: spread(study, head) for head in sorted({bug.head for bug in BUGS})}
    outcomes = {"healthy": {**control(healthy["pup"]), **answers(study, "healthy")}}
    for bug in BUGS:
        group = healthy[bug.head] if not bug.settings else spread(study, bug.head, bug.settings)
        outcomes[bug.id] = {**read_run(runs[bug.id], group), **answers(study, bug.id)}
    record = about("python book/_tools/measure_bugs.py") | {
        "machine": "2 shared CPU cores (x86_64) with AMX, one thread",
        "schedule": schedule(study), "meaning": MEANING, "bounds": {"eye": EYE, "t": STUDENT},
        "controls": {name: answers(study, name) for name in ("healthy_mla", "healthy_naive")},
        "checks": checks(study), "bugs": [as_row(bug) for bug in BUGS], "outcomes": outcomes,
        **costs(study, healthy),
    }
    show_healthy(study.out / "pictures")
    write(study.out / "record.json", record | {"torch": record["versions"]["torch"]})


def show_healthy(pictures: Path) -> None:
    """Of a bug that one process has nothing of: what its user gets is healthy."""
    for bug in BUGS:
        healthy = pictures / f"healthy_{bug.head}.png"
        if bug.bites == (RANKS,) and healthy.exists():
            shutil.copyfile(healthy, pictures / f"{bug.id}.png")


def as_row(bug: Bug) -> dict[str, Any]:
    """A bug as JSON has it."""
    return bug._asdict() | {"bites": list(bug.bites), "settings": list(bug.settings)}


def schedule(study: Any) -> dict[str, Any]:
    """In words and numbers."""
    return {
        "steps": study.steps, "seeds": study.seeds, "batch": 2, "warmup": study.steps // 6,
        "what": "short on purpose: ToyTown's recipe of 2200 steps cut down, no auxiliary heads, "
        "random sizes 0.75 to 1.5, bfloat16 autocast, weights of the last step; scored in float32",
    }


# --- what children left --------------------------------------------------------------------------


def run_of(study: Any, bug: Bug) -> dict[str, Any] | None:
    """What the user of a bug has."""
    if TRAINING in bug.bites:
        return study.found(f"trained/{bug.id}_0")
    healthy = study.found(f"trained/healthy_{bug.head}_0")
    if bug.bites == (RANKS,):  # one process has nothing of it
        return healthy
    judged = study.found(f"judged_0/{bug.id}")
    return judged and healthy and {**healthy, **judged}


def spread(study: Any, head: str, settings: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Healthy runs of all seeds, evaluated with the settings."""
    if not settings:
        places = [f"trained/healthy_{head}_{seed}" for seed in range(9)]
    else:
        name = f"healthy_{head}" + "".join(f",{setting}" for setting in settings)
        places = [f"judged_{seed}/{name}" for seed in range(9)]
    return [found for place in places if (found := study.found(place))]


def answers(study: Any, name: str) -> dict[str, Any]:
    """Of the checks that see the library."""
    return (study.found(f"checks/{name}") or {"answers": {}})["answers"]


def checks(study: Any) -> list[dict[str, Any]]:
    """Names, sentences and seconds; those of the runs are their evaluation's, training apart."""
    measured = [found["seconds"] for bug in (None, *BUGS)
                if (found := study.found(f"checks/{bug.id if bug else 'healthy'}"))]
    training = [seconds for bug in BUGS if (seconds := study.seconds(f"trained/{bug.id}_0"))]
    scoring = [seconds for bug in BUGS if (seconds := study.seconds(f"evaluated/{bug.id}"))]
    rows = []
    for key, (name, what) in NAMES.items():
        own = [row[key] for row in measured if key in row]
        row = {"id": key, "name": name, "what": what,
               "seconds": max(TICK, median(own)) if own else None}
        if key in ("loss_falls", "pictures", "miou_100", "edges"):
            row["seconds"] = TICK if key == "loss_falls" else median(scoring) if scoring else None
            row["run_seconds"] = median(training) if training else None
        rows.append(row)
    return rows


# --- checks of a run -----------------------------------------------------------------------------


def control(group: list[dict[str, Any]]) -> dict[str, Any]:
    """Seed 0 of a healthy run against the other seeds."""
    return read_run(group[0], group[1:]) if len(group) > 2 else {}


def read_run(run: dict[str, Any] | None, group: list[dict[str, Any]]) -> dict[str, Any]:
    """The four checks that need a run; nothing where one is missing."""
    if not run or len(group) < 2 or "error" in run:
        return {}
    return {
        "loss_falls": falls(run["curve"]),
        "pictures": looks(run["right"], [one["right"] for one in group]),
        "miou_100": inside(100 * run["reported"], [100 * one["reported"] for one in group], "mIoU"),
        "edges": inside(run["edge"], [one["edge"] for one in group], "edge to inside"),
    }


def falls(curve: list[list[float]]) -> dict[str, Any]:
    """Below half of where it began."""
    tenth = max(1, len(curve) // 10)
    first, last = (mean(loss for _, loss in part) for part in (curve[:tenth], curve[-tenth:]))
    return {"found": not last < first / 2, "says": f"loss {first:.2f} -> {last:.2f}"}


def looks(right: float, healthy: Iterable[float]) -> dict[str, Any]:
    """Within what an eye would let pass."""
    usual = mean(healthy)
    return {"found": right < usual - EYE,
            "says": f"{right:.1%} of the pixels are right, {usual:.1%} in healthy runs"}


def inside(value: float, healthy: list[float], name: str) -> dict[str, Any]:
    """Within the 95 % prediction interval for one more run like these."""
    low, high = prediction_interval(healthy)
    return {"found": not low <= value <= high,
            "says": f"{name} {value:.2f}, one more healthy seed has {low:.2f} to {high:.2f}"}


def prediction_interval(values: list[float]) -> tuple[float, float]:
    """Where one more value of a normal distribution lies with 95 %."""
    n = len(values)
    reach = STUDENT[n - 1] * stdev(values) * math.sqrt(1 + 1 / n)
    return mean(values) - reach, mean(values) + reach


# --- costs ---------------------------------------------------------------------------------------


def costs(study: Any, healthy: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Scores, curves and classes, of bugs and of their controls."""
    found: dict[str, dict[str, Any]] = {key: {} for key in (
        "evaluated", "evaluated_reported", "trained", "trained_reported", "curves", "iou")}
    for bug in BUGS:
        enter(found, bug.id, study.found(f"evaluated/{bug.id}"), seeds_of(study, bug))
        run = run_of(study, bug)
        if run and "iou" in run:  # of the run that its user has, trained with the bug or not
            found["iou"][bug.id] = run["iou"]
    for head, group in healthy.items():
        name = f"healthy_{head}"
        enter(found, name, study.found(f"evaluated/{name}"), group)
    for bug in BUGS:
        if bug.settings:
            name = f"healthy_{bug.head}" + "".join(f",{setting}" for setting in bug.settings)
            enter(found, f"healthy_for_{bug.id}", study.found(f"evaluated/{name}"), [])
    paired = {bug.id: difference(found["trained"][bug.id], healthy[bug.head]) for bug in BUGS}
    return found | {"trained_cost": paired}


def difference(ill: list[float] | None, healthy: list[dict[str, Any]]) -> dict[str, float] | None:
    """mIoU in points against the healthy run of the same seed, with a 95 % t interval."""
    gaps = [100 * (miou - run["miou"]) for miou, run in zip(ill or (), healthy, strict=False)]
    if len(gaps) < 2:
        return None
    reach = STUDENT[len(gaps) - 1] * stdev(gaps) / math.sqrt(len(gaps))
    return {"mean": round(mean(gaps), 2), "low": round(mean(gaps) - reach, 2),
            "high": round(mean(gaps) + reach, 2)}


def seeds_of(study: Any, bug: Bug) -> list[dict[str, Any]]:
    """Its trainings."""
    places = [f"trained/{bug.id}_{seed}" for seed in range(study.seeds)]
    return [run for place in places if (run := study.found(place))]


def enter(
    found: dict[str, dict[str, Any]], name: str, evaluated: dict[str, Any] | None,
    runs: list[dict[str, Any]],
) -> None:
    """A row of all tables."""
    for key, what in (("", "miou"), ("_reported", "reported")):
        found[f"evaluated{key}"][name] = evaluated.get(what) if evaluated else None
        found[f"trained{key}"][name] = [run[what] for run in runs] or None
    if runs:
        found["curves"][name], found["iou"][name] = runs[0]["curve"], runs[0]["iou"]
