"""Many GPUs on paper: what a step has to send, and how much arithmetic there is to hide it behind.

Nothing here is measured. It is the estimate one makes before renting 64 GPUs.

W GPUs train P parameters; each GPU takes b images a step. A ring of W GPUs adds up (or hands out)
n bytes by sending n (W - 1) / W from each GPU to the next. The GPUs of a machine are neighbours in
the ring, so the same bytes leave the machine once, not once for each of its GPUs (rings that differ
in where they leave share them among its network adapters). A step sends

====  ============================================================  ===============================
DDP   the gradient is added up and handed out, in float32           2 * 4 P * (W - 1) / W
FSDP  weights are handed out for the forward and for the backward   (2 w + 4) P * (W - 1) / W,
      pass, the gradient is added up in float32                     w = 2 in bfloat16, else 4
====  ============================================================  ===============================

With bfloat16 weights both send the same, 8 P: FSDP's gain is memory. The bytes hardly depend on W,
and not at all on b; the arithmetic, F FLOPs an image at r FLOP/s, grows with b. Hence the knee of
the curve: as long as b F / r is longer than what the links take, the messages hide behind it and W
GPUs are W times as fast. A fixed batch spread over more GPUs makes b smaller, until one of two
things ends it: the messages stick out, or b is 1. The published batch of 16 ends at 16 GPUs.

What can hide what: a gradient is sent while the backward pass, two thirds of the arithmetic, goes
on with the blocks before it; FSDP's weights travel during the forward pass as well. SyncBN's
messages are small (two numbers a channel and layer), but no arithmetic runs while they travel: they
cost the latency of a round each, which is left out, as is the last bucket that nothing follows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from setr_lite.config import RunConfig
from setr_lite.model import SETR
from setr_lite.running.meters import image_flops


@dataclass(frozen=True)
class Cluster:
    """The machines, by their data sheets or by measurement; bytes and FLOPs a second."""

    flops: float
    """That one GPU reaches in this model: its matmul rate times the MFU of a run on one GPU."""
    inside: float
    """Bytes a second that a GPU can send to its neighbour in the same machine."""
    between: float
    """Bytes a second that a machine can send to another, over all its network adapters."""
    per_machine: int = 8
    """GPUs of a machine."""


@dataclass(frozen=True)
class Outline:
    """One step on so many GPUs, in seconds and bytes of one GPU."""

    gpus: int
    images: float
    """Of one GPU."""
    sent: float
    """Bytes."""
    compute: float
    """Seconds of arithmetic."""
    network: float
    """Seconds that the links are busy."""
    exposed: float
    """Seconds of them that no arithmetic hides."""

    @property
    def efficiency(self) -> float:
        """Images a second, over those of as many GPUs that never communicate; 0..1."""
        return self.compute / (self.compute + self.exposed)

    @property
    def images_per_s(self) -> float:
        """Of all GPUs."""
        return self.gpus * self.images / (self.compute + self.exposed)


def bytes_sent(values: int, gpus: int, parallel: str = "ddp", bf16: bool = True) -> float:
    """Bytes that each GPU sends in a step; see the module's table.

    Args:
        values: P, of all that is trained.
        gpus: W.
        parallel: ``ddp`` or ``fsdp``.
        bf16: FSDP sends weights in bfloat16.
    """
    share = (gpus - 1) / gpus
    weights = 0 if parallel == "ddp" else 2 * (2 if bf16 else 4)
    return share * values * (weights + (8 if parallel == "ddp" else 4))


def outline(config: RunConfig, gpus: int, cluster: Cluster, images: float) -> Outline:
    """A step of `config` on `gpus` GPUs with `images` images each.

    ``train.parallel`` and ``train.amp`` of the run are heeded; its batch is `gpus` times
    `images`, whatever ``train.batch_size`` says.
    """
    with torch.device("meta"):
        model = SETR.from_config(config.model)
    values = sum(p.numel() for p in model.parameters() if p.requires_grad)
    parallel = config.train.parallel
    sent = bytes_sent(values, gpus, parallel, config.train.amp != "off")
    links = cluster.inside if gpus <= cluster.per_machine else min(
        cluster.inside, cluster.between)
    compute, network = images * image_flops(config) / cluster.flops, sent / links
    hiding = compute * (2 / 3 if parallel == "ddp" else 1)
    return Outline(gpus, images, sent, compute, network, max(network - hiding, 0.0))


def images_that_hide(config: RunConfig, gpus: int, cluster: Cluster) -> float:
    """b at the knee: with fewer images a GPU the messages stick out."""
    one = outline(config, gpus, cluster, images=1)
    return one.network / (one.compute * (2 / 3 if config.train.parallel == "ddp" else 1))
