"""Score one trained model by every test protocol; chapter 10 reads the result.

    OMP_NUM_THREADS=1 python book/_tools/measure_protocols.py

Draws 12 held-out ToyTown streets in each of four file sizes, scores the committed SETR-PUP on them
by each protocol, and writes to data/runs/toytown_protocols: record.json (command, machine,
versions, seconds of processor time, scores) and sums.npz, for each protocol an int32 array
(images, 3, K) with `ConfusionMatrix.sums` of every image, for differences image by image.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
from records import RUNS, STREET_MODEL, about, options, write
from torch.utils.data import ConcatDataset

from setr_lite.checkpoint import sha256
from setr_lite.datasets import Cityscapes
from setr_lite.evaluate import evaluate
from setr_lite.evaluate.protocols import PROTOCOLS
from setr_lite.metrics import ConfusionMatrix
from setr_lite.model import SETR
from setr_lite.toytown import write_toytown

OUT = RUNS / "toytown_protocols"
SIZES = ((96, 192), (144, 288), (150, 220), (120, 300))
SEED = 7  # of the first town, one more for each size; no training and no choice has seen them
SETTINGS = ("eval.mode=slide", "eval.window=96,192", "eval.stride=64,128")
NAMES = [name + several for several in ("", "+ms") for name in PROTOCOLS]


def main(words=None):
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=12, help="streets of each size")
    images = parser.parse_args(words).images
    model = SETR.from_pretrained(STREET_MODEL)
    with tempfile.TemporaryDirectory() as folder:
        town = draw(Path(folder), images)
        results = {name: score(model, town, name) for name in NAMES}
    facts = about(f"python book/_tools/measure_protocols.py --images {images}") | {
        "model": "data/runs/toytown_pup/model", "sha256": sha256(STREET_MODEL),
        "settings": SETTINGS, "base_size": model.config.test_data().base_size,
        "sizes": SIZES, "images": len(town), "seed": SEED, "classes": town.classes,
        "protocols": {name: scores for name, (scores, _) in results.items()},
    }
    write(OUT / "record.json", facts)
    np.savez_compressed(OUT / "sums.npz", **{name: sums for name, (_, sums) in results.items()})


def draw(folder, images):
    """`images` streets of each size, one after the other."""
    parts = []
    for i, size in enumerate(SIZES):
        write_toytown(folder / str(i), 0, images, size, seed=SEED + i, progress=False)
        parts.append(Cityscapes(folder / str(i), "val"))
    town = ConcatDataset(parts)
    town.classes = parts[0].classes
    return town


def score(model, town, name):
    """Scores of the model by the protocol `name`, and the counts of every image."""
    sums = np.zeros((len(town), 3, len(town.classes)), np.int32)

    def keep(index, prediction, label):
        one = ConfusionMatrix(len(town.classes))
        one.update(prediction, label)
        sums[index] = one.sums().numpy()

    config = model.config.override(*SETTINGS, f"eval.protocol={name}")
    started = time.process_time()
    confusion = evaluate(model, town, config, on_image=keep)
    scores = {
        "miou": confusion.miou(), "mean_accuracy": confusion.mean_accuracy(),
        "pixel_accuracy": confusion.pixel_accuracy(),
        "seconds_per_image": round((time.process_time() - started) / len(town), 3),
    }
    print(f"{name:13} {scores}", flush=True)
    return scores, sums


if __name__ == "__main__":
    main()
