"""The training loop: one function that reads as a list of steps.

Everything random is a function of the seed and of the step, so a run that was stopped at any step
and resumed takes the same steps as one that was not: on a CPU, the same bits.
"""

from __future__ import annotations

import contextlib
import csv
import math
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from . import checkpoint, distributed
from .config import RunConfig
from .datasets import TrainStream, load_dataset, rank_counters
from .errors import UserError
from .evaluate import evaluate
from .frozen import freeze_encoder
from .losses import loss_divisor, segmentation_loss
from .model import SETR, count_parameters
from .optim import build_optimizer, describe_groups, set_lr
from .pretrained import load_first_weights, require_source
from .recompute import recompute_encoder
from .transforms import TrainTransform

COLUMNS = ("step", "loss", "lr", "images_per_s", "miou")


def train(config: RunConfig, *, resume: bool = False, progress: bool = True) -> dict[str, Any]:
    """Train the model of a run; the same function serves scripts, notebooks and torchrun.

    Writes into ``train.out`` (default ``runs/<recipe>``): ``last`` and ``best`` checkpoints,
    ``log.csv``, ``curves.png`` and TensorBoard events.

    Args:
        config: a recipe, perhaps with overrides.
        resume: continue from ``last`` in the run's folder; without it a folder that already
            holds a checkpoint is refused.
        progress: show the bar and print what happens.

    Returns:
        ``folder``, ``checkpoint`` (paths), ``step``, ``finished``, ``miou``, ``confusion``
        (the last evaluation, or None), ``classes`` (their names), ``history`` (rows of the log),
        ``seconds``.

    Raises:
        UserError: unusable settings, data or checkpoint; or a loss that is no longer finite.
    """
    started = time.perf_counter()
    device = distributed.start(config.train.device)
    say = print if progress and distributed.rank() == 0 else lambda *_: None
    run = _Run(config, device, resume)
    say(run.describe())
    loader = _batches(run.config, run)
    bar = tqdm(
        total=config.train.steps, initial=run.step, unit="step", desc=config.recipe or "train",
        disable=not progress or distributed.rank() > 0, dynamic_ncols=True,
    )
    with bar, _stop_signals() as stop, run.log:
        for batch in loader:
            loss = run.take_step(batch)
            bar.update()
            if run.due(config.train.log_every):
                row = run.write_log(loss)
                text = "loss {loss:.3f}  lr {lr:.1e}  {images_per_s:.1f} img/s"
                bar.set_postfix_str(text.format(**row))
            if run.due(config.train.eval_every):
                run.evaluate(progress)
                say(f"step {run.step}: mIoU {run.miou:.3f}")
            if run.due(config.train.save_every):
                run.save()
            if run.should_stop(stop):
                run.save()
                say(f"\nstopped after step {run.step}, saved in {run.folder}; --resume goes on")
                break
    distributed.barrier()  # rank 0 may still be writing
    return run.result(time.perf_counter() - started)


