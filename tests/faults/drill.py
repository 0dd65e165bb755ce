"""What the drills share: a tiny run, accidents that happen at a chosen step, and a judge."""

from __future__ import annotations

import contextlib
import csv
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from setr_lite import checkpoint
from setr_lite.cli import main
from setr_lite.encoder import PRESETS
from setr_lite.model import SETR
from setr_lite.optim import build_optimizer
from setr_lite.running.meters import Speed

SAMPLE = Path(__file__).parents[2] / "data" / "sample" / "toytown_cityscapes"
STEPS = 16
PRESETS["speck"] = {**PRESETS["toy"], "embed_dim": 24}
"""So small that sixteen checkpoints of a run are written in no time."""
FULL = os.environ.get("DRILL") == "full"
"""The full drill, `make test-faults`; else the short form that is part of `make test`."""


def command(out: Path, *more: str, data: Path = SAMPLE) -> list[str]:
    """A run whose steps take hundredths of a second; every step is logged and saved."""
    return [
        "train", "toytown_naive", f"data.root={data}", f"train.out={out}", "train.device=cpu",
        f"train.steps={STEPS}", "train.batch_size=2", "train.workers=0", "train.eval_every=8",
        "train.save_every=1", "train.log_every=1", "data.crop_size=32x48", "eval.limit=2",
        "model.encoder=speck", "model.channels=8", "model.drop_path=0.2", "optim.warmup=5", *more,
    ]  # fmt: skip


def go(words: list[str], accidents: dict[str, int] | None = None, argument: str = "") -> int:
    """The command line, with accidents: name -> number of the step that they come before."""
    module = importlib.import_module("setr_lite.train")  # `setr_lite.train` is the function
    run_class, take_step = module.Run, module.Run.take_step

    def with_accident(run, batch):
        for name, step in (accidents or {}).items():
            if run.progress.step + 1 == step:
                ACCIDENTS[name](run, argument)
        return take_step(run, batch)

    run_class.take_step = with_accident
    module.measure_speed = lambda *_: Speed(1e9, 1e9)  # a second of every start
    return main(words)


def _nan_weight(run, _: str) -> None:
    with torch.no_grad():
        run.model.encoder.blocks[2].mlp.fc1.weight[0, 0] = torch.nan


def _clock_back(run, _: str) -> None:
    import time

    real, calls = time.time, []

    def back() -> float:
        calls.append(1)
        return real() - 3600 * len(calls)

    time.time = back


def _small_files(run, _: str) -> None:
    """From here on no file may grow beyond 50 kB, as if a quota were used up."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))


def _spoil(run, image: str) -> None:
    Path(image).write_bytes(Path(image).read_bytes()[:500])


def _die(run, _: str) -> None:
    import signal

    if os.environ.get("RANK", "0") == "1":
        os.kill(os.getpid(), signal.SIGKILL)


def _term(run, _: str) -> None:
    import signal

    os.kill(os.getpid(), signal.SIGTERM)


def _term_one(run, _: str) -> None:
    if os.environ.get("RANK") == "1":
        _term(run, _)


def _kill_worker(run, _: str) -> None:
    import multiprocessing
    import signal

    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)


def _wait(run, marker: str) -> None:
    """Stand still until the drill has made a file, which tells it that the run got here."""
    import time

    Path(marker).with_suffix(".here").touch()
    while not Path(marker).exists():
        time.sleep(0.005)


ACCIDENTS: dict[str, Callable] = {
    "nan weight": _nan_weight, "clock back": _clock_back, "small files": _small_files,
    "spoil": _spoil, "die": _die, "term": _term, "term one": _term_one,
    "kill worker": _kill_worker, "wait": _wait,
}  # fmt: skip


def loads(last: Path) -> int:
    """The step of a checkpoint from which model and optimiser load, every value finite."""
    config = checkpoint.read_config(last)
    model = SETR.from_config(config.model)
    checkpoint.read_weights(last, model)
    checkpoint.read_optimizer(last, build_optimizer(model, config.optim))
    assert all(v.isfinite().all() for v in model.state_dict().values())
    return checkpoint.read_state(last)["step"]


def rows(out: Path) -> list[tuple[str, ...]]:
    """Step, loss, rate and mIoU of a run's log, as text: equal means equal bits."""
    with open(out / "log.csv", newline="") as file:
        return [(r["step"], r["loss"], r["lr"], r["miou"]) for r in csv.DictReader(file)]


def same(out: Path, undisturbed: Path, steps: int = STEPS) -> None:
    """Both finished, with the same log, weights and optimiser state, bit for bit."""
    from safetensors.torch import load_file

    assert loads(out / "last") == loads(undisturbed / "last") == steps
    assert rows(out) == rows(undisturbed)
    for name in ("last", "best"):
        one, other = (load_file(o / name / "model.safetensors") for o in (out, undisturbed))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    states = [torch.load(o / "last" / "optimizer.pt", weights_only=True)["state"]
              for o in (out, undisturbed)]  # fmt: skip
    for number, values in states[0].items():
        assert all(torch.equal(v, states[1][number][k]) for k, v in values.items())
    left = [p.name for p in out.rglob("*.part")]
    assert left == []


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """`folder` as a mount of its own, for the duration; needs to be root."""
    subprocess.run(["mount", *options, str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def can_mount(folder: Path) -> bool:
    """Whether this process may mount file systems."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return False
    tried = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if tried.returncode == 0:
        subprocess.run(["umount", str(folder)], check=True)
    return tried.returncode == 0
