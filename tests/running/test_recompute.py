"""Time for memory, exactly: micro-batches and checkpointed blocks against the plain step."""

import copy
import os
import subprocess
import sys

import pytest
import torch

from setr_lite.config import TrainConfig
from setr_lite.errors import UserError
from setr_lite.losses import segmentation_loss
from setr_lite.model import SETR
from setr_lite.running.recompute import recompute_encoder

HEADS = ("naive", "pup", "mla")
LEVERS = {
    "one by one": {"micro_batch": 1},
    "two and a rest": {"micro_batch": 2},
    "all at once": {"micro_batch": 9},
    "blocks": {"grad_checkpointing": True},
    "blocks of two": {"micro_batch": 2, "grad_checkpointing": True},
}


def build(head="pup", encoder="toy", **settings):
    """A small model in float64 and three images of odd size with ignored pixels."""
    torch.manual_seed(0)
    model = SETR(5, head, encoder, img_size=(32, 48), channels=8, **settings).double().train()
    image = torch.randn(3, 3, 30, 44, dtype=torch.float64)
    label = torch.randint(5, (3, 30, 44))
    label[1:, :20] = 255
    return model, image, label


def three_steps(model, image, label, forward=None, amp=False):
    """Loss and gradients of the first step; weights and BatchNorm statistics after three."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1, 0.9)
    torch.manual_seed(1)
    first = {}
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=amp, cache_enabled=False):
            loss = segmentation_loss((forward or model)(image), label)
        loss.backward()
        grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        first = first or {"loss": loss.detach()} | grads
        optimizer.step()
    return first | {f"after {name}": value for name, value in model.state_dict().items()}


def assert_same(found, expected, rtol=1e-9):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=rtol, msg=name)


@pytest.mark.parametrize("lever", LEVERS)
@pytest.mark.parametrize("head", HEADS)
def test_three_steps_are_the_plain_ones(head, lever):
    model, image, label = build(head)
    other = copy.deepcopy(model)
    recompute_encoder(other.encoder, TrainConfig(**LEVERS[lever]))
    expected = three_steps(model, image, label)
    assert len([name for name in expected if "running_var" in name]) > 1
    assert_same(three_steps(other, image, label), expected)


class Split(torch.nn.Module):
    """An encoder that takes micro-batches with everything kept: plain autograd."""

    def __init__(self, encoder, size):
        super().__init__()
        self.encoder, self.size, self.patch_size = encoder, size, encoder.patch_size

    def forward(self, image):
        parts = [self.encoder(part) for part in image.split(self.size)]
        return [torch.cat(tap) for tap in zip(*parts, strict=True)]


@pytest.mark.parametrize("head", HEADS)
def test_stochastic_depth_draws_the_same_twice(head):
    model, image, label = build(head, drop_path=0.5)
    other, kept = copy.deepcopy(model), copy.deepcopy(model)
    split = copy.copy(kept)
    split._modules = {**kept._modules, "encoder": Split(kept.encoder, 2)}
    expected = three_steps(kept, image, label, split)
    recompute_encoder(other.encoder, TrainConfig(micro_batch=2))
    assert_same(three_steps(other, image, label), expected)
    blocks = copy.deepcopy(model)
    recompute_encoder(blocks.encoder, TrainConfig(grad_checkpointing=True))
    plain = three_steps(model, image, label)
    assert_same(three_steps(blocks, image, label), plain)
    assert plain["loss"] != expected["loss"]  # the draws do depend on the micro-batches


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoder", ["timm:vit_tiny_patch16_224", "timm:eva02_tiny_patch14_224", "hybrid_base"])
def test_other_encoders(encoder, monkeypatch):
    if encoder == "hybrid_base":
        with torch.device("meta"):
            model = SETR(5, "naive", encoder, img_size=(32, 48), channels=8)
        with pytest.raises(UserError, match=r"train.micro_batch: the encoder has BatchNorm"):
            recompute_encoder(model.encoder, TrainConfig(micro_batch=1))
        return
    model, image, label = build("naive", encoder)
    saved = []
    for lever in ({}, {"micro_batch": 2}, {"grad_checkpointing": True}):
        other = copy.deepcopy(model)
        recompute_encoder(other.encoder, TrainConfig(**lever))
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: saved[-1].append(t.untyped_storage().nbytes()) or t, lambda t: t
        ):
            saved.append([])
            found = three_steps(other, image, label)
        expected = found if not lever else expected  # noqa: F821 (set in the first turn)
        assert_same(found, expected)
    assert max(sum(saved[1]), sum(saved[2])) < 0.5 * sum(saved[0])


@pytest.mark.slow
def test_autocast_gives_close_gradients_and_sums_them_in_float32():
    model, image, label = build()
    model, image = model.float(), image.float().repeat(4, 1, 1, 1)
    label = label.repeat(4, 1, 1)
    errors = {}
    exact = three_steps(copy.deepcopy(model), image, label)
    for size in (0, 1):
        other = copy.deepcopy(model)
        recompute_encoder(other.encoder, TrainConfig(micro_batch=size))
        found = three_steps(other, image, label, amp=True)
        name = "encoder.blocks.0.mlp.fc1.weight"
        errors[size] = (found[name] - exact[name]).norm() / exact[name].norm()
    assert errors[1] < 1.5 * errors[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks, and hides it itself
def test_compiled_blocks():
    model, image, label = build()
    other = copy.deepcopy(model)
    recompute_encoder(other.encoder, TrainConfig(micro_batch=2, grad_checkpointing=True))
    for block in other.encoder.blocks:
        block.compile(backend="aot_eager")
    assert_same(three_steps(other, image, label), three_steps(model, image, label))


def test_nothing_runs_twice_without_gradients():
    model, image, _ = build()
    expected = model.eval().logits(image)
    recompute_encoder(model.encoder, TrainConfig(micro_batch=1, grad_checkpointing=True))
    runs = []
    model.encoder.blocks[0].register_forward_hook(lambda *_: runs.append(1))
    with torch.no_grad():
        torch.testing.assert_close(model.logits(image), expected)
    assert len(runs) == 1
    assert set(model.state_dict()) == set(build()[0].state_dict())


TWO_PROCESSES = """
import os, sys
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
sys.path.insert(0, sys.argv[2])
from test_recompute import assert_same, build, three_steps
from setr_lite.config import TrainConfig
from setr_lite.running.recompute import recompute_encoder

torch.set_num_threads(1)
child = os.fork()  # one import serves both processes
rank = 0 if child else 1
store = dist.FileStore(sys.argv[1], 2)
dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
results = []
for size in (0, 2):
    model, image, label = build()
    recompute_encoder(model.encoder, TrainConfig(micro_batch=size))
    wrapped = DistributedDataParallel(model)
    results.append(three_steps(model, image + rank, label, wrapped))
assert_same(results[1], results[0])
mine = results[1]["after encoder.blocks.0.mlp.fc1.weight"]
both = [torch.empty_like(mine) for _ in range(2)]
dist.all_gather(both, mine)
assert torch.equal(*both)
dist.destroy_process_group()
if rank == 0:
    assert os.waitpid(child, 0)[1] == 0
    print("equal")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks after importing torch")
def test_two_processes(tmp_path):
    """Under DistributedDataParallel, on other images each, with micro-batches and without."""
    here = os.path.dirname(__file__)
    command = [sys.executable, "-c", TWO_PROCESSES, str(tmp_path / "store"), here]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "equal\n"), done.stderr[-2000:]


def test_a_micro_batch_is_positive():
    with pytest.raises(UserError, match=r"train.micro_batch=-1: must be at least 0"):
        TrainConfig(micro_batch=-1)
