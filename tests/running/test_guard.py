"""A step whose loss or gradient is no number changes no weight."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from setr_lite.errors import UserError
from setr_lite.running import guard as nonfinite
from setr_lite.step import gradient_norm


@pytest.fixture
def model():
    return nn.Linear(3, 1)


def gradients(model, value):
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, value)


def test_the_norm_is_that_of_all_gradients(model):
    gradients(model, 2.0)
    model.bias.grad = None
    assert gradient_norm(model.parameters()) == pytest.approx(12**0.5)


@pytest.mark.parametrize(("loss", "gradient"), [
    (float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("nan")), (1.0, float("-inf")),
])  # fmt: skip
def test_both_are_looked_at(model, loss, gradient):
    guard = nonfinite.Guard(torch.optim.SGD(model.parameters(), lr=1), on_gpu=False)
    gradients(model, 1.0)
    guard.before_update(1, torch.tensor(1.0), gradient_norm(model.parameters()))
    gradients(model, gradient)
    norm = gradient_norm(model.parameters())
    with pytest.raises(nonfinite.NonFinite, match="at step 2"):
        guard.before_update(2, torch.tensor(loss), norm)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_fused_optimisers_heed_the_flag(model, kind):
    """What the CUDA side rests on, shown on the CPU, whose fused optimisers know it, too."""
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizer = kind(model.parameters(), lr=0.1, fused=True, **options)
    gradients(model, 1.0)
    optimizer.step()
    before = [v.clone() for v in (*model.parameters(), *moments(optimizer))]
    gradients(model, float("nan"))
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    after = [*model.parameters(), *moments(optimizer)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    gradients(model, 1.0)
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert not torch.equal(before[0], model.weight)


def moments(optimizer):
    return [v for state in optimizer.state.values() for v in state.values() if v.ndim]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_card_hears_of_it_a_step_later_and_has_changed_nothing(model):
    model.cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=1, momentum=0.9, fused=True)
    guard = nonfinite.Guard(optimizer, on_gpu=True)

    def step(number, value):
        gradients(model, value)
        norm = gradient_norm(model.parameters())
        guard.before_update(number, torch.tensor(1.0, device="cuda"), norm)
        optimizer.step()

    step(1, 1.0)
    weight = model.weight.clone()
    step(2, float("nan"))
    with pytest.raises(nonfinite.NonFinite, match="at step 2"):
        step(3, 1.0)
    assert torch.equal(model.weight, weight)


def test_the_state_is_kept(tmp_path):
    saved = []

    def save(name):
        (tmp_path / name).mkdir()
        saved.append(name)

    batch = torch.rand(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8)
    error = nonfinite.NonFinite(7, float("nan"), 2.0)
    with pytest.raises(UserError, match=r"step 7: the loss is nan and .* 2; .*Images: a, b\. "):
        nonfinite.keep_evidence(error, tmp_path, save, batch, ("a", "b"))
    assert saved == ["nonfinite"]
    kept = load_file(tmp_path / "nonfinite" / "batch_0.safetensors")
    assert torch.equal(kept["image"], batch[0])
    assert torch.equal(kept["label"], batch[1])
    assert json.loads((tmp_path / "nonfinite" / "batch_0.json").read_text()) == ["a", "b"]


@pytest.mark.parametrize(("where", "value"), [
    ("weight", float("nan")), ("statistic", float("inf")), ("moment", -float("inf"))])
def test_what_an_update_leaves_is_looked_at_before_it_is_saved(where, value):
    """The loss of the next step would tell of a weight, of the others nothing does."""
    model = nn.Sequential(nn.Linear(3, 1), nn.BatchNorm1d(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    gradients(model, 1.0)
    optimizer.step()
    nonfinite.check_saved(4, model, optimizer)
    spoilt = {
        "weight": model[0].weight, "statistic": model[1].running_var,
        "moment": optimizer.state[model[0].weight]["momentum_buffer"],
    }[where]  # fmt: skip
    with torch.no_grad():
        spoilt.view(-1)[-1] = value
    with pytest.raises(nonfinite.NonFinite, match="holds NaN or infinity after step 4") as caught:
        nonfinite.check_saved(4, model, optimizer)
    assert caught.value.sentence().startswith("step 4: ")
    assert "not saved as a checkpoint to go on from" in caught.value.sentence()
    if where == "moment":
        nonfinite.check_saved(4, model)


class Event:
    """Of a card that is always ready."""

    said = ()

    def record(self):
        Event.said += ("record",)

    def synchronize(self):
        Event.said += ("wait",)


def test_the_cards_side_on_a_processor(model, monkeypatch):
    """Fused optimisers heed the flag there, too; only the events are made up."""
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(Event, "said", ())
    optimizer = torch.optim.SGD(model.parameters(), lr=1, momentum=0.9, fused=True)
    guard = nonfinite.Guard(optimizer, on_gpu=True)

    def step(number, value):
        gradients(model, value)
        guard.before_update(number, torch.tensor(1.0), gradient_norm(model.parameters()))
        optimizer.step()

    weights = [model.weight.detach().clone()]
    for number, value in enumerate((1.0, 1.0, float("nan")), 1):
        step(number, value)
        weights.append(model.weight.detach().clone())
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert torch.equal(weights[2], weights[3])
    assert Event.said == ("record", "record", "wait", "record", "wait")
    with pytest.raises(nonfinite.NonFinite, match=r"loss 1.0, gradient norm nan at step 3"):
        step(4, 1.0)
    optimizer.step()  # the flag is never taken back
    assert torch.equal(weights[2], model.weight)


def test_another_process_or_the_end_tells_of_it_too(model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    optimizer = torch.optim.SGD(model.parameters(), lr=1, fused=True)
    guard = nonfinite.Guard(optimizer, on_gpu=True)
    one = torch.tensor(1.0)
    guard.before_update(1, one, one)
    guard.settle()
    guard.before_update(2, one, one * float("inf"))
    with pytest.raises(nonfinite.NonFinite, match=r"loss 1.0, gradient norm inf at step 2"):
        guard.settle()
    monkeypatch.setattr(nonfinite, "mean_over_ranks", lambda value: value * float("nan"))
    guard.before_update(2, one, one)
    with pytest.raises(nonfinite.NonFinite, match="loss nan, gradient norm nan at step 2"):
        guard.settle()
