"""The estimate for many GPUs, against arithmetic by hand."""

import pytest
from figures.scaling import Cluster, bytes_sent, images_that_hide, outline

from setr_lite.model import SETR
from setr_lite.recipes import get_recipe
from setr_lite.running.meters import image_flops

TOY = get_recipe("toytown_pup")
CLUSTER = Cluster(flops=1e12, inside=1e9, between=1e8, per_machine=4)


def test_a_ring_of_two_sends_the_gradient_once():
    assert bytes_sent(1000, 2) == 4000  # half of it to add up, half to hand out
    assert bytes_sent(1000, 1) == bytes_sent(1000, 1, "fsdp") == 0
    assert bytes_sent(1000, 4, "fsdp", bf16=True) == bytes_sent(1000, 4)
    assert bytes_sent(1000, 4, "fsdp", bf16=False) == 0.75 * 12_000


def test_a_step_by_hand():
    learned = sum(p.numel() for p in SETR.from_config(TOY.model).parameters())
    step = outline(TOY, 8, CLUSTER, images=2)
    assert step.sent == 8 * learned * 7 / 8
    assert step.network == step.sent / 1e8  # two machines: the slower links
    assert outline(TOY, 4, CLUSTER, images=2).network == 6 * learned / 1e9
    assert step.compute == pytest.approx(2 * image_flops(TOY) / 1e12, rel=0.01)
    assert step.exposed == pytest.approx(step.network - step.compute * 2 / 3)
    assert step.images_per_s == pytest.approx(16 / (step.compute + step.exposed))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_the_knee(parallel):
    config = TOY.override(f"train.parallel={parallel}")
    knee = images_that_hide(config, 8, CLUSTER)
    assert outline(config, 8, CLUSTER, images=knee * 1.001).efficiency == 1
    below = outline(config, 8, CLUSTER, images=knee / 2)
    assert 0 < below.efficiency < 1
    assert below.exposed == pytest.approx(below.network / 2)
