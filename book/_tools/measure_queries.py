"""Mask loss against a loss for every pixel, under a small EoMT, with few classes and with many.

    OMP_NUM_THREADS=1 python book/_tools/measure_queries.py

Needs SciPy for the matching: ``pip install scipy``. The encoder is that of the committed SETR-PUP
of ToyTown. Its first three blocks are frozen, so that their tokens are computed once; the last two
learn. Three ways to read it, on the same streets in the same order:

- ``mask loss``: EoMT. Queries join the patches in the last two blocks; each answers with a class,
  or none, and a mask. Hungarian matching, the losses and weights of Mask2Former.
- ``class queries``: the same network with a query for each class, whose masks are the logits of a
  cross-entropy for every pixel. What differs is the loss, and the class head that it needs.
- ``no queries``: cross-entropy on one 1x1 convolution of the same map, enlarged as in EoMT.

All masks have stride 4, as EoMT's, which here is one doubling. Both losses look at the same 4,096
random pixels of each street, between cells by bilinear interpolation, as Mask2Former's does.

Few are ToyTown's 11 classes. Many are 88: each is split into eight by the mean colour of a thing
(red, green, blue above or below the median of its class), so that a class is "a car with much red
and little of the rest". Rates are chosen on streets that no score below is of. Writes
data/runs/queries/results.json after every run; started again, it skips what is there.

    OMP_NUM_THREADS=1 python book/_tools/measure_queries.py --show

trains one of these runs once more (mask loss, 11 classes, the first seed) and writes what its
queries answer for the first held-out street: street.json, and three pictures of one byte a pixel,
masks.png (24 x 48 for each query, one below the other, 255 for probability 1), and with a class for
each pixel truth.png and map.png.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import records
import torch
import torch.nn.functional as F
from measure_auxiliary import write
from measure_inside import miou
from measure_readings import interval
from PIL import Image
from torch import Tensor, nn

from setr_lite import SETR
from setr_lite.heads import LayerNorm2d
from setr_lite.metrics import ConfusionMatrix
from setr_lite.toytown import CLASSES, render_scene, scene_seed

OUT = records.RUNS / "queries" / "results.json"
READERS = ("mask loss", "class queries", "no queries")
VOCABULARIES = ("few", "many")
RATES = (5e-4, 2e-3)
TRAIN, SEARCH, TEST = 800, 40, 100
"""Streets to learn from, to choose the rate on, to score."""
STEPS, SHORT, BATCH, POINTS, SEEDS = 800, 250, 4, 4096, 3
QUERIES, LATE, GRID, SIZE = 48, 2, (12, 24), (96, 192)
WEIGHTS = {"class": 2.0, "mask": 5.0, "dice": 5.0, "nothing": 0.1}
"""Of the losses, and of the class *nothing* among the others: Mask2Former's (arXiv 2112.01527)."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = records.options(__doc__)
    parser.add_argument("--vocabulary", choices=VOCABULARIES, help="only this one")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--show", action="store_true", help="one street of one run, as pictures")
    options = parser.parse_args(argv)
    if options.show:
        show()
        return
    out = OUT.with_stem(f"results_{options.vocabulary}") if options.vocabulary else OUT
    results = json.loads(out.read_text()) if out.exists() else fresh()
    for vocabulary in [options.vocabulary] if options.vocabulary else VOCABULARIES:
        town = Town(vocabulary)
        for key in plan(vocabulary):
            if any(key.items() <= run.items() for run in results["runs"]):
                continue
            search = key["part"] == "search"
            rate = key["rate"] if search else best(results, **key)
            steps = SHORT if search else key.get("steps", options.steps)
            found = measure(town, key["reader"], key["seed"], rate, steps, search)
            results["runs"].append(key | {"rate": rate, "steps": steps} | found)
            write(out, results)


def fresh() -> dict[str, Any]:
    facts = records.about("OMP_NUM_THREADS=1 python book/_tools/measure_queries.py")
    return facts | {"learned_on": TRAIN, "streets": TEST, "batch": BATCH, "queries": QUERIES,
                    "classes": {"few": len(CLASSES), "many": 8 * len(CLASSES)}, "runs": []}


