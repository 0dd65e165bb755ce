"""Image and mask files as arrays, whatever their mode, and plain words for those that are none.

Shape legend: H, W  size of a picture in pixels.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import cv2
import numpy as np
import torch
from PIL import Image, ImageFile
from torch import Tensor

from ..errors import UserError, in_short
from ..typed import path_of

T = TypeVar("T")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
"""Of the names of image files, in small or capital letters."""

def read_image(path: str | Path) -> Tensor:
    """(3,H,W) uint8 RGB of an image file, whatever its mode.

    Grey and palette images become RGB, a fourth channel is dropped, 16-bit images keep their
    upper 8 bits. EXIF orientation is applied, as image viewers and the published pipelines do.
    The tensor is a view of an (H,W,3) array, the form in which :mod:`transforms` wants it back.

    Raises:
        UserError: no such file, not a readable image, or more than `PIL.Image.MAX_IMAGE_PIXELS`
            (89 million, which take up to 1 GiB while they are read).
    """
    return torch.from_numpy(_decode(path_of(path), _rgb_of_file)).permute(2, 0, 1)


def image_of_bytes(data: bytes, where: str) -> Tensor:
    """(3,H,W) uint8 RGB of an image that lies inside another file; `where` names it in messages.

    Raises:
        UserError: as `read_image`.
    """
    pixels = _open(where, lambda file: _decoded(file, _rgb), io.BytesIO(data))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def mode_of(path: str | Path) -> str:
    """Pillow's name of the kind of pixels in a file: ``L``, ``P``, ``RGB``, ``RGBA``, ``I;16``...

    Raises:
        UserError: as `read_image`.
    """
    return _open(path, lambda file: file.mode)


def not_all_read(path: str | Path) -> str:
    """What of an image `read_image` leaves out, in words; empty where it is nothing that counts.

    Raises:
        UserError: as `read_image`.
    """
    return _open(path, _left_out)


def _left_out(file: Image.Image) -> str:
    tiles = getattr(file, "tile", [])  # the form of the pixels in the file, such as RGB;16B
    form = f"{file.mode} {tiles[0].args if tiles else ''}"
    eight = "save them as 8 bits, scaled to 0..255"
    if file.mode == "F":
        return f"have fractions for values, cut to whole numbers of 0..255: {eight}"
    if file.mode.startswith("I") or ";16" in form:
        dark = _rgb(file).max() < DARK
        return "have 16 bits, cut to the upper 8" + (
            f", which leaves them nearly black: {eight}" if dark else "")
    if len(file.getbands()) == 4 and file.mode != "CMYK" and np.asarray(file)[..., 3].min() < 255:
        return "have a fourth channel, such as transparency or infrared, which is not read"
    return ""


DARK = 64
"""Sensors of 10 to 14 bits in files of 16 fill less than so many of the upper 8 bits' values."""


def as_image(image: Any) -> Tensor:
    """(3,H,W) uint8 RGB of whatever stands for one image.

    Args:
        image: a path; a Pillow image of any mode; an array (H,W,3) or (H,W), uint8; a tensor
            (3,H,W) or (1,H,W), uint8. Grey becomes RGB.

    Raises:
        UserError: anything else; what it is and what would do is said.
    """
    if isinstance(image, (str, Path)):
        return read_image(image)
    if isinstance(image, Image.Image):
        return torch.from_numpy(_decoded(image, _rgb)).permute(2, 0, 1)
    if isinstance(image, np.ndarray):
        pixels = np.ascontiguousarray(_pixels("an array", image, -1))
        image = torch.from_numpy(pixels).movedim(-1, 0)
    elif isinstance(image, Tensor):
        image = _pixels("a tensor", image, -3).cpu()
    else:
        raise UserError(f"an image of type {type(image).__name__}: give {ONE_IMAGE}")
    return image.expand(3, -1, -1)


ONE_IMAGE = (
    "a path, a PIL image, a uint8 array (H, W, 3) or a uint8 tensor (3, H, W), RGB in 0..255"
)


def _pixels(what: str, image: Any, axis: int) -> Any:
    """`image` with a channel axis of 1 or 3, checked."""
    shape, dtype = tuple(image.shape), str(image.dtype).removeprefix("torch.")
    said = f"{what} of shape {shape} and type {dtype}"
    if dtype != "uint8":
        raise UserError(f"{said} is no image: values are bytes in 0..255; give {ONE_IMAGE}")
    if axis == -1 and len(shape) == 2:
        image, shape = image[:, :, None], (*shape, 1)
    if len(shape) != 3 or shape[axis] not in (1, 3) or 0 in shape:
        raise UserError(f"{said} is no single image; give {ONE_IMAGE}")
    return image


def image_size(path: str | Path) -> tuple[int, int]:
    """(H, W) of the image that `read_image` would give; of most files only the head is read.

    Raises:
        UserError: no such file, or not a readable image.
    """

    def size(file: Image.Image) -> np.ndarray:
        if file.format == "TIFF":  # Pillow turns it by itself, when it is loaded
            file.load()
        turned = orientation(file) in SIDEWAYS
        return np.array(file.size if turned else file.size[::-1])

    height, width = _open(path, size).tolist()
    return height, width


SIDEWAYS = (5, 6, 7, 8)
"""Values of EXIF's orientation that exchange height and width."""


def orientation(file: Image.Image) -> int:
    """EXIF's orientation, 1 (upright) to 8, of an opened image; 1 where there is none.

    Pillow turns TIFF by itself, and says 1 afterwards.
    """
    try:
        value = file.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged tag raises whatever it likes
        return 1
    return value if value in range(1, 9) else 1


