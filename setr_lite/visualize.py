"""Pictures: coloured label maps, overlays, and figures of a run's results.

Images are uint8 RGB, tensors (3, H, W) as the data sets give them or arrays (H, W, 3); labels are
(H, W) integers with 255 for pixels without a class; palettes are (K, 3) uint8.

Figures have an opaque white page and 12-point text, so that they read on light and dark pages,
and colours that colour-blind readers can tell apart (Okabe and Ito's set, one-hue scales). They are
returned, not shown: a notebook displays the last value of a cell, a script calls ``savefig``.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from .config import IGNORE
from .errors import UserError, nearest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image


LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
MARKERS = "os^Dv*"
STYLE: dict[Any, Any] = {
    "font.size": 12,
    "axes.titlesize": 12,
    "figure.titlesize": 12,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}
_WRITE_NUMBERS = 13  # a matrix of up to so many classes has room for numbers in its cells


# ---------------------------------------------------------------------- label maps


def colorize(label: Tensor | np.ndarray, palette: np.ndarray) -> np.ndarray:
    """(H, W) labels to (H, W, 3) uint8 colours; pixels without a class are black.

    Raises:
        UserError: a label id that the palette has no colour for.
    """
    label = _labels(label)
    palette = np.asarray(palette, dtype=np.uint8)
    wrong = label[(label != IGNORE) & ((label < 0) | (label >= len(palette)))]
    if wrong.size:
        raise UserError(f"label id {wrong[0]}: the palette has colours for 0..{len(palette) - 1}")
    table = np.zeros((max(len(palette), IGNORE + 1), 3), dtype=np.uint8)
    table[: len(palette)] = palette
    table[IGNORE] = 0
    return table[label]


def outline(label: Tensor | np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels whose right or lower neighbour has another label."""
    label = _labels(label)
    edge = np.zeros(label.shape, dtype=bool)
    edge[:, :-1] |= label[:, :-1] != label[:, 1:]
    edge[:-1] |= label[:-1] != label[1:]
    return edge


def overlay(
    image: Tensor | np.ndarray,
    label: Tensor | np.ndarray,
    palette: np.ndarray,
    alpha: float = 0.5,
    *,
    borders: bool = False,
) -> Image:
    """The image with its classes in colour over it; pixels without a class stay as they are.

    Args:
        image: uint8, (3, H, W) or (H, W, 3).
        label: (H, W) of the same size.
        palette: (K, 3) uint8.
        alpha: strength of the colours, 0..1.
        borders: draw a white line between classes.

    Returns:
        A PIL image; ``.save("out.png")`` writes it.

    Raises:
        UserError: sizes differ, or a label id without a colour.
    """
    from PIL import Image

    pixels, label = _pixels(image), _labels(label)
    if pixels.shape[:2] != label.shape:
        raise UserError(
            f"an image of {pixels.shape[0]} x {pixels.shape[1]} pixels with a label of "
            f"{label.shape[0]} x {label.shape[1]}: give both in one size"
        )
    strength = np.where(label == IGNORE, 0.0, alpha)[..., None]
    mixed = pixels * (1 - strength) + colorize(label, palette) * strength
    if borders:
        mixed[outline(label)] = 255
    return Image.fromarray((mixed + 0.5).astype(np.uint8))


def legend(
    classes: Sequence[str],
    palette: np.ndarray,
    present: Tensor | np.ndarray | Iterable[int] | None = None,
    *,
    columns: int = 4,
) -> Figure:
    """Swatches with class names.

    Args:
        classes: K names.
        palette: (K, 3) uint8.
        present: show only these classes: ids, or a label map that has them. None shows all.
        columns: swatches beside one another.
    """
    if present is None:
        shown = list(range(len(classes)))
    else:
        ids = present if isinstance(present, (Tensor, np.ndarray)) else list(present)
        shown = [int(k) for k in np.unique(_array(ids)) if k != IGNORE]
    rows = max(math.ceil(len(shown) / columns), 1)
    columns = max(math.ceil(len(shown) / rows), 1)
    with _figure(figsize=(2.2 * columns, 0.34 * rows)) as fig:
        axes = fig.add_subplot(xlim=(0, columns), ylim=(rows, 0))
        axes.axis("off")
        for i, k in enumerate(shown):
            x, y = i // rows, i % rows  # down, then across
            axes.add_patch(_swatch(x, y, palette[k]))
            axes.text(x + 0.17, y + 0.5, classes[k], va="center")
    return fig


