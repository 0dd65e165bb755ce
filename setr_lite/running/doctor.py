"""The doctor of a run: likely causes of a training that went wrong, by the traces that they leave.

`signatures` looks for the traces; each names one of `CAUSES` here, with its evidence. That is a
suspicion, and comes with a check that would prove it. A data set's files have a doctor of their
own, `datasets.doctor`.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import printable
from .signatures import SIGNATURES, signs
from .traces import Traces, read_traces

LIKELY = 0.5
"""Strength from which a finding counts as a likely cause; below it is worth knowing."""


class Cause(NamedTuple):
    """What `doctor` knows of a mistake. ``{name}`` and the like stand for the run's own."""

    sentence: str
    """What went wrong."""
    check: str
    """A command, or a line of Python, that would prove it."""
    remedy: str
    """What to change."""


CHECK_DATA = "setr-lite check-data {data} {root}"
AGAIN = "setr-lite train {recipe} YOUR SETTINGS train.out={run}_check"
ON_TRAIN = "setr-lite eval {run}/last --split train"
SHOW = "python -c \"import setr_lite.checkpoint as c; print(c.read_config('{run}/last'))\""
CAUSES = {
    "rate too high": Cause(
        "the learning rate is too high for these weights, or comes without warm-up",
        f"{AGAIN} train.steps=200 optim.lr={{slower}}: does the loss fall?",
        "optim.lr a tenth, optim.warmup=100, optim.clip_norm=1"),
    "nothing learned": Cause(
        "the loss stays at ln K, that of a guess: the rate is too low, or no gradient arrives",
        f"{AGAIN} train.steps=200 optim.lr={{faster}}: does the loss fall?",
        "optim.lr as in a recipe like yours (`setr-lite recipes`); see that nothing is frozen"),
    "overflow of bfloat16": Cause(
        "a value overflowed in bfloat16; the loss had been falling until then",
        f"{AGAIN} train.amp=off: does it pass that step?",
        "train.amp=off, or a lower optim.lr with optim.clip_norm=1"),
    "no finite number": Cause(
        "an image, a mask or a weight made the loss infinite or NaN",
        "look at the images that {run}/nonfinite/batch_0.json names",
        f"mend or leave out these images (`{CHECK_DATA}`); optim.clip_norm=1"),
    "shifted labels": Cause(
        "the masks of training and of validation count the classes differently, by one",
        f"{ON_TRAIN}: good there?",
        "ids 0..K-1 in the masks of all splits, reduced once (the reader does it, or the files): "
        f"`{CHECK_DATA}`"),
    "swapped labels": Cause(
        "two classes have changed numbers between the masks of training and of validation",
        f"{ON_TRAIN}: good there?",
        f"one list of classes, in one order, for the masks of all splits; `{CHECK_DATA}`"),
    "class never learned": Cause(
        "a class is never predicted, though a rarer one is: the training masks lack or ignore it, "
        "or it is too thin for the patches",
        CHECK_DATA + ": does it occur in the masks of train?",
        "give it its id in the training masks, or its entry in the list of classes"),
    "class weight of 0": Cause(
        "a class counts nothing in the loss, so it is never predicted",
        f"{SHOW}: loss.class_weights",
        "loss.class_weights=none, or a number above 0 for it; auto counts the masks"),
    "masks of one class": Cause(
        "the training masks hold one class only: nothing else can be learned",
        CHECK_DATA + ": which classes occur?",
        "save ids as they are, 8 bits, not scaled or in colour (`setr-lite make-masks`)"),
    "nothing labelled": Cause(
        "no pixel has a label that counts: all are 255, ignored",
        CHECK_DATA + ": how much is ignored?",
        "write class ids 0..K-1; 255 is for pixels that shall count nowhere"),
    "masks of other images": Cause(
        "the masks say little about their images, as if they belonged to others",
        CHECK_DATA + ", and look at its samples.png",
        "pair images and masks by name; where all fits, train for longer or with a larger model"),
    "class imbalance": Cause(
        "a class is so rare that leaving it out costs the loss next to nothing",
        CHECK_DATA + ": its share of the pixels",
        "loss.class_weights=auto, smaller crops around it, or more steps"),
    "collapsed to one class": Cause(
        "the model gives every pixel one class, though the labels do not",
        f"{AGAIN} train.steps=200 optim.lr={{slower}}: another picture?",
        f"optim.lr a tenth, optim.warmup=100; if that changes nothing, `{CHECK_DATA}`"),
    "overfitting": Cause(
        "the training images are known by heart, and others are not",
        f"{ON_TRAIN}: far above val?",
        "more images, data.ratio_range and data.distort, a pretrained encoder, fewer steps; and "
        "see that val is like train"),
    "fell back": Cause(
        "the model was better before: it overfits, or the rate stays too high for too long",
        "setr-lite eval {run}/best, beside setr-lite eval {run}/last",
        "take {run}/best; fewer train.steps, a lower optim.lr"),
    "encoder not pretrained": Cause(
        "the encoder did not start from pretrained weights",
        "setr-lite train {recipe} YOUR SETTINGS --dry-run: an account of each file of weights?",
        "model.pretrained=FILE or a name of `setr-lite download`, and another train.out"),
    "random encoder frozen": Cause(
        "the encoder is frozen with random weights, and the head learns from noise",
        f"{SHOW}: model.pretrained, train.freeze_encoder",
        "model.pretrained=FILE, or train.freeze_encoder=false"),
    "wrong normalisation": Cause(
        "images are not normalised as the encoder expects",
        f"{SHOW}: data.mean and data.std, of RGB in 0..255",
        "data.mean=none data.std=none takes the encoder's own"),
    "not finished": Cause(
        "the schedule has not come to its end, where the low rates gain much of the score",
        "setr-lite train {recipe} YOUR SETTINGS --resume",
        "the same; or a run of fewer train.steps, whose schedule ends"),
    "rate ended early": Cause(
        "the learning rate is nearly 0 for a good part of the run, which is wasted",
        f"{AGAIN} optim.power=0.9: does the loss go on falling?",
        "optim.power=0.9, and train.steps of the length that you run"),
    "warm-up without end": Cause(
        "all steps are warm-up: the rate never comes up",
        f"{SHOW}: optim.warmup, train.steps", "optim.warmup a tenth of train.steps or less"),
    "crop larger than images": Cause(
        "crops are mostly padding, from which nothing is learned",
        f"{SHOW}: data.crop_size, data.base_size",
        "data.crop_size of the images' size or smaller, or a larger data.base_size"),
    "BatchNorm of one image": Cause(
        "BatchNorm sees one image at a time, and the averages used in tests fit no single one",
        f"{AGAIN} train.steps=200 train.accumulate=1 train.batch_size=4, beside this run",
        "train.batch_size=4 or more, train.accumulate=1, train.sync_bn=true"),
    "BatchNorm never updated": Cause(
        "BatchNorm's statistics are those of the start: the model trained in evaluation mode",
        "print(model.training) before the steps, also behind an evaluation",
        "model.train() there"),
    "window unlike crop": Cause(
        "the model is scored in windows of another size than it was trained with",
        "setr-lite eval {run}/last eval.window={crop} eval.stride={crop}: better?",
        "eval.window as data.crop_size, a stride of two thirds of it; or eval.mode=whole"),
}  # fmt: skip
"""By the name that a finding has."""


