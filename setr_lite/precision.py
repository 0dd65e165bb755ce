"""In which precision is computed: float32, or bfloat16 where the processor is made for it.

Under autocast the matrix products, and with them nearly all of the arithmetic, take bfloat16
inputs and add up in float32; norms, softmax and loss stay in float32, and so do weights, gradients
and the optimiser's state. TF32, which rounds the inputs of float32 products, stays as PyTorch has
it: off for matrix products, on for convolutions (`torch.backends.cudnn.allow_tf32`).
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

import torch

Amp = Literal["auto", "off", "bf16"]
CPU_FLAGS = {"amx_bf16", "avx512_bf16"}
"""Of x86 processors, any of which makes bfloat16 products faster than those in float32."""


def uses_bf16(amp: Amp, device: torch.device) -> bool:
    """What a setting means on `device`: ``auto`` is bfloat16 where that is made for it.

    The meta device, on which memory and arithmetic are worked out, counts as such a one, and so
    does a GPU that is not here.
    """
    return amp == "bf16" or (amp == "auto" and _made_for_bf16(device.type))


@functools.cache
def _made_for_bf16(kind: str) -> bool:
    if kind == "cuda" and torch.cuda.is_available():  # older GPUs emulate it, slower than float32
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return kind != "cpu" or bool(CPU_FLAGS & _cpu_flags())


def _cpu_flags(info: Path = Path("/proc/cpuinfo")) -> set[str]:
    """What Linux says that the processor can do; nothing elsewhere."""
    try:
        lines = info.read_text(errors="replace").splitlines()
    except OSError:
        return set()
    found = (line.split(":", 1)[1].split() for line in lines if line.startswith("flags"))
    return set(next(found, []))


def autocast(device: torch.device, bf16: bool) -> torch.autocast:
    """Autocast to bfloat16, or to nothing."""
    kind = "cpu" if device.type == "meta" else device.type
    # every weight is used once: kept casts would only take memory, see `recompute.MicroBatches`
    return torch.autocast(kind, torch.bfloat16, enabled=bf16, cache_enabled=False)


def in_words(amp: Amp, device: torch.device, published: bool = False) -> str:
    """A line for a person: what is computed in what, what that costs, and how to change it."""
    origin = "; published in float32, which train.amp=off takes" if published else ""
    if uses_bf16(amp, device):
        return (
            "bfloat16 autocast: matrix products of 8 significant bits instead of 24, weights and "
            f"updates in float32{origin}"
        )
    faster = amp == "off" and uses_bf16("auto", device)
    return "float32" + ("; train.amp=bf16 would be faster on this device" if faster else "")
