"""The confusion matrix against values worked by hand."""

from __future__ import annotations

import json
import math

import pytest
import torch

from setr_lite.errors import UserError
from setr_lite.metrics import ConfusionMatrix

NAMES = ["road", "car", "tree", "moon"]


def filled() -> ConfusionMatrix:
    """road: 3 pixels, 2 found; car: 1 pixel, taken for tree; tree: only predicted; moon: absent."""
    confusion = ConfusionMatrix(4)
    label = torch.tensor([[0, 0, 0], [1, 255, 255]])
    prediction = torch.tensor([[0, 0, 1], [2, 3, 0]])
    confusion.update(prediction, label)
    return confusion


@pytest.mark.smoke
def test_two_by_two_by_hand():
    confusion = ConfusionMatrix(2)
    confusion.update(torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0, 0], [1, 1]]))
    assert confusion.matrix.tolist() == [[1, 1], [0, 2]]
    assert confusion.matrix.dtype == torch.int64
    assert confusion.iou().tolist() == pytest.approx([1 / 2, 2 / 3])
    assert confusion.accuracy().tolist() == [0.5, 1.0]
    assert confusion.miou() == pytest.approx(7 / 12)
    assert confusion.mean_accuracy() == 0.75
    assert confusion.pixel_accuracy() == 0.75


def test_absent_and_only_predicted_classes():
    confusion = filled()
    assert confusion.matrix.tolist() == [[2, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    road, car, tree, moon = confusion.iou().tolist()
    assert (road, car, tree) == (pytest.approx(2 / 3), 0, 0)  # tree counts: it was predicted
    assert math.isnan(moon)
    assert confusion.miou() == pytest.approx(2 / 9)
    assert torch.isnan(confusion.accuracy()).tolist() == [False, False, True, True]
    assert confusion.mean_accuracy() == pytest.approx(1 / 3)
    assert confusion.pixel_accuracy() == 0.5


def test_predictions_on_ignored_pixels_count_nowhere():
    label = torch.tensor([0, 1, 255, 255])
    counts = []
    for there in (0, 1, 255):  # even a prediction that is no class
        confusion = ConfusionMatrix(2)
        confusion.update(torch.tensor([0, 1, there, there]), label)
        counts.append(confusion.matrix.tolist())
    assert counts == [[[1, 0], [0, 1]]] * 3


def test_another_ignored_label():
    confusion = ConfusionMatrix(2, ignore_index=-1)
    confusion.update(torch.tensor([0, 1]), torch.tensor([0, -1]))
    assert confusion.matrix.tolist() == [[1, 0], [0, 0]]
    for label in (0, 1):
        with pytest.raises(UserError, match=f"ignore_index={label}: is one of 2 classes"):
            ConfusionMatrix(2, ignore_index=label)
    assert ConfusionMatrix(2, ignore_index=2).ignore_index == 2


def test_from_one_class_to_as_many_as_two_bytes_number():
    for count in (1, 65_536):
        there = ConfusionMatrix(count, "meta", ignore_index=-1)
        assert there.matrix.shape == (count, count)
    for count in (0, 65_537, 2.5):
        with pytest.raises(UserError, match=f"num_classes={count}: give a whole number, 1 to 655"):
            ConfusionMatrix(count, device="meta")
    with pytest.raises(UserError, match="ignore_index=None: give a whole number, -"):
        ConfusionMatrix(2, ignore_index=None)


def test_updates_add_up_whatever_the_type_and_shape():
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 4, (6, 5, 7), generator=generator)
    label[:, 0] = 255
    prediction = torch.randint(0, 4, (6, 5, 7), generator=generator)
    whole, parts = ConfusionMatrix(4), ConfusionMatrix(4)
    whole.update(prediction, label)
    for p, lab in zip(prediction, label, strict=True):
        parts.update(p.to(torch.uint8), lab.to(torch.uint8))
    assert torch.equal(whole.matrix, parts.matrix)
    assert whole.matrix.sum() == 6 * 4 * 7


def test_counts_stay_exact_beyond_float32():
    confusion = filled()
    confusion.matrix[0, 0] = 2**24
    confusion.update(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    assert confusion.matrix[0, 0] == 2**24 + 1


def test_nothing_counted_is_nan_not_an_error():
    confusion = ConfusionMatrix(3)
    values = (confusion.miou(), confusion.mean_accuracy(), confusion.pixel_accuracy())
    assert all(map(math.isnan, values))
    assert "mIoU      - (mean of 0 of 3 classes)" in confusion.table(["a", "b", "c"])
    assert confusion.to_dict(["a", "b", "c"])["miou"] is None


def test_all_reduce_leaves_a_single_process_alone():
    confusion = filled()
    before = confusion.matrix.clone()
    confusion.all_reduce()
    assert torch.equal(confusion.matrix, before)


def test_the_share_of_a_single_pixel():
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([1]), torch.tensor([1]))
    assert "car    1.0000  1.0000  100.0%" in matrix.table(("road", "car"))


def test_table():
    assert filled().table(NAMES).splitlines() == [
        "class     IoU     acc  pixels",
        "road   0.6667  0.6667   75.0%",
        "car    0.0000  0.0000   25.0%",
        "tree   0.0000       -    0.0%",
        "mIoU 0.2222 (mean of 3 of 4 classes), mean accuracy 0.3333, pixel accuracy 0.5000",
        "absent, not averaged: moon",
    ]


def test_to_dict_is_json():
    result = json.loads(json.dumps(filled().to_dict(NAMES), allow_nan=False))
    assert result["averaged"] == ["road", "car", "tree"]
    assert result["absent"] == ["moon"]
    assert result["pixels"] == 4
    assert result["classes"]["road"] == {
        "iou": pytest.approx(2 / 3), "accuracy": pytest.approx(2 / 3), "pixels": 3,
    }
    assert result["classes"]["moon"] == {"iou": None, "accuracy": None, "pixels": 0}
    assert result["matrix"] == filled().matrix.tolist()


def test_errors():
    confusion = ConfusionMatrix(2)
    one = torch.zeros(2, 2, dtype=torch.int64)
    with pytest.raises(UserError, match=r"shape \(2, 1\) for a label of shape \(2, 2\)"):
        confusion.update(one[:, :1], one)
    with pytest.raises(UserError, match=r"label id 2 where .* 2 classes: ids must be 0\.\.1"):
        confusion.update(one, one + 2)
    with pytest.raises(UserError, match="prediction id 7 where there are 2 classes"):
        confusion.update(one + 7, one)
    with pytest.raises(UserError, match="label id -1 where there are 2 classes"):
        confusion.update(one, one - 1)
    for names in (["a", "a"], ["a", "b", "c"], ["a", "b", "a"]):
        said = f"{len(set(names))} different class names for 2 classes"
        with pytest.raises(UserError, match=said):
            confusion.table(names)
    assert confusion.matrix.sum() == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_equals_cpu_without_waiting_for_the_device(no_waiting):
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 4, (2, 33, 57), generator=generator)
    label[:, 3] = 255
    prediction = torch.randint(0, 4, (2, 33, 57), generator=generator)
    here, there = ConfusionMatrix(4), ConfusionMatrix(4, device="cuda")
    here.update(prediction, label)
    prediction, label = prediction.cuda(), label.cuda()
    with no_waiting():
        there.update(prediction, label)
    assert torch.equal(there.matrix.cpu(), here.matrix)
