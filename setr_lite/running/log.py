"""What a run writes down while it goes on: ``log.csv``, TensorBoard events, curves."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import distributed
from ..errors import written_in
from ..metrics import ConfusionMatrix
from ..step import Losses
from .meters import Speed, peak_memory
from .progress import Progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

COLUMNS = ("step", "loss", "lr", "images_per_s", "miou")
"""Of ``log.csv``; TensorBoard has all the rest too."""


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
        beside = self.path.with_suffix(".part")
        with written_in(self.folder):
            with open(beside, "w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(kept)
            beside.replace(self.path)  # at no instant is the log gone
            self.file = open(self.path, "a", newline="")  # closed in __exit__
            self.csv = csv.DictWriter(self.file, COLUMNS, extrasaction="ignore")
            self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step + 1)
        return self

    def _stays(self, row: dict[str, str]) -> bool:
        """Whether the resumed run will not write this line again."""
        return int(row["step"]) <= (self.scored if row["miou"] else self.step)

    def __exit__(self, *error: object) -> None:
        if self.board is not None:
            self.file.close()
            self.board.close()

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
            row["mfu"] = self.speed.mfu(speed, distributed.world_size())
        self._write(row)
        return row

    def write_scores(
        self,
        step: int,
        confusion: ConfusionMatrix,
        classes: Sequence[str],
        pictures: Iterable[tuple[str, np.ndarray]],
    ) -> None:
        """A line on an evaluation, its pictures (H, W, 3) uint8 by name, and the curves anew."""
        if self.board is not None:
            ious = dict(zip(classes, confusion.iou().tolist(), strict=True))
            ious = {f"iou/{name}": iou for name, iou in ious.items() if not math.isnan(iou)}
            self._write({"step": step, "miou": float(confusion.miou()), **ious})
            for name, picture in pictures:
                with written_in(self.folder):
                    self.board.add_image(name, picture, step, dataformats="HWC")
            self._draw()
        self.restart_clock(step)  # an evaluation is not the loop's time

    def _write(self, row: dict[str, Any]) -> None:
        if self.board is None:
            return
        with written_in(self.folder):
            self.csv.writerow(row)
            self.file.flush()  # a killed run keeps its log
            for key, value in row.items():
                if key != "step" and value is not None:
                    self.board.add_scalar(key, value, row["step"])

    def rows(self) -> list[dict[str, str]]:
        """The lines of ``log.csv``."""
        if not self.path.exists():
            return []
        with open(self.path, newline="") as file:
            return list(csv.DictReader(file))

    def _draw(self) -> None:
        from ..visualize import plot_curves

        with written_in(self.folder):
            plot_curves(self.path).savefig(self.folder / "curves.png", dpi=110)
