"""Coloured label maps, overlays, legends and panels.

Images are uint8 RGB, tensors (3, H, W) as the data sets give them or arrays (H, W, 3); labels are
(H, W) integers with 255 for pixels without a class; palettes are (K, 3) uint8.

Figures have an opaque white page and 12-point text, so that they read on light and dark pages,
and colours that colour-blind readers can tell apart (Okabe and Ito's set, one-hue scales). They are
returned, not shown: a notebook displays the last value of a cell, a script calls ``savefig``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..config import IGNORE
from ..errors import UserError, drawable
from ..typed import number, whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image


STYLE: dict[Any, Any] = {
    "font.size": 12,
    "axes.titlesize": 12,
    "figure.titlesize": 12,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}


# ---------------------------------------------------------------------- label maps


def colorize(label: Tensor | np.ndarray, palette: np.ndarray) -> np.ndarray:
    """(H, W) labels to (H, W, 3) uint8 colours; pixels without a class are black.

    Raises:
        UserError: a label id that the palette has no colour for.
    """
    label, palette = _labels(label), _colours(palette)
    _refuse_ids_beyond(label, palette)
    table = np.zeros((max(len(palette), IGNORE + 1), 3), dtype=np.uint8)
    table[: len(palette)] = palette
    return table[label]


def _refuse_ids_beyond(label: np.ndarray, palette: np.ndarray) -> None:
    if not label.size or (label.min() >= 0 and label.max() < len(palette)):
        return
    wrong = label[(label != IGNORE) & ((label < 0) | (label >= len(palette)))]
    if wrong.size:
        raise UserError(f"label id {wrong[0]}: the palette has colours for 0..{len(palette) - 1}")


def outline(label: Tensor | np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels whose right or lower neighbour has another label."""
    label = _labels(label)
    edge = np.zeros(label.shape, dtype=bool)
    edge[:, :-1] |= label[:, :-1] != label[:, 1:]
    edge[:-1] |= label[:-1] != label[1:]
    return edge


def overlay(
    image: Tensor | np.ndarray,
    label: Tensor | np.ndarray,
    palette: np.ndarray,
    alpha: float = 0.5,
    *,
    borders: bool = False,
) -> Image:
    """The image with its label map drawn over it; pixels without a class stay as they are.

    Args:
        image: uint8, (3, H, W) or (H, W, 3).
        label: (H, W) of the same size.
        palette: (K, 3) uint8.
        alpha: strength of the colours, 0..1.
        borders: draw a white line between classes.

    Returns:
        A PIL image; ``.save("out.png")`` writes it.

    Raises:
        UserError: sizes differ, or a label id without a colour.
    """
    from PIL import Image

    number("alpha", alpha, 0, 1)
    pixels, label, palette = _pixels(image), _labels(label), _colours(palette)
    if pixels.shape[:2] != label.shape:
        raise UserError(
            f"an image of {pixels.shape[0]} x {pixels.shape[1]} pixels with a label of "
            f"{label.shape[0]} x {label.shape[1]}: give both in one size"
        )
    _refuse_ids_beyond(label, palette)
    mixed = np.empty(pixels.shape, dtype=np.uint8)
    for channel in range(3):  # what becomes of each byte under each class, then looked up
        table = np.tile(np.arange(256.0), (max(len(palette), IGNORE + 1), 1))
        table[: len(palette)] *= 1 - alpha
        table[: len(palette)] += palette[:, channel, None] * alpha
        shades = (table + 0.5).astype(np.uint8).ravel()
        mixed[..., channel] = shades.take((label << 8) + pixels[..., channel])
    if borders:
        mixed[outline(label)] = 255
    return Image.fromarray(mixed)


