"""Test protocols: the sizes at which published scores were taken."""

from __future__ import annotations

import json
import re
import typing
from pathlib import Path

import numpy as np
import pytest
import torch

from setr_lite.config import EvalConfig
from setr_lite.datasets import Cityscapes
from setr_lite.errors import UserError
from setr_lite.evaluate import evaluate, protocols
from setr_lite.evaluate.protocols import PROTOCOLS, SIX, protocol_of, view_size, view_sizes
from setr_lite.model import SETR
from setr_lite.recipes import get_recipe
from setr_lite.toytown import write_toytown

ADE, STREET, PASCAL = (512, 683), (1024, 2048), (375, 500)


def plan(recipe, protocol, size):
    return view_sizes(get_recipe(recipe).override(f"eval.protocol={protocol}"), size)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("recipe", "size", "shorts"),
    [
        ("naive_ade20k_512_160k", ADE, [512, 512, 512]),  # three scales that are one
        ("mla_ade20k_512_160k", ADE, [512, 512, 512]),
        ("mla_ade20k_512_160k_b8", ADE, [512, 512, 512]),
        ("pup_ade20k_512_160k", ADE, [512, 512, 512, 640, 768, 896]),
        ("pup_cityscapes_768_80k", STREET, [768, 768, 1025, 1281, 1537, 1793]),
        ("mla_cityscapes_768_80k", STREET, [768, 768, 1025, 1281, 1537, 1793]),
        ("pup_pascal_480_80k", PASCAL, [480, 480, 520, 650, 780, 910]),
        ("naive_pascal_480_80k", PASCAL, [480, 480, 520, 650, 780, 910]),
    ],
)
def test_short_sides_of_the_authors_configs(recipe, size, shorts):
    for shape in (size, size[::-1]):
        sizes = plan(recipe, "official+ms", shape)
        assert [min(view) for view in sizes] == shorts
        longs = [int(short * max(size) / min(size) + 0.5) for short in shorts]
        assert [max(view) for view in sizes] == longs
        assert all((view[0] > view[1]) == (shape[0] > shape[1]) for view in sizes)


def test_ade20k_by_all_protocols():
    """A picture 683 wide: where the protocols part company."""
    recipe = "mla_ade20k_512_160k"
    for name in ("none", "paper", "official", "mmseg-0.x", "mmseg-1.x"):
        assert plan(recipe, name, ADE) == [ADE]
    assert [s for s, _ in plan(recipe, "paper+ms", ADE)] == [512, 512, 512, 640, 768, 896]
    assert [s for s, _ in plan(recipe, "mmseg-0.x+ms", ADE)] == [256, 384, 512, 640, 768, 896]
    # 1.x scales the file, which may be larger than the base
    large = (1024, 1366)
    assert plan(recipe, "mmseg-1.x", large) == [(512, 683)]
    assert [s for s, _ in plan(recipe, "mmseg-1.x+ms", large)] == [
        512, 768, 1024, 1280, 1536, 1792,
    ]  # fmt: skip


def test_long_pictures():
    """Five times as long as high: only the clamped size has no bound for the long side."""
    size, recipe = (200, 1000), "pup_ade20k_512_160k"
    assert plan(recipe, "none", size) == [(410, 2048)]
    assert plan(recipe, "official", size) == [(410, 2048)]
    assert plan(recipe, "paper", size) == [(512, 2560)]
    assert plan(recipe, "official+ms", size)[3:] == [(640, 3200), (768, 3840), (896, 4480)]
    assert plan(recipe, "paper+ms", size)[3:] == [(512, 2560), (614, 3072), (717, 3584)]


@pytest.mark.parametrize(
    ("sizing", "ratio", "expected"),
    [
        ("base", 0.75, (384, 512)),
        ("base", 0.51, (261, 348)),  # the base is cut to 261, not rounded
        ("clamped", 0.75, (512, 683)),
        ("clamped", 1.25, (640, 853)),
        ("at least a window", 0.75, (512, 683)),
        ("at least a window", 1.25, (640, 853)),
        ("image", 0.75, (225, 300)),
        ("image", 0.001, (1, 1)),
    ],
)
def test_sizes_by_hand(sizing, ratio, expected):
    assert view_size(sizing, ratio, (300, 400), (512, 2048), 512) == expected


def test_a_strip_keeps_its_length():
    """A tenth of four pixels is one at least, and a tenth of 400 is 40."""
    assert view_size("image", 0.1, (4, 400), (512, 2048), 512) == (1, 40)
    assert view_size("image", 0.1, (400, 4), (512, 2048), 512) == (40, 1)