@dataclass(frozen=True)
class Finding:
    """A likely cause."""

    rank: int
    """From 1, the likeliest."""
    name: str
    """A key of `CAUSES`."""
    strength: float
    """0..1; from `LIKELY` on a likely cause, below it worth knowing."""
    cause: str
    """In one sentence."""
    evidence: str
    """What in the run's files speaks for it, with the numbers."""
    check: str
    """A command, or a line of Python, that would prove it."""
    remedy: str

    def text(self) -> str:
        """The lines to print."""
        rows = {"evidence": self.evidence, "check": self.check, "remedy": self.remedy}
        head = f"{self.rank}. {self.name}{'' if self.strength >= LIKELY else ' (worth knowing)'}: "
        lines = [_fold(head + self.cause, "   ")]
        return "\n".join(lines + [_fold(f"   {k:<9}{v}", " " * 12) for k, v in rows.items()])


WIDTH = 84
"""Of the lines that are printed."""


def _fold(text: str, indent: str = "    ") -> str:
    """One line of print as several; commands keep their words."""
    return textwrap.fill(printable(text), WIDTH, subsequent_indent=indent, break_long_words=False,
                         break_on_hyphens=False)  # fmt: skip


def diagnose(run: str | Path, scores: str | Path = "") -> list[Finding]:
    """Likely causes of what went wrong in a training, the likeliest first.

    Args:
        run: its folder, or a checkpoint in it.
        scores: a file of `eval --json`; empty takes the run's own ``scores.json``.

    Returns:
        What was found; nothing of a run whose files show none of `CAUSES`. Those of a strength
        below `LIKELY` are worth knowing, and no reason to worry.

    Raises:
        UserError: what `traces.read_traces` raises.
    """
    return ranked(read_traces(run, scores))


