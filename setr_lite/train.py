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
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from . import checkpoint, distributed
from .config import RunConfig
from .datasets.balance import settle_weights
from .datasets.base import SegmentationDataset
from .datasets.feed import Batch, Feed, loader_processes
from .datasets.layouts import load_dataset
from .distributed import parallel
from .errors import UserError, file_name
from .evaluate.loop import check_settings, check_views, evaluate
from .files import require_utf8
from .losses import check_class_weights
from .metrics import ConfusionMatrix
from .model import SETR, count_parameters
from .optim import build_optimizer, describe_groups, set_lr
from .precision import uses_bf16
from .recipes.describe import class_weights_line, rate_warning, start_table, warmup_warning
from .running.agreement import facts
from .running.fit import fit_to_device
from .running.frozen import freeze_encoder, refuse_random_crops
from .running.guard import Guard, NonFinite, check_saved, keep_evidence
from .running.lock import FolderLock
from .running.log import RunLog
from .running.memory import format_bytes
from .running.meters import Speed, format_seconds, measure_speed, peak_memory
from .running.progress import Progress
from .running.recompute import recompute_encoder
from .running.validation import pictures, whole_model
from .step import Losses, take_step
from .transforms import Normalize
from .weights.first import load_first_weights, require_source


def train(config: RunConfig, *, resume: bool = False, progress: bool = True) -> dict[str, Any]:
    """Train the model of a run; the same function serves scripts, notebooks and torchrun.

    Writes into ``train.out`` (default ``runs/<recipe>``): ``last`` and ``best`` checkpoints,
    ``log.csv``, ``scores.json``, ``curves.png`` and TensorBoard events. Ctrl-C and SIGTERM
    finish the current step or evaluation and save ``last``.

    Args:
        config: a recipe, perhaps with overrides.
        resume: continue from ``last`` in the run's folder; without it a folder that already
            holds a checkpoint is refused.
        progress: show the bar and print what happens.

    Returns:
        A dict.

        ==============  ================================================================
        key             value
        ==============  ================================================================
        ``folder``      path of the run
        ``checkpoint``  path of its ``last`` checkpoint, a `Path`
        ``step``        steps taken so far
        ``finished``    whether that is all of them
        ``miou``        mIoU of the last evaluation, a fraction; NaN before the first
        ``confusion``   its `ConfusionMatrix`, or None
        ``classes``     names of the classes
        ``history``     the rows of the log, a list of dicts
        ``seconds``     duration of this call
        ==============  ================================================================

    Raises:
        UserError: unusable settings, data or checkpoint; or a loss that is no longer finite.
    """
    started = time.perf_counter()
    device = distributed.start(config.train.device)
    if distributed.starts_again():
        resume = resume or checkpoint.exists(run_folder(config) / "last")
    with ExitStack() as held:
        result = _train(_locked_run(config, device, resume, held), progress)
    return result | {"seconds": time.perf_counter() - started}


def _locked_run(config: RunConfig, device: torch.device, resume: bool, held: ExitStack) -> Run:
    """A run into whose folder no other process writes, until `held` ends.

    A fresh one makes its folder only when nothing else is wrong with it.
    """
    if not resume:
        run = Run(config, device)
        held.enter_context(FolderLock(run.folder))
        _refuse_another_run(run.folder)  # which came and went meanwhile
        return run
    folder = run_folder(config)
    checkpoint.read_state(folder / "last")  # or there is nothing to lock
    held.enter_context(FolderLock(folder))
    return Run(config, device, resume=True)


def _train(run: Run, progress: bool) -> dict[str, Any]:
    """The loop; what `train` returns, without the seconds."""
    loud, device = progress and distributed.rank() == 0, run.device
    say: Callable[..., None] = functools.partial(print, flush=True) if loud else lambda *_: None
    train, done = run.config.train, run.progress
    distributed.find_writers(run.folder)
    # a second on a CPU: not for nothing
    speed = measure_speed(run.config, device) if progress or device.type == "cuda" else None
    say(run.describe(speed))
    log = RunLog(run.folder, done, train.batch_size, speed)
    bar = tqdm(
        total=train.steps, initial=done.step, unit="step", desc=run.config.recipe or "train",
        disable=not loud, dynamic_ncols=True,
    )
    advice = f"{run.folder / 'last'} is the last checkpoint, --resume goes on from there"
    stop = distributed.StopSignals()
    with bar, distributed.name_lost_process(advice), stop, log:
        if done.owes_evaluation(train):
            _score(run, log, loud)
            run.save()
        for batch in run.feed.batches(done.step):
            losses = run.take_step(batch)
            bar.update()
            if done.due(train.log_every, train.steps):
                row = log.write_losses(done.step, losses, run.optimizer.param_groups, device)
                bar.set_postfix_str(_in_a_line(row))
            if done.due(train.eval_every, train.steps):
                run.save()  # an evaluation takes long; who is stopped in it should lose no step
                _score(run, log, loud)
                say(f"step {done.step}: mIoU {done.miou:.3f}")
            if done.due(train.save_every, train.steps) or done.scored == done.step:
                run.save()
            if stop.asked() and done.step < train.steps:
                run.save()
                say(f"\nstopped after step {done.step}, saved in {run.folder / 'last'}")
                break
    distributed.barrier()  # rank 0 may still be writing
    return {
        "folder": run.folder, "checkpoint": run.folder / "last", "step": done.step,
        "finished": done.step == train.steps, "miou": done.miou, "confusion": run.confusion,
        "classes": run.val_set.classes, "history": log.rows(),
    }  # fmt: skip


