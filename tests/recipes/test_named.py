"""Every setting of every published recipe against the published configs; what recipes say."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest
import torch

from setr_lite.cli import main
from setr_lite.config import IMAGENET_MEAN, IMAGENET_STD, ModelConfig, RunConfig
from setr_lite.encoder import PRESETS
from setr_lite.errors import UserError
from setr_lite.model import SETR, count_parameters
from setr_lite.recipes import RECIPES, commands, get_recipe, recipe_table
from setr_lite.recipes.published import NOTES, PUBLISHED
from setr_lite.transforms import fit_size
from setr_lite.weights.first import expected_source, require_source

SHARED = {  # by all of the authors' and mmsegmentation's configs
    "model.channels": 256, "model.aux": True, "model.drop_path": 0.0,
    "data.ratio_range": [0.5, 2.0], "data.cat_max_ratio": 0.75, "data.flip": 0.5,
    "data.distort": True, "data.mean": None, "data.std": None,
    "loss.aux_weight": 0.4, "loss.normalize": "all",
    "optim.name": "sgd", "optim.head_multiplier": 10.0, "optim.momentum": 0.9,
    "optim.weight_decay": 0.0, "optim.warmup": 0, "optim.power": 0.9, "optim.min_lr": 1e-4,
    "optim.clip_norm": 0.0, "optim.poly_steps": "steps",
    # published in float32; a card or processor that is made for bfloat16 takes that, and says so
    "train.amp": "auto", "train.accumulate": 1, "train.log_every": 50,
    "eval.mode": "slide", "eval.ratios": [1.0], "eval.flip": False, "eval.limit": 0,
}  # fmt: skip

DATA = {
    "cityscapes": {
        "data.name": "cityscapes", "model.num_classes": 19, "data.base_size": [1025, 2049],
        "eval.base_size": None, "eval.stride": [512, 512]},
    "ade20k": {
        "data.name": "ade20k", "model.num_classes": 150, "data.base_size": [512, 2048],
        "eval.base_size": None, "eval.stride": [341, 341]},
    "pascal": {
        "data.name": "pascal_context", "model.num_classes": 60, "data.base_size": [520, 520],
        "eval.base_size": [520, 5200], "eval.stride": [320, 320]},
}  # fmt: skip

BLOCKS = {  # in_index of the auxiliary heads and the head; mla_index
    ("naive", 24): [9, 14, 19, 23], ("pup", 24): [9, 14, 19, 23], ("mla", 24): [5, 11, 17, 23],
    ("naive", 12): [2, 5, 8, 11], ("pup", 12): [4, 7, 9, 11], ("mla", 12): [2, 5, 8, 11],
}  # fmt: skip

ENCODERS = {
    "L": ("vit_large_patch16", 24, "jx_vit_large_p16_384-b3be5167.pth"),
    "B": ("vit_base_patch16", 12, "jx_vit_base_p16_384-83fb41ba.pth"),
    "D": ("vit_base_patch16", 12, "deit_base_distilled_patch16_384-d0272ac0.pth"),
    "R": ("vit_large_patch16", 24, "none"),
    "H": ("hybrid_base", 12, "timm:resnet50.tv_in1k"),
    "HB": ("hybrid_base", 12, "timm:resnet50.tv_in1k,jx_vit_base_p16_384-83fb41ba.pth"),
    "HD": ("hybrid_base", 12, "timm:resnet50.tv_in1k,deit_base_distilled_patch16_384-d0272ac0.pth"),
}

AUTHORS = """
recipe                                head  encoder data       crop batch steps  lr    SS    MS
naive_cityscapes_768_40k              naive L       cityscapes 768  8     40000  0.01  77.37 -
naive_cityscapes_768_80k              naive L       cityscapes 768  8     80000  0.01  77.90 -
mla_cityscapes_768_40k                mla   L       cityscapes 768  8     40000  0.002 76.65 -
mla_cityscapes_768_80k                mla   L       cityscapes 768  8     80000  0.002 77.24 -
pup_cityscapes_768_40k                pup   L       cityscapes 768  8     40000  0.01  78.39 81.57
pup_cityscapes_768_80k                pup   L       cityscapes 768  8     80000  0.01  79.34 82.15
naive_base_cityscapes_768_40k         naive B       cityscapes 768  8     40000  0.01  75.54 -
naive_base_cityscapes_768_80k         naive B       cityscapes 768  8     80000  0.01  76.25 -
naive_deit_cityscapes_768_40k         naive D       cityscapes 768  8     40000  0.01  77.85 -
naive_deit_cityscapes_768_80k         naive D       cityscapes 768  8     80000  0.01  78.66 -
mla_deit_cityscapes_768_40k           mla   D       cityscapes 768  8     40000  0.002 78.04 -
mla_deit_cityscapes_768_80k           mla   D       cityscapes 768  8     80000  0.002 78.98 -
pup_deit_cityscapes_768_40k           pup   D       cityscapes 768  8     40000  0.01  78.79 -
pup_deit_cityscapes_768_80k           pup   D       cityscapes 768  8     80000  0.01  79.45 -
naive_ade20k_512_160k                 naive L       ade20k     512  16    160000 0.01  48.06 48.80
mla_ade20k_512_160k_b8                mla   L       ade20k     512  8     160000 0.001 47.79 50.03
mla_ade20k_512_160k                   mla   L       ade20k     512  16    160000 0.001 48.64 50.28
pup_ade20k_512_160k                   pup   L       ade20k     512  16    160000 0.001 48.62 50.09
mla_deit_ade20k_512_160k              mla   D       ade20k     512  16    160000 0.001 46.15 47.71
pup_deit_ade20k_512_160k              pup   D       ade20k     512  16    160000 0.001 46.34 47.30
naive_pascal_480_80k                  naive L       pascal     480  16    80000  0.01  52.89 53.61
mla_pascal_480_80k_b8                 mla   L       pascal     480  8     80000  0.001 54.39 55.39
mla_pascal_480_80k                    mla   L       pascal     480  16    80000  0.001 55.01 55.83
pup_pascal_480_80k                    pup   L       pascal     480  16    80000  0.001 54.37 55.27
mla_deit_pascal_480_80k               mla   D       pascal     480  16    80000  0.001 52.91 53.74
pup_deit_pascal_480_80k               pup   D       pascal     480  16    80000  0.001 52.00 52.50
pup_base_cityscapes_768_40k           pup   B       cityscapes 768  8     40000  0.01  76.71 -
pup_base_cityscapes_768_80k           pup   B       cityscapes 768  8     80000  0.01  78.02 -
mla_base_cityscapes_768_40k           mla   B       cityscapes 768  8     40000  0.002 75.60 -
mla_base_cityscapes_768_80k           mla   B       cityscapes 768  8     80000  0.002 76.87 -
pup_random_cityscapes_768_40k         pup   R       cityscapes 768  8     40000  0.01  42.27 -
hybrid_naive_cityscapes_768_40k       naive H       cityscapes 768  8     40000  0.01  74.48 -
hybrid_naive_cityscapes_768_80k       naive H       cityscapes 768  8     80000  0.01  77.36 -
hybrid_naive_21k_cityscapes_768_40k   naive HB      cityscapes 768  8     40000  0.01  76.76 -
hybrid_naive_21k_cityscapes_768_80k   naive HB      cityscapes 768  8     80000  0.01  76.57 -
hybrid_naive_deit_cityscapes_768_40k  naive HD      cityscapes 768  8     40000  0.01  77.42 -
hybrid_naive_deit_cityscapes_768_80k  naive HD      cityscapes 768  8     80000  0.01  78.28 -
"""
"""The authors' 26 configs, then the rows of the paper's table 2 that have none."""

MMSEG = json.loads(
    (Path(__file__).parents[1] / "golden" / "recipes_mmseg.json").read_text("utf-8"))
HEADS = {("SETRUPHead", 1): "naive", ("SETRUPHead", 3): "pup", ("SETRMLAHead", None): "mla"}
FPS = {  # stated in the README only
    "naive_ade20k_512_160k_mmseg": 4.72, "pup_ade20k_512_160k_mmseg": 4.50,
    "mla_ade20k_512_160k_mmseg": 5.25, "mla_ade20k_512_160k_b8_mmseg": None,
    "naive_cityscapes_768_80k_mmseg": 0.39, "pup_cityscapes_768_80k_mmseg": 0.37,
    "mla_cityscapes_768_80k_mmseg": 0.41,
}  # fmt: skip


def rows(text):
    head, *lines = (line.split() for line in text.strip().splitlines())
    return {line[0]: dict(zip(head, line, strict=True)) for line in lines}


def flat(config):
    """Every setting, ``{"section.key": value}``."""
    return {
        f"{section}.{key}": value
        for section, part in config.to_dict().items() if section != "recipe"
        for key, value in part.items()
    }  # fmt: skip


def check(name, wanted):
    """Settings that no published config knows of stay at their defaults."""
    config = get_recipe(name)
    assert config.recipe == name
    assert flat(config) == flat(RunConfig()) | SHARED | wanted


def every(steps):
    return {"train.steps": steps, "train.eval_every": steps // 10, "train.save_every": steps // 10}


@pytest.mark.smoke
@pytest.mark.parametrize("row", rows(AUTHORS).values(), ids=rows(AUTHORS))
def test_settings_and_scores_of_the_authors(row):
    name, square = row["recipe"], [int(row["crop"])] * 2
    encoder, depth, source = ENCODERS[row["encoder"]]
    check(name, DATA[row["data"]] | every(int(row["steps"])) | {
        "model.encoder": encoder, "model.head": row["head"], "model.dialect": "official",
        "model.taps": BLOCKS[row["head"], depth], "model.aux_units": None,
        "model.pretrained": "none" if source == "none" else "",
        "model.img_size": square, "data.crop_size": square, "eval.window": square,
        "train.batch_size": int(row["batch"]), "optim.lr": float(row["lr"]),
    })  # fmt: skip
    known = PUBLISHED[name]
    assert [f"{score:.2f}" if score else "-" for score in (known.miou, known.miou_ms)] == [
        row["SS"], row["MS"]]  # fmt: skip
    assert (known.memory_gb, known.fps) == (None, None)
    assert known.pretrained == source
    assert expected_source(get_recipe(name)) == source


def our_name(config):
    head = HEADS[config["decode_head"]["type"], config["decode_head"].get("kernel_size")]
    data = {"ADE20KDataset": "ade20k", "CityscapesDataset": "cityscapes"}[config["dataset"]]
    eight = "_b8" if (data, config["batch_size"]) == ("ade20k", 8) else ""
    name = f"{head}_{data}_{config['crop_size'][0]}_{config['max_iters'] // 1000}k{eight}_mmseg"
    return head, data, name


@pytest.mark.smoke
@pytest.mark.parametrize("config", MMSEG.values(), ids=MMSEG)
def test_settings_of_mmsegmentation(config):
    head, data, name = our_name(config)
    backbone, decode, aux = config["backbone"], config["decode_head"], config["auxiliary_head"]
    sizes = {k: backbone[v] for k, v in {
        "patch_size": "patch_size", "embed_dim": "embed_dims", "depth": "num_layers",
        "num_heads": "num_heads"}.items()}  # fmt: skip
    (encoder,) = [name for name, preset in PRESETS.items() if preset == sizes]
    optimizer, schedule = config["optim_wrapper"]["optimizer"], config["schedule"]
    assert optimizer["type"] == "SGD"
    assert set(optimizer) == {"type", "lr", "momentum", "weight_decay"}
    assert set(schedule) == {"type", "eta_min", "power", "begin", "end", "by_epoch"}
    assert (schedule["type"], schedule["begin"], schedule["end"]) == (
        "PolyLR", 0, config["max_iters"])  # fmt: skip
    assert config["batch_per_gpu"] * 8 == config["batch_size"]
    assert config["reduce_zero_label"] == (data == "ade20k")
    (weight,) = {head["loss_decode"]["loss_weight"] for head in aux}
    keys = config["optim_wrapper"]["paramwise_cfg"]["custom_keys"]
    assert list(keys) == ["head"]
    units = {head.get("num_convs") for head in aux}
    check(name, {
        "model.encoder": encoder, "model.head": head, "model.dialect": "mmseg",
        "model.pretrained": "", "model.img_size": backbone["img_size"],
        "model.taps": backbone["out_indices"],
        "model.num_classes": decode["num_classes"],
        "model.aux_units": units.pop() if head == "naive" else None,
        "model.channels": config["neck"].get("out_channels") or decode["channels"],
        "data.name": data, "data.base_size": config["train_scale"][::-1],
        "data.crop_size": config["crop_size"], "data.ratio_range": config["ratio_range"],
        "data.cat_max_ratio": config["cat_max_ratio"], "data.flip": config["flip"],
        "data.distort": "PhotoMetricDistortion" in config["train_pipeline"],
        "loss.aux_weight": weight,
        "optim.lr": optimizer["lr"], "optim.momentum": optimizer["momentum"],
        "optim.weight_decay": optimizer["weight_decay"],
        "optim.head_multiplier": keys["head"]["lr_mult"],
        "optim.clip_norm": config["optim_wrapper"]["clip_grad"] or 0.0,
        "optim.power": schedule["power"], "optim.min_lr": schedule["eta_min"],
        "train.steps": config["max_iters"], "train.eval_every": config["val_interval"],
        "train.save_every": config["save_interval"], "train.log_every": config["log_interval"],
        "train.batch_size": config["batch_size"],
        "eval.mode": config["test_cfg"]["mode"], "eval.window": config["test_cfg"]["crop_size"],
        "eval.stride": config["test_cfg"]["stride"], "eval.base_size": None,
    })  # fmt: skip
    assert config["test_scale"] == config["train_scale"]
    assert (config["mean"], config["std"]) == (list(IMAGENET_MEAN), list(IMAGENET_STD))
    assert backbone["drop_rate"] == 0
    assert backbone["with_cls_token"] == (head != "mla")


@pytest.mark.parametrize("config", MMSEG.values(), ids=MMSEG)
def test_layers_of_mmsegmentation(config):
    head, _, name = our_name(config)
    model, decode = on_meta(get_recipe(name).model), config["decode_head"]
    assert len(model.aux_heads) == len(config["auxiliary_head"])
    assert [h["in_index"] for h in config["auxiliary_head"]] == list(model.aux_streams)
    if head == "mla":
        assert model.head.classifier.weight.shape[:2] == (
            decode["num_classes"], 4 * decode["mla_channels"])  # fmt: skip
        assert {h["num_convs"] for h in config["auxiliary_head"]} == {0}
        return
    for ours, theirs in zip(
        [model.head, *model.aux_heads], [decode, *config["auxiliary_head"]], strict=True
    ):
        assert len(ours.convs) == theirs["num_convs"]
        assert {conv[0].kernel_size for conv in ours.convs} == {(theirs["kernel_size"],) * 2}
        assert {conv[0].out_channels for conv in ours.convs} == {theirs["channels"]}
        if ours.steps[0] != 1:  # the last step may be left to the final resize
            assert ours.steps[0] == theirs.get("up_scale", 4)


@pytest.mark.smoke
@pytest.mark.parametrize("title", MMSEG)
def test_scores_of_mmsegmentation(title):
    config = MMSEG[title]
    _, _, name = our_name(config)
    known = PUBLISHED[name]
    assert known.config == title
    assert {"mIoU": known.miou, "mIoU(ms+flip)": known.miou_ms} == config["metrics"]
    assert known.memory_gb == config["memory_gb"]
    assert config["weights"].endswith(f"/{known.weights}.pth")
    assert known.fps == FPS[name]
    assert known.pretrained == "jx_vit_large_p16_384-b3be5167.pth"


@pytest.mark.smoke
def test_no_published_recipe_is_left_out():
    mmseg = {our_name(config)[2] for config in MMSEG.values()}
    assert set(PUBLISHED) == set(rows(AUTHORS)) | mmseg
    assert len(PUBLISHED) == 26 + 11 + 7
    assert set(PUBLISHED) < set(RECIPES)


# ---- parameters ---------------------------------------------------------------------------------

ENCODER_COUNTS = {
    ("vit_large_patch16", 768): 305_458_176, ("vit_base_patch16", 768): 87_416_064,
    ("vit_large_patch16", 512): 304_147_456, ("vit_base_patch16", 512): 86_433_024,
    ("vit_large_patch16", 480): 304_020_480, ("vit_base_patch16", 480): 86_337_792,
}  # fmt: skip
NECK_COUNTS = {1024: 3_420_160, 768: 3_155_968}
HEAD_COUNTS = {  # width, head, dialect: {classes: (head, one auxiliary head)}
    (1024, "naive", "official"): {
        19: (269_843, 269_843), 60: (280_380, 280_380), 150: (303_510, 303_510)},
    (1024, "naive", "mmseg"): {19: (269_587, 269_587), 150: (303_254, 369_302)},
    (1024, "pup", "official"): {
        19: (4_138_771, 2_366_995), 60: (4_149_308, 2_377_532), 150: (4_172_438, 2_400_662)},
    (1024, "pup", "mmseg"): {19: (4_137_747, 2_957_075), 150: (4_171_414, 2_990_742)},
    (1024, "mla", "official"): {
        19: (1_859_091, 4_864), 60: (2_048_060, 15_360), 150: (2_462_870, 38_400)},
    (1024, "mla", "mmseg"): {19: (1_781_267, 4_883), 150: (1_848_470, 38_550)},
    (768, "naive", "official"): {19: (203_795, 203_795)},
    (768, "pup", "official"): {
        19: (3_548_435, 1_776_659), 60: (3_558_972, 1_787_196), 150: (3_582_102, 1_810_326)},
    (768, "mla", "official"): {
        19: (1_859_091, 4_864), 60: (2_048_060, 15_360), 150: (2_462_870, 38_400)},
}  # fmt: skip
AUX_COUNTS = {"naive": {"official": 3, "mmseg": 3}, "pup": {"official": 4, "mmseg": 3},
              "mla": {"official": 4, "mmseg": 4}}  # fmt: skip
"""Sums by hand over the published layers, BatchNorm's statistics and unused layers left out."""


