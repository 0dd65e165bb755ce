"""How a trained SETR fails on ToyTown: each of the hundred held-out streets, and its confidence.

    python book/_tools/measure_failures.py

Writes data/runs/toytown_failures/record.json for the page on what the encoder learned. Two minutes
on one core.
"""

import json
import time
from datetime import date
from pathlib import Path

import torch

from setr_lite import SETR, ConfusionMatrix
from setr_lite.datasets import Cityscapes
from setr_lite.inside.calibration import Calibration
from setr_lite.toytown import CLASSES, render_scene, scene_seed
from setr_lite.visualize import outline

RUNS = Path(__file__).resolve().parents[2] / "data" / "runs"
MODEL = RUNS / "toytown_pup" / "model"
STREETS = 100
IDS = torch.tensor([Cityscapes.classes.index(c.name) for c in CLASSES])


@torch.no_grad()
def main():
    model, start = SETR.from_pretrained(MODEL), time.perf_counter()
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
    record = {
        "command": "python book/_tools/measure_failures.py",
        "date": str(date.today()),
        "device": f"{torch.get_num_threads()} thread of a CPU",
        "versions": {"torch": torch.__version__.split("+")[0]},
        "seconds": round(time.perf_counter() - start),
        "model": "data/runs/toytown_pup/model",
        "miou": round(everything.miou(), 4),
        "ece": round(calibration.error(), 4),
        "calibration": calibration.sums.round(decimals=1).tolist(),
        "streets": streets,
    }
    (RUNS / "toytown_failures").mkdir(exist_ok=True)
    (RUNS / "toytown_failures" / "record.json").write_text(json.dumps(record, indent=1) + "\n")
    print(record["miou"], record["ece"], record["seconds"])


main()
