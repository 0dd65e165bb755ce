"""Files to be afraid of, made by code: pictures, masks and checkpoints that are broken or odd."""

import io
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (12, 20)
"""Height and width of every picture that does not say otherwise."""


def colours(size=SIZE, channels=3):
    """(H, W, channels) uint8 without any two equal rows."""
    count = size[0] * size[1] * channels
    return (np.arange(count) * 37 % 251).astype(np.uint8).reshape(*size, channels)


def encoded(picture, kind, **options):
    """The bytes of a picture in a format of Pillow's."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


RGB = Image.fromarray(colours())
GREY = Image.fromarray(colours()[:, :, 0])
WIDE = (np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) * 271 % 65536).astype(np.uint16)
FORMATS = {
    ".png": encoded(RGB, "PNG"), ".jpg": encoded(RGB, "JPEG"), ".webp": encoded(RGB, "WEBP"),
    ".bmp": encoded(RGB, "BMP"), ".gif": encoded(RGB, "GIF"), ".tif": encoded(RGB, "TIFF"),
}  # fmt: skip

PICTURES = {"train": FORMATS[".png"], "val": encoded(RGB.rotate(180), "PNG")}
"""Of a data set; a picture in both splits would be a fault."""


def png_chunk(kind, body):
    """One piece of a PNG file, with its length and check sum."""
    check = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def png_header(height, width, rest=b""):
    """A PNG that claims a size, and holds `rest` for its pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rest)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def jpeg_header(height, width):
    """A JPEG whose header claims another size than it has."""
    data = FORMATS[".jpg"]
    at = data.index(b"\xff\xc0") + 5  # of the frame: length, precision, then height and width
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def _animation(kind):
    pictures = [Image.fromarray(np.roll(colours(), i, axis=0)) for i in range(3)]
    return encoded(pictures[0], kind, save_all=True, append_images=pictures[1:])


