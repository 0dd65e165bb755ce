"""What a run writes down while it goes on: ``log.csv``, TensorBoard events, curves."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .. import distributed
from ..errors import written_in

COLUMNS = ("step", "loss", "lr", "images_per_s", "miou")
"""Of ``log.csv``; TensorBoard has all the rest too."""


class RunLog:
    """``log.csv``, TensorBoard and the curves; a resumed run drops lines after its checkpoint.

    A context manager; only rank 0 writes.

    Args:
        folder: of the run.
        step: of the checkpoint; 0 drops everything.
        scored: step of the checkpoint's last evaluation.
    """

    def __init__(self, folder: Path, step: int, scored: int) -> None:
        self.folder, self.path, self.step, self.scored = folder, folder / "log.csv", step, scored
        self.board = None

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

    def write(self, row: dict[str, Any]) -> None:
        """A line: numbers by name, with their ``step``."""
        with written_in(self.folder):
            self.csv.writerow(row)
            self.file.flush()  # a killed run keeps its log
            for key, value in row.items():
                if key != "step" and value is not None:
                    self.board.add_scalar(key, value, row["step"])

    def show(self, step: int, pictures: Iterable[tuple[str, np.ndarray]]) -> None:
        """Pictures (H, W, 3) uint8 by name, for TensorBoard."""
        for name, picture in pictures:
            with written_in(self.folder):
                self.board.add_image(name, picture, step, dataformats="HWC")

    def rows(self) -> list[dict[str, str]]:
        """The lines of ``log.csv``."""
        if not self.path.exists():
            return []
        with open(self.path, newline="") as file:
            return list(csv.DictReader(file))

    def draw(self) -> None:
        """Paint ``curves.png``."""
        from ..visualize import plot_curves

        with written_in(self.folder):
            plot_curves(self.path).savefig(self.folder / "curves.png", dpi=110)
