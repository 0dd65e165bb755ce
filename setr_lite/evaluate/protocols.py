"""How an image is scored, by one word: ``eval.protocol=official+ms``.

Published SETR scores come from test protocols that differ in how a ratio becomes an image size
and in what happens where the patch does not divide that size. A name alone is one view of each
image; with ``+ms`` the probabilities of several sizes and their mirror images are averaged.
`PROTOCOLS` has the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ..config import RunConfig
from ..errors import UserError
from ..transforms import Size, fit_size, scale_base
from ..typed import MIN_RATIO, number, size_of

Sizing = Literal["base", "at least a window", "clamped", "image"]
SIX = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""The ratios of the paper."""


@dataclass(frozen=True)
class Protocol:
    """One way to turn an image into the views that are scored."""

    name: str
    """As `eval.protocol` has it, without ``+ms``."""
    source: str
    """Who tests so."""
    ratios: tuple[float, ...] = SIX
    """Sizes of the views, relative to base or file."""
    flip: bool = True
    """Each view is mirrored, too."""
    sizing: Sizing = "base"
    """How a ratio becomes a size, see `view_size`."""
    single: Sizing = "base"
    """The same for the one view without ``+ms``."""
    odd: Literal["crop", "squeeze"] = "crop"
    """What undoes the padding of sizes that the patch does not divide, see `SETROutput.full`."""
    exceptions: Mapping[tuple[str, str], tuple[float, ...]] = field(default_factory=dict)
    """Other ratios: (data set, head) -> ratios."""

    def one_view(self) -> Protocol:
        """The protocol without ``+ms``."""
        return replace(self, ratios=(1.0,), flip=False, sizing=self.single)

    def sizes(self, size: Size, base_size: Size, window: int) -> list[Size]:
        """(h, w) of every view of an image of `size` (H, W), in the order of the ratios."""
        return [view_size(self.sizing, r, size, base_size, window) for r in self.ratios]


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "paper", "arXiv 2012.15840, section 4.1",
            sizing="at least a window", single="at least a window"),
        Protocol(
            "official", "configs/SETR/*_MS.py of the authors",
            sizing="clamped",
            exceptions={("ade20k", head): (0.5, 0.75, 1.0) for head in ("naive", "mla")}),
        Protocol("mmseg-0.x", "MultiScaleFlipAug of mmsegmentation 0.x", odd="squeeze"),
        Protocol(
            "mmseg-1.x", "--tta of mmsegmentation 1.x", sizing="image", odd="squeeze"),
    )
}  # fmt: skip
"""The published protocols by name. The table also has ``none``, which goes by the settings.

=============  ==================  ========================================
protocol       one view            several views
=============  ==================  ========================================
``none``       fitted into base    `eval.ratios` and `eval.flip`, fitted
                                   into base x ratio
``paper``      fitted into base,   fitted into base x ratio,
               at least a window   at least a window
``official``   fitted into base    short side max(window, base x ratio),
                                   the long side has no bound
``mmseg-0.x``  fitted into base    fitted into base x ratio
``mmseg-1.x``  fitted into base    the file's own size x ratio
=============  ==================  ========================================

- Sizes: "base" is the ``base_size`` of `RunConfig.test_data`, "window" the short side of
  `eval.window` (of `data.crop_size` if `eval.mode` is whole). Windows, strides and mode stay the
  run's own: the published recipes all slide.
- Padding to whole patches: ``paper``, ``official`` and ``none`` (with `model.odd`'s default) cut it
  off; ``mmseg-0.x`` and ``mmseg-1.x`` squeeze the padded map into the size of the image.
- Ratios: the six from 0.5 to 1.75 for every named protocol. The authors' ADE20K configs of Naive
  and MLA have 0.5, 0.75 and 1, and so has ``official`` there. Their base and window are both 512:
  all three views have a short side of 512, and of the six passes only two differ.

Sources: the paper (arXiv 2012.15840), section 4.1; the authors' ``Resize`` with
``setr_multi_scale`` as it is since May 2021;
mmsegmentation 0.x ``MultiScaleFlipAug`` and 1.x ``tta_pipeline``.
"""


def protocol_of(config: RunConfig) -> Protocol:
    """The protocol that a run is scored by, with its ratios for the run's data set and head.

    Raises:
        UserError: `eval.ratios` or `eval.flip` are set beside a protocol, which has its own.
    """
    settings = config.eval
    if settings.protocol == "none":
        return Protocol(
            "none", "eval.ratios, eval.flip", settings.ratios, settings.flip, odd=config.model.odd)
    if settings.ratios != (1.0,) or settings.flip:
        raise UserError(
            f"eval.protocol={settings.protocol}: has ratios and flip of its own; leave eval.ratios "
            "at 1 and eval.flip at false, or take eval.protocol=none"
        )
    name, _, several = settings.protocol.partition("+")
    protocol = PROTOCOLS[name]
    if not several:
        return protocol.one_view()
    ratios = protocol.exceptions.get((config.data.name, config.model.head), protocol.ratios)
    return replace(protocol, ratios=ratios)


def view_sizes(config: RunConfig, size: Size) -> list[Size]:
    """(h, w) of every view of an image of `size` (H, W) in the run `config`."""
    size = size_of("size", size)
    window = config.eval.window if config.eval.mode == "slide" else config.data.crop_size
    return protocol_of(config).sizes(size, config.test_data().base_size, min(window))


def view_size(sizing: Sizing, ratio: float, size: Size, base_size: Size, window: int) -> Size:
    """(h, w) of one view of an image of `size` (H, W); the aspect is kept, but for rounding.

    Args:
        sizing: ``base`` fits it into `base_size` x `ratio`; ``at least a window`` does so, then
            enlarges it until its short side is `window`; ``clamped`` gives it the short side of
            `base_size` x `ratio`, or `window` if that is larger; ``image`` takes `size` x `ratio`.
        ratio: relative to `base_size`, or to `size`.
        size: (H, W) of the file.
        base_size: the two sides that an image is fitted into.
        window: side of a test window.
    """
    number("ratio", ratio, MIN_RATIO)
    if sizing == "image":  # twice rounded, as mmcv does it: first the bound, then the size
        height, width = (max(int(side * ratio + 0.5), 1) for side in size)
        return fit_size(size, (height, width))
    scaled = scale_base(base_size, ratio)
    if sizing == "clamped":
        return _with_short_side(size, max(window, min(scaled)))
    fitted = fit_size(size, scaled)
    if sizing == "at least a window" and min(fitted) < window:
        return _with_short_side(size, window)
    return fitted


def _with_short_side(size: Size, short: int) -> Size:
    return fit_size(size, (short, math.inf))
