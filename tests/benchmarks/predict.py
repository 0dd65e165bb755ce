"""Seconds that `setr-lite predict` takes for a folder of photographs, beside another checkout.

    python tests/benchmarks/predict.py                         # this checkout alone
    git worktree add ../before COMMIT
    python tests/benchmarks/predict.py --against ../before     # in turns, and the ratio

Photographs are drawn streets of camera size with noise, as JPEG. Each turn is a process of its own
that segments one image and then all of them: the difference, divided by the images between, is the
time of one without start-up. On a machine with other work the ratio holds, the seconds do not.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from setr_lite.toytown import render_scene, scene_seed

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "data" / "runs" / "toytown_pup" / "model"


def draw(folder: Path, count: int, size: tuple[int, int]) -> None:
    """`count` JPEG files of `size` (height, width), with noise, or they would be far too small."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        street, _ = render_scene(scene_seed(0, "val", i))
        large = np.asarray(Image.fromarray(street).resize(size[::-1], Image.Resampling.BICUBIC))
        noisy = (large + rng.normal(0, 3, large.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{i:04}.jpg", quality=92)


def seconds(checkout: Path, photos: Path, settings: list[str], model: str) -> float:
    """Wall time of one run in a process that imports the library of `checkout`."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "TQDM_DISABLE": "1"}
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "setr_lite", "predict", model, str(photos), *settings,
             "--out", out],
            cwd=checkout, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"{checkout}: {done.stderr}")
        return time.perf_counter() - started


def main() -> None:
    """Draw, measure in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help="of the run, such as train.device=cuda")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--size", default="1080x1920", help="height x width")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--model", default=str(MODEL), help="checkpoint")
    parser.add_argument("--against", type=Path, help="another checkout")
    asked = parser.parse_args()
    height, width = map(int, asked.size.split("x"))
    sides = {"this checkout": ROOT}
    if asked.against:
        sides["the other"] = asked.against.resolve()
    found: dict[str, list[float]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as place:
        photos, first = Path(place) / "photos", Path(place) / "one"
        draw(photos, asked.images, (height, width))
        draw(first, 1, (height, width))
        for _ in range(asked.turns):
            for name, checkout in sides.items():
                one, all_of_them = (
                    seconds(checkout, folder, asked.settings, asked.model)
                    for folder in (first, photos))
                found[name].append((all_of_them - one) / (asked.images - 1))
                print(f"{name}: {all_of_them:.1f} s for {asked.images} images, {one:.1f} s for one",
                      flush=True)  # fmt: skip
    for name, values in found.items():
        print(f"{name}: {1000 * statistics.median(values):.0f} ms an image of {asked.size}, median "
              f"of {asked.turns} turns ({1000 * min(values):.0f} to {1000 * max(values):.0f})")
    if len(found) == 2:
        ours, theirs = (statistics.median(values) for values in found.values())
        print(f"the other takes {theirs / ours:.2f} times as long")


if __name__ == "__main__":
    main()
