"""The cells that wait for a reader's own files: run here, and their sliders moved.

Such a cell is tagged ``live``; those tagged ``live-setup`` above it are all that it needs.
"""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest

from setr_lite.toytown import write_toytown

BOOK = Path(__file__).resolve().parent.parent / "book"


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
    assert "10 refused" in live["view"].value  # nothing is labelled


def test_augmentation_without_anything_of_ones_own() -> None:
    assert "file: 96 x 192" in live_cell("09_data")["view"].value
