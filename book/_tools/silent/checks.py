"""Checks that people use, as programs that see only a library and answer found or missed.

Each runs in a child against a copy of the library, healthy or not, and returns for each of its
answers ``[found, sentence]``. A crash is found, too: whoever runs the check sees it.
"""

from __future__ import annotations

import copy
import os
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from setr_lite import SETR, weights
from setr_lite.config import OptimConfig
from setr_lite.datasets import load_dataset
from setr_lite.datasets.feed import Faults, Feed
from setr_lite.evaluate import evaluate, image_views
from setr_lite.inference import Window, sliding_window
from setr_lite.losses import segmentation_loss
from setr_lite.optim import build_optimizer, parameter_groups, set_lr
from setr_lite.recipes import get_recipe
from setr_lite.step import take_step
from setr_lite.train import Run, train
from setr_lite.transforms import Normalize
from setr_lite.weights.write import to_official

from . import reference

HEADS = ("naive", "pup", "mla")
CLASSES, PATCH = 5, 8
SMALL = {"depth": 5, "embed_dim": 48, "num_heads": 3, "channels": 16}
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""ImageNet's, of pixels in 0..255, from the papers and not from the library."""
IDS = {7: 0, 8: 1, 11: 2, 13: 4, 17: 5, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 26: 13}
"""Cityscapes' labelIds that ToyTown has, and their train ids, from cityscapesscripts."""
Answer = dict[str, list[Any]]


def small(head: str, size: tuple[int, int] = (64, 64), std: float = 0.2, **more: Any) -> SETR:
    """A SETR small enough for a second, every weight drawn with one standard deviation.

    At 0.2 running variances are 0.5 to 1.5, so that nothing is 0 or 1; below, norms and biases are
    left as they start, as in a fresh model.
    """
    model = SETR(CLASSES, head, "toy", img_size=size, **{**SMALL, **more}).double().eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if std == 0.2 and name.endswith("running_var"):
                value.uniform_(0.5, 1.5, generator=draw)
            elif value.is_floating_point() and (std == 0.2 or value.ndim > 1):
                value.normal_(0, std, generator=draw)
    return model


def image_of(*size: int, batch: int = 1) -> Tensor:
    """(batch, 3, H, W) of standard normal values."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(2)).double()


def by_reference(model: SETR, image: Tensor, head: str, heads: int) -> Tensor:
    """The second implementation with the first one's weights."""
    encoder = model.encoder
    return reference.logits(
        model.state_dict(), image, head, encoder.taps, PATCH, heads, encoder.grid)


def battery(
    head: str, town: str, folder: str, only: Sequence[str] | None = None
) -> dict[str, Any]:
    """Checks of a library: ``answers`` by name, and ``seconds`` of the processor.

    Args:
        head: in use, whose training is looked at.
        town: ToyTown's folder.
        folder: of a trained model.
        only: which; None runs all.
    """
    arguments = {"two_ranks": (town,), "overfit": (head, town), "steps_by_hand": (head,),
                 "one_batch": (town,), "score_by_hand": (town, folder)}
    found: dict[str, Any] = {"answers": {}, "seconds": {}}
    for name in only or BATTERY:
        torch.manual_seed(0)
        started = sum(os.times()[:4])
        try:
            answers = globals()[name](*arguments.get(name, ()))
        except Exception as error:
            says = f"stops with {type(error).__name__}: {str(error).strip()[:80]}"
            answers = {each: [True, says] for each in ANSWERS.get(name, (name,))}
        for each, (is_found, says) in answers.items():
            found["answers"][each] = {"found": bool(is_found), "says": says}
            found["seconds"][each] = round(sum(os.times()[:4]) - started, 2)
    return found


BATTERY = (
    "two_ranks", "shapes", "sizes", "init_oracle", "float64_oracle", "non_square", "overfit",
    "gradient", "steps_by_hand", "rates", "one_batch", "score_by_hand", "windows", "round_trip",
    "conversion",
)  # fmt: skip
"""The first one forks, which is for a process that has not computed gradients yet."""
ANSWERS = {"overfit": ("overfit", "overfit_predict")}
"""Of checks that answer more than one question."""


# --- the forward pass ----------------------------------------------------------------------------


