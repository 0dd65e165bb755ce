"""The encoder against timm, in float64 with weights of std 0.2."""

import pytest
import torch

from setr_lite.encoder import (
    PRESETS,
    Block,
    DropPath,
    PatchEmbed,
    VisionTransformer,
    default_taps,
    resize_pos_embed,
)
from setr_lite.errors import UserError

SIZES = {"patch_size": 16, "embed_dim": 48, "depth": 4, "num_heads": 3}


@pytest.mark.parametrize("size", [(64, 64), (48, 112)])
def test_every_block_equals_timm(size, spread):
    from timm.models.vision_transformer import VisionTransformer as Timm

    theirs = spread(Timm(img_size=size, num_classes=0, **SIZES)).double().eval()
    ours = VisionTransformer(img_size=size, taps=(0, 1, 2, 3), **SIZES).double().eval()
    final_norm = {"norm.weight", "norm.bias"}  # timm's last layer, which SETR leaves out
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert (set(missing), set(unexpected)) == (set(), final_norm)

    outputs = []
    for block in theirs.blocks:
        block.register_forward_hook(lambda module, args, output: outputs.append(output[:, 1:]))
    image = torch.randn(2, 3, *size, dtype=torch.float64)
    theirs.forward_features(image)
    for mine, reference in zip(ours(image), outputs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)


def test_weights_begin_as_timms_do():
    """Small: std 0.02; of the narrow toy, 0.06."""
    encoder = VisionTransformer((64, 64), 16, 4000, 1, 2, mlp_ratio=0.1)
    for table in (encoder.cls_token, encoder.pos_embed, encoder.blocks[0].attn.qkv.weight[:400]):
        assert table.std().item() == pytest.approx(0.02, rel=0.1)
    assert not encoder.blocks[0].attn.qkv.bias.any()
    toy = VisionTransformer.from_preset("toy", img_size=(16, 16))
    assert toy.blocks[0].attn.qkv.weight.std().item() == pytest.approx(0.06, rel=0.05)
    assert PatchEmbed(16, 12).proj.bias is not None


def test_without_class_token_equals_timm_without(spread):
    from timm.models.vision_transformer import VisionTransformer as Timm

    theirs = spread(Timm(img_size=32, num_classes=0, class_token=False, global_pool="avg", **SIZES))
    ours = VisionTransformer(img_size=(32, 32), taps=(3,), keep_class_token=False, **SIZES)
    state = theirs.state_dict()
    table = torch.cat([torch.zeros(1, 1, 48), state["pos_embed"]], dim=1)
    state.update(pos_embed=table, cls_token=torch.zeros(1, 1, 48))
    ours.load_state_dict({k: v for k, v in state.items() if k in ours.state_dict()})
    outputs = []
    theirs.blocks[-1].register_forward_hook(lambda m, a, output: outputs.append(output))
    image = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    theirs.double().eval().forward_features(image)
    torch.testing.assert_close(ours.double()(image)[0], outputs[0], rtol=1e-9, atol=1e-12)


@pytest.mark.smoke
@pytest.mark.parametrize("keep_class_token", [True, False])
def test_tokens_lie_row_by_row(keep_class_token):
    """Or every LayerNorm would copy them; heads read them as maps with channels last."""
    encoder = VisionTransformer((32, 64), keep_class_token=keep_class_token, **SIZES).eval()
    with torch.no_grad():
        image = torch.randn(2, 3, 32, 64)
        assert encoder.embed(image).is_contiguous()
        (tokens,) = encoder(image)
    assert tokens.stride()[1:] == (48, 1)


def test_position_table_resizes_as_hand_worked():
    # one channel, a row of two patches with 0 and 4, stretched to four: 0 1 3 4 (bilinear,
    # half-pixel centres); the class token's 9 stays
    table = torch.tensor([9.0, 0.0, 4.0]).reshape(1, 3, 1)
    wide = resize_pos_embed(table, (1, 2), (1, 4))
    assert wide.flatten().tolist() == [9, 0, 1, 3, 4]
    assert resize_pos_embed(table, (1, 2), (1, 2)) is table


def test_position_table_keeps_rows_and_columns_apart():
    rows = torch.arange(2.0)[:, None].expand(2, 3).reshape(1, 6, 1)  # each place holds its row
    tall = resize_pos_embed(torch.cat([torch.zeros(1, 1, 1), rows], 1), (2, 3), (4, 3))
    wanted = torch.tensor([0, 0.25, 0.75, 1])[:, None].expand(4, 3)
    torch.testing.assert_close(tall[0, 1:, 0].reshape(4, 3), wanted)


@pytest.mark.smoke
@pytest.mark.parametrize("patches", [46, 47, 48])
def test_the_class_token_stays_out_whatever_the_count(patches):
    """Published code guesses by the count: it leaves the token in where 48 divides it."""
    encoder = VisionTransformer(img_size=(16, 16 * patches), **SIZES)
    assert encoder(torch.zeros(1, 3, 16, 16 * patches))[0].shape == (1, patches, 48)


def test_same_count_other_shape_is_resized():
    table = torch.randn(1, 1 + 12, 5)
    assert not torch.equal(resize_pos_embed(table, (3, 4), (4, 3)), table)


@pytest.mark.smoke
def test_a_block_has_four_times_its_width_unless_told():
    assert Block(8, 2).mlp.fc1.out_features == 32
    assert Block(8, 2, 3.0).mlp.fc1.out_features == 24


