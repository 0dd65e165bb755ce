"""Groups, schedule and optimisers against the published rules."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from setr_lite.config import OptimConfig
from setr_lite.errors import UserError
from setr_lite.optim import (
    build_optimizer,
    checked_state,
    describe_groups,
    layer_of,
    parameter_groups,
    poly_lr,
    set_lr,
)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 2))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 2))
        self.proj = nn.Linear(2, 3)
        self.norm = nn.LayerNorm(3)


class Model(nn.Module):
    """The submodules of a SETR, small."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.neck = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 2, 1)
        self.aux_heads = nn.ModuleList([nn.Conv2d(4, 2, 1)])


def names_by_group(model: nn.Module, optim: OptimConfig) -> dict[str, set[str]]:
    paths = {id(parameter): path for path, parameter in model.named_parameters()}
    groups = parameter_groups(model, optim)
    listed = [paths[id(p)] for group in groups for p in group["params"]]
    assert len(listed) == len(set(listed))  # each parameter in one group only
    return {group["name"]: {paths[id(p)] for p in group["params"]} for group in groups}


@pytest.mark.smoke
def test_groups_as_published():
    model, optim = Model(), OptimConfig(lr=0.001)
    groups = names_by_group(model, optim)
    assert list(groups) == ["encoder", "neck", "head"]
    assert set.union(*groups.values()) == {path for path, _ in model.named_parameters()}
    assert groups["head"] == {
        "head.weight", "head.bias", "aux_heads.0.weight", "aux_heads.0.bias",
    }
    rates = {group["name"]: group["lr"] for group in parameter_groups(model, optim)}
    assert rates == {"encoder": 0.001, "neck": 0.001, "head": pytest.approx(0.01)}


def test_biases_norms_and_tables_never_decay():
    model, optim = Model(), OptimConfig(weight_decay=0.05, lr=0.002, head_multiplier=5)
    groups = names_by_group(model, optim)
    assert groups["encoder"] == {"encoder.proj.weight"}
    assert groups["encoder_no_decay"] == {
        "encoder.cls_token", "encoder.pos_embed", "encoder.proj.bias",
        "encoder.norm.weight", "encoder.norm.bias",
    }
    assert groups["neck"] == {"neck.0.weight"}
    assert groups["neck_no_decay"] == {"neck.1.weight", "neck.1.bias"}
    assert groups["head_no_decay"] == {"head.bias", "aux_heads.0.bias"}
    for group in parameter_groups(model, optim):
        bare = group["name"].endswith("_no_decay")
        assert group["weight_decay"] == (0 if bare else 0.05)
        assert group["lr"] == pytest.approx(0.01 if group["name"].startswith("head") else 0.002)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)


def test_layer_wise_decay_by_hand():
    """BEiT's rule for three blocks: 0.5 for the last, 1/8 for the first, 1/16 below."""
    model = Model()
    model.encoder.blocks = nn.ModuleList(Block() for _ in range(3))
    optim = OptimConfig(lr=0.8, layer_decay=0.5, head_multiplier=2, neck_multiplier=3, min_lr=0)
    groups = names_by_group(model, optim)
    assert groups["encoder_2"] == {"encoder.blocks.1.fc.weight", "encoder.blocks.1.fc.bias"}
    assert "encoder.pos_embed" in groups["encoder_0"]
    expected = {"encoder_0": 0.05, "encoder_1": 0.1, "encoder_2": 0.2, "encoder_3": 0.4,
                "neck": 2.4, "head": 1.6}  # fmt: skip
    optimizer = build_optimizer(model, optim)
    for step, share in ((0, 1), (5, 0.5**0.9)):
        set_lr(optimizer, step, 10, optim)
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        assert rates == pytest.approx({name: r * share for name, r in expected.items()})
    # as the state that a resumed run reads
    again = build_optimizer(model, optim)
    again.load_state_dict(checked_state("f", optimizer.state_dict(), again, "none"))
    assert [g["scale"] for g in again.param_groups if "scale" in g] == [
        g["scale"] for g in optimizer.param_groups if "scale" in g]  # fmt: skip
    other = build_optimizer(model, dataclasses.replace(optim, layer_decay=0.6))
    with pytest.raises(UserError, match="'scale'"):
        checked_state("f", optimizer.state_dict(), other, "none")