ORIENTATION = 0x0112
"""EXIF's number of the tag."""


def _upright(pixels: np.ndarray, value: int) -> np.ndarray:
    """(H,W,...) turned as EXIF's orientation says (CIPA DC-008, 4.6.5)."""
    if value in SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if value in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if value in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _rgb_of_file(file: Image.Image) -> np.ndarray:
    if isinstance(file, ImageFile.ImageFile) and (file.format, file.mode) == ("JPEG", "RGB"):
        pixels = _jpeg(file)
        if pixels is not None:
            return pixels
    return _rgb(file)


def _rgb(file: Image.Image) -> np.ndarray:
    if file.mode.startswith("I"):  # grey of 16 bits, which Pillow would clip at 255
        grey = (np.asarray(file) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if "transparency" in file.info:
        file = file.convert("RGBA")  # Pillow warns where this step is left out
    return np.array(file.convert("RGB"))


def _jpeg(file: ImageFile.ImageFile) -> np.ndarray | None:
    """(H,W,3) by OpenCV, None where Pillow has to look.

    The bytes are Pillow's, and those of the published pipelines, in half the time: Pillow takes
    as long again to hand its pixels over. But OpenCV only warns where half of the file is missing,
    so one that does not close as a JPEG should is Pillow's.
    """
    if file.fp is None:
        return None
    file.fp.seek(0)
    data = file.fp.read()
    if b"\xff\xd9" not in data[-16:]:  # some programs add a few bytes behind the end
        return None
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    bgr = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    if bgr is None or bgr.shape[1::-1] != file.size:
        return None
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr)


def read_label(path: str | Path) -> Tensor:
    """(H,W) uint8 of a mask file, the ids as they are in it (of a palette image: the indices).

    Raises:
        UserError: no such file, not a readable image, or not one channel of 8 bits. Masks in
            colour, of three equal channels, of 16 bits and of 1 bit are told apart, because each
            has another remedy.
    """
    name = path_of(path).name
    return torch.from_numpy(_decode(path, lambda file: _ids(file, name)))


def _ids(file: Image.Image, name: str) -> np.ndarray:
    if file.mode not in ("L", "P"):
        raise UserError(
            f"mask of mode {file.mode}, expected 8-bit grey or palette (L or P) whose values are "
            f"class ids; {_remedy(file, name)}"
        )
    return np.array(file)


def is_full_ade20k(name: str) -> bool:
    """Whether a file's name is that of a mask in ADE20K's full form, with objects and parts."""
    return bool(re.fullmatch(r"ADE_.*_(seg|parts_\d+)\.png", name))


CHALLENGE = (
    "SETR's 150 classes are those of the challenge edition, which has masks of one channel:"
    " http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
)
"""What to do about ADE20K's full form."""


def _remedy(file: Image.Image, name: str) -> str:
    if is_full_ade20k(name):
        return f"it is of ADE20K's full form, thousands of names in red and green; {CHALLENGE}"
    values = np.asarray(file)
    if values.ndim == 3:
        rgb = values[:, :, :3]
        equal = values.shape[2] > 2 and (rgb == rgb[:, :, :1]).all()
        if equal and not np.isin(rgb, (0, 255)).all():  # ids, not black and white
            return "its three channels are equal: save one of them"
        colours = len(np.unique(rgb.reshape(-1, rgb.shape[2]), axis=0))
        return (
            f"it is colour-coded ({colours} colours): `setr-lite make-masks LABELS OUT --images"
            " IMAGES --classes FILE` writes ids, with `NAME #rrggbb` of every class in FILE"
        )
    if file.mode == "1":
        return "save it as 8-bit grey with 0 and 1"
    if values.max() <= 255:
        return "its values fit in 8 bits: save them as uint8"
    return (
        f"its values reach {values.max():.0f}, as instance ids do: save the class of each instead"
    )


def _decode(path: str | Path, to_array: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """The pixels of a file that `to_array` gives, upright."""
    return _open(path, lambda file: _decoded(file, to_array))


def _decoded(file: Image.Image, to_array: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    pixels = to_array(file)  # loads it, by which Pillow turns a TIFF
    return _upright(pixels, orientation(file))


_FILTERS = threading.Lock()


def _opened(stream: IO[bytes]) -> ImageFile.ImageFile:
    """The image in a file, its head read.

    Pillow looks at the size that a header claims before it takes memory, but from 89 million pixels
    on only warns, and refuses twice as many: such a file can have a few hundred bytes.
    """
    # a filter that stayed would meet other people's images, and they are those of all threads
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(stream)


def _open(
    path: str | Path, to_array: Callable[[Image.Image], T], data: IO[bytes] | None = None
) -> T:
    """`to_array` of the opened file, or of the `data` that are given in its place. Pillow, not
    OpenCV: it does not keep silent about half a file, and leaves the indices of palette images as
    they are."""
    try:
        # given a name, Pillow 13 maps uncompressed TIFF into memory and turns it wrongly
        with data or open(path, "rb") as stream, _opened(stream) as file:
            return to_array(file)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(
            f"{path}: claims more than {Image.MAX_IMAGE_PIXELS} pixels, so it is not opened; cut it"
            " into parts, or raise PIL.Image.MAX_IMAGE_PIXELS in a script"
        ) from None
    except Exception as error:  # OSError, SyntaxError, ValueError, ...: Pillow has many
        remedy = "replace the file"
        if Path(path).suffix.lower() in (".tif", ".tiff"):
            remedy = "save it as RGB of 8 bits, scaled to 0..255, or replace the file"
        raise UserError(
            f"{path}: cannot be read as an image ({in_short(error)}); {remedy}"
        ) from error
