"""Our heads and models against what mmsegmentation 1.2.2 and the authors' code compute.

``golden/make_heads.py`` says how the stored outputs were made. Weights and inputs are drawn by
name, so the tables below, our layer -> published layer, are all that connects the two programs.
They also say where mmsegmentation counts its MLA streams from deep to shallow.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.make_heads import (
    CHANNELS,
    CLASSES,
    DEPTH,
    DIM,
    GRIDS,
    HEADS,
    IMAGES,
    OFFICIAL_CHANNELS,
    SLIDES,
    SQUARES,
    WINDOW,
    draw,
    summary,
)
from torch import nn

from setr_lite import encoder, heads
from setr_lite.inference import Window, sliding_window
from setr_lite.logits import LazyLogits
from setr_lite.model import SETR

GOLDEN = {
    name: np.load(Path(__file__).parent / "golden" / f"heads_{name}.npz")
    for name in ("mmseg", "official")
}
KEYS = {name: json.loads(str(file["keys"])) for name, file in GOLDEN.items()}

ENCODER = {
    "mmseg": {
        "cls_token": "cls_token",
        "pos_embed": "pos_embed",
        "patch_embed.proj": "patch_embed.projection",
        "blocks.{i}.norm1": "layers.{i}.ln1",
        "blocks.{i}.attn.qkv.weight": "layers.{i}.attn.attn.in_proj_weight",
        "blocks.{i}.attn.qkv.bias": "layers.{i}.attn.attn.in_proj_bias",
        "blocks.{i}.attn.proj": "layers.{i}.attn.attn.out_proj",
        "blocks.{i}.norm2": "layers.{i}.ln2",
        "blocks.{i}.mlp.fc1": "layers.{i}.ffn.layers.0.0",
        "blocks.{i}.mlp.fc2": "layers.{i}.ffn.layers.1",
    },
    "official": {
        "cls_token": "cls_token",
        "pos_embed": "pos_embed",
        "patch_embed.proj": "patch_embed.proj",
        "blocks.{i}": "blocks.{i}",
    },
}
UP_HEAD = {
    "mmseg": {
        "norm": "norm",
        "convs.{i}.0": "up_convs.{i}.0.conv",
        "convs.{i}.1": "up_convs.{i}.0.bn",
        "classifier": "conv_seg",
    },
    "official": {
        "norm": "norm",
        "convs.{i}.0": "conv_{i}",
        "convs.{i}.1": "syncbn_fc_{i}",
        "classifier": "conv_{last}",
    },
}
NECK = {  # stream i of ours: 0 is the shallowest
    "mmseg": {
        "norm.{i}": "neck.norm.{i}",
        "proj.{i}.0": "neck.mla.channel_proj.{i}.conv",
        "proj.{i}.1": "neck.mla.channel_proj.{i}.bn",
        "smooth.{i}.0": "neck.mla.feat_extract.{3-i}.conv",
        "smooth.{i}.1": "neck.mla.feat_extract.{3-i}.bn",
    },
    "official": {
        "norm.{i}": "backbone.norm_{i}",
        "proj.{i}.0": "backbone.mla.mla_p{i+2}_1x1.0",
        "proj.{i}.1": "backbone.mla.mla_p{i+2}_1x1.1",
        "smooth.{i}.0": "backbone.mla.mla_p{i+2}.0",
        "smooth.{i}.1": "backbone.mla.mla_p{i+2}.1",
    },
}
MLA_HEAD = {
    "mmseg": {
        "branches.{i}.0": "up_convs.{3-i}.0.conv",
        "branches.{i}.1": "up_convs.{3-i}.0.bn",
        "branches.{i}.3": "up_convs.{3-i}.1.conv",
        "branches.{i}.4": "up_convs.{3-i}.1.bn",
        "classifier": "conv_seg",
    },
    "official": {"branches.{i}": "mlahead.head{i+2}", "classifier": "cls"},
}
MLA_AUX = {"mmseg": {"classifier": "conv_seg"}, "official": {"classifier": "aux"}}


def expand(table: dict[str, str], count: int = 4) -> dict[str, str]:
    """`table` with its patterns written out for i = 0 .. count - 1."""
    rows = {}
    for ours, theirs in table.items():
        for i in range(count if "{i}" in ours else 1):
            name = theirs
            for pattern, n in (("{i}", i), ("{3-i}", 3 - i), ("{i+2}", i + 2), ("{last}", count)):
                name = name.replace(pattern, str(n))
            rows[ours.replace("{i}", str(i))] = name
    return rows


def prefixed(rows: dict[str, str], ours: str, theirs: str) -> dict[str, str]:
    return {ours + a: theirs + b for a, b in rows.items()}


def fill(module: nn.Module, case: str, dialect: str, rows: dict[str, str]) -> nn.Module:
    """Give `module` the drawn weights of `case`, every key of both sides accounted for."""
    published = dict(KEYS[dialect][case])
    state = {}
    for ours, tensor in module.state_dict().items():
        if "num_batches" in ours:
            state[ours] = tensor
            continue
        row = next(r for r in rows if ours == r or ours.startswith(r + "."))
        theirs = rows[row] + ours[len(row) :]
        value = draw(f"{case}/{theirs}", tuple(published.pop(theirs)))
        if dialect == "mmseg" and "mla" in case and theirs == "decode_head.conv_seg.weight":
            value = value.unflatten(1, (4, -1)).flip(1).flatten(1, 2)  # input blocks, deep first
        state[ours] = value
    if dialect == "official":  # made by their base class and never called
        published = {k: v for k, v in published.items() if ".conv_seg." not in k}
    assert not published, f"{case}: no row for {sorted(published)}"
    module.double().load_state_dict(state)
    return module.eval()


def assert_same(scores: torch.Tensor, dialect: str, name: str) -> None:
    """Equal to the stored summary within 1e-9 of its largest value."""
    found = 0
    for kind, ours in summary(scores).items():
        if f"{name}/{kind}" in GOLDEN[dialect]:
            theirs, found = GOLDEN[dialect][f"{name}/{kind}"], found + 1
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * np.abs(theirs).max())
    assert found


def full(lazy: LazyLogits, size: tuple[int, int]) -> torch.Tensor:
    return lazy.resized(size).full()


@pytest.mark.smoke
@pytest.mark.parametrize("dialect", GOLDEN)
def test_numpy_draws_what_the_files_were_made_with(dialect):
    np.testing.assert_array_equal(draw("check.bias", (3,)).numpy(), GOLDEN[dialect]["check"])


UP_CASES = {
    "naive": (heads.NaiveHead, {}, 1),
    "pup": (heads.PUPHead, {}, 4),
    "naive_aux1": (heads.NaiveAuxHead, {"units": 1}, 1),
    "naive_aux2": (heads.NaiveAuxHead, {"units": 2}, 2),
    "pup_aux": (heads.PUPAuxHead, {}, 2),
}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("case", UP_CASES)
@torch.no_grad()
def test_mmseg_up_heads(case, grid):
    kind, settings, units = UP_CASES[case]
    head = kind(DIM, CHANNELS, CLASSES, "mmseg", **settings)
    fill(head, case, "mmseg", prefixed(expand(UP_HEAD["mmseg"], units), "", "decode_head."))
    h, w = grid
    features = [draw(f"{case}/{h}x{w}/features", (1, DIM, h, w))]
    assert_same(full(head.lazy(features), (16 * h, 16 * w)), "mmseg", f"{case}/{h}x{w}")


def mla_rows(dialect: str) -> dict[str, str]:
    """Neck, head and auxiliary heads; aux i of ours supervises stream i, shallow first."""
    rows = prefixed(expand(NECK[dialect]), "neck.", "")
    rows |= prefixed(expand(MLA_HEAD[dialect]), "head.", "decode_head.")
    for i in range(4):
        k = 3 - i if dialect == "mmseg" else i
        rows |= prefixed(MLA_AUX[dialect], f"aux_heads.{i}.", f"auxiliary_head.{k}.")
    return rows


@pytest.mark.parametrize("grid", GRIDS)
@torch.no_grad()
def test_mmseg_mla_neck_head_and_aux(grid):
    parts = {
        "neck": heads.MultiLevelAggregation(DIM, CHANNELS),
        "head": heads.MLAHead(CHANNELS, CLASSES, "mmseg"),
        "aux_heads": nn.ModuleList(heads.MLAAuxHead(CHANNELS, CLASSES, "mmseg") for _ in range(4)),
    }
    mla = fill(nn.ModuleDict(parts), "mla", "mmseg", mla_rows("mmseg"))
    (h, w), size = grid, (16 * grid[0], 16 * grid[1])
    features = [draw(f"mla/{h}x{w}/{i}/features", (1, DIM, h, w)) for i in range(4)]
    maps = mla["neck"](features)
    assert_same(full(mla["head"].lazy(maps), size), "mmseg", f"mla/{h}x{w}")
    for i, aux_head in enumerate(mla["aux_heads"]):
        assert_same(full(aux_head.lazy([maps[i]]), size), "mmseg", f"mla/{h}x{w}/aux{3 - i}")


@pytest.fixture
def build(monkeypatch):
    """A whole model of golden widths with the drawn weights of a case."""
    preset = {"patch_size": 16, "embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS}
    monkeypatch.setitem(encoder.PRESETS, "golden", preset)

    def build_model(case: str, kind: str, dialect: str, size: tuple[int, int]) -> SETR:
        channels = CHANNELS if dialect == "mmseg" else OFFICIAL_CHANNELS
        model = SETR(
            CLASSES, kind, "golden", dialect=dialect, img_size=size, channels=channels,
            taps=(0, 1, 2, 3),
        )
        rows = prefixed(expand(ENCODER[dialect], DEPTH), "encoder.", "backbone.")
        if kind == "mla":
            return fill(model, case, dialect, rows | mla_rows(dialect))
        rows |= prefixed(
            expand(UP_HEAD[dialect], len(model.head.convs)), "head.", "decode_head.")
        for i, aux in enumerate(model.aux_heads):
            table = expand(UP_HEAD[dialect], len(aux.convs))
            rows |= prefixed(table, f"aux_heads.{i}.", f"auxiliary_head.{i}.")
        return fill(model, case, dialect, rows)

    return build_model


def assert_training_same(model: SETR, case: str, dialect: str, size: tuple[int, int]) -> None:
    """Training mode: BatchNorm by the batch's statistics, auxiliary scores included."""
    output = model.train()(draw(f"{case}/train/image", (2, 3, *size)))
    assert_same(output.full(), dialect, f"{case}/train")
    count = len(output.aux)
    assert sum(f"{case}/train/aux" in name for name in GOLDEN[dialect]) == count > 0
    for i, lazy in enumerate(output.aux):
        k = count - 1 - i if dialect == "mmseg" and "mla" in case else i
        assert_same(full(lazy, size), dialect, f"{case}/train/aux{k}")