def panel(
    images: Sequence[Any],
    titles: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    width: float = 9.0,
) -> Figure:
    """Pictures side by side, in rows of `columns` (all in one row by default).

    Args:
        images: uint8 tensors (3, H, W), arrays (H, W, 3), PIL images; a two-dimensional one is
            drawn as a map, from dark (smallest) to bright (largest).
        titles: one for each picture.
        width: of the figure, in inches.

    Raises:
        UserError: no picture, or another number of titles.
    """
    pictures = [_array(x) if _array(x).ndim == 2 else _pixels(x) for x in images]
    if not pictures or (titles is not None and len(titles) != len(pictures)):
        raise UserError(f"{len(pictures)} images and {len(titles or ())} titles: give one for each")
    columns = columns or len(pictures)
    rows = math.ceil(len(pictures) / columns)
    tallest = max(x.shape[0] / x.shape[1] for x in pictures)
    title_height = 0.3 if titles else 0.05
    height = rows * (width / columns * tallest + title_height)
    with _figure(figsize=(width, height)) as fig:
        for i, picture in enumerate(pictures):
            axes = fig.add_subplot(rows, columns, i + 1)
            axes.axis("off")
            axes.imshow(picture, cmap="cividis", interpolation="nearest")
            if titles:
                axes.set_title(titles[i])
    return fig


# ---------------------------------------------------------------------- results of a run

Log = str | os.PathLike[str] | Sequence[Mapping[str, Any]]


def plot_curves(logs: Log | Mapping[str, Log]) -> Figure:
    """Loss and mIoU over the steps of one run, or of several.

    Args:
        logs: a run's ``log.csv`` (columns step, loss, miou; a line may leave loss or miou
            empty), or its rows as dicts; several as ``{"name": log}``.

    Raises:
        UserError: a file that does not exist, has no line or lacks a column.
    """
    several = logs if isinstance(logs, Mapping) else {"": logs}
    with _figure(figsize=(9, 3.4)) as fig:
        left, right = fig.subplots(1, 2)
        for i, (name, log) in enumerate(several.items()):
            (loss, miou), color = _read_log(log), LINES[i % len(LINES)]
            left.plot(*loss, color=color, alpha=0.3, linewidth=1)
            left.plot(loss[0], _smooth(loss[1]), color=color, linewidth=2, label=name)
            last = f"{name} {miou[1, -1]:.3f}" if miou.size else f"{name} not evaluated"
            mark = MARKERS[i % len(MARKERS)]
            right.plot(*miou, color=color, linewidth=2, marker=mark, label=last.strip())
        left.set(xlabel="step", ylabel="training loss")
        left.set_ylim(bottom=0)
        right.set(xlabel="step", ylabel="validation mIoU", ylim=(0, 1), xlim=left.get_xlim())
        if "" not in several:
            left.legend(frameon=False)
        right.legend(frameon=False, loc="lower right", title="last value")
        for axes in (left, right):
            axes.grid(alpha=0.3)
    return fig


def plot_confusion(
    matrix: Tensor | np.ndarray | Sequence[Sequence[int]], classes: Sequence[str]
) -> Figure:
    """Where the pixels of each class went: rows are labels and sum to 1.

    Classes that are neither labelled nor predicted are left out; the row of a class that is only
    predicted is grey.

    Args:
        matrix: (K, K) counts, rows labels, columns predictions (`ConfusionMatrix.matrix`).
        classes: K names.
    """
    counts = _array(matrix).astype(np.float64)
    shown = np.flatnonzero(counts.sum(0) + counts.sum(1))
    if not shown.size:
        raise UserError("an empty confusion matrix: evaluate before plotting it")
    counts, names = counts[np.ix_(shown, shown)], [classes[int(k)] for k in shown]
    total = counts.sum(1, keepdims=True)
    share = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    side = min(max(0.52 * len(names) + 2.2, 4.5), 16)
    text: dict[str, Any] = {"fontsize": min(12.0, 860 / len(names))}
    with _figure(figsize=(side + 1.6, side)) as fig:
        axes = fig.add_subplot(xlabel="predicted", ylabel="labelled", facecolor="#cccccc")
        drawn = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(
            range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", **text
        )
        axes.set_yticks(range(len(names)), names, **text)
        fig.colorbar(drawn, shrink=0.7, label="share of the labelled pixels")
        if len(names) <= _WRITE_NUMBERS:
            _write_shares(axes, share)
    return fig


