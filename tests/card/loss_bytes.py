"""Bytes that the loss of SETR-PUP with ViT-Large, batch 16, 512 x 512, moves to and from memory.

    .venv/bin/python tests/card/card.py tests/card/loss_bytes.py

By Inductor's own count of what each of its kernels reads and writes, on the pretended card, and
PyTorch's for the few operations around them. Caches of a real card can only lower it.
"""

import torch
from on_card import a_batch, a_run
from torch._inductor.graph import GraphLowering
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from setr_lite.losses import cross_entropy, on_gpu

torch._inductor.config.force_disable_caches = True
GIGA = 1e9


class Moved(TorchDispatchMode):
    """Adds up the bytes of what operations outside of the kernels take and give."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [t for t in tree_leaves((args, kwargs, result)) if torch.is_tensor(t)]
            self.bytes += sum(t.nbytes for t in tensors)
        return result


def main():
    by_shape, calls, whole = {}, [], GraphLowering.compile_to_module

    def counted(graph):
        module = whole(graph)
        by_shape[calls[-1]] = graph.count_bytes()[0]
        return module

    GraphLowering.compile_to_module = counted
    work = on_gpu.compiled()

    def noted(some, *rest):
        calls.append((tuple(some.shape), tuple(rest[3].shape)))
        with torch.utils._python_dispatch._disable_current_modes():
            return work(some, *rest)

    cross_entropy.compiled = lambda: noted
    run = a_run("pup_ade20k_512_160k", "train.amp=bf16")
    batch = a_batch(run.config)
    image = run.normalize(batch.image.cuda(), batch.inside)
    with torch.autocast("cuda", torch.bfloat16):
        output = run.wrapped(image)
    label = batch.label.cuda()
    with Moved() as around:
        cross_entropy.segmentation_loss(output, label).backward(
            inputs=[lazy.logits for lazy in output.heads()])
    kernels = sum(by_shape[call] for call in calls)
    for shape in dict.fromkeys(calls):
        print(f"logits {shape[0]}: {calls.count(shape)} x {by_shape[shape] / GIGA:.2f} GB")
    print(f"kernels {kernels / GIGA:.1f} GB, around them {around.bytes / GIGA:.1f} GB")


if __name__ == "__main__":
    main()
