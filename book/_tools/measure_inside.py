"""What the little SETR of ToyTown looks at, each number beside what could explain it otherwise.

    OMP_NUM_THREADS=1 python book/_tools/measure_inside.py [PART ...]

On held-out streets of ToyTown, drawn here. Writes data/runs/inside_controls/NAME.json for each
part; a part whose file is there is skipped (delete it to measure again).

- own_kind: attention to patches of one's own class, against the same head averaged over all pairs
  of patches that lie the same way apart, and against the head's average asker.
- influence: what moves when a square is covered, against guesses: nearness, distance from the
  mean colour, attention, rollout (of another token, of the average token), gradients.
- surroundings: what linear probes read from the token of one patch when its surroundings, or it,
  are exchanged, without attention, and in an untrained encoder.
- heads: mIoU without one head.
- place: row and column read from tokens, with the position table and without it.
- cosines: gradients of main and auxiliary losses, against those of two main heads.

Intervals are 95 % bootstrap intervals over streets.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import records
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from setr_lite import SETR, ConfusionMatrix, attention_maps, segmentation_loss
from setr_lite.datasets import Cityscapes
from setr_lite.inside.stages import fit_readout
from setr_lite.recipes import get_recipe
from setr_lite.toytown import CLASSES, render_scene, scene_seed
from setr_lite.train import seed_everything

OUT = records.ROOT / "data/runs/inside_controls"
MODEL = records.ROOT / "data/runs/toytown_pup/model"
GRID, STREETS, LEARN = (12, 24), 48, 96
PROBED, OF_EACH = 24, 2
PLACES = GRID[0] * GRID[1]
KIND = torch.tensor([Cityscapes.classes.index(c.name) for c in CLASSES])
RESAMPLES = 4000


def main(argv: Sequence[str] | None = None) -> None:
    parser = records.options(__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART")
    options = parser.parse_args(argv)
    torch.set_grad_enabled(False)
    for name in options.parts:
        file = OUT / f"{name}.json"
        if not file.exists():
            started = time.process_time()
            write_facts(file, PARTS[name](), started)


def write_facts(file: Any, found: dict[str, Any], started: float) -> None:
    command = f"OMP_NUM_THREADS=1 python book/_tools/measure_inside.py {file.stem}"
    facts = records.about(command)
    facts["cpu_seconds"] = round(time.process_time() - started)
    records.write(file, facts | found)
    print(file.name, facts["cpu_seconds"], "s", flush=True)


# --- streets and statistics ----------------------------------------------------------------------


def street(index: int, split: str = "val") -> tuple[Tensor, Tensor]:
    """Image (3, 96, 192) uint8 and label (96, 192) of a street of ToyTown."""
    image, label = render_scene(scene_seed(0, split, index), (96, 192))
    return torch.from_numpy(image).permute(2, 0, 1), KIND[torch.from_numpy(label).long()]


def interval(values: np.ndarray) -> dict[str, Any]:
    """Mean over streets (axis 0), with its 95 % bootstrap interval."""
    draw = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[draw].mean(1), (0.025, 0.975), axis=0)
    return {"mean": rounded(values.mean(0)), "low": rounded(low), "high": rounded(high)}


def rounded(x: Any, digits: int = 4) -> Any:
    return np.round(np.asarray(x, dtype=float), digits).tolist()


def patch_classes(label: Tensor) -> Tensor:
    """(96, 192) -> (288,), the commonest class of each patch."""
    cells = label.reshape(12, 8, 24, 8).permute(0, 2, 1, 3)
    return cells.reshape(PLACES, 64).mode(dim=1).values


# --- attention to one's own kind -----------------------------------------------------------------


def own_kind() -> dict[str, Any]:
    """Every head: its own share, and the shares of its two averages, over all streets."""
    model, rows = SETR.from_pretrained(MODEL), []
    for index in range(STREETS):
        image, label = street(index)
        kind = patch_classes(label)
        alike = (kind[:, None] == kind).float()
        maps = patches(attention_maps(model, model.preprocess(image), None)[:, 0])
        versions = (maps, by_offset(maps), maps.mean(-2, keepdim=True).expand_as(maps))
        shares = [(t * alike).sum(-1).mean(-1) for t in versions]
        most = maps.mean(-2).sort(-1, descending=True).values[..., : PLACES // 20].sum(-1)
        rows.append(torch.stack([*shares, torch.full_like(most, float(alike.mean())), most]))
    table = torch.stack(rows).numpy()  # (streets, 5, blocks, heads)
    own, offset, asker, even, most = table.swapaxes(0, 1)
    return {"streets": STREETS, "own": interval(own), "same_offset": interval(offset),
            "average_asker": interval(asker), "even": interval(even),
            "own_minus_same_offset": interval(own - offset),
            "own_minus_average_asker": interval(own - asker),
            "to_the_most_heard_twentieth": interval(most)}


def patches(maps: Tensor) -> Tensor:
    """Attention among patches; rows sum to 1."""
    maps = maps[..., -PLACES:, -PLACES:]
    return maps / maps.sum(-1, keepdim=True)


def by_offset(maps: Tensor) -> Tensor:
    """Each entry replaced by the head's mean over all pairs that lie the same way apart."""
    where = torch.cartesian_prod(*(torch.arange(n) for n in GRID))
    apart = where[:, None] - where[None] + torch.tensor(GRID) - 1
    code = (apart[..., 0] * (2 * GRID[1]) + apart[..., 1]).flatten()
    flat = maps.flatten(-2)
    sums = torch.zeros(*flat.shape[:-1], int(code.max()) + 1)
    sums.index_add_(-1, code, flat)
    means = sums / torch.bincount(code).clamp_min(1)
    table = means[..., code].reshape(maps.shape)
    return table / table.sum(-1, keepdim=True)


