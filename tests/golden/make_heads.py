"""Make ``heads_mmseg.npz`` and ``heads_official.npz``: what the published programs compute.

The files hold outputs only. Every weight and every input is drawn by :func:`draw` from its name,
so a test draws the same numbers and compares in float64. The tests import nothing but this
function and :func:`summary`; the programs themselves are needed only to make the files again.

1. mmsegmentation 1.2.2, in the environment that ``sh tests/oracle/setup.sh DIR`` makes. SyncBN
   becomes BN (same keys, same numbers on one process).
2. The authors' code, github.com/fudan-zvg/SETR (MIT): clone it and give its folder. Five files
   of ``mmseg/models`` run as they are: ``backbones/vit.py``, ``backbones/vit_mla.py``,
   ``decode_heads/vit_up_head.py``, ``vit_mla_head.py`` and ``vit_mla_auxi_head.py``. What they
   import is replaced: the registries, `load_pretrained`, timm's helpers and `BaseDecodeHead`,
   of which they use the constructor and ``inputs[in_index]``. Its mmcv is that of step 1.
   The files stored here were made from those five files as of commits 0acc258 (both
   backbones), 64cfcc1 (up head) and f27d823 (the other two heads), with the table of download
   addresses, `HybridEmbed` and the pretraining loader left out.

Run ``DIR/bin/python tests/golden/make_heads.py [folder of the authors' code]``: seconds on a CPU.

An array is named ``case/what/summary``. Cases: ``naive``, ``pup``, ``naive_aux1`` and so on are
heads alone on drawn feature maps; ``model_*`` are whole models, from image to scores. The entry
``keys`` is JSON, ``{case: {key of the published state dict: shape}}``, and ``check`` holds three
drawn numbers, in case another numpy draws others.
"""

# ruff: noqa: C408  (settings are written as mmsegmentation's config files write them)
from __future__ import annotations

import json
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

HERE = Path(__file__).parent
DIM, CHANNELS, CLASSES, DEPTH, HEADS = 32, 16, 5, 4, 4
OFFICIAL_CHANNELS = 256  # written into the authors' heads
GRIDS = ((4, 6), (5, 5))
IMAGES = {"eval": (64, 96), "resized": (80, 64), "odd": (60, 90)}  # table made for (64, 96)
SLIDES = {"slide": (100, 72), "slide_small": (48, 80)}
WINDOW = ((64, 64), (40, 40))  # size and stride
SQUARES = (64, 80)  # the authors' code takes squares of the size it was built for


def draw(name: str, shape: tuple[int, ...]) -> Tensor:
    """The float64 tensor that belongs to `name`, the same on every machine.

    The last part of the name and the shape decide the scale, chosen so that every layer matters
    and scores stay near 1: norm weights 1 +- 0.2, biases 0.2, ``running_mean`` 0.3,
    ``running_var`` log-normal, tables (three axes) 0.5, matrices and kernels
    sqrt(2 / inputs of an output), about 0.25 here; ``image`` and ``features`` 1.
    """
    normal = torch.from_numpy(
        np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    )
    kind = name.replace("/", ".").rsplit(".", 1)[-1]
    if kind == "running_var":
        return torch.exp(normal / 2)
    if kind in ("image", "features"):
        return normal
    if len(shape) == 1:
        return 1 + 0.2 * normal if kind == "weight" else normal * (0.3 if "mean" in kind else 0.2)
    if len(shape) == 3:
        return 0.5 * normal
    return normal * (2 / normal[0].numel()) ** 0.5


def summary(scores: Tensor) -> dict[str, np.ndarray]:
    """A small witness of (B, K, H, W): single points, and the mean of each 16 x 16 square."""
    scores = scores.detach()
    return {
        "points": scores[:, :, ::11, ::13].numpy(),
        "means": F.avg_pool2d(scores, 16).numpy(),
    }