def _score(run: Run, log: RunLog, progress: bool) -> None:
    model, confusion = run.evaluate(progress)
    shown = pictures(model, run.val_set, run.config)
    log.write_scores(run.progress.step, confusion, run.val_set.classes, shown)


def _in_a_line(row: dict[str, Any]) -> str:
    text = "loss {loss:.3f}  lr {lr:.1e}  {images_per_s:.1f} img/s"
    return (text + ("  MFU {mfu:.0%}" if "mfu" in row else "")).format(**row)


def rehearse(config: RunConfig, *, resume: bool = False) -> dict[str, Any]:
    """Dry run of `train`: build everything, read one batch, take two steps, write nothing.

    The first step warms up, the second is timed.

    Returns:
        A dict.

        =================  =============================================================
        key                value
        =================  =============================================================
        ``loss``           loss of the first step
        ``read_seconds``   time to read the batch
        ``first_seconds``  time of the first step
        ``step_seconds``   time of the second step
        ``seconds``        time of all steps, without evaluation and saving
        ``memory``         peak in bytes: on CUDA what PyTorch reserved, else of the process
        =================  =============================================================

    Raises:
        UserError: whatever would keep `train` from starting.
    """
    device = distributed.start(config.train.device)
    train = replace(config.train, feature_cache="")  # it would be written
    run = Run(replace(config, train=train), device, resume=resume, rehearsing=True)
    speed = measure_speed(run.config, device)
    say = print if distributed.rank() == 0 else lambda *_: None
    say(run.describe(speed))
    times = [time.perf_counter()]
    batch = next(run.feed.batches(run.progress.step))
    times.append(time.perf_counter())
    losses = []
    for _ in range(2):
        losses.append(distributed.mean_over_ranks(run.take_step(batch).total.clone()).item())
        times.append(time.perf_counter())
    read, first, step = (b - a for a, b in pairwise(times))
    crop = run.feed.seconds_per_crop()
    loaders = math.ceil(len(batch.image) * crop / step)
    started = loader_processes(config.train.workers, len(run.train_set))
    left, memory = run.config.train.steps - run.progress.step + 2, peak_memory(device)
    mfu = speed.text(run.config.train.batch_size / step, distributed.world_size())
    say(
        f"one batch read in {format_seconds(read)}, first step {format_seconds(first)}, second "
        f"{format_seconds(step)} ({mfu}), loss {losses[0]:.3f} and {losses[1]:.3f}\n"
        f"{left} steps would take {format_seconds(left * step)}, evaluation and saving not counted"
        f"\na crop takes {format_seconds(crop)} to make: to keep up takes "
        f"train.workers={loaders}, and {started} would start"
        f"\n{format_bytes(memory)} taken at the highest, "
        + ("reserved on the GPU" if device.type == "cuda" else "by the whole process")
        + f"; nothing was written into {run.folder}"
    )
    return {
        "loss": losses[0], "read_seconds": read, "first_seconds": first, "step_seconds": step,
        "seconds": left * step, "memory": memory,
    }


