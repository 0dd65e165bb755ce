"""Weights of other programs, in and out: every tensor accounted for, every number kept.

Oracles: timm itself, its loader of Flax files and its resampler; the outputs of the authors' code
and of mmsegmentation in ``golden/heads_*.npz``, whose weights are drawn here in their own names
and go through our converters; the real ``vit2mmseg.py`` in ``golden/vit2mmseg.json``.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import make_vit2mmseg
from golden.make_heads import CHANNELS, CLASSES, DEPTH, DIM, HEADS, IMAGES, SQUARES, draw
from test_heads_golden import KEYS, assert_same, assert_training_same

from setr_lite import encoder, weights
from setr_lite.config import ModelConfig
from setr_lite.encoder import VisionTransformer
from setr_lite.errors import UserError
from setr_lite.model import SETR
from setr_lite.weights import write as weights_out
from setr_lite.weights.account import Report, resample_pos_embed
from setr_lite.weights.convert import convert
from setr_lite.weights.files import WeightFile, read_weight_file
from setr_lite.weights.first import load_first_weights
from setr_lite.weights.tables import reverse_classifier

HEAD_NAMES = ("naive", "pup", "mla")
DIALECTS = ("mmseg", "official")


@pytest.fixture(autouse=True)
def _golden_sizes(monkeypatch):
    sizes = {"patch_size": 16, "embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS}
    monkeypatch.setitem(encoder.PRESETS, "golden", sizes)


def vit(size=(64, 64), **changes) -> VisionTransformer:
    return VisionTransformer.from_preset("golden", img_size=size, **changes).double()


def timm_vit(size=(64, 64), **settings):
    from timm.models.vision_transformer import VisionTransformer as TimmViT

    return TimmViT(
        img_size=size, patch_size=16, embed_dim=DIM, depth=DEPTH, num_heads=HEADS,
        **{"num_classes": 7, **settings},
    ).double()


def setr(head: str, dialect: str, **changes) -> SETR:
    return SETR.from_config(setr_config(head, dialect, **changes)).double().eval()


def setr_config(head: str, dialect: str, **changes) -> ModelConfig:
    settings = {
        "encoder": "golden", "num_classes": CLASSES, "img_size": (64, 64), "taps": (0, 1, 2, 3),
        "channels": 256 if dialect == "official" else CHANNELS,
    }  # fmt: skip
    return ModelConfig(head=head, dialect=dialect, **{**settings, **changes})


def save(state, path: Path) -> Path:
    torch.save(state, path)
    return path


def assert_equal_states(ours, theirs) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


# ---- in memory -------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_state_dict_in_memory_is_as_good_as_its_file(tmp_path, dialect):
    state = published(dialect, "model_pup_64" if dialect == "official" else "model_pup")
    size = (64, 64) if dialect == "official" else (64, 96)
    models = [setr("pup", dialect, img_size=size) for _ in range(3)]
    grid = models[0].encoder.grid
    reports = [
        weights.load_setr(model, source, grid=grid) for model, source in zip(
            models, (save(state, tmp_path / "x.pth"), state, {"state_dict": state}), strict=True)
    ]  # fmt: skip
    assert len(reports[0].used) == len(reports[1].used) > 50
    assert str(reports[1]).startswith("state dict in memory: SETR-PUP of ")
    for model in models[1:]:
        assert_equal_states(model.state_dict(), models[0].state_dict())
    options = {"taps": (0, 1, 2, 3), "img_size": size}
    convert({"model": state}, tmp_path / "folder", **options)
    loaded = SETR.from_pretrained(tmp_path / "folder").state_dict()
    assert_equal_states(loaded, {
        name: value.to(loaded[name].dtype) for name, value in models[0].state_dict().items()
    })


def test_a_plain_vit_in_memory(tmp_path):
    state, (first, second, third) = jx_state(), (vit() for _ in range(3))
    weights.load_pretrained(first, save(state, tmp_path / "x.pth"))
    weights.load_pretrained(second, state)
    load_first_weights(third, state)
    assert_equal_states(second.state_dict(), first.state_dict())
    assert_equal_states(third.state_dict(), first.state_dict())


def test_what_is_no_state_dict_is_refused():
    for bad, said in (
        ({}, "state dict in memory: holds a dict, not tensors by name"),
        ({"a": 3}, "'a' is a int, expected tensors by name"),
        ({1: torch.zeros(2)}, "expected tensors by name"),
        ({"a": torch.zeros(2, device="meta")}, "'a' is without numbers"),
        ({"a": torch.full((2,), float("nan"))}, "'a' holds NaN or infinity"),
    ):
        with pytest.raises(UserError, match=said):
            read_weight_file(bad)


def test_mmsegmentations_patches_without_bias(tmp_path):
    """A model built without one takes the file as it is; zeros are the same function."""
    state = published("mmseg", "model_pup")
    state = {k: v for k, v in state.items() if k != "backbone.patch_embed.projection.bias"}
    bare, zeros = (setr("pup", "mmseg", img_size=(64, 96), patch_bias=bias)
                   for bias in (False, True))  # fmt: skip
    report = weights.load_setr(bare, state, grid=bare.encoder.grid)
    assert report.missing == {}
    with pytest.raises(UserError, match="patch_bias=False"):
        weights.load_setr(zeros, state, grid=bare.encoder.grid)
    weights.load_setr(zeros, state, grid=bare.encoder.grid, allow_missing_patch_bias=True)
    image = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    assert torch.equal(bare.logits(image), zeros.logits(image))
    back = weights_out.to_mmseg(bare.state_dict(), setr_config("pup", "mmseg"))
    assert back.keys() == state.keys()
    full = weights_out.to_timm(bare.state_dict())
    assert full["patch_embed.proj.bias"].abs().max() == 0


# ---- files ---------------------------------------------------------------------------------


def test_every_kind_of_file_gives_the_same_tensors(tmp_path):
    from safetensors.torch import save_file

    state = {"a.weight": torch.randn(2, 3), "a.bias": torch.randn(2).half()}
    save(state, tmp_path / "zip.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save({"state_dict": state, "meta": {"CLASSES": ("x",)}}, tmp_path / "runner.pth")
    save({"model": state, "epoch": 3}, tmp_path / "deit.pth")
    save_file(state, tmp_path / "plain.safetensors")
    for path in sorted(tmp_path.iterdir()):
        file = read_weight_file(path)
        assert_equal_states(dict(sorted(file.tensors.items())), dict(sorted(state.items())))
        assert file.meta == ({"CLASSES": ("x",)} if path.name == "runner.pth" else {})


class Harmless:
    """Stands for the objects that checkpoints carry besides tensors."""


@pytest.mark.parametrize("new", [True, False])
def test_objects_besides_the_tensors_are_stood_in_for(tmp_path, new):
    state = {"a": torch.randn(3)}
    path = tmp_path / "hooks.pth"
    torch.save({"state_dict": state, "h": Harmless()}, path, _use_new_zipfile_serialization=new)
    file = read_weight_file(path)
    assert_equal_states(file.tensors, state)
    assert file.notes == (f"read without running {__name__}.Harmless",)
    assert_equal_states(read_weight_file(path, allow_pickle=True).tensors, state)


def test_a_pickle_of_a_program_that_is_not_here_says_so(tmp_path, monkeypatch):
    path = save({"state_dict": {"a": torch.zeros(1)}, "h": Harmless()}, tmp_path / "hooks.pth")
    monkeypatch.delattr(f"{__name__}.Harmless")
    assert len(read_weight_file(path).tensors) == 1
    with pytest.raises(UserError, match=r"hooks.pth: needs the program that made it .*Harmless.*"
                                        r"without --unsafe-pickle"):
        read_weight_file(path, allow_pickle=True)


def test_missing_and_damaged_files_are_one_line(tmp_path):
    good = save({"a": torch.randn(300)}, tmp_path / "good.pth").read_bytes()
    np.savez(tmp_path / "good.npz", a=np.zeros(300))
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    files = {
        "cut.pth": good[:500],
        "page.pth": b"<!DOCTYPE html><html>",
        "empty.pth": b"",
        "cut.npz": (tmp_path / "good.npz").read_bytes()[:200],
        "cut.safetensors": b"\x99" * 40,
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name in (*files, "objects.npz"):
        with pytest.raises(UserError, match=f"{name}: not a readable file of weights") as error:
            read_weight_file(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"none.pth: no such file$"):
        read_weight_file(tmp_path / "none.pth")
    with pytest.raises(UserError, match=r": is a folder$"):
        read_weight_file(tmp_path)


def test_a_file_without_tensors_by_name(tmp_path):
    with pytest.raises(UserError, match=r"a.pth: holds a Tensor, not tensors by name"):
        read_weight_file(save(torch.zeros(2), tmp_path / "a.pth"))
    with pytest.raises(UserError, match=r"b.pth: 'epoch' is a int, expected tensors by name"):
        read_weight_file(save({"epoch": 3}, tmp_path / "b.pth"))
    with pytest.raises(UserError, match=r"c.pth: not recognised; it begins with x.weight, and has"):
        weights.load_pretrained(vit(), save({"x.weight": torch.zeros(2)}, tmp_path / "c.pth"))
    with pytest.raises(UserError, match=r"it begins with a, b, c, and has none of encoder\.patch_"):
        weights.load_pretrained(vit(), {name: torch.zeros(2) for name in "abcd"})


@pytest.mark.parametrize("whole", [False, True])
def test_nothing_in_a_file_runs_unless_that_is_asked_for(tmp_path, whole):
    state = published("official", "model_naive_64") if whole else jx_state()
    path = save({"state_dict": state, "h": Harmless()}, tmp_path / "x.pth")
    load = weights.load_setr if whole else weights.load_pretrained
    module = setr("naive", "official") if whole else vit()
    assert load(module, path).notes == (f"read without running {__name__}.Harmless",)
    assert load(module, path, allow_pickle=True).notes == ()


def test_a_report_word_by_word():
    """Numbers become N, last parts come together, each group once."""
    lists = [f"blocks.{i}.{part}" for i in range(2) for part in ("ls1.gamma", "ls1.beta")]
    assert str(Report(
        "vit.pth", "plain ViT", used=["a", "b"], resized={"pos_embed": "4 x 4 -> 6 x 6, bilinear"},
        dropped={"of other layers": [*lists, "cls"]}, missing={"zeros": ["proj.bias"]},
        notes=("one", "two"),
    )).splitlines() == [
        "vit.pth: plain ViT",
        "  used        2",
        "  resized     1  pos_embed: 4 x 4 -> 6 x 6, bilinear",
        "  dropped     5  blocks.N.ls1.{gamma,beta}, cls: of other layers",
        "  missing     1  proj.bias: zeros",
        "  note: one",
        "  note: two",
    ]  # fmt: skip


# ---- plain ViTs ----------------------------------------------------------------------------


@torch.no_grad()
def test_timm_vit_gives_timm_features(tmp_path, spread):
    theirs = spread(timm_vit()).eval()
    path = save(theirs.state_dict(), tmp_path / "vit.pth")
    ours = vit(taps=(1, 3))
    report = weights.load_pretrained(ours, path)
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected = theirs.forward_intermediates(
        image, indices=[1, 3], output_fmt="NLC", intermediates_only=True)
    for a, b in zip(ours(image), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert report.resized == {}
    assert len(report.used) == 4 + 12 * DEPTH
    assert report.dropped == {
        "final norm: every SETR head has its own": ["norm.weight", "norm.bias"],
        "classifies whole images": ["head.weight", "head.bias"],
    }


def jx_state(rows: int = 16) -> dict[str, torch.Tensor]:
    """Keys as in the ``jx_vit`` files, an image classifier with a hidden layer among them."""
    state = {
        "cls_token": (1, 1, DIM), "pos_embed": (1, 1 + rows, DIM),
        "patch_embed.proj.weight": (DIM, 3, 16, 16), "patch_embed.proj.bias": (DIM,),
    }  # fmt: skip
    for i in range(DEPTH):
        for name, shape in {
            "norm1": (DIM,), "attn.qkv": (3 * DIM, DIM), "attn.proj": (DIM, DIM), "norm2": (DIM,),
            "mlp.fc1": (4 * DIM, DIM), "mlp.fc2": (DIM, 4 * DIM),
        }.items():  # fmt: skip
            state |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
    for name, shape in {"norm": (DIM,), "pre_logits.fc": (DIM, DIM), "head": (7, DIM)}.items():
        state |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {name: draw(f"jx/{name}", shape) for name, shape in state.items()}


def test_jx_file_in_the_old_format(tmp_path):
    state = jx_state()
    path = tmp_path / "jx_vit_large_p16_384-b3be5167.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    ours = vit()
    report = weights.load_pretrained(ours, path)
    assert_equal_states(ours.state_dict(), {k: state[k] for k in ours.state_dict()})
    lines = str(report).splitlines()
    assert lines[0] == f"{path}: plain ViT, timm's names"
    assert [line.split()[:2] for line in lines[1:]] == [
        ["used", "52"], ["dropped", "2"], ["dropped", "4"]]  # fmt: skip
    assert lines[3].endswith("pre_logits.fc.{weight,bias}, head.{weight,bias}: "
                             "classifies whole images")


def test_distilled_deit_loses_its_second_row_and_says_so(tmp_path, spread):
    from timm.models.deit import VisionTransformerDistilled

    theirs = spread(VisionTransformerDistilled(
        img_size=64, patch_size=16, embed_dim=DIM, depth=DEPTH, num_heads=HEADS, num_classes=7,
        weight_init="skip")).state_dict()
    path = save({"model": theirs}, tmp_path / "deit.pth")
    same, larger = vit().float(), vit((96, 80)).float()
    report = weights.load_pretrained(same, path)
    rows = theirs["pos_embed"]
    assert rows.shape[1] == 18
    assert torch.equal(same.pos_embed[:, 0], rows[:, 0])
    assert torch.equal(same.pos_embed[:, 1:], rows[:, 2:])
    assert report.resized == {"pos_embed": "distillation row left out"}
    assert {k for names in report.dropped.values() for k in names} == {
        "dist_token", "norm.weight", "norm.bias", "head.weight", "head.bias", "head_dist.weight",
        "head_dist.bias",
    }  # fmt: skip
    report = weights.load_pretrained(larger, path)
    assert report.resized == {
        "pos_embed": "distillation row left out; 4 x 4 -> 6 x 5, bilinear"}
    assert torch.equal(larger.pos_embed, encoder.resize_pos_embed(same.pos_embed, (4, 4), (6, 5)))


def augreg_arrays() -> dict[str, np.ndarray]:
    """A tiny Flax ViT as the AugReg files hold it."""
    d, a = DIM, DIM // HEADS
    found = {
        "cls": (1, 1, d), "embedding/kernel": (16, 16, 3, d), "embedding/bias": (d,),
        "Transformer/posembed_input/pos_embedding": (1, 17, d),
        "Transformer/encoder_norm/scale": (d,), "Transformer/encoder_norm/bias": (d,),
        "head/kernel": (d, 7), "head/bias": (7,),
    }  # fmt: skip
    for i in range(DEPTH):
        block = f"Transformer/encoderblock_{i}"
        for part in ("query", "key", "value"):
            found[f"{block}/MultiHeadDotProductAttention_1/{part}/kernel"] = (d, HEADS, a)
            found[f"{block}/MultiHeadDotProductAttention_1/{part}/bias"] = (HEADS, a)
        found[f"{block}/MultiHeadDotProductAttention_1/out/kernel"] = (HEADS, a, d)
        found[f"{block}/MultiHeadDotProductAttention_1/out/bias"] = (d,)
        for layer in ("LayerNorm_0", "LayerNorm_2"):
            found |= {f"{block}/{layer}/scale": (d,), f"{block}/{layer}/bias": (d,)}
        for layer, shape in (("Dense_0", (d, 4 * d)), ("Dense_1", (4 * d, d))):
            name = f"{block}/MlpBlock_3/{layer}"
            found |= {f"{name}/kernel": shape, f"{name}/bias": shape[1:]}
    # of float32's precision, to which timm rounds a patch embedding before 1.0.31
    return {k: draw(f"flax/{k}", s).float().double().numpy() * 0.5 for k, s in found.items()}


@torch.no_grad()
def test_augreg_as_timm_loads_it(tmp_path):
    from timm.models.vision_transformer import _load_weights

    path = tmp_path / "augreg.npz"
    np.savez(path, **augreg_arrays())
    ours, theirs = vit(), timm_vit().eval()
    _load_weights(theirs, str(path))
    report = weights.load_pretrained(ours, path)
    assert_equal_states(ours.state_dict(), {k: theirs.state_dict()[k] for k in ours.state_dict()})
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = theirs.forward_intermediates(
        image, indices=[3], output_fmt="NLC", intermediates_only=True)
    torch.testing.assert_close(ours(image), expected, rtol=1e-9, atol=1e-9)
    assert "Transformer/encoder_norm/{scale,bias}" in str(report)
    arrays = augreg_arrays()
    lost = "Transformer/encoderblock_2/MultiHeadDotProductAttention_1/value/bias"
    del arrays[lost]
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=f"augreg.npz: has no '{lost}', which belongs to '.*query"):
        weights.load_pretrained(vit(), path)


@pytest.mark.parametrize("case", make_vit2mmseg.CASES)
def test_vit2mmseg_writes_what_the_script_writes(tmp_path, case):
    path = tmp_path / "source.pth"
    make_vit2mmseg.write_source(case, path)
    golden = json.loads(make_vit2mmseg.OUT.read_text())[case]
    converted, report = weights_out.vit2mmseg(read_weight_file(path))
    assert make_vit2mmseg.describe(converted) == golden
    assert "dist_token" in converted if case == "deit" else "pre_logits.fc.weight" in converted
    source = read_weight_file(path).tensors
    dropped = [name for names in report.dropped.values() for name in names]
    assert sorted(report.used + dropped) == sorted(source)
    assert str(report).startswith(f"{path}: plain ViT, timm's names\n")
    save({**source, "blocks.0.ls1.gamma": torch.zeros(8)}, path)
    with pytest.raises(UserError, match=r"'blocks.0.ls1.gamma' \(8,\), which no plain ViT has"):
        weights_out.vit2mmseg(read_weight_file(path))


@pytest.mark.parametrize("distilled", [False, True])
def test_what_vit2mmseg_wrote_loads_as_its_source_does(tmp_path, distilled):
    state = jx_state(16)
    if distilled:
        state |= {"dist_token": draw("dist_token", (1, 1, DIM)), "head_dist.bias": torch.zeros(7)}
        state["pos_embed"] = draw("jx/distilled/pos_embed", (1, 18, DIM))
    source = save(state, tmp_path / "source.pth")
    converted, _ = weights_out.vit2mmseg(read_weight_file(source))
    direct, detour = vit((80, 48)), vit((80, 48))
    weights.load_pretrained(direct, source)
    report = weights.load_pretrained(detour, save(converted, tmp_path / "converted.pth"))
    assert_equal_states(detour.state_dict(), direct.state_dict())
    assert "mmsegmentation's names" in str(report)
    assert ("distillation row" in str(report)) == distilled


@pytest.mark.parametrize("new", [(6, 6), (3, 7), (2, 8)])  # (2, 8): as many rows, another shape
def test_position_tables_are_resized_as_published_or_as_timm_does(tmp_path, new):
    from timm.layers import resample_abs_pos_embed

    state = {k: v.float() for k, v in jx_state(16).items()}
    path, size = save(state, tmp_path / "vit.pth"), (16 * new[0], 16 * new[1])
    table = state["pos_embed"]
    square = table[:, 1:].reshape(1, 4, 4, DIM).permute(0, 3, 1, 2)
    bilinear = F.interpolate(square, new, mode="bilinear", align_corners=False)
    expected = {
        "bilinear": torch.cat(
            [table[:, :1], bilinear.permute(0, 2, 3, 1).reshape(1, -1, DIM)], dim=1),
        "bicubic": resample_abs_pos_embed(table, list(new), old_size=[4, 4]),
    }
    for mode, rows in expected.items():
        ours = vit(size).float()
        report = weights.load_pretrained(ours, path, pos_embed=mode)
        torch.testing.assert_close(ours.pos_embed, rows, rtol=1e-6, atol=1e-6)
        assert report.resized == {"pos_embed": f"4 x 4 -> {new[0]} x {new[1]}, {mode}"}
    assert (expected["bilinear"] - expected["bicubic"]).abs().max() > 0.1
    assert resample_pos_embed(table, (4, 4), (4, 4), "bicubic") is table


def test_a_table_that_is_no_square_needs_its_size(tmp_path):
    path = save(jx_state(15), tmp_path / "vit.pth")
    with pytest.raises(UserError, match=r"vit.pth: 'pos_embed' has 15 rows besides the class "
                                        r"token's, not 4 x 4; give the size"):
        weights.load_pretrained(vit(), path)
    weights.load_pretrained(vit((48, 80)), path)  # its own grid


@pytest.mark.parametrize("kind", ["timm", "deit"])
def test_a_table_of_one_row_is_spread_and_one_of_another_form_is_named(kind):
    extra = kind == "deit"
    state = jx_state(1 + extra) | ({"dist_token": torch.zeros(1, 1, DIM)} if extra else {})
    model, table = vit(), state["pos_embed"]
    report = weights.load_pretrained(model, state)
    assert report.resized["pos_embed"].endswith("1 x 1 -> 4 x 4, bilinear")
    spread = table[:, -1:].expand(1, 16, DIM)
    torch.testing.assert_close(model.pos_embed.detach()[:, 1:], spread, rtol=1e-12, atol=1e-12)
    for shape in ((17, DIM), (1, 1, DIM)):
        with pytest.raises(UserError) as error:
            weights.load_pretrained(model, {**state, "pos_embed": torch.zeros(shape)})
        assert f"'pos_embed' is {shape}, the model needs (1, 17, {DIM}); " in str(error.value)
    del state["pos_embed"]
    with pytest.raises(UserError, match=r"has no 'pos_embed' \(1, 17, 32\), which the model needs"):
        weights.load_pretrained(model, state)


# ---- whole SETRs ---------------------------------------------------------------------------


def published(dialect: str, case: str) -> dict[str, torch.Tensor]:
    """A published state dict: the keys and shapes of the program, the values drawn by name."""
    state = {}
    for name, shape in KEYS[dialect][case].items():
        state[name] = draw(f"{case}/{name}", tuple(shape))
        if name.endswith("running_var"):
            state[name.replace("running_var", "num_batches_tracked")] = torch.tensor(0)
    return state


@pytest.mark.parametrize("kind", HEAD_NAMES)
@torch.no_grad()
def test_mmseg_checkpoints_compute_what_mmsegmentation_does(tmp_path, kind):
    case = f"model_{kind}"
    state = published("mmseg", case)
    path = save({"meta": {}, "state_dict": state}, tmp_path / "setr.pth")
    model = setr(kind, "mmseg", img_size=IMAGES["eval"])
    report = weights.load_setr(model, path)
    assert sorted(report.used) == sorted(state)
    for what in ("eval", "resized"):
        image = draw(f"{case}/{what}/image", (1, 3, *IMAGES[what]))
        assert_same(model.logits(image), "mmseg", f"{case}/{what}")
    assert_training_same(model, case, "mmseg", IMAGES["eval"])


@pytest.mark.parametrize("kind", HEAD_NAMES)
@torch.no_grad()
def test_official_checkpoints_compute_what_the_authors_code_does(tmp_path, kind):
    side = SQUARES[0]
    case = f"model_{kind}_{side}"
    state = published("official", case)
    path = save({"meta": {}, "state_dict": state, "optimizer": {"lr": 0.1}}, tmp_path / "setr.pth")
    model = setr(kind, "official", img_size=(side, side))
    report = weights.load_setr(model, path)
    unused = [name for names in report.dropped.values() for name in names]
    assert unused
    assert all(".conv_seg." in name for name in unused)
    assert sorted(report.used + unused) == sorted(state)
    image = draw(f"{case}/eval/image", (1, 3, side, side))
    assert_same(model.logits(image), "official", f"{case}/eval")
    assert_training_same(model, case, "official", (side, side))


WRITERS = {"mmseg": weights_out.to_mmseg, "official": weights_out.to_official}


@pytest.mark.parametrize(
    ("dialect", "size"), [("official", (64, 64)), ("mmseg", (64, 64)), ("mmseg", (48, 80))])
@pytest.mark.parametrize("head", HEAD_NAMES)
def test_round_trips_are_identities(tmp_path, spread, dialect, head, size):
    model = spread(setr(head, dialect, img_size=size))
    there = WRITERS[dialect](model.state_dict(), setr_config(head, dialect, img_size=size))
    back = setr(head, dialect, img_size=size)
    weights.load_setr(back, save(there, tmp_path / "there.pth"), grid=back.encoder.grid)
    assert_equal_states(back.state_dict(), model.state_dict())
    case = f"model_{head}" if dialect == "mmseg" else f"model_{head}_64"
    expected = {k for k in KEYS[dialect][case] if dialect == "mmseg" or ".conv_seg." not in k}
    assert {k for k in there if "num_batches" not in k} == expected


def test_a_file_that_tells_its_size_needs_no_grid(tmp_path, spread):
    """6 x 8 patches, though 48 + 1 rows could be others."""
    model = spread(setr("naive", "mmseg", img_size=(96, 128)))
    state = weights_out.to_mmseg(model.state_dict(), setr_config("naive", "mmseg"))
    for size in ((96, 128), (90, 120)):  # padded to whole patches
        told = {"state_dict": state, "meta": {"setr_lite": {"img_size": size}}}
        back = setr("naive", "mmseg", img_size=(96, 128))
        weights.load_setr(back, save(told, tmp_path / "told.pth"))
        assert_equal_states(back.state_dict(), model.state_dict())


@pytest.mark.parametrize("head", HEAD_NAMES)
@torch.no_grad()
def test_encoder_to_timm_and_back(tmp_path, spread, head):
    model = spread(setr(head, "official", img_size=(48, 80)))
    there = weights_out.to_timm(model.state_dict())
    theirs = timm_vit((48, 80), num_classes=0, final_norm=False, global_pool="").eval()
    theirs.load_state_dict(there)
    image = torch.randn(1, 3, 48, 80, dtype=torch.float64)
    if head != "mla":  # which drops the class token before the blocks
        tokens = model.encoder(image)[-1]
        torch.testing.assert_close(theirs(image)[:, 1:], tokens, rtol=1e-9, atol=1e-9)
    in_mmseg = weights_out.to_mmseg_vit(model.state_dict())
    for name, state in {"timm": there, "mmseg": in_mmseg}.items():
        back = vit((48, 80))
        weights.load_pretrained(back, save(state, tmp_path / f"{name}.pth"))
        assert_equal_states(back.state_dict(), model.encoder.state_dict())


@pytest.mark.parametrize("head", ["naive", "pup"])
@torch.no_grad()
def test_folding_the_bias_changes_nothing(spread, head):
    model = spread(setr(head, "official", aux=False))
    bare = setr(head, "official", aux=False)
    for conv in bare.head.convs:
        conv[0].bias = None  # the same function without the parameter
    folded = weights_out.fold_bias(model.state_dict())
    assert len(model.state_dict()) - len(folded) == len(bare.head.convs)
    bare.load_state_dict(folded)
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for training in (False, True):
        ours, theirs = bare.train(training)(image).logits, model.train(training)(image).logits
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    means = [conv[1].running_mean for m in (model, bare) for conv in m.head.convs]
    assert not torch.equal(means[0], means[len(means) // 2])  # the difference stays in the mean


@torch.no_grad()
def test_pup_goes_from_dialect_to_dialect(spread, tmp_path):
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    official = spread(setr("pup", "official", aux=False))
    there = weights_out.to_mmseg(
        official.state_dict(), setr_config("pup", "official", aux=False))
    mmseg = setr("pup", "mmseg", aux=False, channels=256)
    weights.load_setr(mmseg, save(there, tmp_path / "mmseg.pth"))
    config = setr_config("pup", "mmseg", aux=False, channels=256)
    back = setr("pup", "official", aux=False)
    weights.load_setr(back, save(
        weights_out.to_official(mmseg.state_dict(), config), tmp_path / "official.pth"))
    for model in (mmseg, back):
        torch.testing.assert_close(
            model.logits(image), official.logits(image), rtol=1e-10, atol=1e-12)


INEXACT = [
    ("mla", "official", "mmseg", {}, "no exact conversion: the authors' SETR-MLA classifies with"),
    ("mla", "mmseg", "official", {}, "no exact conversion: mmsegmentation's SETR-MLA classifies"),
    ("naive", "official", "mmseg", {}, "only with up_scale=1 in the decode head and the auxiliary"),
    ("naive", "official", "mmseg", {"aux": False}, "only with up_scale=1 in the decode head;"),
    ("naive", "mmseg", "official", {"aux_units": 1, "channels": 256}, "only with num_upsampe_lay"),
    ("naive", "mmseg", "official", {}, "auxiliary heads have two units each, the authors' have o"),
    ("pup", "official", "mmseg", {}, "num_convs=1 in the auxiliary heads, and a fourth.*--no-aux"),
    ("pup", "mmseg", "official", {}, "auxiliary heads have two units each.* out with --no-aux"),
    ("naive", "official", "official", {"channels": 8}, "heads are 8 channels wide, the authors' "),
    ("mla", "official", "official", {"img_size": (48, 80)}, "made for 48 x 80, the authors' code"),
    ("pup", "official", "official", {"encoder": "toy", "taps": None}, "SETR-PUP has four units"),
]  # fmt: skip


@pytest.mark.parametrize(("head", "dialect", "to", "changes", "message"), INEXACT)
def test_what_is_not_exact_says_so(head, dialect, to, changes, message):
    config = setr_config(head, dialect, **changes)
    state = SETR.from_config(config).state_dict()
    with pytest.raises(UserError, match=message):
        WRITERS[to](state, config)
    if "only with" in message or "num_convs" in message:
        WRITERS[to](state, config, changed_config=True)


def test_another_encoder_has_no_counterpart():
    with pytest.raises(UserError, match=r"'vit.blocks.0.weight' has no counterpart"):
        weights_out.to_timm({"encoder.vit.blocks.0.weight": torch.zeros(1)})


# ---- mistakes ------------------------------------------------------------------------------


def sources(tmp_path: Path) -> dict:
    """A good file of every source: reader, model, state, a key of it."""
    flax = tmp_path / "x.npz"
    np.savez(flax, **augreg_arrays())
    deit = jx_state(17) | {"dist_token": torch.zeros(1, 1, DIM), "head_dist.bias": torch.zeros(7)}
    mmseg_vit, _ = weights_out.vit2mmseg(WeightFile(Path("x"), jx_state()))
    return {
        "timm": (weights.from_timm, vit(), jx_state(), "blocks.1.attn.qkv.weight"),
        "deit": (weights.from_deit, vit(), deit, "blocks.1.attn.qkv.weight"),
        "mmseg_vit": (
            weights.from_mmseg_vit, vit(), mmseg_vit, "layers.1.attn.attn.in_proj_weight"),
        "augreg": (
            weights.from_augreg, vit(), read_weight_file(flax).tensors,
            "Transformer/encoderblock_1/MlpBlock_3/Dense_0/kernel"),
        "official naive": (
            weights.from_official, setr("naive", "official"),
            published("official", "model_naive_64"), "auxiliary_head.1.syncbn_fc_0.running_mean"),
        "official pup": (
            weights.from_official, setr("pup", "official"),
            published("official", "model_pup_64"), "decode_head.conv_2.weight"),
        "official mla": (
            weights.from_official, setr("mla", "official"),
            published("official", "model_mla_64"), "backbone.mla.mla_p3_1x1.0.weight"),
        "mmseg naive": (
            weights.from_mmseg, setr("naive", "mmseg", img_size=(64, 96)),
            published("mmseg", "model_naive"), "auxiliary_head.1.up_convs.1.0.conv.weight"),
        "mmseg pup": (
            weights.from_mmseg, setr("pup", "mmseg", img_size=(64, 96)),
            published("mmseg", "model_pup"), "decode_head.up_convs.2.0.bn.running_var"),
        "mmseg mla": (
            weights.from_mmseg, setr("mla", "mmseg", img_size=(64, 96)),
            published("mmseg", "model_mla"), "neck.mla.feat_extract.2.conv.weight"),
    }  # fmt: skip


SOURCES = (
    "timm", "deit", "mmseg_vit", "augreg", "official naive", "official pup", "official mla",
    "mmseg naive", "mmseg pup", "mmseg mla",
)  # fmt: skip


@pytest.mark.parametrize("source", SOURCES)
def test_a_renamed_a_reshaped_and_an_extra_tensor_are_named(tmp_path, source):
    reader, model, state, key = sources(tmp_path)[source]
    reader(WeightFile(Path("good.pth"), state), model)
    shape = ", ".join(map(str, state[key].shape)) + ("," if state[key].ndim == 1 else "")

    def message(changed: dict[str, torch.Tensor]) -> str:
        with pytest.raises(UserError) as error:
            reader(WeightFile(Path("bad.pth"), changed), model)
        return str(error.value)

    wrong = key[:-1] + "_"
    renamed = {wrong if name == key else name: value for name, value in state.items()}
    assert message(renamed) == (
        f"bad.pth: has no {key!r} ({shape}), which the model needs; nearest is {wrong!r} ({shape})")
    wider = torch.zeros(len(state[key]) + 1, *state[key].shape[1:])
    other = ", ".join(map(str, wider.shape)) + ("," if wider.ndim == 1 else "")
    assert message({**state, key: wider}) == (
        f"bad.pth: {key!r} is ({other}), the model needs ({shape}); build the model in the size "
        "of the file")
    kind = str(model.state_dict()[next(iter(model.state_dict()))].dtype).removeprefix("torch.")
    assert message({**state, key: torch.zeros_like(state[key], dtype=torch.int64)}) == (
        f"bad.pth: {key!r} is int64, the model needs {kind}; other kinds of numbers are not "
        "converted, take the file in floating point")
    text = message({**state, wrong: wider})
    assert text.startswith(f"bad.pth: has {wrong!r} ({other}), for which the model has no place")
    assert "nearest is " in text
    del state[key]
    assert message(state).startswith(f"bad.pth: has no {key!r} ({shape}), which the model needs")


def test_only_four_equal_blocks_of_a_classifier_change_places():
    """Deep first there, shallow first here; what is no such classifier is left for the account."""
    name = "decode_head.conv_seg.weight"

    def reverse(*shape: int) -> list:
        return reverse_classifier({name: torch.arange(math.prod(shape)).view(shape)})[name].tolist()

    assert reverse(1, 8, 1, 1) == [[[[6]], [[7]], [[4]], [[5]], [[2]], [[3]], [[0]], [[1]]]]
    assert reverse(1, 6, 1, 1) == [[[[i]] for i in range(6)]]
    assert reverse(1, 8) == [[*range(8)]]
    assert reverse_classifier({}) == {}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_file_without_a_head_that_is_known(dialect):
    name = "decode_head.conv_0.weight" if dialect == "official" else (
        "decode_head.up_convs.0.0.conv.weight")  # fmt: skip
    case = "model_naive_64" if dialect == "official" else "model_naive"
    state = published(dialect, case)
    flat = {**state, name: state[name].flatten(1)}
    for bad in ({k: v for k, v in state.items() if k != name}, flat):
        with pytest.raises(UserError, match=f"no head recognised; expected .* or {name}$"):
            weights.load_setr(setr("naive", dialect), bad)


def test_a_deeper_file_is_counted(tmp_path):
    with pytest.raises(UserError, match=r"has 'blocks.3.norm1.weight' \(32,\), for which the model "
                                        r"has no place \(plain ViT.*\(and 11 more like that\)"):
        weights.load_pretrained(vit(depth=3), save(jx_state(), tmp_path / "deep.pth"))


def test_a_vit_with_other_layers_is_sent_to_timm(tmp_path):
    gammas = {f"blocks.{i}.ls1.gamma": torch.zeros(DIM) for i in range(2)}
    with pytest.raises(UserError, match=r"has 'blocks.0.ls1.gamma' \(32,\), .* runs behind SETR's "
                                        r"heads as model.encoder=timm:NAME \(and 1 more"):
        weights.load_pretrained(vit(), save(jx_state() | gammas, tmp_path / "dino.pth"))


def test_a_lost_patch_bias_is_explained_and_never_guessed(tmp_path):
    state = published("mmseg", "model_naive")
    bias = state.pop("backbone.patch_embed.projection.bias")
    path, model = save(state, tmp_path / "setr.pth"), setr("naive", "mmseg", img_size=(64, 96))
    with pytest.raises(UserError, match=r"setr.pth: has no 'backbone.patch_embed.projection.bias'. "
                                        r"mmsegmentation 1.x .* drops it .*, with a line in its "
                                        r"log: .*--zero-patch-bias"):
        weights.load_setr(model, path)
    with pytest.raises(UserError, match="--zero-patch-bias"):
        weights.from_mmseg(WeightFile(path, state), model)
    report = weights.load_setr(model, path, allow_missing_patch_bias=True)
    assert torch.equal(model.encoder.patch_embed.proj.bias, torch.zeros_like(bias))
    assert report.missing == {"zeros, as allowed": ["backbone.patch_embed.projection.bias"]}
    assert "missing     1  backbone.patch_embed.projection.bias: zeros, as allowed" in str(report)
    assert sorted(report.used) == sorted(state)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_wrong_model_for_a_file(tmp_path, dialect):
    case = "model_pup" if dialect == "mmseg" else "model_pup_64"
    path = save(published(dialect, case), tmp_path / "pup.pth")
    size = IMAGES["eval"] if dialect == "mmseg" else (64, 64)
    with pytest.raises(UserError, match=r"pup.pth: its head is pup; build the model with head='pu"):
        weights.load_setr(setr("naive", dialect), path)
    other = "official" if dialect == "mmseg" else "mmseg"
    with pytest.raises(UserError, match=rf"pup.pth: build the model with dialect='{dialect}'"):
        weights.load_setr(setr("pup", other), path)
    with pytest.raises(UserError, match=r"pup.pth: a whole SETR .*; expected a plain ViT"):
        weights.load_pretrained(vit(), path)
    report = weights.load_setr(setr("pup", dialect, aux=False, img_size=size), path)
    (names,) = (n for why, n in report.dropped.items() if why.startswith("auxiliary heads"))
    assert all(name.startswith("auxiliary_head.") for name in names)
    plain = save(jx_state(), tmp_path / "vit.pth")
    with pytest.raises(UserError, match=r"vit.pth: no whole SETR of the authors or mmsegmentation"):
        weights.load_setr(setr("pup", dialect), plain)


def test_reports_account_for_every_tensor(tmp_path):
    for reader, model, state, _ in sources(tmp_path).values():
        _, report = reader(WeightFile(Path("x"), state), model)
        dropped = [name for names in report.dropped.values() for name in names]
        assert sorted([*report.used, *report.resized, *dropped]) == sorted(state)
        counts = [int(line.split()[1]) for line in str(report).splitlines()[1:]]
        assert sum(counts) == len(state) > math.prod((DEPTH, 6))
