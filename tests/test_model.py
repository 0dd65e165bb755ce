"""Heads and the whole model: published sizes, exact commutation, odd images."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from setr_lite.config import IMAGENET_MEAN, IMAGENET_STD, RunConfig
from setr_lite.encoder import VisionTransformer, default_taps
from setr_lite.errors import UserError
from setr_lite.heads import UpsampleHead, upsample
from setr_lite.losses import segmentation_loss
from setr_lite.model import SETR, count_parameters

COUNTS = {  # neck, main head, one auxiliary head for 19 / 60 / 150 classes, by arithmetic
    ("naive", "official"): (0, [269_843, 280_380, 303_510], [269_843, 280_380, 303_510], 3),
    ("naive", "mmseg"): (0, [269_587, 280_124, 303_254], [335_635, 346_172, 369_302], 3),
    ("pup", "official"):
        (0, [4_138_771, 4_149_308, 4_172_438], [2_366_995, 2_377_532, 2_400_662], 4),
    ("pup", "mmseg"):
        (0, [4_137_747, 4_148_284, 4_171_414], [2_957_075, 2_967_612, 2_990_742], 3),
    ("mla", "official"): (3_420_160, [1_859_091, 2_048_060, 2_462_870], [4_864, 15_360, 38_400], 4),
    ("mla", "mmseg"): (3_420_160, [1_781_267, 1_802_300, 1_848_470], [4_883, 15_420, 38_550], 4),
}
TOTALS = {  # whole official models in millions, with auxiliary heads
    ("naive", 768, 19): 306.54, ("pup", 768, 19): 319.06, ("mla", 768, 19): 310.76,
    ("naive", 512, 150): 305.36, ("pup", 512, 150): 317.92, ("mla", 512, 150): 310.18,
    ("naive", 480, 60): 305.14, ("pup", 480, 60): 317.68, ("mla", 480, 60): 309.55,
}  # fmt: skip


def tiny(head="pup", **changes):
    settings = {"encoder": "toy", "img_size": (32, 48), "channels": 8}
    return SETR(5, head, **(settings | changes))


@pytest.mark.parametrize(("head", "dialect"), COUNTS)
def test_parameter_counts(head, dialect):
    neck, heads, aux, number = COUNTS[head, dialect]
    for classes, main_count, aux_count in zip((19, 60, 150), heads, aux, strict=True):
        with torch.device("meta"):
            model = SETR(classes, head, dialect=dialect)
        assert count_parameters(model.neck) == neck
        assert count_parameters(model.head) == main_count
        assert [count_parameters(a) for a in model.aux_heads] == [aux_count] * number


@pytest.mark.parametrize(("head", "size", "classes"), TOTALS)
def test_model_totals(head, size, classes):
    with torch.device("meta"):
        model = SETR(classes, head, img_size=(size, size))
    assert round(count_parameters(model) / 1e6, 2) == TOTALS[head, size, classes]


def test_unless_told_it_is_pup_with_vit_large_for_ade20k():
    with torch.device("meta"):
        model, fine = SETR(), SETR(19, "naive", "toy", patch_size=1)
    assert model.head.classifier.out_channels == 150
    assert (model.encoder.embed_dim, len(model.head.convs)) == (1024, 4)
    assert fine.encoder.grid == (512, 512)


def test_cityscapes_naive_aux_of_mmseg_has_one_unit():
    with torch.device("meta"):
        model = SETR(19, "naive", dialect="mmseg", aux_units=1)
    assert count_parameters(model.aux_heads[0]) == 269_587


@pytest.mark.smoke
@pytest.mark.parametrize("dialect", ["official", "mmseg"])
@pytest.mark.parametrize("head", ["naive", "pup", "mla"])
def test_any_size_in_the_same_size_out(head, dialect):
    model = tiny(head, dialect=dialect)
    image = torch.randn(2, 3, 33, 50)
    output = model(image)
    assert output.full().shape == (2, 5, 33, 50)
    assert (output.size, output.padded) == ((33, 50), (40, 56))
    assert len(output.aux_logits) == len(model.aux_heads)
    assert model.eval()(image).aux_logits == ()


@pytest.mark.parametrize("head", ["naive", "pup", "mla"])
def test_auxiliary_scores_and_the_necks_maps_in_eval_mode(head, spread):
    """Those of training mode need a batch and move BatchNorm's statistics."""
    model, image = spread(tiny(head)).eval(), torch.randn(1, 3, 33, 50)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    maps, output = model.features(image), model(image, aux=True)
    assert [tuple(m.shape) for m in maps] == [(1, 8 if head == "mla" else 144, 5, 7)] * 4
    for i, lazy, aux in zip(model.aux_streams, output.aux, model.aux_heads, strict=True):
        assert torch.equal(lazy.logits, aux.lazy([maps[i]]).logits)
    assert torch.equal(output.full(), model(image).full())
    assert torch.equal(output.scores, model.head.lazy(maps).logits)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.train()(image.repeat(2, 1, 1, 1), aux=False).aux == ()
    assert tiny(head, aux=False).eval()(image, aux=True).aux == ()


