"""The loss against numbers worked by hand and against plain PyTorch."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from processes import run_ranks

from setr_lite import logits as resize
from setr_lite.errors import UserError
from setr_lite.logits import LazyLogits, SETROutput
from setr_lite.losses import loss_and_terms, loss_divisor, resize_cross_entropy, segmentation_loss
from setr_lite.losses.cross_entropy import weights_on
from setr_lite.metrics import ConfusionMatrix


def output_of(
    logits: torch.Tensor, *aux: torch.Tensor, size: tuple[int, int], padded=None, factors=None
) -> SETROutput:
    """Of heads that end with a bilinear step by the factors."""
    scores = (logits, *aux)
    main, *rest = (LazyLogits.of(x).enlarged(n)
                   for x, n in zip(scores, factors or [1] * len(scores), strict=True))
    return SETROutput(main, tuple(rest), size, padded or size)


def with_main(output: SETROutput, scores: torch.Tensor) -> SETROutput:
    return output._replace(main=output.main._replace(logits=scores))


def random_output(
    batch=2, classes=4, small=(3, 5), size=(11, 17), padded=(12, 20), heads=0, seed=0,
    factors=None,
):
    generator = torch.Generator().manual_seed(seed)

    def logits():
        scores = torch.randn(batch, classes, *small, generator=generator, dtype=torch.float64)
        return (3 * scores).requires_grad_()

    label = torch.randint(0, classes, (batch, *size), generator=generator)
    label[:, ::3, 1::2] = 255
    scores = [logits() for _ in range(1 + heads)]
    return output_of(*scores, size=size, padded=padded, factors=factors), label


def test_what_the_loss_is_made_of():
    output, label = random_output(heads=3)
    loss, terms = loss_and_terms(output, label, aux_weight=0.3)
    alone = [segmentation_loss(output._replace(main=lazy, aux=()), label)
             for lazy in (output.main, *output.aux)]  # fmt: skip
    torch.testing.assert_close(terms, torch.stack(alone).detach(), rtol=1e-12, atol=0)
    expected = terms[0] + 0.3 * terms[1:].sum()
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-12, atol=0)
    assert not terms.requires_grad


def half_and_half() -> tuple[SETROutput, torch.Tensor]:
    """2x2 pixels, two classes, odds of 3 to 1 for class 1; labels 1, 0 and two ignored."""
    logits = torch.zeros(1, 2, 2, 2, dtype=torch.float64)
    logits[:, 1] = math.log(3)
    return output_of(logits, size=(2, 2)), torch.tensor([[[1, 0], [255, 255]]])


@pytest.mark.smoke
def test_by_hand():
    output, label = half_and_half()
    by_hand = math.log(4 / 3) + math.log(4)  # -log 3/4 and -log 1/4
    assert segmentation_loss(output, label).item() == pytest.approx(by_hand / 4, abs=1e-12)
    valid = segmentation_loss(output, label, normalize="valid")
    assert valid.item() == pytest.approx(by_hand / 2, abs=1e-12)


def test_resize_by_hand():
    # Bilinear 2 -> 4 without aligned corners: weights 1, 3/4, 1/4, 0 of the left value.
    left, right = 0.0, 4.0
    logits = torch.tensor([left, right], dtype=torch.float64).view(1, 1, 1, 2)
    logits = torch.cat([logits, torch.zeros_like(logits)], dim=1)
    label = torch.zeros(1, 1, 3, dtype=torch.int64)  # the fourth pixel is padding
    expected = sum(math.log(1 + math.exp(-value)) for value in (0.0, 1.0, 3.0))
    loss = resize_cross_entropy(LazyLogits.of(logits).resized((1, 4)).cropped((1, 3)), label)
    assert loss.item() == pytest.approx(expected, abs=1e-12)


def test_auxiliary_heads_are_weighted():
    output, label = half_and_half()
    wrong = torch.zeros_like(output.scores)  # uniform: log 2 a pixel
    both = output_of(output.scores, wrong, output.scores, size=(2, 2))
    main = segmentation_loss(output, label).item()
    loss = segmentation_loss(both, label, aux_weight=0.4).item()
    assert segmentation_loss(both, label).item() == loss  # 0.4 unless told
    assert loss_and_terms(both, label)[0].item() == loss
    assert loss == pytest.approx(1.4 * main + 0.4 * 2 * math.log(2) / 4, abs=1e-12)


def test_no_exponential_overflows():
    """Of float32 exp(1000) is infinite; the loss and its gradient are exact all the same."""
    scores = torch.tensor([1000.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2).requires_grad_()
    loss = segmentation_loss(output_of(scores, size=(1, 2)), torch.tensor([[[0, 1]]]))
    assert loss.item() == 500  # nothing and 1000, over two pixels
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient.tolist() == [[[[0, 0.5]], [[0, -0.5]]]]


def test_one_class_is_learned_already():
    label = torch.tensor([[[0, 255]]])
    output = output_of(torch.zeros(1, 1, 1, 2), size=(1, 2))
    for weights in (None, (2.0,)):
        assert segmentation_loss(output, label, normalize="valid", class_weights=weights) == 0
    assert loss_divisor(label, "valid", class_weights=(2.0,)) == 2


def test_another_ignored_label():
    output, label = random_output()
    other = label.where(label != 255, -1)
    assert segmentation_loss(output, other, ignore_index=-1) == segmentation_loss(output, label)


@pytest.mark.parametrize("weights", [None, (2.0, 3.0)])
def test_the_divisor_of_nothing_valid_is_one(weights):
    nothing = torch.full((1, 2, 2), 255)
    assert loss_divisor(nothing, "valid", class_weights=weights) == 1


def test_full_logits_never_exist(largest, monkeypatch):
    four_rows = 16 * 4 * 128
    monkeypatch.setitem(resize.STRIP, "cpu", four_rows)
    scores = torch.randn(1, 16, 4, 2, requires_grad=True)
    output, label = output_of(scores, size=(64, 128)), torch.randint(0, 16, (1, 64, 128))
    with largest() as seen:
        segmentation_loss(output, label).backward()
    assert seen.values == four_rows == label.numel()


def test_weights_made_for_a_score_serve_a_gradient():
    output, label = half_and_half()
    scores = output.scores.detach().clone().requires_grad_()
    weights_on.cache_clear()
    for mode in (True, False):
        with torch.inference_mode(mode):
            loss = segmentation_loss(output_of(scores, size=(2, 2)), label, class_weights=(1, 2))
    loss.backward()
    assert scores.grad.abs().sum() > 0


@pytest.mark.parametrize("factors", [(), (2, 1, 4)])
@pytest.mark.parametrize("strip", [1, 200, 1 << 20])  # a row, three rows, the whole image
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_equals_plain_pytorch(dtype, strip, factors, monkeypatch):
    monkeypatch.setitem(resize.STRIP, "cpu", strip)
    output, label = random_output(heads=2, factors=factors)
    loss = segmentation_loss(output, label.to(dtype), normalize="valid")
    loss.backward()
    mine = [logits.grad.clone() for logits in (output.scores, *output.aux_scores)]
    plain = 0
    heads = zip((output.scores, *output.aux_scores), factors or (1, 1, 1), strict=True)
    for weight, (logits, factor) in zip((1, 0.4, 0.4), heads, strict=True):
        logits.grad = None
        full = F.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=False)
        full = F.interpolate(full, output.padded, mode="bilinear", align_corners=False)
        plain = plain + weight * F.cross_entropy(full[..., :11, :17], label, ignore_index=255)
    plain.backward()
    torch.testing.assert_close(loss, plain, rtol=1e-12, atol=0)
    for gradient, logits in zip(mine, (output.scores, *output.aux_scores), strict=True):
        torch.testing.assert_close(gradient, logits.grad, rtol=1e-11, atol=1e-15)


WEIGHTS = (0.25, 3.0, 0.0, 1.7)


@pytest.mark.parametrize("strip", [1, 1 << 20])
@pytest.mark.parametrize("normalize", ["valid", "all"])
def test_class_weights_equal_plain_pytorch(normalize, strip, monkeypatch):
    monkeypatch.setitem(resize.STRIP, "cpu", strip)
    output, label = random_output(heads=1)
    heads = (output.scores, *output.aux_scores)
    loss = segmentation_loss(output, label, normalize=normalize, class_weights=WEIGHTS)
    mine = torch.autograd.grad(loss, heads)
    rule = "mean" if normalize == "valid" else "sum"  # PyTorch's mean is over the weights
    full = (F.interpolate(x, output.padded, mode="bilinear")[..., :11, :17] for x in heads)
    weight = torch.tensor(WEIGHTS, dtype=torch.float64)
    main, aux = (
        F.cross_entropy(x, label, weight, ignore_index=255, reduction=rule) for x in full)
    plain = (main + 0.4 * aux) / (1 if normalize == "valid" else label.numel())
    torch.testing.assert_close(loss, plain, rtol=1e-12, atol=0)
    plains = torch.autograd.grad(plain, heads)
    torch.testing.assert_close(mine, plains, rtol=1e-11, atol=1e-15)
    alike = segmentation_loss(output, label, normalize=normalize, class_weights=(1.0,) * 4)
    torch.testing.assert_close(
        alike, segmentation_loss(output, label, normalize=normalize), rtol=1e-12, atol=0)


def test_class_weights_by_hand_also_below_one_pixel():
    output, label = half_and_half()
    # weights 0.1 and 0.3 of the labels 0 and 1, whose losses are log 4 and log 4/3
    by_hand = (0.1 * math.log(4) + 0.3 * math.log(4 / 3)) / 0.4
    loss = segmentation_loss(output, label, normalize="valid", class_weights=(0.1, 0.3))
    assert loss.item() == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize(("weights", "said"), [
    ((1.0, 2.0), "2 of them for 4 classes"), ((1.0, -1.0, 1.0, 1.0), "finite numbers, none of"),
    ((1.0, math.inf, 1.0, 1.0), "finite numbers"), ((0.0,) * 4, "not all of them 0"),
    (2.0, "class_weights=2.0: give one for each class"), (("1", 2.0, 3.0, 4.0), "give numbers"),
])  # fmt: skip
def test_class_weights_that_cannot_be_used(weights, said):
    output, label = random_output(classes=4)
    with pytest.raises(UserError, match=said):
        segmentation_loss(output, label, class_weights=weights)


@pytest.mark.parametrize(("strip", "factor"), [(1, 1), (1 << 20, 2)])
def test_gradcheck(strip, factor, monkeypatch):
    monkeypatch.setitem(resize.STRIP, "cpu", strip)
    output, label = random_output(
        batch=2, classes=3, small=(2, 3), size=(5, 7), padded=(6, 8), factors=(factor,))

    def loss(logits):
        return segmentation_loss(with_main(output, logits), label)

    assert torch.autograd.gradcheck(loss, (output.scores,))


def test_all_is_independent_of_accumulation():
    output, label = random_output(batch=4)
    whole = segmentation_loss(output, label)
    parts = [with_main(output, output.scores[i : i + 2]) for i in (0, 2)]
    halves = [
        segmentation_loss(part, label[i : i + 2]) for i, part in zip((0, 2), parts, strict=True)
    ]
    torch.testing.assert_close(sum(halves) / 2, whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("normalize", ["all", "valid"])
def test_divisor_of_the_whole_batch_adds_up_over_uneven_parts(normalize):
    output, label = random_output(batch=3)
    label[0, :6] = 255  # the parts differ in valid pixels
    whole = segmentation_loss(output, label, normalize=normalize)
    divisor = loss_divisor(label, normalize)
    parts = [
        segmentation_loss(with_main(output, output.scores[a:b]), label[a:b], divisor=divisor)
        for a, b in ((0, 1), (1, 3))
    ]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("normalize", ["all", "valid"])
def test_nothing_valid_is_zero_with_a_gradient(normalize):
    output, label = random_output(heads=1)
    loss = segmentation_loss(output, torch.full_like(label, 255), normalize=normalize)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(output.scores.grad, torch.zeros_like(output.scores))


def test_softmax_is_float32_under_autocast():
    output, label = random_output()
    with torch.autocast("cpu", torch.bfloat16):
        rough = output.scores.to(torch.bfloat16).detach().requires_grad_()
        loss = segmentation_loss(with_main(output, rough), label)
    exact = segmentation_loss(with_main(output, rough.detach().double()), label)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=0)
    loss.backward()
    assert rough.grad.dtype == torch.bfloat16


def test_no_graph_is_built_without_gradients():
    output, label = random_output()
    with torch.no_grad():
        assert not segmentation_loss(output, label).requires_grad
    constant = with_main(output, output.scores.detach())
    assert not segmentation_loss(constant, label).requires_grad


def test_errors():
    output, label = random_output(classes=4)
    with pytest.raises(UserError, match=r"shape \(2, 11, 16\) for images of shape \(2, 11, 17\)"):
        segmentation_loss(output, label[..., :16])
    with pytest.raises(UserError, match=r"label of type torch.float64: give torch.uint8"):
        segmentation_loss(output, label.double())
    with pytest.raises(UserError, match=r"label on meta, scores on cpu: .*label.to\(scores.device"):
        segmentation_loss(output, label.to("meta"))
    with pytest.raises(UserError, match="'al'; did you mean 'all'"):
        segmentation_loss(output, label, normalize="al")
    for wrong in (4, 254, -1):
        bad = label.clone()
        bad[1, 2, 3] = wrong
        with pytest.raises(UserError, match=f"label id {wrong} where the model has 4 classes"):
            segmentation_loss(output, bad)


def print_global_results():
    """On each of two ranks: loss and gradient averaged over both, and their matrix."""
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    logits = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3).clone().requires_grad_()
    label = torch.tensor([[[1, 255, 255]], [[0, 1, 0]]])[rank : rank + 1]  # 1 and 3 valid pixels
    output = output_of(logits, size=(1, 3))
    weighted = segmentation_loss(output, label, normalize="valid", class_weights=(3, 1)).detach()
    loss = segmentation_loss(output, label, normalize="valid")
    loss.backward()
    gradient = logits.grad.sum(dim=(0, 2, 3))
    loss = loss.detach()
    for value in (loss, gradient, weighted):  # what DistributedDataParallel does: the mean
        torch.distributed.all_reduce(value)
        value /= 2
    matrix = ConfusionMatrix(2)
    matrix.update(torch.ones_like(label), label)
    matrix.all_reduce()
    found = [loss.item(), gradient.tolist(), matrix.matrix.tolist(), weighted.item()]
    print(json.dumps(found))
    torch.distributed.destroy_process_group()


def test_two_processes_average_over_the_global_count(tmp_path):
    first, second = run_ranks(2, print_global_results, logs=tmp_path)
    assert first == second
    loss, gradient, matrix, weighted = json.loads(first)
    p = 1 / (1 + math.exp(-1))  # probability of class 1 at each of the 4 valid pixels, two of each
    assert loss == pytest.approx((-2 * math.log(p) - 2 * math.log(1 - p)) / 4, rel=1e-6)
    # two pixels of weight 3 and two of weight 1, wherever they are
    by_weight = (-2 * math.log(p) - 3 * 2 * math.log(1 - p)) / 8
    assert weighted == pytest.approx(by_weight, rel=1e-6)
    assert gradient == pytest.approx([0.5 - p, p - 0.5], rel=1e-5)
    assert matrix == [[0, 2], [0, 2]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_equals_cpu_without_waiting_for_the_device(no_waiting):
    output, label = random_output(heads=1)
    expected = segmentation_loss(output, label, normalize="valid")
    there = output_of(
        output.scores.detach().cuda().requires_grad_(),
        *(logits.detach().cuda() for logits in output.aux_scores),
        size=output.size, padded=output.padded,
    )  # fmt: skip
    label = label.cuda()
    segmentation_loss(there, label, normalize="valid").backward()  # where it is compiled
    with no_waiting():
        loss = segmentation_loss(there, label, normalize="valid")
        loss.backward()
    torch.testing.assert_close(loss.cpu(), expected.detach(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("ignored", [0, 3])
def test_a_class_is_not_ignored(ignored):
    output, label = random_output()
    label[label == 255] = 1
    with pytest.raises(UserError, match=f"4 classes, and ignore_index={ignored} is the id of one"):
        segmentation_loss(output, label, ignore_index=ignored)