@pytest.mark.parametrize("kind", ["naive", "pup", "mla"])
@torch.no_grad()
def test_mmseg_whole_models(build, kind):
    case = f"model_{kind}"
    model = build(case, kind, "mmseg", IMAGES["eval"])
    for what in ("eval", "resized"):  # the position table's own grid, and another
        image = draw(f"{case}/{what}/image", (1, 3, *IMAGES[what]))
        assert_same(model.logits(image), "mmseg", f"{case}/{what}")
    assert_training_same(model, case, "mmseg", IMAGES["eval"])


@torch.no_grad()
def test_mmseg_slides(build):
    model = build("model_naive", "naive", "mmseg", IMAGES["eval"])
    for what, size in SLIDES.items():  # two windows across and down; one smaller than a window
        image = draw(f"model_naive/{what}/image", (1, 3, *size))
        scores = sliding_window(model.logits, image, Window(*WINDOW))
        assert_same(scores, "mmseg", f"model_naive/{what}")


@pytest.mark.parametrize("kind", ["naive", "pup", "mla"])
@torch.no_grad()
def test_mmseg_squeezes_odd_sizes(build, kind):
    case = f"model_{kind}"
    model = build(case, kind, "mmseg", IMAGES["eval"])
    image = draw(f"{case}/odd/image", (1, 3, *IMAGES["odd"]))
    assert_same(model(image).full(odd="squeeze"), "mmseg", f"{case}/odd")


