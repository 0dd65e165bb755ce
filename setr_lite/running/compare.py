"""A run's log beside another's, ours or mmsegmentation's, and where it falls behind.

Both losses are sums over the main and the auxiliary heads, so they compare for one head and one
`loss.aux_weight`. One run each has no error bar from run to run: what is tested here is only that
the means of a stretch of steps differ by more than their own scatter explains.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ..errors import UserError

Row = dict[str, float]
"""``step``, and of ``loss``, ``lr`` and ``miou`` (0..1) what there is."""
STRETCHES = 10
"""Equal parts into which the common steps are cut."""
SIGMAS = 2.0
"""Standard errors by which a loss must be higher to count as behind."""
LR_OFF = 1.05
"""Factor by which a learning rate must differ to be told."""


def read_log(source: str | Path) -> list[Row]:
    """The rows of a log, rising in step.

    Args:
        source: a run's folder, its ``log.csv``; mmsegmentation's ``.log.json`` (0.x) or
            ``scalars.json`` (1.x), which are told apart by their keys.

    Raises:
        UserError: no such file, one with other content, or one without a step.
    """
    path = _file(Path(source))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a log ({error})") from error
    rows = _of_json(path, text) if path.suffix == ".json" else _of_csv(path, text)
    rows = sorted((row for row in rows if len(row) > 1), key=lambda row: row["step"])
    if not rows:
        raise UserError(f"{path}: holds no step with a loss or an mIoU; give a log of a training")
    highest = max((row["miou"] for row in rows if "miou" in row), default=0)
    for row in rows:
        if highest > 1 and "miou" in row:  # 1.x writes percent
            row["miou"] /= 100
    return rows


def compare_logs(run: str | Path, other: str | Path) -> str:
    """Loss, learning rate and mIoU of two logs over the steps that both have, in lines to print.

    Raises:
        UserError: a log that cannot be read, or logs without a common step.
    """
    ours, theirs = read_log(run), read_log(other)
    end = min(ours[-1]["step"], theirs[-1]["step"])
    edges = [round(end * i / STRETCHES) for i in range(STRETCHES + 1)]
    lines = [f"{'steps':>15}  {'loss':>8} {'other':>8} {'lr':>9} {'other':>9}"]
    behind: list[bool | None] = []
    rates: list[bool] = []
    for low, high in pairwise(edges):
        loss, lr = ([[row[key] for row in rows if key in row and low < row["step"] <= high]
                     for rows in (ours, theirs)] for key in ("loss", "lr"))  # fmt: skip
        cells = [*map(_mean, loss), *map(_mean, lr)]
        lines.append("{:>7}..{:>6}  {:>8} {:>8} {:>9} {:>9}".format(low + 1, high, *cells))
        behind.append(_behind(*loss))
        rates.append(bool(all(lr)) and _off(fmean(lr[0]), fmean(lr[1])))
    lines += _scores(ours, theirs, end)
    lines += _verdict(edges, behind, rates)
    return "\n".join(lines)


def write_overlay(run: str | Path, other: str | Path, path: str | Path) -> None:
    """Both logs in one picture of loss and mIoU.

    Raises:
        UserError: what `read_log` raises; a picture that cannot be written.
    """
    from ..files import written_beside
    from ..visualize import plot_curves

    names = [Path(source).stem if Path(source).is_file() else Path(source).name
             for source in (run, other)]  # fmt: skip
    if names[0] == names[1]:
        names[1] += " (other)"
    logs = [[{"loss": "", "miou": "", **row} for row in read_log(log)] for log in (run, other)]
    figure = plot_curves(dict(zip(names, logs, strict=True)))
    try:
        with written_beside(path) as part:
            figure.savefig(part, dpi=110)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be written ({error}); give a name as x.png") from error


def _file(path: Path) -> Path:
    if path.is_dir():  # of a run, or of a checkpoint in one
        path = next((p for p in (path / "log.csv", path.parent / "log.csv") if p.exists()),
                    path / "log.csv")  # fmt: skip
    if not path.is_file():
        raise UserError(f"{path}: no log there; give a run's folder, a log.csv, or a JSON log of "
                        "mmsegmentation")  # fmt: skip
    return path


def _of_csv(path: Path, text: str) -> list[Row]:
    rows = list(csv.DictReader(text.splitlines()))
    if not rows or "step" not in rows[0]:
        raise UserError(f"{path}: has no column 'step'; expected a log.csv of a run")
    return [_row(path, i + 2, row["step"], row) for i, row in enumerate(rows)]


def _of_json(path: Path, text: str) -> list[Row]:
    """A JSON object a line. In 0.x an evaluation's ``iter`` counts images, not steps."""
    rows: list[Row] = []
    step: Any = None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {number} is no JSON ({error})") from error
        if not isinstance(entry, dict):
            raise UserError(f"{path}: line {number} is no JSON object")
        if entry.get("mode") == "train" or step is None:
            step = entry.get("iter", step)
        at = entry.get("step", step)
        if at is not None and {"loss", "mIoU"} & entry.keys():
            rows.append(_row(path, number, at, {**entry, "miou": entry.get("mIoU")}))
    return rows


