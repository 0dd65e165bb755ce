"""Batches by number: bad images and dead loader processes, replaced or named."""

import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from setr_lite.datasets import load_dataset
from setr_lite.datasets.feed import TRIES, Faults, Feed, loader_processes
from setr_lite.errors import UserError
from setr_lite.recipes import get_recipe

SAMPLE = Path(__file__).parents[2] / "data" / "sample" / "toytown_cityscapes"


@pytest.fixture
def town(tmp_path):
    """Four streets: an epoch is two batches of two."""
    shutil.copytree(SAMPLE, tmp_path / "town")
    images = sorted((tmp_path / "town" / "leftImg8bit" / "train").rglob("*.png"))
    for image in images[4:]:
        image.unlink()
    return tmp_path / "town", images[:4]


def feed(root, *settings):
    config = get_recipe("toytown_naive").override(
        f"data.root={root}", "train.batch_size=2", "train.steps=8", "data.crop_size=16x16",
        *settings)  # fmt: skip
    said, faults = [], Faults()
    return Feed(config, load_dataset(config.data, "train"), faults, warn=said.append), said, faults


def name_of(image):
    return image.stem.removesuffix("_leftImg8bit")


def same(one, other):
    assert one.names == other.names
    assert torch.equal(one.image, other.image)
    assert torch.equal(one.label, other.label)


def test_batches_carry_the_names_of_their_images(town):
    root, images = town
    batches = list(feed(root)[0].batches(0))
    assert len(batches) == 8
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        epoch = {*first.names, *second.names}
        assert epoch == set(map(name_of, images))
    same(next(feed(root)[0].batches(5)), batches[5])


def test_a_bad_image_ends_the_run(town):
    root, images = town
    images[1].write_bytes(b"")
    with pytest.raises(UserError) as caught:
        list(feed(root)[0].batches(4))
    text = str(caught.value)
    assert text.startswith(("step 5, epoch 3: ", "step 6, epoch 3: "))
    assert f"{images[1]}: cannot be read as an image" in text
    assert text.endswith("; train.on_bad_image=skip takes another image instead")
    assert "\n" not in text


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_is_replaced_by_the_same_one_every_time(town, workers):
    root, images = town
    images[1].write_bytes(b"")
    settings = ("train.on_bad_image=skip", f"train.workers={workers}")
    batches, said, faults = feed(root, *settings)
    whole = list(batches.batches(0))
    assert faults.images == len(said) >= 4  # once an epoch, or again as a replacement
    assert said[0].startswith(("step 1, epoch 1: skipped an image, 1 so far: ",
                               "step 2, epoch 1: skipped an image, 1 so far: "))  # fmt: skip
    assert all(f"{images[1]}: cannot be read" in text for text in said)
    again = list(feed(root, *settings)[0].batches(3))
    for one, other in zip(again, whole[3:], strict=True):
        same(one, other)
    assert name_of(images[1]) not in {name for batch in whole for name in batch.names}


def test_nothing_can_be_read(town):
    root, images = town
    for image in images:
        image.write_bytes(b"")
    with pytest.raises(UserError, match=rf"step 1, epoch 1: .*\({TRIES} images in a row; the fir"):
        list(feed(root, "train.on_bad_image=skip")[0].batches(0))


def kill_one():
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)


def test_a_dead_loader_process_costs_no_step(town):
    root, _ = town
    expected = list(feed(root)[0].batches(0))
    batches, said, faults = feed(root, "train.workers=1", "train.on_bad_image=skip")
    for number, batch in enumerate(batches.batches(0)):
        same(batch, expected[number])
        if number == 2:
            kill_one()
    assert number == 7
    assert faults == Faults(images=0, workers=1)
    assert "a loader process died while it prepared this step or a later one; 1 so far" in said[0]


def test_a_dead_loader_process_ends_the_run(town):
    batches = feed(town[0], "train.workers=1")[0].batches(0)
    next(batches)
    kill_one()
    with pytest.raises(UserError, match=r"step \d: a loader process died .*fewer train.workers"):
        list(batches)


def test_no_handler_of_torch_is_left_to_raise_anywhere(town):
    before = signal.getsignal(signal.SIGCHLD)
    try:
        # what a loader of somebody else leaves in a process; PyTorch sets it once only
        signal_handling._SIGCHLD_handler_set = False
        list(DataLoader(range(2), num_workers=1))
        left = signal.getsignal(signal.SIGCHLD)
        assert left.__module__ == signal_handling.__name__
        next(feed(town[0], "train.workers=1")[0].batches(0))
        assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
        own = lambda number, frame: None  # noqa: E731
        signal.signal(signal.SIGCHLD, own)
        next(feed(town[0], "train.workers=1")[0].batches(0))
        assert signal.getsignal(signal.SIGCHLD) is own
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_loader_processes_are_bounded(monkeypatch):
    """Ten thousand once started hundreds of processes to score two images."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(8), raising=False)
    assert [loader_processes(n, 100) for n in (0, 1, 32)] == [0, 1, 32]
    assert loader_processes(8, 2) == 2
    with pytest.raises(UserError, match=r"train.workers=33: more .* can use; train.workers=32"):
        loader_processes(33, 2)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(1), raising=False)
    assert loader_processes(16, 100) == 16
    with pytest.raises(UserError, match=r"train.workers=16 fits its 1 cores"):
        loader_processes(10_000, 2)


@pytest.mark.parametrize(("cores", "processes", "count"), [
    (1, 1, 0), (2, 1, 1), (8, 1, 7), (64, 1, 8), (64, 8, 7), (8, 8, 0),
])  # fmt: skip
def test_loader_processes_by_the_cores_and_the_cards(monkeypatch, cores, processes, count):
    monkeypatch.setattr(os, "sched_getaffinity", lambda who: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert loader_processes(-1, 100) == count
    assert loader_processes(3, 100) == 3
