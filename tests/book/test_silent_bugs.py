"""The page of silent bugs: each can be planted today, and a part of its matrix is found again."""

import ast
import json
import math
from pathlib import Path

import pytest
from silent.copies import make_copy, run_in
from silent.outcomes import NAMES, difference, falls, inside, looks, prediction_interval
from silent.planted import BUGS, BY_ID, CONVERSION, EVALUATION, RANKS, TRAINING, planted

ROOT = Path(__file__).resolve().parents[2]
RECORD = json.loads((ROOT / "data/runs/silent_bugs/record.json").read_text("utf-8"))


@pytest.mark.smoke
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.id)
def test_it_can_be_planted(bug):
    text = (ROOT / "setr_lite" / bug.file).read_text("utf-8")
    wrong = planted(text, bug.before, bug.after, bug.file)
    assert ast.unparse(ast.parse(wrong)) != ast.unparse(ast.parse(text))
    assert set(bug.bites) <= {TRAINING, EVALUATION, CONVERSION, RANKS}
    assert bool(bug.untrained) == (TRAINING not in bug.bites)


@pytest.mark.smoke
def test_what_is_not_there_once_is_not_planted():
    for text in ("b", "a a"):
        with pytest.raises(SystemExit, match="is there"):
            planted(text, "a", "c")
    with pytest.raises(SystemExit):
        planted("a", "a", "a")


@pytest.mark.smoke
def test_the_record_is_whole_and_of_these_bugs():
    rows = [{**bug._asdict(), "bites": list(bug.bites), "settings": list(bug.settings)}
            for bug in BUGS]
    assert RECORD["bugs"] == rows
    assert [check["id"] for check in RECORD["checks"]] == list(NAMES)
    assert set(RECORD["outcomes"]) == {"healthy", *BY_ID}
    for name, answers in RECORD["outcomes"].items():
        assert set(answers) == set(NAMES), name
    assert all(check["seconds"] is not None for check in RECORD["checks"])
    for bug in BUGS:
        seeds = RECORD["schedule"]["seeds"] if TRAINING in bug.bites else 0
        assert len(RECORD["trained"][bug.id] or ()) == seeds, bug.id
        scored = EVALUATION in bug.bites or CONVERSION in bug.bites
        assert (RECORD["evaluated"][bug.id] is not None) == scored, bug.id
        assert (ROOT / "data/runs/silent_bugs/pictures" / f"{bug.id}.png").exists()


@pytest.mark.smoke
def test_the_healthy_library_passes_every_check():
    """The control: else a check that always cries would find everything."""
    assert [name for name, cell in RECORD["outcomes"]["healthy"].items() if cell["found"]] == []


@pytest.mark.slow
@pytest.mark.parametrize(("bug", "checks"), [
    (None, ("init_oracle", "float64_oracle", "round_trip", "conversion")),
    ("qk_swapped", ("init_oracle", "float64_oracle")),
    ("mla_conversion", ("round_trip", "conversion")),
])  # fmt: skip
def test_cells_come_out_again(bug, checks, tmp_path):
    """Of both bugs one check finds it and one does not."""
    folder = make_copy(ROOT / "setr_lite", tmp_path / "copy", BY_ID.get(bug))
    found, seconds = run_in(folder, "silent.checks:battery", "pup", "", "", list(checks))
    assert seconds > 0
    recorded = RECORD["outcomes"][bug or "healthy"]
    assert {name: cell["found"] for name, cell in found["answers"].items()} == {
        name: recorded[name]["found"] for name in checks}
    assert bug is None or len({recorded[name]["found"] for name in checks}) == 2


def test_a_child_says_what_went_wrong(tmp_path):
    folder = make_copy(ROOT / "setr_lite", tmp_path / "copy", None)
    found, _ = run_in(folder, "silent.costs:no_such_function")
    assert found["error"].startswith("AttributeError")


@pytest.mark.smoke
def test_bounds_of_the_checks_that_read_a_run():
    low, high = prediction_interval([1.0, 2.0, 3.0])
    assert low == pytest.approx(2 - 4.303 * math.sqrt(4 / 3))
    assert high == pytest.approx(2 + 4.303 * math.sqrt(4 / 3))
    assert [inside(v, [1.0, 2.0, 3.0], "x")["found"] for v in (low - 0.01, 2, high + 0.01)] == [
        True, False, True]
    assert [looks(right, [0.8, 0.9])["found"] for right in (0.74, 0.76)] == [True, False]
    lines = [[[step, 4 - slope * step] for step in range(20)] for slope in (0.05, 0.2)]
    assert [falls(curve)["found"] for curve in lines] == [True, False]
    assert falls([[0, 4.0], [1, math.nan]])["found"]


@pytest.mark.smoke
def test_costs_are_paired_by_seed():
    healthy = [{"miou": miou} for miou in (0.5, 0.6, 0.4, 0.9)]  # more seeds than were trained ill
    cost = difference([0.4, 0.5, 0.3], healthy)
    assert cost == pytest.approx({"mean": -10, "low": -10, "high": -10})
    cost = difference([0.4, 0.4], healthy)
    assert cost == pytest.approx({"mean": -15, "low": -78.55, "high": 48.55})
    assert difference(None, healthy) is None


@pytest.mark.smoke
def test_the_promises_tell_how_many_our_own_tests_caught():
    """A line of the record for each attempt: the first is of the tests as they were."""
    file = ROOT / "data/runs/silent_bugs/mutants.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    first = {row["key"]: row["outcome"] for row in reversed(rows)}
    last = {row["key"]: row["outcome"] for row in rows}
    caught, now = (sum(v == "killed" for v in found.values()) for found in (first, last))
    page = " ".join((ROOT / "book/promises.md").read_text("utf-8").split())
    assert f"The tests caught {caught} of {len(BUGS)}." in page
    assert len(last) == len(BUGS) == now
    assert f"now all {now} are caught" in page
