"""The training loop: one function that reads as a list of steps.

Everything random is a function of the seed and of the step, so a run that was stopped at any step
and resumed takes the same steps as one that was not: on a CPU, the same bits.
"""

from __future__ import annotations

import functools
import math
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from . import checkpoint, distributed
from .config import RunConfig
from .datasets.feed import Batch, Faults, Feed
from .datasets.layouts import load_dataset
from .distributed import parallel
from .errors import UserError
from .evaluate.loop import check_settings, check_views, evaluate, predictor
from .losses import loss_and_terms, loss_divisor
from .model import SETR, count_parameters
from .optim import build_optimizer, describe_groups, set_lr
from .recipes.describe import start_table
from .running import guard as nonfinite
from .running.fit import fit_to_device
from .running.frozen import freeze_encoder
from .running.log import RunLog
from .running.memory import format_bytes
from .running.meters import format_seconds, measure_speed, peak_memory
from .running.recompute import recompute_encoder
from .visualize import overlay
from .weights.first import load_first_weights, require_source

PICTURES = 3
"""Predictions that TensorBoard shows after each evaluation, of the first validation images."""


def train(config: RunConfig, *, resume: bool = False, progress: bool = True) -> dict[str, Any]:
    """Train the model of a run; the same function serves scripts, notebooks and torchrun.

    Writes into ``train.out`` (default ``runs/<recipe>``): ``last`` and ``best`` checkpoints,
    ``log.csv``, ``curves.png`` and TensorBoard events. Ctrl-C and SIGTERM end it after the step,
    or the evaluation, that is going on, with ``last`` saved.

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
    loud = progress and distributed.rank() == 0
    say = functools.partial(print, flush=True) if loud else lambda *_: None
    run = _Run(config, device, resume)
    _make_folder(run.folder)
    if progress or device.type == "cuda":  # a second on a CPU: not for nothing
        run.speed = measure_speed(run.config, device)
        say(run.describe())
    bar = tqdm(
        total=config.train.steps, initial=run.step, unit="step", desc=config.recipe or "train",
        disable=not progress or distributed.rank() > 0, dynamic_ncols=True,
    )
    advice = f"{run.folder / 'last'} is the last checkpoint, --resume goes on from there"
    stop = distributed.StopSignals()
    with bar, distributed.name_lost_process(advice), stop, run.log:
        if run.owes_evaluation:
            run.evaluate(progress)
            run.save()
        for batch in run.feed.batches(run.step):
            loss = run.take_step(batch)
            bar.update()
            if run.due(config.train.log_every):
                row = run.write_log(loss)
                text = "loss {loss:.3f}  lr {lr:.1e}  {images_per_s:.1f} img/s"
                text += "  MFU {mfu:.0%}" if "mfu" in row else ""
                bar.set_postfix_str(text.format(**row))
            if run.due(config.train.eval_every):
                run.save()  # an evaluation takes long; who is stopped in it should lose no step
                run.evaluate(progress)
                say(f"step {run.step}: mIoU {run.miou:.3f}")
            if run.due(config.train.save_every) or run.scored == run.step:
                run.save()
            if stop.asked() and run.step < config.train.steps:
                run.save()
                say(f"\nstopped after step {run.step}, saved in {run.folder / 'last'}")
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
    run = _Run(replace(config, train=train), device, resume, rehearsing=True)
    run.speed = measure_speed(run.config, device)
    say = print if distributed.rank() == 0 else lambda *_: None
    say(run.describe())
    times = [time.perf_counter()]
    batch = next(run.feed.batches(run.step))
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

    def __init__(
        self, config: RunConfig, device: torch.device, resume: bool, rehearsing: bool = False
    ) -> None:
        if not resume:
            require_source(config)
        check_settings(config)
        self.device, self.speed, self.fitted = device, None, None
        self.rehearsing = rehearsing  # then it writes nothing
        if config.train.fit:
            self.fitted = fit_to_device(config, device)
            config = self.fitted.config
        self.folder = Path(config.train.out or f"runs/{config.recipe or 'run'}")
        self.batch = _local_batch(config)
        self.train_set = load_dataset(config.data, "train")
        self.val_set = load_dataset(config.data, "val")
        check_views(config, self.val_set)
        if len(self.train_set.classes) != config.model.num_classes:
            raise UserError(
                f"model.num_classes={config.model.num_classes}: {config.data.name} has "
                f"{len(self.train_set.classes)} classes; "
                f"set model.num_classes={len(self.train_set.classes)}"
            )
        self.step, self.scored = 0, 0  # of the last update, of the last evaluation
        self.miou, self.best, self.confusion = math.nan, -1.0, None
        self.faults, self.earlier = Faults(), Faults()  # of this process, of those before it
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
        cut_up = config.train.parallel == "fsdp" and distributed.world_size() > 1
        if device.type == "cuda" and not cut_up:  # FSDP takes contiguous weights only
            self.model.to(memory_format=torch.channels_last)
        if config.train.compile:
            for block in self.model.encoder.blocks:
                block.compile()
        self.wrapped = parallel.wrap(
            self.model, device, parallel=config.train.parallel, sync_bn=config.train.sync_bn,
            bf16=self.bf16)
        # plain SGD has no fused form for FSDP's pieces
        self.optimizer = build_optimizer(self.model, config.optim, fused=not cut_up)
        self.guard = nonfinite.Guard(self.optimizer, device.type == "cuda" and not cut_up)
        self.recent: deque[tuple[int, Batch]] = deque(maxlen=2)
        if resume:
            self._resume()
        self.feed = Feed(
            config, self.train_set, self.faults, pin=device.type == "cuda",
            warn=lambda text: tqdm.write(text, file=sys.stderr))
        self.log = RunLog(self.folder, self.step, self.scored)
        self.clock, self.clock_step = time.perf_counter(), self.step

    def _resume(self) -> None:
        last = self.folder / "last"
        _refuse_changes(checkpoint.read_config(last), self.config)
        checkpoint.read_optimizer(last, self.optimizer)
        state = checkpoint.read_state(last, "step", "best", "miou")
        self.step, self.best = state["step"], state["best"]
        self.scored = state.get("scored", self.step)
        self.miou = math.nan if state["miou"] is None else state["miou"]
        if distributed.rank() == 0:
            self.earlier = Faults(**state.get("faults", {}))
        if self.step >= self.config.train.steps and not self.owes_evaluation:
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

    @property
    def owes_evaluation(self) -> bool:
        """Whether the run was stopped before the evaluation that its last step asks for."""
        return 0 < self.step != self.scored and self.due(self.config.train.eval_every)

    @property
    def bf16(self) -> bool:
        """Whether it computes in bfloat16 autocast."""
        amp = self.config.train.amp
        return amp == "bf16" or (amp == "auto" and self.device.type == "cuda")

    def take_step(self, batch: Batch) -> Tensor:
        """One optimiser step on this rank's images; the loss, still on the device."""
        self.recent.append((self.step + 1, batch))
        c = self.config
        seed_everything(c.train.seed, self.step + 1, distributed.rank())
        set_lr(self.optimizer, self.step, c.train.steps, c.optim)
        # PyTorch's default type, so that a script can train in float64
        image = batch.image.to(self.device, torch.get_default_dtype(), non_blocking=True)
        label = batch.label.to(self.device, non_blocking=True)
        self.optimizer.zero_grad(set_to_none=True)
        loss, self.terms = torch.zeros((), device=self.device), 0
        count, divisor = c.train.accumulate, loss_divisor(label, c.loss.normalize)
        parts = zip(image.chunk(count), label.chunk(count), strict=True)
        for i, (images, labels) in enumerate(parts, 1):
            with parallel.gradients_sync_when(self.wrapped, i == count), self._autocast():
                part, terms = loss_and_terms(
                    self.wrapped(images), labels,
                    aux_weight=c.loss.aux_weight, normalize=c.loss.normalize, divisor=divisor,
                )
                part.backward()
            loss, self.terms = loss + part.detach(), self.terms + terms
        norm = nonfinite.gradient_norm(self.model.parameters())
        self._guarded(lambda: self.guard.before_update(self.step + 1, loss, norm))
        if c.optim.clip_norm:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), c.optim.clip_norm, norm)
        self.optimizer.step()
        self.step += 1
        return loss

    def _guarded(self, look: Callable[[], None]) -> None:
        """`look` for what is not finite, and stop if it is there."""
        try:
            look()
        except nonfinite.NonFinite as error:
            self.step, batch = error.step - 1, dict(self.recent)[error.step]
            if self.rehearsing:
                raise UserError(
                    f"{error}: training would stop there; nothing was written. Images: "
                    f"{', '.join(batch.names)}; look at them, or lower optim.lr"
                ) from error
            nonfinite.stop(error, self.folder, self._write, batch[:2], batch.names)

    def _autocast(self) -> torch.autocast:
        # every weight is used once: kept casts would only take memory, see `MicroBatches`
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False)

    def write_log(self, loss: Tensor) -> dict[str, Any]:
        """One line of the log: losses of this step over all ranks, rates, speed, memory."""
        terms = distributed.mean_over_ranks(torch.stack([loss, *self.terms])).tolist()
        value, *terms = terms
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
        self._guarded(self.guard.settle)
        progress = progress and distributed.rank() == 0
        model = self._whole_model()
        self.confusion = evaluate(
            model, self.val_set, self.config, workers=self.config.train.workers, progress=progress)
        self.miou, self.scored = float(self.confusion.miou()), self.step
        if self.miou > self.best:
            self.best = self.miou
            self._write("best", optimizer=False)
        if distributed.rank() == 0:
            classes = zip(self.val_set.classes, self.confusion.iou().tolist(), strict=True)
            ious = {f"iou/{name}": iou for name, iou in classes if not math.isnan(iou)}
            self.log.write({"step": self.step, "miou": self.miou, **ious})
            self.log.show(self.step, self._pictures(model))
            self.log.draw()
        self.clock, self.clock_step = time.perf_counter(), self.step  # not the loop's time

    def _whole_model(self) -> SETR:
        """The model as one process has it. FSDP's pieces would have to call one another for every
        image, and processes score different numbers of them."""
        if not parallel.is_cut_up(self.model):
            return self.model
        model = SETR.from_config(self.config.model)
        model.load_state_dict(parallel.whole_state(self.model.state_dict()))
        return model.to(self.device)

    def _pictures(self, model: SETR) -> Iterator[tuple[str, np.ndarray]]:
        """The first validation images under what the model sees in them."""
        model.eval()
        label_of = predictor(model, self.config)
        for i in range(min(PICTURES, len(self.val_set), self.config.eval.limit or PICTURES)):
            sample = self.val_set[i]
            picture = overlay(sample.image, label_of(sample.image), self.val_set.palette)
            yield f"validation/{sample.name}", np.asarray(picture)
        model.train()

    def save(self) -> None:
        """Write the checkpoint ``last``, and number it if several are kept."""
        self._guarded(self.guard.settle)
        self._write("last")
        if distributed.rank() == 0:
            checkpoint.keep_numbered(self.folder / "last", self.step, self.config.train.keep_last)

    def _write(self, name: str, optimizer: bool = True) -> None:
        faults = torch.tensor([self.faults.images, self.faults.workers], device=self.device)
        images, workers = distributed.sum_over_ranks(faults).tolist()
        checkpoint.save_checkpoint(
            self.folder / name, self.model, self.config,
            classes=self.val_set.classes, palette=self.val_set.palette,
            optimizer=self.optimizer if optimizer else None,
            state={
                "step": self.step, "samples": self.step * self.config.train.batch_size,
                "finished": self.step == self.config.train.steps == self.scored,
                "scored": self.scored, "best": self.best,
                "miou": None if math.isnan(self.miou) else self.miou,
                "faults": asdict(Faults(
                    self.earlier.images + images, self.earlier.workers + workers)),
                "torch": torch.__version__, "device": str(self.device),
                "processes": distributed.world_size(),
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
        "train.steps", "train.out", "train.device", "train.workers", "train.parallel",
        "train.compile", "train.micro_batch", "train.grad_checkpointing", "train.fit",
        "train.on_bad_image", "train.eval_every", "train.save_every", "train.keep_last",
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
