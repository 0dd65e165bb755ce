"""Train one SETR-PUP on ToyTown and keep what it says on the way; chapter 11 shows it.

    OMP_NUM_THREADS=1 python book/_tools/record_focus.py DIR

DIR is ToyTown as `setr-lite toytown DIR` draws it. The run is that of `setr-lite train
toytown_pup`, step by step; at the steps of STEPS its labels for some held-out streets of the
sample are kept. Writes to data/runs/toytown_pup_focus: record.json (command, machine, versions,
seconds, seed, mIoU on the sample's twelve streets at each kept step), log.csv (loss of every
twentieth step) and labels.npz (`labels` uint8 (steps, streets, 96, 192), `steps`, `streets`).
"""

import csv
import datetime
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from setr_lite.datasets import Cityscapes
from setr_lite.evaluate import predictor
from setr_lite.metrics import ConfusionMatrix
from setr_lite.recipes import get_recipe
from setr_lite.train import _batches, _Run

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "data" / "runs" / "toytown_pup_focus"
STEPS = (0, 5, 10, 20, 30, 40, 60, 80, 100, 140, 200, 300, 400, 500, 650, 800, 1000, 1200, 1400,
         1600, 1800, 2000, 2200)
STREETS = (3, 0, 7)


def main():
    town = Cityscapes(ROOT / "data" / "sample" / "toytown_cityscapes", "val")
    with tempfile.TemporaryDirectory() as out:
        config = get_recipe("toytown_pup").override(
            f"data.root={sys.argv[1]}", f"train.out={out}", "train.device=cpu")
        assert config.train.steps == STEPS[-1]
        run = _Run(config, torch.device("cpu"), resume=False)
        kept, scores, losses = [], [], []

        def keep():
            run.model.eval()
            predict, confusion = predictor(run.model, run.config), ConfusionMatrix(19)
            found = [predict(sample.image) for sample in town]
            for label, sample in zip(found, town, strict=True):
                confusion.update(label, sample.label)
            kept.append(np.stack([np.asarray(found[i], np.uint8) for i in STREETS]))
            scores.append(round(confusion.miou(), 4))
            run.model.train()
            print(run.step, scores[-1], flush=True)

        started = time.perf_counter()
        keep()
        for batch in _batches(run.config, run):
            loss = run.take_step(batch)
            if run.step % 20 == 0:
                losses.append((run.step, round(loss.item(), 4)))
            if run.step in STEPS:
                keep()
        seconds = time.perf_counter() - started
    OUT.mkdir(parents=True, exist_ok=True)
    facts = {
        "command": "OMP_NUM_THREADS=1 python book/_tools/record_focus.py DIR",
        "recipe": config.recipe,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "device": f"{torch.get_num_threads()} of {os.cpu_count()} CPU cores "
                  f"({platform.machine()})",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "seed": config.train.seed, "seconds": round(seconds),
        "steps": STEPS, "miou_of_the_sample": scores,
    }
    (OUT / "record.json").write_text(json.dumps(facts, indent=1) + "\n")
    with open(OUT / "log.csv", "w", newline="") as file:
        csv.writer(file).writerows([("step", "loss"), *losses])
    np.savez_compressed(
        OUT / "labels.npz", labels=np.stack(kept), steps=STEPS, streets=STREETS)


main()
