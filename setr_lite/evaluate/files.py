"""Image files become label files: ids, colours and an overlay of each, at the model's own pace.

Files are read and written in threads beside the model; what takes their time, JPEG, PNG and
resizing, runs without Python's lock.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from .. import distributed
from ..datasets.base import is_image
from ..datasets.folder import voc_palette
from ..datasets.images import IMAGE_ENDINGS
from ..errors import UserError, one_line
from ..files import written_beside
from ..model import SETR
from ..typed import number, path_of
from ..visualize import overlay, with_legend
from .predictions import THREADS, Views, ahead, predictions, preparation, settings_of

OUTPUTS = ("_ids.png", "_labels.png", "_overlay.png")
"""What follows the name of an image in the names of its files."""
MARK = "setr-lite predict"
"""``Software`` of the PNG files that this module writes, by which it knows them again."""


class Found(NamedTuple):
    """Images to segment."""

    files: list[Path]
    """In the order of their names."""
    names: list[Path]
    """For each the place of its outputs below the folder that is written, without extension."""
    left_out: Counter[str]
    """Files below the folders that are no images, counted by their endings."""


class Predicted(NamedTuple):
    """What `predict_files` did."""

    images: int
    """Number of images segmented."""
    left_out: Counter[str]
    """Files that are no images: file extension -> how many were skipped."""


def predict_files(
    checkpoint: str | Path,
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    settings: Sequence[str] = (),
    alpha: float = 0.5,
    progress: bool = True,
) -> Predicted:
    """Segment image files, and every image below folders.

    Three PNG files for each image, in `out` with the folders of the input:

    ====================  ==========================================================================
    file                  contents
    ====================  ==========================================================================
    ``NAME_ids.png``      (H, W) grey, the number of each pixel's class; 16 bits above 256 classes
    ``NAME_labels.png``   the same in colours: a palette image, whose indices are the numbers
    ``NAME_overlay.png``  the colours over the image, with the names of the classes below
    ====================  ==========================================================================

    Where two images of a folder differ in their extensions only, NAME is the whole name of the
    file. Files that this function wrote are no images to it, wherever they lie.

    Args:
        checkpoint: as `SETR.from_pretrained` takes it.
        images: a file, a folder, or several of them.
        out: folder to write.
        settings: ``section.key=value`` changes to the checkpoint's run.
        alpha: opacity of the overlay's colours, 0..1.
        progress: show a bar.

    Returns:
        `Predicted`: ``images``, the number segmented, and ``left_out``, what was skipped.

    Raises:
        UserError: no such file, no image in a folder, an unusable checkpoint, an opacity that is
            none; an `out` that is a folder of images, or holds files of these names that come from
            elsewhere. Images that cannot be read: all others are segmented first.
    """
    number("alpha", alpha, 0, 1)
    out = path_of(out)
    several: list[Any] = list(images) if isinstance(images, (list, tuple)) else [images]
    _require(several)
    model = SETR.from_pretrained(checkpoint)
    found = find_images(several, out)
    _refuse_others_files(found, out)
    assert model.config is not None
    config = model.config.override(*settings)
    model.to(distributed.choose_device(config.train.device))
    write = _Writer(out, model, alpha)
    broken: list[UserError] = []
    prepared, waiting = preparation(model, config), deque[tuple[Path, Tensor]]()

    def read(file: Path) -> tuple[Tensor, Views] | UserError:
        try:
            return prepared(file)
        except UserError as error:
            return error

    def readable(results: Iterable[tuple[Tensor, Views] | UserError]) -> Iterator[Views]:
        for name, result in zip(found.names, results, strict=True):
            if isinstance(result, UserError):
                broken.append(result)
                continue
            waiting.append((name, result[0]))
            yield result[1]

    with (
        ThreadPoolExecutor(2 * THREADS) as pool,
        tqdm(total=len(found.files), desc="predict", unit="image", disable=not progress) as bar,
    ):
        views = readable(ahead(pool, read, found.files))
        labels = predictions(model, settings_of(model, config), views)
        for _ in ahead(pool, write, ((*waiting.popleft(), label) for label in labels)):
            bar.update()
    if broken:
        raise UserError(_say(broken, len(found.files), out))
    return Predicted(len(found.files), found.left_out)


def _say(broken: list[UserError], count: int, out: Path) -> str:
    first = one_line(broken[0])
    if count == 1:
        return first
    return (
        f"{len(broken)} of {count} images cannot be read, the other {count - len(broken)} are in "
        f"{out}; the first is {first}")


class _Writer:
    """Writes the files of one image; called in threads."""

    def __init__(self, out: Path, model: SETR, alpha: float) -> None:
        self.out, self.alpha = out, alpha
        count = model.head.classifier.out_channels
        known = len(model.palette) >= count  # else a converted file that names no classes
        self.palette = np.array(model.palette if known else voc_palette(count), dtype=np.uint8)
        self.classes = model.classes or tuple(f"class {k}" for k in range(count))

    def __call__(self, work: tuple[Path, Tensor, Tensor]) -> None:
        """Name of the image, its pixels (3, H, W) uint8, its label (H, W) on any device."""
        name, pixels, label = work
        ids = label.cpu().numpy()
        ids = ids.astype(np.uint8 if len(self.palette) <= 256 else np.uint16)
        present = np.flatnonzero(np.bincount(ids.ravel(), minlength=1))
        shown = overlay(pixels, ids, self.palette, self.alpha)
        shown = with_legend(shown, self.classes, self.palette, present)
        pictures = (_pillow_png(Image.fromarray(ids)), _in_colour(ids, self.palette), _png(shown))
        first = self.out / f"{name}{OUTPUTS[0]}"
        try:
            with written_beside(first) as part:
                for ending, data in zip(OUTPUTS, pictures, strict=True):
                    part.with_name(f"{name.name}{ending}").write_bytes(_marked(data))
        except OSError as error:
            raise UserError(f"{first.parent}: cannot be written ({error})") from error


def _in_colour(ids: np.ndarray, palette: np.ndarray) -> bytes:
    """A palette image; an RGB one where a byte has no room for the numbers."""
    if len(palette) > 256:
        return _png(Image.fromarray(palette[ids]))
    picture = Image.fromarray(ids)
    picture.putpalette(palette.tobytes())  # the mode becomes P, the pixels stay
    return _pillow_png(picture)


def _pillow_png(picture: Image.Image) -> bytes:
    stream = BytesIO()
    picture.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _png(picture: Image.Image) -> bytes:
    """By OpenCV, which takes a seventh of Pillow's time for RGB."""
    return cv2.imencode(".png", np.asarray(picture)[:, :, ::-1])[1].tobytes()