def _row(path: Path, line: int, step: Any, entry: dict[str, Any]) -> Row:
    row = {}
    for key, value in {"step": step, **{k: entry.get(k) for k in ("loss", "lr", "miou")}}.items():
        if value is None or value == "":
            continue
        try:
            row[key] = float(value)
        except (TypeError, ValueError):
            raise UserError(f"{path}: line {line}: {key} is {str(value)[:40]!r}, expected a "
                            "number") from None  # fmt: skip
        if not math.isfinite(row[key]):
            del row[key]
    if "step" not in row:
        raise UserError(f"{path}: line {line} has no step")
    return row


def _mean(values: Sequence[float]) -> str:
    return f"{fmean(values):.4g}" if values else "-"


def _behind(ours: Sequence[float], theirs: Sequence[float]) -> bool | None:
    """Whether our mean is higher by more than `SIGMAS` standard errors; None where that is open."""
    if len(ours) < 2 or len(theirs) < 2:
        return None
    error = math.hypot(*(stdev(v) / math.sqrt(len(v)) for v in (ours, theirs)))
    return fmean(ours) - fmean(theirs) > SIGMAS * error


def _off(ours: float, theirs: float) -> bool:
    low, high = sorted((ours, theirs))
    return high > LR_OFF * low


def _scores(ours: list[Row], theirs: list[Row], end: float) -> list[str]:
    """A line for each evaluation of ours with one of the other's at about the same step."""
    lines = []
    for row in ours:
        near = [r for r in theirs if "miou" in r and abs(r["step"] - row["step"]) <= end / 50]
        if "miou" in row and near:
            other = min(near, key=lambda r: abs(r["step"] - row["step"]))
            points = 100 * (row["miou"] - other["miou"])
            lines.append(
                f"mIoU at step {row['step']:.0f}: {100 * row['miou']:.2f}, the other "
                f"{100 * other['miou']:.2f} at {other['step']:.0f} ({points:+.2f} points)")
    return lines or ["no evaluation at a common step"]


def _verdict(edges: list[int], behind: list[bool | None], rates: list[bool]) -> list[str]:
    lines = []
    if any(rates):
        first = edges[rates.index(True)]
        lines.append(f"the learning rates differ from step {first + 1} on: compare the settings")
    known = [i for i, answer in enumerate(behind) if answer is not None]
    if not known:
        return [*lines, "too few losses in common to say which is behind"]
    late = [i for i in known if all(behind[j] for j in known if j >= i)]
    if late:
        return [*lines, f"the loss is behind from step {edges[late[0]] + 1} on, to the end"]
    worse = [f"{edges[i] + 1}..{edges[i + 1]}" for i in known if behind[i]]
    if worse:
        return [*lines, f"the loss is behind in steps {', '.join(worse)}, and not after"]
    return [*lines, "the loss is nowhere behind by more than its scatter"]