@torch.no_grad()
def shapes() -> Answer:
    """Shape and finite values at the crop's size and at a square."""
    wrong = []
    for head in HEADS:
        for size in ((96, 192), (64, 64)):
            out = small(head, size).float()(image_of(*size, batch=2).float()).full()
            if tuple(out.shape) != (2, CLASSES, *size) or not out.isfinite().all():
                wrong.append(f"{head} {tuple(out.shape)}")
    return {"shapes": [bool(wrong), f"{6 - len(wrong)} of 6 shapes are right"]}


@torch.no_grad()
def sizes() -> Answer:
    """The shape at many sizes, small and odd ones among them."""
    model, tried, bad = small("pup"), 0, []
    for height in range(8, 128, 9):
        for width in range(8, 160, 8):
            tried += 1
            try:
                out = model(image_of(height, width)).full()
                ok = out.shape[-2:] == (height, width)
            except Exception:
                ok = False
            bad += [f"{height}x{width}"] * (not ok)
    return {"sizes": [bool(bad), f"{tried} sizes, {len(bad)} of them fail {' '.join(bad[:2])}"]}


@torch.no_grad()
def init_oracle() -> Answer:
    """Weights as they start, std 0.02, float32: within 0.001 of the second implementation?"""
    worst = 0.0
    for head in HEADS:
        model, image = small(head, std=0.02).float(), image_of(64, 64).float()
        gap = model(image).full() - by_reference(model, image, head, SMALL["num_heads"])
        worst = max(worst, gap.abs().max().item())
    return {"init_oracle": [worst > 1e-3, f"largest difference {worst:.1e}, allowed 1e-03"]}


def oracle(*size: int) -> float:
    """Weights of std 0.2 in float64: the largest difference, relative to the largest value."""
    worst = 0.0
    for head in HEADS:
        model, image = small(head), image_of(*size)
        there = by_reference(model, image, head, SMALL["num_heads"])
        gap = (model(image).full() - there).abs().max() / there.abs().max()
        worst = max(worst, gap.item())
    return worst


@torch.no_grad()
def float64_oracle() -> Answer:
    """At the square that the position table is for."""
    worst = oracle(64, 64)
    return {"float64_oracle": [worst > 1e-9, f"relative difference {worst:.1e}, allowed 1e-09"]}


@torch.no_grad()
def non_square() -> Answer:
    """The same on 70 x 100 pixels: another grid, and a size that the patch does not divide."""
    worst = oracle(70, 100)
    return {"non_square": [worst > 1e-9, f"relative difference {worst:.1e}, allowed 1e-09"]}


# --- training ------------------------------------------------------------------------------------


def toy(head: str, town: str, out: str, *settings: str) -> Any:
    """ToyTown's recipe, without auxiliary heads."""
    return get_recipe(f"toytown_{head}").override(
        f"data.root={town}", f"train.out={out}", "train.device=cpu", "model.aux=false",
        "train.amp=off", *settings)


def overfit(head: str, town: str) -> Answer:
    """Sixty steps on one batch of two streets; then the same two streets, evaluated.

    Two answers: did the loss fall below a fifth of where it began; and does `predict`, fed the two
    files, know 9 of 10 pixels.
    """
    with tempfile.TemporaryDirectory() as out:
        config = toy(head, town, out, "train.steps=60", "optim.warmup=10", "data.flip=0")
        run = Run(config, torch.device("cpu"), rehearsing=True)
        batch = next(run.feed.batches(0))
        losses = [run.take_step(batch).total.item() for _ in range(60)]
        right = known(run.model, run.config, batch.names, Path(town))
    share = losses[-1] / losses[0]
    return {
        "overfit": [not share < 0.2, f"loss {losses[0]:.2f} -> {losses[-1]:.3f}, {share:.1%}"],
        "overfit_predict": [right < 0.9, f"{right:.1%} of the two streets' pixels are right"],
    }


def known(model: SETR, config: Any, names: tuple[str, ...], town: Path) -> float:
    """Share of right pixels in the files of a batch, by the ids that lie on disk."""
    shares = []
    for name in names:
        image = next(town.glob(f"leftImg8bit/train/*/{name}_leftImg8bit.png"))
        found = model.predict(str(image), config=config).numpy()
        shares.append(float((found == label_on_disk(image)).mean()))
    return float(np.mean(shares))


