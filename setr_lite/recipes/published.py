"""The published experiments: what was trained, what it reached, and where the sources disagree.

One row of a table is one experiment. What all rows of a family share (optimiser, augmentation,
windows) is in `recipes`, which makes a `RunConfig` of each row.

Sources: the paper (arXiv 2012.15840), the authors' repository (github.com/fudan-zvg/SETR, its
README and ``configs/SETR``) and mmsegmentation (``configs/setr``, the same in 0.30 and 1.2).
mIoU in percent on the validation set. The authors trained on 8 V100 GPUs with 32 GB (their
issue 47), mmsegmentation on 8 V100.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import NamedTuple

from ..config import Dialect, Head

JX_LARGE = "jx_vit_large_p16_384-b3be5167.pth"
JX_BASE = "jx_vit_base_p16_384-83fb41ba.pth"
DEIT = "deit_base_distilled_patch16_384-d0272ac0.pth"
RESNET = "timm:resnet50.tv_in1k"

VARIANTS: dict[str, tuple[str, str, str]] = {
    # encoder, its name in the paper, what its first weights come from (`model.pretrained`)
    "large": ("vit_large_patch16", "T-Large", JX_LARGE),
    "random": ("vit_large_patch16", "T-Large from random weights", "none"),
    "base": ("vit_base_patch16", "T-Base", JX_BASE),
    "deit": ("vit_base_patch16", "T-Base from DeiT", DEIT),
    "hybrid": ("hybrid_base", "pretrained ResNet-50 and random T-Base", RESNET),
    "hybrid_21k": ("hybrid_base", "ResNet-50 and T-Base", f"{RESNET},{JX_BASE}"),
    "hybrid_deit": ("hybrid_base", "ResNet-50 and T-Base from DeiT", f"{RESNET},{DEIT}"),
}
"""Encoders of the experiments. Files are those of timm's and DeiT's releases; ViT was trained on
ImageNet-21k and then on ImageNet-1k at 384 x 384."""

HEADS = {"naive": "Naive", "pup": "PUP", "mla": "MLA"}


class Task(NamedTuple):
    """A data set as SETR was trained and tested on it."""

    title: str
    dataset: str
    """A key of `datasets.DATASETS`."""
    classes: int
    crop: int
    """Side of a training crop and of a test window."""
    stride: int
    """Steps from window to window."""
    base_size: tuple[int, int]
    """What an image is fitted into."""
    test_size: tuple[int, int] | None
    """The same at test time, if it differs."""
    batch: int
    """Usual images a step."""
    table: int
    """The paper's table of scores."""


DATA = {
    "cityscapes": Task("Cityscapes", "cityscapes", 19, 768, 512, (1025, 2049), None, 8, 2),
    "ade20k": Task("ADE20K", "ade20k", 150, 512, 341, (512, 2048), None, 16, 4),
    "pascal": Task(
        "Pascal Context", "pascal_context", 60, 480, 320,
        (520, 520), (520, 5200), 16, 5),  # tested with a short side of 520, however long the other
}  # fmt: skip
"""The three data sets of the paper. Pascal Context counts the background as its 60th class."""