# ---------------------------------------------------------------------- helpers


@contextmanager
def _figure(**options: Any) -> Iterator[Figure]:
    """A figure in the house style that pyplot forgets, so a notebook shows it once, not twice."""
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):
        fig = plt.figure(**options)
        plt.close(fig)
        yield fig


def _array(x: Any) -> np.ndarray:
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)


def _labels(label: Tensor | np.ndarray) -> np.ndarray:
    label = _array(label)
    if label.ndim != 2:
        raise UserError(f"a label map of shape {label.shape}: give (H, W)")
    return label.astype(np.int64)


def _pixels(image: Any) -> np.ndarray:
    """(H, W, 3) uint8; a size of 3 x 3 is read as its type suggests."""
    pixels = _array(image)
    axis = 0 if isinstance(image, Tensor) else 2
    if pixels.ndim != 3 or 3 not in pixels.shape[::2] or pixels.dtype != np.uint8:
        raise UserError(
            f"an image of shape {pixels.shape} and type {pixels.dtype}: give uint8 RGB, "
            "a tensor (3, H, W) or an array (H, W, 3)"
        )
    channels = axis if pixels.shape[axis] == 3 else 2 - axis
    return np.moveaxis(pixels, channels, 2)


def _swatch(x: float, y: float, color: np.ndarray) -> Any:
    from matplotlib.patches import Rectangle

    face = np.asarray(color) / 255
    return Rectangle((x + 0.01, y + 0.15), 0.13, 0.7, facecolor=face, edgecolor="#333333")


def _plate() -> dict[str, Any]:
    return {"facecolor": "white", "edgecolor": "none", "pad": 0.8}


def _read_log(log: Log) -> tuple[np.ndarray, np.ndarray]:
    """(2, n) steps and losses, (2, m) steps and mIoUs."""
    where = "the log"
    if isinstance(log, (str, os.PathLike)):
        where = os.fspath(log)
        if not os.path.isfile(where):
            raise UserError(f"{where}: no such file; give the log.csv of a run")
        with open(where, newline="", encoding="utf-8") as file:
            rows: Sequence[Mapping[str, Any]] = list(csv.DictReader(file))
    else:
        rows = log
    if not rows:
        raise UserError(f"{where}: no line in it yet")
    for column in ("step", "loss", "miou"):
        if column not in rows[0]:
            raise UserError(f"{where}: no column {column!r}{nearest(column, rows[0])}")
    return _points(rows, "loss"), _points(rows, "miou")


def _points(rows: Sequence[Mapping[str, Any]], column: str) -> np.ndarray:
    points = [(float(r["step"]), float(r[column])) for r in rows if r[column] not in ("", None)]
    return np.array(points, dtype=np.float64).reshape(-1, 2).T


def _smooth(values: np.ndarray) -> np.ndarray:
    """A running mean over about a twentieth of the run, narrower at both ends."""
    reach = max(len(values) // 40, 1)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    room = np.minimum(np.minimum(index, len(values) - 1 - index), reach)
    return (sums[index + room + 1] - sums[index - room]) / (2 * room + 1)


def _write_shares(axes: Axes, share: np.ndarray) -> None:
    for y, x in zip(*np.nonzero(share >= 0.005), strict=True):
        color = "white" if share[y, x] > 0.55 else "black"
        axes.text(x, y, f"{share[y, x]:.2f}".lstrip("0"), ha="center", va="center", color=color)
