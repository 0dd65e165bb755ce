"""A loss or gradient that is no finite number stops a run before the update it would spoil.

On the CPU the host looks before each update. On CUDA it must not: to look is to wait for the GPU.
There the answer stays on the GPU, and PyTorch's fused optimisers take it from there: where their
`found_inf` is not zero they leave weights and state alone. The flag is never taken back, so all
later updates are left out, too, until the host, which reads the answer of the step before while
the GPU is busy with the next one, learns of it. (FSDP's pieces have no such flag; with them the
host waits. The CUDA side has not been run yet: no GPU was at hand.)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..checkpoint import not_finite, not_finite_moments
from ..distributed.processes import mean_over_ranks, rank
from ..errors import UserError, printable
from ..files import written_beside


class NonFinite(Exception):
    """A step met a value that is no finite number, and its update was not made; or left one.

    Args:
        step: its number, from 1.
        loss, norm: of the step that was stopped.
        left: what the update left behind, as ``'head.bias' holds NaN or infinity``; empty if it was
            not made.
    """

    def __init__(
        self, step: int, loss: float = math.nan, norm: float = math.nan, left: str = ""
    ) -> None:
        what = f"{left} after" if left else f"loss {loss}, gradient norm {norm} at"
        super().__init__(f"{what} step {step}")
        self.step, self.loss, self.norm, self.left = step, loss, norm, left

    def sentence(self) -> str:
        """What happened, for the message that ends the run."""
        if self.left:
            return f"step {self.step}: {self.left}; not saved as a checkpoint to go on from"
        return (
            f"step {self.step}: the loss is {self.loss:g} and the gradient's norm {self.norm:g}; "
            "stopped before the update"
        )


def check_saved(
    step: int, model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Look at what is about to be saved; collective.

    The loss of a step does not know what its update does: a moment that overflows, or a rate that
    is too high, spoils the weights behind it, and BatchNorm's statistics are not used in training.

    Raises:
        NonFinite: a weight, a statistic or a moment is no finite number.
    """
    own = tree_map(_own_piece, model.state_dict())
    moments = {"state": {}} if optimizer is None else tree_map(_own_piece, optimizer.state_dict())
    bad = not_finite(own) or not_finite_moments(moments)
    device = next(model.parameters()).device
    if mean_over_ranks(torch.tensor(float(bool(bad)), device=device)):
        raise NonFinite(step, left=bad or "a value in another process holds NaN or infinity")


def _own_piece(value: Any) -> Any:
    return value.to_local() if hasattr(value, "to_local") else value


class _Report(NamedTuple):
    step: int
    values: Tensor
    """(2) loss and gradient norm, in the host's memory once `ready`."""
    ready: torch.cuda.Event


class Guard:
    """Looks at every step's loss and gradient, without making a GPU wait.

    Args:
        optimizer: whose updates are left out.
        on_gpu: the optimiser is a fused one with plain CUDA tensors, and can leave updates out by
            itself.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, on_gpu: bool) -> None:
        self.optimizer, self.on_gpu = optimizer, on_gpu
        self.bad: Tensor | None = None
        self.waiting: list[_Report] = []

    def before_update(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """To be called between the backward pass and the update; collective.

        Args:
            step: number of the update, from 1.
            loss: of this process.
            norm: see `step.gradient_norm`.

        Raises:
            NonFinite: at this step, or on a GPU at the one before. No weight has changed since.
        """
        values = torch.stack([loss.detach().double(), norm.detach().double()])
        spread = mean_over_ranks(values.clone())  # a mean with one nan in it is nan
        finite = spread.isfinite().all()
        if not self.on_gpu:
            if not finite:
                raise NonFinite(step, *values.tolist())
            return
        self.bad = ~finite if self.bad is None else self.bad | ~finite
        setattr(self.optimizer, "found_inf", self.bad.float())  # noqa: B010 (no declared attribute)
        ready = torch.cuda.Event()
        values = torch.where(spread.isfinite(), values, spread)  # no number if any process has none
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
        batch: image, in bytes as it was loaded, and label tensors.
        names: of the images.

    Raises:
        UserError: always.
    """
    from safetensors.torch import save_file

    save("nonfinite")
    inside, names = folder / "nonfinite", list(names)
    image, label = (tensor.contiguous() for tensor in batch)
    with written_beside(inside / f"batch_{rank()}.safetensors") as part:
        save_file({"image": image, "label": label}, part)
    with written_beside(inside / f"batch_{rank()}.json") as part:
        part.write_text(json.dumps(names, indent=1))
    raise UserError(
        f"{error.sentence()}. Images: {', '.join(map(printable, names))}. Weights and batch are in "
        f"{inside}; the checkpoint {folder / 'last'}, if one was due, is from before. Look at the "
        "images, or start another run with a lower optim.lr or optim.clip_norm=1"
    ) from error