class Run:
    """A training that is set up: data, model, optimiser, and how far it is.

    Args:
        config: the run.
        device: of this process, see `distributed.start`.
        resume: continue from ``last`` in the run's folder.
        rehearsing: write nothing.

    Attributes:
        config: as it is trained, with what fitting and the encoder have settled.
        folder: of the run.
        train_set, val_set: the images.
        model: in training mode on `device`; ``wrapped`` is what the steps call.
        optimizer: of its trainable parameters.
        progress: the `Progress`, step by step.
        confusion: of the last evaluation, or None.
        feed: gives the batches.

    Raises:
        UserError: unusable settings, data or checkpoint.
    """

    def __init__(
        self, config: RunConfig, device: torch.device, *, resume: bool = False,
        rehearsing: bool = False,
    ) -> None:
        if not resume:
            require_source(config)
        check_settings(config)
        self.folder = run_folder(config)
        self.train_set, self.val_set = _data_sets(config)
        # before anything that all processes do together: it would not end where they differ
        distributed.require_same(lambda: facts(
            config, self.train_set, self.val_set,
            Progress.read(self.folder / "last").step if resume else 0))  # fmt: skip
        before = checkpoint.read_config(self.folder / "last").loss if resume else None
        config = replace(config, loss=settle_weights(config.loss, self.train_set, device, before))
        self.fitted = fit_to_device(config, device) if config.train.fit else None
        config = self.fitted.config if self.fitted else config
        config.train.local_batch(distributed.world_size())
        self.device, self.rehearsing = device, rehearsing
        refuse_random_crops(config, self.train_set)
        seed_everything(config.train.seed, 0)
        self.model, config, self.sources = _first_model(config, self.folder, resume)
        self.config = self.model.config = config
        self.wrapped = _on_device(self.model, config, device)
        # FSDP's pieces are no plain CUDA tensors: no flag of theirs leaves an update out
        plain = not parallel.is_cut_up(self.model)
        self.optimizer = build_optimizer(self.model, config.optim, fused=plain)
        self.guard = Guard(self.optimizer, device.type == "cuda" and plain)
        self.normalize = Normalize(config.data, device)
        self.recent: deque[tuple[int, Batch]] = deque(maxlen=2)
        self.progress = self._resumed() if resume else Progress()
        self.confusion: ConfusionMatrix | None = None
        self.feed = Feed(
            config, self.train_set, self.progress.faults, pin=device.type == "cuda",
            warn=lambda text: tqdm.write(text, file=sys.stderr))

    def _resumed(self) -> Progress:
        last, train = self.folder / "last", self.config.train
        checkpoint.check_classes(last, self.val_set.classes, self.config.data.name)
        _refuse_changes(checkpoint.read_config(last), self.config)
        checkpoint.read_optimizer(last, self.optimizer)
        progress = Progress.read(last)
        if progress.step >= train.steps and not progress.owes_evaluation(train):
            raise UserError(
                f"{last}: has all {progress.step} of train.steps={train.steps}; raise "
                "train.steps to go on"
            )
        return progress

    def describe(self, speed: Speed | None = None) -> str:
        """What is trained from what, with which rates; with `speed` what it costs."""
        c = self.config
        fresh = self.progress.step == 0 and not self.sources
        origin = ["the encoder starts from random weights"] if fresh else self.sources
        lines: list[object] = [
            f"{c.recipe}: {count_parameters(self.model) / 1e6:.2f} M parameters, "
            f"{len(self.train_set)} training and {len(self.val_set)} validation images, "
            f"{c.train.steps} steps of {c.train.batch_size} on {self.device} "
            f"x {distributed.world_size()}, from step {self.progress.step}; {self.folder}",
            *origin,
            self.fitted,
            start_table(c, self.model, speed, self.device) if speed else None,
            describe_groups(self.optimizer.param_groups),
            class_weights_line(c, self.train_set.classes),
            warmup_warning(c),
            rate_warning(c) if self.sources else None,
        ]
        return "\n".join(str(line) for line in lines if line is not None)

    def take_step(self, batch: Batch) -> Losses:
        """One optimiser step on this rank's images; the losses are still on the device."""
        train, step = self.config.train, self.progress.step
        self.recent.append((step + 1, batch))
        seed_everything(train.seed, step + 1, distributed.rank())
        set_lr(self.optimizer, step, train.steps, self.config.optim)
        image = self.normalize(batch.image.to(self.device, non_blocking=True), batch.inside)
        image = image.to(torch.get_default_dtype())  # so that a script can train in float64
        label = batch.label.to(self.device, non_blocking=True)
        with self._stopping():
            losses = take_step(
                self.wrapped, self.optimizer, image, label, self.config,
                bf16=uses_bf16(self.config.train.amp, self.device),
                look=functools.partial(self.guard.before_update, step + 1),
            )
        self.progress.step += 1
        return losses

    def evaluate(self, progress: bool = False) -> tuple[SETR, ConfusionMatrix]:
        """Score the validation set and keep the best; collective.

        Returns:
            The model that was scored, whole, and its confusion matrix.
        """
        with self._stopping():
            self.guard.settle()
        model, done = whole_model(self.model, self.config), self.progress
        self.confusion = confusion = evaluate(
            model, self.val_set, self.config, workers=self.config.train.workers, progress=progress)
        done.miou, done.scored = float(confusion.miou()), done.step
        if done.miou > done.best:
            done.best = done.miou
            self._write("best", optimizer=False)
        return model, confusion

    def save(self) -> None:
        """Write the checkpoint ``last``, and number it if several are kept; collective."""
        with self._stopping():
            self.guard.settle()
        self._write("last")
        if distributed.writes():
            checkpoint.keep_numbered(
                self.folder / "last", self.progress.step, self.config.train.keep_last)

    def _write(self, name: str, optimizer: bool = True, spoilt: bool = False) -> None:
        state = self.progress.state(self.config.train, self.device)
        kept = self.optimizer if optimizer else None
        if not spoilt:
            with self._stopping():
                check_saved(self.progress.step, self.model, kept)
        checkpoint.save_checkpoint(
            self.folder / name, self.model, self.config, classes=self.val_set.classes,
            palette=self.val_set.palette.tolist(), optimizer=kept, state=state, spoilt=spoilt,
        )

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """End the run where what the block does meets a number that is not finite."""
        try:
            yield
        except NonFinite as error:
            batch = dict(self.recent)[error.step]
            self.progress.step = error.step if error.left else error.step - 1
            if self.rehearsing:
                raise UserError(
                    f"{error}: training would stop there; nothing was written. Images: "
                    f"{', '.join(batch.names)}; look at them, or lower optim.lr"
                ) from error
            save = functools.partial(self._write, spoilt=True)
            keep_evidence(error, self.folder, save, batch[:2], batch.names)


