"""The CUDA path on a pretended card: that it runs, and what it asks of the card.

Launches, waits and bytes are those of a real card; times and numbers are not there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import card
import pytest

pytestmark = pytest.mark.skipif(
    card.why_not() is not None, reason=f"no pretended card: {card.why_not()}")

TOY = {"naive": 700, "pup": 840, "mla": 900}
"""Launches of a step of each head at toy size, a few above what it takes; the loss uncompiled."""
PUBLISHED, OF_THE_LOSS = 2300, 370
"""The same of SETR-PUP with ViT-Large, batch 16, and of its loss alone, for all five heads."""


def ran(folder: Path, *names: str) -> Callable[[str], dict[str, Any]]:
    """What processes with the card have counted, see `on_card.PARTS`; all are run at once."""
    environment = card.environment(card.build(card.cache_folder()), cards=2)
    done = subprocess.run(
        [sys.executable, str(card.HERE / "on_card.py"), str(folder), *names], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900)  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]

    def found(name: str) -> dict[str, Any]:
        file = folder / f"{name}.json"
        assert file.exists(), (folder / f"{name}.txt").read_text()[-4000:]
        return json.loads(file.read_text())

    return found


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Callable[[str], dict[str, Any]]:
    return ran(tmp_path_factory.mktemp("card"), "kernels", "one", "rank0", "rank1")


@pytest.fixture(scope="module")
def users(tmp_path_factory) -> dict[str, Any]:
    """Every command and every live cell, one after the other: longer than all the rest."""
    return ran(tmp_path_factory.mktemp("users"), "users")("users")


@pytest.fixture(scope="module")
def one(parts) -> dict[str, Any]:
    """All that needs one card."""
    return parts("one")


@pytest.fixture(scope="module")
def kernels(parts) -> dict[str, Any]:
    """What is compiled."""
    return parts("kernels")


@pytest.fixture(scope="module")
def two(parts) -> list[dict[str, Any]]:
    """Two processes with a card each."""
    return [checked(parts(f"rank{rank}"), "ranks") for rank in range(2)]


def checked(found: dict[str, Any], name: str) -> Any:
    """What a work counted; it must not have failed."""
    assert not isinstance(found[name], str), found[name]
    return found[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    "verb", ["dry run", "train", "resume", "eval", "predict", "export", "bench"])
def test_every_command_runs(users, verb):
    code, said = checked(users, "commands")[verb]
    assert code == 0, said


@pytest.mark.slow
def test_no_cpu_tensor_meets_the_card_in_a_live_cell(users):
    pages = checked(users, "live_cells")
    assert len(pages) > 15
    assert not {page: error for page, error in pages.items() if error}


@pytest.mark.parametrize("head", TOY)
def test_a_step_keeps_to_its_launches_and_never_waits(one, head):
    step = checked(one, "toy_steps")[head]
    assert step["waits"] == []
    assert step["event waits"] == 1  # for the report of the step before
    assert step["launches"] <= TOY[head]


def test_a_published_step_and_its_loss(kernels):
    step = checked(kernels, "published_step")
    assert step["waits"] == []
    assert step["launches"] <= PUBLISHED
    assert step["loss"] <= OF_THE_LOSS
    assert step["estimate"] == pytest.approx(step["peak"], rel=0.05)


@pytest.mark.parametrize("head", ["naive", "mla"])
def test_the_memory_estimate_against_pytorchs_allocator(one, head):
    peak, estimate = checked(one, "memory")[head]
    assert estimate == pytest.approx(peak, rel=0.05)


def test_a_planted_wait_is_seen(one):
    found = checked(one, "planted")
    assert found["none"] == []
    assert "cudaStreamSynchronize" in found[".item()"]
    assert "card to pageable" in found[".cpu()"]


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_evaluation_never_waits(one, mode):
    assert checked(one, "evaluation")[mode] == []


@pytest.mark.parametrize("work", ["loss", "readout", "picture"])
def test_where_new_tensors_are_on_the_card_by_default(one, work):
    assert checked(one, "default_device")[work] == ""


def test_the_second_card_is_the_one_that_works(one):
    assert checked(one, "second_card") == {"current": 1, "guard": 1, "waits": []}


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_each_process_has_its_card(two, way):
    assert [rank[way]["device"] for rank in two] == [0, 1]


def test_copies_send_each_gradient_once(two):
    for rank in two:
        step = rank["ddp"]
        assert step["waits"] == []
        assert step["launches"] <= 1200  # 1285 where gradients are copied into buckets


def test_batchnorm_over_processes_never_waits_and_keeps_as_much_as_pytorchs(two):
    """In maps of its size: the result and, on the way back, one to work with and the gradient."""
    for rank in two:
        ours, theirs = rank["norms"]["ours"], rank["norms"]["torch"]
        assert ours["waits"] == []
        assert len(theirs["waits"]) >= 1  # or ours has lost its reason
        assert ours["kept"] == pytest.approx(theirs["kept"], rel=0.01)
        assert ours["peak"] == pytest.approx(theirs["peak"] + 1, rel=0.01)


def test_pieces_are_updated_by_one_kernel_for_many(two):
    for rank in two:
        step = rank["fsdp"]
        assert step["waits"] == []
        assert step["fused"]
        assert step["nccl"]["reduce-scatter"] == 6  # five blocks, and what is left


def test_one_graph_for_all_blocks(kernels):
    found = checked(kernels, "compiled")
    assert found["graphs"] <= found["blocks"]
    assert found["breaks"] == {}
    assert found["triton"] > 0
    before, after = found["launches"]
    assert after < before