def test_taps_are_the_published_ones():
    assert default_taps(24, "naive") == default_taps(24, "pup") == (9, 14, 19, 23)
    assert default_taps(24, "mla") == (5, 11, 17, 23)
    assert default_taps(12, "pup") == (4, 7, 9, 11)
    assert default_taps(12, "mla") == (2, 5, 8, 11)
    assert default_taps(4, "mla") == (0, 1, 2, 3)
    assert default_taps(24, "linear") == (9, 14, 19, 23)
    for head in ("naive", "pup", "linear"):  # the same shares of any depth
        assert default_taps(96, head) == (39, 59, 79, 95)
    assert default_taps(96, "mla") == (23, 47, 71, 95)
    for depth in (3, 4):  # 4 would read one block twice
        with pytest.raises(UserError, match="no four blocks for pup"):
            default_taps(depth, "pup")


@pytest.mark.parametrize(
    ("img_size", "large", "base"),
    [
        (384, 303_688_704, 86_088_960),
        (512, 304_147_456, 86_433_024),
        (768, 305_458_176, 87_416_064),
    ],
)
def test_parameter_counts(img_size, large, base):
    # ViT with class token and position table, without final norm and classifier
    for name, count in {"vit_large_patch16": large, "vit_base_patch16": base}.items():
        with torch.device("meta"):
            encoder = VisionTransformer.from_preset(name, img_size=(img_size, img_size))
        assert sum(p.numel() for p in encoder.parameters()) == count


def test_presets_are_timms():
    from timm import create_model

    for name in (name for name in PRESETS if name.startswith("vit_")):
        with torch.device("meta"):
            theirs = create_model(f"{name}_224", num_classes=0)
            ours = VisionTransformer.from_preset(name, img_size=(224, 224))
        shapes = {k: v.shape for k, v in theirs.state_dict().items() if not k.startswith("norm.")}
        assert {k: v.shape for k, v in ours.state_dict().items()} == shapes
        assert ours.blocks[0].attn.num_heads == theirs.blocks[0].attn.num_heads


def test_the_toy_by_arithmetic():
    """1.3 M parameters; its weights fit any number of heads, and mean something with three only."""
    with torch.device("meta"):
        toy = VisionTransformer.from_preset("toy", img_size=(96, 192))
    # projection, class token, 1 + 12 * 24 positions, and five times norms, attention, MLP
    assert sum(p.numel() for p in toy.parameters()) == (
        27_792 + 144 + 41_616 + 5 * (576 + 83_520 + 166_608))
    assert toy.blocks[0].attn.num_heads == 3


def test_unless_told_it_is_vit_base_for_512_x_512():
    with torch.device("meta"):
        plain, fine = VisionTransformer(), VisionTransformer(patch_size=1, depth=1)
        base = VisionTransformer.from_preset("vit_base_patch16", img_size=(512, 512))
    shapes = {k: v.shape for k, v in base.state_dict().items()}
    assert {k: v.shape for k, v in plain.state_dict().items()} == shapes
    assert plain.blocks[0].attn.num_heads == 12
    assert plain.taps == (11,)  # the last block
    assert fine.grid == (512, 512)


@pytest.mark.smoke
def test_blocks_behind_the_last_tap_are_not_run():
    encoder, run = VisionTransformer((16, 16), taps=(0, 1), **SIZES), []
    for i, block in enumerate(encoder.blocks):
        block.register_forward_hook(lambda *_, i=i: run.append(i))
    encoder(torch.zeros(1, 3, 16, 16))
    assert run == [0, 1]


def test_drop_path_keeps_the_mean_and_rests_in_eval():
    encoder = VisionTransformer(img_size=(32, 32), drop_path=0.5, **SIZES)
    drop = encoder.blocks[-1].drop_path
    assert encoder.blocks[0].drop_path.rate == 0
    branch = torch.ones(4000, 1, 1)
    assert sorted(drop(branch).unique().tolist()) == [0, 2]
    assert drop(branch).mean().item() == pytest.approx(1, abs=0.1)
    assert torch.equal(drop.eval()(branch), branch)


def test_drop_path_leaves_out_whole_images_at_its_rate():
    drop, branch = DropPath(0.25).train(), torch.ones(4000, 2, 3)
    kept = drop(branch)
    assert kept.shape == branch.shape
    assert (kept == kept[:, :1, :1]).all()
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
    assert kept.mean().item() == pytest.approx(1, abs=0.05)
    assert DropPath(0.0).train()(branch) is branch


def test_the_rate_of_drop_path_rises_with_the_depth():
    for depth, rates in ((5, [0, 0.1, 0.2, 0.3, 0.4]), (2, [0, 0.4]), (1, [0])):
        encoder = VisionTransformer((16, 16), 16, 12, depth, 3, drop_path=0.4)
        assert [block.drop_path.rate for block in encoder.blocks] == pytest.approx(rates)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="did you mean 'vit_tiny_patch16'"):
        VisionTransformer.from_preset("vit_tiny_patch61")
    with pytest.raises(UserError, match="last block is 3"):
        VisionTransformer(taps=(4,), **SIZES)
    with pytest.raises(UserError, match="no whole patches of 16"):
        VisionTransformer(**SIZES)(torch.zeros(1, 3, 40, 32))


@pytest.mark.parametrize("taps", [(3, 1), (1, 1), (-1, 2), (), (1.0, 2)])
def test_taps_rise_from_0(taps):
    with pytest.raises(UserError, match="give rising numbers of blocks, the first block is 0"):
        VisionTransformer((32, 32), 16, 12, 5, 3, taps=taps)


@pytest.mark.parametrize("rate", [1, 2, -0.1, float("nan")])
def test_drop_path_leaves_something(rate):
    """A rate of 1 divided by zero, and what came out was NaN."""
    with pytest.raises(UserError, match=r"drop_path=.*: give a rate of 0 or more and below 1"):
        DropPath(rate)
    branch = torch.ones(1000, 1, 1)
    assert DropPath(0.99).train()(branch).isfinite().all()