def _chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG file (its specification, section 5.3)."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _marked(png: bytes) -> bytes:
    head = 33  # signature and IHDR, whose lengths are fixed
    return png[:head] + _chunk(b"tEXt", b"Software\0" + MARK.encode()) + png[head:]


def is_output(path: Path) -> bool:
    """Whether `predict_files` wrote a file."""
    if not path.name.endswith(OUTPUTS):
        return False
    try:
        with Image.open(path) as file:
            return file.info.get("Software") == MARK
    except Exception:  # no image, or a damaged one: Pillow has many
        return False


# ---- which images ------------------------------------------------------------------------------


def find_images(paths: Sequence[str | Path], out: str | Path) -> Found:
    """The image files among and below `paths`, without those that an earlier run wrote.

    Args:
        paths: files and folders.
        out: where predictions go, which are no images to predict from.

    Raises:
        UserError: nothing there, no image in a folder, only outputs, or `out` is one of the
            folders.
    """
    _require(paths)
    found: dict[Path, None] = {}  # each once, in order
    left_out: Counter[str] = Counter()
    for path in map(Path, paths):
        if path.is_dir():
            found |= dict.fromkeys(_below(path, Path(os.path.realpath(out)), left_out))
        elif not is_output(path):
            found[path] = None
    if not found:
        raise UserError(f"{paths[0]}: outputs of an earlier run only; give images")
    return Found(list(found), _names(list(found), [Path(path) for path in paths]), left_out)


def _require(paths: Sequence[str | Path]) -> None:
    if not paths:
        raise UserError("no image to segment: give images, or folders of them")
    for path in paths:
        if not str(path_of(path)) or not os.path.exists(path):
            raise UserError(f"{path}: no such file or folder")


def _below(folder: Path, out: Path, left_out: Counter[str]) -> list[Path]:
    if out == Path(os.path.realpath(folder)):
        raise UserError(f"{folder}: holds the images to segment; choose another folder to write")
    files = []
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or path.name.startswith(".") or is_output(path):
            continue
        if out in Path(os.path.realpath(path)).parents:
            continue
        if is_image(path):
            files.append(path)
        else:
            left_out[path.suffix or path.name] += 1
    if not files:
        raise UserError(f"{folder}: no image below it ({', '.join(IMAGE_ENDINGS)})")
    return files


def _names(files: list[Path], paths: list[Path]) -> list[Path]:
    """Relative to the folder that holds all of `paths`, each name once."""
    tops = [path if path.is_dir() else path.parent for path in paths]
    root = os.path.commonpath([os.path.abspath(top) for top in tops])
    places = [Path(os.path.relpath(os.path.abspath(file), root)) for file in files]
    whole, plain = set(places), Counter(place.with_suffix("") for place in places)
    return [
        short if plain[short] == 1 and short not in whole else place
        for place, short in ((place, place.with_suffix("")) for place in places)
    ]


def _refuse_others_files(found: Found, out: Path) -> None:
    """Files of the names that will be written, of which this program is not the author."""
    for name in found.names:
        for ending in OUTPUTS:
            path = out / f"{name}{ending}"
            if path.is_file() and not is_output(path):
                raise UserError(
                    f"{path}: is there already and comes from elsewhere; choose another folder to "
                    "write, with --out")


def summary(done: Predicted, out: Any) -> str:
    """What the command says in the end."""
    line = f"{done.images} image{'s' * (done.images != 1)} in {out}"
    if not done.left_out:
        return line
    counts = ", ".join(f"{count} {ending}" for ending, count in sorted(done.left_out.items()))
    return f"{line}; left out, no images by their names: {counts}"