# --- what moves when a square is covered ---------------------------------------------------------

def influence() -> dict[str, Any]:
    """Rank correlations of nine guesses with two measured influences."""
    sys.path.insert(0, str(records.ROOT / "book"))
    from figures.influence import moved, rank_correlation

    model, rows, own = SETR.from_pretrained(MODEL), [], []
    for index in range(STREETS):
        image = model.preprocess(street(index)[0])
        other = model.preprocess(street(index + STREETS)[0])
        truths = [moved(model, image, cover) for cover in (torch.zeros_like(image), other)]
        guesses = all_guesses(model, image)
        rows.append([[rank_correlation(g, t) for t in truths] for g in guesses.values()])
        specific = [v - v.mean(1, keepdim=True) for v in (guesses["rollout"], *truths)]
        own.append([rank_correlation(specific[0], t) for t in specific[1:]])
    table = np.array(rows)  # (streets, guesses, interventions)
    names = list(guesses)
    at = {name: table[:, i] for i, name in enumerate(names)}
    return {
        "streets": STREETS, "interventions": ["mean colour", "another street's square"],
        "correlation": {name: interval(values) for name, values in at.items()},
        "rollout_minus": {name: interval(at["rollout"] - values)
                          for name, values in at.items() if name != "rollout"},
        "rollout_beyond_what_all_tokens_share": interval(np.array(own)),
    }


def all_guesses(model: SETR, image: Tensor) -> dict[str, Tensor]:
    """(72, 288) each: squares by asking tokens."""
    maps = attention_maps(model, image, None)[:, 0]
    rolled = by_square(roll(maps.mean(1)))
    draw = torch.randperm(PLACES, generator=torch.Generator().manual_seed(0))
    pixels = image[0].square().sum(0).reshape(6, 16, 12, 16).sum((1, 3)).flatten().sqrt()
    steep, steep_input = gradients(model, image)
    return {
        "nearness": nearness(),
        "distance from the mean colour": pixels[:, None].expand(-1, PLACES),
        "attention of the last block": by_square(maps[-1].mean(0)),
        "rollout": rolled,
        "rollout of another token": rolled[:, draw],
        "rollout of the average token": rolled.mean(1, keepdim=True).expand_as(rolled),
        "rollout weighted by values": by_square(roll(weighted_by_values(model, image, maps))),
        "gradient": steep, "gradient x input": steep_input,
    }


def nearness() -> Tensor:
    where = torch.cartesian_prod(*(torch.arange(n).float() for n in GRID))
    centre = torch.cartesian_prod(torch.arange(6) * 2 + 0.5, torch.arange(12) * 2 + 0.5)
    return -torch.cdist(centre, where)


def by_square(table: Tensor) -> Tensor:
    """(N, N), patches last -> (72, 288): what each patch takes from a square."""
    table = table[-PLACES:, -PLACES:]
    table = table / table.sum(-1, keepdim=True)
    return table.T.reshape(6, 2, 12, 2, PLACES).sum((1, 3)).flatten(0, 1)