@cache
def on_meta(config: ModelConfig) -> SETR:
    with torch.device("meta"):
        return SETR.from_config(config)


@pytest.mark.parametrize("name", [n for n in PUBLISHED if not n.startswith("hybrid")])
def test_parameters(name):
    config = get_recipe(name).model
    model, dim = on_meta(config), PRESETS[config.encoder]["embed_dim"]
    main_head, aux_head = HEAD_COUNTS[dim, config.head, config.dialect][config.num_classes]
    assert count_parameters(model.encoder) == ENCODER_COUNTS[config.encoder, config.img_size[0]]
    assert count_parameters(model.neck) == (NECK_COUNTS[dim] if config.head == "mla" else 0)
    assert count_parameters(model.head) == main_head
    assert [count_parameters(head) for head in model.aux_heads] == (
        [aux_head] * AUX_COUNTS[config.head][config.dialect])  # fmt: skip


def test_the_rebuilt_hybrid_is_nearly_the_papers():
    model = on_meta(get_recipe("hybrid_naive_21k_cityscapes_768_80k").model)
    training, aux = count_parameters(model), count_parameters(model.aux_heads)
    (note,) = (n for n in PUBLISHED["hybrid_naive_cityscapes_768_40k"].notes if "112.59 M" in n)
    assert f"It has {(training - aux) / 1e6:.2f} M parameters, {training / 1e6:.2f} M with" in note
    assert training - aux < 112.59e6 < training