def test_layers_of_a_timm_encoder():
    assert layer_of("encoder.vit.blocks.11.attn.qkv.weight") == 12
    assert layer_of("encoder.blocks.0.norm1.bias") == 1
    assert layer_of("encoder.vit.patch_embed.proj.weight") == layer_of("head.blocks.3.x") == 0


def test_a_class_token_never_decays_however_deep_it_lies():
    model = nn.ModuleDict({"encoder": nn.ModuleDict({"vit": Encoder()})})
    assert "encoder.vit.cls_token" in names_by_group(
        model, OptimConfig(weight_decay=0.1))["encoder_no_decay"]


def test_frozen_parameters_are_left_out():
    model = Model()
    model.encoder.requires_grad_(False)
    assert list(names_by_group(model, OptimConfig())) == ["neck", "head"]
    with pytest.raises(UserError, match="no trainable parameter"):
        parameter_groups(model.requires_grad_(False), OptimConfig())


def test_poly_values():
    def rate(step, base=0.01, **more):
        return poly_lr(step, 160_000, base, min_lr=1e-4, power=0.9, **more)

    assert rate(0) == 0.01
    assert rate(80_000) == pytest.approx(0.0099 * 0.5**0.9 + 1e-4, rel=1e-12)
    assert rate(159_999) == pytest.approx(1e-4 + 0.0099 * (1 / 160_000) ** 0.9, rel=1e-9)
    assert rate(160_000) == 1e-4
    assert rate(200_000) == 1e-4
    assert rate(160_000, base=0.1) == 1e-4  # the floor is the same for every group


@pytest.mark.parametrize(
    ("poly_steps", "rates"),
    [  # base 0.9, floor 0.1, power 2, five steps: 0.8 * (1 - i / 5)^2 + 0.1, and with i / 4
        ("steps", [0.9, 0.8 * 16 / 25 + 0.1, 0.8 * 9 / 25 + 0.1, 0.8 * 4 / 25 + 0.1, 0.132]),
        ("steps-1", [0.9, 0.8 * 9 / 16 + 0.1, 0.8 * 4 / 16 + 0.1, 0.8 * 1 / 16 + 0.1, 0.1]),
    ],
)
def test_both_divisors_by_hand(poly_steps, rates):
    got = [poly_lr(i, 5, 0.9, min_lr=0.1, power=2, poly_steps=poly_steps) for i in range(5)]
    assert got == pytest.approx(rates, rel=1e-12)


def test_the_shortest_runs_that_end_at_the_floor():
    for steps, rates in ((1, [0.9]), (2, [0.9, 0.1])):
        got = [poly_lr(i, steps, 0.9, min_lr=0.1, power=2, poly_steps="steps-1")
               for i in range(steps)]  # fmt: skip
        assert got == pytest.approx(rates, rel=1e-12)


def test_divisor_of_mmsegmentation_1():
    """Its scheduler multiplies (rate - floor) step by step by ((n - i) / (n - i + 1)) ** power
    with n = steps - 1; the last of 160,000 iterations runs at exactly the floor, all groups."""
    optim = OptimConfig(lr=0.001, poly_steps="steps-1")
    optimizer = build_optimizer(Model(), optim)
    steps, rates = 50, {"encoder": 0.001, "head": 0.01}
    for i in range(steps):
        set_lr(optimizer, i, steps, optim)
        now = {group["name"]: group["lr"] for group in optimizer.param_groups}
        for name, rate in rates.items():
            assert now[name] == pytest.approx(rate, rel=1e-9)
            shrink = ((steps - 1 - i - 1) / (steps - 1 - i)) ** 0.9 if i < steps - 1 else 0
            rates[name] = 1e-4 + (rate - 1e-4) * shrink
    for base in (0.01, 0.001):
        assert poly_lr(
            159_999, 160_000, base, min_lr=1e-4, power=0.9, poly_steps="steps-1") == 1e-4


