"""Data set + model -> a confusion matrix, over all ranks.

Labels keep their original resolution: logits are brought to it before the argmax, as the
published evaluation does. `protocols` decides which sizes of an image are looked at.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from .. import distributed
from ..checkpoint import read_config, read_info
from ..config import RunConfig, Size
from ..datasets.base import SegmentationDataset
from ..datasets.feed import loader_processes
from ..datasets.folder import voc_palette
from ..datasets.images import IMAGE_ENDINGS, read_image
from ..errors import UserError
from ..files import written_beside
from ..inference import Window, predict_each
from ..inference.tiles import in_eval_mode
from ..logits import LazyLogits
from ..metrics import ConfusionMatrix
from ..model import SETR
from ..precision import autocast, uses_bf16
from ..transforms import test_view
from ..visualize import colorize, overlay
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


def image_views(image: Tensor, config: RunConfig) -> list[Tensor]:
    """The views of an image that the run's protocol averages, without the mirrored ones.

    Each is resized from the 8-bit image, as published, and normalised by `config.data`, where
    None stands for ImageNet's numbers (`predictor` takes the encoder's).

    Args:
        image: (3, H, W) uint8 RGB.

    Returns:
        (3, h, w) float32 each, in the order of the protocol's ratios.
    """
    data, (height, width) = config.test_data(), image.shape[-2:]
    return [test_view(image, size, data) for size in view_sizes(config, (height, width))]


def check_settings(config: RunConfig) -> None:
    """Refuse at the start of a run what its first evaluation would.

    Raises:
        UserError: a stride above the window, or ratios beside a protocol that has its own.
    """
    protocol_of(config)
    _window(config)


def check_views(config: RunConfig, dataset: SegmentationDataset) -> None:
    """Refuse at the start of a run sizes that its first evaluation could not give an image.

    Raises:
        UserError: the first image of `dataset` cannot be read, or becomes too large.
    """
    height, width = dataset[0].image.shape[-2:]
    view_sizes(config, (height, width))


def predictor(model: SETR, config: RunConfig) -> Callable[[Tensor], Tensor]:
    """``image (3, H, W) uint8 RGB -> label (H, W)`` by the run's `EvalConfig`."""
    config = _with_normalization(model, config)

    def label_of(image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        one = [(image_views(image, config), (height, width))]
        return next(_predictions(model, config, one)).cpu()

    return label_of


def _with_normalization(model: SETR, config: RunConfig) -> RunConfig:
    return replace(config, data=model.normalization(config.data))


def _window(config: RunConfig) -> Window | None:
    settings = config.eval
    return Window(settings.window, settings.stride) if settings.mode == "slide" else None


def _predictions(
    model: SETR, config: RunConfig, images: Iterable[tuple[Sequence[Tensor], Size]]
) -> Iterator[Tensor]:
    """``(views, size (H, W))`` of each image -> its label (H, W) on the model's device.

    Nothing in it waits for the device: the next images are loaded while these are computed.
    """
    settings, protocol, weight = config.eval, protocol_of(config), next(model.parameters())
    window = _window(config)
    bf16 = uses_bf16(settings.amp, model.device)

    def run(image: Tensor) -> LazyLogits:
        with autocast(model.device, bf16):
            return model(image).lazy(protocol.odd)

    there = (
        ([view[None].to(weight, non_blocking=True) for view in views], size)  # device and type
        for views, size in images
    )
    for label in predict_each(
        run, there, window=window, flip=protocol.flip, batch=settings.window_batch
    ):  # fmt: skip
        yield label[0]


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
        model: the mode of each of its parts is put back afterwards.
        dataset: a `datasets.SegmentationDataset`.
        config: the run; `eval` says how an image is predicted, `data` how it is prepared.
        workers: loader processes, at most; see `datasets.feed.loader_processes`.
        progress: show a bar.
        indices: images to score; None takes all, or the first ``eval.limit``.
        on_image: called as ``on_image(index, prediction, label)`` with both (H, W) on the CPU
            after every image of this rank.

    Returns:
        The `ConfusionMatrix`, summed over all ranks, of the model's device.
    """
    if indices is None:
        indices = range(min(len(dataset), config.eval.limit or len(dataset)))
    mine = indices[distributed.rank() :: distributed.world_size()]
    config = _with_normalization(model, config)
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
        for index, prediction in zip(mine, _predictions(model, config, images()), strict=True):
            label = labels.popleft()
            confusion.update(prediction, label.to(model.device, non_blocking=True))
            if on_image:
                on_image(index, prediction.cpu(), label)
    confusion.all_reduce()
    return confusion


def predict_files(
    checkpoint: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    settings: Sequence[str] = (),
    alpha: float = 0.5,
    progress: bool = True,
) -> int:
    """Segment an image file, or every image below a folder.

    Writes for each image ``NAME_labels.png`` (the class of every pixel, in its colour) and
    ``NAME_overlay.png`` (the same over the image) into `out`, with the folders of the input. Where
    two images differ in their endings only, NAME is the whole name of the file.

    Returns:
        The number of images.

    Raises:
        UserError: no such file, no image in the folder, a damaged image, an unusable checkpoint, an
            opacity that is none, or an `out` among the images.
    """
    from PIL import Image

    if not 0 <= alpha <= 1:
        raise UserError(f"alpha={alpha}: an opacity lies in 0..1")
    images, out = Path(images), Path(out)
    files = find_images(images, out)
    names = Counter(file.with_suffix("") for file in files)
    model = SETR.from_pretrained(checkpoint)
    config = read_config(checkpoint).override(*settings)
    model.to(distributed.choose_device(config.train.device))
    palette, run = read_info(checkpoint)["palette"], predictor(model, config)
    if len(palette) < config.model.num_classes:  # a converted file that names no classes
        palette = voc_palette(config.model.num_classes)
    for file in tqdm(files, desc="predict", unit="image", disable=not progress):
        image = read_image(file)
        label = run(image)
        target = out / (file.relative_to(images).parent if images.is_dir() else "")
        name = file.stem if names[file.with_suffix("")] == 1 else file.name
        try:
            with written_beside(target / f"{name}_labels.png") as part:
                Image.fromarray(colorize(label, palette)).save(part)
            with written_beside(target / f"{name}_overlay.png") as part:
                overlay(image, label, palette, alpha).save(part)
        except OSError as error:
            raise UserError(f"{target}: cannot be written ({error})") from error
    return len(files)


def find_images(path: Path, out: Path | None = None) -> list[Path]:
    """The image files at or below `path`, sorted, without those that an earlier run wrote.

    Args:
        path: a file or a folder.
        out: where predictions go, which are no images to predict from.

    Raises:
        UserError: nothing there, or `out` is `path`.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    written = Path(os.path.realpath(out)) if out else None
    if written == Path(os.path.realpath(path)):
        raise UserError(f"{out}: holds the images to segment; choose another folder to write")
    files = sorted(
        p for p in path.rglob("*")
        if p.suffix.lower() in IMAGE_ENDINGS and not p.is_dir()
        and written not in Path(os.path.realpath(p)).parents
    )
    if not files:
        raise UserError(f"{path}: no image below it ({', '.join(IMAGE_ENDINGS)})")
    return files