# ---- what a recipe says -------------------------------------------------------------------------


@pytest.mark.smoke
def test_pascal_trains_at_one_size_and_is_tested_at_another():
    config = get_recipe("pup_pascal_480_80k")
    assert fit_size((375, 500), config.data.base_size) == (390, 520)
    assert fit_size((375, 500), config.test_data().base_size) == (520, 693)
    assert fit_size((112, 500), config.test_data().base_size)[0] == 520
    config = get_recipe("pup_cityscapes_768_80k")
    assert fit_size((1024, 2048), config.test_data().base_size) == (1025, 2049)


@pytest.mark.smoke
def test_notes_go_to_recipes_that_exist():
    for names, text in NOTES:
        for name in names.split():
            assert any(fnmatch(known, name) for known in PUBLISHED), name
        assert "  " not in text
    assert all(len(p.notes) == len(set(p.notes)) >= 1 for p in PUBLISHED.values())


@pytest.mark.smoke
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_says_where_it_comes_from(name):
    text, known = RECIPES[name].__doc__, PUBLISHED[name]
    assert RECIPES[name].__name__ == name
    assert f"mIoU {known.miou:.2f}" in text
    assert f"Source: {known.source}" in text
    assert f"Released weights: {known.checkpoint}" in text
    assert known.miou_ms is None or f"{known.miou_ms:.2f} with six scales" in text
    assert known.memory_gb is None or f"{known.memory_gb:.2f} GB per GPU" in text
    assert re.search(rf"^setr-lite train {name} data.root=DIR", text, flags=re.M)
    assert max(map(len, text.split("setr-lite train")[0].splitlines())) <= 120


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pup_ade20k_512_160k_mmseg", "44.28 where 48.24"),
        ("pup_ade20k_512_160k_mmseg", "optim.poly_steps=steps-1"),
        ("mla_ade20k_512_160k", "none, the link in the authors' README is empty"),
        ("mla_ade20k_512_160k", "six views, two of them different"),
        ("pup_deit_pascal_480_80k", "heads for 1024 channels on an encoder of 768"),
        ("naive_pascal_480_80k", "its 16 need 4 GPUs"),
        ("mla_deit_cityscapes_768_80k", "0.01 on Cityscapes, the configs of SETR-MLA 0.002"),
        ("hybrid_naive_cityscapes_768_40k", "no config was published, so this is rebuilt"),
        ("mla_deit_ade20k_512_160k", "SETR_MLA_DeiT_512x512_160k_ade20k_bs_16.py"),
        ("naive_base_cityscapes_768_40k", "SETR_Naive_Base_768x768_40k_cityscapes_bs_8.py"),
        ("pup_pascal_480_80k", "SETR_PUP_480x480_80k_pascal_context_bs_16.py"),
    ],
)
def test_known_contradictions(name, text):
    assert text in " ".join(PUBLISHED[name].describe().split())


