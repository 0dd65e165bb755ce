"""Training batches, and what happens when a file or a loader process fails.

A crop follows from its number alone, so a batch can be made again at any time, by any process: a
dead loader process costs seconds, no step. An image that cannot be read is replaced, if asked, by
one that its crop's number decides. A run that is resumed meets the same replacements.

Shapes: B images of this process, S x S crops.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from .. import distributed
from ..config import RunConfig
from ..errors import UserError
from ..transforms import TrainTransform
from .layouts import SegmentationDataset, TrainStream, rank_counters

TRIES = 10
"""Images tried for one crop before a run that skips bad ones gives up, and times that the loader
is started again for one batch."""
WORKER_DIED = "DataLoader worker"  # how PyTorch's messages begin


def loader_processes(asked: int, images: int) -> int:
    """How many loader processes to start: those asked for, and no more than there are images.

    -1 asks for this process's share of the cores: those that the system lets it use, divided among
    the processes that torchrun has started here, less the one that trains; `BY_ITSELF` at most.

    Raises:
        UserError: more than `CORE_SHARE` for each core, which would only take memory.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if asked < 0:
        mine = (cores or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        asked = min(max(mine - 1, 0), BY_ITSELF)
    most = max(CORE_SHARE * (cores or 1), LEAST)
    if asked > most:
        raise UserError(
            f"train.workers={asked}: more than this machine can use; train.workers={most} fits its "
            f"{cores} cores"
        )
    return min(asked, images)


BY_ITSELF = 8
"""Loader processes that are started for one GPU where nobody has said how many."""
CORE_SHARE = 4
"""Loader processes that a core may have to serve: they wait for disks half of the time."""
LEAST = 16
"""Loader processes that are accepted on every machine, as recipes made on larger ones have them."""


class Batch(NamedTuple):
    """What one process takes a step on."""

    image: Tensor
    """(B, 3, S, S) uint8, with any values in the padding; `transforms.Normalize` makes of it what
    a model reads."""
    label: Tensor
    """(B, S, S) uint8."""
    names: tuple[str, ...]
    """Of the B images."""
    bad: tuple[str, ...]
    """A line for each file that could not be read."""
    inside: tuple[tuple[int, int], ...]
    """Height and width of each image without its padding."""


class _Failed(NamedTuple):
    """What comes instead of a batch where no image could be read for a crop."""

    bad: tuple[str, ...]


@dataclass
class Faults:
    """What this process has skipped; a checkpoint counts the faults of all."""

    images: int = 0
    workers: int = 0


class Feed:
    """This process's share of every batch, from a step to the end of the run.

    Args:
        config: the run; `train.on_bad_image` says whether faults end it.
        dataset: the training images.
        faults: counted on.
        pin: in pinned memory, from which a GPU copies while it computes.
        warn: called with a line for everything that was skipped.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: SegmentationDataset,
        faults: Faults,
        *,
        pin: bool = False,
        warn: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
    ) -> None:
        self.config, self.faults, self.pin, self.warn = config, faults, pin, warn
        seed = config.train.seed
        self.skip = config.train.on_bad_image == "skip"
        self.crops = _Crops(
            TrainStream(dataset, TrainTransform(config.data, seed), seed),
            TRIES if self.skip else 1,
        )

    def batches(self, step: int) -> Iterator[Batch]:
        """The batches of step number `step` (from 0) and all later ones.

        Raises:
            UserError: an image that cannot be read, or a loader process that died, where
                `train.on_bad_image` is ``stop``, or where replacements fail, too.
        """
        steps, deaths = self.config.train.steps, 0
        while step < steps:
            try:
                for loaded in self._load(step):
                    deaths = 0
                    yield self._account(loaded, step)
                    step += 1
            except (RuntimeError, EOFError, ConnectionError, FileNotFoundError) as error:
                # the last three: a tensor was on its way when its process died
                if isinstance(error, RuntimeError) and WORKER_DIED not in str(error):
                    raise
                deaths += 1
                self.faults.workers += 1
                self._restart(step, deaths)

    def seconds_per_crop(self, crops: int = 4) -> float:
        """How long this process takes to read an image and cut a crop from it, the median."""
        found = []
        for counter in range(crops):
            begin = time.perf_counter()
            self.crops[counter]
            found.append(time.perf_counter() - begin)
        return statistics.median(found)

    def _load(self, step: int) -> Iterator[Batch | _Failed]:
        train, world = self.config.train, distributed.world_size()
        counters = rank_counters(
            step, train.steps, train.batch_size, distributed.rank(), world)
        loader = DataLoader(
            self.crops, batch_size=train.batch_size // world, sampler=counters,
            num_workers=loader_processes(train.workers, train.batch_size * (train.steps - step)),
            pin_memory=self.pin, collate_fn=_collate,
            worker_init_fn=distributed.one_thread,
        )
        return distributed.start_loader(loader)

    def _account(self, batch: Batch | _Failed, step: int) -> Batch:
        """Count what the batch skipped, or give up."""
        epoch = step * self.config.train.batch_size // len(self.crops.stream.dataset) + 1
        where = f"step {step + 1}, epoch {epoch}"
        if isinstance(batch, _Failed):
            tried = f" ({TRIES} images in a row; the first)" if self.skip else ""
            remedy = "" if self.skip else "; train.on_bad_image=skip takes another image instead"
            raise UserError(f"{where}: {batch.bad[0]}{tried}{remedy}")
        for text in batch.bad:
            self.faults.images += 1
            self.warn(f"{where}: skipped an image, {self.faults.images} so far: {text}")
        return batch

    def _restart(self, step: int, deaths: int) -> None:
        """Warn of a dead loader process, or give up."""
        what = f"step {step + 1}: a loader process died while it prepared this step or a later one"
        if not self.skip or deaths == TRIES:
            raise UserError(
                f"{what} (out of memory, or killed); try fewer train.workers, or "
                "train.on_bad_image=skip, which starts it again"
            )
        self.warn(f"{what}; {self.faults.workers} so far, started again")


class _Crop(NamedTuple):
    found: tuple[Tensor, Tensor, tuple[int, int]] | None
    """Image, label, and the size of what is no padding."""
    name: str
    bad: tuple[str, ...]


class _Crops(Dataset[_Crop]):
    """The crops of a stream; errors are handed on as words, not raised in a loader process."""

    def __init__(self, stream: TrainStream, tries: int) -> None:
        self.stream, self.tries = stream, tries

    def __getitem__(self, counter: int) -> _Crop:
        stream = self.stream
        bad: tuple[str, ...] = ()
        for attempt in range(self.tries):
            index = self._other(counter, attempt) if attempt else stream.index(counter)
            try:
                sample = stream.dataset[index]
            except UserError as error:
                bad += (str(error),)
            else:
                return _Crop(stream.transform.as_bytes(sample, counter), sample.name, bad)
        return _Crop(None, "", bad)

    def _other(self, counter: int, attempt: int) -> int:
        # The 2 keeps this apart from the draws of the order and of the augmentation.
        rng = np.random.default_rng([self.stream.seed, counter, 2, attempt])
        return int(rng.integers(len(self.stream.dataset)))


def _collate(crops: Sequence[_Crop]) -> Batch | _Failed:
    bad = tuple(text for crop in crops for text in crop.bad)
    found = [crop.found for crop in crops if crop.found is not None]
    if len(found) < len(crops):
        return _Failed(bad)
    images, labels, inside = zip(*found, strict=True)
    names = tuple(crop.name for crop in crops)
    batch = default_collate(list(images)), default_collate(list(labels))
    return Batch(*batch, names, bad, inside)
