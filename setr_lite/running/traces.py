"""What a run has left in its folder, read for `doctor`: log, scores, settings, state, weights."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor
from torch.nn.functional import cosine_similarity

from .. import checkpoint
from ..config import RunConfig
from ..errors import UserError
from ..files import is_whole, read_json, require
from ..typed import path_of
from .log import SCORES, read_log

Row = dict[str, float]
"""``step``, and of ``loss``, ``lr`` and ``miou`` what the line has; NaN stays."""
REMEDY = "write it anew with `setr-lite eval RUN/last --json RUN/scores.json`"


@dataclass(frozen=True)
class Traces:
    """What is there; what is not is empty or None."""

    folder: str
    """Of the run."""
    rows: list[Row] = field(default_factory=list)
    """Of ``log.csv``."""
    matrix: list[list[int]] | None = None
    """(K, K) confusion matrix of the latest scores: rows are labels, columns predictions."""
    names: tuple[str, ...] = ()
    """Of the classes."""
    config: RunConfig | None = None
    """Settings of the checkpoint."""
    state: dict[str, Any] = field(default_factory=dict)
    """``state.json`` of the checkpoint."""
    weights: dict[str, float] = field(default_factory=dict)
    """See `look_at_weights`."""
    spoilt: int | None = None
    """The step at which the run met a number that is not finite, if it left ``nonfinite``."""

    def looked_at(self) -> list[str]:
        """What there was to look at, in words."""
        there = {
            f"{len(self.rows)} lines of log.csv": self.rows,
            f"a confusion matrix of {len(self.names)} classes": self.matrix,
            "the settings": self.config, "the state": self.state, "the weights": self.weights,
        }  # fmt: skip
        return [words for words, found in there.items() if found]

    def missing(self) -> list[str]:
        """What else could be looked at."""
        there = {"log.csv": self.rows, SCORES: self.matrix, "a checkpoint": self.config}
        return [words for words, found in there.items() if not found]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON knows them; the folder, a place of one machine, is left out."""
        settings = self.config.to_dict() if self.config else None
        found = asdict(replace(self, config=None))
        return {**found, "names": list(self.names), "config": settings, "folder": "RUN"}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Traces:
        """The inverse of `to_dict`; other keys are left alone."""
        kept = {key: found[key] for key in cls.__dataclass_fields__}
        settings = found["config"]
        config = RunConfig.from_dict(settings) if settings else None
        return cls(**kept | {"config": config, "names": tuple(found["names"])})


def read_traces(run: str | Path, scores: str | Path = "") -> Traces:
    """Read what a run has left.

    Args:
        run: its folder, or a checkpoint in it, whose log is then that beside it.
        scores: a file of `eval --json`; empty takes ``scores.json`` of the run, or a
            ``record.json`` with a matrix.

    Raises:
        UserError: no such folder, nothing of a run in it, or a file that is not what its name says.
    """
    folder = path_of(run)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give that of a run, such as runs/toytown_pup")
    place = _checkpoint(folder)
    home = folder.parent if place == folder and (folder.parent / "log.csv").exists() else folder
    log, bad = home / "log.csv", home / "nonfinite"
    found = Traces(str(home), rows=_rows(log) if log.exists() else [])
    if checkpoint.exists(bad):
        found = replace(found, spoilt=checkpoint.read_state(bad, "step")["step"])
    if place or found.spoilt is not None:
        found = _with_checkpoint(found, place or bad, weights=place is not None)
    files = [path_of(scores)] if scores else [home / SCORES, home / "record.json"]
    file = next((file for file in files if scores or file.exists()), None)
    found = _with_scores(found, file) if file else found
    if not (found.rows or found.matrix or found.config):
        raise UserError(
            f"{folder}: holds nothing of a run (log.csv, {SCORES}, last); give the folder that "
            "`setr-lite train` wrote"
        )
    return found


def _checkpoint(folder: Path) -> Path | None:
    places = (folder, folder / "last", folder / "best", folder / "model")
    return next((place for place in places if checkpoint.exists(place)), None)


def _rows(log: Path) -> list[Row]:
    rows = [{key: float(value) for key, value in row.items() if value} for row in read_log(log)]
    return [{key: row[key] for key in ("step", "loss", "lr", "miou") if key in row} for row in rows]


def _with_checkpoint(found: Traces, place: Path, weights: bool) -> Traces:
    def read(at: Path) -> tuple[RunConfig, list[str], dict[str, Any], dict[str, float]]:
        seen = look_at_weights(checkpoint.read_tensors(at)) if weights else {}
        return (checkpoint.read_config(at), checkpoint.read_info(at)["classes"],
                checkpoint.read_state(at), seen)  # fmt: skip

    config, names, state, seen = checkpoint.steady(place, read)
    return replace(found, config=config, names=tuple(names), state=state, weights=seen)


def look_at_weights(tensors: dict[str, Tensor]) -> dict[str, float]:
    """What the weights of a checkpoint tell of how they came about.

    Returns:
        ``place``: mean cosine of the position table's adjacent rows, without their mean; about 0
        in a random table, well above it in a trained one. ``size``: root mean square of the weights
        in the blocks' linear layers. ``batches``: the least number of batches that a BatchNorm has
        seen in training. Each is left out where there is none.
    """
    seen: dict[str, float] = {}
    linear = [v.double() for name, v in tensors.items() if ".blocks." in name and v.ndim == 2]
    if linear:
        seen["size"] = round(math.sqrt(fmean(v.square().mean().item() for v in linear)), 4)
    for name, value in tensors.items():
        if name.startswith("encoder.") and name.endswith("pos_embed") and value.ndim == 3:
            table = value[0].double() - value[0].double().mean(0)
            seen["place"] = round(cosine_similarity(table[:-1], table[1:]).mean().item(), 4)
    counts = [v.item() for name, v in tensors.items() if name.endswith("num_batches_tracked")]
    return seen | ({"batches": min(counts)} if counts else {})


def _with_scores(found: Traces, file: Path) -> Traces:
    values = read_json(file, REMEDY)
    matrix = values.get("matrix")
    if matrix is None and file.name == "record.json":  # of something else
        return found
    size = len(matrix) if isinstance(matrix, list) else 0
    fits = size > 0 and all(_counts(row, size) for row in matrix or [])
    require(fits, f"{file}: 'matrix'", matrix, "K lists of K counts", REMEDY)
    wanted = found.config.model.num_classes if found.config else size
    require(size == wanted, f"{file}: 'matrix'", matrix, f"{wanted} lists, as model.num_classes of "
            "the checkpoint says", "give the scores of this run")  # fmt: skip
    listed = values.get("names") or list(values.get("classes") or ())
    names = found.names or tuple(map(str, listed)) or tuple(f"class {k}" for k in range(size))
    require(len(names) == size, f"{file}: 'names'", listed, f"{size} names", REMEDY)
    return replace(found, matrix=matrix, names=names)


def _counts(row: Any, size: int) -> bool:
    return isinstance(row, list) and len(row) == size and all(map(is_whole, row))