class _Run:
    """What changes while a run goes on: model, optimiser, step, log, scores."""

    def __init__(self, config: RunConfig, device: torch.device, resume: bool) -> None:
        if not resume:
            require_source(config)
        self.device = device
        self.folder = Path(config.train.out or f"runs/{config.recipe or 'run'}")
        self.batch = _local_batch(config)
        self.train_set = load_dataset(config.data, "train")
        self.val_set = load_dataset(config.data, "val")
        if len(self.train_set.classes) != config.model.num_classes:
            raise UserError(
                f"model.num_classes={config.model.num_classes}: {config.data.name} has "
                f"{len(self.train_set.classes)} classes; "
                f"set model.num_classes={len(self.train_set.classes)}"
            )
        self.step, self.miou, self.best, self.confusion = 0, math.nan, -1.0, None
        seed_everything(config.train.seed, 0)
        self.model, self.sources = SETR.from_config(config.model), []
        config = replace(config, data=self.model.normalization(config.data))
        if resume:
            checkpoint.read_weights(self.folder / "last", self.model)
            began = checkpoint.read_config(self.folder / "last").model.pretrained
            config = replace(config, model=replace(config.model, pretrained=began))
        elif checkpoint.exists(self.folder / "last"):
            raise UserError(
                f"{self.folder}: holds a run already; continue it with --resume, or choose "
                "another folder with train.out=DIR"
            )
        else:
            self.sources = load_first_weights(self.model.encoder, config.model.pretrained)
        self.config = self.model.config = config
        freeze_encoder(self.model.encoder, config)
        recompute_encoder(self.model.encoder, config.train)
        self.model.to(device).train()
        if device.type == "cuda":
            self.model.to(memory_format=torch.channels_last)
        if config.train.compile:
            for block in self.model.encoder.blocks:
                block.compile()
        self.wrapped = distributed.wrap(self.model, device)
        self.optimizer = build_optimizer(self.model, config.optim)
        if resume:
            self._resume()
        _make_folder(self.folder)
        self.log = _Log(self.folder, self.step)
        self.clock, self.clock_step = time.perf_counter(), self.step

    def _resume(self) -> None:
        last = self.folder / "last"
        _refuse_changes(checkpoint.read_config(last), self.config)
        checkpoint.read_optimizer(last, self.optimizer)
        state = checkpoint.read_state(last)
        self.step, self.best = state["step"], state["best"]
        self.miou = math.nan if state["miou"] is None else state["miou"]
        if self.step >= self.config.train.steps:
            raise UserError(
                f"{last}: has all {self.step} of train.steps={self.config.train.steps}; raise "
                "train.steps to go on"
            )

    def describe(self) -> str:
        c = self.config
        return (
            f"{c.recipe}: {count_parameters(self.model) / 1e6:.2f} M parameters, "
            f"{len(self.train_set)} training and {len(self.val_set)} validation images, "
            f"{c.train.steps} steps of {c.train.batch_size} on {self.device} "
            f"x {distributed.world_size()}, from step {self.step}; {self.folder}\n"
            + "".join(f"{source}\n" for source in self._origin())
            + describe_groups(self.optimizer.param_groups)
        )

    def _origin(self) -> list[Any]:
        fresh = self.step == 0 and not self.sources
        return ["the encoder starts from random weights"] if fresh else self.sources

    def due(self, every: int) -> bool:
        """Whether something that happens every so many steps, and at the end, happens now."""
        return self.step == self.config.train.steps or (every > 0 and self.step % every == 0)

    def should_stop(self, asked: threading.Event) -> bool:
        """Whether any rank was asked to stop; several ranks agree when they log, not each step."""
        if self.step == self.config.train.steps:
            return False
        if distributed.world_size() == 1:
            return asked.is_set()
        return self.due(self.config.train.log_every) and distributed.any_rank(
            asked.is_set(), self.device)

    def take_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """One optimiser step on this rank's images; the loss, still on the device."""
        c = self.config
        seed_everything(c.train.seed, self.step + 1, distributed.rank())
        set_lr(self.optimizer, self.step, c.train.steps, c.optim)
        image = batch[0].to(self.device, non_blocking=True)
        label = batch[1].to(self.device, non_blocking=True)
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        count, divisor = c.train.accumulate, loss_divisor(label, c.loss.normalize)
        parts = zip(image.chunk(count), label.chunk(count), strict=True)
        for i, (images, labels) in enumerate(parts, 1):
            with _sync_when(self.wrapped, i == count), self._autocast():
                part = segmentation_loss(
                    self.wrapped(images), labels,
                    aux_weight=c.loss.aux_weight, normalize=c.loss.normalize, divisor=divisor,
                )
                part.backward()
            loss += part.detach()
        if c.optim.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), c.optim.clip_norm)
        self.optimizer.step()
        self.step += 1
        return loss

    def _autocast(self) -> torch.autocast:
        amp = self.config.train.amp
        on = amp == "bf16" or (amp == "auto" and self.device.type == "cuda")
        # every weight is used once: kept casts would only take memory, see `MicroBatches`
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on, cache_enabled=False)

    def write_log(self, loss: Tensor) -> dict[str, Any]:
        """One line of the log: the loss of this step over all ranks, rate, speed."""
        value = distributed.mean_over_ranks(loss.clone()).item()
        if not math.isfinite(value):
            raise UserError(
                f"the loss is {value} at step {self.step}; the last checkpoint in {self.folder} is "
                "from before, resume it with a lower optim.lr or optim.clip_norm=1"
            )
        now = time.perf_counter()
        images = (self.step - self.clock_step) * self.config.train.batch_size
        speed = images / max(now - self.clock, 1e-9)
        self.clock, self.clock_step = now, self.step
        lr = max(group["lr"] for group in self.optimizer.param_groups)
        row = {"step": self.step, "loss": value, "lr": lr, "images_per_s": round(speed, 2)}
        if distributed.rank() == 0:
            self.log.write(row)
        return row

    def evaluate(self, progress: bool) -> None:
        """Score the validation set, keep the best, draw the curves."""
        progress = progress and distributed.rank() == 0
        self.confusion = evaluate(
            self.model, self.val_set, self.config, workers=self.config.train.workers,
            progress=progress)
        self.miou = float(self.confusion.miou())
        if distributed.rank() == 0:
            self.log.write({"step": self.step, "miou": self.miou})
            if self.miou > self.best:
                self.best = self.miou
                self.save("best", optimizer=False)
            self.log.draw()
        self.clock, self.clock_step = time.perf_counter(), self.step  # not the loop's time

    def save(self, name: str = "last", optimizer: bool = True) -> None:
        """Write a checkpoint; rank 0 does, the others wait."""
        if distributed.rank() == 0:
            batch = self.config.train.batch_size
            checkpoint.save_checkpoint(
                self.folder / name, self.model, self.config,
                classes=self.val_set.classes, palette=self.val_set.palette,
                optimizer=self.optimizer if optimizer else None,
                state={
                    "step": self.step, "samples": self.step * batch, "best": self.best,
                    "miou": None if math.isnan(self.miou) else self.miou,
                    "torch": torch.__version__, "device": str(self.device),
                },
            )

    def result(self, seconds: float) -> dict[str, Any]:
        return {
            "folder": self.folder, "checkpoint": self.folder / "last", "step": self.step,
            "finished": self.step == self.config.train.steps, "miou": self.miou,
            "confusion": self.confusion, "classes": self.val_set.classes,
            "history": self.log.rows(), "seconds": seconds,
        }


