"""What a real pretrained encoder, DINOv2's ViT-S/14, learned: its positions and its attention.

    python book/_tools/measure_dinov2.py WEIGHTS CAMVID

WEIGHTS is a file of ``vit_small_patch14_dinov2.lvd142m`` as timm reads it, CAMVID the data set's
folder. Writes data/runs/dinov2_position/ and data/runs/dinov2_attention/ for the pages on position
and on what the encoder learned: similarities, distances and scores, no weights and no pictures.
"""

import json
import time

import numpy as np
import torch
import torch.nn.functional as F
from records import RUNS, about, options
from records import write as write_record

from setr_lite import SETR, attention_maps
from setr_lite.datasets import CamVid
from setr_lite.inside.attention import attention_distance
from setr_lite.weights.first import load_first_weights

ENCODER = "vit_small_patch14_dinov2.lvd142m"
SIZE = (350, 476)  # CamVid's 360 x 480 in whole patches of 14
LEARN, TEST = 24, 24  # pictures of train and of val, spread evenly over each


def main(words=None):
    parser = options(__doc__)
    parser.add_argument("weights", metavar="WEIGHTS")
    parser.add_argument("camvid", metavar="CAMVID")
    asked = parser.parse_args(words)
    torch.manual_seed(0)
    facts = about("python book/_tools/measure_dinov2.py WEIGHTS CAMVID") | {
        "encoder": ENCODER,
        "weights": "DINOv2, Oquab et al. 2024, Apache-2.0; rounded to float16",
    }
    start = time.perf_counter()
    model, fresh = (SETR(11, "linear", f"timm:{ENCODER}", img_size=(518, 518)).eval()
                    for _ in range(2))
    load_first_weights(model.encoder, asked.weights)
    write_position(model.encoder.vit.pos_embed.data, facts | {"seconds": 0}, start)
    start = time.perf_counter()
    pictures = {"learn": chosen(CamVid(asked.camvid, "train"), LEARN),
                "test": chosen(CamVid(asked.camvid, "val"), TEST)}
    facts |= {"size": SIZE, "pictures": {k: [s.name for s in v] for k, v in pictures.items()}}
    facts["models"] = {name: look(m, pictures)
                       for name, m in (("pretrained", model), ("random", fresh))}
    facts["seconds"] = round(time.perf_counter() - start)
    write("dinov2_attention", facts)


def write(name, facts, **arrays):
    write_record(RUNS / name / "record.json", facts)
    if arrays:
        np.savez_compressed(RUNS / name / "maps.npz", **arrays)


# --- the position table ---------------------------------------------------------------------------


def write_position(table, facts, start):
    """Similarities of every second place, and numbers of the whole table."""
    side = int((table.shape[1] - 1) ** 0.5)
    rows = table[0, 1:].unflatten(0, (side, side)).double()  # (37, 37, 384)
    unit = F.normalize(rows, dim=-1)
    some = unit[::2, ::2].flatten(0, 1)
    facts |= {
        "grid": [side, side],
        "rows": table.shape[1],
        "length_of_rows": [round(f(rows.norm(dim=-1)).item(), 4)
                           for f in (torch.amin, torch.mean, torch.amax)],
        "row_plus_column": round(additive_share(rows), 4),
        "components": [round(v, 4) for v in components(rows)[:16]],
        "by_offset": [[round(v, 3) for v in line] for line in by_offset(unit, 18)],
        "bilinear_against_timm": {
            n: round(gap(table, side, n), 4) for n in (16, 24, 32, 48, 64, 74)},
    }
    facts["seconds"] = round(time.perf_counter() - start)
    write("dinov2_position", facts,
          similarity=(127 * some @ some.T).round().numpy().astype(np.int8))


def additive_share(rows):
    """The share of the table's variance that one vector per row and one per column explain."""
    centred = rows - rows.mean((0, 1))
    fit = centred.mean(1, keepdim=True) + centred.mean(0, keepdim=True)
    return (1 - (centred - fit).square().sum() / centred.square().sum()).item()


def components(rows):
    """Shares of the variance along the principal directions, largest first."""
    centred = (rows - rows.mean((0, 1))).flatten(0, 1)
    power = torch.linalg.svdvals(centred).square()
    return (power / power.sum()).tolist()