@dataclass(frozen=True)
class Published:
    """One published experiment."""

    head: Head
    """``naive``, ``pup`` or ``mla``."""
    variant: str
    """A key of `VARIANTS`."""
    data: str
    """A key of `DATA`."""
    thousands: int
    """Optimiser steps, in thousands."""
    batch: int
    """Images per step, over all GPUs."""
    lr: float
    """Base learning rate; the heads train at ten times it."""
    miou: float
    """Single scale."""
    miou_ms: float | None = None
    """Average over six scales and their mirror images."""
    config: str = ""
    """Name of mmsegmentation's config (1.x); empty for the authors' experiments."""
    memory_gb: float | None = None
    """Training memory of one GPU; stated by mmsegmentation only."""
    fps: float | None = None
    """Images a second with sliding windows on one V100; stated by mmsegmentation only."""
    weights: str = ""
    """Id of mmsegmentation's released checkpoint."""

    @property
    def task(self) -> Task:
        """The data set, with its sizes."""
        return DATA[self.data]

    @property
    def name(self) -> str:
        """Name of the recipe: ``pup_deit_ade20k_512_160k``, ``mla_ade20k_512_160k_b8_mmseg``."""
        words = [self.head, *self.variant.split("_"), self.data, str(self.task.crop)]
        if words[1] == "hybrid":
            words[:2] = words[1::-1]
        words += [f"{self.thousands}k"]
        words += [f"b{self.batch}"] * (self.batch != self.task.batch)
        words += ["mmseg"] * (self.dialect == "mmseg")
        return "_".join(word for word in words if word != "large")

    @property
    def dialect(self) -> Dialect:
        """Whose heads these are, `ModelConfig.dialect`."""
        return "mmseg" if self.config else "official"

    @property
    def pretrained(self) -> str:
        """What the published run started from, as `model.pretrained` takes it."""
        return VARIANTS[self.variant][2]

    @property
    def source(self) -> str:
        """Where settings and scores come from."""
        if self.config:
            return f"mmsegmentation, {self.config}"
        task = self.task
        # table 2 of the paper has the single scale only, table 6 the rest
        table = "tables 2 and 6" if task.table == 2 and self.miou_ms else f"table {task.table}"
        if self in PAPER:
            return f"paper, {table}; no config was published, so this is rebuilt"
        variant = {"large": "", "base": "_Base", "deit": "_DeiT"}[self.variant]
        paper = f"paper, {table}, and " if self.batch == task.batch else ""
        return (
            f"{paper}authors' README; SETR_{HEADS[self.head]}{variant}_{task.crop}x{task.crop}_"
            f"{self.thousands}k_{task.dataset}_bs_{self.batch}.py"
        )

    @property
    def in_paper(self) -> tuple[float, float | None] | None:
        """mIoU and mIoU with six scales and flip as the paper's tables have them, or None."""
        if self.config or self.batch != self.task.batch:
            return None
        return IN_PAPER.get(self.name, (self.miou, self.miou_ms))

    @property
    def checkpoint(self) -> str:
        """The released weights, or that there are none."""
        if self.weights:
            return self.weights
        unpublished = self.variant == "deit" or self.name == "mla_ade20k_512_160k"
        if self in PAPER or unpublished:
            return "none" + ", the link in the authors' README is empty" * unpublished
        return "linked in the authors' README"

    @property
    def notes(self) -> tuple[str, ...]:
        """Where paper, README and configs disagree, and what does not run as published."""
        return tuple(
            text for names, text in NOTES if any(fnmatch(self.name, n) for n in names.split())
        )

    def describe(self) -> str:
        """All of this as text, without the settings."""
        crop, scores = self.task.crop, {
            "mIoU {:.2f}": self.miou,
            "{:.2f} with six scales and flip": self.miou_ms,
            "{:.2f} GB per GPU in training": self.memory_gb,
            "{:.2f} images/s with windows": self.fps,
        }
        lines = [
            f"SETR-{HEADS[self.head]}, {VARIANTS[self.variant][1]}, on {self.task.title}: "
            f"{self.thousands},000 steps of {self.batch} crops of {crop} x {crop}.",
            "",
            f"Source: {self.source}",
            f"Published: {'; '.join(t.format(value) for t, value in scores.items() if value)}",
            f"Released weights: {self.checkpoint}",
            f"Started from: {self.pretrained.replace('none', 'random weights')}",
            "",
        ]
        lines += [
            textwrap.fill(
                note, 96, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
            for note in self.notes
        ]
        return "\n".join(lines)


OFFICIAL = (
    # head, variant, data, thousand steps, batch, lr, mIoU, with scales and flip
    Published("naive", "large", "cityscapes", 40, 8, 0.01, 77.37),
    Published("naive", "large", "cityscapes", 80, 8, 0.01, 77.90),
    Published("pup", "large", "cityscapes", 40, 8, 0.01, 78.39, 81.57),
    Published("pup", "large", "cityscapes", 80, 8, 0.01, 79.34, 82.15),
    Published("mla", "large", "cityscapes", 40, 8, 0.002, 76.65),
    Published("mla", "large", "cityscapes", 80, 8, 0.002, 77.24),
    Published("naive", "base", "cityscapes", 40, 8, 0.01, 75.54),
    Published("naive", "base", "cityscapes", 80, 8, 0.01, 76.25),
    Published("naive", "deit", "cityscapes", 40, 8, 0.01, 77.85),
    Published("naive", "deit", "cityscapes", 80, 8, 0.01, 78.66),
    Published("pup", "deit", "cityscapes", 40, 8, 0.01, 78.79),
    Published("pup", "deit", "cityscapes", 80, 8, 0.01, 79.45),
    Published("mla", "deit", "cityscapes", 40, 8, 0.002, 78.04),
    Published("mla", "deit", "cityscapes", 80, 8, 0.002, 78.98),
    Published("naive", "large", "ade20k", 160, 16, 0.01, 48.06, 48.80),
    Published("pup", "large", "ade20k", 160, 16, 0.001, 48.62, 50.09),
    Published("mla", "large", "ade20k", 160, 16, 0.001, 48.64, 50.28),
    Published("mla", "large", "ade20k", 160, 8, 0.001, 47.79, 50.03),
    Published("pup", "deit", "ade20k", 160, 16, 0.001, 46.34, 47.30),
    Published("mla", "deit", "ade20k", 160, 16, 0.001, 46.15, 47.71),
    Published("naive", "large", "pascal", 80, 16, 0.01, 52.89, 53.61),
    Published("pup", "large", "pascal", 80, 16, 0.001, 54.37, 55.27),
    Published("mla", "large", "pascal", 80, 16, 0.001, 55.01, 55.83),
    Published("mla", "large", "pascal", 80, 8, 0.001, 54.39, 55.39),
    Published("pup", "deit", "pascal", 80, 16, 0.001, 52.00, 52.50),
    Published("mla", "deit", "pascal", 80, 16, 0.001, 52.91, 53.74),
)
"""The authors' 26 training configs; scores as their README has them."""

PAPER = (
    Published("pup", "base", "cityscapes", 40, 8, 0.01, 76.71),
    Published("pup", "base", "cityscapes", 80, 8, 0.01, 78.02),
    Published("mla", "base", "cityscapes", 40, 8, 0.002, 75.60),
    Published("mla", "base", "cityscapes", 80, 8, 0.002, 76.87),
    Published("pup", "random", "cityscapes", 40, 8, 0.01, 42.27),
    Published("naive", "hybrid", "cityscapes", 40, 8, 0.01, 74.48),
    Published("naive", "hybrid", "cityscapes", 80, 8, 0.01, 77.36),
    Published("naive", "hybrid_21k", "cityscapes", 40, 8, 0.01, 76.76),
    Published("naive", "hybrid_21k", "cityscapes", 80, 8, 0.01, 76.57),
    Published("naive", "hybrid_deit", "cityscapes", 40, 8, 0.01, 77.42),
    Published("naive", "hybrid_deit", "cityscapes", 80, 8, 0.01, 78.28),
)
"""Rows of the paper's table 2 without a config, rebuilt after their nearest relative with one."""

MMSEG = (
    # as above; then config, GB per GPU, images/s, released weights
    Published(
        "naive", "large", "ade20k", 160, 16, 0.01, 48.28, 49.56,
        "setr_vit-l_naive_8xb2-160k_ade20k-512x512", 18.40, 4.72,
        "setr_naive_512x512_160k_b16_ade20k_20210619_191258-061f24f5"),
    Published(
        "pup", "large", "ade20k", 160, 16, 0.001, 48.24, 49.99,
        "setr_vit-l_pup_8xb2-160k_ade20k-512x512", 19.54, 4.50,
        "setr_pup_512x512_160k_b16_ade20k_20210619_191343-7e0ce826"),
    Published(
        "mla", "large", "ade20k", 160, 16, 0.001, 47.39, 49.37,
        "setr_vit-l_mla_8xb2-160k_ade20k-512x512", 17.30, 5.25,
        "setr_mla_512x512_160k_b16_ade20k_20210619_191057-f9741de7"),
    Published(
        "mla", "large", "ade20k", 160, 8, 0.001, 47.34, 49.05,
        "setr_vit-l-mla_8xb1-160k_ade20k-512x512", 10.96, None,
        "setr_mla_512x512_160k_b8_ade20k_20210619_191118-c6d21df0"),
    Published(
        "naive", "large", "cityscapes", 80, 8, 0.01, 78.10, 80.22,
        "setr_vit-l_naive_8xb1-80k_cityscapes-768x768", 24.06, 0.39,
        "setr_naive_vit-large_8x1_768x768_80k_cityscapes_20211123_000505-20728e80"),
    Published(
        "pup", "large", "cityscapes", 80, 8, 0.01, 79.21, 81.02,
        "setr_vit-l_pup_8xb1-80k_cityscapes-768x768", 27.96, 0.37,
        "setr_pup_vit-large_8x1_768x768_80k_cityscapes_20211122_155115-f6f37b8f"),
    Published(
        "mla", "large", "cityscapes", 80, 8, 0.002, 77.00, 79.59,
        "setr_vit-l_mla_8xb1-80k_cityscapes-768x768", 24.10, 0.41,
        "setr_mla_vit-large_8x1_768x768_80k_cityscapes_20211119_101003-7f8dccbe"),
)  # fmt: skip
"""mmsegmentation's seven configs, trained with its 0.x versions."""

IN_PAPER = {
    "pup_ade20k_512_160k": (48.58, 50.09),
    "pup_pascal_480_80k": (54.40, 55.27),
    "mla_pascal_480_80k": (54.87, 55.83),
    "pup_deit_pascal_480_80k": (52.71, 53.71),
}
"""Where the paper's tables 4 and 5 differ from the README: mIoU, with six scales and flip."""

PAPER_PARAMETERS = {
    ("naive", "large"): 305.67, ("mla", "large"): 310.57, ("pup", "large"): 318.31,
    ("naive", "base"): 87.69, ("mla", "base"): 92.59, ("pup", "base"): 97.64,
    ("naive", "hybrid"): 112.59,
}  # fmt: skip
"""Millions of parameters in the paper's table 2, by head and variant."""


class Baseline(NamedTuple):
    """A convolutional network that the paper compares with SETR, with a ResNet-101."""

    model: str
    data: str
    """A key of `DATA`."""
    thousands: int
    """Optimiser steps, in thousands; 0 where the paper does not say."""
    miou: float
    miou_ms: float | None = None


BASELINES = (
    Baseline("FCN", "cityscapes", 40, 73.93, 75.14),
    Baseline("FCN", "cityscapes", 80, 75.52, 76.61),
    Baseline("FCN, ImageNet-21k", "cityscapes", 0, 76.38),
    Baseline("Semantic FPN", "cityscapes", 80, 75.80),
    Baseline("FCN", "ade20k", 160, 39.91, 41.40),
    Baseline("FCN, ImageNet-21k", "ade20k", 160, 42.17),
    Baseline("FCN", "pascal", 80, 44.47, 45.74),
)
"""The paper's tables 2 to 6."""

NOTES = (
    # names of recipes (* stands for anything), what to know about them
    ("*", "The paper mentions neither the tenfold rate of the heads nor the floor of 1e-4 nor the "
     "photometric distortion; all configs have them. Published in float32: train.amp=bf16 takes "
     "less memory and is another arithmetic."),
    ("naive_ade20k* naive_pascal*",
     "Learning rate: the paper has 0.001 on this data, the configs of SETR-Naive 0.01."),
    ("mla_cityscapes* mla_deit_cityscapes*",
     "Learning rate: the paper has 0.01 on Cityscapes, the configs of SETR-MLA 0.002."),
    ("pup_cityscapes_768_80k",
     "On the test server: 81.08 after 100k steps, 81.64 with the coarse labels too (paper)."),
    ("pup_cityscapes_* pup_ade20k_512_160k pup_pascal_480_80k",
     "The paper's 318.31 M parameters come near only with the auxiliary heads counted."),
    ("naive_deit_cityscapes_768_80k", "A user reached 77.64 with batch 4 (SETR issue 25)."),
    ("naive_ade20k_512_160k mla_ade20k_512_160k mla_ade20k_512_160k_b8",
     "The authors' multi-scale config asks for 0.5, 0.75 and 1 times a short side of 512, and "
     "their present code lifts every short side to 512: six views, two of them different. The "
     "paper describes six ratios, 0.5 to 1.75."),
    ("pup_ade20k_512_160k", "mIoU: README 48.62, paper 48.58."),
    ("mla_ade20k_512_160k_b8",
     "mIoU: first 48.27 in the README, 47.79 now, not in the paper. A user measured 47.91 with "
     "the multi-scale config where 50.03 is claimed (SETR issue 52)."),
    ("pup_deit_ade20k_512_160k", "mIoU: README and paper's table 4 46.34, its table 3 46.24."),
    ("*_deit_ade20k*", "The paper's table 3 calls this encoder T-Large; it is T-Base."),
    ("pup_deit_ade20k* pup_deit_pascal*",
     "The authors' config builds heads for 1024 channels on an encoder of 768 and cannot run; "
     "here the heads have the encoder's width."),
    ("*_deit_ade20k* *_deit_pascal*", "The authors' multi-scale config of this row cannot be "
     "parsed."),
    ("*_pascal_*",
     "The authors' single-scale config passes an argument that their Resize no longer takes "
     "(since May 2021). Without it test images shrink below the window; what works, and is set "
     "here, is a short side of 520. Their class names fit 6 of the 60 indices of the masks; "
     "mIoU is the same with any names."),
    ("naive_pascal_480_80k", "The authors' config takes 4 images per GPU: its 16 need 4 GPUs."),
    ("pup_pascal_480_80k", "mIoU: README 54.37, paper 54.40."),
    ("mla_pascal_480_80k", "mIoU: README 55.01, paper 54.87."),
    ("mla_pascal_480_80k_b8", "Not in the paper."),
    ("pup_deit_pascal_480_80k", "mIoU: README 52.00 and 52.50, paper 52.71 and 53.71."),
    ("pup_base* mla_base*",
     "Rebuilt: settings of the authors' DeiT config of the same head, weights of ViT-Base. The "
     "paper gives 0.01 as learning rate for all of Cityscapes."),
    ("pup_random*", "Rebuilt: SETR-PUP from random weights, 36 points below the pretrained one."),
    ("hybrid_*",
     "Rebuilt: the paper says that a ResNet-50 at output stride 16 feeds T-Base with the Naive "
     "decoder, that the ResNet starts from ImageNet-1k weights, counts 112.59 M parameters, and "
     "names neither these weights' file nor the blocks of the auxiliary heads; here the first is "
     "torchvision's, the others are SETR-Naive-Base's. It has 112.11 M parameters, 112.72 M with "
     "the auxiliary heads. The authors' hybrid class does not run."),
    ("*_mmseg",
     "mmsegmentation 1.x drops the bias of the patch projection from these weights without a "
     "word: a user measured 44.28 where 48.24 is published (SETR-PUP on ADE20K, mmsegmentation "
     "issue 3401). The scores are those of 0.x; here the bias is always there."),
    ("*_mmseg",
     "Trained with the schedule of 0.x, which divides by T. 1.x divides by T - 1, so that its last "
     "step runs at the floor: optim.poly_steps=steps-1."),
    ("*_mmseg",
     "Multi-scale scores are those of 0.x, whose ratios scale the resized image. --tta of 1.x "
     "scales the file's own size; do not compare."),
    ("naive_*_mmseg", "Upsamples 4x twice, where the paper and its authors upsample 16x once."),
    ("naive_ade20k*_mmseg", "Auxiliary heads have two units here, on Cityscapes one."),
    ("pup_*_mmseg", "Three auxiliary heads of two units; the paper and its authors have four of "
     "one, the fourth on the last block."),
    ("mla_*_mmseg", "Classifies with 1x1 and resizes without aligned corners, where the authors "
     "classify with 3x3 and align them."),
    ("mla_ade20k_512_160k_mmseg", "mIoU: 47.39 in the metafile, 47.54 in one version of the "
     "README."),
)  # fmt: skip
"""Contradictions between paper, README, configs and code."""

PUBLISHED: dict[str, Published] = {p.name: p for p in (*OFFICIAL, *PAPER, *MMSEG)}
"""Every published experiment by the name of its recipe."""
