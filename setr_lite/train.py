"""The training loop: one function that reads as a list of steps.

Everything random is a function of the seed and of the step, so a run that was stopped at any step
and resumed takes the same steps as one that was not: on a CPU, the same bits.
"""

from __future__ import annotations

import contextlib
import math
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
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
from .describe import start_table
from .errors import UserError
from .evaluate import evaluate, predictor
from .fit import fit_to_device
from .frozen import freeze_encoder
from .losses import loss_and_terms, loss_divisor
from .memory import format_bytes
from .meters import format_seconds, measure_speed, peak_memory
from .model import SETR, count_parameters
from .optim import build_optimizer, describe_groups, set_lr
from .pretrained import load_first_weights, require_source
from .recompute import recompute_encoder
from .run_log import RunLog
from .transforms import TrainTransform
from .visualize import overlay

PICTURES = 3
"""Predictions that TensorBoard shows after each evaluation, of the first validation images."""


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
    _make_folder(run.folder)
    if progress or device.type == "cuda":  # a second on a CPU: not for nothing
        run.speed = measure_speed(run.config, device)
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
                text += "  MFU {mfu:.0%}" if "mfu" in row else ""
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


def rehearse(config: RunConfig, *, resume: bool = False) -> dict[str, Any]:
    """Say what `train` would do: all is built, one batch is read, two steps are taken with it.

    Nothing is written; the first step warms up, the second is timed.

    Returns:
        ``loss`` of the first step, ``read_seconds`` of the batch, ``first_seconds``,
        ``step_seconds``, ``seconds`` that all steps would take, evaluation and saving left out,
        ``memory`` (bytes at the highest, see `meters.peak_memory`).

    Raises:
        UserError: whatever would keep `train` from starting.
    """
    device = distributed.start(config.train.device)
    train = replace(config.train, feature_cache="")  # it would be written
    run = _Run(replace(config, train=train), device, resume)
    run.speed = measure_speed(run.config, device)
    say = print if distributed.rank() == 0 else lambda *_: None
    say(run.describe())
    times = [time.perf_counter()]
    batch = next(iter(_batches(run.config, run)))
    times.append(time.perf_counter())
    losses = []
    for _ in range(2):
        losses.append(distributed.mean_over_ranks(run.take_step(batch).clone()).item())
        times.append(time.perf_counter())
    read, first, step = (b - a for a, b in pairwise(times))
    left, memory = run.config.train.steps - run.step + 2, peak_memory(device)
    mfu = run.speed.mfu(run.config.train.batch_size / step, distributed.world_size())
    say(
        f"one batch read in {format_seconds(read)}, first step {format_seconds(first)}, second "
        f"{format_seconds(step)} (MFU {mfu:.0%}), loss {losses[0]:.3f} and {losses[1]:.3f}\n"
        f"{left} steps would take {format_seconds(left * step)}, evaluation and saving not counted"
        f"\n{format_bytes(memory)} taken at the highest, "
        + ("reserved on the card" if device.type == "cuda" else "by the whole process")
        + f"; nothing was written into {run.folder}"
    )
    return {
        "loss": losses[0], "read_seconds": read, "first_seconds": first, "step_seconds": step,
        "seconds": left * step, "memory": memory,
    }


class _Run:
    """What changes while a run goes on: model, optimiser, step, log, scores."""

    def __init__(self, config: RunConfig, device: torch.device, resume: bool) -> None:
        if not resume:
            require_source(config)
        self.device, self.speed, self.fitted = device, None, None
        if config.train.fit:
            self.fitted = fit_to_device(config, device)
            config = self.fitted.config
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
        self.log = RunLog(self.folder, self.step)
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
            + (f"{self.fitted}\n" if self.fitted else "")
            + f"{start_table(c, self.model, self.speed, self.device)}\n"
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
        loss, self.terms = torch.zeros((), device=self.device), 0
        count, divisor = c.train.accumulate, loss_divisor(label, c.loss.normalize)
        parts = zip(image.chunk(count), label.chunk(count), strict=True)
        for i, (images, labels) in enumerate(parts, 1):
            with _sync_when(self.wrapped, i == count), self._autocast():
                part, terms = loss_and_terms(
                    self.wrapped(images), labels,
                    aux_weight=c.loss.aux_weight, normalize=c.loss.normalize, divisor=divisor,
                )
                part.backward()
            loss, self.terms = loss + part.detach(), self.terms + terms
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
        """One line of the log: losses of this step over all ranks, rates, speed, memory."""
        terms = distributed.mean_over_ranks(torch.stack([loss, *self.terms])).tolist()
        value, *terms = terms
        if not math.isfinite(value):
            raise UserError(
                f"the loss is {value} at step {self.step}; the last checkpoint in {self.folder} is "
                "from before, resume it with a lower optim.lr or optim.clip_norm=1"
            )
        now = time.perf_counter()
        images = (self.step - self.clock_step) * self.config.train.batch_size
        speed = images / max(now - self.clock, 1e-9)
        self.clock, self.clock_step = now, self.step
        rates = {f"lr/{group['name']}": group["lr"] for group in self.optimizer.param_groups}
        row = {
            "step": self.step, "loss": value, "lr": max(rates.values()),
            "images_per_s": round(speed, 2), **rates, "loss/head": terms[0],
            **{f"loss/auxiliary {i}": term for i, term in enumerate(terms[1:], 1)},
            "memory_gib": peak_memory(self.device) / 2**30,
        }  # fmt: skip
        if self.speed:
            row["mfu"] = self.speed.mfu(speed, distributed.world_size())
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
            classes = zip(self.val_set.classes, self.confusion.iou().tolist(), strict=True)
            ious = {f"iou/{name}": iou for name, iou in classes if not math.isnan(iou)}
            self.log.write({"step": self.step, "miou": self.miou, **ious})
            self.log.show(self.step, self._pictures())
            if self.miou > self.best:
                self.best = self.miou
                self.save("best", optimizer=False)
            self.log.draw()
        self.clock, self.clock_step = time.perf_counter(), self.step  # not the loop's time

    def _pictures(self) -> Iterator[tuple[str, np.ndarray]]:
        """The first validation images under what the model sees in them."""
        self.model.eval()
        label_of = predictor(self.model, self.config)
        for i in range(min(PICTURES, len(self.val_set), self.config.eval.limit or PICTURES)):
            sample = self.val_set[i]
            picture = overlay(sample.image, label_of(sample.image), self.val_set.palette)
            yield f"validation/{sample.name}", np.asarray(picture)
        self.model.train()

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
        "train.micro_batch", "train.grad_checkpointing", "train.fit", "train.eval_every",
        "train.save_every", "train.log_every", "train.feature_cache", "data.root",
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
