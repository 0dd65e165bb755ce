"""What a device has to give, and what a training step asks of it.

Model FLOPs utilisation (MFU) is the share of a device's arithmetic that reaches the model: the
floating-point operations of forward and backward pass, times images a second, over the rate at
which this device multiplies matrices. That rate is measured here and now instead of read off a
table of GPUs, so MFU says how far a run is from what the device has been seen to do. What
`running.recompute` computes again counts as time and not as work.
"""

from __future__ import annotations

import os
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from .. import distributed
from ..config import RunConfig
from ..model import SETR
from ..precision import uses_bf16
from ..step import add_gradients

DATA_SHEETS: dict[str, tuple[float | None, float]] = {
    "H200": (989e12, 67e12), "H100 PCIe": (756e12, 51e12), "H100": (989e12, 67e12),
    "A100": (312e12, 19.5e12), "L40S": (362e12, 91.6e12), "L4": (121e12, 30.3e12),
    "A10": (125e12, 31.2e12), "RTX 4090": (165e12, 82.6e12), "RTX 3090": (71e12, 35.6e12),
    "T4": (None, 8.1e12), "V100-SXM2": (None, 15.7e12),
}  # fmt: skip
"""FLOP a second of matrix products in bfloat16, adding up in float32, and in float32 without TF32:
as NVIDIA states them, without sparsity, read in tables that quote its data sheets (of the GeForce
GPUs, cores times clock). None: not made for it. The first key that is a word of a GPU's name
counts, if no word of `OTHERS` follows."""

OTHERS = "NVL|Ti|D|SUPER|Laptop|MIG"
"""Words in the names of GPUs that are slower or faster than those of `DATA_SHEETS`."""

WARM_UP = 0.3
"""Seconds of work before a GPU's rate is measured: its clock rises under load."""

SIDES = {"cuda": 8192, "cpu": 768}
"""Of the square matrices whose product is timed: large enough that the arithmetic decides."""


@dataclass(frozen=True)
class Speed:
    """What one image costs and what one device can do."""

    flops: float
    """Of one image, forward and backward; a multiplication and an addition are two."""
    rate: float
    """FLOP a second of one device, see `matmul_rate`."""
    sheet: float | None = None
    """The same by its data sheet, see `DATA_SHEETS`; None where it is not known."""

    def mfu(self, images_per_s: float, devices: int = 1) -> float:
        """Model FLOPs utilisation, 0..1, of a run on so many devices."""
        return images_per_s * self.flops / (self.rate * devices)

    def text(self, images_per_s: float, devices: int = 1) -> str:
        """``MFU 43%``, and behind it that by the data sheet.

        A device that was busy with other work when its rate was measured seems to do more than it
        can: that is no number to show.
        """
        mfu = self.mfu(images_per_s, devices)
        if mfu > 1:
            return "MFU not known, the device was busy when its rate was measured"
        by_sheet = f", {mfu * self.rate / self.sheet:.0%} by the data sheet" if self.sheet else ""
        return f"MFU {mfu:.0%}{by_sheet}"


def measure_speed(config: RunConfig, device: torch.device) -> Speed:
    """The FLOPs of a run's step and the matmul rate of `device` in the run's precision."""
    dtype = torch.bfloat16 if uses_bf16(config.train.amp, device) else torch.float32
    return Speed(image_flops(config), matmul_rate(device, dtype), sheet_rate(device, dtype))


def sheet_rate(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOP a second of a GPU in bfloat16 or float32 by its data sheet, if it is listed."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    rates = next((rates for words, rates in DATA_SHEETS.items()
                  if re.search(rf"\b{words}\b(?!.*\b({OTHERS})\b)", name)), None)  # fmt: skip
    return rates[dtype != torch.bfloat16] if rates else None


def on_device(config: RunConfig, device: torch.device) -> RunConfig:
    """`config` with what ``train.amp=auto`` means on `device`."""
    return config.override(f"train.amp={'bf16' if uses_bf16(config.train.amp, device) else 'off'}")


def image_flops(config: RunConfig) -> float:
    """FLOPs of one image in a training step, counted on PyTorch's ``meta`` device.

    Matrix products, convolutions and attention, forward and backward, of all heads and the loss;
    what runs element by element is left out, as usual. A frozen encoder has no backward pass,
    and one whose tokens come out of a cache no forward pass either.
    """
    batch = 2  # BatchNorm in training refuses a single value
    with torch.device("meta"):
        model = SETR.from_config(config.model).train()
        image = torch.empty(batch, 3, *config.data.crop_size)
        label = torch.empty(batch, *config.data.crop_size, dtype=torch.uint8)
    if config.train.freeze_encoder:
        model.encoder.requires_grad_(False)
    if config.train.feature_cache:
        patch = model.encoder.patch_size
        whole = (side + -side % patch for side in config.data.crop_size)  # as SETR pads it
        tokens = model.encoder(image.new_empty(batch, 3, *whole))
        model.encoder.__dict__["forward"] = lambda _: tokens  # the instance's own
    with FlopCounterMode(display=False) as counter:
        add_gradients(model, image, label, config.override("train.accumulate=1"))
    return counter.get_total_flops() / batch


def matmul_rate(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """FLOP a second of a square matrix product on `device`, now; takes a fraction of a second.

    The best of five, since other work on the machine only ever takes away.
    """
    side = SIDES.get(device.type, SIDES["cpu"])
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best, start = float("inf"), time.perf_counter()
    while device.type == "cuda" and time.perf_counter() - start < WARM_UP:
        torch.mm(a, b)
        torch.cuda.synchronize(device)
    for _ in range(6):  # the first one warms up
        begin = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best


def free_memory(device: torch.device) -> int:
    """Bytes that a run could take on `device` now.

    On CUDA what the driver and PyTorch's own allocator have free. On a CPU what the system has
    available, and no more than the control group of a container leaves.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    limits = [_available(), _left_in_group(Path("/sys/fs/cgroup"))]
    return min(limit for limit in limits if limit is not None)


def peak_memory(device: torch.device) -> int:
    """Bytes taken at the highest so far: on CUDA what PyTorch has reserved, else by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    status = Path("/proc/self/status")
    highest = re.search(r"VmHWM:\s+(\d+) kB", status.read_text() if status.exists() else "")
    if highest:  # getrusage goes on from the highest of the process that started this one
        return int(highest[1]) * 1024
    import resource  # not on Windows, where CUDA may be

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if platform.system() == "Darwin" else most * 1024


def _available() -> int:
    info = Path("/proc/meminfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # macOS does not say


def _left_in_group(group: Path) -> int | None:
    try:
        limit, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        return int(limit) - int(used)
    except (OSError, ValueError):  # no such group, or "max": without a limit
        return None


def smallest_free_memory(device: torch.device) -> int:
    """`free_memory` of the process that has least, so that all of them plan with the same."""
    return distributed.smallest_over_ranks(free_memory(device), device)


def format_seconds(seconds: float) -> str:
    """``4.2 s``, ``4 min 46 s``, ``2 h 41 min``, ``3 d 4 h``."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    for large, name, small, rest in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= large:
            return f"{seconds // large:.0f} {name} {seconds % large // small:.0f} {rest}"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
