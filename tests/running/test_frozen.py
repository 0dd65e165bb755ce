"""A frozen encoder: it keeps its weights, and its cached tokens change nothing."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from setr_lite.datasets import CamVid, CamVidUnseenDrive, Folder
from setr_lite.encoder import VisionTransformer
from setr_lite.errors import UserError
from setr_lite.model import SETR
from setr_lite.recipes import get_recipe
from setr_lite.running.frozen import FeatureCache, refuse_random_crops
from setr_lite.train import train

SAMPLE = Path(__file__).parents[2] / "data" / "sample" / "toytown_cityscapes"


def run(out, *more, steps=4):
    config = get_recipe("toytown_mla").override(
        f"data.root={SAMPLE}", f"train.out={out}", "train.device=cpu", f"train.steps={steps}",
        "train.batch_size=2", "train.eval_every=0", "train.log_every=1", "eval.limit=2",
        "model.channels=8", "train.freeze_encoder=true", "data.base_size=96,192",
        "data.crop_size=96,192", *more,
    )  # fmt: skip
    return train(config, progress=False)


def test_a_cache_changes_neither_losses_nor_score(tmp_path):
    cache = f"train.feature_cache={tmp_path / 'features'}"
    plain, first = run(tmp_path / "plain"), run(tmp_path / "first", cache)
    files = {p.name for p in (tmp_path / "features").iterdir()}
    second = run(tmp_path / "second", cache)
    rows = [[float(r["loss"]) for r in x["history"] if r["loss"]] for x in (plain, first, second)]
    assert len(rows[0]) == 4
    assert rows[1] == pytest.approx(rows[0], rel=1e-5)  # a batch rounds in another order
    assert rows[2] == rows[1]
    assert first["miou"] == second["miou"] == pytest.approx(plain["miou"], rel=1e-4)
    assert {p.name for p in (tmp_path / "features").iterdir()} == files
    assert all(name.endswith(".safetensors") for name in files)


def test_only_neck_and_heads_learn(tmp_path):
    result = run(tmp_path / "run", steps=1)
    after = SETR.from_pretrained(result["checkpoint"])
    longer = SETR.from_pretrained(run(tmp_path / "longer", steps=3)["checkpoint"])
    changed = {
        name.split(".")[0]
        for name, value in after.state_dict().items()
        if not torch.equal(value, longer.state_dict()[name])
    }
    assert changed == {"neck", "head", "aux_heads"}


def test_other_weights_never_find_each_others_tokens(tmp_path, spread):
    image = torch.randn(2, 3, 32, 32)
    encoder = spread(VisionTransformer((32, 32), 16, 12, 5, 3, taps=(1, 4)))
    expected = [tokens.clone() for tokens in encoder(image)]
    FeatureCache(encoder, tmp_path).attach()
    encoder(image.flip(0))  # in another order
    torch.testing.assert_close(encoder(image), expected)
    assert len(list(tmp_path.iterdir())) == 2
    other = VisionTransformer((32, 32), 16, 12, 5, 3, taps=(1, 4))
    FeatureCache(other, tmp_path).attach()
    assert not torch.allclose(other(image)[0], expected[0])
    assert len(list(tmp_path.iterdir())) == 4


def test_a_damaged_file_is_named(tmp_path):
    encoder, image = VisionTransformer((32, 32), 16, 12, 5, 3), torch.zeros(1, 3, 32, 32)
    FeatureCache(encoder, tmp_path).attach()
    encoder(image)
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(UserError, match=rf"{file.name}: damaged .*; delete it"):
        encoder(image)


def test_a_file_of_zeros_is_no_features(tmp_path):
    """As a disk leaves it that lost its contents, and as another program might write it."""
    encoder, image = VisionTransformer((32, 32), 16, 12, 5, 3), torch.ones(1, 3, 32, 32)
    FeatureCache(encoder, tmp_path).attach()
    tokens = encoder(image)
    file = next(tmp_path.iterdir())
    whole, summed = file.read_bytes(), safe_open(file, "pt").metadata()
    zeros = {str(i): torch.zeros_like(tap[0]) for i, tap in enumerate(tokens)}
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    for write in (
        lambda: file.write_bytes(bytes(len(whole))), lambda: file.write_bytes(b""),
        lambda: file.write_bytes(flipped), lambda: save_file(zeros, file),
        lambda: save_file(zeros, file, metadata=summed), lambda: save_file({}, file),
        lambda: save_file({"x": torch.zeros(2)}, file, metadata={"a": "b"}),
    ):  # fmt: skip
        write()
        cache = FeatureCache(encoder, tmp_path)  # that has not read it before
        with pytest.raises(UserError, match=rf"{file.name}: damaged \(.*\); delete it"):
            cache._read(file)
    file.write_bytes(whole)
    torch.testing.assert_close(cache._read(file)[0], tokens[0][0])


def test_portraits_are_refused_where_only_landscapes_fit(tmp_path):
    from PIL import Image

    for split in ("train", "val"):
        for kind, mode in (("images", "RGB"), ("labels", "L")):
            (tmp_path / kind / split).mkdir(parents=True)
            for name, size in (("a", (48, 32)), ("b", (32, 48) if split == "train" else (48, 32))):
                Image.new(mode, size).save(tmp_path / kind / split / f"{name}.png")
    (tmp_path / "classes.txt").write_text("x")
    config = get_recipe("toytown_mla").override(
        "train.feature_cache=x", "data.base_size=32,48", "data.crop_size=36,48")
    data = Folder(tmp_path, "train")
    with pytest.raises(UserError, match=r"train/b.png becomes 48x32, which crops of 36x48 cut"):
        refuse_random_crops(config, data)
    refuse_random_crops(config.override("data.crop_size=48"), data)
    refuse_random_crops(config, Folder(tmp_path, "val"))
    refuse_random_crops(config.override("train.feature_cache="), data)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.freeze_encoder=false", "needs train.freeze_encoder=true"),
        ("data.distort=true", "every crop would be another one"),
        ("data.ratio_range=0.5,2", "every crop would be another one"),
        ("data.crop_size=32,48", r"becomes 96x192, which crops of 32x48 cut at random"),
        ("model.drop_path=0.1", "every crop would be another one"),
        ("model.encoder=hybrid_base", "hybrid_base has BatchNorm"),
    ],
)
def test_what_cannot_be_cached_is_refused(tmp_path, setting, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path / "run", f"train.feature_cache={tmp_path / 'features'}", setting)


def test_the_linear_probe_is_one_matrix(spread):
    model = spread(SETR(5, "linear", "toy", img_size=(32, 48))).double().eval()
    image = torch.randn(1, 3, 32, 48, dtype=torch.float64)
    tokens = model.encoder(image)[-1]
    head = model.head
    normed = (tokens - tokens.mean(-1, keepdim=True)) / (
        tokens.var(-1, keepdim=True, unbiased=False) + 1e-6
    ).sqrt()
    weight = head.classifier.weight[:, :, 0, 0]
    by_hand = (normed * head.norm.weight + head.norm.bias) @ weight.T + head.classifier.bias
    found = model(image).logits.flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, by_hand, rtol=1e-9, atol=1e-12)
    assert model.train()(image).aux_logits == ()


def test_the_unseen_drive_shares_no_image_with_training(tmp_path):
    from PIL import Image

    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
        for name in ("0001TP_01", "0006R0_01", "0006R0_02", "0016E5_09"):
            mode = "RGB" if folder == "train" else "L"
            Image.new(mode, (4, 4)).save(tmp_path / folder / f"{name}.png")
    learn, test = CamVidUnseenDrive(tmp_path, "train"), CamVidUnseenDrive(tmp_path, "val")
    assert [s.name for s in learn] == ["0001TP_01", "0016E5_09"]
    assert [s.name for s in test] == ["0006R0_01", "0006R0_02"]
    assert len(CamVid(tmp_path, "train")) == 4