def test_a_short_side_of_just_a_window_is_not_enlarged():
    """Another pass would make this one two pixels longer than the base."""
    long = "at least a window", 1.0, (256, 1025), (512, 2048)
    assert view_size(*long, 512) == (512, 2048)
    assert view_size(*long, 513) == (513, 2054)


def test_what_each_protocol_averages():
    config = get_recipe("pup_ade20k_512_160k")
    for name, protocol in PROTOCOLS.items():
        single = protocol_of(config.override(f"eval.protocol={name}"))
        assert (single.ratios, single.flip) == ((1.0,), False)
        several = protocol_of(config.override(f"eval.protocol={name}+ms"))
        assert (several.ratios, several.flip) == (SIX, True)
        assert single.odd == several.odd == ("squeeze" if "mmseg" in name else "crop")
        assert protocol.name == name
    own = protocol_of(config.override("eval.ratios=1,2", "eval.flip=true"))
    assert (own.name, own.ratios, own.flip, own.odd) == ("none", (1.0, 2.0), True, "crop")


def test_only_ade20k_has_other_ratios():
    assert len(plan("naive_cityscapes_768_80k", "official+ms", STREET)) == 6
    assert len(plan("naive_ade20k_512_160k", "paper+ms", ADE)) == 6
    for head, several in (("naive", (0.5, 0.75, 1.0)), ("mla", (0.5, 0.75, 1.0)), ("pup", SIX)):
        config = get_recipe(f"{head}_ade20k_512_160k").override("eval.protocol=official+ms")
        assert protocol_of(config).ratios == several


def test_whole_images_are_measured_by_the_training_crop():
    config = get_recipe("toytown_pup").override("eval.protocol=official+ms")
    assert view_sizes(config, (96, 192))[:2] == [(96, 192)] * 2
    assert view_sizes(config.override("data.crop_size=48"), (96, 192))[:2] == [
        (48, 96), (72, 144),
    ]  # fmt: skip


def test_settings_name_the_protocols():
    words = typing.get_args(typing.get_type_hints(EvalConfig)["protocol"])
    assert words == ("none", *(name + tail for name in PROTOCOLS for tail in ("", "+ms")))
    table = Path(protocols.__file__).read_text("utf-8")
    assert re.findall(r"^``([\w.-]+)``  ", table, re.M) == ["none", *PROTOCOLS]


def test_mistakes():
    config = get_recipe("toytown_pup")
    with pytest.raises(UserError, match=r"eval.protocol=mmseg: expected none or paper or"):
        config.override("eval.protocol=mmseg")
    for setting in ("eval.ratios=1,2", "eval.flip=true"):
        with pytest.raises(UserError, match=r"eval.protocol=paper: has ratios and flip of its own"):
            protocol_of(config.override(setting, "eval.protocol=paper"))
    with pytest.raises(UserError, match=r"^ratio=0: give a number"):
        view_size("base", 0, (300, 400), (512, 2048), 512)
    with pytest.raises(UserError, match=r"eval.window_batch=0: must lie in 1..4096"):
        config.override("eval.window_batch=0")


RUNS = Path(__file__).parents[2] / "data" / "runs"


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """The first street of the size 150 x 220 of ``book/_tools/measure_protocols.py``."""
    out = tmp_path_factory.mktemp("town")
    record = json.loads((RUNS / "toytown_protocols" / "record.json").read_text())
    size, images = record["sizes"][2], record["images"] // len(record["sizes"])
    write_toytown(out, 0, 1, tuple(size), seed=record["seed"] + 2, progress=False)
    town = Cityscapes(out, "val")
    assert record["classes"] == list(town.classes)
    return town, record["settings"], 2 * images


@pytest.fixture(scope="module")
def trained():
    return SETR.from_pretrained(RUNS / "toytown_pup" / "model")


@pytest.mark.parametrize("name", [f"{n}{ms}" for ms in ("", "+ms") for n in PROTOCOLS])
def test_every_protocol_gives_the_committed_counts(street, trained, name):
    """Hits, labelled and predicted pixels by class, as the committed run has them."""
    town, settings, row = street
    with np.load(RUNS / "toytown_protocols" / "sums.npz") as sums:
        wanted = torch.from_numpy(sums[name][row]).long()
    config = trained.config.override(*settings, f"eval.protocol={name}")
    ours = evaluate(trained, town, config).sums()
    assert torch.equal(ours[1], wanted[1])  # labelled: nothing is computed
    # other machines round otherwise, where two classes are equally likely
    moved = int((ours - wanted).abs().sum())
    assert moved <= 0.002 * int(wanted[1].sum()), moved