def plan(vocabulary: str) -> list[dict[str, Any]]:
    """All rates first, then the seeds, then twice the steps for who may not be done yet."""
    words: dict[str, Any] = {"vocabulary": vocabulary}
    search = [words | {"part": "search", "reader": reader, "seed": 9, "rate": rate}
              for reader in READERS for rate in RATES]
    score = [words | {"part": "score", "reader": reader, "seed": seed}
             for seed in range(SEEDS) for reader in READERS]
    longer = [words | {"part": "longer", "reader": reader, "seed": 0, "steps": 2 * STEPS}
              for reader in READERS[:2]]
    return search + score + longer


def best(results: dict[str, Any], vocabulary: str, reader: str, **_: Any) -> float:
    """The rate with the best score on the streets for the search."""
    tried = {"vocabulary": vocabulary, "reader": reader, "part": "search"}
    runs = [run for run in results["runs"] if tried.items() <= run.items()]
    return max(runs, key=lambda run: run["miou"])["rate"]


# --- streets -------------------------------------------------------------------------------------


class Town:
    """Tokens before the last blocks, and labels, of three sets of streets.

    ``train`` has every street and its mirror image, one behind the other.
    """

    def __init__(self, vocabulary: str) -> None:
        self.classes = len(CLASSES) * (8 if vocabulary == "many" else 1)
        train, test = streets("train", range(TRAIN)), streets("val", range(TEST))
        search = streets("val", range(TEST, TEST + SEARCH))
        if vocabulary == "many":
            medians = median_colours(*train)
            for images, labels in (train, test, search):
                for image, label in zip(images, labels, strict=True):
                    label.copy_(by_colour(image, label, medians))
        both = [torch.stack([x, x.flip(-1)], dim=1).flatten(0, 1) for x in train]
        self.train, self.test, self.search = (
            (early_tokens(images), labels) for images, labels in (both, test, search))


@torch.inference_mode()
def early_tokens(images: Tensor) -> Tensor:
    """(N, 3, 96, 192) uint8 -> (N, 289, 144), class token first."""
    setr, found = SETR.from_pretrained(records.STREET_MODEL), []
    for image in images:
        x = setr.encoder.embed(setr.preprocess(image))
        for block in setr.encoder.blocks[:-LATE]:
            x = block(x)
        found.append(x)
    return torch.cat(found).clone()


def streets(split: str, indices: range) -> tuple[Tensor, Tensor]:
    drawn = [render_scene(scene_seed(0, split, index), SIZE) for index in indices]
    images = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image, _ in drawn])
    return images, torch.stack([torch.from_numpy(label).long() for _, label in drawn])


def things(label: Tensor) -> list[tuple[int, Tensor]]:
    """Connected regions of one class, as class and mask."""
    from scipy.ndimage import label as regions_of

    found = []
    for kind in label.unique().tolist():
        regions, count = regions_of((label == kind).numpy())
        numbered = torch.from_numpy(regions)
        found += [(kind, numbered == number) for number in range(1, count + 1)]
    return found


def median_colours(images: Tensor, labels: Tensor) -> Tensor:
    """(classes, 3), of the mean colours of things."""
    colours: list[list[Tensor]] = [[] for _ in CLASSES]
    for image, label in zip(images, labels, strict=True):
        for kind, mask in things(label):
            colours[kind].append(image[:, mask].float().mean(1))
    return torch.stack([torch.stack(kind).median(0).values for kind in colours])


def by_colour(image: Tensor, label: Tensor, medians: Tensor) -> Tensor:
    """Labels 0..10 -> 0..87."""
    split = torch.empty_like(label)
    for kind, mask in things(label):
        red, green, blue = (image[:, mask].float().mean(1) > medians[kind]).tolist()
        split[mask] = 8 * kind + 4 * red + 2 * green + blue
    return split


# --- the networks --------------------------------------------------------------------------------