def label_on_disk(image: Path) -> np.ndarray:
    """(H, W) train ids of a street, read without the library."""
    file = str(image).replace("leftImg8bit/", "gtFine/", 1)
    ids = np.asarray(Image.open(file.replace("_leftImg8bit.png", "_gtFine_labelIds.png")))
    table = np.full(256, 255, np.uint8)
    table[list(IDS)] = list(IDS.values())
    return table[ids]


def gradient() -> Answer:
    """The loss's derivative along a random direction: backward against differences."""
    worst = 0.0
    for head in HEADS:
        model, image = small(head, (32, 48), std=0.1), image_of(32, 48, batch=2)
        label = torch.randint(CLASSES, (2, 32, 48), generator=torch.Generator().manual_seed(3))
        parameters = [p for p in model.parameters() if p.requires_grad]
        loss = segmentation_loss(model(image, aux=True), label)
        gradients = torch.autograd.grad(loss, parameters)
        along = [torch.randn(p.shape, dtype=p.dtype) for p in parameters]
        told = sum(float((g * a).sum()) for g, a in zip(gradients, along, strict=True))
        seen = difference(model, image, label, parameters, along)
        worst = max(worst, abs(told - seen) / max(abs(seen), 1e-9))
    return {"gradient": [worst > 1e-4, f"relative difference {worst:.1e}, allowed 1e-04"]}


@torch.no_grad()
def difference(
    model: SETR, image: Tensor, label: Tensor, parameters: list[Any], along: list[Tensor]
) -> float:
    """Of the loss, a little forwards and a little backwards, per length of the step."""
    found, step = [], 1e-6
    for sign in (1, -2):
        for parameter, direction in zip(parameters, along, strict=True):
            parameter.add_(direction, alpha=sign * step)
        found.append(segmentation_loss(model(image, aux=True), label).item())
    return (found[0] - found[1]) / (2 * step)


def steps_by_hand(head: str) -> Answer:
    """Three training steps in float64: resize, cross-entropy, clipping and AdamW of PyTorch."""
    optim = OptimConfig(name="adamw", lr=1e-3, head_multiplier=1, weight_decay=0.0, clip_norm=1.0)
    config = get_recipe("toytown_pup").override("optim.weight_decay=0")
    ours = small(head, (32, 48), std=0.1, aux=False).train()
    theirs = copy.deepcopy(ours)
    image = image_of(32, 48, batch=2)
    label = torch.randint(CLASSES, (2, 32, 48), generator=torch.Generator().manual_seed(3))
    first = build_optimizer(ours, optim)
    second = torch.optim.AdamW(theirs.parameters(), lr=1e-3, betas=(0.9, 0.999), weight_decay=0)
    for _ in range(3):
        take_step(ours, first, image, label, config)
        second.zero_grad()
        full = F.interpolate(theirs(image).logits, size=(32, 48), mode="bilinear")
        F.cross_entropy(full, label).backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        second.step()
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    worst = max((a - b).abs().max().item() for a, b in pairs)
    return {"steps_by_hand": [worst > 1e-6, f"weights differ by {worst:.1e}, allowed 1e-06"]}


def rates() -> Answer:
    """The learning rate at each step, by the formula of the paper; what decays, by its names."""
    model, optim = small("pup"), OptimConfig(
        name="adamw", lr=1e-3, weight_decay=0.05, warmup=0, min_lr=1e-4, head_multiplier=10)
    optimizer = build_optimizer(model, optim)
    worst = 0.0
    for step in range(100):
        set_lr(optimizer, step, 100, optim)
        wanted = (1e-3 - 1e-4) * (1 - step / 100) ** 0.9 + 1e-4
        found = next(g["lr"] for g in optimizer.param_groups if g["name"] == "encoder")
        worst = max(worst, abs(found - wanted) / wanted)
    spared = sum(p.numel() for g in parameter_groups(model, optim) if not g["weight_decay"]
                 for p in g["params"] if p.ndim == 1)
    wanted = sum(p.numel() for p in model.parameters() if p.ndim == 1 and p.requires_grad)
    return {"rates": [worst > 1e-9 or spared != wanted,
                      f"rate off by {worst:.1%}, {spared} of {wanted} biases and norms spared"]}


# --- data ----------------------------------------------------------------------------------------


