"""Processes for tests: forked from one that has imported everything, so each costs milliseconds
instead of the seconds that `import torch` takes."""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([
    "setr_lite.cli", "setr_lite.train", "setr_lite.recipes", "torch.utils.tensorboard", "cv2",
    "matplotlib.pyplot", "torch.nn.parallel", "torch.distributed.fsdp",
    "torch.distributed.launcher.api", "torch._dynamo",  # which every optimiser imports
])  # fmt: skip


class Child:
    """A process that runs `function` and writes what it prints to a file.

    Its exit code is what the function returns, as a program's would be.
    """

    def __init__(
        self, function: Callable[..., int | None], *arguments: object, log: Path,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self.process = CONTEXT.Process(
            target=_enter, args=(function, arguments, str(log), environment or {}))
        self.process.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 150) -> int:
        """Its exit code; a test fails here that would hang otherwise."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"still running after {seconds} s; it said:\n{self.text()}")
        return self.process.exitcode

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def _enter(function: Callable, arguments: Sequence, log: str, environment: dict[str, str]) -> None:
    import torch

    number = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(number, 1)
    os.dup2(number, 2)
    sys.stdout.reconfigure(line_buffering=True)
    faulthandler.enable()  # an abort in native code says where each thread was
    os.environ.update(environment)
    torch.set_num_threads(1)
    gc.freeze()  # else collecting garbage copies all that was imported, page by page
    sys.exit(function(*arguments))


def start_ranks(
    world: int, function: Callable[..., int | None], *arguments: object, logs: Path
) -> list[Child]:
    """`world` processes with the environment that torchrun would give them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
    }  # fmt: skip
    return [
        Child(
            function, *arguments, log=logs / f"rank{rank}.txt",
            environment={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(world)
    ]


def run_ranks(world: int, function: Callable, *arguments: object, logs: Path) -> list[str]:
    """Run to the end, all well; what each rank printed."""
    children = start_ranks(world, function, *arguments, logs=logs)
    codes = [child.wait() for child in children]
    texts = [child.text() for child in children]
    assert codes == [0] * world, "\n".join(texts)
    return texts


def wait_for(condition: Callable[[], object], seconds: float = 150) -> None:
    """Until `condition` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)
