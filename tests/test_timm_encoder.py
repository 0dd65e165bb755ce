"""timm's plain ViTs and the hybrid behind SETR's heads; the weights they start from."""

import functools
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from setr_lite import checkpoint, timm_encoder
from setr_lite.config import DataConfig, ModelConfig, RunConfig
from setr_lite.encoder import VisionTransformer
from setr_lite.errors import UserError
from setr_lite.inside.attention import attention_maps
from setr_lite.model import SETR, count_parameters
from setr_lite.recipes import get_recipe
from setr_lite.timm_encoder import HybridTransformer, TimmEncoder, create_vit
from setr_lite.train import train
from setr_lite.weights.first import load_first_weights

SMALL = {"embed_dim": 48, "depth": 5, "num_heads": 3}
FAMILIES = {  # patch and number of prefix tokens
    "vit_tiny_patch16_224": (16, 1),
    "deit_base_distilled_patch16_384": (16, 2),
    "deit3_small_patch16_224": (16, 1),
    "vit_small_patch14_dinov2.lvd142m": (14, 1),
    "vit_small_patch14_reg4_dinov2": (14, 5),
    "vit_small_patch16_dinov3": (16, 5),
    "eva02_tiny_patch14_336": (14, 1),
    "vit_base_patch16_siglip_224": (16, 0),
    "vit_base_r50_s16_384": (16, 1),
}


@pytest.fixture
def small(monkeypatch):
    """timm's models by their names, with narrow layers and five blocks."""
    narrow = functools.partial(create_vit, **SMALL)
    monkeypatch.setattr(timm_encoder, "create_vit", narrow)


def by_hand(vit, image):
    """The tokens after every block: patches, prefix, positions and blocks one after the other."""
    from timm.layers import resample_abs_pos_embed

    x = vit.patch_embed(image)
    grid, x = x.shape[1:3], x.flatten(1, 2)
    names = ("cls_token", "dist_token", "reg_token")
    prefix = [getattr(vit, n) for n in names if getattr(vit, n, None) is not None]
    count = sum(token.shape[1] for token in prefix)
    prefix = [token.expand(len(x), -1, -1) for token in prefix]
    table = 0
    if vit.pos_embed is not None:
        inside = 0 if vit.no_embed_class else count
        table = resample_abs_pos_embed(vit.pos_embed, grid, vit.patch_embed.grid_size, inside)
    if vit.no_embed_class:
        x = torch.cat([*prefix, x + table], dim=1)
    else:
        x = torch.cat([*prefix, x], dim=1) + table
    rotary = getattr(vit, "rope", None)
    extra = {} if rotary is None else {"rope": rotary.get_embed(shape=grid)}
    for block in vit.blocks:
        x = block(x, **extra)
        yield x[:, count:]