def one_batch(town: str) -> Answer:
    """Eight crops as the network gets them, beside their files, and one image as evaluation does.

    Without random sizes a crop must be its street or its mirror image, the label the same way
    round; with them, its ids must be those of the file, and padding be ignored.
    """
    wrong = [*crops(town, "data.ratio_range=1,1"), *crops(town, "data.ratio_range=0.6,0.9")]
    config = toy("pup", town, "")
    file = next(Path(town).glob("leftImg8bit/val/*/*_000000_*.png"))
    pixels = np.asarray(Image.open(file))
    seen = image_views(torch.from_numpy(pixels.copy()).permute(2, 0, 1), config)[0]
    wrong += ["test image"] * (not np.allclose(seen, by_hand(pixels), atol=1e-4))
    return {"one_batch": [bool(wrong), f"{len(wrong)} of 17 do not agree {' '.join(wrong[:1])}"]}


def by_hand(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) bytes -> (3, H, W) normalised."""
    return ((pixels.astype(np.float64) - MEAN) / STD).transpose(2, 0, 1).astype(np.float32)


def crops(town: str, ratio: str) -> list[str]:
    """What is wrong with four batches of two."""
    config = toy("pup", town, "", ratio)
    feed = Feed(config, load_dataset(config.data, "train"), Faults())
    normalize, wrong = Normalize(config.data, torch.device("cpu")), []
    for _, batch in zip(range(4), feed.batches(0), strict=False):
        images = normalize(batch.image, batch.inside).numpy()
        for i, name in enumerate(batch.names):
            file = next(Path(town).glob(f"leftImg8bit/train/*/{name}_leftImg8bit.png"))
            label = batch.label[i].numpy()
            ok = fits(images[i], label, file) if ratio.endswith("1,1") else plausible(
                label, batch.inside[i], file)
            wrong += [ratio] * (not ok)
    return wrong


def fits(image: np.ndarray, label: np.ndarray, file: Path) -> bool:
    """Both are the file's, or both its mirror image's."""
    pixels, true = by_hand(np.asarray(Image.open(file))), label_on_disk(file)
    return any(np.allclose(image, pixels[..., ::way], atol=1e-4)
               and np.array_equal(label, true[:, ::way]) for way in (1, -1))


def plausible(label: np.ndarray, inside: tuple[int, int], file: Path) -> bool:
    """No id that the street has not, and nothing but 255 in the padding."""
    height, width = inside
    known_ids = set(np.unique(label_on_disk(file)).tolist())
    padding = np.concatenate([label[height:].ravel(), label[:, width:].ravel()])
    return set(np.unique(label[:height, :width]).tolist()) <= known_ids and (padding == 255).all()


# --- evaluation ----------------------------------------------------------------------------------


@torch.no_grad()
def score_by_hand(town: str, folder: str) -> Answer:
    """Six streets of a trained model: labels by the second implementation, IoU by NumPy.

    Other labels, another score, or another one when the model comes in training mode, is found.
    """
    model = SETR.from_pretrained(folder).train()
    config = model.config.override(f"data.root={town}")
    head = config.model.head
    streets, found = load_dataset(config.data, "val"), {}
    score = evaluate(model, streets, config, indices=range(6),
                     on_image=lambda i, label, _: found.update({i: label.numpy()})).miou()
    state = {name: value.double() for name, value in model.state_dict().items()}
    mine, true = [], []
    for i in range(6):
        file = Path(streets.files[i][0])
        image = torch.from_numpy(by_hand(np.asarray(Image.open(file))))[None].double()
        out = reference.logits(state, image, head, model.encoder.taps, PATCH, 3, (12, 24))
        mine.append(out.argmax(1)[0].numpy().astype(np.uint8))
        true.append(label_on_disk(file))
    same = np.mean([f.shape == m.shape and (f == m).mean() for f, m in
                    zip(found.values(), mine, strict=True)])
    wanted = mean_iou(np.stack(mine), np.stack(true))
    return {"score_by_hand": [bool(same < 0.999 or abs(score - wanted) > 1e-3),
            f"{same:.1%} of the labels agree, mIoU {100 * score:.2f} and {100 * wanted:.2f}"]}


def mean_iou(found: np.ndarray, true: np.ndarray) -> float:
    """By counting pixels."""
    values = []
    for k in np.unique(np.concatenate([found.ravel(), true.ravel()])):
        a, b = found == k, true == k
        values.append((a & b).sum() / (a | b).sum())
    return float(np.mean(values))


@torch.no_grad()
def windows() -> Answer:
    """Sliding windows of a function that gives ones everywhere: the average must be one."""
    ones = sliding_window(
        lambda x: torch.ones(len(x), 2, *x.shape[-2:]), torch.zeros(1, 3, 100, 130),
        Window((64, 64), (40, 40)))
    gap = (ones - 1).abs().max().item()
    return {"windows": [gap > 1e-6, f"ones come out as {ones.min():.0f} to {ones.max():.0f}"]}


# --- weights -------------------------------------------------------------------------------------


def round_trip() -> Answer:
    """Our weights into the authors' names and back: the same tensors, the same labels."""
    worst, tensors = 0.0, 0
    for head in HEADS:
        sizes = {"aux": False, **SMALL, "channels": 256, "patch_size": 16}
        config = replace(get_recipe(f"toytown_{head}").model, num_classes=CLASSES,
                         img_size=(64, 64), **sizes)
        model, back = (small(head, (64, 64), std, **sizes) for std in (0.2, 0.02))
        there = to_official(model.state_dict(), config, changed_config=True)
        weights.load_setr(back, there, grid=(4, 4))
        for name, value in model.state_dict().items():
            tensors += 1
            worst = max(worst, (back.state_dict()[name] - value).abs().max().item())
    return {"round_trip": [worst > 0, f"{tensors} tensors, largest difference {worst:.1e}"]}


