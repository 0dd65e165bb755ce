"""Attention maps against the layer they come from; rollout and distance on small tables."""

import pytest
import torch
from torch import nn

from setr_lite.encoder import VisionTransformer
from setr_lite.errors import UserError
from setr_lite.inside.attention import attention_distance, attention_maps, attention_rollout


def tables(*blocks):
    """One image, one head, from nested lists."""
    return [torch.tensor(rows, dtype=torch.float64)[None, None] for rows in blocks]


def test_rollout_by_hand():
    first, second = [[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.5, 0.5]]
    through = attention_rollout(tables(first, second))
    # half stream, half attention: [[.5, .5], [.5, .5]], then [[1, 0], [.25, .75]] times it
    assert through[:, 0].tolist() == [[[0.5, 0.5], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]]
    bare = attention_rollout(tables(second, first), stream=0)
    assert bare[1, 0].tolist() == [[0.5, 0.5], [1.0, 0.0]]  # the later table stands on the left


def test_rollout_takes_the_mean_of_the_heads_and_keeps_rows_at_one():
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, 5, 5).softmax(dim=-1) for _ in range(4)]
    through = attention_rollout(maps, stream=0.3)
    assert through.shape == (4, 2, 5, 5)
    torch.testing.assert_close(through.sum(-1), torch.ones(4, 2, 5))
    mean = [m.mean(dim=1, keepdim=True) for m in maps]
    torch.testing.assert_close(through, attention_rollout(torch.stack(mean), stream=0.3))
    everything_stays = attention_rollout(maps, stream=1)
    torch.testing.assert_close(everything_stays, torch.eye(5).expand(4, 2, 5, 5))


def test_rollout_refuses_what_it_cannot_multiply():
    with pytest.raises(UserError, match=r"maps of \[\]; give"):
        attention_rollout([])
    with pytest.raises(UserError, match=r"\(1, 1, 2, 2\), \(1, 1, 3, 3\)"):
        attention_rollout([torch.ones(1, 1, 2, 2), torch.ones(1, 1, 3, 3)])
    with pytest.raises(UserError, match=r"stream=2 is no share"):
        attention_rollout([torch.ones(1, 1, 2, 2)], stream=2)


def test_distance_by_hand():
    # a class token, then 1 x 3 patches: each hears the first patch and, half as much, nobody
    table = torch.zeros(1, 2, 4, 4)
    table[0, 0, :, 0], table[0, 0, :, 1] = 0.5, 0.5
    table[0, 1] = torch.eye(4)
    assert attention_distance(table, (1, 3)).tolist() == [[1.0, 0.0]]  # (0 + 1 + 2) / 3


def test_distance_is_euclidean_and_knows_the_grid():
    even = torch.full((1, 1, 4, 4), 0.25)
    square, row = attention_distance(even, (2, 2)), attention_distance(even, (1, 4))
    assert square.item() == pytest.approx((1 + 1 + 2**0.5) / 4)
    assert row.item() == pytest.approx((6 + 4 + 4 + 6) / 16)
    with pytest.raises(UserError, match="4 tokens for a grid of 2 x 3"):
        attention_distance(even, (2, 3))


class Segmenter(nn.Module):
    """An encoder and a layer with state, which looking must not change."""

    def __init__(self, keep_class_token: bool) -> None:
        super().__init__()
        self.encoder = VisionTransformer(
            (16, 24), 8, embed_dim=8, depth=3, num_heads=2, keep_class_token=keep_class_token
        )
        self.norm = nn.BatchNorm1d(6)

    def forward(self, image):
        return self.norm(self.encoder(image)[-1])


@pytest.mark.parametrize(("keep_class_token", "tokens"), [(True, 7), (False, 6)])
def test_attention_maps_reproduce_the_layer(keep_class_token, tokens):
    torch.manual_seed(0)
    model = Segmenter(keep_class_token).double().train()
    for parameter in model.encoder.parameters():
        nn.init.normal_(parameter, std=0.5)
    image = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    layer, seen = model.encoder.blocks[1].attn, []
    handle = layer.register_forward_hook(lambda _, inputs, out: seen.append((inputs[0], out)))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    maps = attention_maps(model, image, block=1)
    handle.remove()
    assert maps.shape == (2, 2, tokens, tokens)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 2, tokens, dtype=torch.float64))
    x, out = seen[0]
    values = layer.qkv(x)[..., 16:].unflatten(2, (2, 4)).transpose(1, 2)  # (B, heads, N, d)
    again = layer.proj((maps @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(again, out, rtol=1e-10, atol=1e-12)
    assert maps.std() > 0.01  # not uniform, or any scale of the scores would pass
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training
    assert not layer._forward_pre_hooks


def test_attention_maps_take_one_image_and_count_from_the_end():
    model = Segmenter(True)
    model.norm.eval()
    image = torch.randn(3, 16, 24)
    assert torch.equal(attention_maps(model, image), attention_maps(model, image[None], 2))
    assert model.training
    assert not model.norm.training  # every part's own mode is put back
    with pytest.raises(UserError, match=r"block 3: the encoder has blocks 0\.\.2"):
        attention_maps(model, image, 3)


def test_attention_maps_of_all_blocks_come_from_one_run():
    model = Segmenter(False).eval()
    image, runs = torch.randn(2, 3, 16, 24), []
    model.register_forward_hook(lambda *_: runs.append(1))
    maps = attention_maps(model, image, None)
    assert (tuple(maps.shape), len(runs)) == ((3, 2, 2, 6, 6), 1)
    for i in range(3):
        assert torch.equal(maps[i], attention_maps(model, image, i))
    assert not any(block.attn._forward_pre_hooks for block in model.encoder.blocks)
