"""Thirty silent bugs: which check finds which, and what each costs in mIoU.

    OMP_NUM_THREADS=1 python book/_tools/measure_bugs.py [trained evaluated checks record]

Each bug of `silent.planted` is planted in a copy of the library. ``trained`` trains a short SETR
with it on ToyTown, three seeds; ``evaluated`` scores healthy, recorded weights with it; ``checks``
runs every check of `silent.checks` against it. A file is written after every single one, below
runs/silent_bugs: started again, the command skips what is there. ``record`` puts them together as
data/runs/silent_bugs/record.json, also of a study that is not finished.

Seconds are of the processor, one thread, so that other work on the machine changes them little.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from records import ROOT, RUNS, draw_town, study_options
from silent.copies import load_once, make_copy, run_in
from silent.outcomes import write_record
from silent.planted import BUGS, CONVERSION, EVALUATION, TRAINING, Bug

STEPS = 300
HEALTHY_SEEDS = 5
"""Of the trainings without a bug, which give the spread."""


class Study:
    """Where things are."""

    def __init__(self, asked: Any) -> None:
        self.town, self.runs, self.out = asked.town.resolve(), asked.runs.resolve(), asked.out
        self.seeds, self.steps = asked.seeds, asked.steps or STEPS
        self.truth = self.runs / "truth.npy"

    def copy(self, bug: Bug | None) -> Path:
        """The library with a bug, or as it is."""
        folder = self.runs / "copies" / (bug.id if bug else "healthy")
        folder.parent.mkdir(parents=True, exist_ok=True)
        return make_copy(ROOT / "setr_lite", folder, bug)

    def model(self, head: str, seed: int) -> Path:
        """A checkpoint of the short healthy training."""
        return self.runs / "models" / f"healthy_{head}_{seed}" / "last"

    def cell(self, place: str, bug: Bug | None, function: str, *arguments: Any) -> Any:
        """What a child found, or what it found when it was asked before."""
        file = self.runs / f"{place}.json"
        if not file.exists():
            found, seconds = run_in(self.copy(bug), function, *arguments)
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part")
            part.write_text(json.dumps({"found": found, "seconds": seconds}))
            part.rename(file)
            print(f"{place}: {seconds} s {str(found)[-150:]}", flush=True)
        return json.loads(file.read_text())

    def _read(self, place: str, key: str) -> Any:
        file = self.runs / f"{place}.json"
        return json.loads(file.read_text())[key] if file.exists() else None

    def found(self, place: str) -> Any:
        """What a child found; None where none was asked yet."""
        return self._read(place, "found")

    def seconds(self, place: str) -> float | None:
        """That it took."""
        return self._read(place, "seconds")


def queue(seeds: int) -> list[tuple[Bug | None, str, int]]:
    """Trainings in their order: whole seeds, then more of the healthy ones."""
    heads = sorted({bug.head for bug in BUGS}, reverse=True)  # PUP, which most bugs need, first
    ill = [bug for bug in BUGS if TRAINING in bug.bites]
    order: list[tuple[Bug | None, str, int]] = []
    for seed in range(seeds):
        order += [(None, head, seed) for head in heads]
        order += [(bug, bug.head, seed) for bug in ill]
    return order + [(None, head, seed) for head in heads for seed in range(seeds, HEALTHY_SEEDS)]


def name_of(bug: Bug | None, head: str) -> str:
    """Of a training, in files and in the record."""
    return bug.id if bug else f"healthy_{head}"


def measure_trained(study: Study) -> None:
    """All trainings."""
    for bug, head, seed in queue(study.seeds):
        name = name_of(bug, head)
        picture = study.out / "pictures" / f"{name}.png" if seed == 0 else ""
        study.cell(
            f"trained/{name}_{seed}", bug, "silent.costs:train_and_judge", head, study.steps, seed,
            str(study.town), str(study.runs / "models" / f"{name}_{seed}"), str(study.truth),
            str(picture))


def measure_evaluated(study: Study) -> None:
    """Healthy weights with each bug: the recorded ones, and those of the short training."""
    for bug, head, settings in evaluations():
        name = name_of(bug, head) + "".join(f",{setting}" for setting in settings if not bug)
        models = {"evaluated": RUNS / f"toytown_{head}" / "model"}
        if not bug or TRAINING not in bug.bites:
            seeds = range(HEALTHY_SEEDS if settings and not bug else 1)
            trained = {f"judged_{seed}": study.model(head, seed) for seed in seeds}
            models |= {place: folder for place, folder in trained.items() if folder.exists()}
        for place, folder in models.items():
            function, arguments = "silent.costs:judge", [str(study.truth), "", settings]
            if bug and CONVERSION in bug.bites and EVALUATION not in bug.bites:
                function, arguments = "silent.costs:judge_converted", [str(study.truth)]
            first = [bug.id] if bug and function.endswith("converted") else []
            if place == "judged_0" and bug:
                arguments[1:2] = [str(study.out / "pictures" / f"{bug.id}.png")]
            study.cell(f"{place}/{name}", bug, function, *first, str(folder), str(study.town),
                       *arguments)


def evaluations() -> list[tuple[Bug | None, str, tuple[str, ...]]]:
    """Healthy heads, healthy heads with the settings of some bug, bugs."""
    plain = [(None, head, ()) for head in sorted({bug.head for bug in BUGS})]
    special = sorted({(bug.head, bug.settings) for bug in BUGS if bug.settings})
    bitten = [(bug, bug.head, bug.settings) for bug in BUGS
              if EVALUATION in bug.bites or CONVERSION in bug.bites]
    return [*plain, *((None, *pair) for pair in special), *bitten]


def measure_checks(study: Study) -> None:
    """Every check of the library, with each bug and as it is, with each head that is trained."""
    for bug, name, head in (
        (None, "healthy", "pup"), *((bug, bug.id, bug.head) for bug in BUGS),
        (None, "healthy_mla", "mla"), (None, "healthy_naive", "naive"),
    ):  # fmt: skip
        study.cell(f"checks/{name}", bug, "silent.checks:battery", head, str(study.town),
                   str(RUNS / f"toytown_{head}" / "model"))


PARTS = {"trained": measure_trained, "evaluated": measure_evaluated, "checks": measure_checks,
         "record": write_record}


def main(words: list[str] | None = None) -> None:
    parser = study_options(__doc__, "silent_bugs", "silent_bugs")
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART")
    asked = parser.parse_args(words)
    study = Study(asked)
    if asked.parts != ["record"]:
        draw_town(asked.town)
        load_once()
    if not study.truth.exists():
        run_in(study.copy(None), "silent.costs:draw_truth", str(study.town), str(study.truth))
    for part in asked.parts:
        PARTS[part](study)


if __name__ == "__main__":
    sys.exit(main())