def test_an_encoder_of_any_size_by_settings():
    """As `VisionTransformer` builds it with these sizes; no preset is touched."""
    sizes = {"patch_size": 4, "embed_dim": 24, "depth": 6, "num_heads": 4, "mlp_ratio": 1.5}
    words = [f"model.{key}={value}" for key, value in sizes.items()]
    config = RunConfig().override(*words, "model.img_size=12x20", "model.encoder=toy").model
    model = SETR.from_config(config)
    torch.manual_seed(0)
    wanted = VisionTransformer((12, 20), **sizes, taps=model.encoder.taps)
    shapes = {name: value.shape for name, value in model.encoder.state_dict().items()}
    assert shapes == {name: value.shape for name, value in wanted.state_dict().items()}
    assert model.encoder.blocks[0].attn.num_heads == 4
    assert model.encoder.taps == default_taps(6, "pup")
    assert model.eval()(torch.randn(1, 3, 13, 20)).full().shape == (1, 150, 13, 20)
    assert tiny(embed_dim=96).encoder.embed_dim == 96  # the rest is the preset's
    assert RunConfig.from_dict(RunConfig(model=config).to_dict()).model == config


def test_sizes_that_cannot_be_are_named():
    for changes, said in (
        ({"embed_dim": 10, "num_heads": 3}, "embed_dim 10 is not a multiple of num_heads 3"),
        ({"depth": 3}, "an encoder of depth 3 has no four blocks"),
        ({"patch_size": 0}, "patch_size 0, .*give numbers above 0"),
        ({"encoder": "hybrid_base", "patch_size": 8}, "patch_size=8: encoder hybrid_base has a"),
        ({"encoder": "hybrid_base", "patch_bias": False}, "patch_bias=False: encoder hybrid_base"),
        ({"odd": "squash"}, "no odd 'squash'; choose from crop, squeeze"),
    ):
        with pytest.raises(UserError, match=said):
            tiny(**changes)
    for word in ("patch_size=0", "embed_dim=-8", "depth=99999", "num_heads=0", "mlp_ratio=0.0"):
        with pytest.raises(UserError, match=f"model.{word}: must lie in 1.."):
            RunConfig().override(f"model.{word}")


