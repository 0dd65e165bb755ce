"""Dials without a kernel: what they put into a notebook. tests/book/test_browser.py turns them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from figures.dials import Dials
from figures.interactive import script_line

from setr_lite.errors import UserError


def dials(parts=lambda a, b: {"one <1>": a, "two": a * b}, **options):
    settings = {
        "dials": {"a": (1, 2, 3), "b": (0.5, 1234.5)}, "name": "fig", "unit": "GiB", "most": 10,
        "start": (1, 0), "marks": {"large": 8, "small": 2}, **options,
    }  # fmt: skip
    return Dials(settings.pop("dials"), parts, **settings)


def soup(figure):
    return BeautifulSoup(figure._repr_mimebundle_()["text/html"], "html.parser")


def test_the_page_has_the_numbers_of_every_setting_in_the_order_of_the_dials():
    table = json.loads(soup(dials()).select_one(".setr-stack")["data-table"])
    assert table["rows"] == [[1, 0.5], [1, 1230], [2, 1], [2, 2470], [3, 1.5], [3, 3700]]
    assert table["marks"] == [["small", 2], ["large", 8]]  # rising


def test_the_start_is_drawn_without_a_script():
    page = soup(dials(show={"b": lambda b: f"{b:g} x"}))
    assert [knob["aria-valuetext"] for knob in page.select("input")] == ["2", "0.5 x"]
    assert [out.text for out in page.select("output")] == ["2", "0.5 x"]
    widths = [span["style"].split("width:")[1] for span in page.select(".setr-stack > span")]
    assert widths == ["20.0%", "10.0%"]
    assert page.select_one(".setr-readout").text == "in all 3 GiB"
    assert [key.text for key in page.select("li")] == ["one <1> 2 GiB", "two 1 GiB"]


def test_the_still_and_the_plain_text():
    figure = dials()
    assert repr(figure).startswith("Dials('a x b', 3x2 settings, 6x2 std")
    assert "image/png" in figure._repr_mimebundle_()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dials": {"a": range(50), "b": range(50)}}, "fig: 2500 settings of the dials"),
        ({"dials": {"a": (), "b": (1,)}}, "fig: 0 settings"),
        ({"parts": lambda a, b: {f"{a}": 1}}, "the same 7 parts or fewer"),
        ({"parts": lambda a, b: {str(i): i for i in range(8)}}, "the same 7 parts or fewer"),
        ({"name": "a b"}, "letters, digits and hyphens"),
    ],
)
def test_dials_refuse(options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        dials(**options)


def test_nbval_compares_the_numbers_and_not_the_script():
    html = dials()._repr_mimebundle_()["text/html"]
    assert html == dials()._repr_mimebundle_()["text/html"]
    rules = (Path(__file__).parents[1] / "nbval_sanitize.cfg").read_text("utf-8")
    for rule, by in re.findall(r"regex: (.*)\nreplace: (.*)", rules):
        html = re.sub(rule, by, html)
    assert "const" not in html
    assert "3700" in html


@pytest.mark.skipif(not shutil.which("node"), reason="no node to read the script")
def test_the_script_survives_on_one_line(tmp_path):
    (tmp_path / "one.mjs").write_text(f"export default ({script_line('dials.js')});", "utf-8")
    subprocess.run(["node", "--check", str(tmp_path / "one.mjs")], check=True)
