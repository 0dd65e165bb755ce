"""A run that starts from the encoder of another; other sources: test_train, test_timm_encoder."""

from pathlib import Path

import pytest
import torch

from setr_lite.checkpoint import save_checkpoint
from setr_lite.config import RunConfig
from setr_lite.encoder import resize_pos_embed
from setr_lite.errors import UserError
from setr_lite.model import SETR
from setr_lite.recipes import get_recipe
from setr_lite.train import train
from setr_lite.weights.first import load_first_weights

SAMPLE = Path(__file__).parents[2] / "data" / "sample" / "toytown_cityscapes"


def model_settings(**changes):
    settings = {"encoder": "toy", "head": "mla", "num_classes": 7, "img_size": (32, 64),
                "channels": 8}  # fmt: skip
    words = [f"model.{key}={value}" for key, value in (settings | changes).items()]
    return RunConfig().override(*(word.replace("(", "").replace(")", "") for word in words))


def a_checkpoint(folder, spread, **changes):
    """Of a model whose numbers are all random, so that nothing left out can hide."""
    config = model_settings(**changes)
    model = spread(SETR.from_config(config.model))
    save_checkpoint(folder, model, config)
    return model


def test_the_encoder_goes_on_behind_another_head_for_other_classes(tmp_path, spread):
    old = a_checkpoint(tmp_path / "last", spread)
    new = SETR(3, "pup", "toy", img_size=(32, 64), channels=16)
    head = {name: value.clone() for name, value in new.head.state_dict().items()}
    (report,) = load_first_weights(new.encoder, str(tmp_path / "last"))
    torch.testing.assert_close(
        new.encoder.state_dict(), old.encoder.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(dict(new.head.state_dict()), head, rtol=0, atol=0)
    (why, left), = report.dropped.items()
    assert why == "neck and heads start from random weights"
    assert len(report.used) + len(left) == len(old.state_dict())
    assert "encoder toy of a SETR-mla with 7 classes" in str(report)


def test_a_table_that_is_not_square_is_resized_from_its_own_grid(tmp_path, spread):
    old = a_checkpoint(tmp_path / "last", spread)
    new = SETR(7, "mla", "toy", img_size=(48, 48), channels=8)
    (report,) = load_first_weights(new.encoder, str(tmp_path / "last"))
    assert report.resized == {"encoder.pos_embed": "4 x 8 -> 6 x 6, bilinear"}
    expected = resize_pos_embed(old.encoder.pos_embed, (4, 8), (6, 6))
    torch.testing.assert_close(new.encoder.pos_embed, expected)


def test_a_training_starts_from_it(tmp_path, spread, capsys):
    old = a_checkpoint(tmp_path / "first" / "last", spread, img_size=(96, 192))
    words = (
        f"data.root={SAMPLE}", f"train.out={tmp_path / 'second'}", "train.device=cpu",
        "train.steps=1", "train.workers=0", "train.eval_every=0", "eval.limit=1",
        "model.channels=8", "optim.lr=1e-30", "optim.min_lr=0",
        f"model.pretrained={tmp_path / 'first' / 'last'}",
    )  # fmt: skip
    result = train(get_recipe("toytown_naive").override(*words))
    assert "encoder toy of a SETR-mla with 7 classes" in capsys.readouterr().out
    trained = SETR.from_pretrained(result["checkpoint"]).encoder.state_dict()
    torch.testing.assert_close(trained, old.encoder.state_dict(), rtol=0, atol=1e-20)


def test_timms_encoder_goes_on_too(tmp_path, spread):
    changes = {"encoder": "timm:test_vit", "img_size": (160, 160)}
    old = a_checkpoint(tmp_path / "last", spread, head="pup", **changes)
    new = SETR(3, "naive", "timm:test_vit", img_size=(160, 160), channels=8)
    load_first_weights(new.encoder, str(tmp_path / "last"))
    torch.testing.assert_close(
        new.encoder.state_dict(), old.encoder.state_dict(), rtol=0, atol=0)
    other = SETR(3, "naive", "timm:test_vit", img_size=(64, 160), channels=8)
    with pytest.raises(UserError, match=r"another size; set model.img_size=160,160$"):
        load_first_weights(other.encoder, str(tmp_path / "last"))


def test_what_does_not_fit_is_refused(tmp_path, spread):
    a_checkpoint(tmp_path / "last", spread)
    with pytest.raises(UserError, match=r"is a run, not a checkpoint; use .*last"):
        load_first_weights(SETR(7, "mla", "toy").encoder, str(tmp_path))
    tiny = SETR(7, "mla", "vit_tiny_patch16", img_size=(32, 64)).encoder
    with pytest.raises(UserError, match=r"last: has no 'encoder.blocks.5.norm1.weight'"):
        load_first_weights(tiny, str(tmp_path / "last"))
    (tmp_path / "last" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"not a readable safetensors file"):
        load_first_weights(SETR(7, "mla", "toy").encoder, str(tmp_path / "last"))