@pytest.mark.parametrize("side", SQUARES)
@pytest.mark.parametrize("kind", ["naive", "pup", "mla"])
@torch.no_grad()
def test_official_whole_models(build, kind, side):
    case, size = f"model_{kind}_{side}", (side, side)
    model = build(case, kind, "official", size)
    image = draw(f"{case}/eval/image", (1, 3, *size))
    assert_same(model.logits(image), "official", f"{case}/eval")
    assert_training_same(model, case, "official", size)


def test_mla_wants_its_four_maps():
    for part in (heads.MultiLevelAggregation(8, 4), heads.MLAHead(8, 3)):
        with pytest.raises(ValueError, match="shorter"):
            part([torch.zeros(2, 8, 2, 2)] * 3)


@pytest.mark.smoke
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_unit_keeps_the_size(kernel):
    assert heads.conv_bn_relu(2, 3, kernel)(torch.zeros(2, 2, 6, 7)).shape == (2, 3, 6, 7)


def test_a_linear_probe_by_hand(spread):
    """Of the last map, position by position: normed over its channels, then one matrix."""
    head = spread(heads.LinearHead(4, 3)).double()
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    normed = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-6).sqrt()
    scale, shift = (value.view(4, 1, 1) for value in (head.norm.weight, head.norm.bias))
    matrix, bias = head.classifier.weight[..., 0, 0], head.classifier.bias.view(3, 1, 1)
    scores = torch.einsum("kd,bdhw->bkhw", matrix, normed * scale + shift) + bias
    lazy = head.lazy([torch.zeros_like(x), x])
    torch.testing.assert_close(lazy.logits, scores, rtol=1e-9, atol=1e-12)
    assert lazy.size == (5, 6)


@pytest.mark.parametrize("kind", [
    heads.NaiveHead, heads.NaiveAuxHead, heads.PUPHead, heads.PUPAuxHead, heads.MLAAuxHead])
def test_heads_of_one_map_read_the_last(kind):
    part = kind(4, 3) if kind is heads.MLAAuxHead else kind(4, 8, 3)
    shallow, deep = torch.randn(2, 1, 4, 2, 3)
    with torch.no_grad():
        assert torch.equal(part.eval()([shallow, deep]), part([deep]))


def test_batch_norm_remembers_a_tenth_of_each_batch():
    """PyTorch's momentum 0.1, as published; another framework's 0.99 means 0.01 in its words."""
    unit = heads.conv_bn_relu(3, 4, 1)
    image = torch.randn(2, 3, 5, 5)
    unit(image)
    mean = unit[0](image).mean((0, 2, 3))
    torch.testing.assert_close(unit[1].running_mean, 0.1 * mean)
