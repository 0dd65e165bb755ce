"""Segmenter's class tokens against a linear probe, both under the same labels.

    OMP_NUM_THREADS=1 python book/_tools/measure_readings.py

Both read the frozen tokens of the committed SETR-PUP of ToyTown. A patch has 64 pixels and needs
one target; there are four ways to give it one, and each is given to both:

- corner: the class of its top left pixel, what ``F.interpolate(mode="nearest")`` takes
- majority: the commonest class of its pixels
- shares: the share of every class, a soft target
- full size: no target; the scores are enlarged and every pixel has its own loss

Writes data/runs/readings/results.json after every run: mIoU on held-out streets drawn here, three
seeds for the class tokens (the linear probe is a convex problem with one answer), 95 % bootstrap
intervals over streets. Started again, it skips what is there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import records
import torch
import torch.nn.functional as F
from measure_auxiliary import write
from measure_inside import MODEL, counts_of, miou, street
from torch import Tensor, nn

from setr_lite import SETR
from setr_lite.encoder import Block

OUT = records.ROOT / "data/runs/readings/results.json"
GRID, CLASSES = (12, 24), 19
LEARN, TEST, STEPS, SEEDS = 24, 48, 400, 3
LABELS = ("corner", "majority", "shares", "full size")


def main(argv: Sequence[str] | None = None) -> None:
    records.options(__doc__).parse_args(argv)
    torch.set_grad_enabled(False)
    results = json.loads(OUT.read_text()) if OUT.exists() else fresh()
    model = SETR.from_pretrained(MODEL)
    learn, test = tokens(model, "train", LEARN), tokens(model, "val", TEST)
    for labels in LABELS:
        for reader, seeds in (("linear probe", 1), ("class tokens", SEEDS)):
            for seed in range(seeds):
                key = {"reader": reader, "labels": labels, "seed": seed}
                if not any(key.items() <= run.items() for run in results["runs"]):
                    results["runs"].append(key | measure(reader, labels, seed, learn, test))
                    write(OUT, results)


def fresh() -> dict[str, Any]:
    facts = records.about("OMP_NUM_THREADS=1 python book/_tools/measure_readings.py")
    return facts | {"learned_on": LEARN, "streets": TEST, "steps": STEPS, "runs": []}


def tokens(model: SETR, split: str, count: int) -> tuple[Tensor, Tensor]:
    """Tokens of the last block (streets, D, 12, 24), and labels (streets, 96, 192)."""
    streets = [street(i, split) for i in range(count)]
    found = torch.cat([model.encoder(model.preprocess(image))[-1] for image, _ in streets])
    return (found.transpose(1, 2).unflatten(2, GRID),
            torch.stack([label for _, label in streets]))


def targets(labels: str, truth: Tensor) -> Tensor:
    """(B, 96, 192) -> shares (B, K, 12, 24); full size has none."""
    if labels == "corner":
        return one_hot(truth[:, ::8, ::8])
    shares = F.avg_pool2d(one_hot(truth), 8)
    return one_hot(shares.argmax(1)) if labels == "majority" else shares


def one_hot(label: Tensor) -> Tensor:
    return F.one_hot(label, CLASSES).movedim(-1, 1).float()


def loss_of(scores: Tensor, truth: Tensor, labels: str) -> Tensor:
    if labels == "full size":
        return F.cross_entropy(F.interpolate(scores, truth.shape[-2:], mode="bilinear"), truth)
    return F.cross_entropy(scores, targets(labels, truth))


def measure(reader: str, labels: str, seed: int, learn: Any, test: Any) -> dict[str, Any]:
    started = time.process_time()
    torch.manual_seed(seed)
    x, truth = learn
    mean, std = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
    x, z = ((v - mean) / std for v in (x, test[0]))
    with torch.enable_grad():
        fit = fit_linear if reader == "linear probe" else fit_tokens
        model = fit(x, truth, labels).eval()
    scores = F.interpolate(model(z), test[1].shape[-2:], mode="bilinear")
    matrices = counts_of(scores.argmax(1), test[1])
    facts = {"miou": round(100 * miou(matrices.sum(0)), 2), "interval": interval(matrices),
             "date": records.today(),
             "cpu_seconds": round(time.process_time() - started)}
    print(reader, labels, seed, facts, flush=True)
    return facts


def interval(matrices: Tensor) -> list[float]:
    rng = np.random.default_rng(0)
    picks = torch.from_numpy(rng.integers(len(matrices), size=(500, len(matrices))))
    values = [100 * miou(matrices[pick].sum(0)) for pick in picks]
    return np.quantile(values, (0.025, 0.975)).round(2).tolist()


def fit_linear(x: Tensor, truth: Tensor, labels: str) -> nn.Module:
    """To its optimum, with the probe's usual weight decay."""
    model = nn.Conv2d(x.shape[1], CLASSES, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model(x), truth, labels) + 1e-4 * model.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return model


def fit_tokens(x: Tensor, truth: Tensor, labels: str) -> nn.Module:
    model = ClassTokens(x.shape[1], CLASSES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - step / STEPS) ** 0.9
        pick = torch.randperm(len(x))[:4]
        optimizer.zero_grad()
        loss_of(model(x[pick]), truth[pick], labels).backward()
        optimizer.step()
    return model


class ClassTokens(nn.Module):
    """Segmenter's decoder (Strudel et al. 2021) with one block in place of two."""

    def __init__(self, dim: int, classes: int, heads: int = 4) -> None:
        super().__init__()
        self.tokens = nn.Parameter(0.02 * torch.randn(1, classes, dim))
        self.block, self.norm = Block(dim, heads), nn.LayerNorm(dim)
        self.patch, self.klass = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.out = nn.LayerNorm(classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, K, h, w)."""
        size, x = x.shape[-2:], x.flatten(2).transpose(1, 2)
        n = x.shape[1]
        x = self.norm(self.block(torch.cat([x, self.tokens.expand(len(x), -1, -1)], dim=1)))
        p = F.normalize(self.patch(x[:, :n]), dim=-1)
        k = F.normalize(self.klass(x[:, n:]), dim=-1)
        return self.out(p @ k.transpose(1, 2)).transpose(1, 2).unflatten(2, size)


if __name__ == "__main__":
    main()