@pytest.mark.parametrize("head", ["naive", "pup", "mla"])
def test_squeezing_by_setting_reaches_every_map_and_the_loss(head, spread):
    """mmsegmentation resizes the logits of the padded grid to the label, main and auxiliary."""
    torch.manual_seed(1)
    model = spread(tiny(head, dialect="mmseg", odd="squeeze", patch_bias=False)).eval().double()
    assert model.encoder.patch_embed.proj.bias is None
    image, label = torch.randn(1, 3, 33, 50).double(), torch.randint(0, 5, (1, 33, 50))
    output, total = model(image, aux=True), 0.0
    assert torch.equal(output.full(), output.full("squeeze"))
    assert (output.full() - output.full("crop")).abs().max() > 1e-3
    for i, lazy in enumerate((output.main, *output.aux)):
        whole = lazy.interpolated()
        if head == "pup" and i == 0:  # its last 2x step comes first
            whole = F.interpolate(whole, (40, 56), mode="bilinear")
        squeezed = F.interpolate(whole, (33, 50), mode="bilinear")
        total += (0.4 if i else 1.0) * F.cross_entropy(squeezed, label)
    loss = segmentation_loss(output, label, aux_weight=0.4)
    torch.testing.assert_close(loss, total, rtol=1e-9, atol=0)