def test_floor_never_raises_a_rate():
    rates = [poly_lr(step, 10, 1e-5, min_lr=1e-4, power=0.9) for step in range(11)]
    assert rates == [1e-5] * 11


def test_warmup_is_linear_then_poly_over_the_rest():
    rates = [poly_lr(step, 14, 1.0, min_lr=0.0, power=1.0, warmup=4) for step in range(14)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[4:] == pytest.approx([1 - i / 10 for i in range(10)])
    late = [
        poly_lr(step, 14, 1.0, min_lr=0.0, power=1.0, warmup=4, poly_steps="steps-1")
        for step in range(14)
    ]
    assert late[4:] == pytest.approx([1 - i / 9 for i in range(10)])


def test_set_lr():
    optim = OptimConfig(lr=0.001, min_lr=1e-4, weight_decay=0.1)
    optimizer = build_optimizer(Model(), optim)
    assert set_lr(optimizer, 0, 100, optim) == 0.001
    assert set_lr(optimizer, 50, 100, optim) == pytest.approx(0.0009 * 0.5**0.9 + 1e-4)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    head = 0.0099 * 0.5**0.9 + 1e-4
    assert rates["head"] == rates["head_no_decay"] == pytest.approx(head)
    assert rates["neck"] == rates["encoder"] == pytest.approx(0.0009 * 0.5**0.9 + 1e-4)


def test_set_lr_survives_a_state_dict():
    optim = OptimConfig(lr=0.001)
    saved = build_optimizer(Model(), optim).state_dict()
    optimizer = build_optimizer(Model(), optim)
    optimizer.load_state_dict(saved)
    louder = OptimConfig(lr=0.002)
    set_lr(optimizer, 0, 100, louder)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.002, 0.002, 0.02])


def test_one_sgd_step_by_hand():
    """v = g, w -= lr * v; then v = 0.9 v + g (no Nesterov look-ahead)."""
    model = nn.ModuleDict({"head": nn.Linear(1, 1, bias=False)})
    weight = model["head"].weight
    nn.init.constant_(weight, 1.0)
    optimizer = build_optimizer(model, OptimConfig(lr=0.01, head_multiplier=10))
    for expected in (1 - 0.1 * 2, 1 - 0.1 * 2 - 0.1 * 3.8):  # gradient 2; velocity 2, then 3.8
        weight.grad = torch.full_like(weight, 2.0)
        optimizer.step()
        assert weight.item() == pytest.approx(expected, rel=1e-6)


def test_adamw():
    optim = OptimConfig(name="adamw", lr=3e-4, momentum=0.8, weight_decay=0.05)
    optimizer = build_optimizer(Model(), optim)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.999)}
    assert sorted({group["weight_decay"] for group in optimizer.param_groups}) == [0, 0.05]


def test_describe_groups():
    lines = describe_groups(parameter_groups(Model(), OptimConfig(lr=0.001))).splitlines()
    assert [line.split() for line in lines] == [
        ["group", "tensors", "parameters", "lr", "decay"],
        ["encoder", "6", "27", "0.001", "0"],  # 2 + 10 + 6 + 3 + 3 + 3
        ["neck", "3", "20", "0.001", "0"],
        ["head", "4", "20", "0.01", "0"],
    ]
    assert len(set(map(len, lines))) == 1  # columns line up