class _Log:
    """``log.csv``, TensorBoard and the curves; a resumed run drops lines after its checkpoint."""

    def __init__(self, folder: Path, step: int) -> None:
        self.folder, self.path, self.step = folder, folder / "log.csv", step
        self.board = None

    def __enter__(self) -> _Log:
        if distributed.rank() > 0:
            return self
        from torch.utils.tensorboard import SummaryWriter

        kept = [row for row in self.rows() if int(row["step"]) <= self.step] if self.step else []
        self.file = open(self.path, "w", newline="")  # closed in __exit__
        self.csv = csv.DictWriter(self.file, COLUMNS)
        self.csv.writeheader()
        self.csv.writerows(kept)
        self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step + 1)
        return self

    def __exit__(self, *error: object) -> None:
        if self.board is not None:
            self.file.close()
            self.board.close()

    def write(self, row: dict[str, Any]) -> None:
        self.csv.writerow(row)
        self.file.flush()  # a killed run keeps its log
        for key, value in row.items():
            if key != "step" and value is not None:
                self.board.add_scalar(key, value, row["step"])

    def rows(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with open(self.path, newline="") as file:
            return list(csv.DictReader(file))

    def draw(self) -> None:
        from .visualize import plot_curves

        plot_curves(self.path).savefig(self.folder / "curves.png", dpi=110)


def seed_everything(*numbers: int) -> None:
    """Seed Python, NumPy and PyTorch from some whole numbers, the same on every machine."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (for libraries that still draw from the global state)
    torch.manual_seed(seed)


def _batches(config: RunConfig, run: _Run) -> DataLoader:
    """This rank's share of every batch from the run's step to the end, as (image, label)."""
    stream = TrainStream(
        run.train_set, TrainTransform(config.data, config.train.seed), config.train.seed)
    counters = rank_counters(
        run.step, config.train.steps, config.train.batch_size,
        distributed.rank(), distributed.world_size(),
    )
    return DataLoader(
        stream, batch_size=run.batch, sampler=counters, num_workers=config.train.workers,
        pin_memory=run.device.type == "cuda", worker_init_fn=distributed.one_thread,
    )


def _local_batch(config: RunConfig) -> int:
    size, world, parts = config.train.batch_size, distributed.world_size(), config.train.accumulate
    if size % (world * parts):
        raise UserError(
            f"train.batch_size={size}: not a multiple of {world} processes x "
            f"train.accumulate={parts}"
        )
    return size // world


def _refuse_changes(saved: RunConfig, asked: RunConfig) -> None:
    """A resumed run may change where and how long it runs, not what it computes."""
    free = {
        "train.steps", "train.out", "train.device", "train.workers", "train.compile",
        "train.micro_batch", "train.grad_checkpointing", "train.eval_every", "train.save_every",
        "train.log_every", "train.feature_cache", "data.root",
    }
    before, now = saved.to_dict(), asked.to_dict()
    for section in ("model", "data", "loss", "optim", "train"):
        for key, value in now[section].items():
            name, old = f"{section}.{key}", before[section][key]
            if name not in free and old != value:
                raise UserError(
                    f"{name}={value}: the run to resume was made with {name}={old}; resume with "
                    "the same settings or start another run with train.out=DIR"
                )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"train.out={folder}: cannot be written ({error.strerror})") from error


def _sync_when(model: nn.Module, last: bool) -> contextlib.AbstractContextManager:
    """DDP averages gradients once, after the last part of an accumulated batch."""
    return contextlib.nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync()


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets; a second Ctrl-C interrupts at once."""
    event = threading.Event()

    def ask(number: int, frame: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
