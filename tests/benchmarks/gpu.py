"""Everything that a GPU is wanted for, in one command of at most ten minutes.

    make bench-gpu
    .venv/bin/python tests/benchmarks/gpu.py [FOLDER] [--toy] [--only SECTION ...]

Each section is written into FOLDER/gpu.json (default runs/gpu) as soon as it is done, so a run cut
short keeps what it had; after 520 seconds none is started. A section that fails is recorded with
its error, and the next one follows. ``--toy`` takes small sizes: a rehearsal, which
``tests/card/rehearse.py`` holds without a card.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from setr_lite import logits, step
from setr_lite.config import RunConfig
from setr_lite.datasets import load_dataset
from setr_lite.inference import Window, predict_views
from setr_lite.logits import LazyLogits
from setr_lite.losses import cross_entropy, on_gpu, resize_cross_entropy, segmentation_loss
from setr_lite.model import SETR
from setr_lite.optim import build_optimizer
from setr_lite.recipes import get_recipe
from setr_lite.running.guard import Guard
from setr_lite.running.memory import estimate_memory
from setr_lite.running.meters import image_flops, matmul_rate, sheet_rate
from setr_lite.running.recompute import recompute_encoder

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "data" / "sample" / "toytown_cityscapes"
CARD = torch.device("cuda", 0)
LAST_START = 520
"""Seconds after which no section starts."""
PUBLISHED = ("pup_ade20k_512_160k", "mla_ade20k_512_160k", "naive_ade20k_512_160k",
             "pup_cityscapes_768_40k")  # fmt: skip
PRECISIONS = {"float32": ("off", False), "TF32": ("off", True), "bf16": ("bf16", False)}
"""Name -> ``train.amp``, whether float32 products may use TF32."""


def seconds(work: Callable[[], Any], turns: int = 5, warm: int = 2) -> float:
    """The median of `turns` by the card's own clock."""
    found = []
    for _ in range(warm + turns):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        stop.record()
        stop.synchronize()
        found.append(start.elapsed_time(stop) / 1e3)
    return statistics.median(found[warm:])


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Whether float32 matrix products and convolutions may round their inputs to TF32."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = on
    try:
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def card(toy: bool) -> dict[str, Any]:
    """What the card is and does: copies, matrix products in three precisions."""
    a = torch.empty(1 << (20 if toy else 31), dtype=torch.uint8, device=CARD)
    b = torch.empty_like(a)
    found: dict[str, Any] = {
        "name": torch.cuda.get_device_name(), "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "copy_TB_per_s": 2 * a.numel() / seconds(lambda: b.copy_(a)) / 1e12,
    }  # fmt: skip
    for name, (amp, on) in PRECISIONS.items():
        with tf32(on):
            rate = matmul_rate(CARD, torch.bfloat16 if amp == "bf16" else torch.float32)
        found[f"{name}_TFLOP_per_s"] = rate / 1e12
    return found


def same_as_cpu(toy: bool) -> dict[str, Any]:
    """The largest difference of loss and gradients, relative, from the CPU's, in float32."""
    found = {}
    for head in ("naive", "pup", "mla"):
        for dialect in ("official", "mmseg"):
            torch.manual_seed(0)
            settings = {"dialect": dialect, "img_size": (64, 96), "channels": 32}
            here = SETR(19, head, "toy", **settings).train()
            there = SETR(19, head, "toy", **settings).train()
            there.load_state_dict(here.state_dict())
            there.to(CARD, memory_format=torch.channels_last)
            image, label = torch.randn(2, 3, 60, 92), torch.randint(19, (2, 60, 92))
            label[:, :9] = 255
            ours = segmentation_loss(here(image), label)
            cards = segmentation_loss(there(image.to(CARD)), label.to(CARD))
            ours.backward()
            cards.backward()
            pairs = [(p.grad, q.grad.cpu()) for p, q in
                     zip(here.parameters(), there.parameters(), strict=True)
                     if p.grad is not None]  # fmt: skip
            found[f"{head} {dialect}"] = {
                "loss": abs(float(cards.detach()) / float(ours.detach()) - 1),
                "gradient": max(float((g - f).norm() / f.norm().clamp(min=1e-9))
                                for f, g in pairs),
            }  # fmt: skip
    return found


