"""Copies of the library with a bug in them, and functions that run against one.

A child forked from this process has PyTorch loaded already and forgets the healthy library: it
imports that of the copy. What its function returns comes back as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

from .planted import Bug, planted

LOADED = (
    "cv2", "PIL.Image", "tqdm", "safetensors.torch", "torch._dynamo", "torch.nn.parallel",
    "torch.utils.tensorboard", "timm.models.vision_transformer",
)  # fmt: skip
"""What children would load again and again."""


def load_once() -> None:
    """Import what all children need, but for the library."""
    for name in LOADED:
        importlib.import_module(name)


def make_copy(library: Path, folder: Path, bug: Bug | None) -> Path:
    """`folder` with ``setr_lite`` in it, healthy or with the bug; it may be there already."""
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(library, part / "setr_lite", ignore=shutil.ignore_patterns("__pycache__"))
        if bug:
            file = part / "setr_lite" / bug.file
            text = planted(file.read_text("utf-8"), bug.before, bug.after, bug.file)
            file.write_text(text, "utf-8")
        part.rename(folder)
    return folder


def run_in(copy: Path, function: str, *arguments: Any) -> tuple[Any, float]:
    """``silent.MODULE:NAME`` called in a child against the library in `copy`.

    Returns:
        What it returned, or ``{"error": its last line}``, and the seconds of processor time that
        the child took, with those of its own children.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        os.close(reader)
        os._exit(_child(copy, function, arguments, writer))
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    _, _, used = os.wait4(process, 0)
    found = json.loads(answer) if answer else {"error": "the process died"}
    return found, round(used.ru_utime + used.ru_stime, 2)


def _child(copy: Path, function: str, arguments: tuple[Any, ...], writer: int) -> int:
    try:
        _forget_library(copy)
        module, name = function.split(":")
        answer = getattr(importlib.import_module(module), name)(*arguments)
    except BaseException as error:  # a bug may break anything
        if os.environ.get("SILENT_DEBUG"):
            traceback.print_exc()
        answer = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"}
    with os.fdopen(writer, "wb") as pipe:
        pipe.write(json.dumps(answer).encode())
    sys.stdout.flush()
    return 0


def _forget_library(copy: Path) -> None:
    """The next import of the library takes that of `copy`."""
    import torch

    for name in [name for name in sys.modules if name.partition(".")[0] == "setr_lite"]:
        del sys.modules[name]
    for name in ("silent.checks", "silent.costs", "silent.reference"):
        sys.modules.pop(name, None)
    sys.path.insert(0, str(copy))
    importlib.invalidate_caches()
    found = Path(importlib.import_module("setr_lite").__file__ or "").resolve()
    if found.parent.parent != copy.resolve():
        raise RuntimeError(f"{found} is not in {copy}")
    torch.set_num_threads(1)
    torch.manual_seed(0)
