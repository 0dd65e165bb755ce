"""The cells that wait for a reader's own files: run here, and their sliders moved.

Such a cell is tagged ``live``; those tagged ``live-setup`` above it are all that it needs.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest

from setr_lite.toytown import write_toytown

BOOK = Path(__file__).resolve().parents[2] / "book"


def live_cell(page: str, *changes: tuple[str, str]) -> dict:
    """The names that the live cell of a page leaves behind; `changes` are (old, new) in it."""
    names: dict = {}
    for cell in nbformat.read(BOOK / f"{page}.ipynb", as_version=4).cells:
        if {"live", "live-setup"} & set(cell.metadata.get("tags", [])):
            source = cell.source
            if "live" in cell.metadata.tags:
                for old, new in changes:
                    assert old in source
                    source = source.replace(old, new)
            exec(compile(source, page, "exec"), names)
    return names


@pytest.fixture(autouse=True)
def in_the_book(monkeypatch) -> None:
    monkeypatch.chdir(BOOK)
    monkeypatch.delenv("SETR_DATA", raising=False)


def test_augmentation_of_a_data_set_of_ones_own(tmp_path, monkeypatch) -> None:
    write_toytown(tmp_path / "ade20k", 3, 1, (48, 64), layout="ade20k", progress=False)
    monkeypatch.setenv("SETR_DATA", os.fspath(tmp_path))
    live = live_cell("09_data")
    which, seed, stage, view = (live[name] for name in ("which", "seed", "stage", "view"))
    assert (which.max, "file: 48 x 64" in view.value) == (2, True)
    for slider, value in ((which, 2), (stage, 1), (seed, 7), (stage, 4), (seed, 8), (stage, 5)):
        before = view.value
        slider.value = value
        assert view.value != before
    assert "normalised: 192 x 192" in view.value
    assert view.value.count("<img") == 2


def test_augmentation_of_a_picture_of_ones_own(tmp_path) -> None:
    from PIL import Image

    Image.new("RGB", (50, 40), (200, 100, 50)).save(tmp_path / "mine.png")
    change = ('PICTURE = ""', f'PICTURE = r"{tmp_path / "mine.png"}"')
    live = live_cell("09_data", change)
    live["stage"].value = 1
    assert "10 rejected" in live["view"].value  # nothing is labelled


def test_augmentation_without_anything_of_ones_own() -> None:
    assert "file: 96 x 192" in live_cell("09_data")["view"].value


def moves(live: dict, *steps: tuple[str, object]) -> None:
    """Each control (its name in the cell, a new value) changes what is shown."""
    for control, value in steps:
        before = live["view"].value
        live[control].value = value
        assert live["view"].value != before, control
        assert "<img" in live["view"].value


@pytest.fixture
def photo(tmp_path) -> str:
    """A picture of one's own, of a size that no patch divides."""
    from PIL import Image

    path = tmp_path / "mine.png"
    Image.linear_gradient("L").resize((150, 107)).convert("RGB").save(path)
    return f'PICTURE = r"{path}"'


def test_every_live_cell_has_a_test() -> None:
    tests = Path(__file__).read_text("utf-8")
    for path in BOOK.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        if any("live" in cell.metadata.get("tags", []) for cell in cells):
            assert f'"{path.stem}"' in tests


def test_any_head(photo) -> None:
    live = live_cell("04_encoding")
    moves(live, ("block", 1), ("head", 3), ("row", 11), ("column", 23), ("seed", 5))
    assert "the patch in row 11, column 23" in live["view"].value
    live = live_cell("04_encoding", ('PICTURE = ""', photo), ("toytown_pup", "toytown_mla"))
    assert (live["row"].max, live["column"].max) == (11, 16)


@pytest.mark.parametrize(
    ("run", "stage", "shape"),
    [("toytown_naive", "head.convs.0", "64 x 12 x 24"),
     ("toytown_pup", "head.convs.2", "64 x 48 x 96"),
     ("toytown_mla", "neck.smooth.3", "64 x 12 x 24")],
)
def test_any_stage_of_any_decoder(run, stage, shape, photo) -> None:
    live = live_cell("07b_alive", ("toytown_pup", run))
    moves(live, ("stage", stage), ("seed", 5))
    assert f"{stage}: {shape}" in live["view"].value
    live = live_cell("07b_alive", ('PICTURE = ""', photo), ("toytown_pup", run))
    moves(live, ("stage", stage))


def test_any_picture_in_windows(photo) -> None:
    live = live_cell("10b_protocols", ('PICTURE = ""', photo))
    moves(live, ("crop", 48), ("step", 0.3), ("mirror", True))


