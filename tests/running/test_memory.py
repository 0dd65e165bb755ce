"""The memory estimate against what autograd and the allocator of a CPU really hold."""

import itertools

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from setr_lite.errors import UserError
from setr_lite.losses import segmentation_loss
from setr_lite.model import SETR
from setr_lite.recipes import get_recipe
from setr_lite.running import memory
from setr_lite.running.memory import estimate_memory, format_bytes
from setr_lite.running.recompute import recompute_encoder
from setr_lite.step import add_gradients

SIZES = ((64, 80), (48, 96))


def small(*settings):
    return get_recipe("toytown_pup").override(
        "optim.name=sgd", "train.amp=off", "data.crop_size=64,80", *settings)


def built(config):
    """Model, images and labels of one step on the CPU."""
    size = (config.train.batch_size, *config.data.crop_size)
    model = SETR.from_config(config.model).train()
    recompute_encoder(model.encoder, config.train)
    return model, torch.randn(size[0], 3, *size[1:]), torch.zeros(size, dtype=torch.uint8)


def autocast(config):
    on = config.train.amp == "bf16"
    return torch.autocast("cpu", torch.bfloat16, enabled=on, cache_enabled=False)


def take_step(config, model, image, label):
    add_gradients(model, image, label, config, bf16=config.train.amp == "bf16")