def _data_sets(config: RunConfig) -> tuple[SegmentationDataset, SegmentationDataset]:
    """The training and the validation images, of which the model has the classes."""
    train_set = load_dataset(config.data, "train")
    val_set = load_dataset(config.data, "val")
    check_views(config, val_set)
    if isinstance(config.loss.class_weights, tuple):
        check_class_weights(config.loss.class_weights, len(train_set.classes))
    if len(train_set.classes) != config.model.num_classes:
        raise UserError(
            f"model.num_classes={config.model.num_classes}: {config.data.name} has "
            f"{len(train_set.classes)} classes; set model.num_classes={len(train_set.classes)}"
        )
    return train_set, val_set


def _first_model(
    config: RunConfig, folder: Path, resume: bool
) -> tuple[SETR, RunConfig, list[Any]]:
    """The model on the CPU with the weights a run begins with, the run's config with what the
    encoder settles of it, and where the weights come from."""
    model, sources = SETR.from_config(config.model), []
    config = replace(config, data=model.normalization(config.data))
    if resume:
        checkpoint.read_weights(folder / "last", model)
        began = checkpoint.read_config(folder / "last").model.pretrained
        config = replace(config, model=replace(config.model, pretrained=began))
    else:
        _refuse_another_run(folder)
        sources = load_first_weights(model.encoder, config.model.pretrained)
    return model, config, sources


def _on_device(model: SETR, config: RunConfig, device: torch.device) -> nn.Module:
    """Bring the model to its device as it is trained; what the steps call."""
    train = config.train
    freeze_encoder(model.encoder, config)
    recompute_encoder(model.encoder, train)
    model.to(device).train()
    cut_up = train.parallel == "fsdp" and distributed.world_size() > 1
    if device.type == "cuda" and not cut_up:  # FSDP takes contiguous weights only
        model.to(memory_format=torch.channels_last)
    if train.compile:
        for block in model.encoder.blocks:
            block.compile()
    return parallel.wrap(
        model, device, parallel=train.parallel, sync_bn=train.sync_bn,
        bf16=uses_bf16(train.amp, device))


def seed_everything(*numbers: int) -> None:
    """Seed Python, NumPy and PyTorch from some whole numbers, the same on every machine."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (for libraries that still draw from the global state)
    torch.manual_seed(seed)


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


def run_folder(config: RunConfig) -> Path:
    """Where a run writes: ``train.out``, or ``runs/`` and the name of its recipe.

    Raises:
        UserError: what `files.require_utf8` raises.
    """
    folder = config.train.out or f"runs/{file_name(config.recipe or 'run')}"
    require_utf8(folder)
    return Path(folder)


def _refuse_another_run(folder: Path) -> None:
    if checkpoint.exists(folder / "last"):
        raise UserError(
            f"{folder}: holds a run already; continue it with --resume, or choose "
            "another folder with train.out=DIR"
        )
