"""Several machines: two agents of torchrun on this one, and what may differ between them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import run_ranks, start_ranks, wait_for
from safetensors.torch import load_file

from setr_lite import checkpoint, distributed, train
from setr_lite.errors import UserError
from setr_lite.recipes import get_recipe

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "data" / "sample" / "toytown_cityscapes"
STEPS = 6


def settings(out: Path | str, *more: str) -> list[str]:
    return [
        f"data.root={SAMPLE}", f"train.out={out}", "train.device=cpu", f"train.steps={STEPS}",
        "train.batch_size=4", "train.workers=0", "train.eval_every=0", "train.save_every=1",
        "train.log_every=1", "data.crop_size=32x48", "eval.limit=1", "model.channels=8",
        "loss.normalize=valid", *more,
    ]  # fmt: skip


def different(out: str, what: str, root: str) -> int:
    """A process that differs from the other in one thing."""
    more = []
    if os.environ["RANK"] == "1":
        if what == "train.seed":
            more = ["train.seed=7"]
        if what == "the training images":
            more = [f"data.root={root}"]
        if what == "the library":
            sys.modules["setr_lite.train"].__dict__["__version__"] = "0.0.1"
    try:
        train.train(get_recipe("toytown_pup").override(*settings(out), *more), progress=False)
    except UserError as error:
        print(error)
        return 2
    return 0


@pytest.mark.parametrize("what", ["train.seed", "the training images", "the library"])
def test_a_process_that_differs_stops_all(tmp_path, what) -> None:
    other = tmp_path / "other"
    if what == "the training images":
        shutil.copytree(SAMPLE, other)
        next((other / "leftImg8bit" / "train").rglob("*.png")).unlink()
        for labels in (other / "gtFine" / "train").rglob("*.png"):
            name = labels.name.replace("_gtFine_labelTrainIds", "_leftImg8bit").replace(
                "_gtFine_labelIds", "_leftImg8bit")
            if not any((other / "leftImg8bit" / "train").rglob(name)):
                labels.unlink()
    ranks = start_ranks(
        2, different, str(tmp_path / "run"), what, str(other), logs=tmp_path / "says")
    assert [rank.wait() for rank in ranks] == [2, 2], ranks[0].text()
    for rank in ranks:
        assert f"process 1 on {socket.gethostname()} differs from process 0 in {what}: " in (
            rank.text())
    assert not (tmp_path / "run" / "last").exists()


def on_a_machine(place: str, own_disk: bool) -> None:
    """A process that is the first of its machine."""
    os.environ["LOCAL_RANK"] = "0"
    folder = Path(place, os.environ["RANK"] if own_disk else "shared")
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    config = get_recipe("toytown_pup").override(*settings("run", "train.steps=2"))
    train.train(config, progress=False)
    print("writes" if distributed.writes() else "does not write")


@pytest.mark.parametrize("own_disk", [False, True])
def test_who_writes_where_machines_share_a_disk_and_where_they_do_not(tmp_path, own_disk) -> None:
    said = run_ranks(2, on_a_machine, str(tmp_path), own_disk, logs=tmp_path / "says")
    assert ["does not write" not in text for text in said] == [True, own_disk]
    places = sorted(tmp_path.rglob("last"))
    assert len(places) == 1 + own_disk
    one, *others = [load_file(place / "model.safetensors") for place in places]
    for other in others:
        torch.testing.assert_close(other, one, rtol=0, atol=0)
    assert len(list(tmp_path.rglob("log.csv"))) == 1
    assert not list(tmp_path.rglob(".[0-9a-f]*"))  # the probe is gone


def agent(out: Path, port: int, says: Path, *more: str) -> subprocess.Popen:
    """A machine: torchrun with two processes, one of two that meet."""
    words = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=2",
        "--max-restarts=3", "--rdzv_backend=c10d", "--rdzv_id=test", "--monitor_interval=0.1",
        f"--rdzv_endpoint=127.0.0.1:{port}", "-m", "setr_lite", "train", "toytown_pup",
        *settings(out, *more),
    ]  # fmt: skip
    with open(says, "w") as file:
        return subprocess.Popen(
            words, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip


def lose(machine: subprocess.Popen) -> None:
    """The machine is gone, torchrun and its processes at once."""
    os.killpg(machine.pid, signal.SIGKILL)
    children = subprocess.run(
        ["pgrep", "-P", str(machine.pid)], capture_output=True, text=True).stdout.split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    machine.wait()


@pytest.mark.slow
def test_a_machine_is_lost_and_comes_back(tmp_path) -> None:
    """And what is learned is what one process learns."""
    out, alone = tmp_path / "run", tmp_path / "alone"
    more = ("train.steps=40", "optim.name=sgd", "optim.lr=0.02")  # AdamW would enlarge rounding
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    first = agent(out, port, tmp_path / "first.txt", *more)
    second = agent(out, port, tmp_path / "second.txt", *more)
    try:
        wait_for(lambda: checkpoint.exists(out / "last") or first.poll() is not None, 300)
        lose(second)
        second = agent(out, port, tmp_path / "again.txt", *more)
        assert first.wait(300) == 0, (tmp_path / "first.txt").read_text()[-3000:]
        assert second.wait(60) == 0
    finally:
        for machine in (first, second):
            if machine.poll() is None:
                lose(machine)
    said = (tmp_path / "first.txt").read_text()
    assert said.count("x 4, from step ") == 2  # begun twice, the second time by itself
    assert "x 4, from step 0;" in said
    train.train(get_recipe("toytown_pup").override(*settings(alone, *more)), progress=False)
    for folder in (out, alone):
        assert checkpoint.read_state(folder / "last")["finished"]
    learned, expected = (
        load_file(folder / "last" / "model.safetensors") for folder in (out, alone))
    for name, value in expected.items():
        torch.testing.assert_close(learned[name], value, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("again", [False, True])
def test_the_slurm_script_as_far_as_it_goes_without_slurm(tmp_path, again) -> None:
    script = ROOT / "data" / "slurm" / "train.sbatch"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    for name, text in {"srun": 'echo "$@"', "scontrol": "printf 'first\\nsecond\\n'"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    if again:
        (tmp_path / "runs" / "pup_ade20k_512_160k" / "last").mkdir(parents=True)
    done = subprocess.run(
        ["bash", str(script)], cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ | {
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "first,second",
            "SLURM_NNODES": "2", "SLURM_JOB_ID": "17"})  # fmt: skip
    words = done.stdout.split()
    assert words[:2] == ["--kill-on-bad-exit=1", "torchrun"]
    assert {"--nnodes=2", "--rdzv_id=17", "--rdzv_endpoint=first:29500"} < {*words}
    assert ("--resume" in words) == again
    name, *settings = words[words.index("train") + 1 :]
    get_recipe(name).override(*(word for word in settings if word != "--resume"))
