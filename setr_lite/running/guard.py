"""A loss or gradient that is no finite number stops a run before the update it would spoil.

On the CPU the host looks before each update. On CUDA it must not: to look is to wait for the card.
There the answer stays on the card, and PyTorch's fused optimisers take it from there: where their
`found_inf` is not zero they leave weights and state alone. The flag is never taken back, so all
later updates are left out, too, until the host, which reads the answer of the step before while
the card is busy with the next one, hears of it. (FSDP's pieces have no such flag; with them the
host waits. The CUDA side has not been run yet: no card was at hand.)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..distributed.processes import mean_over_ranks, rank
from ..errors import UserError


class NonFinite(Exception):
    """The update of a step was not made."""

    def __init__(self, step: int, loss: float, norm: float) -> None:
        super().__init__(f"loss {loss}, gradient norm {norm} at step {step}")
        self.step, self.loss, self.norm = step, loss, norm


class _Report(NamedTuple):
    step: int
    values: Tensor
    """(2) loss and gradient norm, in the host's memory once `ready`."""
    ready: torch.cuda.Event


class Guard:
    """Looks at every step's loss and gradient, without making a card wait.

    Args:
        optimizer: whose updates are left out.
        on_card: the optimiser is a fused one with plain CUDA tensors, and can leave updates out by
            itself.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, on_card: bool) -> None:
        self.optimizer, self.on_card = optimizer, on_card
        self.bad: Tensor | None = None
        self.waiting: list[_Report] = []

    def before_update(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """To be called between the backward pass and the update; collective.

        Args:
            step: number of the update, from 1.
            loss: of this process.
            norm: see `step.gradient_norm`.

        Raises:
            NonFinite: at this step, or on a card at the one before. No weight has changed since.
        """
        values = torch.stack([loss.detach().double(), norm.detach().double()])
        spread = mean_over_ranks(values.clone())  # a mean with one nan in it is nan
        finite = spread.isfinite().all()
        if not self.on_card:
            if not finite:
                raise NonFinite(step, *values.tolist())
            return
        self.bad = ~finite if self.bad is None else self.bad | ~finite
        setattr(self.optimizer, "found_inf", self.bad.float())  # noqa: B010 (no declared attribute)
        ready = torch.cuda.Event()
        values = torch.where(finite, values, values + spread * 0)  # nan if any process has one
        values = values.to("cpu", non_blocking=True)
        ready.record()
        self.waiting.append(_Report(step, values, ready))
        self._read(most=1)

    def settle(self) -> None:
        """Hear of all steps so far; before a checkpoint or an evaluation.

        Raises:
            NonFinite: as above.
        """
        self._read(most=0)

    def _read(self, most: int) -> None:
        """Leave at most so many reports unread."""
        while len(self.waiting) > most:
            report = self.waiting.pop(0)
            report.ready.synchronize()
            if not report.values.isfinite().all():
                raise NonFinite(report.step, *report.values.tolist())


def keep_evidence(
    error: NonFinite, folder: Path, save: Callable[[str], None], batch: tuple, names: Iterable[str]
) -> None:
    """Keep the weights and this process's batch in ``folder/nonfinite``, and end the run.

    Args:
        error: what was found.
        folder: of the run.
        save: writes a checkpoint of the name given; collective.
        batch: image and label tensors.
        names: of the images.

    Raises:
        UserError: always.
    """
    from safetensors.torch import save_file

    save("nonfinite")
    inside, names = folder / "nonfinite", list(names)
    image, label = (tensor.contiguous() for tensor in batch)
    save_file({"image": image, "label": label}, inside / f"batch_{rank()}.safetensors")
    (inside / f"batch_{rank()}.json").write_text(json.dumps(names, indent=1))
    raise UserError(
        f"step {error.step}: the loss is {error.loss:g} and the gradient's norm {error.norm:g}; "
        f"stopped before the update. Images: {', '.join(names)}. Weights and batch are in "
        f"{inside}; the checkpoint {folder / 'last'}, if one was due, is from before. Look at the "
        "images, or start another run with a lower optim.lr or optim.clip_norm=1"
    ) from error