@pytest.mark.smoke
def test_commands_are_settings_that_exist():
    for name in RECIPES:
        config = get_recipe(name)
        first = commands(config)[0]
        words = first.removeprefix(f"setr-lite train {name}").replace("=K", "=2").split()
        changed = config.override(*words)
        assert changed.data.root
        assert changed.model.pretrained
    assert commands(get_recipe("pup_ade20k_512_160k"))[1].startswith("torchrun --standalone")
    assert commands(get_recipe("toytown_pup")) == [
        "setr-lite train toytown_pup", "setr-lite eval runs/toytown_pup/last"]  # fmt: skip


def test_who_needs_weights_does_not_start_without():
    """From random weights only where the recipe or its published run says so."""
    for name in RECIPES:
        config = get_recipe(name)
        plain = name.startswith(("toytown_", "camvid_")) and not config.train.freeze_encoder
        random = plain or (name in PUBLISHED and PUBLISHED[name].pretrained == "none")
        assert config.model.pretrained == ("none" if random else ""), name
        if not random:
            with pytest.raises(UserError, match=r"give model.pretrained=FILE, or"):
                require_source(config)
            require_source(config.override("model.pretrained=none"))


@pytest.mark.smoke
def test_the_list_is_a_table():
    lines = recipe_table().splitlines()
    assert len(lines) == 1 + len(RECIPES)
    assert len({len(line) for line in lines}) == 1
    (row,) = (line.split() for line in lines if line.startswith("mla_ade20k_512_160k_b8_mmseg "))
    assert row[1:] == [
        "ade20k", "mla", "vit_large_patch16", "mmseg", "512x512", "8", "160000", "47.34", "49.05",
        "yes"]