def test_any_street_of_any_town(photo) -> None:
    live = live_cell("11_five_minutes")
    moves(live, ("seed", 5), ("town", 7))
    share = float(re.search(r"truth: ([\d.]+)% right", live["view"].value)[1])
    assert share > 80
    live = live_cell("11_five_minutes", ('PICTURE = ""', photo))
    assert "truth" not in live["view"].value


def test_camvid_on_ones_own_disk(tmp_path, monkeypatch) -> None:
    from PIL import Image

    assert "set SETR_DATA" in live_cell("17_camvid")["view"].value
    for folder in ("val", "valannot"):
        (tmp_path / "camvid" / folder).mkdir(parents=True)
        for labels in (BOOK.parent / "data/runs/camvid_dinov2_pup/labels").glob("*.png"):
            with Image.open(labels) as found:
                grey = Image.new("L", found.size, 3)
            file = grey if folder == "valannot" else grey.convert("RGB")
            file.save(tmp_path / "camvid" / folder / labels.name)
    monkeypatch.setenv("SETR_DATA", os.fspath(tmp_path))
    live = live_cell("17_camvid")
    moves(live, ("model", "mla"), ("frame", live["frame"].options[2]))


def test_inside_any_street_and_any_head() -> None:
    live = live_cell("18_inside")
    assert (live["seed"].max, live["block_"].max) == (999, 5)
    moves(live, ("seed", 5), ("block_", 3), ("head_", 2), ("row_", 0), ("column_", 23))
    assert "street 5" in live["view"].value
    assert "block 3, 2" in live["view"].value


def test_pictures_and_masks_of_ones_own(tmp_path) -> None:
    """First the page's own folder, then one of a reader's."""
    from PIL import Image

    live = live_cell("09b_your_pictures")
    assert live["which"].max == 23
    moves(live, ("which", 7))
    for kind, mode, value in (("images", "RGB", 90), ("labels", "L", 1)):
        (tmp_path / kind / "train").mkdir(parents=True)
        Image.new(mode, (40, 24), value).save(tmp_path / kind / "train" / "mine.png")
    (tmp_path / "classes.txt").write_text("crack\nwall\n")
    live = live_cell("09b_your_pictures", ('DIR = ""', f'DIR = r"{tmp_path}"'))
    assert live["which"].max == 0
    assert "mine" in live["view"].value


@pytest.mark.slow
def test_crops_and_steps_of_ade20k(tmp_path, monkeypatch) -> None:
    write_toytown(tmp_path / "ade20k", 3, 1, (48, 64), layout="ade20k", progress=False)
    monkeypatch.setenv("SETR_DATA", os.fspath(tmp_path))
    live = live_cell("13_ade20k")
    number, view = live["number"], live["view"]
    before = view.value
    number.value = 5
    assert view.value != before
    live["settings"].value = (
        "model.encoder=toy model.taps=none model.img_size=32 model.channels=8 "
        "model.pretrained=none data.crop_size=32 data.base_size=32,128 eval.limit=1 "
        "eval.mode=whole train.workers=0 train.steps=1 "
        "train.batch_size=2 train.log_every=1 train.device=cpu"
    )
    live["go"].click()
    assert live["report"].value.startswith("1 steps in ")


@pytest.mark.slow
def test_crops_without_ade20k_are_those_of_toytown() -> None:
    live = live_cell("13_ade20k")
    assert live["yours"] is live["small"]
    assert "<img" in live["view"].value


@pytest.mark.parametrize("real", [pytest.param(True, marks=pytest.mark.slow), False])
def test_windows_fill_a_street_one_by_one(tmp_path, monkeypatch, real) -> None:
    if real:
        write_toytown(tmp_path / "cityscapes", 0, 2, (64, 128), progress=False)
        monkeypatch.setenv("SETR_DATA", os.fspath(tmp_path))
    live = live_cell("14_cityscapes")
    view, windows = live["view"], live["windows"]
    for slider, value in ((live["share"], 0.3), (windows, 3), (live["which"], 1)):
        before = view.value
        slider.value = value
        assert view.value != before
    assert f"{windows.value} of {windows.max} windows" in view.value


@pytest.mark.parametrize("real", [True, False])
def test_names_of_pascal_context(tmp_path, monkeypatch, real) -> None:
    if real:
        write_toytown(
            tmp_path / "pascal_context", 1, 2, (48, 64), layout="pascal_context", progress=False)
        monkeypatch.setenv("SETR_DATA", os.fspath(tmp_path))
    live = live_cell("15_pascal_context")
    view, name = live["view"], live["name"]
    name.label = "sky"
    assert view.value.startswith("sky: ")
    assert "the authors' list would say rock" in view.value
    before = view.value
    live["which"].value = 1
    assert view.value != before
