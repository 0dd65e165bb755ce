"""mmsegmentation's side of `setr-lite bench --against mmseg`: its own code, as its users call it.

Runs in the environment that ``sh tests/oracle/setup.sh DIR`` makes; `bench` starts it. Models are
those of its shipped SETR configs for ADE20K, at the widths of the task; SyncBN becomes BN, the
same on one process. Weights and images come from our side, through `weights.write.to_mmseg`.
"""

# ruff: noqa: C408  (settings are written as mmsegmentation's config files write them)
from __future__ import annotations

import contextlib
import itertools
from typing import Any

import cv2
import mmcv
import mmengine
import mmseg
import torch
from mmengine import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS, TRANSFORMS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules

from setr_lite.bench.turns import Task, Work, serve, some_values
from setr_lite.encoder import PRESETS, default_taps

CHANNELS = 256
BN = dict(type="BN", requires_grad=True)
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
VERSIONS = {
    "mmsegmentation": mmseg.__version__, "mmcv": mmcv.__version__,
    "mmengine": mmengine.__version__, "opencv": cv2.__version__,
}  # fmt: skip
UP = {  # convs, kernel, scale of the main head and of the auxiliary heads
    "naive": ((1, 1, 4), (2, 1, 4)),
    "pup": ((4, 3, 2), (2, 3, 4)),
}


def _loss(weight: float) -> dict:
    return dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=weight)


def _up_head(task: Task, dim: int, numbers: tuple, index: int, weight: float) -> dict:
    convs, kernel, scale = numbers
    return dict(
        type="SETRUPHead", in_channels=dim, channels=CHANNELS, in_index=index,
        num_classes=task["classes"], dropout_ratio=0, norm_cfg=BN, num_convs=convs,
        up_scale=scale, kernel_size=kernel, align_corners=False, loss_decode=_loss(weight),
    )


def _mla_parts(task: Task, dim: int) -> dict:
    aux = [
        dict(
            type="FCNHead", in_channels=CHANNELS, channels=CHANNELS, in_index=k, dropout_ratio=0,
            num_convs=0, kernel_size=1, concat_input=False, num_classes=task["classes"],
            align_corners=False, loss_decode=_loss(0.4),
        )
        for k in range(4)
    ]
    return dict(
        neck=dict(
            type="MLANeck", in_channels=[dim] * 4, out_channels=CHANNELS, norm_cfg=BN,
            act_cfg=dict(type="ReLU"),
        ),
        decode_head=dict(
            type="SETRMLAHead", in_channels=[CHANNELS] * 4, channels=2 * CHANNELS,
            in_index=(0, 1, 2, 3), dropout_ratio=0, mla_channels=CHANNELS // 2,
            num_classes=task["classes"], norm_cfg=BN, align_corners=False, loss_decode=_loss(1.0),
        ),
        auxiliary_head=aux,
    )


def _build(task: Task) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """The model with the weights handed over, images and labels."""
    preset, head = PRESETS[task["encoder"]], task["head"]
    dim, depth = preset["embed_dim"], preset["depth"]
    config = dict(
        type="EncoderDecoder",
        backbone=dict(
            type="VisionTransformer", img_size=tuple(task["size"]), embed_dims=dim,
            patch_size=preset["patch_size"], num_layers=depth, num_heads=preset["num_heads"],
            out_indices=default_taps(depth, head), drop_rate=0.0,
            norm_cfg=dict(type="LN", eps=1e-6, requires_grad=True), with_cls_token=head != "mla",
            patch_bias=True, interpolate_mode="bilinear",
        ),
        train_cfg=dict(), test_cfg=Config(_test_mode(task)),
    )
    if head == "mla":
        config |= _mla_parts(task, dim)
    else:
        main, aux = UP[head]
        config["decode_head"] = _up_head(task, dim, main, 3, 1.0)
        config["auxiliary_head"] = [_up_head(task, dim, aux, k, 0.4) for k in range(3)]
    if task["kind"] != "train":
        del config["auxiliary_head"]
    model = MODELS.build(config)
    given = torch.load(task["hand_over"], weights_only=True)
    if given["weights"]:
        model.load_state_dict(given["weights"])
    device = torch.device(task["device"])
    model.to(device).train(task["kind"] == "train")
    return model, given["image"].to(device), given["label"].to(device)


def _test_mode(task: Task) -> dict:
    if task["kind"] != "eval":
        return dict(mode="whole")
    return dict(mode="slide", crop_size=tuple(task["window"]), stride=(task["stride"],) * 2)


def _autocast(task: Task) -> contextlib.AbstractContextManager:
    if task["amp"] == "off":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(task["device"]).type, torch.bfloat16)


def _inference(task: Task) -> Work:
    """Whole images or windows: full-size logits, or their argmax as `postprocess_result` takes."""
    model, image, _ = _build(task)
    size = tuple(image.shape[-2:])
    metas = [dict(ori_shape=size, img_shape=size, pad_shape=size)] * len(image)

    @torch.no_grad()
    def step() -> torch.Tensor:
        with _autocast(task):
            logits = model.inference(image, metas)
        wants_labels = task["labels"] or task["kind"] == "eval"
        return logits.argmax(dim=1) if wants_labels else logits

    return Work(step, some_values, VERSIONS)


def _train(task: Task) -> Work:
    """`EncoderDecoder.loss`, its accuracy included, then SGD with momentum."""
    model, image, label = _build(task)
    size = tuple(image.shape[-2:])
    samples = []
    for one in label:
        sample = SegDataSample(metainfo=dict(ori_shape=size, img_shape=size, pad_shape=size))
        sample.gt_sem_seg = PixelData(data=one[None])
        samples.append(sample)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with _autocast(task):
            total, _ = model.parse_losses(model.loss(image, samples))
        total.backward()
        optimizer.step()
        return total.detach()

    return Work(step, lambda value: [value], VERSIONS)


def _data(task: Task) -> Work:
    """The pipeline of its ADE20K configs, and its `data_preprocessor`, image by image."""
    cv2.setNumThreads(0)
    short, long = task["base_size"]
    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations", reduce_zero_label=True),
        dict(
            type="RandomResize", scale=(long, short), ratio_range=(0.5, 2.0), keep_ratio=True),
        dict(type="RandomCrop", crop_size=tuple(task["size"]), cat_max_ratio=0.75),
        dict(type="RandomFlip", prob=0.5),
        dict(type="PhotoMetricDistortion"),
        dict(type="PackSegInputs"),
    ]
    steps = [TRANSFORMS.build(settings) for settings in pipeline]
    normalize = MODELS.build(dict(
        type="SegDataPreProcessor", mean=MEAN, std=STD, bgr_to_rgb=True, pad_val=0,
        seg_pad_val=255, size=tuple(task["size"]),
    ))  # fmt: skip
    files = itertools.cycle(task["files"])

    def load(image: str, label: str) -> Any:
        sample = dict(
            img_path=image, seg_map_path=label, reduce_zero_label=True, seg_fields=[])
        for step in steps:
            sample = step(sample)
        batch = dict(inputs=[sample["inputs"]], data_samples=[sample["data_samples"]])
        return normalize(batch, training=True)

    def turn() -> int:
        for _ in range(task["images"]):
            load(*next(files))
        return 0

    return Work(turn, lambda _: [], VERSIONS)


def make_work(task: Task) -> Work:
    """The work of a task, as `ours.make_work`."""
    kinds = {"forward": _inference, "eval": _inference, "train": _train, "data": _data}
    return kinds[task["kind"]](task)


if __name__ == "__main__":
    register_all_modules()
    init_default_scope("mmseg")
    serve(make_work)
