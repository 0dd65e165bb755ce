"""Several machines: two agents of torchrun on this one, and what may differ between them."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Child, run_ranks, wait_for
from safetensors.torch import load_file

from setr_lite import checkpoint, distributed, train
from setr_lite.errors import UserError
from setr_lite.recipes import get_recipe
from setr_lite.running import agreement

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "data" / "sample" / "toytown_cityscapes"
STEPS, LOST = 6, 4
"""Steps of a run, and the one in which a machine is lost."""


def settings(out: Path | str, *more: str) -> list[str]:
    return [
        f"data.root={SAMPLE}", f"train.out={out}", "train.device=cpu", f"train.steps={STEPS}",
        "train.batch_size=4", "train.workers=0", "train.eval_every=0", "train.save_every=1",
        "train.log_every=1", "data.crop_size=32x48", "eval.limit=1", "model.channels=8",
        "loss.normalize=valid", "optim.name=sgd", "optim.lr=0.02", *more,
    ]  # fmt: skip


def learn(out: Path | str, *more: str) -> None:
    train.train(get_recipe("toytown_pup").override(*settings(out, *more)), progress=False)


def two_processes(place: str) -> None:
    """One of two: what is said where it differs in one thing, and who writes what."""
    second, said = os.environ["RANK"] == "1", []
    for what, differs in {
        "train.seed": ("train.seed=7",), "train.parallel": ("train.parallel=fsdp",),
        "the training images": (f"data.root={place}/other",), "the library": (),
    }.items():  # fmt: skip
        if second and what == "the library":
            agreement.__version__ = "0.0.1"
        try:
            learn(f"{place}/none", *differs if second else ())
        except UserError as error:
            said.append(str(error))
    agreement.__version__ = "the same again"
    os.environ["LOCAL_RANK"] = "0"  # the first of its machine
    for disk in ("shared", f"own{os.environ['RANK']}"):
        Path(place, disk).mkdir(exist_ok=True)
        os.chdir(Path(place, disk))
        learn("run", "train.steps=2", "train.keep_last=2")
        said.append("writes" if distributed.writes() else "does not write")
    print("\n".join(said))


def fewer_images(root: Path) -> None:
    """The sample without one of its training images."""
    shutil.copytree(SAMPLE, root)
    image = min((root / "leftImg8bit" / "train").rglob("*.png"))
    name = image.name.removesuffix("_leftImg8bit.png")
    for file in (image, *(root / "gtFine" / "train").rglob(f"{name}_*")):
        file.unlink()


@pytest.mark.slow
def test_processes_that_differ_stop_all_and_each_disk_is_written_once(tmp_path) -> None:
    fewer_images(tmp_path / "other")
    said = [text.splitlines() for text in run_ranks(
        2, two_processes, str(tmp_path), logs=tmp_path / "says")]
    assert said[0][:4] == said[1][:4]
    for what, line in zip(
        ("train.seed", "train.parallel", "the training images", "the library"), said[0],
        strict=False,
    ):
        assert line.startswith(
            f"process 1 on {platform.node()} differs from process 0 in {what}: "), line
    assert not (tmp_path / "none").exists()
    assert [lines[4:] for lines in said] == [["writes"] * 2, ["does not write", "writes"]]
    places = sorted(tmp_path.rglob("last"))
    assert [place.parts[-3] for place in places] == ["own0", "own1", "shared"]
    one, *others = [load_file(place / "model.safetensors") for place in places]
    for other in others:
        torch.testing.assert_close(other, one, rtol=0, atol=0)
    assert len(list(tmp_path.rglob("log.csv"))) == 2
    assert not list(tmp_path.rglob(".[0-9a-f]*"))  # the probe is gone


def worker(out: str, lost: str) -> None:
    """A process that torchrun starts; with `lost` its machine goes down in a step."""
    torch.set_num_threads(1)
    step = train.Run.take_step

    def once(run: train.Run, batch: Any) -> Any:
        if lost and run.progress.step == LOST:
            os.killpg(0, signal.SIGKILL)
        return step(run, batch)

    train.Run.take_step = once
    print("restarts:", os.environ["TORCHELASTIC_MAX_RESTARTS"])
    train.train(get_recipe("toytown_pup").override(*settings(out)))


def machine(out: str, port: int, lost: str) -> None:
    """torchrun with two processes, one of two that meet; a process group that can be lost."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.setsid()
    quick = {"keep_alive_interval": 2, "keep_alive_max_attempt": 3}  # how soon a machine is missed
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # as `data/slurm/train.sbatch` does
    elastic_launch(LaunchConfig(
        min_nodes=2, max_nodes=2, nproc_per_node=2, run_id="test", rdzv_backend="c10d",
        rdzv_endpoint=f"127.0.0.1:{port}", rdzv_configs=quick, max_restarts=3,
        monitor_interval=0.1, start_method="fork", local_addr="127.0.0.1"), worker)(
        out, lost)  # fmt: skip


@pytest.mark.slow
def test_a_machine_is_lost_and_comes_back(tmp_path) -> None:
    """The other waits for it, they go on by themselves, and learn what one process learns."""
    out, alone = tmp_path / "run", tmp_path / "alone"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def begin(name: str, lost: str = "") -> Child:
        return Child(machine, str(out), port, lost, log=tmp_path / f"{name}.txt")

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    first = begin("first")
    wait_for(answers)  # whoever comes first holds the rendezvous, and has to stay
    second = begin("second", "lost")
    try:
        assert second.wait(300) == -signal.SIGKILL, second.text()
        learned = checkpoint.read_state(out / "last")
        assert learned["step"] in (LOST - 1, LOST)
        assert not learned["finished"]
        second = begin("again")
        assert first.wait(300) == 0, first.text() + second.text()
        assert second.wait(300) == 0, second.text()
    finally:
        for child in (first, second):
            if child.process.is_alive():
                os.killpg(child.pid, signal.SIGKILL)
    said = first.text() + second.text()
    assert said.count("x 4, from step ") == 2, said
    learn(alone)
    found, expected = (load_file(folder / "last" / "model.safetensors") for folder in (out, alone))
    assert checkpoint.read_state(out / "last")["finished"]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_the_slurm_script_as_far_as_it_goes_without_slurm(tmp_path) -> None:
    script = ROOT / "data" / "slurm" / "train.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    for name, text in {"srun": 'echo "$@"', "scontrol": "printf 'first\\nsecond\\n'"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", str(script)], cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ | {
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "first,second",
            "SLURM_NNODES": "2", "SLURM_JOB_ID": "17"})  # fmt: skip
    assert "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in script.read_text()
    words = done.stdout.split()
    assert words[:2] == ["--kill-on-bad-exit=1", "torchrun"]
    asked = {"--nnodes=2", "--rdzv_id=17", "--rdzv_endpoint=first:29500", "--max-restarts=3"}
    assert asked < {*words}
    assert "--resume" not in words  # it goes on by itself where there is something to go on from
    name, *settings = words[words.index("train") + 1 :]
    get_recipe(name).override(*settings)
