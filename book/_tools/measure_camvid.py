"""What CamVid's labels alone say: drives, class shares, and the best a grid of patches can do.

    python book/_tools/measure_camvid.py DIR

Writes data/runs/camvid_labels/labels.json for the chapter on real streets. Needs no model.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F

from setr_lite.datasets import CamVid, CamVidUnseenDrive
from setr_lite.metrics import ConfusionMatrix

OUT = Path(__file__).resolve().parents[2] / "data" / "runs" / "camvid_labels"
CELLS = (14, 7, 4, 2)
SPLITS = {"train": (CamVid, "train"), "val": (CamVid, "val"),
          "two drives": (CamVidUnseenDrive, "train"), "unseen drive": (CamVidUnseenDrive, "val")}


def main():
    facts = {"command": "python book/_tools/measure_camvid.py DIR", "splits": {}}
    for name, (kind, split) in SPLITS.items():
        dataset = kind(sys.argv[1], split)
        labels = [sample.label for sample in dataset]
        drives = Counter(image.name.split("_")[0] for image, _ in dataset.files)
        counts = sum(torch.bincount(label.flatten().long(), minlength=256) for label in labels)
        facts["splits"][name] = {
            "images": len(labels), "drives": dict(sorted(drives.items())),
            "pixels": dict(zip(dataset.classes, counts[:11].tolist(), strict=True)),
            "ignored": int(counts[255]),
            "best_of_cells": {cell: best_of_cells(labels, cell) for cell in CELLS},
        }
    OUT.mkdir(exist_ok=True)
    (OUT / "labels.json").write_text(json.dumps(facts, indent=1) + "\n")


def best_of_cells(labels, cell):
    """IoU per class if every cell x cell square gets its most frequent label, with no mistake."""
    confusion = ConfusionMatrix(11)
    for label in labels:
        confusion.update(coarse(label, cell), label)
    return [round(value, 4) for value in confusion.iou().tolist()]


def coarse(label, cell):
    height, width = label.shape
    down, across = -height % cell, -width % cell
    votes = F.one_hot(label.long().clamp(max=11), 12)[..., :11].permute(2, 0, 1).float()
    votes = F.avg_pool2d(F.pad(votes, (0, across, 0, down)), cell).argmax(0)
    return votes.repeat_interleave(cell, 0).repeat_interleave(cell, 1)[:height, :width]


main()