def state_of(name):
    """A small optimiser of every kind of ours after a step, and what a file has of it."""
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({
        "encoder": torch.nn.Linear(3, 2), "head": torch.nn.Linear(2, 2)})
    optimizer = build_optimizer(model, OptimConfig(name=name, weight_decay=0.1))
    fresh = build_optimizer(model, OptimConfig(name=name, weight_decay=0.1))
    for parameter in model.parameters():
        parameter.grad = -torch.ones_like(parameter)  # moments may be negative, squares may not
    optimizer.step()
    return fresh, copy.deepcopy(optimizer.state_dict())


def moment(state):
    return next(k for k in ("momentum_buffer", "exp_avg") if k in state[0])


SPOILT = {
    "smaller": lambda s: s["state"][0].update({moment(s["state"]): torch.zeros(1)}),
    "larger": lambda s: s["state"][1].update({moment(s["state"]): torch.zeros(9, 999)}),
    "no numbers": lambda s: s["state"][0][moment(s["state"])].fill_(torch.nan),
    "infinite": lambda s: s["state"][0][moment(s["state"])].fill_(torch.inf),
    "double": lambda s: s["state"][0].update(
        {moment(s["state"]): s["state"][0][moment(s["state"])].double()}),
    "a number": lambda s: s["state"][0].update({moment(s["state"]): 0.5}),
    "sparse": lambda s: s["state"][0].update(
        {moment(s["state"]): s["state"][0][moment(s["state"])].to_sparse()}),
    "one moment missing": lambda s: s["state"][0].pop(moment(s["state"])),
    "one more moment": lambda s: s["state"][0].update(more=torch.zeros(1)),
    "a parameter missing": lambda s: s["state"].pop(0),
    "a parameter too many": lambda s: s["state"].update({9999: s["state"][0]}),
    "a name for a number": lambda s: s["state"].update(zero=s["state"].pop(0)),
    "no state": lambda s: s.pop("state"),
    "state a list": lambda s: s.update(state=[1]),
    "groups an object": lambda s: s.update(param_groups={}),
    "one group missing": lambda s: s["param_groups"].pop(),
    "a group a word": lambda s: s["param_groups"].__setitem__(0, "x"),
    "parameters swapped": lambda s: s["param_groups"][0].update(
        params=s["param_groups"][1]["params"]),
    "no rate": lambda s: s["param_groups"][0].pop("lr"),
    "a negative rate": lambda s: s["param_groups"][0].update(lr=-0.5),
    "a tensor for a setting": lambda s: s["param_groups"][0].update(weight_decay=torch.zeros(2)),
    "moments a list": lambda s: s["state"].update({0: list(s["state"][0])}),
    "a word for a rate": lambda s: s["param_groups"][0].update(lr="high"),
    "an infinite rate": lambda s: s["param_groups"][0].update(lr=float("inf")),
    "a switch": lambda s: s["param_groups"][0].update(maximize=True),
    "another decay": lambda s: s["param_groups"][0].update(weight_decay=0.7),
}  # fmt: skip
STEPS = {
    "a long step": lambda s: s["state"][0].update(step=torch.ones(3)),
    "a negative step": lambda s: s["state"][0].update(step=torch.tensor(-1.0)),
    "a whole step": lambda s: s["state"][0].update(step=torch.tensor(1)),
    "a negative square": lambda s: s["state"][0]["exp_avg_sq"].fill_(-1),
}


