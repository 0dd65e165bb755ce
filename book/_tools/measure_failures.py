"""How a trained SETR fails on ToyTown: each of the hundred held-out streets, and its confidence.

    python book/_tools/measure_failures.py

Writes data/runs/toytown_failures/record.json for the page on what the encoder learned. Two minutes
on one core.
"""

import time

import torch
from records import RUNS, STREET_MODEL, about, options, write

from setr_lite import SETR, ConfusionMatrix
from setr_lite.datasets import Cityscapes
from setr_lite.inside.calibration import Calibration
from setr_lite.toytown import CLASSES, render_scene, scene_seed
from setr_lite.visualize import outline

STREETS = 100
IDS = torch.tensor([Cityscapes.classes.index(c.name) for c in CLASSES])


@torch.no_grad()
def main(words=None):
    options(__doc__).parse_args(words)
    model, start = SETR.from_pretrained(STREET_MODEL), time.perf_counter()
    everything, calibration, streets = ConfusionMatrix(19), Calibration(), []
    for i in range(STREETS):
        image, label = render_scene(scene_seed(0, "val", i))
        image, label = torch.from_numpy(image).permute(2, 0, 1), IDS[torch.from_numpy(label).long()]
        probabilities = model.logits(model.preprocess(image)).softmax(1)
        confidence, found = probabilities.max(1)
        alone = ConfusionMatrix(19)
        for confusion in (everything, alone):
            confusion.update(found, label[None])
        calibration.update(probabilities, label[None])
        streets.append({
            "index": i, "miou": round(alone.miou(), 4), "right": round(alone.pixel_accuracy(), 4),
            "confidence": round(confidence.mean().item(), 4),
            "border": round(float(outline(label).mean()), 4),
        })
    record = about("python book/_tools/measure_failures.py") | {
        "seconds": round(time.perf_counter() - start),
        "model": "data/runs/toytown_pup/model",
        "miou": round(everything.miou(), 4),
        "ece": round(calibration.error(), 4),
        "calibration": calibration.sums.round(decimals=1).tolist(),
        "streets": streets,
    }
    write(RUNS / "toytown_failures" / "record.json", record)
    print(record["miou"], record["ece"], record["seconds"])


if __name__ == "__main__":
    main()
