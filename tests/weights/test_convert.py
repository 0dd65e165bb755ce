"""`setr-lite convert`: what is recognised, what is written, and the exit codes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from golden import make_vit2mmseg
from golden.make_heads import CLASSES, DEPTH, DIM, HEADS
from test_read import augreg_arrays, jx_state, published, save, setr_config

from setr_lite import checkpoint, encoder, weights
from setr_lite.cli import main
from setr_lite.config import ModelConfig
from setr_lite.datasets import ADE20K, Cityscapes, PascalContext
from setr_lite.errors import UserError
from setr_lite.model import SETR
from setr_lite.weights import write as weights_out
from setr_lite.weights.convert import convert, identify
from setr_lite.weights.files import read_weight_file

CASES = [
    (f"model_{head}" + ("_64" if dialect == "official" else ""), head, dialect)
    for head in ("naive", "pup", "mla")
    for dialect in ("official", "mmseg")
]
TAPS = "0,1,2,3"  # four blocks are too few for the published rule
GOLDEN = ["--taps", TAPS, "--img-size", "64x96"]  # of mmsegmentation's cases: no square


@pytest.fixture(autouse=True)
def _golden_sizes(monkeypatch):
    sizes = {"patch_size": 16, "embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS}
    monkeypatch.setitem(encoder.PRESETS, "golden", sizes)


def run(capsys, *words) -> tuple[int, str, str]:
    code = main(["convert", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(("case", "head", "dialect"), CASES)
@torch.no_grad()
def test_a_published_checkpoint_becomes_a_folder_that_loads(tmp_path, capsys, case, head, dialect):
    path = save({"meta": {}, "state_dict": published(dialect, case)}, tmp_path / "x.pth")
    options = GOLDEN if dialect == "mmseg" else GOLDEN[:2]
    code, out, err = run(capsys, path, tmp_path / "folder", *options)
    assert (code, err) == (0, "")
    whose = {"official": "the authors' code", "mmseg": "mmsegmentation"}[dialect]
    name = {"naive": "Naive", "pup": "PUP", "mla": "MLA"}[head]
    assert f"SETR-{name} of {whose} (dialect {dialect}), with auxiliary heads, 5 classes: " in out
    grid = "4 x 4 for images of 64 x 64" if dialect == "official" else "4 x 6 for images of 64 x 96"
    assert f"golden (depth 4, width 32), grid {grid}" in out
    assert "no class names are known, data.* and eval.* are defaults" in out
    loaded = SETR.from_pretrained(tmp_path / "folder")
    size = (64, 64) if dialect == "official" else (64, 96)
    units = 2 if (head, dialect) == ("naive", "mmseg") else None
    config = setr_config(head, dialect, img_size=size, aux_units=units)
    assert loaded.config.model == config
    assert loaded.config.recipe == ""
    assert loaded.config.eval.window == loaded.config.data.crop_size == size
    model = SETR.from_config(config).eval()
    weights.load_setr(model, path)
    image = torch.randn(1, 3, *size)
    assert torch.equal(loaded.logits(image), model.logits(image))
    scores = loaded.train()(image.repeat(2, 1, 1, 1)).aux_logits
    assert len(scores) == (4 if head == "mla" or case == "model_pup_64" else 3)


@pytest.mark.parametrize("head", ["naive", "pup", "mla"])
def test_to_mmseg_and_back_through_files(tmp_path, capsys, head):
    first = save(published("mmseg", f"model_{head}"), tmp_path / "first.pth")
    assert main(["convert", str(first), str(tmp_path / "a"), *GOLDEN]) == 0
    assert main(["convert", str(tmp_path / "a"), str(tmp_path / "b.pth"), "--to", "mmseg"]) == 0
    assert "note: mmsegmentation 1.x needs patch_bias=True" in capsys.readouterr().out
    file = read_weight_file(tmp_path / "b.pth")
    state = file.tensors
    told = {"img_size": [64, 96], "taps": [0, 1, 2, 3]}
    assert file.meta == {"setr_lite": told}  # an empty list of classes would be the truth there
    rounded = {k: v.to(state[k].dtype) for k, v in published("mmseg", f"model_{head}").items()}
    assert state.keys() == rounded.keys()
    assert all(torch.equal(state[k], rounded[k]) for k in state)


def test_a_folder_or_file_goes_to_timm(tmp_path, capsys):
    path = save(published("official", "model_pup_64"), tmp_path / "x.pth")
    code, out, _ = run(
        capsys, path, tmp_path / "vit.safetensors", "--to", "timm", "--taps", TAPS)
    assert code == 0
    assert "wrote" in out
    assert "timm builds it with final_norm=False, num_classes=0" in out
    state = read_weight_file(tmp_path / "vit.safetensors").tensors
    ours = encoder.VisionTransformer.from_preset("golden", img_size=(64, 64))
    weights.load_pretrained(ours, tmp_path / "vit.safetensors")
    assert state.keys() == ours.state_dict().keys()
    assert torch.equal(
        state["pos_embed"], published("official", "model_pup_64")["backbone.pos_embed"].float())


@pytest.mark.parametrize("to", ["timm", "mmseg"])
@pytest.mark.parametrize("kind", ["timm", "augreg"])
def test_a_plain_vit_has_no_head_but_can_be_renamed(tmp_path, capsys, kind, to):
    path = tmp_path / ("vit.npz" if kind == "augreg" else "vit.pth")
    if kind == "augreg":
        np.savez(path, **augreg_arrays())
    else:
        save(jx_state(), path)
    code, _, err = run(capsys, path, tmp_path / "folder")
    assert code == 2
    assert "It has no decoder: train one with model.pretrained=" in err
    assert not (tmp_path / "folder").exists()
    code, out, _ = run(capsys, path, tmp_path / "out.pth", "--to", to)
    assert code == 0
    assert f"a plain ViT ({kind}): golden (depth 4, width 32), grid 4 x 4" in out
    direct, detour = (encoder.VisionTransformer.from_preset("golden", img_size=(80, 48))
                      for _ in range(2))
    weights.load_pretrained(direct, path)
    weights.load_pretrained(detour, tmp_path / "out.pth")
    assert torch.equal(direct.pos_embed, detour.pos_embed)
    assert torch.equal(direct.blocks[2].attn.qkv.weight, detour.blocks[2].attn.qkv.weight)


@pytest.mark.parametrize("case", make_vit2mmseg.CASES)
def test_vit2mmseg_takes_the_arguments_of_the_script(tmp_path, capsys, case):
    make_vit2mmseg.write_source(case, tmp_path / "pretrain.pth")
    store = tmp_path / "new" / "store.pth"
    code, out, _ = run(capsys, "vit2mmseg", tmp_path / "pretrain.pth", store)
    assert code == 0
    golden = json.loads(make_vit2mmseg.OUT.read_text())[case]
    assert make_vit2mmseg.describe(torch.load(store, weights_only=True)) == golden
    assert f"wrote {store}: {len(golden)} tensors" in out


# ---- what the keys tell --------------------------------------------------------------------


def exported(tmp_path, config: ModelConfig, meta=None):
    writer = {"mmseg": weights_out.to_mmseg, "official": weights_out.to_official}[config.dialect]
    state = writer(SETR.from_config(config).state_dict(), config)
    return save({"meta": meta or {}, "state_dict": state}, tmp_path / "x.pth")


def small(dialect="mmseg", head="naive", **changes) -> ModelConfig:
    settings = {"channels": 8, "aux_units": 1 if (head, dialect) == ("naive", "mmseg") else None}
    return setr_config(head, dialect, **{**settings, **changes})


@pytest.mark.parametrize(
    ("changes", "classes", "data"),
    [
        ({"num_classes": 150}, ADE20K.classes, "ade20k"),
        ({"num_classes": 19}, Cityscapes.classes, "cityscapes"),
        ({"num_classes": 60}, PascalContext.classes, "pascal_context"),
        ({"num_classes": 59}, PascalContext.classes[1:], "ade20k"),  # no data set has them
        ({"num_classes": 11}, (), "ade20k"),
    ],
)
def test_classes_and_settings_by_their_number(tmp_path, capsys, changes, classes, data):
    path = exported(tmp_path, small(**changes))
    code, out, _ = run(capsys, path, tmp_path / "folder", "--taps", TAPS)
    assert code == 0
    info = checkpoint.read_info(tmp_path / "folder")
    assert tuple(info["classes"]) == tuple(classes)
    assert len(info["palette"]) == len(classes)
    assert (f"classes {classes[0]} .. {classes[-1]}" if classes else "no class names") in out
    config = checkpoint.read_config(tmp_path / "folder")
    assert config.data.name == data
    assert config.data.root == ""
    known = changes["num_classes"] in (19, 60, 150)
    assert (f"data and windows as for {data}" if known else "data.* and eval.* are defa") in out
    assert config.data.crop_size == config.eval.window == (64, 64)
    assert config.eval.stride == (42, 42)


def test_a_published_model_gets_the_windows_of_its_recipe():
    from setr_lite.recipes import RECIPES
    from setr_lite.weights.convert import _run_config

    assert len(RECIPES) > 6
    for make in RECIPES.values():
        recipe = make()
        if recipe.model.num_classes in (19, 60, 150):
            found = _run_config(recipe.model)
            assert (found.data.name, found.data.base_size, found.data.crop_size) == (
                recipe.data.name, recipe.data.base_size, recipe.data.crop_size)
            assert found.eval == recipe.eval
            assert found.recipe == ""


def test_names_in_the_file_count_unless_they_are_the_data_sets_in_disorder(tmp_path):
    own = [f"thing {i}" for i in range(19)]
    cases = [
        ({"CLASSES": own, "PALETTE": [[i, 0, 0] for i in range(19)]}, 19, own),
        ({"dataset_meta": {"classes": own, "palette": None}}, 19, own),
        ({"CLASSES": sorted(PascalContext.classes)[::-1]}, 60, list(PascalContext.classes)),
        ({"CLASSES": [*ADE20K.classes[:-1], "flag "]}, 150, list(ADE20K.classes)),
        ({"CLASSES": own}, 5, []),
        ({"CLASSES": own[:5]}, 5, own[:5]),
    ]
    for meta, count, expected in cases:
        path = exported(tmp_path, small(num_classes=count), meta)
        convert(path, tmp_path / "folder", taps=(0, 1, 2, 3))
        info = checkpoint.read_info(tmp_path / "folder")
        assert info["classes"] == expected
    convert(exported(tmp_path, small(num_classes=19), cases[0][0]), tmp_path / "folder",
            taps=(0, 1, 2, 3))
    assert checkpoint.read_info(tmp_path / "folder")["palette"] == cases[0][0]["PALETTE"]


def test_names_and_colours_go_along(tmp_path):
    convert(exported(tmp_path, small(num_classes=19)), tmp_path / "folder", taps=(0, 1, 2, 3))
    convert(tmp_path / "folder", tmp_path / "y.pth", to="mmseg")
    meta = read_weight_file(tmp_path / "y.pth").meta
    assert tuple(meta["CLASSES"]) == Cityscapes.classes
    assert meta["PALETTE"] == Cityscapes.palette.tolist()


def test_depth_twelve_naive_reads_the_quarters_as_the_authors_config_says(tmp_path, monkeypatch):
    sizes = {"patch_size": 16, "embed_dim": DIM, "depth": 12, "num_heads": HEADS}
    monkeypatch.setitem(encoder.PRESETS, "golden", sizes)
    config = small("official", channels=256, taps=None)
    assert identify(exported(tmp_path, config)).model.taps == (2, 5, 8, 11)
    assert identify(exported(tmp_path, small(taps=None))).model.taps is None
    found = identify(exported(tmp_path, config), taps=(1, 2, 3, 4))
    assert found.model == replace(config, taps=(1, 2, 3, 4))


def test_a_checkpoint_without_auxiliary_heads(tmp_path):
    path = exported(tmp_path, small(aux=False, aux_units=None))
    assert identify(path).model == small(aux=False, aux_units=None, taps=None)
    assert "without auxiliary heads" in str(identify(path))


# ---- mistakes end with exit code 2 and one line --------------------------------------------


MISTAKES = [
    ((), r"x.pth: its position table has 24 rows, which is no square; .*--img-size HEIGHTxWIDTH"),
    (("--img-size", "64x80", "--taps", TAPS), r"'backbone.pos_embed' has 24 rows .*not 4 x 5"),
    (("--img-size", "64x96"), r"an encoder of depth 4 has no four blocks for naive"),
    ((*GOLDEN, "--to", "mmsg"), r"no program 'mmsg' to convert to; did you mean 'mmseg'\?"),
    ((*GOLDEN, "--to", "official"), r"no exact conversion: its auxiliary heads have two units"),
    (("extra",), r"one argument too many: extra; give SOURCE OUT"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), MISTAKES)
def test_mistakes(tmp_path, capsys, options, message):
    path = save(published("mmseg", "model_naive"), tmp_path / "x.pth")
    code, out, err = run(capsys, path, tmp_path / "out", *options)
    assert (code, out) == (2, "")
    assert err.startswith("setr-lite convert: ")
    assert len(err.splitlines()) == 1
    with pytest.raises(UserError, match=message):
        raise UserError(err)
    assert not (tmp_path / "out").exists()


def test_dialects_that_differ_stop_unless_the_config_may_change(tmp_path, capsys):
    path = save(published("official", "model_naive_64"), tmp_path / "x.pth")
    words = (path, tmp_path / "y.pth", "--taps", TAPS, "--to", "mmseg")
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "not exact under the config that mmsegmentation published, only with up_scale=1" in err
    code, out, _ = run(capsys, *words, "--changed-config")
    assert code == 0
    assert "note: up_scale=1 in the decode head and the auxiliary heads" in out
    path = save(published("official", "model_mla_64"), tmp_path / "x.pth")
    code, _, err = run(capsys, *words, "--changed-config")
    assert code == 2
    assert "no exact conversion: the authors' SETR-MLA" in err
    path = save(published("official", "model_pup_64"), tmp_path / "x.pth")
    code, out, _ = run(capsys, *words, "--no-aux")
    assert code == 0
    assert "auxiliary heads, used in training only; this model has none" in out
    state = read_weight_file(tmp_path / "y.pth").tensors
    assert [name for name in state if "aux" in name or name.endswith("conv.bias")] == []


def test_a_lost_patch_bias(tmp_path, capsys):
    state = published("mmseg", "model_mla")
    del state["backbone.patch_embed.projection.bias"]
    path = save(state, tmp_path / "x.pth")
    code, _, err = run(capsys, path, tmp_path / "out", *GOLDEN)
    assert code == 2
    assert "mmsegmentation 1.x builds its ViT without this bias" in err
    code, out, _ = run(capsys, path, tmp_path / "out", *GOLDEN, "--zero-patch-bias")
    assert code == 0
    assert "missing     1  backbone.patch_embed.projection.bias: zeros, as allowed" in out


def test_other_heads_and_sizes(tmp_path):
    state = published("official", "model_pup_64")
    three = {k: v for k, v in state.items() if not k.startswith("auxiliary_head.3.")}
    path = save(three, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x.pth: has 3 auxiliary heads, published are 4; --no-aux"):
        identify(path, taps=(0, 1, 2, 3))
    assert identify(path, taps=(0, 1, 2, 3), aux=False).model.num_classes == CLASSES
    with pytest.raises(UserError, match=r"has no 'decode_head.conv_4.weight'; nearest is 'decode"):
        identify(save({k: v for k, v in state.items() if "conv_4" not in k}, path))
    with pytest.raises(UserError, match=r"x.pth: a SETR \(official\) with none of the heads Naive"):
        identify(save({k: v for k, v in state.items() if "decode_head" not in k}, path))
    shallow = {k: v for k, v in state.items() if "blocks.3." not in k}
    with pytest.raises(UserError, match=r"an encoder of width 32, depth 3 and patch size 16 is no "
                                        r"preset.*--num-heads N .*timm:NAME"):
        identify(save(shallow, path))


def test_an_encoder_that_is_no_preset(tmp_path, capsys, monkeypatch):
    path = save(published("official", "model_pup_64"), tmp_path / "x.pth")
    assert run(capsys, path, tmp_path / "preset", "--taps", TAPS)[0] == 0
    monkeypatch.delitem(encoder.PRESETS, "golden")
    code, out, err = run(
        capsys, path, tmp_path / "own", "--taps", TAPS, "--num-heads", str(HEADS))
    assert (code, err) == (0, "")
    with pytest.raises(UserError, match="embed_dim 32 is not a multiple of num_heads 5"):
        convert(path, tmp_path / "out", num_heads=5, taps=(0, 1, 2, 3))
    assert "an encoder of its own (depth 4, width 32), grid 4 x 4 for images of 64 x 64" in out
    loaded = SETR.from_pretrained(tmp_path / "own")
    own = loaded.config.model
    assert (own.embed_dim, own.depth, own.num_heads, own.mlp_ratio) == (DIM, DEPTH, HEADS, 4)
    monkeypatch.setitem(encoder.PRESETS, "golden", {
        "patch_size": 16, "embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS})  # fmt: skip
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted = SETR.from_pretrained(tmp_path / "preset").logits(image)
        assert torch.equal(loaded.logits(image), wanted)


def test_own_checkpoints(tmp_path, capsys):
    convert(exported(tmp_path, small("mmseg")), tmp_path / "folder", taps=(0, 1, 2, 3))
    code, _, err = run(capsys, tmp_path / "folder", tmp_path / "y")
    assert code == 2
    assert "is a checkpoint of this program already; give --to PROGRAM" in err
    code, _, err = run(capsys, tmp_path / "folder" / "model.safetensors", tmp_path / "y")
    assert code == 2
    assert "is part of a checkpoint of this program; give its folder" in err


def test_a_target_that_cannot_be_written(tmp_path, capsys):
    path = save(published("official", "model_pup_64"), tmp_path / "x.pth")
    (tmp_path / "file").write_text("in the way")
    code, _, err = run(
        capsys, path, tmp_path / "file" / "y.pth", "--to", "timm", "--taps", TAPS)
    assert code == 2
    assert "could not write" in err


def test_nothing_that_is_read_or_lies_there_is_written_over(tmp_path, capsys):
    path = exported(tmp_path, small("official", channels=256))
    before = path.read_bytes()
    taps = ("--taps", TAPS)
    for words in ((path, path, *taps, "--to", "timm"), (path, tmp_path, *taps)):
        code, _, err = run(capsys, *words)
        assert code == 2
        assert "which is read here" in err or "a folder with other things in it; give a new" in err
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "one.jpg").write_bytes(b"mine")
    code, _, err = run(capsys, path, photos, *taps)
    assert (code, err) == (2, f"setr-lite convert: {photos}: is a folder with other things in it; "
                              "give a new one\n")  # fmt: skip
    assert (photos / "one.jpg").read_bytes() == b"mine"
    assert run(capsys, path, tmp_path / "folder", *taps)[0] == 0
    inside = tmp_path / "folder" / "x.pth"
    inside.write_bytes(before)
    assert run(capsys, inside, tmp_path / "folder", *taps)[0] == 2
    for name in ("model.safetensors", "config.json"):
        kept = (tmp_path / "folder" / name).read_bytes()
        code, _, err = run(capsys, tmp_path / "folder", tmp_path / "folder" / name, "--to", "timm")
        assert code == 2
        assert "which is read here; writing there would spoil it" in err
        code = main(["export", str(tmp_path / "folder"), "--format", "mmseg", "--out",
                     str(tmp_path / "folder" / name)])  # fmt: skip
        assert code == 2
        assert (tmp_path / "folder" / name).read_bytes() == kept
    assert path.read_bytes() == inside.read_bytes() == before
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "folder"):  # a checkpoint may be replaced, by a file from elsewhere
        inside.unlink(missing_ok=True)
        assert run(capsys, path, tmp_path / folder, *taps)[0] == 0
