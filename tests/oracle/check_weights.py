"""Our models in mmsegmentation, and mmsegmentation's in ours, in float64.

Run ``PYTHONPATH=. DIR/bin/python tests/oracle/check_weights.py`` in the environment that ``sh
tests/oracle/setup.sh DIR`` makes. Every model is tiny, its weights have std 0.2 and its running
statistics are random. Each is written with `weights.write.to_mmseg`, loaded strictly by
mmsegmentation, and must give the same scores: main head in eval mode, all heads in training mode.
mmsegmentation's own state dict, read with `weights.from_mmseg`, must give back the same tensors.
The script prints the largest difference, relative to the largest score, and fails above 1e-9.
"""

# ruff: noqa: C408  (settings are written as mmsegmentation's config files write them)
from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from golden.make_heads import CHANNELS, CLASSES, DEPTH, DIM, HEADS, mmseg_mla, mmseg_up
from mmengine import Config
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules

from setr_lite import encoder
from setr_lite.config import ModelConfig
from setr_lite.logits import LazyLogits
from setr_lite.model import SETR
from setr_lite.weights import from_mmseg
from setr_lite.weights.files import WeightFile
from setr_lite.weights.write import to_mmseg

SIZE = (64, 96)
TAPS = (0, 1, 2, 3)
UP = {  # convs, kernel, scale of the main head and of each auxiliary head; number of those
    ("naive", "mmseg", 2): ((1, 1, 4), (2, 1, 4), 3),
    ("naive", "mmseg", 1): ((1, 1, 4), (1, 1, 4), 3),
    ("naive", "official", None): ((1, 1, 1), (1, 1, 1), 3),  # up_scale=1: a changed config
    ("pup", "mmseg", None): ((4, 3, 2), (2, 3, 4), 3),
    ("pup", "official", None): ((4, 3, 2), (1, 3, 4), 4),  # one unit, four heads: changed too
    ("mla", "mmseg", None): (),
}


def spread(model: torch.nn.Module) -> torch.nn.Module:
    """Weights and statistics of std 0.2 in float64."""
    for name, value in model.double().state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point():
            value.normal_(0, 0.2)
    return model


def theirs(head: str, numbers: tuple) -> torch.nn.Module:
    """mmsegmentation's model, with the patch bias that 1.x leaves out by default."""
    config = dict(
        type="EncoderDecoder",
        backbone=dict(
            type="VisionTransformer", img_size=SIZE, embed_dims=DIM, num_layers=DEPTH,
            num_heads=HEADS, out_indices=TAPS, drop_rate=0.0, norm_cfg=dict(type="LN", eps=1e-6),
            with_cls_token=head != "mla", patch_bias=True, interpolate_mode="bilinear",
        ),
        test_cfg=Config(dict(mode="whole")), train_cfg=dict(),
    )
    if head == "mla":
        config["neck"], config["decode_head"], config["auxiliary_head"] = mmseg_mla()
    else:
        main, aux, count = numbers
        config["decode_head"] = mmseg_up(*main)
        config["auxiliary_head"] = [mmseg_up(*aux, index=k) for k in range(count)]
    return MODELS.build(config).double()


def difference(ours: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference at full size, relative to the largest score."""
    ours, other = (LazyLogits.of(x).resized(SIZE).full() for x in (ours, other))
    return ((ours - other).abs().max() / other.abs().max()).item()


@torch.no_grad()
def check(head: str, dialect: str, aux_units: int | None) -> float:
    """The largest difference of one model."""
    config = ModelConfig(
        encoder="golden", head=head, dialect=dialect, num_classes=CLASSES, img_size=SIZE,
        channels=CHANNELS, taps=TAPS, aux_units=aux_units,
    )
    model = spread(SETR.from_config(config))
    other = theirs(head, UP[head, dialect, aux_units])
    exported = to_mmseg(model.state_dict(), config, changed_config=True)
    other.load_state_dict(exported)  # strict: every key on both sides
    if dialect == "mmseg":  # and back: what mmsegmentation holds is what we had
        file = WeightFile(Path("memory"), dict(other.state_dict()))
        state, _ = from_mmseg(file, model)
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    found = []
    for size in (SIZE, (80, 64)):  # the position table's own grid, and another
        image = torch.randn(1, 3, *size, dtype=torch.float64)
        meta = dict(ori_shape=size, img_shape=size, pad_shape=size)
        scores = model.eval().logits(image)
        found.append(difference(scores, other.eval().whole_inference(image, [meta])))
    image = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    output, features = model.train()(image), other.train().extract_feat(image)
    found.append(difference(output.logits, other.decode_head(features)))
    order = reversed(other.auxiliary_head) if head == "mla" else other.auxiliary_head
    for scores, aux_head in zip(output.aux_logits, order, strict=True):
        found.append(difference(scores, aux_head(features)))
    return max(found)


if __name__ == "__main__":
    register_all_modules()
    torch.manual_seed(0)
    encoder.PRESETS["golden"] = dict(
        patch_size=16, embed_dim=DIM, depth=DEPTH, num_heads=HEADS)
    worst = 0.0
    for case in UP:
        value = check(*case)
        print(f"{case[0]:6}{case[1]:9} aux_units={case[2]!s:5} largest difference {value:.1e}")
        worst = max(worst, value)
    sys.exit(worst > 1e-9)