def roll(tables: Tensor) -> Tensor:
    """(blocks, N, N) -> the rollout through all of them, half of each the identity."""
    so_far = torch.eye(tables.shape[-1])
    for table in tables:
        so_far = (0.5 * torch.eye(len(table)) + 0.5 * table) @ so_far
    return so_far


def weighted_by_values(model: SETR, image: Tensor, maps: Tensor) -> Tensor:
    """Attention times the length of what is sent (Kobayashi et al. 2020); rows sum to 1."""
    x, tables = model.encoder.embed(image), []
    for block, table in zip(model.encoder.blocks, maps, strict=True):
        attention = block.attn
        n, c = x.shape[1:]
        heads = attention.num_heads
        value = attention.qkv(block.norm1(x))[0, :, 2 * c:].reshape(n, heads, c // heads)
        out = attention.proj.weight.reshape(c, heads, c // heads)
        sent = torch.einsum("nhd,chd->hnc", value, out)  # of each token by each head
        length = torch.einsum("hij,hjc->ijc", table, sent).norm(dim=-1)
        tables.append(length / length.sum(-1, keepdim=True))
        x = block(x)
    return torch.stack(tables)


def gradients(model: SETR, image: Tensor) -> tuple[Tensor, Tensor]:
    """Size of the gradient of each token (of one random mixture) by square, and times input."""
    with torch.enable_grad():
        pixels = image.clone().requires_grad_()
        tokens = model.encoder(pixels)[-1][0]
        way = torch.randn(tokens.shape[1], generator=torch.Generator().manual_seed(0))
        found = [torch.autograd.grad(token @ way, pixels, retain_graph=True)[0][0]
                 for token in tokens[::9]]
    g = torch.stack(found)  # (32, 3, 96, 192)

    def squares(x: Tensor) -> Tensor:
        return x.abs().sum(1).reshape(-1, 6, 16, 12, 16).sum((2, 4)).flatten(1).T

    return squares(g), squares(g * image[0])


# --- from itself, or from its surroundings? ------------------------------------------------------


def surroundings() -> dict[str, Any]:
    """Accuracy of linear probes before block 1 and after each, for patches of a single class."""
    seed_everything(0, 0)
    model, rng = SETR.from_pretrained(MODEL), torch.Generator().manual_seed(0)
    untrained = SETR.from_config(model.config.model).eval()
    shown = [street(i, "train") for i in range(PROBED)]
    probes, blind = (fit_probes(m, shown) for m in (model, untrained))
    rows: list[Any] = []
    for index in range(STREETS):
        (image, label), (other, _) = street(index), street(index + STREETS)
        asked, kind = some_of_each_class(label, rng)
        here, there = (cells(model.preprocess(i)) for i in (image, other))
        changed = {"intact": here.repeat(len(asked), 1, 1, 1, 1)}
        for name in ("shuffled around", "another street around", "another street's patch"):
            changed[name] = torch.stack([exchange(name, here[0], there[0], i, rng) for i in asked])
        found = {name: read(model, probes, c, asked) for name, c in changed.items()}
        found["untrained"] = read(untrained, blind, changed["intact"], asked)
        with ExitStack() as all_blocks:
            for block in model.encoder.blocks:
                all_blocks.enter_context(silent(block))
            found["no attention"] = read(model, probes, changed["intact"], asked)
        rows.append([(f.argmax(-1) == kind).double().mean(1).tolist() for f in found.values()])
    table = np.array(rows)  # (streets, conditions, depths)
    return {"streets": STREETS, "learned_on": PROBED, "patches_of_a_class": OF_EACH,
            "accuracy": {name: interval(table[:, i]) for i, name in enumerate(found)}}


def fit_probes(model: SETR, shown: list[tuple[Tensor, Tensor]]) -> list[Any]:
    """A linear probe for each depth."""
    images = torch.cat([model.preprocess(image) for image, _ in shown])
    labels = torch.stack([label for _, label in shown])
    return [fit_readout(x.mT.unflatten(2, GRID), labels, 19, decay=1e-3, steps=12)
            for x in streams(model.encoder, images)]


def some_of_each_class(label: Tensor, rng: torch.Generator) -> tuple[list[int], Tensor]:
    """Up to OF_EACH patches of every class, drawn from those whose pixels have no other."""
    pixels = cells(label[None, None])[0].flatten(1)
    kind = pixels[:, 0]
    whole = (pixels == kind[:, None]).all(1) & (kind < 19)
    asked: list[int] = []
    for one in kind[whole].unique():
        those = (whole & (kind == one)).nonzero().flatten()
        asked += those[torch.randperm(len(those), generator=rng)[:OF_EACH]].tolist()
    return asked, kind[asked]


def exchange(name: str, here: Tensor, there: Tensor, i: int, rng: torch.Generator) -> Tensor:
    """The cells of a street with patch i, or with all others, exchanged."""
    out = here.clone()
    if name == "shuffled around":
        rest = torch.tensor([j for j in range(PLACES) if j != i])
        out[rest] = here[rest[torch.randperm(len(rest), generator=rng)]]
    elif name == "another street around":
        out = there.clone()
        out[i] = here[i]
    else:
        out[i] = there[i]
    return out


def cells(images: Tensor) -> Tensor:
    """(B, C, 96, 192) -> (B, 288, C, 8, 8)."""
    parts = images.unflatten(3, (GRID[1], 8)).unflatten(2, (GRID[0], 8))
    return parts.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def read(model: SETR, probes: list[Any], changed: Tensor, asked: list[int]) -> Tensor:
    """(depths, asked, 19): scores of patch asked[i] in image i."""
    parts = changed.unflatten(1, GRID).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
    own = torch.arange(len(asked))
    return torch.stack([
        probe(x[own, asked][:, :, None, None])[..., 0, 0]
        for probe, x in zip(probes, streams(model.encoder, parts), strict=True)])


# --- without one head ----------------------------------------------------------------------------


@contextmanager
def silent(block: nn.Module, heads: slice = slice(None)) -> Iterator[None]:
    """These heads of a block, or all, add nothing to the residual stream; the bias stays."""
    attention: Any = block.attn
    weight = attention.proj.weight
    kept, parts = weight.data.clone(), weight.data.chunk(attention.num_heads, dim=1)
    for part in parts[heads]:
        part.zero_()
    yield
    weight.data = kept


def heads() -> dict[str, Any]:
    """mIoU of all streets together when one head says nothing, and the interval of the loss."""
    model = SETR.from_pretrained(MODEL)
    streets = [street(i) for i in range(STREETS)]
    images = torch.cat([model.preprocess(image) for image, _ in streets])
    labels = [label for _, label in streets]
    whole = counts(model, images, labels)
    blocks = model.encoder.blocks
    lost = []
    for block in blocks:
        for head in range(block.attn.num_heads):
            with silent(block, slice(head, head + 1)):
                lost.append(loss_interval(whole, counts(model, images, labels)))
    return {"streets": STREETS, "miou": rounded(miou(whole.sum(0))),
            "shape": [len(blocks), blocks[0].attn.num_heads], "loses": lost}


def counts(model: SETR, images: Tensor, labels: list[Tensor]) -> Tensor:
    """(streets, 19, 19)."""
    found = torch.cat([model.logits(image[None]).argmax(1) for image in images])
    return counts_of(found, torch.stack(labels))


def counts_of(found: Tensor, truth: Tensor) -> Tensor:
    """Label maps (streets, H, W) -> confusion matrices (streets, 19, 19)."""
    out = []
    for one, label in zip(found, truth, strict=True):
        matrix = ConfusionMatrix(19)
        matrix.update(one, label)
        out.append(matrix.matrix.clone())
    return torch.stack(out).double()


def miou(matrix: Tensor) -> float:
    hit = matrix.diagonal(dim1=-2, dim2=-1)
    union = matrix.sum(-1) + matrix.sum(-2) - hit
    return float((hit / union)[matrix.sum(-1) > 0].mean())


def loss_interval(whole: Tensor, without: Tensor) -> list[float]:
    """Points of mIoU lost: mean, low, high."""
    rng, values = np.random.default_rng(0), []
    for _ in range(500):
        pick = torch.from_numpy(rng.integers(len(whole), size=len(whole)))
        values.append(100 * (miou(whole[pick].sum(0)) - miou(without[pick].sum(0))))
    lost = 100 * (miou(whole.sum(0)) - miou(without.sum(0)))
    return rounded([lost, *np.quantile(values, (0.025, 0.975))], 2)


# --- where am I? ---------------------------------------------------------------------------------


def place() -> dict[str, Any]:
    """R^2 of row and column, before block 1 and after each; the probe learns anew each time."""
    model = SETR.from_pretrained(MODEL)
    images = {split: torch.cat([model.preprocess(street(i, split)[0]) for i in range(n)])
              for split, n in (("train", LEARN), ("val", STREETS))}
    encoder, out = model.encoder, {}
    table = encoder.pos_embed.data
    for name, strength in (("with", 1), ("without", 0)):
        encoder.pos_embed.data = table * strength
        seen, new = (streams(encoder, images[split]) for split in ("train", "val"))
        found = [place_errors(a, b) for a, b in zip(seen, new, strict=True)]
        out[f"{name} position table"] = [r_squared(v) for v in found]
    return {"learned_on": LEARN, "streets": STREETS, **out}


def streams(encoder: Any, images: Tensor) -> list[Tensor]:
    """Patch tokens (streets, 288, C) before block 1 and after every block."""
    out: list[list[Tensor]] = []
    for part in images.split(12):
        x = encoder.embed(part)
        row = [x]
        for block in encoder.blocks:
            row.append(x := block(x))
        out.append([v[:, -PLACES:] for v in row])
    return [torch.cat(stage) for stage in zip(*out, strict=True)]


def place_errors(learn: Tensor, test: Tensor) -> np.ndarray:
    """(streets, 2, 2): squared errors of (row, column) and squares of the truth."""
    where = torch.cartesian_prod(*(torch.linspace(-1, 1, n).double() for n in GRID))
    x, z = (v.double() for v in (learn, test))
    mean, std = x.mean((0, 1)), x.std((0, 1))
    x, z = ((v - mean) / std for v in (x, z))
    flat = x.flatten(0, 1)
    damp = 1e-3 * len(flat) * torch.eye(flat.shape[1]).double()
    weight = torch.linalg.solve(flat.T @ flat + damp, flat.T @ where.repeat(len(x), 1))
    off = (z @ weight - where).square().sum(1)
    return torch.stack([off, where.square().sum(0).expand_as(off)], 1).numpy()


def r_squared(parts: np.ndarray) -> dict[str, list[float]]:
    draw = np.random.default_rng(0).integers(len(parts), size=(RESAMPLES, len(parts)))
    sums = parts[draw].sum(1)
    low, high = np.quantile(1 - sums[:, 0] / sums[:, 1], (0.025, 0.975), axis=0)
    whole = parts.sum(0)
    return {"row and column": rounded(1 - whole[0] / whole[1]),
            "low": rounded(low), "high": rounded(high)}


# --- do gradients agree? -------------------------------------------------------------------------


def cosines() -> dict[str, Any]:
    """At every block, fresh encoder: main against auxiliary loss, main against another main."""
    streets = [street(i, "train") for i in range(2)]
    out: dict[str, Any] = {"draws": 12}
    for head in ("naive", "pup", "mla"):
        recipe = get_recipe(f"toytown_{head}").model
        rows = []
        for seed in range(out["draws"]):
            seed_everything(seed, 0)
            model, other = SETR.from_config(recipe).train(), SETR.from_config(recipe).train()
            other.encoder = model.encoder
            image = torch.cat([model.preprocess(i) for i, _ in streets])
            label = torch.stack([t for _, t in streets])
            main, aux = block_gradients(model, image, label)
            second, _ = block_gradients(other, image, label)
            rows.append([[cosine(a, b) for a, b in zip(main, g, strict=True)]
                         for g in (aux, second)])
        table = np.array(rows)  # (draws, 2, blocks)
        out[head] = {"auxiliary": spread(table[:, 0]), "another main head": spread(table[:, 1])}
    return out


def spread(values: np.ndarray) -> dict[str, Any]:
    return {"mean": rounded(values.mean(0), 3), "least": rounded(values.min(0), 3),
            "largest": rounded(values.max(0), 3)}


def block_gradients(model: SETR, image: Tensor, label: Tensor) -> list[list[Tensor]]:
    """Of the main and of the auxiliary losses, by the output of every block."""
    outs: list[Tensor] = []
    handles = [block.register_forward_hook(lambda _, args, out: outs.append(out))
               for block in model.encoder.blocks]
    with torch.enable_grad():
        out = model(image)
        alone = out._replace(aux_scores=(), factors=out.factors[:1])
        main = segmentation_loss(alone, label)
        aux = segmentation_loss(out, label) - main
        found = [torch.autograd.grad(loss, outs, retain_graph=True, allow_unused=True)
                 for loss in (main, aux)]
    for handle in handles:
        handle.remove()
    return [[torch.zeros_like(x) if g is None else g for x, g in zip(outs, row, strict=True)]
            for row in found]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.flatten(), b.flatten(), dim=0))


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "cosines": cosines, "own_kind": own_kind, "place": place, "influence": influence,
    "surroundings": surroundings, "heads": heads}

if __name__ == "__main__":
    main()
