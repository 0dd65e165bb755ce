"""Draw the README's picture: a held-out street and what the committed model says about it.

    python book/_tools/cover.py       # writes data/street.png
"""

from pathlib import Path

import numpy as np
from PIL import Image

from setr_lite import SETR, Cityscapes, overlay, predict

DATA = Path(__file__).resolve().parents[2] / "data"
ZOOM = 3

model = SETR.from_pretrained(DATA / "runs/toytown_pup/model")
streets = Cityscapes(DATA / "sample/toytown_cityscapes", "val")
street = streets[3]
label = predict(model.logits, model.preprocess(street.image), size=street.label.shape)
picture = street.image.permute(1, 2, 0).numpy()
pair = [picture, np.asarray(overlay(street.image, label, streets.palette, alpha=0.65))]
gap = np.full((len(picture), 2, 3), 255, np.uint8)
pixels = np.concatenate([pair[0], gap, pair[1]], axis=1).repeat(ZOOM, 0).repeat(ZOOM, 1)
Image.fromarray(pixels).quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
    DATA / "street.png", optimize=True)
