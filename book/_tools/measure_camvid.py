"""What CamVid's labels alone say: drives, class shares, and the best a grid of patches can do.

    python book/_tools/measure_camvid.py DIR

Writes data/runs/camvid_labels/labels.json for the chapter on real streets. Needs no model.
"""

from collections import Counter

import torch
import torch.nn.functional as F
from records import RUNS, about, options, write

from setr_lite.datasets import CamVid, CamVidUnseenDrive
from setr_lite.metrics import ConfusionMatrix

CELLS = (14, 7, 4, 2)
SPLITS = {"train": (CamVid, "train"), "val": (CamVid, "val"),
          "two drives": (CamVidUnseenDrive, "train"), "unseen drive": (CamVidUnseenDrive, "val")}


def main(words=None):
    parser = options(__doc__)
    parser.add_argument("folder", metavar="DIR")
    folder = parser.parse_args(words).folder
    facts = about("python book/_tools/measure_camvid.py DIR") | {"splits": {}}
    for name, (kind, split) in SPLITS.items():
        dataset = kind(folder, split)
        labels = [sample.label for sample in dataset]
        drives = Counter(image.name.split("_")[0] for image, _ in dataset.files)
        counts = sum(torch.bincount(label.flatten().long(), minlength=256) for label in labels)
        facts["splits"][name] = {
            "images": len(labels), "drives": dict(sorted(drives.items())),
            "pixels": dict(zip(dataset.classes, counts[:11].tolist(), strict=True)),
            "ignored": int(counts[255]),
            "best_of_cells": {cell: best_of_cells(labels, cell) for cell in CELLS},
        }
    write(RUNS / "camvid_labels" / "labels.json", facts)


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


if __name__ == "__main__":
    main()
