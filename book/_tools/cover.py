"""Draw the README's moving picture: a car goes from the road into the sky, and three models label
every frame.

    python book/_tools/cover.py       # writes data/street.webp
"""

import sys
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from records import ROOT, RUNS, STREETS, options

from setr_lite import SETR, Cityscapes

ZOOM, GAP, STRIP = 2, 8, 38
"""Pixels: a picture's magnification, the space between two, and the line of words above each."""
HOLD, FRAME = 1200, 90
"""Milliseconds of a frame where the car rests, and of one on its way."""
INK, GROUND = (240, 240, 240, 255), (60, 60, 66, 255)
"""Words and the strip behind them: the same on a light page and on a dark one."""
HEADS = {"naive": "Naive", "pup": "PUP", "mla": "MLA"}


def way() -> Iterator[tuple[int, int, int]]:
    """(x, y, milliseconds): where the car's middle is, and for how long."""
    road, sky = np.array([80, 66]), np.array([100, 20])
    for there, back in ((road, sky), (sky, road)):
        yield (*there, HOLD)
        for t in np.linspace(0, 1, 14)[1:-1]:
            yield (*np.round(there + (back - there) * t * t * (3 - 2 * t)).astype(int), FRAME)


def tile(picture: np.ndarray, words: str) -> np.ndarray:
    """A picture (H, W, 3) enlarged, with words above it, (H', W', 4)."""
    large = picture.repeat(ZOOM, 0).repeat(ZOOM, 1)
    strip = Image.new("RGBA", (large.shape[1], STRIP), GROUND)
    ImageDraw.Draw(strip).text((6, 3), words, INK, ImageFont.load_default(26))
    return np.vstack([np.asarray(strip), np.pad(large, [(0, 0), (0, 0), (0, 1)],
                                                constant_values=255)])  # fmt: skip


def frames() -> Iterator[tuple[Image.Image, int]]:
    sys.path.insert(0, str(ROOT / "book"))
    from figures.live.layout import place, stamps

    models = {head: SETR.from_pretrained(RUNS / f"toytown_{head}" / "model") for head in HEADS}
    streets = Cityscapes(STREETS, "val")
    street, car = streets[0].image.permute(1, 2, 0).numpy(), stamps()[0]
    for x, y, wait in way():
        picture, seen = place(street, car, x, y)
        tiles = [tile(picture, "")]
        for head, model in models.items():
            label = model.predict(picture).numpy()
            share = (label[seen] == streets.classes.index("car")).mean()
            tiles.append(tile(streets.palette[label], f"SETR-{HEADS[head]}: {share:.0%} car"))
        yield sheet(tiles), wait


def sheet(tiles: list[np.ndarray]) -> Image.Image:
    """Four tiles, two by two."""
    beside, below = [(0, 0), (0, GAP), (0, 0)], [(0, GAP), (0, 0), (0, 0)]
    rows = [np.hstack([np.pad(a, beside), b]) for a, b in (tiles[:2], tiles[2:])]
    return Image.fromarray(np.vstack([np.pad(rows[0], below), rows[1]]))


def main(words=None):
    options(__doc__).parse_args(words)
    pictures, waits = zip(*frames(), strict=True)
    pictures[0].save(
        ROOT / "data" / "street.webp", save_all=True, append_images=pictures[1:],
        duration=list(waits), loop=0, lossless=True, quality=100, method=6, minimize_size=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
