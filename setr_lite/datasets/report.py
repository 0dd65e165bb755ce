"""What a check of a data set found, as a text and as pictures.

A fault is something that training would stumble over or learn wrongly from; a note is worth
knowing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..config import IGNORE
from ..errors import UserError, drawable, printable
from ..files import written_beside
from ..transforms import Sample
from ..visualize import STYLE, overlay, panel
from .base import SegmentationDataset

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Fault(NamedTuple):
    """Something that is wrong, and where."""

    kind: str
    path: Path
    text: str
    """What is wrong and what to do, with the path in it."""


@dataclass
class Health:
    """What a check found; `doctor.check_data` makes it."""

    title: str
    classes: Sequence[str]
    palette: np.ndarray
    splits: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """By split: images, those of them with a label, and those that were read."""
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    """(256,) pixels by label."""
    images: np.ndarray = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    """(256,) images in which a label occurs."""
    samples: list[tuple[SegmentationDataset, int]] = field(default_factory=list)
    """(data set, index) of some pairs without fault, for the contact sheet."""

    @property
    def healthy(self) -> bool:
        """Whether there is no fault; notes do not count."""
        return not self.faults

    def text(self, most: int | None = None) -> str:
        """The report; `most` cuts it to so many faults of a kind and to classes that occur."""
        table = _histogram_text(self, only_seen=most is not None)
        parts = [printable(self.title), _split_table(self), table, *_fault_lines(self, most)]
        if self.notes:
            parts.append("\n".join(f"note: {printable(note)}" for note in self.notes))
        count = f"{len(self.faults)} fault{'s' * (len(self.faults) > 1)}"
        return "\n\n".join([*parts, "healthy" if self.healthy else f"NOT healthy: {count}"])

    def write(self, out: str | Path) -> list[Path]:
        """Write ``report.txt``, ``histogram.png`` and ``samples.png`` into the folder `out`.

        Raises:
            UserError: the folder cannot be written.
        """
        out = Path(out)
        try:
            files = [out / "report.txt"]
            with written_beside(files[0]) as part:
                part.write_text(self.text() + "\n", encoding="utf-8")
            for name, figure in (("histogram", _histogram(self)), ("samples", _sheet(self))):
                if figure is not None:
                    files.append(out / f"{name}.png")
                    with written_beside(files[-1]) as part:
                        figure.savefig(part, dpi=100)
        except OSError as error:
            raise UserError(f"{out}: cannot be written ({error})") from error
        return files


def _split_table(health: Health) -> str:
    rows = [f"{'split':<8}{'images':>9}{'labelled':>10}{'read':>8}"]
    for split, (images, labelled, read) in health.splits.items():
        rows.append(f"{split:<8}{images:>9}{labelled:>10}{read:>8}")
    return "\n".join(rows)


def _histogram_text(health: Health, only_seen: bool) -> str:
    share = _share(health)
    width = max(len(name) for name in (*health.classes, "ignored"))
    rows = [f"{'label':>5} {'class':<{width}} {'pixels':>9} {'images':>7}"]
    for k, name in [*enumerate(health.classes), (IGNORE, "ignored")]:
        if only_seen and not health.images[k]:
            continue
        bar = "#" * round(40 * share[k] / max(share.max(), 1e-12))
        row = f"{k:>5} {name:<{width}} {share[k]:>8.3%} {health.images[k]:>7} {bar}"
        rows.append(row.rstrip())
    return "\n".join(rows)


def _share(health: Health) -> np.ndarray:
    return health.pixels / max(health.pixels.sum(), 1)


def _fault_lines(health: Health, most: int | None) -> Iterator[str]:
    by_kind: dict[str, list[Fault]] = {}
    for fault in health.faults:
        by_kind.setdefault(fault.kind, []).append(fault)
    for kind, faults in by_kind.items():
        lines = [f"  {printable(fault.text)}" for fault in faults[:most]]
        if len(faults) > len(lines):
            lines.append(f"  ... and {len(faults) - len(lines)} more")
        yield "\n".join([f"{kind} ({len(faults)}):", *lines])


def _histogram(health: Health) -> Figure:
    """A bar of each class's share of the pixels, on a scale of powers of ten."""
    import matplotlib.pyplot as plt

    count, share = len(health.classes), _share(health)
    names = [*map(drawable, health.classes), "ignored"]
    shown = [*share[:count], share[IGNORE]]
    colours = [*(health.palette / 255).tolist(), (1, 1, 1)]
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(8, 1 + 0.24 * len(names)))
        plt.close(figure)
        axes = figure.add_subplot()
        axes.barh(range(len(names)), shown, color=colours, edgecolor="#333333")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        if any(shown):
            least = min(value for value in shown if value > 0)
            axes.set_xscale("log")
            axes.set_xlim(10 ** np.floor(np.log10(least) - 0.01), 1)  # a bar for the rarest, too
            axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
            axes.xaxis.set_minor_formatter("")
        axes.set_xlabel("share of the pixels read")
    return figure


def _sheet(health: Health) -> Figure | None:
    """Samples beside their labels laid over them, with the classes that they show; None if there
    is no sample. Those of like shape share rows."""
    pictures, titles = [], []
    present: set[int] = set()
    samples = [(reader[index], reader.split) for reader, index in health.samples]
    for sample, split in sorted(samples, key=lambda pair: _slimness(pair[0])):
        step = max(sample.label.shape[-1] // 320, 1)  # small pictures, drawn fast
        image, label = sample.image[:, ::step, ::step], sample.label[::step, ::step]
        over = np.asarray(overlay(image, label, health.palette, alpha=0.6))
        pictures += [image, over]
        titles += [sample.name[-24:], split]
        present |= set(label.unique().tolist()) - {IGNORE}
    if not pictures:
        return None
    return _with_classes(panel(pictures, titles, columns=4, width=14), health, sorted(present))


def _slimness(sample: Sample) -> float:
    height, width = sample.label.shape
    return height / width


def _with_classes(sheet: Figure, health: Health, shown: list[int]) -> Figure:
    """The sheet with the names of the classes `shown` below, each beside its colour."""
    from matplotlib.patches import Patch

    columns = min(6, max(len(shown), 1))
    swatches = [
        Patch(facecolor=health.palette[k] / 255, edgecolor="#333333",
              label=drawable(health.classes[k])[:24]) for k in shown
    ]  # fmt: skip
    sheet.set_figheight(sheet.get_figheight() + 0.3 * (1 + len(shown) // columns))
    sheet.legend(handles=swatches, loc="outside lower center", ncols=columns, frameon=False)
    return sheet
