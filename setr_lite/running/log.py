"""What a run writes down: ``log.csv``, ``scores.json``, TensorBoard events, curves."""

from __future__ import annotations

import csv
import json
import math
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import distributed
from ..errors import UserError, in_short, printable, written_in
from ..files import is_whole, require, sweep, written_beside
from ..metrics import ConfusionMatrix
from ..step import Losses
from .meters import Speed, peak_memory
from .progress import Progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

COLUMNS = ("step", "loss", "lr", "images_per_s", "miou")
"""Of ``log.csv``; TensorBoard has all the rest too."""
SCORES = "scores.json"
"""Of the latest evaluation, with its confusion matrix: what `doctor` looks at."""


class RunLog:
    """``log.csv``, TensorBoard and the curves; a resumed run drops lines after its checkpoint.

    A context manager; only rank 0 writes.

    Args:
        folder: of the run.
        progress: of the checkpoint that the run goes on from; step 0 drops all lines.
        batch_size: images of a step, over all processes.
        speed: what the device can do, for the column ``mfu``; None leaves it out.
    """

    def __init__(
        self, folder: Path, progress: Progress, batch_size: int, speed: Speed | None = None
    ) -> None:
        self.folder, self.path = folder, folder / "log.csv"
        self.step, self.scored = progress.step, progress.scored
        self.batch_size, self.speed = batch_size, speed
        self.board: SummaryWriter | None = None
        self.restart_clock(progress.step)

    def __enter__(self) -> RunLog:
        if distributed.rank() > 0:
            return self
        from torch.utils.tensorboard import SummaryWriter

        kept = [row for row in self.rows() if self._stays(row)] if self.step else []
        with written_in(self.folder):
            sweep(self.folder)
            with written_beside(self.path) as part, open(part, "w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(kept)
            self.file = open(self.path, "a", newline="")  # closed in __exit__
            self.csv = csv.DictWriter(self.file, COLUMNS, extrasaction="ignore")
            self.hook, threading.excepthook = threading.excepthook, self._in_thread
            self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step + 1)
        return self

    def _stays(self, row: dict[str, str]) -> bool:
        """Whether the resumed run will not write this line again."""
        return int(row["step"]) <= (self.scored if row["miou"] else self.step)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self.board is None:
            return
        with suppress(OSError) if kind else written_in(self.folder), closing(self.file):
            self.board.close()
        threading.excepthook = self.hook

    def _in_thread(self, said: threading.ExceptHookArgs) -> None:
        """TensorBoard's thread hands its error on at the next line; a traceback says it twice."""
        if type(said.thread).__name__ != "_AsyncWriterThread":
            self.hook(said)

    def restart_clock(self, step: int) -> None:
        """Count images a second from now on."""
        self.clock, self.clock_step = time.perf_counter(), step

    def write_losses(
        self, step: int, losses: Losses, groups: Iterable[dict[str, Any]], device: torch.device
    ) -> dict[str, Any]:
        """A line on a step: losses over all ranks, rates, speed, memory; collective.

        Args:
            step: its number, from 1.
            losses: of this rank.
            groups: the optimiser's, with ``name`` and ``lr``.
            device: whose memory is told.

        Returns:
            The line.
        """
        values = distributed.mean_over_ranks(torch.stack([losses.total, *losses.terms])).tolist()
        seconds = max(time.perf_counter() - self.clock, 1e-9)
        speed = (step - self.clock_step) * self.batch_size / seconds
        self.restart_clock(step)
        rates = {f"lr/{group['name']}": group["lr"] for group in groups}
        row = {
            "step": step, "loss": values[0], "lr": max(rates.values()),
            "images_per_s": round(speed, 2), **rates, "loss/head": values[1],
            **{f"loss/auxiliary {i}": value for i, value in enumerate(values[2:], 1)},
            "memory_gib": peak_memory(device) / 2**30,
        }  # fmt: skip
        if self.speed:
            mfu = self.speed.mfu(speed, distributed.world_size())
            row |= {"mfu": mfu} if mfu <= 1 else {}  # see `Speed.text`
        self._write(row)
        return row

    def write_scores(
        self,
        step: int,
        confusion: ConfusionMatrix,
        classes: Sequence[str],
        pictures: Iterable[tuple[str, np.ndarray]],
    ) -> None:
        """A line on an evaluation, its pictures (H, W, 3) uint8 by name, and the curves anew.

        ``scores.json`` holds the latest evaluation in full: `ConfusionMatrix.to_dict`, ``step``.
        """
        if self.board is not None:
            ious = dict(zip(classes, confusion.iou().tolist(), strict=True))
            ious = {f"iou/{name}": iou for name, iou in ious.items() if not math.isnan(iou)}
            self._write({"step": step, "miou": float(confusion.miou()), **ious})
            for name, picture in pictures:
                with written_in(self.folder):
                    self.board.add_image(printable(name), picture, step, dataformats="HWC")
            self._draw()
            scores = {"step": step, "names": list(classes), **confusion.to_dict(classes)}
            with written_in(self.folder), written_beside(self.folder / SCORES) as part:
                part.write_text(json.dumps(scores) + "\n", encoding="utf-8")
        self.restart_clock(step)  # an evaluation is not the loop's time

    def _write(self, row: dict[str, Any]) -> None:
        if self.board is None:
            return
        with written_in(self.folder):
            self.csv.writerow(row)
            self.file.flush()  # a killed run keeps its log
            for key, value in row.items():
                if key != "step" and value is not None:
                    self.board.add_scalar(printable(key), value, row["step"])

    def rows(self) -> list[dict[str, str]]:
        """The lines of ``log.csv``."""
        return read_log(self.path) if self.path.exists() else []

    def _draw(self) -> None:
        from ..visualize import plot_curves

        with written_in(self.folder), written_beside(self.folder / "curves.png") as part:
            plot_curves(self.path).savefig(part, dpi=110)


REMEDY = "mend the line, or move the file away and a resumed run begins a new one"


def read_log(path: Path) -> list[dict[str, str]]:
    """The lines of a ``log.csv``, by column: numbers as text, empty where there is none.

    A last line without an end, which a full disk or a crash can leave, does not count; a byte-order
    mark, which spreadsheets add, neither.

    Raises:
        UserError: other columns, or a value that is no number; its line is named.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        whole = text[: max(text.rfind("\n"), text.rfind("\r")) + 1]
        head, *rows = list(csv.reader(whole.splitlines())) or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a log ({in_short(error)}); {REMEDY}") from error
    fits = tuple(head) == COLUMNS
    require(fits, f"{path}: line 1", ",".join(head), ",".join(COLUMNS), REMEDY)
    for number, row in enumerate(rows, 2):
        _check_line(f"{path}: line {number}", row)
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def _check_line(where: str, row: list[str]) -> None:
    require(len(row) == len(COLUMNS), where, ",".join(row), f"{len(COLUMNS)} values", REMEDY)
    step, *others = row
    fits = step.isascii() and step.isdecimal() and len(step) < 16 and is_whole(int(step))
    require(fits, f"{where}, step", step, "a whole number", REMEDY)
    for name, value in zip(COLUMNS[1:], others, strict=True):
        require(not value or _is_float(value), f"{where}, {name}", value, "a number", REMEDY)


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