@pytest.mark.parametrize("name", FAMILIES)
def test_equal_to_the_blocks_run_by_hand(name, spread, small):
    patch, prefix = FAMILIES[name]
    encoder = TimmEncoder.from_name(name, img_size=(3 * patch, 5 * patch)).eval()
    spread(encoder).double()
    assert (encoder.patch_size, encoder.vit.num_prefix_tokens) == (patch, prefix)
    assert (encoder.grid, encoder.embed_dim, encoder.taps) == ((3, 5), 48, (1, 2, 3, 4))
    for h, w in ((3, 5), (4, 2)):  # the grid of the table, and another
        image = torch.randn(2, 3, h * patch, w * patch, dtype=torch.float64)
        expected = list(by_hand(encoder.vit, image))
        outputs = encoder(image)
        assert [tuple(tokens.shape) for tokens in outputs] == [(2, h * w, 48)] * 4
        for tokens, reference in zip(outputs, expected[1:], strict=True):
            torch.testing.assert_close(tokens, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_parameter_learns_and_none_is_a_classifiers(name, small):
    import timm

    encoder = TimmEncoder.from_name(name, img_size=(32, 48), drop_path=0.1)
    patch = encoder.patch_size
    sum(x.square().mean() for x in encoder(torch.randn(2, 3, 2 * patch, 3 * patch))).backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []
    assert not any(n.startswith(("vit.norm.", "vit.head", "vit.attn_pool")) for n in
                   encoder.state_dict())  # fmt: skip
    cfg = timm.get_pretrained_cfg(name)
    assert encoder.mean == pytest.approx([255 * v for v in cfg.mean], abs=1e-5)
    assert encoder.std == pytest.approx([255 * v for v in cfg.std], abs=1e-5)
    rates = [m.drop_prob for m in encoder.modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.1)


def test_blocks_behind_the_last_tap_are_left_out(small):
    encoder = TimmEncoder.from_name("vit_tiny_patch16_224", img_size=(32, 32), taps=(0, 1, 2, 3))
    assert len(encoder.blocks) == 4
    with pytest.raises(UserError, match=r"taps \(1, 2, 3, 5\): the encoder's last block is 4"):
        TimmEncoder.from_name("vit_tiny_patch16_224", img_size=(32, 32), taps=(1, 2, 3, 5))
    with pytest.raises(UserError, match="no whole patches of 16"):
        encoder(torch.zeros(1, 3, 40, 32))


@pytest.mark.parametrize("head", ["naive", "pup", "mla"])
@pytest.mark.parametrize(
    ("name", "patch", "stages"),
    [
        ("vit_small_patch8_224", 8, 3),
        ("vit_small_patch14_dinov2", 14, 4),
        ("vit_tiny_patch16_224", 16, 4),
        ("vit_small_patch32_224", 32, 5),
    ],
)
def test_any_patch_any_head_any_size(name, patch, stages, head, small):
    model = SETR(5, head, f"timm:{name}", img_size=(64, 64), channels=8)
    assert model.encoder.patch_size == patch
    if head == "pup":
        assert len(model.head.convs) == stages
    image = torch.randn(2, 3, 65, 50)
    output = model(image)
    assert output.full().shape == (2, 5, 65, 50)
    assert output.padded == (-(-65 // patch) * patch, -(-50 // patch) * patch)
    assert len(output.aux_logits) == len(model.aux_heads)
    (output.logits.square().mean() + sum(a.square().mean() for a in output.aux_logits)).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    whole = model.eval()(image)
    assert whole.aux_logits == ()
    assert whole.full().shape == (2, 5, 65, 50)


def test_a_checkpoint_rebuilds_its_encoder_without_a_download(tmp_path, monkeypatch):
    import timm

    build = timm.create_model

    def offline(*args, pretrained=False, **settings):
        assert not pretrained
        return build(*args, **settings)

    monkeypatch.setattr(timm, "create_model", offline)
    settings = ModelConfig(
        encoder="timm:test_vit", num_classes=5, img_size=(32, 48), channels=8,
        pretrained="timm:test_vit.r160_in1k")  # fmt: skip
    model = SETR.from_config(settings).eval()
    checkpoint.save_checkpoint(tmp_path / "last", model, RunConfig(model=settings))
    twin = SETR.from_pretrained(tmp_path / "last")
    image = torch.randn(1, 3, 40, 40)
    assert torch.equal(twin.logits(image), model.logits(image))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_tiny_patch61_224", "'vit_tiny_patch61_224' is unknown to timm .*tiny_patch16_224"),
        ("convnext_tiny", "'convnext_tiny' is no plain vision transformer; nearest are vit_"),
        ("swin_tiny_patch4_window7_224", "is no plain vision transformer; nearest are vit_"),
        (
            "vit_small_patch14_dinov2.fb_in1k",
            "no tag 'fb_in1k'; choose from vit_small_patch14_dinov2.lvd142m",
        ),
    ],
)
def test_other_models_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        SETR(5, "pup", f"timm:{name}")


def test_attention_maps_of_plain_attention_only(spread, small):
    model = SETR(5, "naive", "timm:vit_small_patch14_reg4_dinov2", img_size=(28, 42), channels=8)
    image, weights = torch.randn(1, 3, 28, 42), []
    spread(model.eval())
    block = model.encoder.blocks[2].attn
    block.fused_attn = False  # then the matrix goes through a Dropout, where it can be seen
    block.attn_drop.register_forward_hook(lambda module, args, output: weights.append(output))
    model(image)
    maps = attention_maps(model, image, block=2)
    assert maps.shape == (1, 3, 5 + 6, 5 + 6)
    torch.testing.assert_close(maps, weights[0])
    for name in ("vit_small_patch16_dinov3", "eva02_tiny_patch14_336"):
        model = SETR(5, "naive", f"timm:{name}", img_size=(28, 42), channels=8)
        with pytest.raises(UserError, match="Attention does more than softmax"):
            attention_maps(model, image)


def test_timms_models_take_sizes_from_settings():
    words = ("encoder=timm:vit_tiny_patch16_224", "depth=5", "embed_dim=48", "patch_size=8",
             "img_size=32x48", "channels=8")  # fmt: skip
    config = RunConfig().override(*(f"model.{word}" for word in words)).model
    encoder = SETR.from_config(config).encoder
    assert (len(encoder.blocks), encoder.embed_dim, encoder.patch_size) == (5, 48, 8)
    assert encoder.grid == (4, 6)
    with pytest.raises(UserError, match=r"timm cannot build it with embed_dim=50.*divisible"):
        SETR(5, encoder="timm:vit_tiny_patch16_224", embed_dim=50)
    with pytest.raises(UserError, match="patch_bias=False: encoder timm:vit_tiny_patch16_224 has"):
        SETR(5, encoder="timm:vit_tiny_patch16_224", patch_bias=False)


# ---- normalisation -----------------------------------------------------------------------------

HALF = (127.5, 127.5, 127.5)


def test_normalisation_is_the_encoders_unless_given(small):
    model = SETR(5, "naive", "timm:vit_tiny_patch16_224", img_size=(32, 32), channels=8)
    image = torch.full((3, 20, 30), 255, dtype=torch.uint8)
    assert torch.equal(model.preprocess(image), torch.ones(1, 3, 20, 30))
    model.config = RunConfig().override("data.mean=0,0,0", "data.base_size=20x30")
    assert torch.equal(model.preprocess(image), torch.full((1, 3, 20, 30), 2.0))
    given = DataConfig(std=(1, 2, 3))
    assert (model.normalization(given).mean, model.normalization(given).std) == (HALF, (1, 2, 3))


def settings(out, *more):
    sample = Path(__file__).parents[1] / "data" / "sample" / "toytown_cityscapes"
    return (
        f"data.root={sample}", f"train.out={out}", "train.device=cpu", "train.steps=2",
        "train.batch_size=2", "train.workers=0", "train.eval_every=0", "train.save_every=1",
        "train.log_every=1", "data.crop_size=32x48", "eval.limit=1", "model.channels=8", *more,
    )  # fmt: skip


def test_a_run_records_the_numbers_it_used_and_resumes(tmp_path, small):
    encoder = "model.encoder=timm:vit_tiny_patch16_224"
    config = get_recipe("toytown_pup").override(*settings(tmp_path, encoder))
    train(config.override("train.compile=false"), progress=False)
    saved = checkpoint.read_config(tmp_path / "last")
    assert (saved.data.mean, saved.data.std) == (HALF, HALF)
    assert SETR.from_pretrained(tmp_path / "last").encoder.patch_size == 16
    assert train(config.override("train.steps=3"), resume=True, progress=False)["step"] == 3
    with pytest.raises(UserError, match=r"data.mean=.*the run to resume was made with"):
        train(config.override("train.steps=4", "data.mean=1,2,3"), resume=True, progress=False)


# ---- first weights -----------------------------------------------------------------------------


def whole_vit(name, **changes):
    """A model as its file has it: with final norm and classifier."""
    from timm import create_model

    return create_model(name, **(SMALL | {"num_classes": 7} | changes))


@pytest.mark.parametrize(
    "name",
    ["vit_small_patch14_reg4_dinov2", "deit_base_distilled_patch16_384", "eva02_tiny_patch14_336",
     "vit_small_patch16_dinov3", "vit_base_patch16_siglip_224"],
)  # fmt: skip
def test_a_file_gives_timms_own_features(name, tmp_path, spread, small):
    patch = FAMILIES[name][0]
    theirs = spread(whole_vit(name, img_size=4 * patch, dynamic_img_size=True)).eval()
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    encoder = TimmEncoder.from_name(name, img_size=(4 * patch, 4 * patch)).eval()
    (report,) = load_first_weights(encoder, str(tmp_path / "vit.safetensors"))
    names = set(report.used) | {n for group in report.dropped.values() for n in group}
    assert names == set(theirs.state_dict())  # every tensor of the file is accounted for
    assert set(report.used) == set(encoder.vit.state_dict())
    image = torch.randn(1, 3, 4 * patch, 2 * patch)
    expected = theirs.forward_intermediates(
        image, [1, 2, 3, 4], output_fmt="NLC", intermediates_only=True)
    for mine, reference in zip(encoder(image), expected, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=0)


def test_a_file_for_another_grid_and_fewer_blocks(tmp_path, small):
    theirs = whole_vit("vit_tiny_patch16_224", img_size=64)
    torch.save({"model": theirs.half().state_dict()}, tmp_path / "vit.pth")
    encoder = TimmEncoder.from_name("vit_tiny_patch16_224", img_size=(32, 96), taps=(0, 1, 2, 3))
    (report,) = load_first_weights(encoder, str(tmp_path / "vit.pth"))
    assert report.resized == {"pos_embed": "(1, 17, 48) -> (1, 13, 48), as timm does"}
    reasons = {reason: len(names) for reason, names in report.dropped.items()}
    assert reasons == {
        "of the classifier, SETR reads the blocks": 4, "behind the last block that is read": 12,
    }  # fmt: skip
    assert "vit.pth: read as timm reads it" in str(report)
    assert torch.equal(encoder.vit.cls_token, theirs.cls_token.float())
    from timm.layers import resample_abs_pos_embed

    table = resample_abs_pos_embed(theirs.pos_embed.float(), (2, 6), (4, 4), 1)
    assert torch.equal(encoder.vit.pos_embed, table)  # not rounded to the file's precision


def test_files_that_do_not_fit_are_refused(tmp_path, small):
    encoder = TimmEncoder.from_name("vit_tiny_patch16_224", img_size=(64, 64))
    good = whole_vit("vit_tiny_patch16_224", img_size=64).state_dict()
    file = tmp_path / "vit.safetensors"

    def refused(tensors, message):
        save_file(tensors, file)
        with pytest.raises(UserError, match=message):
            load_first_weights(encoder, str(file))

    renamed = {k.replace("blocks.2.attn.qkv.bias", "blocks.2.attn.qvk.bias"): v
               for k, v in good.items()}  # fmt: skip
    refused(renamed, "has no 'blocks.2.attn.qkv.bias', .*nearest is 'blocks.2.attn.qvk.bias'")
    refused(good | {"extra": torch.zeros(1)}, "has 'extra', which has no place in the model")
    refused(good | {"cls_token": torch.zeros(1, 1, 50)}, r"'cls_token' is \(1, 1, 50\), the model")
    refused({"weight": torch.zeros(3)}, "has no 'blocks.0.attn.proj.bias'")
    with pytest.raises(UserError, match="no such file"):
        load_first_weights(encoder, str(tmp_path / "absent.pth"))
    (tmp_path / "flax.npz").write_bytes(b"")
    with pytest.raises(UserError, match=r"flax.npz: a timm: encoder reads .pth and .safetensors"):
        load_first_weights(encoder, str(tmp_path / "flax.npz"))


def test_weights_by_name(monkeypatch, small):
    """Stands in for timm's download: a model that is there when weights are asked for."""
    import timm

    build, there = timm.create_model, whole_vit("vit_tiny_patch16_224", img_size=64)

    def fetch(name, pretrained=False, **settings):
        assert not (pretrained and settings)  # strict in timm: nothing of its file is left out
        return there if pretrained else build(name, **settings)

    monkeypatch.setattr(timm, "create_model", fetch)
    encoder = TimmEncoder.from_name("vit_tiny_patch16_224", img_size=(64, 64))
    (report,) = load_first_weights(encoder, "timm:vit_tiny_patch16_224.augreg_in21k")
    assert report.path == "timm:vit_tiny_patch16_224.augreg_in21k"
    assert torch.equal(encoder.vit.pos_embed, there.pos_embed)
    plain = VisionTransformer(img_size=(64, 64), patch_size=16, taps=(1, 2, 3, 4), **SMALL)
    load_first_weights(plain, "timm:vit_tiny_patch16_224")
    assert torch.equal(plain.blocks[4].mlp.fc2.bias, there.blocks[4].mlp.fc2.bias)
    with pytest.raises(UserError, match="'vit_tiny' is unknown to timm"):
        load_first_weights(plain, "timm:vit_tiny")

    def unplugged(name, **settings):
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(timm, "create_model", unplugged)
    with pytest.raises(UserError) as caught:
        load_first_weights(plain, "timm:vit_tiny_patch16_224")
    assert str(caught.value) == (
        "model.pretrained=timm:vit_tiny_patch16_224: could not be fetched (no route to host); "
        "download the file where there is a network and give model.pretrained=FILE"
    )


@pytest.mark.skipif("SETR_DINOV2" not in os.environ, reason="SETR_DINOV2 names no file")
def test_dinov2():
    """``vit_small_patch14_dinov2.lvd142m`` as timm publishes it, in any precision."""
    from timm import create_model

    file = os.environ["SETR_DINOV2"]
    encoder = TimmEncoder.from_name("vit_small_patch14_dinov2.lvd142m", img_size=(518, 518)).eval()
    (report,) = load_first_weights(encoder, file)
    assert len(report.used) == len(encoder.vit.state_dict())
    assert report.resized == {}
    theirs = create_model(
        "vit_small_patch14_dinov2.lvd142m", pretrained=True, dynamic_img_size=True,
        pretrained_cfg_overlay={"file": file}).eval()  # fmt: skip
    image = torch.randn(1, 3, 70, 98)
    with torch.no_grad():
        expected = theirs.forward_intermediates(
            image, list(encoder.taps), output_fmt="NLC", intermediates_only=True)
        for mine, reference in zip(encoder(image), expected, strict=True):
            torch.testing.assert_close(mine, reference, rtol=0, atol=0)


# ---- the hybrid --------------------------------------------------------------------------------


def hybrid(**changes):
    return HybridTransformer(
        **{"img_size": (64, 96), "taps": (1, 2, 3, 4), "patch_size": 16, **SMALL, **changes})


def test_the_hybrid_reads_a_resnet_at_stride_16(spread):
    import timm

    encoder = spread(hybrid()).double().eval()
    image = torch.randn(1, 3, 48, 80, dtype=torch.float64)
    resnet = timm.create_model("resnet50", num_classes=0, global_pool="", output_stride=16)
    resnet.double().eval().load_state_dict(encoder.patch_embed.backbone.state_dict())
    features = resnet(image)
    assert features.shape == (1, 2048, 3, 5)
    tokens = encoder.patch_embed.proj(features).flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder.patch_embed(image), tokens, rtol=1e-9, atol=1e-12)
    assert [tuple(x.shape) for x in encoder(image)] == [(1, 15, 48)] * 4


