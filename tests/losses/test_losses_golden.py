"""Our loss and metrics against mmsegmentation 1.2.2's; see ``golden/make_loss_metrics.py``."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from golden.make_loss_metrics import METRIC_CLASSES, SIZE, loss_inputs, metric_inputs

from setr_lite.logits import LazyLogits
from setr_lite.losses import segmentation_loss
from setr_lite.metrics import ConfusionMatrix
from setr_lite.model import SETROutput

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "loss_metrics.json").read_text())
CLOSE = 1e-9  # mmsegmentation adds 1.2e-7 to its divisor of some ten thousand pixels


@pytest.mark.parametrize("name", GOLDEN["losses"])
def test_loss_and_gradient_equal_mmsegmentation(name):
    case, rule = name.split("/")
    scores, label = loss_inputs(case)
    for score in scores.values():
        score.requires_grad_()
    main, *aux = (LazyLogits.of(scores[head]) for head in ("main", "aux0", "aux1"))
    output = SETROutput(main, tuple(aux), SIZE, SIZE)
    loss = segmentation_loss(output, label, normalize=rule)
    loss.backward()
    expected = GOLDEN["losses"][name]
    assert loss.item() == pytest.approx(expected["total"], rel=CLOSE)
    for head, by_class in expected["gradient_abs_sum_by_class"].items():
        ours = scores[head].grad.abs().sum((0, 2, 3)).tolist()
        assert ours == pytest.approx(by_class, rel=CLOSE)


def test_heads_are_weighted_as_mmsegmentation_does():
    scores, label = loss_inputs("some")
    for head, expected in GOLDEN["losses"]["some/all"]["heads"].items():
        loss = segmentation_loss(SETROutput(LazyLogits.of(scores[head]), (), SIZE, SIZE), label)
        weight = 1 if head == "main" else 0.4
        assert weight * loss.item() == pytest.approx(expected, rel=CLOSE)


def test_metrics_equal_mmsegmentation():
    confusion = ConfusionMatrix(METRIC_CLASSES)
    for prediction, label in metric_inputs():
        confusion.update(prediction, label)
    matrix, golden = confusion.matrix, GOLDEN["metrics"]
    hit, labelled, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    areas = torch.stack([hit, labelled + predicted - hit, predicted, labelled]).tolist()
    assert areas == golden["intersect_union_prediction_label"]
    for ours, key in ((confusion.iou(), "IoU"), (confusion.accuracy(), "Acc")):
        expected = [math.nan if x is None else x for x in golden["fractions"][key]]
        assert ours.tolist() == pytest.approx(expected, rel=1e-6, nan_ok=True)
    percent = golden["percent"]
    assert round(100 * confusion.miou(), 2) == pytest.approx(percent["mIoU"], abs=1e-6)
    assert round(100 * confusion.mean_accuracy(), 2) == pytest.approx(percent["mAcc"], abs=1e-6)
    assert round(100 * confusion.pixel_accuracy(), 2) == pytest.approx(percent["aAcc"], abs=1e-6)