def _exif(turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    return encoded(RGB, "JPEG", exif=exif)


def _sized(height, width):
    return Image.fromarray(np.full((height, width, 3), 9, np.uint8))


def good_images():
    """name -> (bytes, (H, W)): odd, and yet pictures that have to be read."""
    see_through = RGB.quantize(8)
    odd = {
        "plain.png": FORMATS[".png"], "plain.jpg": FORMATS[".jpg"], "plain.bmp": FORMATS[".bmp"],
        "plain.webp": FORMATS[".webp"], "plain.gif": FORMATS[".gif"], "plain.tif": FORMATS[".tif"],
        "grey.png": encoded(GREY, "PNG"), "grey.jpg": encoded(GREY, "JPEG"),
        "cmyk.jpg": encoded(RGB.convert("CMYK"), "JPEG"),
        "cmyk.tif": encoded(RGB.convert("CMYK"), "TIFF"),
        "lab.tif": encoded(RGB.convert("LAB"), "TIFF"),
        "16 bits.png": encoded(Image.fromarray(WIDE), "PNG"),
        "16 bits.tif": encoded(Image.fromarray(WIDE), "TIFF"),
        "32 bits.tif": encoded(Image.fromarray(WIDE.astype(np.int32) * 9 - 70), "TIFF"),
        "float.tif": encoded(Image.fromarray(WIDE.astype(np.float32)), "TIFF"),
        "one bit.png": encoded(GREY.convert("1"), "PNG"),
        "alpha.png": encoded(Image.fromarray(colours(channels=4)), "PNG"),
        "alpha.webp": encoded(Image.fromarray(colours(channels=4)), "WEBP"),
        "grey alpha.png": encoded(Image.fromarray(colours(channels=2), "LA"), "PNG"),
        "palette.png": encoded(RGB.quantize(16), "PNG"),
        "palette see-through.png": encoded(see_through, "PNG", transparency=3),
        "palette alphas.png": encoded(see_through, "PNG", transparency=bytes(range(8))),
        "progressive.jpg": encoded(RGB, "JPEG", progressive=True),
        **{f"turned {turn}.jpg": _exif(turn) for turn in range(2, 9)},
        "moving.gif": _animation("GIF"), "moving.png": _animation("PNG"),
        "moving.webp": _animation("WEBP"), "pages.tif": _animation("TIFF"),
        "a jpeg.png": FORMATS[".jpg"], "a png.jpg": FORMATS[".png"], "a gif.jpg": FORMATS[".gif"],
        "no ending": FORMATS[".png"], "loud.PNG": FORMATS[".png"],
    }  # fmt: skip
    sized = {(1, 1): "1x1", (1, 10_000): "1x10000", (10_000, 1): "10000x1", (2, 3): "2x3"}
    found = {name: (data, SIZE) for name, data in odd.items()}
    for turn in range(5, 9):  # on its side: read as programs show it
        found[f"turned {turn}.jpg"] = odd[f"turned {turn}.jpg"], SIZE[::-1]
    for (height, width), name in sized.items():
        for ending, kind in ((".png", "PNG"), (".jpg", "JPEG")):
            found[name + ending] = encoded(_sized(height, width), kind), (height, width)
    return found


def bad_images():
    """name -> bytes of what cannot be read as a picture, or must not be."""
    found = {
        "empty.png": b"", "empty.jpg": b"", "text.png": b"not a picture\n",
        "page.jpg": b"<html>404</html>", "zeros.png": bytes(5000), "script.png": b"#!/bin/sh\nid\n",
        "bomb.png": png_header(20_000, 20_000), "bomb.jpg": jpeg_header(20_000, 20_000),
        "bomb 10000.png": png_header(10_000, 10_000), "bomb wide.png": png_header(1, 2**31 - 1),
        "bomb.bmp": _bmp_header(20_000), "bomb.gif": _gif_header(60_000),
        "bomb zeros.png": png_header(9_000, 9_000, bytes(9_000)),
        "no pixels.png": png_header(*SIZE), "no height.png": png_header(0, 20),
        "no width.jpg": jpeg_header(12, 0),
        "wrong sum.png": FORMATS[".png"][:60] + b"\x00\x01" + FORMATS[".png"][62:],
        "signature.png": FORMATS[".png"][:8], "signature.jpg": FORMATS[".jpg"][:4],
    }  # fmt: skip
    for ending in (".png", ".jpg", ".webp", ".tif"):
        data = FORMATS[ending]
        for part in (0.1, 0.5, 0.7):
            found[f"{part:.0%}{ending}"] = data[: int(len(data) * part)]
    return found


def _bmp_header(side):
    data = FORMATS[".bmp"]
    return data[:18] + struct.pack("<ii", side, side) + data[26:]


def _gif_header(side):
    data = FORMATS[".gif"]
    return data[:6] + struct.pack("<HH", side, side) + data[10:]


def bad_masks():
    """name -> bytes of a mask, for pictures of `SIZE` and three classes 0, 1, 2."""
    ids = (np.arange(SIZE[0] * SIZE[1]) % 3).astype(np.uint8).reshape(SIZE)
    rgb = np.stack([ids * 80, 255 - ids * 80, ids * 11], axis=2)
    masks = {
        "coded by colour": rgb, "three equal channels": np.repeat(ids[:, :, None], 3, axis=2),
        "with alpha": np.dstack([rgb, ids]), "of 16 bits": ids.astype(np.uint16),
        "instances of 16 bits": ids.astype(np.uint16) * 1000, "out of range": ids + 1,
        "254": np.where(ids == 2, 254, ids).astype(np.uint8),
        "another size": ids[:-1], "one pixel": ids[:1, :1],
        "turned": np.ascontiguousarray(ids.T),
    }  # fmt: skip
    found = {name: encoded(Image.fromarray(array), "PNG") for name, array in masks.items()}
    found["one bit"] = encoded(Image.fromarray(ids).convert("1"), "PNG")
    found["of float"] = encoded(Image.fromarray(ids.astype(np.float32)), "TIFF")
    good = encoded(Image.fromarray(ids), "PNG")
    return found | {"empty": b"", "text": b"0 1 2\n", "half": good[: len(good) // 2]}


def folder_data(root, mask=None):
    """A data set for ``data.name=folder``: two pictures to train, one to score, three classes."""
    ids = (np.arange(SIZE[0] * SIZE[1]) % 3).astype(np.uint8).reshape(SIZE)
    good = encoded(Image.fromarray(ids), "PNG")
    for split, count in (("train", 2), ("val", 1)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (root / "images" / split / f"{i}.png").write_bytes(PICTURES[split])
            (root / "labels" / split / f"{i}.png").write_bytes(mask if mask is not None else good)
    (root / "classes.txt").write_text("sky\nroad\ntree\n")
    return root


class Runs:
    """An object whose unpickling makes a file: what an attacker would put into a checkpoint."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch '{self.trace}'",)


def pickle_with_code(trace: Path) -> bytes:
    """A pickle that makes the file `trace` when it is opened in the usual way."""
    return pickle.dumps({"state_dict": Runs(trace)})
