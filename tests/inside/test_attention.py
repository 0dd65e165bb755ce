"""Rollout and distance, on tables small enough to work out."""

import pytest
import torch

from setr_lite.errors import UserError
from setr_lite.inside.attention import attention_distance, attention_rollout


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