class Store:
    """Collects arrays and the keys of the published state dicts."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.keys: dict[str, dict[str, list[int]]] = {}

    def fill(self, case: str, module: nn.Module) -> nn.Module:
        """Draw all weights of `module` and note its keys; returns it in float64, eval mode."""
        module.double().eval()
        state = {k: v for k, v in module.state_dict().items() if "num_batches" not in k}
        self.keys[case] = {k: list(v.shape) for k, v in state.items()}
        drawn = {k: draw(f"{case}/{k}", tuple(v.shape)) for k, v in state.items()}
        module.load_state_dict(drawn, strict=False)
        return module

    def add(self, name: str, scores: Tensor, size: tuple[int, int], means_only=False) -> None:
        """Resize to `size` as both programs do for their loss and result, and keep a summary."""
        if scores.shape[-2:] != size:
            scores = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
        parts = summary(scores)
        for kind in ("means",) if means_only else ("points", "means"):
            self.arrays[f"{name}/{kind}"] = parts[kind]

    def save(self, path: Path) -> None:
        check = draw("check.bias", (3,)).numpy()
        np.savez_compressed(path, keys=json.dumps(self.keys), check=check, **self.arrays)
        print(path.name, len(self.arrays), "arrays,", path.stat().st_size, "bytes")


# ---- mmsegmentation ------------------------------------------------------------------------


def mmseg_up(convs: int, kernel: int, scale: int, index: int = 3) -> dict:
    """`SETRUPHead` as the shipped Naive and PUP configs set it, at our widths."""
    return dict(
        type="SETRUPHead", in_channels=DIM, channels=CHANNELS, in_index=index,
        num_classes=CLASSES, dropout_ratio=0, norm_cfg=dict(type="BN", requires_grad=True),
        num_convs=convs, up_scale=scale, kernel_size=kernel, align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", loss_weight=1.0),
    )


def mmseg_mla() -> tuple[dict, dict, list[dict]]:
    """Neck, head and the four auxiliary heads of the shipped MLA configs, at our widths."""
    bn = dict(type="BN", requires_grad=True)
    neck = dict(
        type="MLANeck", in_channels=[DIM] * 4, out_channels=CHANNELS, norm_cfg=bn,
        act_cfg=dict(type="ReLU"),
    )
    head = dict(
        type="SETRMLAHead", in_channels=[CHANNELS] * 4, channels=2 * CHANNELS,
        in_index=(0, 1, 2, 3), dropout_ratio=0, mla_channels=CHANNELS // 2,
        num_classes=CLASSES, norm_cfg=bn, align_corners=False,
    )
    aux = [
        dict(
            type="FCNHead", in_channels=CHANNELS, channels=CHANNELS, in_index=k, dropout_ratio=0,
            num_convs=0, kernel_size=1, concat_input=False, num_classes=CLASSES,
            align_corners=False,
        )
        for k in range(4)
    ]
    return neck, head, aux


MMSEG_UP = {
    "naive": (1, 1, 4),
    "pup": (4, 3, 2),
    "naive_aux1": (1, 1, 4),  # Cityscapes configs
    "naive_aux2": (2, 1, 4),  # ADE20K configs
    "pup_aux": (2, 3, 4),
}


@torch.no_grad()
def make_mmseg(store: Store) -> None:
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules()
    for case, numbers in MMSEG_UP.items():
        head = nn.ModuleDict({"decode_head": MODELS.build(mmseg_up(*numbers))})
        store.fill(case, head)
        for h, w in GRIDS:
            features = [draw(f"{case}/{h}x{w}/features", (1, DIM, h, w))] * 4
            store.add(f"{case}/{h}x{w}", head["decode_head"](features), (16 * h, 16 * w))
    neck, head, aux = mmseg_mla()
    parts = {"neck": MODELS.build(neck), "decode_head": MODELS.build(head)}
    parts["auxiliary_head"] = nn.ModuleList(MODELS.build(a) for a in aux)
    mla = store.fill("mla", nn.ModuleDict(parts))
    for h, w in GRIDS:
        features = [draw(f"mla/{h}x{w}/{i}/features", (1, DIM, h, w)) for i in range(4)]
        maps = mla["neck"](features)
        store.add(f"mla/{h}x{w}", mla["decode_head"](maps), (16 * h, 16 * w))
        for k, aux_head in enumerate(mla["auxiliary_head"]):
            store.add(f"mla/{h}x{w}/aux{k}", aux_head(maps), (16 * h, 16 * w))
    for kind in ("naive", "pup", "mla"):
        mmseg_model(store, kind)


def mmseg_model(store: Store, kind: str) -> None:
    """Whole models: whole-image inference at three sizes, and training mode with aux heads.

    Sliding windows, which are the segmentor's work, with one of the heads.
    """
    from mmengine import Config
    from mmseg.registry import MODELS

    config = dict(
        type="EncoderDecoder",
        backbone=dict(
            type="VisionTransformer", img_size=IMAGES["eval"], embed_dims=DIM, num_layers=DEPTH,
            num_heads=HEADS, out_indices=(0, 1, 2, 3), drop_rate=0.0,
            norm_cfg=dict(type="LN", eps=1e-6), with_cls_token=kind != "mla", patch_bias=True,
            interpolate_mode="bilinear",
        ),
        test_cfg=Config(dict(mode="whole")), train_cfg=dict(),
    )
    if kind == "mla":
        config["neck"], config["decode_head"], config["auxiliary_head"] = mmseg_mla()
    else:
        aux = "pup_aux" if kind == "pup" else "naive_aux2"
        config["decode_head"] = mmseg_up(*MMSEG_UP[kind])
        config["auxiliary_head"] = [mmseg_up(*MMSEG_UP[aux], index=k) for k in range(3)]
    case = f"model_{kind}"
    model = store.fill(case, MODELS.build(config))
    for what, size in IMAGES.items():
        image = draw(f"{case}/{what}/image", (1, 3, *size))
        meta = dict(ori_shape=size, img_shape=size, pad_shape=size)
        store.add(f"{case}/{what}", model.whole_inference(image, [meta]), size)
    for what, size in SLIDES.items() if kind == "naive" else ():
        image = draw(f"{case}/{what}/image", (1, 3, *size))
        meta = dict(ori_shape=size, img_shape=size, pad_shape=size)
        model.test_cfg.update(crop_size=WINDOW[0], stride=WINDOW[1])
        store.add(f"{case}/{what}", model.slide_inference(image, [meta]), size)
    model.train()
    size = IMAGES["eval"]
    features = model.extract_feat(draw(f"{case}/train/image", (2, 3, *size)))
    store.add(f"{case}/train", model.decode_head(features), size, means_only=True)
    for k, aux_head in enumerate(model.auxiliary_head):
        store.add(f"{case}/train/aux{k}", aux_head(features), size, means_only=True)


# ---- the authors' code ---------------------------------------------------------------------


class BaseDecodeHead(nn.Module):
    """The little that the authors' heads use of theirs: settings, and ``inputs[in_index]``.

    `conv_seg` is never called, but it is in their checkpoints.
    """

    def __init__(self, in_channels, channels, *, num_classes, in_index=-1, align_corners=False):
        super().__init__()
        self.in_channels, self.channels, self.num_classes = in_channels, channels, num_classes
        self.in_index, self.align_corners = in_index, align_corners
        self.conv_seg = nn.Conv2d(channels, num_classes, kernel_size=1)

    def _transform_inputs(self, inputs):
        return inputs[self.in_index]


def load_authors(folder: Path) -> dict[str, type]:
    """The classes of the five files, by name."""
    registry = types.SimpleNamespace(register_module=lambda: lambda cls: cls)
    layers = dict(
        DropPath=nn.Identity, to_2tuple=lambda x: (x, x), trunc_normal_=nn.init.trunc_normal_
    )
    stubs = {
        "builder": dict(HEADS=registry, BACKBONES=registry),
        "backbones.helpers": dict(load_pretrained=None),
        "backbones.layers": layers,
        "decode_heads.helpers": dict(load_pretrained=None),
        "decode_heads.layers": layers,
        "decode_heads.decode_head": dict(BaseDecodeHead=BaseDecodeHead),
    }
    for package in ("", ".backbones", ".decode_heads"):
        module = types.ModuleType(f"authors{package}")
        module.__path__ = []
        sys.modules[module.__name__] = module
    for name, content in stubs.items():
        module = types.ModuleType(f"authors.{name}")
        vars(module).update(content)
        sys.modules[module.__name__] = module
    classes: dict[str, type] = {}
    for name in (
        "backbones.vit", "backbones.vit_mla", "decode_heads.vit_up_head",
        "decode_heads.vit_mla_head", "decode_heads.vit_mla_auxi_head",
    ):
        path = folder / "mmseg" / "models" / (name.replace(".", "/") + ".py")
        module = types.ModuleType(f"authors.{name}")
        module.__package__ = module.__name__.rpartition(".")[0]
        sys.modules[module.__name__] = module
        exec(compile(path.read_text(), str(path), "exec"), vars(module))
        classes.update({k: v for k, v in vars(module).items() if isinstance(v, type)})
    return classes


@torch.no_grad()
def make_official(store: Store, folder: Path) -> None:
    authors = load_authors(folder)
    for kind in ("naive", "pup", "mla"):
        for side in SQUARES:
            official_model(store, authors, kind, side)


def official_up(authors: dict, side: int, index: int, **numbers) -> nn.Module:
    """`VisionTransformerUpHead` as the authors' configs set it, with a narrow encoder."""
    return authors["VisionTransformerUpHead"](
        img_size=side, embed_dim=DIM, norm_cfg=dict(type="BN", requires_grad=True),
        in_channels=DIM, channels=512, in_index=index, num_classes=CLASSES,
        align_corners=False, **numbers,
    )


