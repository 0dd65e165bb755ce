"""Recipes for images of one's own: they keep what the encoder knows, and so does every command
that a page shows."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from torch import nn

from setr_lite.config import RunConfig
from setr_lite.encoder import PRESETS
from setr_lite.errors import UserError
from setr_lite.model import SETR
from setr_lite.optim import parameter_groups
from setr_lite.recipes import RECIPES, get_recipe
from setr_lite.recipes.describe import FAST_ADAMW, rate_warning
from setr_lite.timm_encoder import create_vit
from setr_lite.weights.first import require_source

ROOT = Path(__file__).resolve().parents[2]
HEADS = ("linear", "naive", "pup", "mla")


@pytest.mark.parametrize("head", HEADS)
def test_what_is_new_learns_faster_than_what_is_not(head):
    config = get_recipe(f"finetune_{head}")
    assert config.model.head == head
    with torch.device("meta"):
        model = SETR.from_config(config.model)
    rates = {group["name"].removesuffix("_no_decay"): group["lr"]
             for group in parameter_groups(model, config.optim)}  # fmt: skip
    assert rates.pop("encoder") == 5e-5
    assert set(rates) == ({"head", "neck"} if head == "mla" else {"head"})
    assert list(rates.values()) == pytest.approx([1e-3] * len(rates))
    assert rate_warning(config) is None
    drops = [m.drop_prob for m in model.modules() if hasattr(m, "drop_prob")]
    assert max(drops) == pytest.approx(config.model.drop_path)


def test_it_does_not_start_from_random_weights_unasked():
    with pytest.raises(UserError, match=r"starts from timm:vit_small.*model.pretrained=none to"):
        require_source(get_recipe("finetune_mla"))


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "vit_base_patch16_384",
                                  "vit_small_patch32_224", "vit_small_patch8_224"])  # fmt: skip
def test_crops_are_whole_patches_of_any_encoder(name):
    with torch.device("meta"):
        patch = create_vit(name, (224, 224), depth=1).patch_embed.patch_size[0]
    for head in HEADS:
        assert [side % patch for side in get_recipe(f"finetune_{head}").data.crop_size] == [0, 0]
    assert {224 % preset["patch_size"] for preset in PRESETS.values()} == {0}


COMMAND = re.compile(r"(?:setr-lite|-m setr_lite) train ([^`\n]*(?:\n[^`\n]+=[^`\n]*)*`?)")
"""To the end of the line, or on to the next ones as long as they hold settings."""
ON_PURPOSE = {("claims.md", "camvid_pup train.workers=0")}
"""The claim is that it does badly, from random weights."""


def documented():
    """(page, command) of every training that a page, the README or the help shows."""
    texts = {p: p.read_text("utf-8") for p in (
        ROOT / "README.md", ROOT / "data" / "README.md", ROOT / "setr_lite" / "cli.py",
        *sorted((ROOT / "book").glob("*.md")))}  # fmt: skip
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        texts[path] = "\n".join("".join(cell["source"]) for cell in cells)
    for path, text in texts.items():
        text = re.sub(r"\\\n\s*", " ", text)
        for found in COMMAND.findall(text):
            yield path.name, found.partition("  ")[0].strip("`")


COMMANDS = [pair for pair in documented() if any(w in RECIPES for w in pair[1].split())]


def config_of(command: str) -> tuple[RunConfig, list[str]]:
    words = shlex.split(command.replace('"', "").partition("#")[0])
    settings = [w.rstrip(".,") for w in words if re.fullmatch(r"[a-z]+\.[a-z_]+=\S+", w)]
    filled = [w.replace("=K", "=7") for w in settings]
    name = next(w for w in words if w in RECIPES)
    return get_recipe(name).override(*filled), settings


def test_enough_commands_are_seen():
    assert len(COMMANDS) > 15
    seen = {config_of(command)[0].recipe for _, command in COMMANDS}
    assert {"finetune_mla", "finetune_pup", "pup_ade20k_512_160k", "toytown_pup"} <= seen


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_no_documented_command_takes_an_encoder_apart(page, command):
    """Nor starts from random weights without saying so; ToyTown is drawn, and meant to."""
    config, settings = config_of(command)
    if config.recipe.startswith("toytown") or (page, command) in ON_PURPOSE:
        return
    said = [s for s in settings if s.startswith("model.pretrained=")]
    assert config.model.pretrained != "none" or said, "starts from random weights unasked"
    if config.model.pretrained != "none":
        assert rate_warning(config) is None


def test_the_warning_has_its_two_exits():
    fast = get_recipe("finetune_mla").override(f"optim.lr={FAST_ADAMW}")
    assert "train.freeze_encoder=true" in rate_warning(fast)
    assert rate_warning(fast.override("train.freeze_encoder=true")) is None
    advised = re.findall(r"\S+\.\S+=[\d.e-]+", rate_warning(fast).partition("not; ")[2])
    assert rate_warning(fast.override(*advised)) is None


def test_a_linear_probe_has_nothing_but_a_classifier():
    with torch.device("meta"):
        model = SETR.from_config(get_recipe("finetune_linear").model)
    assert isinstance(model.neck, nn.Identity)
    assert len(model.aux_heads) == 0