class Reader(nn.Module):
    """EoMT on the toy encoder; without queries a 1x1 convolution takes their place."""

    def __init__(self, blocks: nn.Module, classes: int, reader: str) -> None:
        super().__init__()
        dim = 144
        self.blocks, self.norm, self.up = blocks, nn.LayerNorm(dim), Enlarge(dim)
        count = {"mask loss": QUERIES, "class queries": classes, "no queries": 0}[reader]
        self.queries = nn.Parameter(torch.randn(1, count, dim))
        self.mask = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim), nn.GELU(),
                                  nn.Linear(dim, dim))
        self.kind = nn.Linear(dim, classes + 1) if reader == "mask loss" else None
        self.pixel = nn.Conv2d(dim, classes, 1) if reader == "no queries" else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, 289, 144) -> masks (B, Q, 24, 48) as logits, classes (B, Q, K + 1) or None."""
        count = self.queries.shape[1]
        x = self.norm(self.blocks(torch.cat([self.queries.expand(len(x), -1, -1), x], dim=1)))
        pixels = self.up(x[:, count + 1 :].transpose(1, 2).unflatten(2, GRID))
        if self.pixel is not None:
            return self.pixel(pixels), None
        queries = x[:, :count]
        masks = torch.einsum("bqd,bdhw->bqhw", self.mask(queries), pixels)
        return masks, None if self.kind is None else self.kind(queries)


class Enlarge(nn.Module):
    """EoMT's: a transposed convolution by two, GELU, a depthwise 3x3 convolution, LayerNorm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.twice = nn.ConvTranspose2d(dim, dim, 2, stride=2)
        self.mix = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.norm = LayerNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.mix(F.gelu(self.twice(x))))


def scores_of(masks: Tensor, kinds: Tensor | None) -> Tensor:
    """One map a class: with mask loss the sum over queries of class times mask."""
    if kinds is None:
        return masks
    return torch.einsum("bqk,bqhw->bkhw", kinds.softmax(-1)[..., :-1], masks.sigmoid())


# --- the losses ----------------------------------------------------------------------------------


