"""The laboratory of silent bugs: its arithmetic on three bugs, and its page in a browser."""

import json
import shutil
import subprocess
from pathlib import Path

import nbformat
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
        "bugs": [bug("one"), bug("two", bites=["ranks"]), bug("three", settings=["a.b=1"])],
        "outcomes": {b: {c: {"found": c in found, "says": f"{c} of {b}"} for c in SECONDS}
                     for b, found in FOUND.items()},
        "trained": {"one": [0.5, 0.52, 0.54], "healthy_pup": [0.7, 0.7, 0.76]},
        "trained_cost": {"one": {"mean": -20, "low": -25, "high": -15}, "two": None},
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


def test_costs_are_points_of_miou(record):
    one, two, _ = record["bugs"]
    assert silent.cost_of_training(record, one) == (-20, -25, -15)
    assert silent.cost_of_training(record, two) is None
    assert silent.cost_of_scoring(record, one) == pytest.approx(-60)
    assert silent.cost_of_scoring(record, two) is None


def test_the_best_order_counts_what_is_new(record):
    (only,) = silent.best_order(record)
    assert (only.check["id"], only.new, only.bugs, only.seconds) == ("b", 2, 2, 3.0)
    record["outcomes"]["two"] = {c: {"found": c == "c", "says": ""} for c in SECONDS}
    first, second = silent.best_order(record)  # each finds one: the quicker stands first
    assert (first.check["id"], first.new, first.bugs, first.seconds) == ("c", 1, 1, 0.5)
    assert (second.check["id"], second.new, second.bugs, second.seconds) == ("a", 1, 2, 1.5)
    record["checks"][2]["run_seconds"] = 0.1  # c reads a run: it comes last
    assert [step.check["id"] for step in silent.best_order(record)] == ["a", "c"]
    assert silent.best_order(record, ["three"]) == []


def test_checks_are_chosen_on_one_half_and_scored_on_the_other(record):
    record["bugs"] = [bug(name) for name in "abc"] + [bug("d")]
    record["checks"] += [{"id": "look", "name": "look", "what": "w", "seconds": 1.0,
                          "run_seconds": 2.0}]  # fmt: skip

    def finds(**names):
        record["outcomes"] = {b: {check: {"found": b in found, "says": ""}
                                  for check, found in names.items()} for b in "abcd"}  # fmt: skip

    finds(a="a", b="b", c="cd", look="")
    assert [step.bugs for step in silent.best_order(record)][2] == 4  # on all bugs: all of them
    chosen, looked = silent.chosen_on_half(record, splits=60).T
    assert set(chosen) == {0, 0.5}  # only c carries over, from c to d
    assert not looked.any()
    finds(a="abcd", b="", c="", look="ab")
    chosen, looked = silent.chosen_on_half(record, count=1, splits=60).T
    assert (chosen == 1).all()
    assert set(looked) == {0, 0.5, 1}
    finds(a="", b="", c="", look="abcd")
    assert (silent.chosen_on_half(record, splits=5) == [0, 1]).all()  # a look is never chosen
    assert silent.reads_a_run(record) == ["look"]


def test_checks_drawn_blindly(record):
    """a and b find one, b finds two: a alone finds 1, b 2, c 0; of pairs ab 2, ac 1, bc 2."""
    assert silent.found_by_drawn(record, "abc", 1) == pytest.approx(1)
    assert silent.found_by_drawn(record, "abc", 2) == pytest.approx(5 / 3)
    assert silent.found_by_drawn(record, "abc", 3) == pytest.approx(2)


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
    assert by_id["three"]["story"].endswith("Scored with a.b=1.")
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
    found = {f"b{i}": ["a"] * (i not in (3, 8)) + ["b"] * (i == 5) for i in range(20)}
    record["outcomes"] |= {b: {c: {"found": c in found[b], "says": ""} for c in SECONDS}
                           for b in found}
    dealt = [case["id"] for case in _dealt(record)]
    assert dealt == [case["id"] for case in _dealt(record)]
    assert sorted(dealt) == sorted([*found, "healthy"])
    assert [b for b in dealt if b != "healthy"] != list(found)
    assert dealt[0] == "b5"  # the one that most checks find
    assert set(dealt[-2:]) == {"b3", "b8"}  # those that none finds


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
    assert first.select("li")[-1].text == "1 of 3 checks pass."


