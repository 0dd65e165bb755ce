"""Make ``loss_metrics.json``: mmsegmentation 1.2.2's loss and IoU metric on small drawn cases.

Run ``DIR/bin/python tests/golden/make_loss_metrics.py`` in the environment that ``sh
tests/oracle/setup.sh DIR`` makes. Scores and labels are drawn by name, so the file holds results
only. Scores are float64; mmsegmentation counts pixels in float32, which is exact here.
"""

# ruff: noqa: C408  (settings are written as mmsegmentation's config files write them)
from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

try:  # run as a script, or imported by the tests
    from make_heads import CLASSES, draw
except ModuleNotFoundError:
    from golden.make_heads import CLASSES, draw

SIZE = (64, 96)
SCORES = {"main": (16, 24), "aux0": (4, 6), "aux1": (8, 12)}  # three heads, one resolution each
IGNORED = {"some": 0.3, "none": 0.0, "all": 1.0}  # share of pixels labelled 255
IMAGES = {"a": (13, 17), "b": (20, 11), "c": (7, 7)}
METRIC_CLASSES = 6


def draw_labels(name: str, shape: tuple[int, ...], classes: list[int], ignored: float) -> Tensor:
    """(…) int64 drawn from `classes`, a share `ignored` of them 255."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    labels = rng.choice(classes, shape)
    labels[rng.random(shape) < ignored] = 255
    return torch.from_numpy(labels).long()


def loss_inputs(case: str) -> tuple[dict[str, Tensor], Tensor]:
    """Scores (2, K, h, w) of each head, and labels (2, H, W)."""
    scores = {
        head: 2 * draw(f"loss/{case}/{head}/features", (2, CLASSES, *size))
        for head, size in SCORES.items()
    }
    label = draw_labels(f"loss/{case}", (2, *SIZE), list(range(CLASSES)), IGNORED[case])
    return scores, label


def metric_inputs() -> list[tuple[Tensor, Tensor]]:
    """Predictions and labels: class 3 is never predicted, 4 never labelled, 5 in neither."""
    return [
        (
            draw_labels(f"metric/{name}/prediction", size, [0, 0, 1, 2, 4], 0.0),
            draw_labels(f"metric/{name}/label", size, [0, 0, 1, 2, 3], 0.2),
        )
        for name, size in IMAGES.items()
    ]


def make_losses() -> dict:
    from mmengine.structures import PixelData
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample

    results = {}
    for case in IGNORED:
        scores, label = loss_inputs(case)
        samples = [SegDataSample(gt_sem_seg=PixelData(data=one[None])) for one in label]
        for rule, flag in {"all": False, "valid": True}.items():
            if (case, rule) == ("all", "valid"):
                continue  # nothing to divide by; see test_losses
            values, total = {}, 0
            for head, score in scores.items():
                weight = 1.0 if head == "main" else 0.4
                loss = dict(type="CrossEntropyLoss", loss_weight=weight, avg_non_ignore=flag)
                module = MODELS.build(dict(
                    type="FCNHead", in_channels=4, channels=4, num_convs=0, concat_input=False,
                    num_classes=CLASSES, align_corners=False, loss_decode=loss,
                ))
                score.requires_grad_().grad = None
                value = module.loss_by_feat(score, samples)["loss_ce"]
                total = total + value
                values[head] = value.item()
            total.backward()
            gradient = {h: s.grad.abs().sum((0, 2, 3)).tolist() for h, s in scores.items()}
            results[f"{case}/{rule}"] = dict(
                heads=values, total=total.item(), gradient_abs_sum_by_class=gradient)
    return results


def make_metrics() -> dict:
    from mmseg.evaluation.metrics import IoUMetric

    pairs = metric_inputs()
    areas = [IoUMetric.intersect_and_union(p, t, METRIC_CLASSES, 255) for p, t in pairs]
    totals = [sum(columns) for columns in zip(*areas, strict=True)]
    found = IoUMetric.total_area_to_metrics(*totals)
    nan_to_none = {
        k: [None if np.isnan(x) else float(x) for x in np.atleast_1d(v)] for k, v in found.items()
    }
    metric = IoUMetric(iou_metrics=["mIoU"])
    metric.dataset_meta = {"classes": tuple("abcdef")}
    samples = [
        dict(pred_sem_seg=dict(data=p[None]), gt_sem_seg=dict(data=t[None])) for p, t in pairs
    ]
    metric.process({}, samples)
    summary = {k: float(v) for k, v in metric.compute_metrics(metric.results).items()}
    return dict(
        intersect_union_prediction_label=[t.tolist() for t in totals],
        fractions=nan_to_none, percent=summary,
    )


if __name__ == "__main__":
    from mmseg.utils import register_all_modules

    register_all_modules()
    path = Path(__file__).parent / "loss_metrics.json"
    path.write_text(json.dumps(dict(losses=make_losses(), metrics=make_metrics()), indent=1) + "\n")
    print(path.name, path.stat().st_size, "bytes")
