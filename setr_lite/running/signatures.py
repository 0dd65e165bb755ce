"""What a mistake leaves in a run's files: the table of `doctor`, a function for each kind of trace.

A clue is a suspicion. Its thresholds were chosen by looking at runs with one mistake planted in
each; `book/_tools/plant_causes.py` has the list, and what came out on runs that nobody looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np

from ..config import IMAGENET_MEAN, RunConfig
from ..model import AUX_STREAMS
from .traces import Traces

NOTHING = 1e-6
"""A loss below it has no pixel that counts."""
SMALL, LARGE = 0.005, 0.2
"""Root mean square of the blocks' weights below which they are gone, and above which they have run
away; ViTs start with 0.02, healthy runs on ToyTown end with 0.06, one with too high a rate with
0.36."""
RANDOM = 0.2
"""Cosine of adjacent rows of a position table below which it is as good as random; 0.6 and more
in healthy runs on ToyTown."""


class Clue(NamedTuple):
    """What a signature finds."""

    name: str
    """A key of `doctor.CAUSES`."""
    strength: float
    """0..1, how strongly it speaks for that cause."""
    evidence: str
    """With its numbers."""


@dataclass(frozen=True)
class Table:
    """A confusion matrix with its sums."""

    matrix: np.ndarray
    """(K, K), rows are labels."""
    labelled: np.ndarray
    """(K,) share of the labelled pixels."""
    predicted: np.ndarray
    """(K,) share of the predictions."""
    iou: np.ndarray
    """(K,), 0 where there is none."""

    @property
    def right(self) -> float:
        """Share of the pixels."""
        return float(self.matrix.trace() / self.matrix.sum())

    def entropy(self) -> float:
        """The loss of a model that knows how frequent the classes are, and nothing else."""
        some = self.labelled[self.labelled > 0]
        return float(-(some * np.log(some)).sum())

    def unpredicted(self) -> np.ndarray:
        """(K,) bool, classes with labels and, to one in ten thousand of them, no prediction."""
        return (self.labelled > 0) & (self.predicted <= 1e-4 * self.labelled)


class Signs(NamedTuple):
    """The traces of a run in the numbers that signatures share."""

    traces: Traces
    config: RunConfig | None
    losses: list[float]
    """Finite ones, line by line; with settings as of one head, else the sum that the log has."""
    rates: list[float]
    """Highest learning rate of each line."""
    table: Table | None
    """None without scores, or where they have no pixel."""

    @property
    def end(self) -> float:
        """Mean loss of the last tenth; NaN without losses."""
        return fmean(self.losses[-max(len(self.losses) // 10, 1) :] or [math.nan])

    @property
    def chance(self) -> float:
        """ln K, the loss of a guess; NaN where the loss of one head is not known."""
        return math.log(max(self.config.model.num_classes, 2)) if self.config else math.nan

    def filled(self) -> float:
        """The most of a crop that can be image, as far as settings tell; 1 without them."""
        if self.config is None:
            return 1.0
        data = self.config.data
        sides = zip(sorted(data.base_size), sorted(data.crop_size), strict=True)
        return math.prod(min(1.0, base * data.ratio_range[1] / crop) for base, crop in sides)

    def call(self, k: int | np.integer) -> str:
        """The name of a class."""
        return repr(self.traces.names[int(k)])

    def speed(self) -> str:
        """Rate and warm-up, in words."""
        warmup = f", warm-up {self.config.optim.warmup} steps" if self.config else ""
        return f"highest rate {max(self.rates, default=math.nan):.2g}{warmup}"


def signs(traces: Traces) -> Signs:
    """Work out what the signatures look at."""
    heads, config = 1.0, traces.config
    if config and config.model.aux:
        streams = AUX_STREAMS.get((config.model.head, config.model.dialect), ())
        heads += config.loss.aux_weight * len(streams)
    losses, rates = (
        [row[key] for row in traces.rows if math.isfinite(row.get(key, math.nan))]
        for key in ("loss", "lr"))
    return Signs(traces, config, [loss / heads for loss in losses], rates, _table(traces.matrix))


def _table(counts: list[list[int]] | None) -> Table | None:
    matrix = np.array(counts or [[0]], dtype=np.float64)
    total, rows, columns = matrix.sum(), matrix.sum(1), matrix.sum(0)
    if not total:
        return None
    iou = matrix.diagonal() / np.maximum(rows + columns - matrix.diagonal(), 1)
    return Table(matrix, rows / total, columns / total, iou)


# ---- of the log ----------------------------------------------------------------------------------


def _not_finite(s: Signs) -> Iterator[Clue]:
    bad = [row["step"] for row in s.traces.rows if not math.isfinite(row.get("loss", 0))]
    if s.traces.spoilt is None and not bad:
        return
    step = bad[0] if s.traces.spoilt is None else s.traces.spoilt
    where = f"the loss or a weight is not finite behind step {step:.0f}"
    if not s.losses or s.end > 1.5 * min(s.losses):
        before = f"the loss was {s.end:.3g}, and {min(s.losses):.3g} before" if s.losses else (
            "no line of the log comes before it")
        rate = s.speed() if s.rates else f"optim.lr={s.config.optim.lr:g}" if s.config else ""
        yield Clue("rate too high", 0.95, f"{where}; {before}; {rate}")
        yield Clue("no finite number", 0.6, where)
        return
    fell = f"the loss was {s.end:.3g} and not rising"
    amp = s.config.train.amp if s.config else "off"
    on_gpu = str(s.traces.state.get("device", "")).startswith("cuda")
    if amp == "bf16" or (amp == "auto" and on_gpu):
        yield Clue("overflow of bfloat16", 0.9, f"{where}; {fell}; train.amp={amp}")
    yield Clue("no finite number", 0.8, f"{where}; {fell}")


def _runs_away(s: Signs) -> Iterator[Clue]:
    fifth = max(len(s.losses) // 5, 1)
    means = [fmean(s.losses[i : i + fifth]) for i in range(0, len(s.losses) - fifth + 1, fifth)]
    size = s.traces.weights.get("size", LARGE)
    if not SMALL <= size <= LARGE:
        decay = f", optim.weight_decay={s.config.optim.weight_decay:g}" if s.config else ""
        yield Clue("rate too high", 0.85, f"the weights of the blocks have come to {size:.2g}, "
                   f"root mean square; {s.speed()}{decay}")  # fmt: skip
    if len(means) >= 3 and means[-1] > 1.25 * min(means):
        yield Clue("rate too high", 0.8, f"the loss had come down to {min(means):.3g} and rose to "
                   f"{means[-1]:.3g}; {s.speed()}")  # fmt: skip
    if max(s.losses, default=0) > 2 * s.chance:
        yield Clue("rate too high", 0.75, f"the loss of a head was {max(s.losses):.3g}, that of a "
                   f"guess is ln K = {s.chance:.3g}; {s.speed()}")  # fmt: skip


def _stands_still(s: Signs) -> Iterator[Clue]:
    if len(s.losses) < 3 or s.losses[0] < NOTHING:
        return
    if s.end > 0.95 * s.losses[0] and 0.8 * s.chance < s.end < 1.4 * s.chance:
        yield Clue("nothing learned", 0.85, f"the loss of a head went from {s.losses[0]:.3g} to "
                   f"{s.end:.3g}, a guess has ln K = {s.chance:.3g}; {s.speed()}")  # fmt: skip


def _nothing_counts(s: Signs) -> Iterator[Clue]:
    if s.losses and max(s.losses) < NOTHING:
        yield Clue("nothing labelled", 0.99, f"the loss is {max(s.losses):g} from the start")
    if s.traces.matrix and not s.table:
        yield Clue("nothing labelled", 0.9, "no labelled pixel was scored")


def _stays_high(s: Signs) -> Iterator[Clue]:
    if s.table is None or s.config is None or len(s.losses) < 5:
        return
    guess, middle = s.table.entropy(), s.losses[len(s.losses) // 2]
    if guess > 0.5 and 0.47 * guess < s.end < 1.1 * guess and s.end > 0.9 * middle:
        yield Clue("masks of other images", 0.6, f"the loss of a head stays at {s.end:.3g}; to "
                   f"know how frequent the classes are gives {guess:.3g}")  # fmt: skip


def _schedule(s: Signs) -> Iterator[Clue]:
    if s.config is None or not s.rates:
        return
    optim, steps = s.config.optim, s.config.train.steps
    last, peak = int(max(row["step"] for row in s.traces.rows)), max(s.rates)
    if optim.warmup >= steps:
        yield Clue("warm-up without end", 0.9, f"optim.warmup={optim.warmup}, train.steps={steps}")
    if last < steps and s.traces.spoilt is None:
        yield Clue("not finished", 0.65, f"the log ends at step {last} of {steps}, its rate is "
                   f"{s.rates[-1]:.2g}, the highest {peak:.2g}")  # fmt: skip
    over = sum(rate < 0.01 * peak for rate in s.rates) / len(s.rates)
    if over > 0.3:
        yield Clue("rate ended early", 0.8, f"{over:.0%} of the log has less than a hundredth of "
                   f"the highest rate, {peak:.2g}; optim.power={optim.power:g}")  # fmt: skip


# ---- of the scores -------------------------------------------------------------------------------


def _one_class(s: Signs) -> Iterator[Clue]:
    if s.table is None or len(s.table.iou) < 2 or s.table.predicted.max() < 0.98:
        return
    k = int(s.table.predicted.argmax())
    said = f"{s.table.predicted[k]:.1%} of the predictions are {s.call(k)}, and " \
           f"{s.table.labelled[k]:.1%} of the labels"  # fmt: skip
    if s.config and s.end < 0.1 and s.table.labelled[k] < 0.9:
        yield Clue("masks of one class", 0.95, f"{said}; yet the loss ends at {s.end:.2g}")
    elif s.table.labelled[k] < 0.9:  # else it is rarity, see `_rare`
        yield Clue("collapsed to one class", 0.7, said)


def _empty_row(s: Signs) -> Iterator[Clue]:
    if s.table is None or s.table.predicted.max() >= 0.98:
        return
    weights = s.config.loss.class_weights if s.config else None
    for k in np.flatnonzero(s.table.unpredicted()):
        share = s.table.labelled[k]
        said = f"{s.call(k)} has {share:.2%} of the labels and no prediction"
        if isinstance(weights, (tuple, list)) and 0 in weights[k : k + 1]:
            yield Clue("class weight of 0", 0.97, f"{said}; its weight in the loss is 0")
            continue
        rarer = (s.table.labelled > 0) & (s.table.labelled < 0.75 * share)
        learned = np.flatnonzero(rarer & (s.table.iou > 0.15))
        if len(learned):  # where even rarer ones are not predicted either, rarity may explain it
            explained = (rarer & s.table.unpredicted()).any()
            j = learned[s.table.iou[learned].argmax()]
            yield Clue("class never learned", 0.4 if explained else 0.6, f"{said}; {s.call(j)}, "
                       f"with {s.table.labelled[j]:.2%}, has IoU {s.table.iou[j]:.2f}")  # fmt: skip


def _renumbered(s: Signs) -> Iterator[Clue]:
    if s.table is None or len(s.table.iou) < 3:
        return
    for shift, way in ((-1, "low"), (1, "high")):
        moved = np.trace(np.roll(s.table.matrix, -shift, axis=1)) / s.table.matrix.sum()
        if moved > max(0.3, 2 * s.table.right):
            said = f"{moved:.0%} of the pixels are predicted one number too {way}"
            yield Clue(
                "shifted labels", min(0.6 + moved / 2, 0.98), f"{said}, {s.table.right:.0%} right")
            return
    shares = s.table.matrix / np.maximum(s.table.matrix.sum(1, keepdims=True), 1)
    for k, j in np.argwhere((shares > 0.5) & (shares.T > 0.5)):
        if k < j and min(s.table.labelled[[k, j]]) > 0.01:
            yield Clue("swapped labels", 0.9, f"{shares[k, j]:.0%} of {s.call(k)} is predicted "
                       f"{s.call(j)}, and {shares[j, k]:.0%} the other way")  # fmt: skip


def _rare(s: Signs) -> Iterator[Clue]:
    if s.table is None:
        return
    share, iou = s.table.labelled, s.table.iou
    some = np.flatnonzero((share > 0) & (share < 0.05) & (iou < 0.02))
    for k in some[share[some].argsort()[-1:]]:  # the most frequent of them
        said = f"{s.table.predicted[k]:.2%} of the predictions and IoU {iou[k]:.3f}"
        yield Clue("class imbalance", 0.8 if len(iou) == 2 else 0.3,
                   f"{s.call(k)} has {share[k]:.2%} of the labels, {said}")  # fmt: skip


def _far_from_training(s: Signs) -> Iterator[Clue]:
    if s.table is None or s.config is None or len(s.losses) < 3 or max(s.losses) < NOTHING:
        return
    loss = s.end / (s.filled() if s.config.loss.normalize == "all" else 1)  # padding counts as 0
    known, right = math.exp(-loss), s.table.right
    if known - right > 0.1:
        yield Clue("overfitting", min(0.5 + known - right, 0.9), "the right class has probability "
                   f"{known:.2f} in training, exp(-{loss:.3g}), and {right:.2f} of the pixels are "
                   "right in validation")  # fmt: skip


def _fell_back(s: Signs) -> Iterator[Clue]:
    best, last = s.traces.state.get("best", -1), s.traces.state.get("miou")
    if last is not None and best - last > max(0.02, 0.1 * best):
        yield Clue("fell back", 0.6, f"mIoU was {best:.3f} at best and is {last:.3f}")


# ---- of settings and weights ---------------------------------------------------------------------


def _encoder(s: Signs) -> Iterator[Clue]:
    if s.config is None or not s.traces.rows:
        return
    model, place = s.config.model, s.traces.weights.get("place", 1.0)
    if model.pretrained.strip().lower() not in ("", "none"):
        if place < RANDOM:
            yield Clue("encoder not pretrained", 0.9, f"model.pretrained={model.pretrained}, but "
                       f"adjacent positions have cosine {place:.2f}, random ones 0")  # fmt: skip
    elif s.config.train.freeze_encoder:
        yield Clue("random encoder frozen", 0.95, "train.freeze_encoder=true, and "
                   f"model.pretrained={model.pretrained or 'empty'}")  # fmt: skip
    elif model.encoder not in ("toy", "vit_tiny_patch16"):
        yield Clue("encoder not pretrained", 0.5, f"model.pretrained=none, and {model.encoder} is "
                   "large for learning from random weights")  # fmt: skip


def _pixels(s: Signs) -> Iterator[Clue]:
    mean = s.config.data.mean if s.config else None
    if s.config is None or mean is None:
        return
    if max(map(abs, mean)) <= 1:
        yield Clue("wrong normalisation", 0.95, f"data.mean={mean} is of RGB in 0..1, and images "
                   "have 0..255")  # fmt: skip
        return
    model, off = s.config.model, max(abs(a - b) for a, b in zip(mean, IMAGENET_MEAN, strict=True))
    if off > 20 and model.pretrained != "none" and model.encoder.startswith("vit_"):
        yield Clue("wrong normalisation", 0.5, f"data.mean={mean}; most weights for "
                   f"{model.encoder} were trained with {IMAGENET_MEAN}")  # fmt: skip


def _sizes(s: Signs) -> Iterator[Clue]:
    if s.config is None:
        return
    data, test = s.config.data, s.config.eval
    full = s.filled()
    if full <= 0.5:
        yield Clue("crop larger than images", 0.85, f"of a crop of {data.crop_size} at most "
                   f"{full:.0%} is image, with data.base_size={data.base_size}")  # fmt: skip
    times = math.prod(test.window) / math.prod(data.crop_size)
    if test.mode == "slide" and not 0.6 < times < 1.7:
        yield Clue("window unlike crop", 0.7, f"eval.window={test.window}, "
                   f"data.crop_size={data.crop_size}")  # fmt: skip


def _batchnorm(s: Signs) -> Iterator[Clue]:
    batches = s.traces.weights.get("batches")
    if s.config is None or batches is None or not s.traces.rows:
        return
    if batches == 0:
        yield Clue("BatchNorm never updated", 0.6, "num_batches_tracked is 0 after "
                   f"{s.traces.rows[-1]['step']:.0f} steps")  # fmt: skip
    train, processes = s.config.train, s.traces.state.get("processes", 1)
    if train.batch_size // (train.accumulate * (1 if train.sync_bn else processes)) <= 1:
        yield Clue("BatchNorm of one image", 0.4, f"train.batch_size={train.batch_size}, "
                   f"train.accumulate={train.accumulate}, train.sync_bn={train.sync_bn}, "
                   f"{processes} processes")  # fmt: skip


SIGNATURES: tuple[Callable[[Signs], Iterator[Clue]], ...] = (
    _not_finite, _runs_away, _stands_still, _nothing_counts, _stays_high, _schedule,
    _one_class, _empty_row, _renumbered, _rare, _far_from_training, _fell_back,
    _encoder, _pixels, _sizes, _batchnorm,
)  # fmt: skip
"""All that is looked for."""