def tests(toy: bool) -> dict[str, Any]:
    """The tests that need CUDA."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", "cuda", "-p", "no:cacheprovider", "tests"],
        cwd=ROOT, capture_output=True, text=True, timeout=200)  # fmt: skip
    return {"exit code": done.returncode, "said": done.stdout[-600:]}


def resume(toy: bool) -> dict[str, Any]:
    """Losses of four steps in one run, and in two with ``--resume`` between."""
    from setr_lite.train import train

    found = {}
    place = Path(OUT / "resume")
    for name, parts in {"once": (4,), "twice": (2, 4)}.items():
        for number, steps in enumerate(parts):
            config = get_recipe("toytown_pup").override(
                f"data.root={SAMPLE}", f"train.out={place / name}", f"train.steps={steps}",
                "train.device=cuda", "train.eval_every=0", "eval.limit=2", "train.log_every=1",
                "train.workers=0")  # fmt: skip
            result = train(config, resume=number > 0, progress=False)
        found[name] = [float(row["loss"]) for row in result["history"] if row.get("loss")]
    return found


def loss(toy: bool) -> dict[str, Any]:
    """One head's loss and its gradient: compiled, by strips, and as plain PyTorch; ms and GiB."""
    batch, classes, side = (2, 19, 64) if toy else (16, 150, 512)
    label = torch.randint(classes, (batch, side, side), device=CARD)

    def plain(x: torch.Tensor) -> torch.Tensor:
        full = F.interpolate(x.float(), size=(side, side), mode="bilinear")
        return F.cross_entropy(full, label, reduction="sum")

    def ours(x: torch.Tensor) -> torch.Tensor:
        return resize_cross_entropy(LazyLogits.of(x).resized((side, side)), label)

    found, compiles = {}, cross_entropy.compiles
    for name, work, at_once in (
        ("compiled", ours, True), ("strips", ours, False), ("plain PyTorch", plain, False)
    ):  # fmt: skip
        cross_entropy.compiles = on_gpu.compiles if at_once else lambda device: False
        low = torch.randn(batch, classes, side // 2, side // 2, device=CARD, dtype=torch.bfloat16)
        low = low.to(memory_format=torch.channels_last).requires_grad_()
        with peak() as most:
            time_taken = seconds(lambda work=work, low=low: work(low).backward(), 3)
        found[name] = {"ms": 1e3 * time_taken, **most}
    cross_entropy.compiles = compiles
    return found


@contextmanager
def peak() -> Iterator[dict[str, float]]:
    """GiB allocated at the highest beyond what was there."""
    found: dict[str, float] = {}
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    yield found
    found["GiB"] = (torch.cuda.max_memory_allocated() - before) / 2**30


class Step:
    """A recipe's training step on random images, with marks on the card's clock."""

    def __init__(self, recipe: str, *settings: str) -> None:
        self.config = get_recipe(recipe).override("model.pretrained=none", *settings)
        train = self.config.train
        with CARD:
            self.model = SETR.from_config(self.config.model).train()
            recompute_encoder(self.model.encoder, train)
        self.model.to(memory_format=torch.channels_last)
        if train.compile:
            for block in self.model.encoder.blocks:
                block.compile()
        self.optimizer = build_optimizer(self.model, self.config.optim)
        self.guard, self.number = Guard(self.optimizer, True), 0
        size = (train.batch_size, *self.config.data.crop_size)
        self.image = torch.randn(size[0], 3, *size[1:], device=CARD)
        self.label = torch.randint(
            self.config.model.num_classes, size, dtype=torch.uint8, device=CARD)
        self.marks: list[tuple[str, torch.cuda.Event]] = []

    def mark(self, name: str) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.marks.append((name, event))

    def __call__(self) -> None:
        self.number += 1
        self.marks.clear()
        self.mark("")
        hooks = [
            self.model.register_forward_hook(lambda *_: self.mark("forward")),
            self.optimizer.register_step_pre_hook(lambda *_: self.mark("norm and guard")),
        ]
        step.take_step(
            self.model, self.optimizer, self.image, self.label, self.config,
            bf16=self.config.train.amp == "bf16", look=self.look)  # fmt: skip
        self.mark("update")
        for hook in hooks:
            hook.remove()

    def look(self, loss: torch.Tensor, norm: torch.Tensor) -> None:
        self.mark("loss and backward")
        self.guard.before_update(self.number, loss, norm)

    def phases(self) -> dict[str, float]:
        """Milliseconds of the last step, by phase."""
        torch.cuda.synchronize()
        pairs = zip(self.marks, self.marks[1:], strict=False)
        return {name: round(a.elapsed_time(b), 2) for (_, a), (name, b) in pairs}


def cases(toy: bool) -> list[tuple[str, tuple[str, ...], bool]]:
    """Recipe, settings, whether TF32 is allowed."""
    recipes = ("toytown_pup", "toytown_mla") if toy else PUBLISHED
    first, bf16 = recipes[0], "train.amp=bf16"
    return [
        *((recipe, (bf16,), False) for recipe in recipes),
        (first, (bf16, "train.compile=true"), False),
        (first, ("train.amp=off",), True), (first, ("train.amp=off",), False),
        (first, (bf16, "train.grad_checkpointing=true"), False),
        (first, (bf16, "train.micro_batch=1"), False),
    ]  # fmt: skip


def steps(toy: bool) -> list[dict[str, Any]]:
    """Training steps: time by phase, images a second, MFU, host time, memory and its estimate."""
    rows = []
    for recipe, settings, on in cases(toy):
        row: dict[str, Any] = {"recipe": recipe, "settings": settings, "TF32": on}
        try:
            with tf32(on):
                row |= measured(Step(recipe, *settings))
        except Exception:
            row["failed"] = traceback.format_exc(limit=-2)
        clear()
        rows.append(row)
        print(row, flush=True)
    return rows


def measured(work: Step) -> dict[str, Any]:
    config: RunConfig = work.config
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    work()
    host = time.perf_counter() - begin
    phases, taken = work.phases(), seconds(work, turns=7, warm=0)
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    bf16 = config.train.amp == "bf16"
    speed = config.train.batch_size / taken
    dtype = torch.bfloat16 if bf16 else torch.float32
    rate, sheet = matmul_rate(CARD, dtype), sheet_rate(CARD, dtype)
    if not bf16 and torch.backends.cuda.matmul.allow_tf32:
        sheet = None  # that of float32 itself
    work_done = speed * image_flops(config)
    return {
        "ms": 1e3 * taken, "host_ms": 1e3 * host, "phases_ms": phases, "images_per_s": speed,
        "MFU": work_done / rate, "MFU_by_data_sheet": work_done / sheet if sheet else None,
        "allocated_GiB": allocated / 2**30, "reserved_GiB": reserved / 2**30,
        "estimate_GiB": estimate_memory(config).peak / 2**30,
    }  # fmt: skip


def evaluation(toy: bool) -> dict[str, Any]:
    """An image in windows in three precisions: ms, and the pixels with float32's class."""
    config = get_recipe("toytown_pup" if toy else PUBLISHED[0])
    with CARD:
        model = SETR.from_config(config.model).eval()
    model.to(memory_format=torch.channels_last)
    side = config.data.crop_size
    view = torch.randn(1, 3, side[0], side[1] * 3 // 2, device=CARD)
    window = Window(side, (side[0] * 2 // 3, side[1] * 2 // 3))
    labels, found = {}, {}
    for name, (amp, on) in PRECISIONS.items():

        def work(name: str = name) -> None:
            size = tuple(view.shape[-2:])
            labels[name] = predict_views(model, [view], size, window=window)

        with torch.no_grad(), tf32(on), step.autocast(CARD, amp == "bf16"):
            found[name] = {"ms": 1e3 * seconds(work, 3)}
        alike = labels[name] == labels["float32"]
        found[name]["same class"] = float(alike.float().mean())
    return found


def loading(toy: bool) -> dict[str, Any]:
    """Crops that one loader process makes in a second, of ToyTown's files."""
    from setr_lite.datasets.feed import Faults, Feed

    config = get_recipe("toytown_pup").override(f"data.root={SAMPLE}", "train.workers=0")
    batches = Feed(config, load_dataset(config.data, "train"), Faults()).batches(0)
    next(batches)
    begin, count = time.perf_counter(), 20
    for _ in range(count):
        next(batches)
    speed = count * config.train.batch_size / (time.perf_counter() - begin)
    return {"crop": config.data.crop_size, "crops_per_s": speed}


def profile(toy: bool) -> dict[str, Any]:
    """The kernels that take the most of a step; the whole table goes to kernels.txt."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as listen

    work = Step("toytown_pup" if toy else PUBLISHED[0], "train.amp=bf16")
    work()
    work()
    with listen(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as heard:
        work()
        torch.cuda.synchronize()
    events = heard.key_averages()
    (OUT / "kernels.txt").write_text(events.table(sort_by="cuda_time_total", row_limit=60))
    most = sorted(events, key=lambda event: -event.self_device_time_total)[:15]
    return {event.key[:90]: event.self_device_time_total / 1e3 for event in most}


def mmsegmentation(toy: bool) -> dict[str, Any]:
    """Our step and forward pass beside mmsegmentation's, where it is installed."""
    import importlib.util

    if importlib.util.find_spec("mmseg") is None:
        return {"skipped": "mmsegmentation is not importable here"}
    size = ["--encoder", "toy", "--size", "64x64"] if toy else [
        "--encoder", "vit_large_patch16", "--size", "512x512", "--batch", "2"]  # fmt: skip
    found = {}
    for kind in ("forward", "train"):
        done = subprocess.run(
            [sys.executable, "-m", "setr_lite", "bench", kind, "--against", "mmseg", "--device",
             "cuda", "--head", "pup", "--turns", "3", *size],
            cwd=ROOT, capture_output=True, text=True, timeout=200)  # fmt: skip
        found[kind] = (done.stdout or done.stderr)[-1200:]
    return found


def clear() -> None:
    """Give back what a section has left."""
    gc.collect()
    torch.cuda.empty_cache()
    logits._kept.clear()


SECTIONS: tuple[Callable[[bool], Any], ...] = (
    card, same_as_cpu, tests, resume, loss, steps, evaluation, loading, profile, mmsegmentation,
)  # fmt: skip
OUT = ROOT / "runs" / "gpu"


def main() -> int:
    """Run the sections; 0 if none failed."""
    global OUT
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=str(OUT), help="default runs/gpu")
    parser.add_argument("--toy", action="store_true", help="small sizes")
    parser.add_argument("--only", nargs="+", default=[], choices=[s.__name__ for s in SECTIONS])
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error(f"this PyTorch ({torch.__version__}) sees no CUDA device")
    OUT, began = Path(options.folder), time.perf_counter()
    OUT.mkdir(parents=True, exist_ok=True)
    torch.cuda.set_device(CARD)
    results: dict[str, Any] = {"toy": options.toy}
    failed = False
    for section in SECTIONS:
        if options.only and section.__name__ not in options.only:
            continue
        begin = time.perf_counter()
        if begin - began > LAST_START:
            print(f"{section.__name__}: no time left", flush=True)
            continue
        try:
            found = section(options.toy)
        except Exception:
            found, failed = {"failed": traceback.format_exc(limit=-3)}, True
        one = {"seconds": time.perf_counter() - begin, "found": found}
        results[section.__name__] = one
        (OUT / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
        print(f"== {section.__name__}\n{json.dumps(one, indent=1)}", flush=True)
        clear()
    print(f"{time.perf_counter() - began:.0f} s; {OUT / 'gpu.json'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
