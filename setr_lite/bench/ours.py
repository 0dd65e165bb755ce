"""Our side of a benchmark: builds what a task describes and does it once per turn.

``python -m setr_lite.bench.ours`` is the process that `bench` starts. With ``form="plain"`` the
work is done as plain PyTorch does it, with full-size logits, which is then the other side.

Shapes: B images of H x W pixels, K classes, logits (h, w).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import IGNORE, DataConfig, ModelConfig, RunConfig, TrainConfig
from ..datasets.layouts import load_dataset
from ..inference import Window, predict
from ..logits import LazyLogits
from ..losses import resize_cross_entropy
from ..model import SETR, SETROutput
from ..optim import build_optimizer
from ..recipes.named import get_recipe
from ..running.guard import Guard
from ..running.meters import on_device
from ..running.recompute import recompute_encoder
from ..step import gradient_norm, take_step
from ..transforms import TrainTransform
from ..weights.write import to_mmseg
from .turns import Task, Work, serve, some_values


def make_work(task: Task) -> Work:
    """The work of a task, see `bench.Bench` for its entries."""
    return WORKS[task["kind"]](task)


def run_config(task: Task) -> RunConfig:
    """The run whose step is measured: a recipe with its settings, or the published one's default
    with the task's model; with the task's batch and precision."""
    if task["recipe"]:
        settings = (*task["settings"], f"train.batch_size={task['batch']}")
        return on_device(
            get_recipe(task["recipe"]).override(*settings), torch.device(task["device"]))
    return RunConfig(
        model=ModelConfig(
            encoder=task["encoder"], head=task["head"], dialect=task["dialect"],
            num_classes=task["classes"], img_size=tuple(task["size"]), aux=task["kind"] == "train",
        ),
        data=DataConfig(crop_size=tuple(task["size"])),
        train=TrainConfig(batch_size=task["batch"], amp=task["amp"]),
    )


def draw_input(task: Task) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) as noise, labels (B, H, W) int64 of which a tenth is ignored."""
    generator = torch.Generator().manual_seed(0)
    height, width = task["image_size"]
    image = torch.randn(task["batch"], 3, height, width, generator=generator)
    label = torch.randint(task["classes"], (task["batch"], height, width), generator=generator)
    label[torch.rand(label.shape, generator=generator) < 0.1] = IGNORE
    return image, label


def _build(task: Task) -> tuple[SETR, Tensor, Tensor]:
    torch.manual_seed(0)
    config = run_config(task)
    model, (image, label) = SETR.from_config(config.model), draw_input(task)
    if task.get("hand_over"):  # the other side starts after this and reads the same numbers
        weights = to_mmseg(model.state_dict(), config.model) if task["same_weights"] else None
        torch.save({"weights": weights, "image": image, "label": label}, task["hand_over"])
    device = torch.device(task["device"])
    model = model.to(device).train(task["kind"] in ("train", "recipe"))
    if config.train.freeze_encoder:
        model.encoder.requires_grad_(False)
    recompute_encoder(model.encoder, config.train)
    if device.type == "cuda":
        model = model.to(memory_format=torch.channels_last)
    if task["compile"]:
        for block in model.encoder.blocks:
            block.compile()
    return model, image.to(device), label.to(device)


def _autocast(task: Task) -> contextlib.AbstractContextManager:
    if task["amp"] == "off":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(task["device"]).type, torch.bfloat16)


def _forward(task: Task) -> Work:
    """Images to full-size logits, or to class maps."""
    model, image, _ = _build(task)

    @torch.inference_mode()
    def step() -> Tensor:
        with _autocast(task):
            output = model(image)
            if not task["labels"]:
                return output.full()
            return output.full().argmax(dim=1) if task["form"] == "plain" else output.label()

    return Work(step, some_values, {})


def _eval(task: Task) -> Work:
    """An image of Cityscapes' size to its class map, by sliding windows."""
    model, image, _ = _build(task)
    window = Window(task["window"], task["stride"])

    def step() -> Tensor:
        with _autocast(task):
            if task["form"] == "plain":
                return predict(model.logits, image, window=window, batch=1)
            return predict(model, image, window=window, batch=task["window_batch"])

    return Work(step, some_values, {})


def _train(task: Task) -> Work:
    """A step as a run takes it, on noise; or as plain PyTorch does it."""
    config = run_config(task)
    model, image, label = _build(task | {"image_size": config.data.crop_size})
    optimizer = build_optimizer(model, config.optim)
    guard, bf16 = Guard(optimizer, image.device.type == "cuda"), config.train.amp == "bf16"
    label = label if task["form"] == "plain" else label.to(torch.uint8)  # as files have it

    def ours() -> Tensor:
        look = functools.partial(guard.before_update, 1)
        return take_step(model, optimizer, image, label, config, bf16=bf16, look=look).total

    def plain() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with _autocast(task):
            loss = _plain_loss(model(image), label)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Work(plain if task["form"] == "plain" else ours, lambda loss: [loss], {})


def _plain_loss(output: SETROutput, label: Tensor) -> Tensor:
    total = _plain_cross_entropy(output.logits, label)
    return total + 0.4 * sum(_plain_cross_entropy(aux, label) for aux in output.aux_logits)


def _plain_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    full = F.interpolate(logits, size=label.shape[-2:], mode="bilinear")
    total = F.cross_entropy(full, label, ignore_index=IGNORE, reduction="sum")
    return total / label.numel()


def _loss(task: Task) -> Work:
    """Loss and gradient of logits a quarter as high and wide as the image."""
    _, label = draw_input(task)
    device, (height, width) = torch.device(task["device"]), task["image_size"]
    shape = (task["batch"], task["classes"], height // 4, width // 4)
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)
    label, logits = label.to(device), logits.requires_grad_()

    def fused(logits: Tensor, label: Tensor) -> Tensor:
        lazy = LazyLogits.of(logits).resized((height, width))
        return resize_cross_entropy(lazy, label) / label.numel()

    loss_of = _plain_cross_entropy if task["form"] == "plain" else fused

    def step() -> Tensor:
        logits.grad = None
        with _autocast(task):
            loss = loss_of(logits, label)
        loss.backward()
        return torch.stack([loss.detach(), gradient_norm([logits])])

    return Work(step, lambda values: values, {})


def _data(task: Task) -> Work:
    """Training crops from files: decode, augment, normalise."""
    import cv2
    import PIL

    cv2.setNumThreads(0)
    data = DataConfig(
        name=task["data"], root=task["root"], base_size=tuple(task["base_size"]),
        crop_size=tuple(task["size"]),
    )
    dataset = load_dataset(data, task["split"])
    transform, counter = TrainTransform(data, seed=0), iter(range(1 << 62))

    def step() -> int:
        for _ in range(task["images"]):
            number = next(counter)
            transform(dataset[number % len(dataset)], number)
        return 0

    return Work(step, lambda _: [], {"opencv": cv2.__version__, "pillow": PIL.__version__})


WORKS: dict[str, Callable[[Task], Any]] = {
    "forward": _forward, "train": _train, "eval": _eval, "data": _data, "loss": _loss,
    "recipe": _train,
}  # fmt: skip
"""What a kind of task builds."""


if __name__ == "__main__":
    serve(make_work)
