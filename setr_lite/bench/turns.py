"""Two programs take turns at the same work, each in a process of its own, and are timed.

A side is a process that reads one JSON object a line and answers each with one:

1. the task, a dictionary; the side builds its model and answers with its versions;
2. ``{"do": "run"}``: do the work once, answer ``seconds`` and ``probe``, numbers of the result;
3. ``{"do": "memory"}``: answer ``bytes``, the most that was taken since the task was built.

The machine's speed changes from minute to minute, so sides alternate and ratios are taken turn by
turn. Nothing here knows SETR: a side may be written against any library, see `serve`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import UserError

Task = dict[str, Any]


class Work(NamedTuple):
    """What a side does in its turn."""

    step: Callable[[], Any]
    """Does the work once."""
    probe: Callable[[Any], Sequence[float]]
    """Some numbers of what `step` returned, by which two sides are seen to do the same."""
    versions: dict[str, str]
    """Of the libraries that matter."""


class Side:
    """A side in this process: the counterpart of `Process` without a pipe, and what it serves."""

    def __init__(self, make: Callable[[Task], Work], task: Task) -> None:
        torch.set_num_threads(task["threads"])
        self.device = torch.device(task["device"])
        self.work = make(task)
        gc.collect()
        self.before = _forget_peak(self.device)

    @property
    def versions(self) -> dict[str, str]:
        """Python, torch and what the work names."""
        return {"python": platform.python_version(), "torch": torch.__version__,
                **self.work.versions}  # fmt: skip

    def run(self) -> dict[str, Any]:
        """``seconds`` and ``probe`` of one turn; a GPU is waited for before and after."""
        _wait(self.device)
        begin = time.perf_counter()
        result = self.work.step()
        _wait(self.device)
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "probe": [float(value) for value in self.work.probe(result)]}

    def memory(self) -> int:
        """The most bytes taken at a time, beyond what model and input had taken before."""
        return _peak(self.device) - self.before

    def stop(self) -> None:
        """Nothing to end."""


class Process:
    """A side in a process of its own.

    Args:
        command: starts a program that calls `serve`.
        task: what it is to build.

    Raises:
        UserError: the program cannot be started, ends early, or reports a mistake.
    """

    def __init__(self, command: Sequence[str], task: Task) -> None:
        home = str(Path(__file__).parents[2])
        path = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])
        env = os.environ | {"OMP_NUM_THREADS": str(task["threads"]), "PYTHONPATH": path}
        self.command = command
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
            assert self.process.stdin is not None  # pipes, both of them
            assert self.process.stdout is not None
            self.ask, self.answers = self.process.stdin, self.process.stdout
        except OSError as error:
            raise UserError(f"{command[0]}: cannot be started ({error.strerror})") from error
        self.versions = self._ask(task)["versions"]

    def run(self) -> dict[str, Any]:
        """As `Side.run`."""
        return self._ask({"do": "run"})

    def memory(self) -> int:
        """As `Side.memory`."""
        return self._ask({"do": "memory"})["bytes"]

    def stop(self) -> None:
        """End the process."""
        self.ask.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.answers.close()

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            self.ask.write(json.dumps(message) + "\n")
            self.ask.flush()
            line = self.answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise UserError(
                f"{' '.join(self.command)}: ended without an answer; its last words are above")
        answer = json.loads(line)
        if "error" in answer:
            self.stop()
            raise UserError(answer["error"])
        return answer


def serve(make: Callable[[Task], Work]) -> None:
    """Be a side: answer on the standard output until the standard input ends.

    Whatever libraries print goes to the standard error.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    side = None
    for line in sys.stdin:
        message = json.loads(line)
        try:
            if side is None:
                side = Side(make, message)
                say({"versions": side.versions})
            else:
                say(side.run() if message["do"] == "run" else {"bytes": side.memory()})
        except UserError as error:
            say({"error": str(error)})


def some_values(result: torch.Tensor) -> list[float]:
    """Eight numbers spread over a result, without a copy of it: that would count as memory."""
    places = range(0, result.numel(), max(1, result.numel() // 8))[:8]
    index = torch.unravel_index(torch.tensor(places, device=result.device), result.shape)
    return result.detach()[index].float().tolist()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget_peak(device: torch.device) -> int:
    """Start to look for the peak; the bytes taken now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if platform.system() != "Linux":
        return _high_water()
    # What earlier work has freed but not returned would hide as much of the peak.
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the kernel's high-water mark falls to now
    return _status("VmRSS")


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM") if platform.system() == "Linux" else _high_water()


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def _high_water() -> int:
    """The peak of the process's whole life; macOS counts it in bytes, others in KiB."""
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if platform.system() == "Darwin" else most * 1024