def ranked(traces: Traces) -> list[Finding]:
    """The findings of what has been read, the strongest first; each cause once."""
    seen = signs(traces)
    clues = sorted((c for look in SIGNATURES for c in look(seen)), key=lambda c: c.strength)
    strongest = {clue.name: clue for clue in clues}
    own = _words(traces)
    found: list[Finding] = []
    for clue in sorted(strongest.values(), key=lambda c: -c.strength):
        cause, *advice = CAUSES[clue.name]
        check, remedy = (words.format(**own) for words in advice)
        found.append(Finding(
            len(found) + 1, clue.name, clue.strength, cause, clue.evidence, check, remedy))
    return found


def _words(traces: Traces) -> dict[str, str]:
    """What stands for the run's own in a `Cause`."""
    run, config = traces.folder, traces.config
    if config is None:
        return {"run": run, "data": "NAME", "root": "DIR", "recipe": "RECIPE", "crop": "SIZE",
                "slower": "a tenth", "faster": "ten times as high"}  # fmt: skip
    data, lr = config.data, config.optim.lr
    return {"run": run, "data": data.name, "root": data.root or "DIR",
            "recipe": config.recipe or "RECIPE", "crop": "{},{}".format(*data.crop_size),
            "slower": f"{lr / 10:g}", "faster": f"{lr * 10:g}"}  # fmt: skip


def likely(findings: list[Finding]) -> list[Finding]:
    """Those that are more than worth knowing."""
    return [finding for finding in findings if finding.strength >= LIKELY]


def report(run: str | Path, scores: str | Path = "") -> tuple[str, bool]:
    """The text that ``setr-lite doctor`` prints, and True if it found no likely cause.

    Args:
        run: folder of a run, or a checkpoint in it.
        scores: a file that ``setr-lite eval --json`` wrote; empty takes the run's own scores.

    Raises:
        UserError: no such folder, nothing of a run in it, or a file that is not what its name says.
    """
    traces = read_traces(run, scores)
    findings = ranked(traces)
    well = not likely(findings)
    lines = [_fold(f"{traces.folder}: looked at {', '.join(traces.looked_at())}"),
             *(finding.text() for finding in findings)]  # fmt: skip
    if well:
        lines.append(f"none of the {len(CAUSES)} mistakes that this command knows is likely here")
    if traces.missing():
        lines.append(f"not there to look at: {', '.join(traces.missing())}")
    return "\n".join(lines), well
