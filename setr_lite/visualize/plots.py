"""Figures of a run's results: curves and confusion."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError, drawable, nearest
from ..typed import path_of
from .pictures import as_array, house_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor


LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, which colour-blind readers can tell apart."""
Log = str | os.PathLike[str] | Sequence[Mapping[str, Any]]
"""The ``log.csv`` of a run, or its lines."""
MARKERS = "os^Dv*"
"""A shape for each line."""
_WRITE_NUMBERS = 13  # a matrix of up to so many classes has room for numbers in its cells


def plot_curves(logs: Log | Mapping[str, Log]) -> Figure:
    """Loss and mIoU over the steps of one run, or of several.

    Args:
        logs: a run's ``log.csv`` (columns step, loss, miou; a line may leave loss or miou
            empty), or its rows as dicts; several as ``{"name": log}``.

    Raises:
        UserError: a file that does not exist, has no line or lacks a column.
    """
    several = logs if isinstance(logs, Mapping) else {"": logs}
    if not several:
        raise UserError("no log to plot: give one or more")
    with house_figure(figsize=(9, 3.4)) as fig:
        left, right = fig.subplots(1, 2)
        for i, (key, log) in enumerate(several.items()):
            name = drawable(key)
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
    counts = _counts(matrix, len(classes))
    shown = np.flatnonzero(counts.sum(0) + counts.sum(1))
    if not shown.size:
        raise UserError("an empty confusion matrix: evaluate before plotting it")
    counts, names = counts[np.ix_(shown, shown)], [drawable(classes[int(k)]) for k in shown]
    total = counts.sum(1, keepdims=True)
    share = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    side = min(max(0.52 * len(names) + 2.2, 4.5), 16)
    text: dict[str, Any] = {"fontsize": min(12.0, 860 / len(names))}
    with house_figure(figsize=(side + 1.6, side)) as fig:
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


def _counts(matrix: Any, classes: int) -> np.ndarray:
    counts = as_array(matrix)
    if counts.dtype.kind not in "iuf" or counts.shape != (classes, classes) or not (
        counts >= 0
    ).all():
        raise UserError(
            f"a confusion matrix of shape {counts.shape} and type {counts.dtype} for {classes} "
            "classes: give (K, K) counts, 0 or more")
    return counts.astype(np.float64)


def _read_log(log: Log) -> tuple[np.ndarray, np.ndarray]:
    """(2, n) steps and losses, (2, m) steps and mIoUs."""
    where = "the log"
    if isinstance(log, (str, os.PathLike)):
        where = os.fspath(log)
        if not os.path.isfile(path_of(where)):
            raise UserError(f"{where}: no such file; give the log.csv of a run")
        with open(where, newline="", encoding="utf-8") as file:
            rows: Sequence[Mapping[str, Any]] = list(csv.DictReader(file))
    else:
        if not isinstance(log, (list, tuple)):
            raise UserError(f"a log of type {type(log).__name__}: give the path of log.csv or rows")
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
