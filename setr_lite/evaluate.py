"""Data set + model -> a confusion matrix, over all ranks.

Labels keep their original resolution: logits are brought to it before the argmax, as the
published evaluation does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from . import distributed
from .checkpoint import read_info
from .config import RunConfig
from .datasets import read_image
from .errors import UserError
from .inference import Window, predict
from .metrics import ConfusionMatrix
from .model import SETR
from .transforms import TestTransform
from .visualize import colorize, overlay

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


class _Views(Dataset):
    """Each image prepared at the size it is evaluated at, with its untouched label."""

    def __init__(self, dataset, transform: TestTransform) -> None:
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int):
        sample = self.dataset[index]
        return self.transform(sample.image), sample.label


def predictor(
    model: SETR, config: RunConfig
) -> Callable[[torch.Tensor, tuple[int, int]], torch.Tensor]:
    """``(image (3, h, w) normalised, size (H, W)) -> label (H, W)`` by the run's `EvalConfig`."""
    settings = config.eval
    window = Window(settings.window, settings.stride) if settings.mode == "slide" else None

    def run(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return predict(
            model.logits, image, window=window, size=size,
            flip=settings.flip, ratios=settings.ratios,
        )

    return run


def evaluate(
    model: SETR, dataset, config: RunConfig, *, workers: int = 0, progress: bool = False
) -> ConfusionMatrix:
    """Score `model` on `dataset`.

    Args:
        model: its mode is put back afterwards.
        dataset: a `datasets.SegmentationDataset`; only its first ``eval.limit`` images if set.
        config: the run; `eval` says how an image is predicted, `data` how it is prepared.
        workers: loader processes.
        progress: show a bar.

    Returns:
        The `ConfusionMatrix`, summed over all ranks, of the model's device.
    """
    device = model.device
    total = min(len(dataset), config.eval.limit or len(dataset))
    mine = range(distributed.rank(), total, distributed.world_size())
    views = _Views(Subset(dataset, mine), TestTransform(model.normalization(config.test_data())))
    loader = DataLoader(views, batch_size=None, num_workers=workers)
    confusion = ConfusionMatrix(len(dataset.classes), device=device)
    run, training = predictor(model, config), model.training
    model.eval()
    bar = tqdm(loader, desc="evaluate", unit="image", leave=False, disable=not progress)
    for image, label in bar:
        prediction = run(image.to(device), tuple(label.shape))
        confusion.update(prediction.to(device), label.to(device))
    model.train(training)
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
    ``NAME_overlay.png`` (the same over the image) into `out`, with the folders of the input.

    Returns:
        The number of images.

    Raises:
        UserError: no such file, no image in the folder, a damaged image, an unusable checkpoint.
    """
    from PIL import Image

    images, out = Path(images), Path(out)
    files = find_images(images)
    model = SETR.from_pretrained(checkpoint)
    config = model.config.override(*settings)
    model.to(distributed.choose_device(config.train.device))
    palette, run = read_info(checkpoint)["palette"], predictor(model, config)
    for file in tqdm(files, desc="predict", unit="image", disable=not progress):
        image = read_image(file)
        label = run(model.preprocess(image)[0], tuple(image.shape[-2:]))
        target = out / (file.relative_to(images).parent if images.is_dir() else "")
        try:
            target.mkdir(parents=True, exist_ok=True)
            Image.fromarray(colorize(label, palette)).save(target / f"{file.stem}_labels.png")
            overlay(image, label, palette, alpha).save(target / f"{file.stem}_overlay.png")
        except OSError as error:
            raise UserError(f"{target}: cannot be written ({error})") from error
    return len(files)


def find_images(path: Path) -> list[Path]:
    """The image files at or below `path`, sorted.

    Raises:
        UserError: nothing there.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS)
    if not files:
        raise UserError(f"{path}: no image below it ({', '.join(IMAGE_ENDINGS)})")
    return files
