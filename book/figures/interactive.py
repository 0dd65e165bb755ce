"""Figures that move in the built page, without a kernel and without a network.

Everything is drawn while the notebook runs. What stays in the page are plain pictures and a few
links between controls, so a reader without Python can still drag, step and click.

==================  ==============================================================================
`Frames`            one slider (and a Play button) over at most 32 pre-drawn pictures
`Grid`              two sliders over rows x columns of pre-drawn pictures
`Sheets`            the same over frames that hold several pictures, each under its own words
`MatrixExplorer`    choose a patch of a picture, see its row of an N x N matrix (all N rows)
`Compare`           two pictures on top of each other, with a divider to drag
`color_key`         the legend of a picture as text, which a phone does not shrink
`show_source`       the library's own source, in a notebook that is open in Jupyter
==================  ==============================================================================

Each figure has a coarse numeric ``repr`` (that is what nbval compares), a still picture for places
without scripts (GitHub, PDF), alternative text, and works with mouse, touch and keyboard.

Shapes: H, W height and width in pixels; N = h * w patches in row-major order, h x w the patch grid.
"""

from __future__ import annotations

import base64
import html
import inspect
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from setr_lite.errors import UserError

MAX_FRAMES = 32  # a page of six such figures still opens in about two seconds
MAX_BYTES = 200_000  # of one figure, as it stands in the page
MAX_EXPLORER_BYTES = 450_000  # of one that holds all rows of many matrices: once on a page
LOSSLESS_BYTES = 20_000  # maps and plots stay below, photographs do not
STILL_BYTES = 60_000  # a PNG of a photograph is ten times its JPEG

_HERE = Path(__file__).parent


# --- pictures -------------------------------------------------------------------------------------


