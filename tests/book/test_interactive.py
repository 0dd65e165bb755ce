"""Figures without a kernel: what they put into a notebook; test_browser.py moves them."""

import base64
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import figures
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from figures import interactive
from figures.interactive import (
    Compare,
    Frames,
    Grid,
    MatrixExplorer,
    Pane,
    Sheets,
    as_rgb,
    show_source,
)  # fmt: skip
from PIL import Image

from setr_lite.errors import UserError

GRID = (3, 4)


def picture(height=24, width=32):
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 9, x * 7, y + x], -1).astype(np.uint8)


def plotted():
    """A matplotlib figure outside pyplot, and the function that moves its line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 1), layout="constrained")
    FigureCanvasAgg(figure)
    (line,) = figure.subplots().plot([0, 1], [0, 1])
    return figure, lambda a, b=0: line.set_ydata([a, b])


def frames(**options):
    figure, update = plotted()
    return Frames(
        figure, update, **{"values": range(3), "label": "height", "alt": "line at {}", **options}
    )


def decoded(url):
    return np.array(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))))


def html_of(figure):
    return BeautifulSoup(figure._repr_mimebundle_()["text/html"], "html.parser")


# --- pictures -------------------------------------------------------------------------------------


def test_as_rgb_takes_the_usual_pictures():
    rgb = picture()
    for same in (rgb, rgb.transpose(2, 0, 1), torch.from_numpy(rgb).permute(2, 0, 1)):
        assert np.array_equal(as_rgb(same), rgb)
    assert np.array_equal(as_rgb(Image.fromarray(rgb)), rgb)
    assert as_rgb(rgb[..., 0])[5, 6].tolist() == [45, 45, 45]


def test_as_rgb_refuses_what_it_would_have_to_guess():
    with pytest.raises(UserError, match="expected uint8, got float64; scale to"):
        as_rgb(picture() / 255)
    with pytest.raises(UserError, match=r"expected \(H, W, 3\).*got \(2, 3, 4, 3\)"):
        as_rgb(np.zeros((2, 3, 4, 3), np.uint8))


def test_small_pictures_are_kept_exactly_and_photographs_are_not_heavy():
    assert np.array_equal(decoded(interactive.data_url(picture())), picture())
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    assert len(interactive.data_url(noise)) < noise.size / 2


def test_summary_is_coarse():
    a = np.random.default_rng(0).normal(size=(64, 64))
    assert interactive.summary(a) == interactive.summary(a * (1 + 1e-6))
    assert interactive.summary(a) != interactive.summary(a * 1.2)
    assert interactive.summary(torch.tensor([[0.0, 2.0]])) == "1x2 std 1 max 2"


# --- widgets --------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_frames_hold_one_picture_for_each_value_and_link_them_in_the_browser():
    import ipywidgets as w

    figure = frames(start=1, play=True)
    bar, stack = figure.widget.children
    player, slider = bar.children
    assert [type(part) for part in (player, slider)] == [w.Play, w.SelectionSlider]
    assert stack.selected_index == slider.index == player.value == 1
    images = [BeautifulSoup(child.value, "html.parser").img for child in stack.children]
    assert [image["alt"] for image in images] == [f"line at {k}" for k in range(3)]
    assert len({image["src"] for image in images}) == 3
    assert all(image["src"].startswith("data:image/webp;base64,") for image in images)


def test_frames_show_in_the_bundle_as_widget_still_and_plain_text():
    bundle = frames(data=[np.array([0.0, 2.0])])._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"] == "Frames('height', 3 frames, 2 std 1 max 2)"
    assert decoded("," + bundle["image/png"]).shape == (100, 200, 3)


def test_the_start_frame_is_the_still():
    stills = [frames(start=k)._repr_mimebundle_()["image/png"] for k in range(3)]
    assert len(set(stills)) == 3


def test_alternative_text_is_escaped_and_may_be_a_function():
    figure = Frames.of_pictures([picture()], ["<a>"], label="x", alt=lambda v: f'"{v}"')
    assert '&quot;&lt;a&gt;&quot;"' in figure.widget.children[1].children[0].value


def test_of_pictures_enlarges_without_bytes():
    sizes = []
    for scale in (1, 4):
        figure = Frames.of_pictures([picture()], [0], label="x", alt="at {}", scale=scale)
        value = figure.widget.children[1].children[0].value
        sizes.append(len(value))
        assert f'width="{32 * scale}" height="{24 * scale}"' in value
    assert sizes[1] - sizes[0] < 40


def test_grid_links_columns_to_every_row():
    figure, update = plotted()
    grid = Grid(
        figure, update, [0, 1], [5, 6, 7], labels=("from", "to"), alt="{} to {}", start=(1, 2)
    )
    _, outer = grid.widget.children
    alts = [
        [BeautifulSoup(c.value, "html.parser").img["alt"] for c in inner.children]
        for inner in outer.children
    ]
    assert alts == [["0 to 5", "0 to 6", "0 to 7"], ["1 to 5", "1 to 6", "1 to 7"]]
    assert outer.selected_index == 1
    assert [inner.selected_index for inner in outer.children] == [2, 2]
    assert repr(grid) == "Grid('from x to', 2x3 frames)"


def test_a_menu_takes_the_place_of_a_slider():
    import ipywidgets as w

    figure, update = plotted()
    grid = Grid(
        figure, update, [0, 1], [5, 6], labels=("from", "to"), alt="{} to {}", menus=(True, False)
    )
    controls, _ = grid.widget.children
    assert [type(part) for part in controls.children] == [w.Dropdown, w.SelectionSlider]


def sheets(noise=False, **options):
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (60, 80, 3), np.uint8) if noise else picture()

    def panes(seed, stage):
        return [
            Pane(photo // (seed + 1), f"image {seed} <{stage}>", f"image at {stage}", 3, noise),
            Pane(picture()[..., 0], "label", "its label"),
        ]

    options = {"labels": ("seed", "stage"), **options}
    return Sheets(panes, range(2), ["file", "crop", "flip"], **options)


def test_sheets_hold_several_pictures_in_a_frame():
    figure = sheets(start=(1, 2), data=[np.ones(3)])
    assert repr(figure) == "Sheets('seed x stage', 2x3 frames, 3 std 0 max 1)"
    outer = figure.widget.children[1]
    assert outer.selected_index == 1
    assert [len(inner.children) for inner in outer.children] == [3, 3]
    assert all(inner.selected_index == 2 for inner in outer.children)
    sheet = BeautifulSoup(outer.children[1].children[0].value, "html.parser")
    left, right = sheet.find_all("img")
    assert (left["alt"], left["width"], right["width"]) == ("image at file", "96", "32")
    assert "image 1 <file>" in sheet.get_text()
    assert np.array_equal(decoded(left["src"]), picture() // 2)
    still = figure._repr_mimebundle_()["image/png"]
    assert decoded("," + still).shape == (72, 96 + 8 + 32 + 8, 3)


def test_photographs_in_sheets_are_lossy_and_light():
    exact, light = sheets(noise=False), sheets(noise=True)
    assert exact.widget is not None
    first = BeautifulSoup(light.widget.children[1].children[0].children[0].value, "html.parser")
    photo, label = first.find_all("img")
    rgb = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    assert not np.array_equal(decoded(photo["src"]), rgb)
    assert np.array_equal(decoded(label["src"])[..., 0], picture()[..., 0])


def test_sheets_refuse_too_many_frames():
    with pytest.raises(UserError, match="33 frames"):
        Sheets(lambda a, b: [], range(11), range(3), labels=("a", "b"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"values": range(33)}, "height: 33 frames, expected 1..32; take every k-th"),
        ({"values": []}, "height: 0 frames"),
        ({"start": 3}, "start 3 is no index into 3 values"),
        ({"alt": "a line"}, "alt 'a line': expected 1 x '{}'"),
        ({"show": lambda v: "same"}, "two values read the same"),
    ],
)
def test_frames_refuse(options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        frames(**options)


def test_frames_refuse_a_heavy_page():
    noise = np.random.default_rng(0).integers(0, 256, (9, 200, 300, 3), dtype=np.uint8)
    with pytest.raises(UserError, match=r"kB, at most 200 kB fit a page; draw fewer frames"):
        Frames.of_pictures(list(noise), range(9), label="noise", alt="{}")


def test_frames_refuse_the_figure_of_another_cell():
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    plt.close(figure)
    with pytest.raises(UserError, match="make it in the same cell"):
        Frames(figure, axes.set_title, ["a"], label="x", alt="{}")


def test_frames_close_their_figure():
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    figure, axes = plt.subplots(figsize=(1, 1))
    Frames(figure, axes.set_title, ["a", "b"], label="x", alt="{}")
    assert not plt.fignum_exists(figure.number)


# --- HTML figures ---------------------------------------------------------------------------------


def explorer(matrix=None, **options):
    n = GRID[0] * GRID[1]
    if matrix is None:
        matrix = np.arange(n * n, dtype=float).reshape(n, n)
    return MatrixExplorer(
        picture(), matrix, GRID,
        **{"name": "fig", "label": "weight", "alt": "colours", "start": (1, 2), **options},
    )  # fmt: skip


@pytest.mark.parametrize("scale", ["row", "all"])
def test_explorer_carries_the_whole_matrix(scale):
    matrix = np.random.default_rng(0).normal(size=(12, 12))
    option = html_of(explorer(matrix, scale=scale)).select_one("option")
    ends = np.frombuffer(base64.b64decode(option["data-ends"].split(",")[1]), "<f4").reshape(12, 2)
    low, high = ends[:, :1], ends[:, 1:]
    again = low + (high - low) * decoded(option["data-rows"])[..., 0] / 255
    assert np.abs(again - matrix).max() <= (high - low).max() / 255 / 2 * 1.001
    if scale == "row":
        assert np.allclose(low[:, 0], matrix.min(1))
    else:
        assert np.ptp(low) == np.ptp(high) == 0


def test_explorer_starts_at_the_given_patch_and_is_named():
    soup = html_of(explorer())
    pick = soup.select_one(".setr-pick")
    assert pick["role"] == "slider"
    assert (pick["aria-valuenow"], pick["aria-valuemax"]) == ("6", "11")
    assert pick["aria-valuetext"] == "row 1, column 2"
    assert soup.figure["id"] == "fig"
    assert [image["alt"] for image in soup.find_all("img")] == ["colours", "weight of one patch"]


def test_explorer_keeps_an_empty_picture_small():
    first, heat = html_of(explorer(small=True)).select(".setr-panel")
    assert first["style"] == "flex:0 1 9rem"
    assert not heat.has_attr("style")
    assert not html_of(explorer()).select(".setr-panel[style]")


def test_explorer_offers_a_choice_only_between_several_maps():
    two = {"one": np.eye(12), "two": np.ones((12, 12))}
    assert [o.text for o in html_of(explorer(two)).find_all("option")] == ["one", "two"]
    assert html_of(explorer()).select_one("select").parent.has_attr("hidden")
    assert not html_of(explorer(two)).select_one("select").parent.has_attr("hidden")


def test_explorer_refuses_what_is_too_heavy_for_a_page():
    noise = np.random.default_rng(0).random((900, 900))
    with pytest.raises(UserError, match=r"kB, at most 450 kB fit a page; use fewer maps"):
        MatrixExplorer(picture(), noise, (30, 30), name="fig", label="noise", alt="colours")


def test_explorer_takes_a_constant_matrix():
    option = html_of(explorer(torch.ones(12, 12))).select_one("option")
    assert decoded(option["data-rows"]).max() == 0


@pytest.mark.parametrize(
    ("matrix", "options", "message"),
    [
        (np.eye(13), {}, "need (12, 12), got (13, 13); drop the class token's row"),
        (np.ones((12, 3)), {}, "need (12, 12), got (12, 3)"),
        (np.full((12, 12), np.nan), {}, "not finite"),
        (None, {"start": (3, 0)}, "start (3, 0) lies outside the 3x4 grid"),
        (None, {"scale": "max"}, "scale 'max'; choose 'row' or 'all'"),
        (None, {"name": "a b"}, "name 'a b': letters, digits and hyphens"),
        (None, {"colors": "rainbows"}, "colors 'rainbows': no such"),
    ],
)
def test_explorer_refuses(matrix, options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        explorer(matrix, **options)


def test_compare_holds_both_pictures_and_a_mixed_still():
    before, after = picture(), 255 - picture()
    figure = Compare(
        before, after, name="cmp", labels=("a <b>", "c"), alts=("left", "right"), start=25
    )
    soup = html_of(figure)
    left, right = soup.find_all("img")
    assert (left["alt"], right["alt"]) == ("left", "right")
    assert np.array_equal(decoded(left["src"]), before)
    assert np.array_equal(decoded(right["src"]), after)
    assert [tag.text for tag in soup.select(".setr-tag")] == ["a <b>", "c"]
    assert soup.input["aria-label"] == "divider: a <b> to its left, c to its right"
    still = decoded("," + figure._repr_mimebundle_()["image/png"])
    assert np.array_equal(still[:, :8], before[:, :8])
    assert np.array_equal(still[:, 8:], after[:, 8:])


def test_compare_refuses_different_sizes():
    with pytest.raises(UserError, match=r"cmp: sizes differ, \(24, 32\) and \(24, 30\)"):
        Compare(picture(), picture(24, 30), name="cmp", labels=("a", "b"), alts=("a", "b"))


def test_html_is_the_same_every_time_and_nbval_sees_only_its_words():
    from pathlib import Path

    first = explorer()._repr_mimebundle_()["text/html"]
    assert first == explorer()._repr_mimebundle_()["text/html"]
    rules = (Path(__file__).parents[1] / "nbval_sanitize.cfg").read_text("utf-8")
    for rule, by in re.findall(r"regex: (.*)\nreplace: (.*)", rules):
        first = re.sub(rule, by, first)
    assert len(first) < 3000
    assert "base64" not in first
    assert "const" not in first


@pytest.mark.skipif(not shutil.which("node"), reason="no node to read the script")
def test_the_script_survives_on_one_line(tmp_path):
    line = interactive.script_line("interactive.js")
    assert "\n" not in line
    (tmp_path / "one.mjs").write_text(f"export default ({line});", encoding="utf-8")
    subprocess.run(["node", "--check", str(tmp_path / "one.mjs")], check=True)


# --- source ---------------------------------------------------------------------------------------


def test_show_source_commits_the_name_and_shows_the_code():
    data, metadata = show_source(interactive.grab)._repr_mimebundle_()
    assert data["text/plain"] == "grab in figures/interactive.py"
    assert data["text/markdown"].startswith("```python\ndef grab(figure")
    assert metadata == {"setr_lite": {"live_only": "text/markdown"}}


@pytest.mark.smoke
def test_importing_costs_neither_matplotlib_nor_ipywidgets():
    code = (
        "import sys, figures.interactive; "
        "print([m for m in ('matplotlib', 'ipywidgets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True,
                          cwd=Path(figures.__file__).parents[1])  # fmt: skip
    assert done.stdout.strip() == "[]"
