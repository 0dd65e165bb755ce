"""Write toytown_sha256.json: python tests/golden/make_toytown.py

Run only when the drawing is changed on purpose; the committed sample is then made anew as well:
rm -r data/sample/toytown_cityscapes, then
setr-lite toytown data/sample/toytown_cityscapes --train 24 --val 12
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from setr_lite.toytown import render_scene

SCENES = [(seed, (96, 192)) for seed in range(14)] + [
    (14, (128, 256)), (15, (97, 131)), (16, (64, 64)), (17, (192, 384)), (18, (256, 512)),
    (2**40 + 19, (48, 96)),
]


def main() -> None:
    scenes = []
    for seed, size in SCENES:
        image, label = render_scene(seed, size)
        digest = hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest()
        scenes.append({"seed": seed, "size": size, "sha256": digest})
    made = (
        "SHA-256 of image.tobytes() + label.tobytes() of"
        " setr_lite.toytown.render_scene(seed, size); written by make_toytown.py"
    )
    out = Path(__file__).with_name("toytown_sha256.json")
    lines = ",\n".join(f"    {json.dumps(scene)}" for scene in scenes)
    out.write_text(f'{{\n  "made": {json.dumps(made)},\n  "scenes": [\n{lines}\n  ]\n}}\n')


if __name__ == "__main__":
    main()