def by_offset(unit, most):
    """Mean cosine of two places that are so many rows and columns apart."""
    h, w = unit.shape[:2]
    return [[(unit[dy:, dx:] * unit[: h - dy, : w - dx]).sum(-1).mean().item()
             for dx in range(most + 1)] for dy in range(most + 1)]


def gap(table, side, new):
    """How far the two filters are apart on another grid, in units of the table's own spread."""
    grid = table[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    size = {"size": (new, new), "align_corners": False}
    plain = F.interpolate(grid, mode="bilinear", **size)
    timm = F.interpolate(grid, mode="bicubic", antialias=True, **size)
    return ((plain - timm).square().mean().sqrt() / grid.std()).item()


# --- attention and tokens -------------------------------------------------------------------------


def chosen(dataset, count):
    return [dataset[i] for i in np.linspace(0, len(dataset) - 1, count).round().astype(int)]


def look(model, pictures):
    """Of each block: heads' distances, attention to the class token, what tokens know of place."""
    grid = (SIZE[0] // 14, SIZE[1] // 14)
    tokens = {name: [] for name in pictures}
    distances, to_class = [], []
    for name, samples in pictures.items():
        for sample in samples:
            image = prepare(model, sample.image)
            tokens[name].append(stream(model, image))
            if name == "test":
                maps = attention_maps(model, image, None)
                distances.append(torch.stack([attention_distance(m, grid)[0] for m in maps]))
                to_class.append(maps[:, 0, :, 1:, 0].mean((1, 2)))
    learn, test = (torch.stack(v) for v in tokens.values())  # (pictures, blocks + 1, N, C)
    return {
        "distance": rounded(torch.stack(distances).mean(0)),  # [block][head], in patches
        "to_class_token": rounded(torch.stack(to_class).mean(0), 5),
        "knows_place": [rounded(place_scores(learn[:, i], test[:, i], grid), 3)
                        for i in range(learn.shape[1])],  # [block][row, column], R^2
        "similarity_of_blocks": rounded(cka_table(test), 3),
    }


def prepare(model, image):
    """Cut to SIZE from the middle: scaling would change what a patch is."""
    top, left = ((a - b) // 2 for a, b in zip(image.shape[1:], SIZE, strict=True))
    cut = image[:, top : top + SIZE[0], left : left + SIZE[1]].float()
    mean, std = (torch.tensor(v)[:, None, None] for v in (model.encoder.mean, model.encoder.std))
    return ((cut - mean) / std)[None]


@torch.no_grad()
def stream(model, image):
    """The patch tokens before block 1 and after every block, (blocks + 1, N, C)."""
    vit, seen = model.encoder.vit, []
    handles = [vit.blocks[0].register_forward_pre_hook(lambda _, x: seen.append(x[0][0, 1:]))]
    handles += [b.register_forward_hook(lambda _, x, y: seen.append(y[0, 1:])) for b in vit.blocks]
    model.encoder(image)
    for handle in handles:
        handle.remove()
    return torch.stack(seen)


def place_scores(learn, test, grid):
    """R^2 of a linear (ridge) readout of a token's row and column, on other pictures."""
    where = torch.cartesian_prod(*(torch.linspace(-1, 1, n) for n in grid)).double()
    x, y = learn.flatten(0, 1).double(), where.repeat(len(learn), 1)
    mean, std = x.mean(0), x.std(0).clamp_min(1e-9)
    x = (x - mean) / std
    weight = torch.linalg.solve(x.T @ x + 1e-3 * len(x) * torch.eye(x.shape[1]).double(), x.T @ y)
    guess = ((test.flatten(0, 1).double() - mean) / std) @ weight
    truth = where.repeat(len(test), 1)
    return 1 - (guess - truth).square().sum(0) / truth.square().sum(0)


def cka_table(test):
    """Linear CKA (Kornblith et al. 2019) of the tokens of every two blocks."""
    x = test.transpose(0, 1).flatten(1, 2).double()  # (blocks + 1, pictures * N, C)
    x = x - x.mean(1, keepdim=True)
    inner = torch.stack([torch.stack([(a.T @ b).square().sum() for b in x]) for a in x])
    return inner / (inner.diagonal()[:, None] * inner.diagonal()).sqrt()


def rounded(values, digits=3):
    return json.loads(json.dumps(torch.as_tensor(values).double().numpy().round(digits).tolist()))


if __name__ == "__main__":
    main()
