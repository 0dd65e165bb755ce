"""Draw the README's picture: a held-out street and what the committed model says about it.

    python book/_tools/cover.py       # writes data/street.png
"""

import numpy as np
from PIL import Image
from records import ROOT, STREET_MODEL, STREETS, options

from setr_lite import SETR, Cityscapes, overlay

ZOOM = 3


def main(words=None):
    options(__doc__).parse_args(words)
    model, streets = SETR.from_pretrained(STREET_MODEL), Cityscapes(STREETS, "val")
    street = streets[3]
    label = model.predict(street.image)
    painted = np.asarray(overlay(street.image, label, streets.palette, alpha=0.65))
    save(street.image.permute(1, 2, 0).numpy(), painted)


def save(left, right):
    """Two pictures (H, W, 3) side by side, in 256 colours."""
    gap = np.full((len(left), 2, 3), 255, np.uint8)
    pixels = np.concatenate([left, gap, right], axis=1).repeat(ZOOM, 0).repeat(ZOOM, 1)
    few = Image.fromarray(pixels).quantize(
        256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(ROOT / "data" / "street.png", optimize=True)


if __name__ == "__main__":
    main()
