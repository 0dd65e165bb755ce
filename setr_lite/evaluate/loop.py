"""Data set + model -> a confusion matrix, over all ranks: `predictions` label, `metrics` count."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from .. import distributed
from ..config import RunConfig, Size
from ..datasets.base import SegmentationDataset
from ..datasets.feed import loader_processes
from ..inference.tiles import in_eval_mode
from ..metrics import ConfusionMatrix
from ..model import SETR
from .predictions import image_views, predictions, settings_of, window_of
from .protocols import protocol_of, view_sizes


class _Views(Dataset):
    """Each image in the views that are scored, with its untouched label."""

    def __init__(self, dataset: Dataset, length: int, config: RunConfig) -> None:
        self.dataset, self.length, self.config = dataset, length, config

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[list[Tensor], Tensor]:
        sample = self.dataset[index]
        return image_views(sample.image, self.config), sample.label


def check_settings(config: RunConfig) -> None:
    """Refuse at the start of a run what its first evaluation would.

    Raises:
        UserError: a stride above the window, or ratios beside a protocol that has its own.
    """
    protocol_of(config)
    window_of(config)


def check_views(config: RunConfig, dataset: SegmentationDataset) -> None:
    """Refuse at the start of a run sizes that its first evaluation could not give an image.

    Raises:
        UserError: the first image of `dataset` cannot be read, or becomes too large.
    """
    height, width = dataset[0].image.shape[-2:]
    view_sizes(config, (height, width))


def evaluate(
    model: SETR,
    dataset: SegmentationDataset,
    config: RunConfig,
    *,
    workers: int = 0,
    progress: bool = False,
    indices: Sequence[int] | None = None,
    on_image: Callable[[int, Tensor, Tensor], None] | None = None,
) -> ConfusionMatrix:
    """Score `model` on `dataset`. Under torchrun each of W ranks takes every W-th image.

    Args:
        model: evaluated in eval mode; its modes are restored afterwards.
        dataset: a `datasets.SegmentationDataset`.
        config: the run; `eval` says how an image is predicted, `data` how it is prepared.
        workers: loader processes, at most; -1 takes this process's share of the cores.
        progress: show a bar.
        indices: images to score; None takes all, or the first ``eval.limit``.
        on_image: called as ``on_image(index, prediction, label)`` with both (H, W) on the CPU
            after every image of this rank.

    Returns:
        The `ConfusionMatrix`, summed over all ranks, on the model's device.

    Raises:
        UserError: a file that cannot be read, or settings of `config.eval` that exclude each other.
    """
    if indices is None:
        indices = range(min(len(dataset), config.eval.limit or len(dataset)))
    mine = indices[distributed.rank() :: distributed.world_size()]
    config = settings_of(model, config)
    labels: deque[Tensor] = deque()
    confusion = ConfusionMatrix(len(dataset.classes), device=model.device)
    loader = DataLoader(
        _Views(Subset(dataset, mine), len(mine), config), batch_size=None,
        num_workers=loader_processes(workers, len(mine)),
        worker_init_fn=distributed.one_thread, pin_memory=model.device.type == "cuda",
    )
    bar = tqdm(
        distributed.start_loader(loader), desc="evaluate", unit="image", leave=False,
        total=len(loader), disable=not progress,
    )

    def images() -> Iterator[tuple[list[Tensor], Size]]:
        for views, label in bar:
            labels.append(label)
            height, width = label.shape
            yield views, (height, width)

    with in_eval_mode(model):
        for index, prediction in zip(mine, predictions(model, config, images()), strict=True):
            label = labels.popleft()
            confusion.update(prediction, label.to(model.device, non_blocking=True))
            if on_image:
                on_image(index, prediction.cpu(), label)
    confusion.all_reduce()
    return confusion
