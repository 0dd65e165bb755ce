"""FLOPs by hand, a matmul rate that is one, free memory, the table of a run's start."""

import mmap
import os
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from setr_lite import logits
from setr_lite.encoder import PRESETS
from setr_lite.recipes import RECIPES, get_recipe
from setr_lite.running.meters import (
    Speed,
    _left_in_group,
    format_seconds,
    free_memory,
    image_flops,
    matmul_rate,
    measure_speed,
    on_device,
    peak_memory,
    sheet_rate,
)

CPU = torch.device("cpu")


def test_flops_of_an_encoder_by_hand():
    """Per block 24 N C^2 for the linear layers and 4 N^2 C for attention; thrice with the way
    back, but for the images, which need no gradient."""
    config = get_recipe("toytown_naive").override(
        "model.head=linear", "data.crop_size=96,192", "model.img_size=96,192", "model.aux=false")
    sizes = PRESETS["toy"]
    n, c, patch = 12 * 24, sizes["embed_dim"], sizes["patch_size"]
    with_class = n + 1
    block = 24 * with_class * c**2 + 4 * with_class**2 * c
    embed = 2 * n * c * 3 * patch**2
    head = 2 * n * c * config.model.num_classes
    expected = 3 * (sizes["depth"] * block + head) + 2 * embed
    assert image_flops(config) == pytest.approx(expected, rel=0.02)  # the loss resizes by products


def test_recomputing_is_no_work_and_a_frozen_encoder_less():
    config = get_recipe("toytown_pup").override("data.crop_size=64,64")
    logits._kept.clear()
    plain = image_flops(config)
    assert image_flops(config) == plain  # also where the matrices of the resize are known
    assert image_flops(config.override("train.micro_batch=1")) == plain
    frozen = image_flops(config.override("train.freeze_encoder=true"))
    assert frozen < 0.8 * plain


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("camvid_dinov2")])
def test_photographs_without_whole_patches_come_out_of_a_cache(name):
    config = get_recipe(name)
    assert any(side % 14 for side in config.data.crop_size)
    cached = image_flops(config.override("train.feature_cache=folder"))
    assert 0 < cached < 0.3 * image_flops(config)


def test_a_rate_counts_products():
    rate = matmul_rate(CPU)
    assert 1e8 < rate < 1e15
    with FlopCounterMode(display=False) as counter:
        matmul_rate(CPU)
    assert counter.get_total_flops() == 6 * 2 * 768**3
    speed = Speed(flops=2e9, rate=1e12)
    assert speed.mfu(100) == pytest.approx(0.2)
    assert speed.mfu(100, devices=2) == pytest.approx(0.1)


@pytest.mark.parametrize(("name", "bf16", "float32"), [
    ("NVIDIA H200", 989, 67), ("NVIDIA H100 80GB HBM3", 989, 67), ("NVIDIA H100 PCIe", 756, 51),
    ("NVIDIA H100 NVL", None, None), ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None, None),
    ("NVIDIA GH200 480GB", None, None), ("NVIDIA A100-SXM4-40GB", 312, 19.5),
    ("NVIDIA L4", 121, 30.3), ("NVIDIA L40", None, None), ("NVIDIA L40S", 362, 91.6),
    ("NVIDIA A10", 125, 31.2), ("NVIDIA A10G", None, None), ("NVIDIA RTX A1000", None, None),
    ("NVIDIA GeForce RTX 4090", 165, 82.6), ("NVIDIA GeForce RTX 4090 D", None, None),
    ("NVIDIA GeForce RTX 4090 Laptop GPU", None, None), ("NVIDIA GeForce RTX 3090", 71, 35.6),
    ("NVIDIA GeForce RTX 3090 Ti", None, None), ("Tesla T4", None, 8.1),
    ("Tesla V100-SXM2-32GB", None, 15.7), ("Tesla V100-PCIE-16GB", None, None),
])  # fmt: skip
def test_a_data_sheet_is_that_of_the_card_and_of_no_other(monkeypatch, name, bf16, float32):
    """Part of a name is not enough: an L40 is no L4, and an A10G is no A10."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    card = torch.device("cuda", 0)
    found = [sheet_rate(card, dtype) for dtype in (torch.bfloat16, torch.float32)]
    assert found == [rate and pytest.approx(rate * 1e12) for rate in (bf16, float32)]
    assert sheet_rate(torch.device("cpu"), torch.float32) is None


def test_amp_is_what_the_device_makes_of_it():
    config = get_recipe("toytown_pup")
    assert on_device(config, CPU).train.amp == "off"
    asked = config.override("train.amp=auto")
    assert on_device(asked, torch.device("cuda")).train.amp == "bf16"
    asked = config.override("train.amp=bf16")
    assert on_device(asked, CPU) == asked
    assert measure_speed(config, CPU).flops == image_flops(config)


def test_memory_here(tmp_path):
    assert free_memory(CPU) > 0
    before = peak_memory(CPU)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    more = 2**28  # above the highest so far, whatever ran before in this process
    with mmap.mmap(-1, before - resident + more) as block:  # malloc may give back what it has kept
        block[:: mmap.PAGESIZE] = bytes(-(-len(block) // mmap.PAGESIZE))
        assert abs(peak_memory(CPU) - before - more) < 2**26
    assert peak_memory(CPU) > before  # the highest stays
    assert _left_in_group(tmp_path) is None
    (tmp_path / "memory.current").write_text("100\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert _left_in_group(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert _left_in_group(tmp_path) == 900


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.123, "0.12 s"), (4.24, "4.2 s"), (42.4, "42 s"), (286, "4 min 46 s"),
     (9660, "2 h 41 min"), (277_200, "3 d 5 h")],
)  # fmt: skip
def test_durations(seconds, text):
    assert format_seconds(seconds) == text
