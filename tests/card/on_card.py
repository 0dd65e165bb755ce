"""What the tests do where the pretended card is: ``on_card.py FOLDER [NAME ...]``.

Every function returns what it counted; nothing here looks at a number that a kernel computes. To
import PyTorch and its compiler takes longer than most of them, so that is done once: what needs a
process of its own is forked from there, before anything has asked for the card.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import json
import os
import socket
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
from card import LAUNCHES, Listen

from setr_lite import distributed, step, train
from setr_lite.bench import ours, rows, turns
from setr_lite.cli import main
from setr_lite.config import RunConfig
from setr_lite.datasets import load_dataset
from setr_lite.datasets.feed import Batch
from setr_lite.distributed.sync_bn import synchronize
from setr_lite.evaluate import evaluate
from setr_lite.losses import cross_entropy, segmentation_loss
from setr_lite.model import SETR
from setr_lite.recipes import get_recipe
from setr_lite.running.memory import estimate_memory
from setr_lite.transforms import Sample

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "data" / "sample" / "toytown_cityscapes"
QUICK = (
    f"data.root={SAMPLE}", "train.workers=0", "train.eval_every=0", "train.log_every=1",
    "eval.limit=2", "train.device=cuda",
)  # fmt: skip


def commands(folder: Path) -> dict[str, tuple[int, str]]:
    """Exit code and last words of every verb that computes, one after the other."""
    run = (*QUICK, f"train.out={folder}/run")
    last, pictures = f"{folder}/run/last", f"{SAMPLE}/leftImg8bit/val"
    lines = {
        "dry run": ["train", "toytown_naive", "--dry-run", *run],
        "train": ["train", "toytown_naive", *run, "train.steps=2"],
        "resume": ["train", "toytown_naive", "--resume", *run, "train.steps=4"],
        "eval": ["eval", last, "eval.protocol=mmseg-1.x+ms"],
        "predict": ["predict", last, pictures, "--out", f"{folder}/pictures"],
        "export": ["export", last, "--format", "torch", "--out", f"{folder}/model.pt2"],
        "bench": ["bench", "train", "--device", "cuda", "--encoder", "toy", "--size", "64x64",
                  "--turns", "1", "--amp", "bf16"],
    }
    return {name: _said(words) for name, words in lines.items()}


def _said(words: list[str]) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = main(words)
        except SystemExit as stop:
            code = int(stop.code or 0)
        except Exception:
            traceback.print_exc()
            code = 1
    return code, said.getvalue()[-2000:]


class Nothing:
    """A data set without files, of any size."""

    def __init__(self, config: RunConfig) -> None:
        self.size = config.data.crop_size
        self.classes = tuple(map(str, range(config.model.num_classes)))
        self.palette = [(0, 0, 0)] * len(self.classes)
        self.files: list[tuple[Path, Path]] = []

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> Sample:
        blank = torch.zeros(self.size, dtype=torch.uint8)
        return Sample(blank.expand(3, *self.size), blank, str(index))


def a_run(recipe: str, *settings: str, device: str = "cuda") -> train.Run:
    """A run before its first step, built on the card, where first weights cost nothing."""
    config = get_recipe(recipe).override(
        "model.pretrained=none", "train.device=cuda", "train.workers=0", *settings)
    train.load_dataset = lambda data, split: Nothing(config)
    build = SETR.from_config

    def on_the_card(model: Any) -> SETR:
        with torch.device(device):
            return build(model)

    train.SETR.from_config = on_the_card
    try:
        return train.Run(config, distributed.start(device), rehearsing=True)
    finally:
        train.SETR.from_config = build


def a_batch(config: RunConfig) -> Batch:
    """As the loader hands it over: pinned."""
    count, size = config.train.batch_size // distributed.world_size(), config.data.crop_size
    image = torch.zeros(count, 3, *size, dtype=torch.uint8).pin_memory()
    label = torch.zeros(count, *size, dtype=torch.uint8).pin_memory()
    return Batch(image, label, ("",) * count, (), (size,) * count)


@contextlib.contextmanager
def phases() -> Iterator[None]:
    """Marks in what the card is told: where a step's loss begins and ends."""
    mark, loss = Listen.library.card_mark, step.loss_and_terms

    def marked(*args: Any, **kwargs: Any) -> Any:
        mark(b"loss")
        result = loss(*args, **kwargs)
        mark(b"rest")
        return result

    step.loss_and_terms = marked
    try:
        yield
    finally:
        step.loss_and_terms = loss