@pytest.mark.parametrize(("name", "spoil"), [
    *((name, spoil) for name in ("sgd", "adamw") for spoil in SPOILT),
    *(("adamw", spoil) for spoil in STEPS),
])  # fmt: skip
def test_a_spoilt_state_is_refused_before_it_is_used(name, spoil):
    """A fused update would read and write behind the end of a moment that is too small."""
    optimizer, state = state_of(name)
    checked = checked_state("f.pt", state, optimizer, "do so", 4)
    optimizer.load_state_dict(checked)
    assert len(optimizer.state) == 4
    (SPOILT | STEPS)[spoil](state)
    with pytest.raises(UserError, match=r"^f.pt: .* is .*, expected .*; do so$"):
        checked_state("f.pt", state, optimizer, "do so", 4)


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda s: s.pop("state"), "the content is an object of 1, expected a state and param_groups"),
    (lambda s: s["param_groups"].pop(), "param_groups is a list of 3, expected a list of 4"),
    (lambda s: s.update(state=[1]), "state is a list of 1, expected an object of 4 parameters"),
    *((lambda s, key=key: s["state"].update({key: s["state"].pop(0)}),
       f"a key of state is {key}, expected 0..3") for key in (-1, 4, 9999)),
    (lambda s: s["param_groups"].__setitem__(0, "x"),
     "param_groups is 'x', expected an object with params and lr"),
    (lambda s: s["param_groups"][0].update(weight_decay=0.7),
     "param_groups: 'weight_decay' is 0.7, expected as in this run, 0.1"),
    (lambda s: s["state"][1].pop("step"),
     "parameter 1 is an object of 2, expected an object of exp_avg, exp_avg_sq, step"),
    (lambda s: s["state"][0].update(exp_avg=torch.zeros(1)),
     r"parameter 0: 'exp_avg' is 'torch.float32 (1,)', expected torch.float32 (2, 3)"),
    (lambda s: s["state"][0].update(exp_avg=None),
     r"parameter 0: 'exp_avg' is 'NoneType', expected torch.float32 (2, 3)"),
    (lambda s: s["state"][0]["exp_avg"].fill_(torch.nan),
     "parameter 0: 'exp_avg' is 'NaN or infinity', expected finite numbers"),
    (lambda s: s["state"][0]["exp_avg_sq"].fill_(-1),
     "parameter 0: 'exp_avg_sq' is -1.0, expected 0 or more"),
])  # fmt: skip
def test_what_was_found_and_what_was_expected(spoil, said):
    optimizer, state = state_of("adamw")
    spoil(state)
    with pytest.raises(UserError) as caught:
        checked_state("f.pt", state, optimizer, "do so")
    assert str(caught.value) == f"f.pt: {said}; do so"


def test_as_many_parameters_as_asked_for_have_a_state():
    optimizer, state = state_of("sgd")
    with pytest.raises(UserError, match="state is an object of 4, expected an object of 3 param"):
        checked_state("f.pt", state, optimizer, "do so", 3)
    state["state"].pop(0)
    for count in (3, None):
        assert len(checked_state("f.pt", state, optimizer, "do so", count)["state"]) == 3


def test_sgd_without_momentum_has_none():
    optimizer, state = state_of("sgd")
    state["state"][0]["momentum_buffer"] = None
    assert checked_state("f.pt", state, optimizer, "do so")["state"] == state["state"]


def test_updates_are_fused_unless_told():
    for name in ("sgd", "adamw"):
        assert build_optimizer(Model(), OptimConfig(name=name)).defaults["fused"]
    assert not build_optimizer(Model(), OptimConfig(), fused=False).defaults["fused"]


def test_a_rate_that_is_no_number_is_shown():
    optimizer, state = state_of("adamw")
    state["param_groups"][0]["lr"] = "fast"
    with pytest.raises(UserError, match=r"'lr' is 'fast', expected a number; do so$"):
        checked_state("f.pt", state, optimizer, "do so", 4)


def test_a_state_may_have_another_rate_and_other_keys_of_another_pytorch():
    optimizer, state = state_of("adamw")
    for group in state["param_groups"]:
        group.update(lr=0.25, fused=False, of_the_future=1)
        del group["capturable"]
    checked = checked_state("f.pt", state, optimizer, "do so")
    assert {group["lr"] for group in checked["param_groups"]} == {0.25}
    own = optimizer.state_dict()["param_groups"][0]
    assert checked["param_groups"][0] == own | {"lr": 0.25}
