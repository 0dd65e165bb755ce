"""What a benchmark measures: one table, read by `bench`, by its sides and by the command line."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import UserError, nearest
from ..typed import whole

KINDS = ("forward", "train", "eval", "data", "loss", "memory")
"""``forward`` image to logits, ``train`` a step of a run with all auxiliary heads, ``eval`` sliding
windows, ``data`` training crops from files, ``loss`` the loss alone, ``memory`` the measured peak
of a training step beside `estimate_memory`."""

Size = tuple[int, int]


def _asked(default: Any, text: str, metavar: str = "N") -> Any:
    """A field that the command line offers, with its help and what stands for its value."""
    return field(default=default, metadata={"help": text, "metavar": metavar})


@dataclass(frozen=True)
class Bench:
    """What is measured; nearly all fields are options of `setr-lite bench`."""

    kind: str
    """One of `KINDS`."""
    encoder: str = _asked("vit_tiny_patch16", "as model.encoder", "NAME")
    head: str = _asked(
        "naive", "as model.head; several with commas give a row each", "naive|pup|mla|linear")
    dialect: str = _asked(
        "mmseg", "as model.dialect; mmsegmentation always computes its own, and with "
        "official the two sides do not share weights", "official|mmseg")
    classes: int = _asked(150, "number of classes")
    size: Size = _asked(  # noqa: RUF009 (a field)
        (512, 512), "size of images, crops and windows", "HEIGHTxWIDTH")
    batch: int = _asked(1, "number of images in a batch")
    labels: bool = _asked(False, "for forward: compute the class map, not only the logits")
    image_size: Size | None = _asked(  # noqa: RUF009
        None, "for eval: size of the whole image, such as 1024x2048", "HEIGHTxWIDTH")
    stride: int = _asked(512, "for eval: stride of the windows")
    window_batch: int = _asked(
        4, "for eval: windows that go through our model together; mmsegmentation takes one")
    data: str = _asked("ade20k", "for data: data set, as data.name", "NAME")
    root: str = _asked("", "for data: its folder, as data.root", "FOLDER")
    split: str = _asked("train", "for data: split whose files are read", "train|val|test")
    images: int = _asked(60, "for data: images in one turn")
    turns: int = _asked(5, "repetitions per side, after one warm-up")
    threads: int = _asked(0, "CPU threads of each side; 0 means all cores, but one for data")
    device: str = _asked("cpu", "where it runs", "cpu|cuda")
    amp: str = _asked("off", "autocast of our side", "off|bf16")
    their_amp: str = _asked("off", "autocast of the other side", "off|bf16")
    compile: bool = _asked(False, "compile our encoder's blocks")
    recipe: str = ""
    """With ``memory``: the recipe whose training step is measured."""
    settings: tuple[str, ...] = ()
    """Of the recipe, ``section.key=value``."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"no benchmark {self.kind!r}{nearest(self.kind, KINDS)}")
        for name in ("turns", "batch", "images"):
            whole(name, getattr(self, name), 1)
        for name in ("amp", "their_amp"):
            if getattr(self, name) not in ("off", "bf16"):
                raise UserError(f"{name} {getattr(self, name)}: give off or bf16")
        if self.threads < 0:
            raise UserError(f"threads {self.threads}: give 0 for all cores, or a number of them")
        if self.device not in ("cpu", "cuda") or (self.device == "cuda" and not _has_cuda()):
            raise UserError(f"device {self.device}: not here; give cpu, or cuda where there is one")

    def task(self) -> dict[str, Any]:
        """The task of our side, complete."""
        alone = 1 if self.kind == "data" else os.cpu_count() or 1
        return asdict(self) | {
            "kind": "recipe" if self.recipe else "train" if self.kind == "memory" else self.kind,
            "image_size": self.image_size or self.size, "window": self.size,
            "base_size": (min(self.size), 4 * max(self.size)),
            "threads": self.threads or alone, "form": "ours",
            "same_weights": self.dialect == "mmseg",
        }  # fmt: skip


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