def one_step(run: train.Run, batch: Batch) -> dict[str, Any]:
    """The third step: launches in all and in the loss, waits, memory."""
    with phases():
        for _ in range(3):
            torch.cuda.reset_peak_memory_stats()
            with Listen() as heard:
                run.take_step(batch)
    part, loss = "", 0
    for kind, what, _ in heard.rows:
        part = what if kind == "mark" else part
        loss += kind in LAUNCHES and part == "loss"
    return {
        "launches": heard.launches, "loss": loss, "waits": heard.waits,
        "copies": sum(what == "card to card" for kind, what, _ in heard.rows if kind == "copy"),
        "event waits": heard.counts["event wait"], "peak": torch.cuda.max_memory_allocated(),
        "nccl": Counter(what for kind, what, _ in heard.rows if kind == "nccl"),
        "other": Counter(what for kind, what, _ in heard.rows if kind == "kernel"),
    }  # fmt: skip


def toy_steps(folder: Path) -> dict[str, Any]:
    """A step of every head at toy size."""
    return {head: _counted(a_run(f"toytown_{head}", f"train.out={folder}/none", "train.amp=bf16"))
            for head in ("naive", "pup", "mla")}  # fmt: skip


def published_step(folder: Path) -> dict[str, Any]:
    """A step of SETR-PUP with ViT-Large as published, its loss in compiled kernels."""
    run = a_run("pup_ade20k_512_160k", f"train.out={folder}/none", "train.amp=bf16")
    return _counted(run) | {"estimate": estimate_memory(run.config).peak}


def memory(folder: Path) -> dict[str, tuple[int, int]]:
    """The peak of the other published heads, and its estimate, with the loss by strips."""
    found, compiles = {}, cross_entropy.compiles
    cross_entropy.compiles = lambda device: False
    for head in ("naive", "mla"):
        run = a_run(f"{head}_ade20k_512_160k", f"train.out={folder}/none", "train.amp=bf16")
        found[head] = (_counted(run)["peak"], estimate_memory(run.config).peak)
        del run
        gc.collect()
        torch.cuda.empty_cache()
    cross_entropy.compiles = compiles
    return found


def _counted(run: train.Run) -> dict[str, Any]:
    found = one_step(run, a_batch(run.config))
    return {key: value for key, value in found.items() if key not in ("nccl", "other")}


def planted(folder: Path) -> dict[str, list[str]]:
    """The same step with a fault in it: what the tests look at has to show it."""
    found, norm = {}, step.gradient_norm
    for name, fault in {
        "none": lambda value: value,
        ".item()": lambda value: value.new_tensor(value.item()),
        ".cpu()": lambda value: value.cpu().to("cuda"),
    }.items():
        step.gradient_norm = lambda parameters, fault=fault: fault(norm(parameters))
        run = a_run("toytown_pup", f"train.out={folder}/none")
        found[name] = one_step(run, a_batch(run.config))["waits"]
    step.gradient_norm = norm
    return found


def evaluation(folder: Path) -> dict[str, list[str]]:
    """Waits while images of different sizes are scored, whole and in windows, with all views."""
    config = get_recipe("toytown_pup").override(*QUICK, "eval.ratios=0.5,1,1.75", "eval.flip=true")
    data, found = Cut(load_dataset(config.data, "val")), {}
    model = SETR.from_config(config.model).cuda().eval()
    for mode in ("whole", "slide"):
        settings = config.override(f"eval.mode={mode}", "eval.window=64,64", "eval.stride=40,40")
        with Listen() as heard:
            evaluate(model, data, settings, indices=range(4))
        found[mode] = heard.waits
    return found


