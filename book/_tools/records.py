"""What the tools here share: their options, and the records that they leave under data/runs."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from setr_lite.config import RunConfig
from setr_lite.toytown import write_toytown
from setr_lite.train import train

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""
RUNS = ROOT / "data" / "runs"
"""A folder for each record; the pages load them from there."""
STREET_MODEL = RUNS / "toytown_pup" / "model"
"""The committed SETR-PUP, trained on ToyTown."""
STREETS = ROOT / "data" / "sample" / "toytown_cityscapes"
"""The committed scenes of ToyTown."""


def options(doc: str) -> argparse.ArgumentParser:
    """A parser whose ``--help`` is the tool's own docstring."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def study_options(doc: str, out: str, runs: str) -> argparse.ArgumentParser:
    """`options` of a study that trains on ToyTown, with several seeds.

    Args:
        doc: the tool's own docstring.
        out: folder of its record, below data/runs.
        runs: folder of its trainings, below runs.
    """
    parser = options(doc)
    parser.add_argument("--steps", type=int, help="of every head, for a trial")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--out", type=Path, default=RUNS / out)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / runs)
    parser.add_argument("--town", type=Path, default=ROOT / "toytown")
    return parser


def draw_town(folder: Path) -> None:
    """ToyTown, unless it has been drawn there."""
    if not (folder / "gtFine").is_dir():
        write_toytown(folder)


def train_to_the_end(config: RunConfig, progress: bool = False) -> dict[str, Any]:
    """`train`, going on from the run's checkpoint if there is one.

    Raises:
        SystemExit: a signal stopped it, so there is nothing to record yet.
    """
    folder = Path(config.train.out)
    result = train(config, resume=(folder / "last").exists(), progress=progress)
    if not result["finished"]:
        raise SystemExit(f"{folder} was stopped; the same command goes on with it")
    return result


def about(command: str, device: str = "") -> dict[str, Any]:
    """What every record says of its making.

    Args:
        command: as a reader would type it, with words for places of their own.
        device: where the work ran; by default the cores that PyTorch has here.

    Returns:
        ``command``, ``date`` (UTC, YYYY-MM-DD), ``device``, ``versions`` (Python and PyTorch).
    """
    return {
        "command": command,
        "date": today(),
        "device": device or cores(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def today() -> str:
    """The date in UTC, YYYY-MM-DD."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")


def cores() -> str:
    """Cores that PyTorch has, and those of the machine."""
    return f"{torch.get_num_threads()} of {os.cpu_count()} CPU cores ({platform.machine()})"


def write(file: Path, record: dict[str, Any]) -> None:
    """A record as JSON, in a folder that is made if it is not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