def saved_bytes(config):
    """What autograd saves on the CPU: storages by address, those of the model left out."""
    model, image, label = built(config)
    there = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), image)}
    held = {}

    def keep(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with autocast(config):
            loss = segmentation_loss(model(image), label)
        assert loss.requires_grad
    return sum(t.untyped_storage().nbytes() for key, t in held.items() if key not in there)


@pytest.mark.parametrize(
    ("head", "dialect"),
    list(itertools.product(("naive", "pup", "mla"), ("official", "mmseg"))),
)
def test_what_autograd_saves(head, dialect):
    for size, batch in zip(SIZES, (1, 2), strict=True):
        config = small(
            f"model.head={head}", f"model.dialect={dialect}", f"train.batch_size={batch}",
            f"data.crop_size={size[0]},{size[1]}")
        estimate = estimate_memory(config)
        assert estimate.saved == pytest.approx(saved_bytes(config), rel=0.01), (size, batch)
        parts = {"encoder", "head", "loss", *["neck"] * (head == "mla")}
        assert set(estimate.activations) - {"auxiliary heads"} == parts


@pytest.mark.parametrize("head", ["naive", "pup", "mla"])
def test_what_autograd_saves_under_autocast(head):
    config = small(f"model.head={head}", "train.amp=bf16")
    assert estimate_memory(config).saved == pytest.approx(saved_bytes(config), rel=0.05)
    assert estimate_memory(config.override("train.amp=auto")) == estimate_memory(config)


@pytest.mark.parametrize("head", ["naive", "pup", "mla"])
@pytest.mark.parametrize(
    ("run", "levers", "most"),
    [
        ("ade20k_512_160k", (), 22.5),  # GiB, of a card of 24 GB
        pytest.param(  # of one of 16 GB
            "ade20k_512_160k", ("train.micro_batch=4",), 15, marks=pytest.mark.slow),
        ("cityscapes_768_80k", (), 22.5),
    ],
)
def test_the_published_batch_fits_one_card(head, run, levers, most):
    config = get_recipe(f"{head}_{run}").override("train.amp=bf16", *levers)
    assert config.train.batch_size == {"ade20k": 16, "cityscapes": 8}[config.data.name]
    assert config.train.accumulate == 1  # BatchNorm sees all of it
    assert 6 < estimate_memory(config).peak / 2**30 < most


LEVERS = [
    ("train.micro_batch=1",),
    ("train.micro_batch=2", "train.grad_checkpointing=true"),
    ("train.grad_checkpointing=true",),
    ("train.grad_checkpointing=true", "train.amp=bf16"),
    ("train.micro_batch=2", "train.amp=bf16", "train.accumulate=2"),
]


@pytest.mark.parametrize("levers", LEVERS)
@pytest.mark.parametrize("head", ["naive", pytest.param("pup", marks=pytest.mark.slow), "mla"])
def test_what_is_saved_when_the_rest_is_computed_again(head, levers):
    config = small(f"model.head={head}", "train.batch_size=4", *levers)
    estimate = estimate_memory(config)
    part = config.override("train.batch_size=2", "train.accumulate=1")
    counted = saved_bytes(part if config.train.accumulate > 1 else config)
    rel = 0.05 if "train.amp=bf16" in levers else 0.01
    assert estimate.saved == pytest.approx(counted, rel=rel)
    plain = config.override("train.micro_batch=0", "train.grad_checkpointing=false")
    less = estimate_memory(plain)
    # micro-batches keep nothing but the images, which are the batch
    assert estimate.activations.get("encoder", 0) < 0.4 * less.activations["encoder"]
    assert estimate.step < less.step
    assert sum(estimate.parts.values()) == estimate.peak


def test_a_frozen_encoder_saves_nothing():
    config = small("train.freeze_encoder=true", "model.aux=false")
    assert "encoder" not in estimate_memory(config).activations


def test_other_encoders():
    config = small("model.encoder=vit_tiny_patch16", "model.aux=false", "train.batch_size=1")
    assert estimate_memory(config).saved == pytest.approx(saved_bytes(config), rel=0.01)
    assert "auxiliary heads" not in estimate_memory(config).activations


@pytest.mark.parametrize(
    "settings",
    [
        ("train.batch_size=4",),
        pytest.param(
            ("train.batch_size=4", "train.accumulate=2", "model.head=mla"),
            marks=pytest.mark.slow),
        ("train.batch_size=4", "model.head=naive", "model.dialect=mmseg", "train.amp=bf16"),
        ("model.encoder=vit_tiny_patch16", "train.batch_size=1"),  # gradients, not activations
        pytest.param(
            ("train.batch_size=4", "train.micro_batch=1"),
            marks=pytest.mark.slow),
        pytest.param(
            ("train.batch_size=4", "train.grad_checkpointing=true", "train.amp=bf16"),
            marks=pytest.mark.skipif(
                "AVX512" not in torch.backends.cpu.get_cpu_capability(),
                reason="PyTorch unfolds what a 3x3 convolution reads in bfloat16")),
        ("train.batch_size=4", "train.micro_batch=2", "train.grad_checkpointing=true"),
    ],
)
def test_the_allocators_peak(settings):
    config = small("data.crop_size=96,96", *settings)
    step = (config, *built(config))
    take_step(*step)  # what is made once, such as the loss's resizing matrices
    step[1].zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        take_step(*step)
    sizes = [
        event.nbytes() for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]  # fmt: skip
    peak = max(itertools.accumulate(sizes))
    assert estimate_memory(config).step == pytest.approx(peak, rel=0.1)


def test_a_padded_batch_counts_with_the_encoder():
    whole, odd = (estimate_memory(small(f"data.crop_size={height},80", "train.batch_size=4"))
                  for height in (64, 60))  # fmt: skip
    copy = 4 * 3 * 64 * 80 * 4
    assert odd.activations["encoder"] == whole.activations["encoder"] + copy
    for estimate in (whole, odd):
        assert "encoder run again" not in estimate.at_peak


def test_states_and_copies():
    config = small("train.batch_size=8", "model.head=mla")
    model = SETR.from_config(config.model)
    values = sum(p.numel() for p in model.parameters())
    learned = values - model.encoder.cls_token.numel()  # which SETR-MLA does not use
    running = sum(b.nbytes for b in model.buffers())
    one, eight = estimate_memory(config), estimate_memory(config, processes=8)
    assert one.weights == 4 * values + running
    assert one.gradients == one.optimizer == eight.buckets == 4 * learned
    assert one.buckets == 0
    assert one.batch == 8 * 64 * 80 * (3 * 4 + 1) == 8 * eight.batch
    assert estimate_memory(config.override("optim.momentum=0")).optimizer == 0
    assert estimate_memory(config.override("optim.name=adamw")).optimizer == 8 * learned
    assert one.peak == one.weights + one.optimizer + one.batch + one.step
    assert sum(one.parts.values()) == one.peak
    assert one.saved < one.step < one.saved * 1.3
    assert one.dominant.startswith("activations of encoder, ")
    assert set(estimate_memory(config.override("train.micro_batch=1")).at_peak) >= {
        "activations of head", "gradients and temporaries"}


def test_bf16_and_parts_take_less():
    config = small("train.batch_size=8", "data.crop_size=96,192")
    plain = estimate_memory(config)
    assert estimate_memory(config.override("train.amp=bf16")).saved < 0.7 * plain.saved
    halves = estimate_memory(config.override("train.accumulate=2"))
    assert halves.saved == pytest.approx(plain.saved / 2, rel=0.01)
    assert halves.step > halves.saved + halves.gradients


def test_attention_never_costs_the_square_of_the_tokens():
    sides = [estimate_memory(small(f"data.crop_size={s},{s}")).activations["encoder"]
             for s in (64, 128, 256)]  # fmt: skip
    assert sides[2] / sides[1] == pytest.approx(4, rel=0.02)
    assert sides[1] / sides[0] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("settings", [(), ("train.amp=bf16", "train.micro_batch=1")])
def test_shapes_that_are_remembered_change_nothing(monkeypatch, settings):
    config = small("model.head=naive", "train.batch_size=4", *settings)
    remembered, runs = estimate_memory(config), []
    monkeypatch.setattr(memory._Shapes, "run", lambda self, func, args, kwargs: runs.append(
        func) or func(*args, **kwargs))
    assert estimate_memory(config) == remembered
    assert len(runs) > 500


def test_a_table_and_a_mistake():
    estimate = estimate_memory(small())
    lines = estimate.table().splitlines()
    assert [line.split("  ")[0] for line in lines][-1] == "peak"
    assert lines[-1].split()[-2:] == ["100.0", "%"]
    assert sum(float(line.split()[-2]) for line in lines[:-1]) == pytest.approx(100, abs=0.5)
    assert (format_bytes(3 * 2**29), format_bytes(2**20)) == ("1.50 GiB", "1 MiB")
    with pytest.raises(UserError, match=r"train.batch_size=2: not a multiple of 8 processes x"):
        estimate_memory(small(), processes=8)