def with_legend(
    picture: Image, classes: Sequence[str], palette: np.ndarray, present: Iterable[int]
) -> Image:
    """A picture with the names of its classes below it, each beside its colour.

    Args:
        picture: RGB; what comes back is as wide, or as wide as the longest name.
        classes: K names.
        palette: (K, 3) uint8.
        present: ids to show.
    """
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    shown = sorted(k for k in map(int, present) if k < len(classes))
    size = max(12, picture.width // 64)  # pixels; a name is as legible as the picture is large
    font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
    cell = math.ceil(max((font.getlength(classes[k]) for k in shown), default=0)) + 5 * size // 2
    columns = max(picture.width // cell, 1)
    rows, line = math.ceil(len(shown) / columns), 3 * size // 2
    sheet = Image.new(
        "RGB", (max(picture.width, cell), picture.height + rows * line + size // 2), "white")
    sheet.paste(picture)
    draw = ImageDraw.Draw(sheet)
    for i, k in enumerate(shown):
        x, y = i % columns * cell + size // 2, picture.height + i // columns * line + size // 2
        colour = tuple(int(v) for v in palette[k])
        draw.rectangle((x, y, x + size, y + size), fill=colour, outline="#333333")
        draw.text((x + 3 * size // 2, y + size // 2), classes[k], "black", font, anchor="lm")
    return sheet


def legend(
    classes: Sequence[str],
    palette: np.ndarray,
    present: Tensor | np.ndarray | Iterable[int] | None = None,
    *,
    columns: int = 4,
) -> Figure:
    """Swatches with class names.

    Args:
        classes: K names.
        palette: (K, 3) uint8.
        present: show only these classes: ids, or a label map that has them. None shows all.
        columns: swatches beside one another.
    """
    whole("columns", columns, 1)
    palette = _colours(palette)
    if present is None:
        shown = list(range(len(classes)))
    else:
        ids = list(present) if isinstance(present, Iterable) and not hasattr(
            present, "dtype") else present
        shown = [int(k) for k in np.unique(_whole_numbers(ids)) if k != IGNORE]
    if not all(0 <= k < min(len(classes), len(palette)) for k in shown):
        raise UserError(
            f"classes {shown} of {len(classes)} names and {len(palette)} colours: give both for "
            "each class")
    rows = max(math.ceil(len(shown) / columns), 1)
    columns = max(math.ceil(len(shown) / rows), 1)
    with house_figure(figsize=(2.2 * columns, 0.34 * rows)) as fig:
        axes = fig.add_subplot(xlim=(0, columns), ylim=(rows, 0))
        axes.axis("off")
        for i, k in enumerate(shown):
            x, y = i // rows, i % rows  # down, then across
            axes.add_patch(_swatch(x, y, palette[k]))
            axes.text(x + 0.17, y + 0.5, drawable(classes[k]), va="center")
    return fig


def panel(
    images: Sequence[Any],
    titles: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    width: float = 9.0,
) -> Figure:
    """Pictures side by side, in rows of `columns` (all in one row by default).

    A row is as high as its tallest picture.

    Args:
        images: uint8 tensors (3, H, W), arrays (H, W, 3), PIL images; a two-dimensional one is
            drawn as a map, from dark (smallest) to bright (largest).
        titles: one for each picture.
        width: of the figure, in inches.

    Raises:
        UserError: no picture, or another number of titles.
    """
    pictures = [as_array(x) if as_array(x).ndim == 2 else _pixels(x) for x in images]
    if not pictures or (titles is not None and len(titles) != len(pictures)):
        raise UserError(f"{len(pictures)} images and {len(titles or ())} titles: give one for each")
    columns = len(pictures) if columns is None else columns
    whole("columns", columns, 1)
    number("width: inches", width, 0.1, 1000)
    rows = math.ceil(len(pictures) / columns)
    title_height = 0.3 if titles else 0.05
    heights = [
        width / columns * max(x.shape[0] / x.shape[1] for x in pictures[i : i + columns])
        + title_height for i in range(0, len(pictures), columns)]
    with house_figure(figsize=(width, sum(heights))) as fig:
        grid = fig.add_gridspec(rows, columns, height_ratios=heights)
        for i, picture in enumerate(pictures):
            axes = fig.add_subplot(grid[i])
            axes.axis("off")
            axes.imshow(picture, cmap="cividis", interpolation="nearest")
        for axes, title in zip(fig.axes, titles or (), strict=False):
            axes.set_title(drawable(title))
    return fig


# ---------------------------------------------------------------------- helpers


@contextmanager
def house_figure(**options: Any) -> Iterator[Figure]:
    """A figure in the house style that pyplot forgets, so a notebook shows it once, not twice."""
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):
        fig = plt.figure(**options)
        plt.close(fig)
        yield fig


def as_array(x: Any) -> np.ndarray:
    """A tensor, wherever it is, or whatever NumPy takes."""
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)


def _labels(label: Tensor | np.ndarray) -> np.ndarray:
    label = as_array(label)
    if label.ndim != 2:
        raise UserError(f"a label map of shape {label.shape}: give (H, W)")
    return _whole_numbers(label)


def _whole_numbers(ids: Any) -> np.ndarray:
    ids = as_array(ids)
    if ids.size and ids.dtype.kind not in "iub":
        raise UserError(f"class ids of type {ids.dtype}: give whole numbers")
    return ids.astype(np.int64)


def _colours(palette: Any) -> np.ndarray:
    colours = as_array(palette)
    whole_bytes = colours.dtype.kind in "iu" and colours.size and 0 <= colours.min() <= (
        colours.max()) <= 255
    if colours.ndim != 2 or colours.shape[1] != 3 or not whole_bytes:
        raise UserError(
            f"a palette of shape {colours.shape} and type {colours.dtype}: give (K, 3) whole "
            "numbers, RGB in 0..255")
    return colours.astype(np.uint8)


def _pixels(image: Any) -> np.ndarray:
    """(H, W, 3) uint8; a size of 3 x 3 is read as its type suggests."""
    pixels = as_array(image)
    axis = 0 if isinstance(image, Tensor) else 2
    fits = pixels.ndim == 3 and 3 in pixels.shape[::2] and 0 not in pixels.shape
    if not fits or pixels.dtype != np.uint8:
        raise UserError(
            f"an image of shape {pixels.shape} and type {pixels.dtype}: give uint8 RGB, "
            "a tensor (3, H, W) or an array (H, W, 3)"
        )
    channels = axis if pixels.shape[axis] == 3 else 2 - axis
    return np.moveaxis(pixels, channels, 2)


def _swatch(x: float, y: float, color: np.ndarray) -> Any:
    from matplotlib.patches import Rectangle

    face = np.asarray(color) / 255
    return Rectangle((x + 0.01, y + 0.15), 0.13, 0.7, facecolor=face, edgecolor="#333333")


def _plate() -> dict[str, Any]:
    return {"facecolor": "white", "edgecolor": "none", "pad": 0.8}