def test_the_hybrid_counts_and_learns():
    with torch.device("meta"):
        model = SETR(19, "naive", "hybrid_base", img_size=(768, 768))
    # ResNet-50 without classifier, its projection, ViT-B at 768 without its patch projection
    resnet, projection = 23_508_032, 2048 * 768 + 768
    vit = 87_416_064 - (3 * 16 * 16 * 768 + 768)
    assert count_parameters(model.encoder) == resnet + projection + vit
    total, aux = count_parameters(model), count_parameters(model.aux_heads)
    assert (round((total - aux) / 1e6, 2), round(total / 1e6, 2)) == (112.11, 112.72)
    encoder = hybrid()
    sum(x.square().mean() for x in encoder(torch.randn(2, 3, 64, 64))).backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []


def test_the_hybrid_starts_from_two_files(tmp_path):
    import timm

    resnet, vit = timm.create_model("resnet50"), whole_vit("vit_tiny_patch16_224", img_size=64)
    torch.save(resnet.state_dict(), tmp_path / "resnet.pth")
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    encoder = hybrid(img_size=(64, 64))
    projection = encoder.patch_embed.proj.weight.clone()
    first, second = load_first_weights(encoder, f"{tmp_path}/resnet.pth,{tmp_path}/vit.pth")
    assert first.dropped == {"of the classifier": ["fc.weight", "fc.bias"]}
    assert second.dropped["the hybrid has a ResNet in their place"] == [
        "patch_embed.proj.weight", "patch_embed.proj.bias"]  # fmt: skip
    assert torch.equal(encoder.patch_embed.backbone.layer4[2].conv3.weight,
                       resnet.layer4[2].conv3.weight)  # fmt: skip
    assert torch.equal(encoder.pos_embed, vit.pos_embed)
    assert torch.equal(encoder.patch_embed.proj.weight, projection)
    del (state := resnet.state_dict())["bn1.bias"]
    torch.save(state, tmp_path / "resnet.pth")
    with pytest.raises(UserError, match=r"has no 'bn1.bias', which the model needs"):
        load_first_weights(encoder, str(tmp_path / "resnet.pth"))