def test_classifying_before_the_resize_changes_nothing(spread):
    head = spread(UpsampleHead(6, 8, 5, kernel=3, steps=[2, 4], bias=True)).double().eval()
    x = torch.randn(1, 6, 3, 4, dtype=torch.float64)
    features = upsample(head.convs[1](upsample(head.convs[0](head.norm(x)), 2)), 4)
    scores = head.lazy([x]).full()
    torch.testing.assert_close(scores, head.classifier(features), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("taps", [None, (0, 1, 2, 3)])
@pytest.mark.parametrize("head", ["naive", "pup", "mla"])
def test_every_parameter_learns(head, taps):
    """DistributedDataParallel would wait for one that does not."""
    model = tiny(head, taps=taps)
    output = model(torch.randn(2, 3, 32, 48))
    loss = output.logits.square().mean() + sum(a.square().mean() for a in output.aux_logits)
    loss.backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []
    unread = [p.requires_grad for p in model.encoder.blocks[4].parameters()]
    assert set(unread) == {taps is None}


def test_crop_and_squeeze():
    output = tiny().eval()(torch.randn(1, 3, 33, 48))
    padded = F.interpolate(output.logits, (40, 48), mode="bilinear")
    torch.testing.assert_close(output.full(), padded[..., :33, :])
    naive = tiny("naive").eval()(torch.randn(1, 3, 33, 48))
    squeezed = F.interpolate(naive.logits, (33, 48), mode="bilinear")
    torch.testing.assert_close(naive.full(odd="squeeze"), squeezed)
    whole = tiny().eval()(torch.randn(1, 3, 32, 48))
    assert torch.equal(whole.full(), whole.full(odd="squeeze"))


def test_padding_is_the_mean_colour():
    model = tiny().eval()
    image = torch.randn(1, 3, 33, 48)
    by_hand = F.pad(image, (0, 0, 0, 7))
    torch.testing.assert_close(model.logits(image), model.logits(by_hand)[..., :33, :])


def test_whole_patches_are_not_copied():
    model, seen = tiny().eval(), []
    model.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    image = torch.randn(1, 3, 32, 48)
    model(image)
    assert seen[0] is image


def test_preprocess_normalises():
    image = torch.full((3, 20, 30), 255, dtype=torch.uint8)
    got = tiny().preprocess(image)
    assert got.shape == (1, 3, 20, 30)
    expected = [(255 - 123.675) / 58.395, (255 - 116.28) / 57.12, (255 - 103.53) / 57.375]
    torch.testing.assert_close(got[0, :, 3, 4], torch.tensor(expected))


def test_only_a_model_with_settings_goes_to_the_hub():
    with pytest.raises(UserError, match="push_to_hub: this model has no settings"):
        tiny().push_to_hub("user/name", license="mit", data="none")


def test_it_is_an_ordinary_module(tmp_path):
    import copy

    model = tiny().eval()
    image = torch.randn(1, 3, 32, 48)
    wanted = model.logits(image)
    twin = copy.deepcopy(model)
    assert torch.equal(twin.logits(image), wanted)
    assert twin.half().encoder.pos_embed.dtype is torch.float16
    assert model.encoder.pos_embed.dtype is torch.float32  # a copy, not the same tensors
    assert twin.to(torch.float64).logits(image.double()).dtype is torch.float64
    torch.save(model, tmp_path / "whole.pt")
    whole = torch.load(tmp_path / "whole.pt", weights_only=False)
    assert torch.equal(whole.logits(image), wanted)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    other = tiny().eval()
    assert not torch.equal(other.logits(image), wanted)
    found = other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (found.missing_keys, found.unexpected_keys) == ([], [])
    assert torch.equal(other.logits(image), wanted)


def test_one_line_builds_the_real_thing():
    with torch.device("meta"):  # 97 million parameters without their memory
        model = SETR(num_classes=19, head="pup", encoder="vit_base_patch16")
        output = model(torch.zeros(2, 3, 512, 512))
    assert isinstance(model, torch.nn.Module)
    assert model.encoder.embed_dim == 768
    assert output.logits.shape[:2] == (2, 19)
    assert output.full().shape == (2, 19, 512, 512)
    assert model.half().to("meta").device.type == "meta"
    assert set(model.state_dict()) == set(dict(model.named_parameters()) | dict(
        model.named_buffers()))  # fmt: skip


def test_mistakes_are_named():
    with pytest.raises(UserError, match="no head 'upp'; did you mean 'pup'"):
        tiny("upp")
    with pytest.raises(UserError, match="no dialect 'oficial'; did you mean 'official'"):
        tiny(dialect="oficial")
    with pytest.raises(UserError, match="no encoder 'toys'; did you mean 'toy'"):
        tiny(encoder="toys")


def test_preprocess_takes_an_image_in_any_form_and_nothing_else(tmp_path):
    """Grey images once came back as memory that nobody had written."""
    model = SETR(3, "naive", "toy", img_size=(16, 16), channels=4).eval()
    array = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    wanted = model.preprocess(tensor)
    assert wanted.shape == (1, 3, 20, 30)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(wanted[0], (tensor - mean) / std)
    for one in (str(tmp_path / "a.png"), Image.fromarray(array), array):
        assert torch.equal(model.preprocess(one), wanted)
    grey = array[:, :, 0]
    assert torch.equal(model.preprocess(grey), model.preprocess(np.stack([grey] * 3, axis=2)))
    for bad in (array.astype(float), tensor.float(), tensor[None], torch.from_numpy(array),
                tensor.to(torch.int8), [array], None, "nowhere.png"):  # fmt: skip
        with pytest.raises(UserError):
            model.preprocess(bad)


@pytest.mark.parametrize("head", ["pup", "mla"])
def test_mmsegs_dialect_starts_with_its_weights(head):
    """Kaiming over the fan-out, classifier 0.01 and 0; auxiliary classifiers keep PyTorch's."""
    model = SETR(5, head, "toy", dialect="mmseg", img_size=(16, 16), channels=64)
    units = [m for part in (model.neck, model.head, model.aux_heads) for m in part.modules()
             if isinstance(m, torch.nn.Conv2d) and m.out_channels != 5]  # fmt: skip
    assert len(units) >= 8
    for conv in units:
        wanted = (2 / (conv.out_channels * conv.kernel_size[0] ** 2)) ** 0.5
        assert conv.weight.std().item() == pytest.approx(wanted, rel=0.1)
    assert model.head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.2)
    assert not model.head.classifier.bias.any()
    aux = model.aux_heads[0].classifier
    bound = aux.in_channels**-0.5
    assert 0.9 * bound < aux.weight.abs().max() <= bound
    assert aux.bias.any()
    official = SETR(5, head, "toy", img_size=(16, 16), channels=64).head.classifier
    bound = (official.in_channels * official.kernel_size[0] ** 2) ** -0.5
    assert 0.9 * bound < official.weight.abs().max() <= bound
