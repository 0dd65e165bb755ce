"""BatchNorm over two processes equals BatchNorm of the whole batch, statistics and gradients."""

import torch
import torch.distributed as dist
from processes import run_ranks
from torch import nn

from setr_lite import distributed
from setr_lite.distributed.sync_bn import SyncBatchNorm2d, synchronize

CUTS = (0, 1, 4)  # rank 0 has one image, rank 1 three


def whole():
    torch.manual_seed(3)
    layers = [nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, momentum=0.3), nn.ReLU(), nn.BatchNorm2d(3)]
    model = nn.Sequential(*layers).double()
    nn.init.normal_(model[1].weight)
    nn.init.normal_(model[3].bias)
    return model, torch.randn(3, 4, 2, 5, 6, dtype=torch.float64) * 3 + 100


def work(model, image):
    """Two training steps' statistics, and the gradient of the last loss, a sum over images."""
    for batch in image:
        model.zero_grad()
        loss = (model(batch) ** 3).sum()
        loss.backward()
    return loss


def on_a_rank(folder):
    distributed.start("cpu")
    rank, (model, image) = dist.get_rank(), whole()
    model = synchronize(model)
    assert [type(m) for m in model][1::2] == [SyncBatchNorm2d] * 2
    work(model, image[:, CUTS[rank] : CUTS[rank + 1]])
    gradients = {n: distributed.sum_over_ranks(p.grad) for n, p in model.named_parameters()}
    if rank == 0:
        output = model.eval()(image[0])
        torch.save((gradients, model.state_dict(), output), f"{folder}/rank0.pt")
    distributed.barrier()


def test_two_uneven_processes_equal_the_whole_batch(tmp_path):
    run_ranks(2, on_a_rank, str(tmp_path), logs=tmp_path)
    model, image = whole()
    work(model, image)
    gradients, state, output = torch.load(tmp_path / "rank0.pt", weights_only=True)
    expected = {n: p.grad for n, p in model.named_parameters()}
    exact = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(gradients, expected, **exact)
    torch.testing.assert_close(state, dict(model.state_dict()), **exact)
    torch.testing.assert_close(output, model.eval()(image[0]), **exact)


def test_alone_it_is_batchnorm():
    model, image = whole()
    twin, _ = whole()
    synchronize(twin)
    assert torch.equal(work(model, image), work(twin, image))
