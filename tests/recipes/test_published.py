"""The table of published scores agrees with itself; the recipes made of it: test_recipes."""

import pytest

from setr_lite.recipes.published import BASELINES, DATA, IN_PAPER, MMSEG, PAPER, PUBLISHED


@pytest.mark.parametrize("name", IN_PAPER)
def test_a_contradiction_is_one_and_its_note_says_so(name):
    published = PUBLISHED[name]
    readme, paper = (published.miou, published.miou_ms), published.in_paper
    assert paper == IN_PAPER[name] != readme
    for ours, theirs in zip(readme, paper, strict=True):
        if ours != theirs:
            assert any(f"{ours:.2f}" in n and f"{theirs:.2f}" in n for n in published.notes)


def test_what_the_paper_has():
    assert all(p.in_paper == (p.miou, p.miou_ms) for p in PAPER)
    assert not any(p.in_paper for p in MMSEG)


def test_convolutional_baselines_are_below_the_pretrained_setrs_beside_them():
    # those of as many steps; table 3, which says no steps, compares with what it calls T-Large
    for baseline in BASELINES:
        assert baseline.data in DATA
        same = [p.miou for p in PUBLISHED.values()
                if p.data == baseline.data and p.variant not in ("random", "hybrid")
                and (p.thousands == baseline.thousands if baseline.thousands
                     else p.variant == "large")]  # fmt: skip
        assert same
        assert baseline.miou < min(same)
        assert baseline.miou_ms is None or baseline.miou < baseline.miou_ms