class Cut:
    """A data set whose images all have another size."""

    def __init__(self, data: Any) -> None:
        self.data, self.classes = data, data.classes

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        sample = self.data[index]
        return Sample(sample.image[:, : 90 - index], sample.label[: 90 - index], sample.name)


def ranks(folder: Path) -> dict[str, Any]:
    """Steps of one of several processes, as copies and in pieces."""
    # what the other process sends is this one's own here, and nothing a kernel would compare
    torch.nn.parallel.distributed._verify_param_shape_across_processes = lambda *_, **__: True
    found = {}
    for way in ("ddp", "fsdp"):
        run = a_run("toytown_pup", f"train.out={folder}/none", f"train.parallel={way}",
                    "train.amp=bf16", "train.batch_size=4")  # fmt: skip
        if not run.guard.on_gpu:  # it looks at a number
            run.guard.before_update = lambda *_: None
        found[way] = one_step(run, a_batch(run.config))
        found[way]["fused"] = any("FusedAdam" in name for name in found[way]["other"])
        found[way]["device"] = torch.cuda.current_device()
        del found[way]["other"]
    norms = {"ours": synchronize(torch.nn.BatchNorm2d(64)), "torch": torch.nn.SyncBatchNorm(64)}
    found["norms"] = {name: a_norm(layer.cuda()) for name, layer in norms.items()}
    distributed.stop()
    return found


def a_norm(layer: torch.nn.Module) -> dict[str, Any]:
    """What a layer waits for, keeps and takes, forwards and backwards, in maps of its size."""
    x = torch.zeros(2, 64, 128, 128, device="cuda", requires_grad=True)
    upstream, found = torch.zeros_like(x), []
    for _ in range(2):  # the communicator is made once
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with Listen() as heard:
            out = layer(x)
            kept = torch.cuda.memory_allocated() - before
            out.backward(upstream)
        peak = torch.cuda.max_memory_allocated() - before
        found = [heard.waits, kept / x.nbytes, peak / x.nbytes]
        del out
        x.grad = None
    return dict(zip(("waits", "kept", "peak"), found, strict=True))


def second_card(folder: Path) -> dict[str, Any]:
    """A run on ``cuda:1`` without torchrun: which card its guard's events are made on."""
    run = a_run("toytown_pup", f"train.out={folder}/none", device="cuda:1")
    step = one_step(run, a_batch(run.config))
    event = torch.cuda.Event()
    event.record()
    current = torch.cuda.current_device()
    torch.cuda.set_device(0)
    return {"current": current, "guard": event.device.index, "waits": step["waits"]}


