"""How far a run is, as its checkpoints remember it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import distributed
from ..checkpoint import read_state
from ..config import TrainConfig
from ..datasets.feed import Faults


@dataclass
class Progress:
    """Counters and scores of a run."""

    step: int = 0
    """Updates made."""
    scored: int = 0
    """The step of the last evaluation."""
    miou: float = math.nan
    """Of the last evaluation, 0..1."""
    best: float = -1.0
    """The highest mIoU so far."""
    faults: Faults = field(default_factory=Faults)
    """Of this process since it started."""
    earlier: Faults = field(default_factory=Faults)
    """Of the processes that a resumed run had before."""

    @classmethod
    def read(cls, folder: str | Path) -> Progress:
        """What ``state.json`` of a checkpoint says.

        Raises:
            UserError: no checkpoint there, or a value that is missing or of another type.
        """
        state = read_state(folder, "step", "best", "miou")
        progress = cls(state["step"], state.get("scored", state["step"]), best=state["best"])
        progress.miou = math.nan if state["miou"] is None else state["miou"]
        if distributed.rank() == 0:
            progress.earlier = Faults(**state.get("faults", {}))
        return progress

    def due(self, every: int, steps: int) -> bool:
        """Whether something that happens every so many of `steps`, and at the end, happens now."""
        return self.step == steps or (every > 0 and self.step % every == 0)

    def owes_evaluation(self, train: TrainConfig) -> bool:
        """Whether the run was stopped before the evaluation that its last step asks for."""
        return 0 < self.step != self.scored and self.due(train.eval_every, train.steps)

    def state(self, train: TrainConfig, device: torch.device) -> dict[str, Any]:
        """For ``state.json``; collective."""
        mine = torch.tensor([self.faults.images, self.faults.workers], device=device)
        images, workers = distributed.sum_over_ranks(mine).tolist()
        faults = Faults(self.earlier.images + images, self.earlier.workers + workers)
        return {
            "step": self.step, "samples": self.step * train.batch_size,
            "finished": self.step == train.steps == self.scored,
            "scored": self.scored, "best": self.best,
            "miou": None if math.isnan(self.miou) else self.miou,
            "faults": asdict(faults), "torch": torch.__version__, "device": str(device),
            "processes": distributed.world_size(),
        }  # fmt: skip
