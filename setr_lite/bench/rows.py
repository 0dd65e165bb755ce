"""Benchmarks as ratios: the same work here and elsewhere, in turns, in one run.

`bench` starts both sides (`turns`), lets them alternate and compares turn by turn. Speeds of
one program alone depend on the machine and its hour; ratios of neighbouring turns hardly do.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ..config import DataConfig
from ..datasets.layouts import data_root, load_dataset
from ..errors import UserError
from ..files import written_beside
from ..recipes.named import get_recipe
from ..running.memory import estimate_memory, format_bytes
from .ours import run_config
from .turns import Process, Task
from .what import Bench

OURS = (sys.executable, "-m", "setr_lite.bench.ours")
"""The command of our side."""
MMSEG = Path(__file__).with_name("mmseg_side.py")
"""Speaks for mmsegmentation, in an environment that has it."""

Row = dict[str, Any]


def of_recipe(recipe: str, settings: Sequence[str] = (), **others: Any) -> Bench:
    """The memory of a recipe's step: its model, crop, optimiser and precision, `batch` images.

    Raises:
        UserError: an unknown recipe or setting.
    """
    get_recipe(recipe)
    what = Bench("memory", recipe=recipe, settings=tuple(settings), **others)
    config = run_config(what.task())
    model = config.model
    return replace(
        what, encoder=model.encoder, head=model.head, dialect=model.dialect,
        classes=model.num_classes, size=config.data.crop_size, amp=config.train.amp)


def bench(
    what: Bench,
    *,
    against: str = "",
    python: str = "",
    start: Callable[[tuple[str, ...], Task], Any] = Process,
) -> Row:
    """Measure one row.

    Args:
        what: the work.
        against: ``plain``, the same in plain PyTorch with full-size logits; ``mmseg``,
            mmsegmentation 1.2.2 with the same weights; a Python file that serves as a side; empty
            measures our side alone.
        python: the interpreter of the other side; empty takes this one.
        start: for tests only.

    Returns:
        The fields of `what`, and

        ====================  ============================================================
        key                   value
        ====================  ============================================================
        ``ours``, ``theirs``  dicts: ``seconds`` of each turn, ``median``, ``bytes`` at the peak,
                              ``images_per_second``, ``versions``
        ``ratio``             their time / ours: ``median``, ``low`` and ``high`` over turns
        ``memory_ratio``      our peak / theirs, the other way round than ``ratio``
        ``difference``        of the first results, relative to the largest value
        ``machine``           processor, cores, system
        ====================  ============================================================

        Without another side only ``ours`` and ``machine``.

    Raises:
        UserError: a setting that cannot be, no such side, or a mistake that a side reports.
    """
    with tempfile.TemporaryDirectory() as folder:
        task = what.task()
        command, other = _other_side(what, task, against, python)
        if other and other["form"] != "plain":
            task["hand_over"] = other["hand_over"] = str(Path(folder) / "task.pt")
        sides = [start(OURS, task)]
        try:
            if other:
                sides.append(start(command, other))
            results = _take_turns(sides, what.turns)
            row = _row(what, task, sides, results)
        finally:
            for side in sides:
                side.stop()
    return row | ({"against": against} if other else {}) | _estimate(what, row)


def _other_side(
    what: Bench, task: Task, against: str, python: str
) -> tuple[tuple[str, ...], Task | None]:
    """How the other side is started, and its task."""
    other = task | {"amp": what.their_amp, "compile": False}
    if not against or what.kind == "memory":
        return (), None
    if against == "plain":
        plain = what.kind in ("loss", "train", "eval") or what.labels
        if not plain:
            raise UserError(
                f"{what.kind} has no plain form; give --against mmseg, or forward --labels")
        return (python or sys.executable, *OURS[1:]), other | {"form": "plain"}
    script = MMSEG if against == "mmseg" else Path(against)
    if not script.is_file():
        raise UserError(f"{script}: no such file; --against takes plain, mmseg or a script")
    if what.kind == "loss":
        raise UserError("loss is measured with --against plain: mmsegmentation calls PyTorch's own")
    if what.kind == "data":
        other["files"] = _files(what)
    return (python or sys.executable, str(script)), other


def _files(what: Bench) -> list[tuple[str, str]]:
    if what.data != "ade20k":
        raise UserError(f"data {what.data}: against another program only ade20k is measured")
    data = DataConfig(name=what.data, root=what.root)
    dataset = load_dataset(replace(data, root=str(data_root(data))), what.split)
    return [(str(image), str(label)) for image, label in dataset.files]


def _take_turns(sides: list[Any], turns: int) -> list[list[dict[str, Any]]]:
    """Answers by side; the first of each is the warm-up."""
    results: list[list[dict[str, Any]]] = [[] for _ in sides]
    for _ in range(turns + 1):
        for side, result in zip(sides, results, strict=True):
            result.append(side.run())
    return results


def _row(
    what: Bench, task: Task, sides: list[Any], results: list[list[dict[str, Any]]]
) -> Row:
    per_turn = what.images if what.kind == "data" else what.batch
    parts = []
    for side, answers in zip(sides, results, strict=True):
        seconds = [answer["seconds"] for answer in answers[1:]]
        median = statistics.median(seconds)
        parts.append({
            "seconds": seconds, "median": median, "images_per_second": per_turn / median,
            "bytes": side.memory(), "versions": side.versions,
        })  # fmt: skip
    row = asdict(what) | {
        "threads": task["threads"], "ours": parts[0], "machine": _machine(what.device),
    }  # fmt: skip
    if len(parts) == 1:
        return row
    theirs = parts[1]
    ratios = [b / a for a, b in zip(parts[0]["seconds"], theirs["seconds"], strict=True)]
    median = statistics.median(ratios)
    return row | {
        "theirs": theirs,
        "ratio": {"median": median, "low": min(ratios), "high": max(ratios)},
        "memory_ratio": parts[0]["bytes"] / max(theirs["bytes"], 1),
        "difference": _difference(*(answers[0]["probe"] for answers in results)),
        "same_weights": task["same_weights"] and what.kind not in ("data", "loss"),
    }


def _difference(ours: list[float], theirs: list[float]) -> float | None:
    if not ours or len(ours) != len(theirs):
        return None
    worst = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    return worst / (max(map(abs, theirs)) or 1.0)


def _machine(device: str) -> dict[str, Any]:
    name, info = platform.processor(), Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    gpu = {"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}
    return {"cpu": name, "cores": os.cpu_count(), "system": platform.system(), **gpu}


def _estimate(what: Bench, row: Row) -> Row:
    """With ``memory``: what `estimate_memory` says of the same step."""
    if what.kind != "memory":
        return {}
    found = estimate_memory(run_config(what.task()))
    # weights and batch were there before the first step
    expected = found.peak - found.weights - found.batch
    return {"estimated_bytes": expected, "estimate_ratio": expected / row["ours"]["bytes"],
            "dominant": found.dominant}  # fmt: skip


def describe(row: Row) -> str:
    """A row as lines to read."""
    ours, theirs = row["ours"], row.get("theirs")
    name = f"{row['kind']} {row['encoder']} {row['head']} {row['dialect']}"
    if row["kind"] in ("data", "loss"):
        name = row["kind"]
    if row["recipe"]:
        name = " ".join([row["kind"], row["recipe"], *row["settings"]])
    name += " to class map" if row["labels"] else ""
    size = "x".join(map(str, row["image_size"] or row["size"]))
    lines = [f"{name}, {size}, batch {row['batch']}, {row['classes']} classes",
             f"  {_side('setr_lite', ours)}"]  # fmt: skip
    if theirs:
        ratio, lines = row["ratio"], [*lines, f"  {_side(Path(row['against']).stem, theirs)}"]
        lines.append(
            f"  {ratio['median']:.2f}x as fast ({ratio['low']:.2f} to {ratio['high']:.2f} over"
            f" {row['turns']} turns), {row['memory_ratio']:.2f}x the memory"
        )
        if row["difference"] is not None:
            same = "same weights" if row["same_weights"] else "same input"
            lines.append(f"  results differ by {row['difference']:.1e} ({same})")
    if "estimated_bytes" in row:
        lines.append(f"  estimate_memory says {format_bytes(row['estimated_bytes'])},"
                     f" {row['estimate_ratio']:.3f} of it; with the weights, the largest part: "
                     + row["dominant"])  # fmt: skip
    return "\n".join(lines)


def _side(name: str, part: dict[str, Any]) -> str:
    return (
        f"{name:<12}{part['median']:10.4f} s {part['images_per_second']:9.2f} images/s"
        f" {format_bytes(part['bytes']):>11} peak"
    )


def describe_setting(row: Row) -> str:
    """Machine, threads and versions of a row, one line."""
    machine = row["machine"]
    text = f"{machine.get('gpu', machine['cpu'])}, {row['threads']} threads; "
    versions = {"setr_lite": row["ours"], "the other": row.get("theirs")}
    return text + "; ".join(
        f"{name}: " + ", ".join(f"{k} {v}" for k, v in part["versions"].items())
        for name, part in versions.items() if part
    )  # fmt: skip


def save_row(row: Row, path: str | Path, command: str) -> None:
    """Add a row to a JSON list in a file, in place of an older one of the same command.

    Raises:
        UserError: the file cannot be written, or is no such list.
    """
    path = Path(path)
    row = {"command": command, **row}
    try:
        rows = json.loads(path.read_text()) if path.exists() else []
        rows = [old for old in rows if (old["command"], old["head"]) != (command, row["head"])]
        with written_beside(path) as part:
            part.write_text(json.dumps([*rows, row], indent=1) + "\n")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: cannot hold the results ({error})") from error
