"""The drawn figures: their files say what the library says, and the map leads to every chapter."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml
from figures import map as setr_map
from figures.schematics import attention, car
from figures.stops import STOPS

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
DRAWN = sorted((BOOK / "figures" / "drawn").glob("*.svg"))


def alike(old, new, name):
    """Equal; where a trained model's numbers are drawn, to within what CPUs differ by."""
    if not name.startswith("journey-"):
        return old == new
    old, new = (re.split(r"(-?\d+(?:\.\d+)?)", text) for text in (old, new))
    numbers = zip(map(float, old[1::2]), map(float, new[1::2]), strict=False)
    return old[::2] == new[::2] and all(abs(a - b) <= 0.03 * max(1, abs(a)) for a, b in numbers)


def test_files_are_what_the_library_says():
    spec = importlib.util.spec_from_file_location("draw", BOOK / "_tools" / "draw.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    there = {path.name: path.read_text("utf-8") for path in DRAWN}
    made = tool.drawings()
    stale = [name for name in made.keys() | there
             if not alike(made.get(name, ""), there.get(name, ""), name)]
    assert stale == [], "python book/_tools/draw.py"


@pytest.mark.smoke
def test_the_map_knows_every_chapter():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    chapters = [
        Path(page["file"]).name for part in contents["parts"] if part["caption"] != "Appendix"
        for page in part["chapters"]
    ]
    assert sorted(setr_map.LIT) == sorted(chapters)
    assert set(setr_map.PARTS.values()) <= set(chapters)
    lit = {part for parts in setr_map.LIT.values() for part in parts.split()}
    assert lit == set(setr_map.PARTS)
    for places in setr_map.PLACES.values():
        assert set(places) == set(setr_map.PARTS)


@pytest.mark.smoke
def test_every_drawing_is_somewhere():
    pages = "".join(path.read_text("utf-8") for path in [*BOOK.glob("*.ipynb"), *BOOK.glob("*.md")])
    used = set(re.findall(r"figures/drawn/([\w-]+)-wide\.svg", pages))
    names = {re.sub(r"-(wide|narrow)$", "", path.stem) for path in DRAWN}
    stops = {f"journey-{name}" for names in STOPS.values() for name in names}
    assert names == used | stops | {"map"}


@pytest.mark.smoke
def test_the_sixteen_pixels_are_those_of_the_page():
    cells = json.loads((BOOK / "10_measuring.ipynb").read_text("utf-8"))["cells"]
    text = next(t for t in ("".join(c["source"]) for c in cells) if t.startswith("label = torch"))
    for name, pixels in (("label", car.LABEL), ("guess", car.GUESS)):
        rows = re.search(rf"{name} = torch\.tensor\((.*?)\)", text, re.S)[1]
        assert json.loads(rows) == [list(row) for row in pixels]


def test_every_light_has_something_to_light():
    text = (BOOK / "figures" / "drawn" / "attention-wide.svg").read_text("utf-8")

    def names(attribute):
        return set(" ".join(re.findall(rf'{attribute}="([^"]*)"', text)).split())

    assert names("data-lights") <= names("data-of")
    assert len(names("data-lights")) > 40
    assert len(attention.CODE) == len(attention.STEPS)