def at_points(masks: Tensor, label: Tensor, order: torch.Generator) -> tuple[Tensor, Tensor]:
    """Masks (B, Q, 24, 48) and labels (B, 96, 192) at random pixels: (B, Q, P) and (B, P)."""
    height, width = label.shape[-2:]
    pixel = torch.randint(height * width, (len(label), POINTS), generator=order)
    row, column = (pixel // width + 0.5) / height, (pixel % width + 0.5) / width
    grid = 2 * torch.stack([column, row], dim=-1)[:, None] - 1
    found = F.grid_sample(masks, grid, padding_mode="border", align_corners=False)
    return found[:, :, 0], label.flatten(1).gather(1, pixel)


def mask_loss(masks: Tensor, kinds: Tensor, label: Tensor) -> Tensor:
    """Mask2Former's set loss; a target is all that an image has of one class."""
    nothing = kinds.shape[-1] - 1
    weights = torch.ones(nothing + 1)
    weights[nothing] = WEIGHTS["nothing"]
    wanted, chosen, truth = torch.full(kinds.shape[:2], nothing), [], []
    for i, one in enumerate(label):
        query, classes, target = matched(masks[i], kinds[i], one)
        wanted[i, query] = classes
        chosen.append(masks[i, query])
        truth.append(target)
    x, y = torch.cat(chosen), torch.cat(truth)
    return (WEIGHTS["class"] * F.cross_entropy(kinds.flatten(0, 1), wanted.flatten(), weights)
            + WEIGHTS["mask"] * F.binary_cross_entropy_with_logits(x, y)
            + WEIGHTS["dice"] * dice(x.sigmoid(), y).mean())


@torch.no_grad()
def matched(masks: Tensor, kinds: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The cheapest pairs of an image's queries and targets.

    (Q, pixels), (Q, K + 1) and (pixels) -> the queries (T), their classes (T) and targets
    (T, pixels).
    """
    from scipy.optimize import linear_sum_assignment

    present = label.unique()
    target = (label == present[:, None]).float()
    cost = pair_costs(masks, target) - WEIGHTS["class"] * kinds.softmax(-1)[:, present]
    query, which = linear_sum_assignment(cost.numpy())
    return torch.from_numpy(query), present[which], target[which]


def pair_costs(masks: Tensor, target: Tensor) -> Tensor:
    """(Q, pixels) and (T, pixels) -> (Q, T): cross-entropy and dice of every pair."""
    pixels = masks.shape[1]
    cross = (F.softplus(-masks) @ target.T + F.softplus(masks) @ (1 - target).T) / pixels
    p = masks.sigmoid()
    overlap = (2 * p @ target.T + 1) / (p.sum(1)[:, None] + target.sum(1) + 1)
    return WEIGHTS["mask"] * cross + WEIGHTS["dice"] * (1 - overlap)


def dice(p: Tensor, y: Tensor) -> Tensor:
    return 1 - (2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)


# --- a run ---------------------------------------------------------------------------------------


def measure(town: Town, reader: str, seed: int, rate: float, steps: int, search: bool
            ) -> dict[str, Any]:
    """Train, then score on the streets for the search or on the others."""
    started = time.process_time()
    model, loss = learn(town, reader, seed, rate, steps)
    matrices = score(model, town.classes, *(town.search if search else town.test))
    facts = {"miou": round(100 * miou(matrices.sum(0)), 2), "date": records.today(),
             "parameters": sum(p.numel() for p in model.parameters())}
    if not search:
        facts |= {"interval": interval(matrices), "last_loss": round(loss, 3)}
    facts["cpu_seconds"] = round(time.process_time() - started)
    print(town.classes, reader, seed, rate, steps, facts, flush=True)
    return facts


def learn(town: Town, reader: str, seed: int, rate: float, steps: int) -> tuple[Reader, float]:
    """The trained network and its last loss."""
    setr = SETR.from_pretrained(records.STREET_MODEL).requires_grad_(True)
    torch.manual_seed(seed)
    model = Reader(nn.Sequential(*setr.encoder.blocks[-LATE:]), town.classes, reader)
    fresh_ones = [p for name, p in model.named_parameters() if not name.startswith("blocks.")]
    optimizer = torch.optim.AdamW([
        {"params": fresh_ones, "rate": rate},
        {"params": list(model.blocks.parameters()), "rate": rate / 5}], weight_decay=0.05)
    tokens, labels = town.train
    order = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * min(1, (step + 1) / 100) * (1 - step / steps) ** 0.9
        pick = torch.randint(len(tokens), (BATCH,), generator=order)
        masks, kinds = model(tokens[pick])
        masks, label = at_points(masks, labels[pick], order)
        loss = F.cross_entropy(masks, label) if kinds is None else mask_loss(masks, kinds, label)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model, loss.item()


@torch.inference_mode()
def score(model: Reader, classes: int, tokens: Tensor, labels: Tensor) -> Tensor:
    """A confusion matrix a street."""
    found = []
    for x, label in zip(tokens, labels, strict=True):
        scores = scores_of(*model(x[None]))
        full = F.interpolate(scores, label.shape, mode="bilinear")
        matrix = ConfusionMatrix(classes)
        matrix.update(full.argmax(1)[0], label)
        found.append(matrix.matrix.clone())
    return torch.stack(found).double()


# --- one street ----------------------------------------------------------------------------------


def show() -> None:
    """What every query of one run answers for the first held-out street."""
    recorded = json.loads(OUT.read_text())
    words: dict[str, Any] = {"vocabulary": "few", "part": "score", "reader": "mask loss", "seed": 0}
    run = next(run for run in recorded["runs"] if words.items() <= run.items())
    town = Town("few")
    model, loss = learn(town, run["reader"], run["seed"], run["rate"], run["steps"])
    matrices = score(model, town.classes, *town.test)
    label = town.test[1][0]
    with torch.inference_mode():
        masks, kinds = model(town.test[0][:1])
        full = F.interpolate(scores_of(masks, kinds), label.shape, mode="bilinear").argmax(1)[0]
        pixels = F.interpolate(masks, label.shape, mode="bilinear")[0].flatten(1)
        queries, kinds_of, _ = matched(pixels, kinds[0], label.flatten())
    for name, picture in (("masks", (255 * masks[0].sigmoid()).round().flatten(0, 1)),
                          ("truth", label), ("map", full)):
        Image.fromarray(picture.to(torch.uint8).numpy()).save(OUT.parent / f"{name}.png")
    facts = records.about("OMP_NUM_THREADS=1 python book/_tools/measure_queries.py --show")
    facts |= words | {key: run[key] for key in ("rate", "steps")} | {
        "street": 0, "miou": round(100 * miou(matrices.sum(0)), 2), "last_loss": round(loss, 3),
        "right": round((full == label).double().mean().item(), 4),
        "classes": [kind.name for kind in CLASSES],
        "matched": [{"query": int(query), "class": CLASSES[kind].name}
                    for query, kind in zip(queries, kinds_of, strict=True)],
        "probabilities": [[round(p, 4) for p in query] for query in kinds[0].softmax(-1).tolist()]}
    text = json.dumps(facts, indent=1).replace("\n   ", " ").replace("\n  ]", " ]")
    (OUT.parent / "street.json").write_text(text + "\n")
    print({key: value for key, value in facts.items() if key != "probabilities"})


if __name__ == "__main__":
    main()
