"""The decoders: Naive, PUP and MLA, and their auxiliary heads (paper, section 3.3).

Shapes: B images, D channels of the encoder, c channels of a head (256 as published), K classes,
grid h x w of patches.

Two dialects, because published checkpoints come in both: ``official`` is the authors' code,
``mmseg`` is mmsegmentation's. Every head returns logits at a LOW resolution, as its
classifier leaves them; who wants them at full size resizes once, in `SETROutput.full`. That changes
nothing: a 1x1 convolution mixes channels and bilinear resizing mixes positions, with weights that
sum to one, so the two commute exactly, bias included. It saves the 256-channel full-resolution map.
A head that ends with a bilinear step of its own leaves that one to be done, too (`Head.lazy`): two
resizes are done as one.

Streams run from shallow to deep in both dialects (mmsegmentation's files count them backwards).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .encoder import EPS
from .logits import LazyLogits


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a map (B, D, h, w), position by position."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D, h, w)."""
        x = x.permute(0, 2, 3, 1)  # channels last, where LayerNorm works
        return super().forward(x).permute(0, 3, 1, 2)


def conv_bn_relu(inputs: int, outputs: int, kernel: int, bias: bool = False) -> nn.Sequential:
    """Convolution of the same size, BatchNorm, ReLU: the unit all heads are made of."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def upsample(x: Tensor, factor: int, align_corners: bool = False) -> Tensor:
    """Bilinear resize by a whole factor."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=align_corners)


class Head(nn.Module):
    """What the decoders share: features (B, D, h, w) in, logits (B, K, h', w') out."""

    last_step: int = 1
    """Factor of the bilinear step that ends the head, after the classifier; 1 is none. It is not
    taken here: in the ``mmseg`` dialect it would make a map 16 times as large."""
    classifier: nn.Conv2d

    def lazy(self, features: Sequence[Tensor]) -> LazyLogits:
        """The logits with the last step still to be done."""
        return LazyLogits.of(self(features)).enlarged(self.last_step)