@pytest.mark.slow
def test_a_recipe_in_full(capsys):
    assert main(["recipes", "mla_pascal_480_80k"]) == 0
    printed = capsys.readouterr().out
    assert "mIoU: README 55.01, paper 54.87" in printed
    settings = re.findall(r"^[a-z]+\.\w+=.*$", printed, flags=re.M)
    assert flat(RunConfig().override(*settings)) == flat(get_recipe("mla_pascal_480_80k"))
    assert re.search(r"^neck +3,420,160$", printed, flags=re.M)
    assert re.search(r"^training +309,550,140$", printed, flags=re.M)
    groups = printed.split("Parameter groups")[1].split("Memory")[0].split("\n\n")
    found = {text.split(",")[0]: text for text in groups[1:]}
    assert "lr 0.001" in found["neck"]
    assert "4 x neck.norm.*.weight" in found["neck"]
    assert "lr 0.01" in found["head"]
    assert "4 x aux_heads.*.classifier.weight" in found["head"]
    assert "neck" not in found["head"]
    assert "24 x encoder.blocks.*.attn.qkv.bias" in found["encoder"]
    assert re.search(r"^1 process +\d+\.\d\d GiB$", printed, flags=re.M)
    assert re.search(r"^8 processes, each +\d+\.\d\d GiB$", printed, flags=re.M)
    assert re.search(r"^activations of encoder ", printed, flags=re.M)