def conversion() -> Answer:
    """Foreign files with known content: a SETR-MLA of the authors, a distilled DeiT."""
    model, back = (small("mla", (64, 64), s, aux=False) for s in (0.2, 0.02))
    weights.load_setr(back, reference.authors_names(model.state_dict()))
    vit, receiver = (small("pup", (64, 64), s, aux=False).encoder for s in (0.2, 0.02))
    weights.load_pretrained(receiver, reference.distilled(vit.state_dict()))
    worst, where = 0.0, ""
    for one, other in ((model, back), (vit, receiver)):
        for name, value in one.state_dict().items():
            gap = (other.state_dict()[name] - value).abs().max().item()
            worst, where = max((worst, where), (gap, name))
    return {"conversion": [worst > 0, f"largest difference {worst:.1e} {where}"]}


# --- several processes ---------------------------------------------------------------------------


def two_ranks(town: str) -> Answer:
    """Two steps of SETR-MLA in float64, two processes against one; uneven shares are ignored."""
    with tempfile.TemporaryDirectory() as out:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        codes = together([(f"{out}/two", town, rank, port) for rank in (0, 1)])
        codes += together([(f"{out}/one", town, None, port)])
        if any(codes):
            return {"two_ranks": [True, f"the processes ended with {codes}"]}
        states = [SETR.from_pretrained(f"{out}/{name}/last").state_dict()
                  for name in ("one", "two")]
    worst = max((states[0][name] - states[1][name]).abs().max().item() for name in states[0])
    return {"two_ranks": [worst > 1e-6, f"weights differ by {worst:.1e}, allowed 1e-06"]}


def together(jobs: list[tuple[Any, ...]]) -> list[int]:
    """Exit codes of `rank` in processes of their own, all at once."""
    children = []
    for job in jobs:
        process = os.fork()
        if process == 0:
            try:
                rank(*job)
                os._exit(0)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", flush=True)
                os._exit(1)
        children.append(process)
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in children]


def rank(out: str, town: str, number: int | None, port: int) -> None:
    """A short training, alone or as one of two."""
    if number is not None:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2",
                       "LOCAL_WORLD_SIZE": "2", "RANK": str(number), "LOCAL_RANK": str(number)}
    torch.set_default_dtype(torch.float64)
    train(toy(
        "mla", town, out, "train.steps=2", "train.batch_size=4", "train.eval_every=0",
        "data.crop_size=32x48", "data.ratio_range=0.1,0.4", "model.channels=8", "optim.warmup=0",
        "loss.normalize=valid", "optim.name=sgd", "optim.lr=0.05", "optim.weight_decay=0",
        "optim.clip_norm=0", "eval.limit=1"), progress=False)