class UpsampleHead(Head):
    """LayerNorm, then units of convolution-BN-ReLU with bilinear steps between, then classes.

    Naive, PUP and their auxiliary heads are this with other numbers.

    Args:
        in_channels: D.
        channels: c, width of the units.
        num_classes: K.
        kernel: 1 or 3, of every unit's convolution.
        steps: one entry a unit: the factor of the bilinear step that follows it. After the last
            unit the classifier comes first and its K channels are resized instead of c.
        bias: convolutions before BatchNorm have a bias, as in the authors' code. BatchNorm
            cancels it; it exists so that published weights fit.
    """

    def __init__(
        self, in_channels: int, channels: int, num_classes: int, kernel: int, steps: Sequence[int],
        bias: bool,
    ) -> None:
        super().__init__()
        self.steps = tuple(steps)
        self.last_step = self.steps[-1]
        self.norm = LayerNorm2d(in_channels)
        widths = [in_channels] + [channels] * len(self.steps)
        self.convs = nn.ModuleList(
            conv_bn_relu(wide, channels, kernel, bias) for wide in widths[:-1]
        )
        self.classifier = nn.Conv2d(channels, num_classes, kernel_size=1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """The last of `features`, (B, D, h, w) -> (B, K, h', w') before the last step."""
        x = self.norm(features[-1])
        for conv, step in zip(self.convs[:-1], self.steps[:-1], strict=True):
            x = upsample(conv(x), step)
        return self.classifier(self.convs[-1](x))


class NaiveHead(UpsampleHead):
    """SETR-Naive: one 1x1 unit and the classifier (section 3.3, decoder 1).

    ``official`` leaves all of the upsampling to the final resize, one step of 16x; ``mmseg``
    has a step of 4x before one of 4x, which is not the same function.

    Takes a list of features and reads the last, (B, D, h, w); returns (B, K, h, w), not resized.
    """

    def __init__(
        self, in_channels: int, channels: int, num_classes: int, dialect: str = "official"
    ) -> None:
        steps = {"official": [1], "mmseg": [4]}[dialect]
        super().__init__(in_channels, channels, num_classes, 1, steps, bias=dialect == "official")


class LinearHead(Head):
    """A linear probe: LayerNorm and one 1x1 classifier. Not one of the paper's heads.

    What it reaches on a frozen encoder tells how much the tokens know already; a decoder must
    beat it.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(in_channels)
        self.classifier = nn.Conv2d(in_channels, num_classes, kernel_size=1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """The last of `features`, (B, D, h, w) -> (B, K, h, w)."""
        return self.classifier(self.norm(features[-1]))


class PUPHead(UpsampleHead):
    """SETR-PUP, progressive upsampling: 3x3 units with 2x steps between (section 3.3, decoder 2).

    The published head has four units for patches of 16 pixels. `stages` units stand for patches
    of ``2**stages`` pixels; the last 2x step is left to the final resize.

    Takes a list of features and reads the last, (B, D, h, w); returns (B, K, h', w'), with
    ``2**(stages - 1)`` times as many rows and columns: eight times as published.
    """

    def __init__(
        self, in_channels: int, channels: int, num_classes: int, dialect: str = "official",
        stages: int = 4,
    ) -> None:
        steps = [2] * (stages - 1) + [1]
        super().__init__(in_channels, channels, num_classes, 3, steps, bias=dialect == "official")


class NaiveAuxHead(UpsampleHead):
    """Auxiliary head of SETR-Naive: as the main head.

    mmsegmentation's ADE20K configs have two units here, its Cityscapes configs one
    (``units=1``); the authors' code always has one.
    """

    def __init__(
        self, in_channels: int, channels: int, num_classes: int, dialect: str = "official",
        units: int | None = None,
    ) -> None:
        steps = {"official": [1], "mmseg": [4] * (units or 2)}[dialect]
        super().__init__(in_channels, channels, num_classes, 1, steps, bias=dialect == "official")


class PUPAuxHead(UpsampleHead):
    """Auxiliary head of SETR-PUP: one 3x3 unit (``official``) or two (``mmseg``), 4x steps."""

    def __init__(
        self, in_channels: int, channels: int, num_classes: int, dialect: str = "official"
    ) -> None:
        steps = {"official": [4], "mmseg": [4, 1]}[dialect]
        super().__init__(in_channels, channels, num_classes, 3, steps, bias=dialect == "official")


class MultiLevelAggregation(nn.Module):
    """The neck of SETR-MLA: four depths of the encoder, added from deep to shallow.

    Each stream is normed and projected (1x1), the running sum starts at the deepest, and a 3x3
    unit smooths each sum (section 3.3, decoder 3; figure 1c). The convolutions have no bias.
    """

    def __init__(self, in_channels: int, channels: int, streams: int = 4) -> None:
        super().__init__()
        self.norm = nn.ModuleList(LayerNorm2d(in_channels) for _ in range(streams))
        self.proj = nn.ModuleList(conv_bn_relu(in_channels, channels, 1) for _ in range(streams))
        self.smooth = nn.ModuleList(conv_bn_relu(channels, channels, 3) for _ in range(streams))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Four (B, D, h, w), shallow first -> four (B, c, h, w), shallow first."""
        streams = [p(n(x)) for p, n, x in zip(self.proj, self.norm, features, strict=True)]
        for i in range(len(streams) - 2, -1, -1):
            streams[i] = streams[i] + streams[i + 1]
        return [smooth(x) for smooth, x in zip(self.smooth, streams, strict=True)]


class MLAHead(Head):
    """SETR-MLA: two 3x3 units a stream, 4x, concatenation, classifier (section 3.3, decoder 3).

    ``official`` resizes with align_corners=True and classifies with a 3x3 convolution;
    ``mmseg`` resizes without and classifies 1x1, which therefore can come before the resize, its
    last step.
    """

    def __init__(
        self, channels: int, num_classes: int, dialect: str = "official", streams: int = 4
    ) -> None:
        super().__init__()
        self.dialect = dialect
        self.last_step = 4 if dialect == "mmseg" else 1
        half = channels // 2
        self.branches = nn.ModuleList(
            nn.Sequential(*conv_bn_relu(channels, half, 3), *conv_bn_relu(half, half, 3))
            for _ in range(streams)
        )
        kernel = {"official": 3, "mmseg": 1}[dialect]
        self.classifier = nn.Conv2d(streams * half, num_classes, kernel, padding=kernel // 2)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Four (B, c, h, w), shallow first -> (B, K, 4h, 4w), ``mmseg`` (B, K, h, w)."""
        maps = [branch(x) for branch, x in zip(self.branches, features, strict=True)]
        if self.dialect == "official":
            maps = [upsample(x, 4, align_corners=True) for x in maps]
        return self.classifier(torch.cat(maps, dim=1))


class MLAAuxHead(Head):
    """Auxiliary head of SETR-MLA: one 1x1 convolution on an aggregated map, no norm.

    The authors' has no bias, mmsegmentation's has one.
    """

    def __init__(self, channels: int, num_classes: int, dialect: str = "official") -> None:
        super().__init__()
        self.classifier = nn.Conv2d(channels, num_classes, 1, bias=dialect == "mmseg")

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """The last of `features`, (B, c, h, w) -> (B, K, h, w)."""
        return self.classifier(features[-1])


def init_like_mmseg(neck: nn.Module, head: Head, aux_heads: nn.Module) -> None:
    """mmsegmentation's initial weights, where they differ from PyTorch's defaults.

    Units: Kaiming normal over the fan-out. The main classifier: std 0.01, bias 0; those of the
    auxiliary heads keep the default, as mmsegmentation's initialiser does not reach them. The
    ``official`` dialect keeps the defaults everywhere.
    """
    classifiers = [m for n, m in aux_heads.named_modules() if n.endswith("classifier")]
    for part in (neck, head, aux_heads):
        for module in part.modules():
            if isinstance(module, nn.Conv2d) and module not in classifiers:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    nn.init.normal_(head.classifier.weight, std=0.01)
    if head.classifier.bias is not None:
        nn.init.zeros_(head.classifier.bias)
