"""Colours, overlays and figures: what they show, read back from pixels and artists."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image

from setr_lite.errors import UserError
from setr_lite.metrics import ConfusionMatrix
from setr_lite.visualize import (
    colorize,
    legend,
    outline,
    overlay,
    panel,
    plot_confusion,
    plot_curves,
    with_legend,
)

mpl.use("agg")

PALETTE = np.array([[10, 20, 30], [200, 100, 0], [0, 255, 0], [9, 9, 9]], dtype=np.uint8)
NAMES = ["road", "car", "tree", "moon"]


def texts(fig) -> list[str]:
    return [t.get_text() for t in fig.findobj(mpl.text.Text) if t.get_text()]


# ---------------------------------------------------------------------- label maps


@pytest.mark.smoke
def test_colorize():
    label = [[0, 1], [2, 255]]
    expected = [[[10, 20, 30], [200, 100, 0]], [[0, 255, 0], [0, 0, 0]]]
    for kind in (torch.uint8, torch.int64):
        assert colorize(torch.tensor(label, dtype=kind), PALETTE).tolist() == expected
    assert colorize(np.array(label, dtype=np.uint8), PALETTE).dtype == np.uint8


def test_colorize_errors():
    with pytest.raises(UserError, match=r"label id 4: the palette has colours for 0\.\.3"):
        colorize(np.array([[4]]), PALETTE)
    with pytest.raises(UserError, match=r"label id -1"):
        colorize(np.array([[-1]]), PALETTE)
    with pytest.raises(UserError, match=r"label map of shape \(1, 1, 1\)"):
        colorize(np.zeros((1, 1, 1), dtype=np.int64), PALETTE)


def test_outline_by_hand():
    label = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 2]])
    assert outline(label).astype(int).tolist() == [[0, 1, 0], [1, 1, 1], [0, 0, 0]]


def test_overlay_by_hand():
    image = torch.full((3, 1, 3), 100, dtype=torch.uint8)
    label = torch.tensor([[0, 1, 255]], dtype=torch.uint8)
    mixed = np.asarray(overlay(image, label, PALETTE, alpha=0.25))
    # 0.75 * 100 + 0.25 * colour, rounded half up; the ignored pixel is left alone
    assert mixed.tolist() == [[[78, 80, 83], [125, 100, 75], [100, 100, 100]]]
    assert np.asarray(overlay(image, label, PALETTE, alpha=0))[0, 0].tolist() == [100, 100, 100]
    array = image.permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(overlay(array, label, PALETTE, alpha=0.25)), mixed)
    borders = np.asarray(overlay(image, label, PALETTE, borders=True))
    assert (borders == 255).all(axis=2).tolist() == [[True, True, False]]


def test_overlay_is_the_rounded_mixture_at_any_opacity():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (9, 40, 3)).astype(np.uint8)
    label = rng.choice([0, 1, 2, 3, 255], (9, 40))
    for alpha in (0.0, 0.3, 0.65, 1.0):
        strength = np.where(label == 255, 0.0, alpha)[..., None]
        mixed = image * (1 - strength) + colorize(label, PALETTE) * strength
        assert (np.asarray(overlay(image, label, PALETTE, alpha)) == np.floor(mixed + 0.5)).all()


def test_class_255_has_a_colour_where_there_are_so_many():
    palette = np.full((300, 3), 7, dtype=np.uint8)
    assert colorize(np.array([[255, 299]]), palette).tolist() == [[[7] * 3, [7] * 3]]
    assert colorize(np.array([[255]]), palette[:255]).tolist() == [[[0] * 3]]


@pytest.mark.parametrize(("size", "columns"), [((30, 20), 1), ((400, 30), 4)])
def test_a_legend_below_a_picture(size, columns):
    picture = Image.new("RGB", size, (1, 2, 3))
    pixels = np.asarray(with_legend(picture, NAMES, PALETTE, [3, 1, 0, 2]))
    assert (pixels[: size[1], : size[0]] == (1, 2, 3)).all()
    assert pixels.shape[1] >= size[0]
    below = pixels[size[1] :]
    first = [tuple(np.argwhere((below == colour).all(2))[0]) for colour in PALETTE]
    assert first == sorted(first)  # down, and across: in the order of the classes
    assert len({x for _, x in first}) == columns
    some = np.asarray(with_legend(picture, NAMES, PALETTE, [1]))[size[1] :]
    assert [(some == colour).all(2).any() for colour in PALETTE] == [False, True, False, False]
    assert np.asarray(with_legend(picture, NAMES, PALETTE, [])).shape[1] == size[0]


def test_overlay_is_saved_as_a_picture(tmp_path):
    image = torch.zeros(3, 4, 6, dtype=torch.uint8)
    overlay(image, torch.zeros(4, 6, dtype=torch.int64), PALETTE).save(tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 0


def test_overlay_errors():
    image = torch.zeros(3, 4, 6, dtype=torch.uint8)
    with pytest.raises(UserError, match="image of 4 x 6 pixels with a label of 4 x 5"):
        overlay(image, torch.zeros(4, 5, dtype=torch.uint8), PALETTE)
    with pytest.raises(UserError, match=r"shape \(3, 4, 6\) and type float32: give uint8"):
        overlay(image.float().numpy(), torch.zeros(4, 6), PALETTE)


def test_legend_shows_the_present_classes():
    assert texts(legend(NAMES, PALETTE)) == NAMES
    label = torch.tensor([[2, 0], [255, 0]], dtype=torch.uint8)
    fig = legend(NAMES, PALETTE, label)
    assert texts(fig) == ["road", "tree"]
    swatches = list(fig.axes[0].patches)
    assert [tuple(np.round(np.array(p.get_facecolor()[:3]) * 255)) for p in swatches] == [
        (10, 20, 30), (0, 255, 0),
    ]
    assert texts(legend(NAMES, PALETTE, present=[3])) == ["moon"]


def test_panel():
    picture = torch.zeros(3, 4, 6, dtype=torch.uint8)
    fig = panel([picture, np.random.default_rng(0).random((4, 6))], ["a", "b"])
    assert texts(fig) == ["a", "b"]
    assert [ax.images[0].get_array().shape for ax in fig.axes] == [(4, 6, 3), (4, 6)]
    assert {ax.get_gridspec().get_geometry() for ax in panel([picture] * 5, columns=2).axes} == {
        (3, 2)
    }
    with pytest.raises(UserError, match="1 images and 2 titles"):
        panel([picture], ["a", "b"])


# ---------------------------------------------------------------------- results


def write_log(path, rows) -> str:
    path.write_text("\n".join(["step,loss,lr,images_per_s,miou", *rows]) + "\n")
    return str(path)


def test_curves(tmp_path):
    log = write_log(
        tmp_path / "log.csv",
        ["1,3.0,0.1,9,", "2,1.0,0.1,9,", "2,,,,0.25", "3,2.0,0.1,9,", "4,0.0,0.1,9,0.5"],
    )
    left, right = plot_curves(log).axes
    raw, smooth = left.lines
    assert raw.get_xydata().tolist() == [[1, 3], [2, 1], [3, 2], [4, 0]]
    assert smooth.get_ydata().tolist() == pytest.approx([3, 2, 1, 0])  # means of three
    assert right.lines[0].get_xydata().tolist() == [[2, 0.25], [4, 0.5]]
    assert right.get_legend().get_texts()[0].get_text() == "0.500"


def test_curves_of_several_runs(tmp_path):
    one = write_log(tmp_path / "a.csv", ["1,3.0,0.1,9,0.2"])
    two = [{"step": 1, "loss": 2.0, "miou": ""}]
    left, right = plot_curves({"pup": one, "mla": two}).axes
    assert [t.get_text() for t in left.get_legend().get_texts()] == ["pup", "mla"]
    expected = ["pup 0.200", "mla not evaluated"]
    assert [t.get_text() for t in right.get_legend().get_texts()] == expected


def test_curves_errors(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv: no such file; give the log.csv"):
        plot_curves(tmp_path / "none.csv")
    with pytest.raises(UserError, match="no line in it yet"):
        plot_curves(write_log(tmp_path / "log.csv", []))
    with pytest.raises(UserError, match="no column 'miou'; did you mean 'mIoU'"):
        plot_curves([{"step": 1, "loss": 2.0, "mIoU": ""}])


def filled() -> ConfusionMatrix:
    confusion = ConfusionMatrix(4)
    confusion.update(torch.tensor([0, 0, 0, 1, 2, 2]), torch.tensor([0, 0, 0, 0, 1, 1]))
    return confusion


def test_confusion_rows_are_shares_of_present_classes():
    fig = plot_confusion(filled().matrix, NAMES)
    axes = fig.axes[0]
    shown = axes.images[0].get_array()
    assert shown.filled(-1).tolist() == [[0.75, 0.25, 0], [0, 0, 1], [-1, -1, -1]]
    assert [t.get_text() for t in axes.get_yticklabels()] == NAMES[:3]
    assert sorted(t.get_text() for t in axes.texts) == [".25", ".75", "1.00"]
    with pytest.raises(UserError, match="an empty confusion matrix"):
        plot_confusion(np.zeros((4, 4)), NAMES)


def test_figures_are_opaque_readable_and_forgotten(tmp_path):
    import matplotlib.pyplot as plt
    from PIL import Image

    open_before = plt.get_fignums()
    picture = torch.zeros(3, 4, 6, dtype=torch.uint8)
    figures = [
        legend(NAMES, PALETTE),
        panel([picture], ["street"]),
        plot_curves([{"step": 1, "loss": 2.0, "miou": 0.5}]),
        plot_confusion(filled().matrix, NAMES),
    ]
    assert plt.get_fignums() == open_before  # else a notebook would show each twice
    for i, fig in enumerate(figures):
        path = tmp_path / f"{i}.png"
        fig.savefig(path, dpi=40)
        with Image.open(path) as image:
            corner = image.convert("RGBA").getpixel((0, 0))
        assert corner == (255, 255, 255, 255)
        sizes = [t.get_fontsize() for t in fig.findobj(mpl.text.Text) if t.get_text()]
        assert min(sizes) >= 12