def as_rgb(picture: Any) -> np.ndarray:
    """Any usual picture as uint8 (H, W, 3).

    ``picture``: PIL image, uint8 tensor (3, H, W), or uint8 array (H, W), (H, W, 3) or (3, H, W).
    Raises UserError for other shapes and for floats (whose range is not known here).
    """
    if isinstance(picture, Image.Image):
        return np.array(picture.convert("RGB"))
    array = np.asarray(picture.detach().cpu() if hasattr(picture, "detach") else picture)
    if array.dtype != np.uint8:
        raise UserError(f"picture: expected uint8, got {array.dtype}; scale to 0..255 and cast")
    if array.ndim == 2:
        array = np.stack([array] * 3, -1)
    elif array.ndim == 3 and array.shape[0] == 3 and array.shape[-1] not in (3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[-1] not in (3, 4):
        raise UserError(f"picture: expected (H, W, 3) or (3, H, W), got {array.shape}")
    return np.ascontiguousarray(array[..., :3])


def grab(figure: Any) -> np.ndarray:
    """The pixels of a matplotlib figure, uint8 (H, W, 3), without a file in between."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def data_url(rgb: np.ndarray, *, quality: int = 85, photo: bool = False) -> str:
    """A picture, uint8 (H, W, 3), as a ``data:`` URL in WebP.

    Lossless up to 20 kB (maps, plots, drawn scenes), else lossy at ``quality`` (1..100), as
    always for a ``photo``: a small noisy picture is light enough, but many are not. No
    palettes: a median-cut palette merges rare colours, and the rare colour of a heat map is
    its peak.
    """
    raw = b"" if photo else _encoded(rgb, "WEBP", lossless=True, method=4)
    if photo or len(raw) > LOSSLESS_BYTES:
        raw = _encoded(rgb, "WEBP", quality=quality, method=4)
    return _url("image/webp", raw)


def _encoded(rgb: np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, kind, **options)
    return buffer.getvalue()


def _url(mime: str, raw: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(raw).decode()}"


def _png_url(array: np.ndarray) -> str:
    return _url("image/png", _encoded(array, "PNG", optimize=True))


def _levels_url(levels: np.ndarray) -> str:
    """A matrix of 8-bit numbers as a grey picture, exactly: WebP takes a third less than PNG."""
    return _url("image/webp", _encoded(as_rgb(levels), "WEBP", lossless=True, method=6))


def _bytes_url(array: np.ndarray) -> str:
    return _url("application/octet-stream", array.tobytes())


def _still(rgb: np.ndarray) -> dict[str, str]:
    """The picture for readers without scripts: PNG, or JPEG where PNG would be heavy."""
    mime, raw = "image/png", _encoded(rgb, "PNG", optimize=True)
    if len(raw) > STILL_BYTES:
        mime, raw = "image/jpeg", _encoded(rgb, "JPEG", quality=85)
    return {mime: base64.b64encode(raw).decode()}


def _img(url: str, alt: str, *, shape: Sequence[int], scale: int = 1) -> str:
    """``dark-light`` keeps the theme from darkening the picture, and so its colour map."""
    height, width = shape[0] * scale, shape[1] * scale
    pixelated = ";image-rendering:pixelated" if scale > 1 else ""
    return (
        f'<img class="dark-light" alt="{html.escape(alt)}" width="{width}" height="{height}" '
        f'style="max-width:100%;height:auto{pixelated}" src="{url}">'
    )


def summary(array: Any, digits: int = 2) -> str:
    """A few coarse numbers of an array for nbval to compare: shape, spread, maximum.

    Not a hash: of many rounded numbers some always lie on a rounding edge, so a hash changes
    with the processor and the number of threads. Two digits did not.
    """
    a = np.asarray(array.detach().cpu() if hasattr(array, "detach") else array, dtype=np.float64)
    return f"{'x'.join(map(str, a.shape))} std {a.std():.{digits}g} max {a.max():.{digits}g}"


# --- figures --------------------------------------------------------------------------------------


class Figure:
    """What all figures share: a coarse ``repr``, a still picture, a size that is checked."""

    widget: Any = None  # the ipywidgets box of those that are made of widgets

    def __init__(self, plain: str, still: np.ndarray, data: Iterable[Any], digits: int):
        self._plain = ", ".join([plain, *(summary(a, digits) for a in data)])
        self._bundle = _still(still)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._plain})"

    def _check_size(self, size: int, remedy: str, most: int = MAX_BYTES) -> None:
        if size > most:
            raise UserError(
                f"{self!r}: {size // 1000} kB, at most {most // 1000} kB fit a page; {remedy}"
            )

    def _images(
        self, pictures: list[np.ndarray], texts: list[str], quality: int, scale: int = 1
    ) -> list[str]:
        images = [
            _img(data_url(rgb, quality=quality), text, shape=rgb.shape, scale=scale)
            for rgb, text in zip(pictures, texts, strict=True)
        ]
        self._check_size(sum(map(len, images)), "draw fewer frames, smaller ones, or lower quality")
        return images

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        view = self.widget._repr_mimebundle_() if self.widget else {}
        return {**view, "text/plain": repr(self), **self._bundle}


class Frames(Figure):
    """One slider over pictures that are drawn now and shown later.

    ``figure`` is a matplotlib figure made in the same cell (the notebook closes figures when a
    cell ends); ``update(value)`` changes its artists in place, once for each of ``values`` (at
    most 32). Reusing one figure is many times faster than making one for each value.

    ``label`` stands before the slider, ``show(value)`` behind it. ``alt`` is the alternative text
    of a frame: a function of the value or a text with one ``{}``. ``start`` is an index into
    values; ``play`` adds a Play button; ``data`` are arrays whose `summary` goes into the repr.
    ``quality`` (1..100) is that of photographs. ``scale`` > 1 shows each pixel as a square of that
    many, at no cost in bytes: right for small drawn scenes. The figure is closed afterwards.

    Raises UserError for no or too many values, a figure of another cell, and above 200 kB.
    """

    def __init__(
        self,
        figure: Any,
        update: Callable[[Any], Any],
        values: Iterable[Any],
        *,
        label: str,
        alt: str | Callable[[Any], str],
        show: Callable[[Any], str] = str,
        start: int = 0,
        play: bool = False,
        caption: str = "",
        data: Iterable[Any] = (),
        digits: int = 2,
        quality: int = 85,
        scale: int = 1,
    ):
        import ipywidgets as w

        values = _checked(values, start, label)
        pictures = _draw(figure, update, values)
        super().__init__(f"{label!r}, {len(values)} frames", pictures[start], data, digits)
        texts = [_alt(alt, (value,), (show,)) for value in values]
        stack = _stack(self._images(pictures, texts, quality, scale), start)
        slider = _slider(label, [show(v) for v in values], start)
        w.jslink((slider, "index"), (stack, "selected_index"))
        bar = [slider]
        if play:
            player = w.Play(min=0, max=len(values) - 1, value=start, interval=500)
            w.jslink((player, "value"), (slider, "index"))
            bar.insert(0, player)
        self.widget = _box(bar, stack, caption)

    @classmethod
    def of_pictures(cls, pictures: Iterable[Any], values: Iterable[Any], **options: Any) -> Frames:
        """The same over ready pictures (see `as_rgb`), one for each value; options as above."""
        values, pictures = list(values), list(pictures)
        if len(values) != len(pictures):
            raise UserError(f"{len(pictures)} pictures for {len(values)} values: give one for each")
        left = iter(pictures)
        return cls(None, lambda value: next(left), values, **options)


class Grid(Figure):
    """Two sliders over pictures of every pair (row, column): at most 32 pairs.

    ``update(row, column)`` changes the artists of ``figure`` in place; ``labels``, ``show`` and
    ``start`` hold one entry for rows and one for columns, and so does ``menus``: a menu in place
    of a slider, for names. ``alt`` is a function of both values or a text with two ``{}``.
    Everything else as in `Frames`.
    """

    def __init__(
        self,
        figure: Any,
        update: Callable[[Any, Any], Any],
        rows: Iterable[Any],
        columns: Iterable[Any],
        *,
        labels: tuple[str, str],
        alt: str | Callable[[Any, Any], str],
        show: tuple[Callable[[Any], str], Callable[[Any], str]] = (str, str),
        start: tuple[int, int] = (0, 0),
        menus: tuple[bool, bool] = (False, False),
        caption: str = "",
        data: Iterable[Any] = (),
        digits: int = 2,
        quality: int = 85,
    ):
        rows = _checked(rows, start[0], labels[0])
        columns = _checked(columns, start[1], labels[1])
        name = f"{labels[0]} x {labels[1]}"
        pairs = _checked([(r, c) for r in rows for c in columns], 0, name)
        pictures = _draw(figure, lambda pair: update(*pair), pairs)
        first = pictures[start[0] * len(columns) + start[1]]
        super().__init__(f"{name!r}, {len(rows)}x{len(columns)} frames", first, data, digits)
        images = self._images(pictures, [_alt(alt, pair, show) for pair in pairs], quality)
        n = len(columns)
        grouped = [images[i * n : (i + 1) * n] for i in range(len(rows))]
        self.widget = _two_sliders(grouped, rows, columns, labels, show, start, caption, menus)


class Pane(NamedTuple):
    """One picture of a frame of `Sheets`."""

    picture: Any
    """See `as_rgb`."""
    text: str
    """Stands above it."""
    alt: str
    """Its alternative text."""
    scale: int = 1
    """Shows each pixel as a square of that many."""
    photo: bool = False
    """Lossy: right for photographs and noisy drawings, wrong for label maps."""


class Sheets(Figure):
    """Two sliders over frames of several pictures side by side: at most 32 pairs of values.

    ``panes(row, column)`` gives the `Pane` list of a frame; ``labels``, ``show`` and ``start``
    hold one entry for rows and one for columns, and so does ``menus`` (see `Grid`). ``height`` in
    pixels is kept free for every frame, so that the page does not jump. Everything else as in
    `Frames`.

    Raises UserError for no or too many frames, and above 200 kB.
    """

    def __init__(
        self,
        panes: Callable[[Any, Any], Sequence[Pane]],
        rows: Iterable[Any],
        columns: Iterable[Any],
        *,
        labels: tuple[str, str],
        show: tuple[Callable[[Any], str], Callable[[Any], str]] = (str, str),
        start: tuple[int, int] = (0, 0),
        menus: tuple[bool, bool] = (False, False),
        height: int = 0,
        caption: str = "",
        data: Iterable[Any] = (),
        digits: int = 2,
        quality: int = 85,
    ):
        rows = _checked(rows, start[0], labels[0])
        columns = _checked(columns, start[1], labels[1])
        name = f"{labels[0]} x {labels[1]}"
        _checked([(r, c) for r in rows for c in columns], 0, name)
        frames = [[list(panes(r, c)) for c in columns] for r in rows]
        first = frames[start[0]][start[1]]
        plain = f"{name!r}, {len(rows)}x{len(columns)} frames"
        super().__init__(plain, _side_by_side(first), data, digits)
        pages = [[sheet_html(frame, height, quality) for frame in row] for row in frames]
        self._check_size(
            sum(len(page) for row in pages for page in row),
            "draw fewer frames, smaller ones, or lower quality",
        )
        self.widget = _two_sliders(pages, rows, columns, labels, show, start, caption, menus)


def sheet_html(panes: Sequence[Pane], height: int = 0, quality: int = 85) -> str:
    """Pictures side by side, or below each other on a phone, each with its text above it."""
    parts = []
    for pane in panes:
        rgb = as_rgb(pane.picture)
        url = data_url(rgb, quality=quality, photo=pane.photo)
        image = _img(url, pane.alt, shape=rgb.shape, scale=pane.scale)
        text = f'<div style="line-height:1.3;margin-bottom:4px">{html.escape(pane.text)}</div>'
        parts.append(f'<div style="min-height:{height}px">{text}{image}</div>')
    columns = "repeat(auto-fit,minmax(min(16em,100%),1fr))"
    style = f"display:grid;grid-template-columns:{columns};gap:4px 12px"
    return f'<div class="setr-sheet" style="{style}">{"".join(parts)}</div>'


def _side_by_side(panes: Sequence[Pane]) -> np.ndarray:
    """The pictures of a frame in one, on white."""
    pictures = [
        np.kron(as_rgb(p.picture), np.ones((p.scale, p.scale, 1), np.uint8)) for p in panes
    ]
    tallest = max(len(rgb) for rgb in pictures)
    padded = [
        np.pad(rgb, ((0, tallest - len(rgb)), (0, 8), (0, 0)), constant_values=255)
        for rgb in pictures
    ]
    return np.concatenate(padded, axis=1)


class MatrixExplorer(Figure):
    """Choose a patch of a picture; see its row of a matrix over all patches.

    ``picture`` is what the patches are cut from (see `as_rgb`), ``grid`` = (h, w) their number
    downwards and across, ``matrix`` (N, N) with N = h * w: attention, similarity, distance. A
    mapping of names to such matrices adds a choice (heads, layers) labelled ``choice``. Each row
    is kept in 8 bits, so all N rows together take about as much room as one photograph.

    ``name`` identifies the figure on its page: letters, digits and hyphens, unique. ``label`` is
    what the matrix holds ("attention"). ``scale="row"`` stretches each row from its own least to
    its own largest value; ``scale="all"`` uses one scale for the matrix. ``start`` = (row, column)
    of the patch shown first; ``colors`` any matplotlib colour map. ``small=True`` keeps a
    ``picture`` that shows nothing but the places small beside its matrix.

    Works with hover, click, touch and the arrow keys. Raises UserError for a matrix that does not
    fit the grid, numbers that are not finite, and above 450 kB.
    """

    def __init__(
        self,
        picture: Any,
        matrix: Any | Mapping[str, Any],
        grid: tuple[int, int],
        *,
        name: str,
        label: str,
        alt: str,
        choice: str = "map",
        start: tuple[int, int] | None = None,
        scale: str = "row",
        colors: str = "viridis",
        small: bool = False,
        caption: str = "",
        digits: int = 2,
        quality: int = 85,
    ):
        rgb, table = as_rgb(picture), _color_table(colors)
        maps = dict(matrix) if isinstance(matrix, Mapping) else {label: matrix}
        maps = {key: _square(value, grid, f"{name}: {key}") for key, value in maps.items()}
        row, column = start or (grid[0] // 2, grid[1] // 2)
        if not (0 <= row < grid[0] and 0 <= column < grid[1]):
            raise UserError(f"{name}: start {start} lies outside the {grid[0]}x{grid[1]} grid")
        query = row * grid[1] + column
        packed = {key: _pack(value, scale, name) for key, value in maps.items()}
        first = table[next(iter(packed.values()))[0][query]].reshape(*grid, 3)
        zoom = max(1, round(rgb.shape[1] / grid[1]))
        heat = np.kron(first, np.ones((zoom, zoom, 1), np.uint8))
        plain = f"{label!r}, {grid[0]}x{grid[1]} patches"
        super().__init__(plain, heat, maps.values(), digits)
        self._bundle["text/html"] = _explorer_html(
            name=identifier(name),
            picture=_img(data_url(rgb, quality=quality), alt, shape=rgb.shape),
            still=_img(_png_url(first), f"{label} of one patch", shape=grid),
            table=_bytes_url(table),
            maps={key: (_levels_url(q), _bytes_url(ends)) for key, (q, ends) in packed.items()},
            grid=grid,
            query=query,
            label=label,
            choice=choice,
            small=small,
            caption=caption,
        )
        self._check_size(
            len(self._bundle["text/html"]),
            "use fewer maps, fewer levels or a coarser grid", MAX_EXPLORER_BYTES,
        )  # fmt: skip


class Compare(Figure):
    """Two pictures of one size on top of each other, with a divider to drag.

    ``before`` and ``after``: see `as_rgb`; ``labels`` are shown in their corners, ``alts`` their
    alternative texts. ``start`` is the share of the picture, 0..100 percent, that shows
    ``before``. ``scale`` > 1 enlarges small drawn scenes without smoothing.
    ``name`` identifies the figure on its page. Raises UserError for different sizes.
    """

    def __init__(
        self,
        before: Any,
        after: Any,
        *,
        name: str,
        labels: tuple[str, str],
        alts: tuple[str, str],
        start: int = 50,
        scale: int = 1,
        caption: str = "",
        digits: int = 2,
        quality: int = 85,
    ):
        pair = [as_rgb(before), as_rgb(after)]
        if pair[0].shape != pair[1].shape:
            raise UserError(f"{name}: sizes differ, {pair[0].shape[:2]} and {pair[1].shape[:2]}")
        super().__init__(f"{labels[0]!r} | {labels[1]!r}", pair[1], pair, digits)
        cut = round(pair[0].shape[1] * start / 100)
        both = np.concatenate([pair[0][:, :cut], pair[1][:, cut:]], axis=1)
        self._bundle = _still(np.kron(both, np.ones((scale, scale, 1), np.uint8)))
        images = self._images(pair, list(alts), quality, scale)
        self._bundle["text/html"] = _compare_html(identifier(name), images, labels, start, caption)


def color_key(colors: Mapping[str, Sequence[int]]) -> Any:
    """A legend as text of the page: name -> colour (3,), 0..255.

    Words inside a picture shrink with it on a phone, and stay black in the dark.
    """
    from IPython.display import HTML

    items = [
        f'<li><i style="background:rgb({",".join(str(int(c)) for c in color)})"></i>'
        f"{html.escape(name)}</li>"
        for name, color in colors.items()
    ]
    style = f"<style>{script_line('interactive.css')}</style>"
    lines = ['<div class="setr-figure">', style, '<ul class="setr-key">', *items, "</ul></div>"]
    return HTML("\n".join(lines))


class show_source:  # used like a function, as the last line of a cell
    """The source of a library function or class, for a notebook that is open in Jupyter.

    The built page includes the same source with ``literalinclude``. Only the name and the file
    are committed (the executor drops the code), so a notebook never shows an old version.
    """

    def __init__(self, thing: Any):
        self.thing = inspect.unwrap(thing)

    def __repr__(self) -> str:
        file = Path(inspect.getsourcefile(self.thing) or "")
        return f"{self.thing.__qualname__} in {file.parent.name}/{file.name}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        code = inspect.getsource(self.thing)
        data = {"text/plain": repr(self), "text/markdown": f"```python\n{code}```"}
        return data, {"setr_lite": {"live_only": "text/markdown"}}


# --- parts of widgets -----------------------------------------------------------------------------


def _checked(values: Iterable[Any], start: int, label: str) -> list[Any]:
    values = list(values)
    if not 1 <= len(values) <= MAX_FRAMES:
        raise UserError(
            f"{label}: {len(values)} frames, expected 1..{MAX_FRAMES}; take every k-th value"
        )
    if not 0 <= start < len(values):
        raise UserError(f"{label}: start {start} is no index into {len(values)} values")
    return values


def _draw(figure: Any, update: Callable[[Any], Any], values: Sequence[Any]) -> list[np.ndarray]:
    """One picture for each value; the layout is settled once, then only artists change.

    Without a figure, ``update(value)`` returns the picture.
    """
    if figure is None:
        return [as_rgb(update(value)) for value in values]
    import matplotlib.pyplot as plt

    number = getattr(figure, "number", None)
    if number is not None and not plt.fignum_exists(number):
        raise UserError("the figure is closed already; make it in the same cell as its frames")
    update(values[0])
    figure.canvas.draw()
    figure.set_layout_engine("none")
    pictures = []
    for value in values:
        update(value)
        pictures.append(grab(figure))
    plt.close(figure)
    return pictures


def _alt(
    alt: str | Callable[..., str], values: tuple[Any, ...], show: Sequence[Callable[[Any], str]]
) -> str:
    if not isinstance(alt, str):
        return alt(*values)
    if alt.count("{}") != len(values):
        raise UserError(f"alt {alt!r}: expected {len(values)} x '{{}}', a text for each frame")
    return alt.format(*(f(v) for f, v in zip(show, values, strict=True)))


def _stack(images: Sequence[str], start: int) -> Any:
    """HTML widgets, since Image widgets have no alternative text; one style for all of them."""
    import ipywidgets as w

    layout, style = w.Layout(), w.HTML().style
    return w.Stack([w.HTML(i, layout=layout, style=style) for i in images], selected_index=start)


def _two_sliders(
    images: Sequence[Sequence[str]],
    rows: Sequence[Any],
    columns: Sequence[Any],
    labels: tuple[str, str],
    show: tuple[Callable[[Any], str], Callable[[Any], str]],
    start: tuple[int, int],
    caption: str,
    menus: tuple[bool, bool],
) -> Any:
    """A stack of stacks, the first control choosing the row and the second the place in each."""
    import ipywidgets as w

    inner = [_stack(row, start[1]) for row in images]
    outer = w.Stack(inner, selected_index=start[0])
    row_slider = _slider(labels[0], [show[0](v) for v in rows], start[0], menus[0])
    column_slider = _slider(labels[1], [show[1](v) for v in columns], start[1], menus[1])
    w.jslink((row_slider, "index"), (outer, "selected_index"))
    for stack in inner:
        w.jslink((column_slider, "index"), (stack, "selected_index"))
    return _box([row_slider, column_slider], outer, caption)


def _slider(label: str, shown: Sequence[str], start: int, menu: bool = False) -> Any:
    import ipywidgets as w

    if len(set(shown)) != len(shown):
        raise UserError(f"{label}: two values read the same on the slider; give another show=")
    return (w.Dropdown if menu else w.SelectionSlider)(
        options=[(text, i) for i, text in enumerate(shown)],
        index=start,
        description=label,
        style={"description_width": "initial"},
        layout={"width": "auto", "max_width": "40em", "min_width": "15em", "flex": "1 1 15em"},
    )


def _box(controls: list[Any], stack: Any, caption: str) -> Any:
    """Controls in a row (or rows, on a phone), pictures below, then the caption."""
    import ipywidgets as w

    children = [w.HBox(controls, layout={"flex_flow": "row wrap"}), stack]
    if caption:
        children.append(w.HTML(f'<span class="setr-caption">{html.escape(caption)}</span>'))
    return w.VBox(children)


# --- parts of HTML figures ------------------------------------------------------------------------


def identifier(name: str) -> str:
    """`name`, if it can stand in an HTML id; else UserError."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name):
        raise UserError(f"name {name!r}: letters, digits and hyphens only, a letter first")
    return name


def script_line(file: str) -> str:
    """Our script or style on one line, so that nbval's line-wise sanitising can leave it out."""
    text = re.sub(r"/\*.*?\*/", "", (_HERE / file).read_text("utf-8"), flags=re.S)
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def _square(matrix: Any, grid: tuple[int, int], where: str) -> np.ndarray:
    a = np.asarray(matrix.detach().cpu() if hasattr(matrix, "detach") else matrix, np.float32)
    n = grid[0] * grid[1]
    if a.shape != (n, n):
        tail = "; drop the class token's row and column" if a.shape == (n + 1, n + 1) else ""
        patches = f"{grid[0]}x{grid[1]} patches"
        raise UserError(f"{where}: {patches} need ({n}, {n}), got {a.shape}{tail}")
    if not np.isfinite(a).all():
        raise UserError(f"{where}: holds numbers that are not finite")
    return a


def _pack(matrix: np.ndarray, scale: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(N, N) -> its rows in 8 bits, uint8 (N, N), and their least and largest value, (N, 2)."""
    if scale not in ("row", "all"):
        raise UserError(f"{name}: scale {scale!r}; choose 'row' or 'all'")
    axis = 1 if scale == "row" else None
    low = np.broadcast_to(matrix.min(axis, keepdims=True), (len(matrix), 1))
    high = np.broadcast_to(matrix.max(axis, keepdims=True), (len(matrix), 1))
    eighth = np.rint(255 * (matrix - low) / np.maximum(high - low, 1e-30)).astype(np.uint8)
    return eighth, np.concatenate([low, high], axis=1).astype("<f4")


def _color_table(colors: str) -> np.ndarray:
    """256 colours, uint8 (256, 3)."""
    import matplotlib

    if colors not in matplotlib.colormaps:
        raise UserError(f"colors {colors!r}: no such matplotlib colour map")
    return matplotlib.colormaps[colors](np.arange(256), bytes=True)[:, :3].copy()


def figure_html(name: str, kind: str, lines: Iterable[str], caption: str) -> str:
    """A figure of `kind` (a class of interactive.css) with its style, its lines, its caption."""
    foot = [f"<figcaption>{html.escape(caption)}</figcaption>"] if caption else []
    style = f"<style>{script_line('interactive.css')}</style>"
    head = f'<figure class="setr-figure {kind}" id="{name}">'
    return "\n".join([head, style, *lines, *foot, "</figure>"])


def _explorer_html(
    *,
    name: str,
    picture: str,
    still: str,
    table: str,
    maps: dict[str, tuple[str, str]],
    grid: tuple[int, int],
    query: int,
    label: str,
    choice: str,
    small: bool,
    caption: str,
) -> str:
    h, w = grid
    text = html.escape(label)
    options = [
        f'<option data-rows="{rows}" data-ends="{ends}">{html.escape(key)}</option>'
        for key, (rows, ends) in maps.items()
    ]
    hidden = " hidden" if len(maps) == 1 else ""
    narrow = ' style="flex:0 1 9rem"' if small else ""
    pick = (
        f'<div class="setr-stage setr-pick" tabindex="0" role="slider" aria-valuemin="0" '
        f'aria-valuemax="{h * w - 1}" aria-valuenow="{query}" '
        f'aria-valuetext="row {query // w}, column {query % w}" '
        f'aria-label="patch whose {text} is shown; arrow keys move it">'
    )
    lines = [
        f'<div class="setr-panels" data-rows="{h}" data-columns="{w}" data-label="{text}">',
        f'<div class="setr-panel"{narrow}><p class="setr-title">choose a patch</p>',
        f'{pick}{picture}<span class="setr-mark"></span></div></div>',
        f'<div class="setr-panel"><p class="setr-title">its {text}</p>',
        f'<div class="setr-stage setr-heat">{still}<span class="setr-mark"></span></div></div>',
        "</div>",
        '<div class="setr-bar"><span class="setr-low"></span>',
        f'<canvas class="setr-table" aria-hidden="true" data-table="{table}"></canvas>',
        '<span class="setr-high"></span>',
        f'<label{hidden}>{html.escape(choice)} <select>',
        *options,
        "</select></label>",
        '<label><input type="checkbox"> over the picture</label></div>',
        '<p class="setr-readout"></p>',
        f"<script>({script_line('interactive.js')})(document.currentScript, '{name}');</script>",
    ]
    return figure_html(name, "setr-explorer", lines, caption)


def _compare_html(
    name: str, images: list[str], labels: tuple[str, str], start: int, caption: str
) -> str:
    left, right = (html.escape(text) for text in labels)
    move = "this.parentNode.style.setProperty('--cut', this.value + '%')"
    lines = [
        f'<div class="setr-stage setr-compare" style="--cut:{start}%">',
        *images,
        f'<span class="setr-tag">{left}</span><span class="setr-tag">{right}</span>',
        '<span class="setr-divider"></span>',
        f'<input type="range" min="0" max="100" value="{start}" oninput="{move}" '
        f'aria-label="divider: {left} to its left, {right} to its right">',
        "</div>",
    ]
    return figure_html(name, "", lines, caption)