OFFICIAL_UP = {
    "naive": dict(num_conv=2, conv3x3_conv1x1=False),
    "pup": dict(num_conv=4, num_upsampe_layer=4),
    "pup_aux": dict(num_conv=2, num_upsampe_layer=2),
}


def official_parts(authors: dict, kind: str, side: int) -> nn.ModuleDict:
    common = dict(
        img_size=side, embed_dim=DIM, depth=DEPTH, num_heads=HEADS, drop_rate=0.0,
        random_init=True,
    )
    if kind != "mla":
        aux, count = ("pup_aux", 4) if kind == "pup" else ("naive", 3)
        return nn.ModuleDict({
            "backbone": authors["VisionTransformer"](**common),
            "decode_head": official_up(authors, side, 3, **OFFICIAL_UP[kind]),
            "auxiliary_head": nn.ModuleList(
                official_up(authors, side, k, **OFFICIAL_UP[aux]) for k in range(count)
            ),
        })
    bn = dict(type="BN", requires_grad=True)
    wide = OFFICIAL_CHANNELS
    return nn.ModuleDict({
        "backbone": authors["VIT_MLA"](
            **common, norm_cfg=bn, mla_channels=wide, mla_index=(0, 1, 2, 3)),
        "decode_head": authors["VIT_MLAHead"](
            img_size=side, mla_channels=wide, mlahead_channels=wide // 2, norm_cfg=bn,
            in_channels=DIM, channels=512, num_classes=CLASSES),
        "auxiliary_head": nn.ModuleList(
            authors["VIT_MLA_AUXIHead"](
                img_size=side, in_channels=wide, channels=512, in_index=k, num_classes=CLASSES)
            for k in range(4)
        ),
    })


def official_model(store: Store, authors: dict, kind: str, side: int) -> None:
    """Whole models on a square: eval mode, and training mode with auxiliary heads."""
    case = f"model_{kind}_{side}"
    model = store.fill(case, official_parts(authors, kind, side))
    features = model["backbone"](draw(f"{case}/eval/image", (1, 3, side, side)))
    store.add(f"{case}/eval", model["decode_head"](features), (side, side))
    for k, aux_head in enumerate(model["auxiliary_head"]):
        store.add(f"{case}/eval/aux{k}", aux_head(features), (side, side), means_only=True)
    model.train()
    features = model["backbone"](draw(f"{case}/train/image", (2, 3, side, side)))
    store.add(f"{case}/train", model["decode_head"](features), (side, side), means_only=True)
    for k, aux_head in enumerate(model["auxiliary_head"]):
        store.add(f"{case}/train/aux{k}", aux_head(features), (side, side), means_only=True)


if __name__ == "__main__":
    mmseg = Store()
    make_mmseg(mmseg)
    mmseg.save(HERE / "heads_mmseg.npz")
    if len(sys.argv) > 1:
        official = Store()
        make_official(official, Path(sys.argv[1]))
        official.save(HERE / "heads_official.npz")
