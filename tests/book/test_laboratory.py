"""The laboratory of silent bugs: its arithmetic on three bugs, and its page in a browser."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from bs4 import BeautifulSoup
from figures import silent_bugs as silent
from figures.interactive import script_line
from figures.laboratory import CLEAN, Laboratory, _dealt

from setr_lite.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
FOUND = {"one": "ab", "two": "b", "three": "", "healthy": ""}
"""Which of the checks a, b and c find each bug."""
SECONDS = {"a": 1.0, "b": 3.0, "c": 0.5}


def bug(name, **more):
    return {"id": name, "name": f"bug <{name}>", "what": f"What {name} does.", "head": "pup",
            "file": "x.py", "before": f"    {name} = 1\n", "after": "", "bites": ["training"],
            **more}  # fmt: skip


@pytest.fixture
def record():
    return {
        "checks": [{"id": c, "name": f"check {c}", "what": "w", "seconds": s}
                   for c, s in SECONDS.items()],
        "bugs": [bug("one"), bug("two", bites=["ranks"]), bug("three")],
        "outcomes": {b: {c: {"found": c in found, "says": f"{c} of {b}"} for c in SECONDS}
                     for b, found in FOUND.items()},
        "trained": {"one": [0.5, 0.52, 0.54], "healthy_pup": [0.7, 0.7, 0.76]},
        "evaluated": {"one": 0.1, "healthy_pup": 0.7},
        "curves": {"one": [[0, 3.0], [10, 1.0]], "healthy_pup": [[0, 2.9], [10, 0.5]]},
        "iou": {"one": {"road": 0.5}, "healthy_pup": {"road": 0.8, "sky": 0.9}},
    }  # fmt: skip


@pytest.fixture
def pictures():
    truth = np.zeros((4, 6, 3), np.uint8)
    wrong = truth.copy()
    wrong[:2] = 255
    return {"truth": truth, "one": wrong, "healthy_pup": truth}


def game(record, pictures):
    return Laboratory(record, pictures, {"road": (1, 2, 3), "sky": (4, 5, 6)}, name="lab")


def soup(figure):
    return BeautifulSoup(figure._repr_mimebundle_()["text/html"], "html.parser")


# --- arithmetic ---------------------------------------------------------------------------------


def test_times():
    said = [silent.short_time(s).replace("\N{NO-BREAK SPACE}", " ") for s in (0.432, 9.96, 59, 150)]
    assert said == ["0.43 s", "10 s", "59 s", "2.5 min"]


def test_the_cost_of_training_is_students_interval(record):
    mean, low, high = silent.cost_of_training(record, record["bugs"][0])
    # by hand: squares 8 and 24, four degrees of freedom, t 2.776
    half = 2.776 * (32 / 4 * (2 / 3)) ** 0.5
    assert (mean, low, high) == pytest.approx((-20, -20 - half, -20 + half))
    assert silent.cost_of_training(record, record["bugs"][1]) is None
    record["trained"]["one"] = [0.5]
    assert silent.cost_of_training(record, record["bugs"][0]) is None
    assert silent.cost_of_scoring(record, record["bugs"][0]) == pytest.approx(-60)


def test_the_best_order_counts_what_is_new(record):
    first, second = silent.best_order(record)
    assert (first.check["id"], first.new, first.bugs, first.seconds) == ("a", 1, 1, 1.0)
    assert (second.check["id"], second.new, second.bugs, second.seconds) == ("b", 1, 2, 4.0)
    assert silent.best_order(record, ["three"]) == []
    record["checks"][1]["seconds"] = 0.0  # less than the clock counts
    assert [step.check["id"] for step in silent.best_order(record)] == ["b"]
    record["checks"][1]["run_seconds"] = 3.0  # unless it needs a run
    assert [step.check["id"] for step in silent.best_order(record)] == ["a", "b"]


def test_a_check_that_was_not_run_finds_nothing_and_is_left_blank(record, pictures):
    del record["outcomes"]["one"]["a"]
    assert [check["id"] for check in silent.finders(record, "one")] == ["b"]
    row = soup(silent.BugMatrix(record, name="m")).select_one("tbody tr")
    assert sorted(cell.text for cell in row.select("td i")) == ["found", "missed", "not run"]
    assert "check a" not in soup(silent.BugList(record, name="x")).select_one("#bug-one").text
    game(record, pictures)


def test_a_score_that_the_bug_misreports_is_told(record):
    one = record["bugs"][0]
    record["trained_reported"] = {"one": [0.7, 0.7, 0.7]}
    assert "What the code itself reports: 70.0." in silent.costs_in_words(record, one)
    record["evaluated"]["healthy_for_one"] = 0.4  # scored in another way, so is its control
    assert silent.cost_of_scoring(record, one) == pytest.approx(-30)
    assert [check["id"] for check in silent.finders(record, "one")] == ["a", "b"]


# --- what stands in the page --------------------------------------------------------------------


def test_the_page_has_every_outcome_as_recorded(record, pictures):
    page = soup(game(record, pictures))
    cases = json.loads(page.select_one(".setr-cases").string)["cases"]
    assert {case["id"] for case in cases} == {"one", "two", "three", "healthy"}
    for case in cases:
        want = record["outcomes"][case["id"]]
        assert case["iou"] == ([50, None] if case["id"] == "one" else [80, 90])
        assert case["says"] == [[out["found"], out["says"]] for out in want.values()]
    by_id = {case["id"]: case for case in cases}
    assert "50.0 52.0 54.0; without: 70.0 70.0 76.0" in by_id["one"]["cost"]
    assert by_id["one"]["par"].replace("\N{NO-BREAK SPACE}", " ").endswith("check a, 1 s.")
    assert by_id["three"]["par"] == "None of the checks finds it."
    assert by_id["healthy"]["par"] == "No check raises an alarm."
    assert by_id["one"]["mapWords"].startswith("50%")
    assert "Two processes" in by_id["two"]["story"]
    assert by_id["two"]["loss"] == by_id["two"]["twin"] != by_id["one"]["loss"]


def test_a_false_alarm_is_called_one(record, pictures):
    record["outcomes"]["healthy"]["b"]["found"] = True
    cases = json.loads(soup(game(record, pictures)).select_one(".setr-cases").string)["cases"]
    assert [c["par"] for c in cases if c["id"] == "healthy"] == ["A false alarm: check b."]


def test_the_answers_are_all_bugs_and_none(record, pictures):
    page = soup(game(record, pictures))
    texts = [option.text for option in page.select(".setr-answer option")]
    assert texts == ["choose", "bug <one>", "bug <three>", "bug <two>", CLEAN["name"]]
    prices = [button["data-check"] for button in page.select(".setr-shop button")]
    assert prices == ["2", "0", "1"]  # the cheapest first


def test_the_order_of_the_cases_is_always_the_same_and_none_of_theirs(record):
    record["bugs"] = [bug(f"b{i}") for i in range(20)]
    dealt = [case["id"] for case in _dealt(record)]
    assert dealt == [case["id"] for case in _dealt(record)]
    assert dealt[:-1] != [b["id"] for b in record["bugs"]]


def test_a_case_without_a_map_is_refused(record, pictures):
    del pictures["healthy_pup"]
    with pytest.raises(UserError, match="no label map"):
        game(record, pictures)


def test_the_matrix_is_sorted_and_its_cells_are_the_record(record):
    page = soup(silent.BugMatrix(record, name="m"))
    rows = page.select("tbody tr")
    assert [row.select_one("a").text for row in rows] == ["bug <one>", "bug <two>", "bug <three>"]
    heads = [head.text for head in page.select("thead th")]
    assert heads[1:4] == ["check b", "check a", "check c"]
    words = [[cell.text for cell in row.select("td i")] for row in rows]
    assert words == [["found", "found", "missed"], ["found", "missed", "missed"], ["missed"] * 3]
    finds, takes = page.select("tfoot tr")
    assert [cell.text for cell in finds.select("td span")] == ["2", "1", "0"]
    assert [cell.text[:1] for cell in takes.select("td span")] == ["3", "1", "0"]
    assert "−20.0" in rows[0].select_one(".setr-cost").text


def test_the_list_has_each_bug_with_its_diff_and_is_what_the_matrix_leads_to(record):
    page, links = (soup(figure(record, name="x")) for figure in (silent.BugList, silent.BugMatrix))
    there = {"#" + entry["id"] for entry in page.select("details")}
    assert {a["href"] for a in links.select("a")} == there
    first = page.select_one("#bug-one")
    assert first.select_one("del").text == "− one = 1\n"
    assert not first.select("ins")  # a line that the bug leaves out
    assert [li["class"] for li in first.select("li")] == [["setr-alarm"]] * 2 + [["setr-pass"]]


@pytest.mark.skipif(not shutil.which("node"), reason="no node to read the script")
def test_the_script_survives_on_one_line(tmp_path):
    (tmp_path / "one.mjs").write_text(f"export default ({script_line('laboratory.js')});", "utf-8")
    subprocess.run(["node", "--check", str(tmp_path / "one.mjs")], check=True)