@pytest.mark.skipif(not shutil.which("node"), reason="no node to read the script")
def test_the_script_survives_on_one_line(tmp_path):
    (tmp_path / "one.mjs").write_text(f"export default ({script_line('laboratory.js')});", "utf-8")
    subprocess.run(["node", "--check", str(tmp_path / "one.mjs")], check=True)


# --- the game as it is published, in a browser --------------------------------------------------

PAGE = ROOT / "book" / "18b_silent_bugs.ipynb"
RECORD = ROOT / "data" / "runs" / "silent_bugs" / "record.json"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The page's figures in a file of their own, with nothing that serves them."""
    cells = nbformat.read(PAGE, as_version=4).cells
    parts = [out["data"]["text/html"] for cell in cells for out in cell.get("outputs", [])
             if "setr-lab" in out.get("data", {}).get("text/html", "")]  # fmt: skip
    assert len(parts) == 3  # the game, the matrix, the list: all bring its style
    page = tmp_path_factory.mktemp("lab") / "lab.html"
    page.write_text(f'<!doctype html><html lang="en"><meta charset="utf-8"><title>lab</title>'
                    f'<meta name="viewport" content="width=device-width"><body>{"".join(parts)}',
                    "utf-8")  # fmt: skip
    return page


def press(page, selector, key="Enter"):
    """Keys alone: what has no focus gets none by a pointer."""
    page.locator(selector).focus()
    page.keyboard.press(key)


def test_a_case_is_played_to_its_end_by_keyboard(browser, file):
    record = json.loads(RECORD.read_text("utf-8"))
    bugs = {bug["id"]: bug for bug in _dealt(record)}
    first = _dealt(record)[0]["id"]
    outcomes = [silent.outcome(record, first, check["id"]) for check in record["checks"]]
    page = browser.new_page(viewport={"width": 390, "height": 844})
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(file.as_uri())
    press(page, '[data-check="1"]')
    press(page, '[data-check="0"]')
    press(page, '[data-check="1"]')  # is bought already
    said = page.locator(".setr-log li").all_inner_texts()
    assert all(text.endswith(out["says"])
               for text, out in zip(said, outcomes[1::-1], strict=True))
    assert ["alarm." in text for text in said] == [bool(out["found"]) for out in outcomes[1::-1]]
    spent = silent.short_time(sum(map(silent.seconds_of, record["checks"][:2])))
    assert f"Spent on this case: {spent}." in page.locator(".setr-score").inner_text()

    press(page, ".setr-answer button")
    assert page.locator(".setr-what").inner_text() == "Choose first."
    wrong = next(name for name in bugs if name != first)
    page.locator(".setr-answer select").select_option(wrong)
    assert bugs[wrong]["what"] in page.locator(".setr-what").inner_text()
    press(page, ".setr-answer button")
    verdict = page.locator(".setr-verdict")
    assert verdict.evaluate("e => e === document.activeElement")  # and so is read aloud
    text = verdict.inner_text()
    assert f"Not “{bugs[wrong]['name']}”: {bugs[first]['name']}." in text
    assert bugs[first]["what"] in text
    assert all(line.strip() in text for line in bugs[first]["before"].splitlines())
    if fastest := silent.finders(record, first)[:1]:
        assert f"{fastest[0]['name']}, {silent.short_time(silent.seconds_of(fastest[0]))}" in text
    bought = [check["id"] for check in record["checks"][:2]]
    same = [all(silent.found(record, bug, c) == silent.found(record, first, c) for c in bought)
            for bug in bugs]  # fmt: skip
    assert f"leave {sum(same)} of the {len(bugs)} cases" in text
    assert page.evaluate("document.documentElement.scrollWidth") == 390

    press(page, ".setr-next")
    assert page.locator(".setr-case").input_value() == "1"
    page.locator(".setr-answer select").select_option(list(bugs)[1])
    press(page, ".setr-answer button")
    assert verdict.inner_text().startswith("Right: ")
    assert "Right so far: 1 of 2" in page.locator(".setr-score").inner_text()
    page.locator(".setr-case").select_option("0")  # and back: what was played is still there
    assert page.locator(".setr-log li").all_inner_texts() == said
    assert problems == []
    page.close()


def test_without_scripts_the_first_case_and_its_text_are_there(browser, file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator(".setr-off").is_visible()
    assert page.locator(".setr-loss").is_visible()
    assert page.locator(".setr-map img").bounding_box()["width"] > 150
    assert page.locator(".setr-iou tbody tr").count() > 5
    assert not page.locator(".setr-desk").is_visible()
    assert page.locator(".setr-bugs tbody tr").first.is_visible()
    context.close()