def compiled(folder: Path) -> dict[str, Any]:
    """Graphs, breaks and the step's launches with ``train.compile``; the loss by strips."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    cross_entropy.compiles = lambda device: False
    plain = a_run("toytown_pup", f"train.out={folder}/none", "train.amp=bf16")
    before = one_step(plain, a_batch(plain.config))["launches"]
    run = a_run("toytown_pup", f"train.out={folder}/none", "train.amp=bf16", "train.compile=true")
    after = one_step(run, a_batch(run.config))
    return {
        "graphs": counters["stats"]["unique_graphs"], "breaks": dict(counters["graph_break"]),
        "blocks": len(run.model.encoder.blocks), "launches": (before, after["launches"]),
        "triton": sum("triton" in name for name in after["other"]),
    }  # fmt: skip


def live_cells(folder: Path) -> dict[str, str]:
    """The live cells of every page where a card is there; what went wrong in each."""
    import nbformat

    os.chdir(ROOT / "book")
    found = {}
    for page in sorted((ROOT / "book").glob("*.ipynb")):
        cells = nbformat.read(page, as_version=4).cells
        sources = [c.source for c in cells
                   if {"live", "live-setup"} & set(c.metadata.get("tags", []))]  # fmt: skip
        names: dict[str, Any] = {}
        try:
            for source in sources:
                exec(compile(source, page.stem, "exec"), names)
            found[page.stem] = ""
        except Exception:
            found[page.stem] = traceback.format_exc(limit=-3)
    return found


def default_device(folder: Path) -> dict[str, str]:
    """What a script gets that has said ``torch.set_default_device("cuda")``."""
    from setr_lite.inside.stages import fit_readout
    from setr_lite.visualize import overlay

    def loss() -> None:
        model = SETR.from_config(get_recipe("toytown_mla").model).train()
        output = model(torch.randn(2, 3, 60, 92))
        segmentation_loss(output, torch.zeros(2, 60, 92, dtype=torch.uint8)).backward()
        output.full()
        output.label()

    def readout() -> None:
        label = torch.zeros(2, 32, 48, dtype=torch.uint8)
        fit_readout(torch.randn(2, 8, 4, 6), label, 3)

    def picture() -> None:
        overlay(torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(8, 8, dtype=torch.uint8),
                [(0, 0, 0)], 0.5)  # fmt: skip

    found = {}
    with torch.device("cuda"):
        for work in (loss, readout, picture):
            try:
                work()
                found[work.__name__] = ""
            except Exception:
                found[work.__name__] = traceback.format_exc(limit=-3)
    return found


def _made_numbers(step: int, model: torch.nn.Module, optimizer: Any = None) -> None:
    """No kernel has computed what is about to be saved, and the memory may hold anything: zeros."""
    state = {} if optimizer is None else optimizer.state_dict()["state"]
    moments = [value for values in state.values() for value in values.values()]
    for tensor in [*model.state_dict().values(), *moments]:
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
            tensor.copy_(torch.zeros(tensor.shape))


PARTS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    # what Inductor and Triton have to compile, down to the card's machine code
    "kernels": ({}, ("published_step", "compiled")),
    "one": ({"TORCH_COMPILE_DISABLE": "1"}, (
        "evaluation", "toy_steps", "planted", "default_device", "second_card", "memory")),
    "users": ({"TORCH_COMPILE_DISABLE": "1"}, ("commands", "live_cells")),
} | {
    f"rank{rank}": ({
        "TORCH_COMPILE_DISABLE": "1", "RANK": str(rank), "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
    }, ("ranks",)) for rank in range(2)
}  # fmt: skip
"""Process -> its environment and what it does."""


def several(folder: Path, *names: str) -> dict[str, Any]:
    """Some of the above in one process."""
    train.check_saved = _made_numbers
    # a benchmark's side would be a process that imports all again
    rows.bench = functools.partial(
        rows.bench, start=lambda command, task: turns.Side(ours.make_work, task))
    found = {}
    for name in names:
        torch.set_grad_enabled(True)  # pages do without
        try:
            found[name] = globals()[name](folder)
        except Exception:
            found[name] = traceback.format_exc()
    return found


def part(folder: Path, name: str) -> None:
    """Be one of the `PARTS`; what it prints and what it counted is in files of its name."""
    said = os.open(folder / f"{name}.txt", os.O_WRONLY | os.O_CREAT, 0o644)
    os.dup2(said, 1)
    os.dup2(said, 2)
    environment, works = PARTS[name]
    os.environ.update(environment)
    torch._dynamo.config.disable = "TORCH_COMPILE_DISABLE" in environment
    (folder / name).mkdir()
    (folder / f"{name}.json").write_text(json.dumps(several(folder / name, *works)))


def all_parts(folder: Path, *names: str) -> None:
    """Fork the parts and wait for them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    gc.freeze()  # else collecting garbage copies all that was imported, page by page
    for name in names or PARTS:
        if os.fork() == 0:
            try:
                part(folder, name)
            finally:
                os._exit(0)
    with contextlib.suppress(ChildProcessError):
        while os.wait():
            pass


if __name__ == "__main__":
    all_parts(Path(sys.argv[1]), *sys.argv[2:])
