"""How much memory a training step takes, found by taking it without its numbers.

On PyTorch's ``meta`` device a tensor has a shape and no values. `estimate_memory` builds the model
there, runs forward pass, loss and backward pass once, and keeps account: of what autograd saves
(each storage once, parameters not at all), and of all that is alive at any time. So no formula
per layer has to be right, and every encoder, head and dialect is covered. ViT-Large takes a
second, and PyTorch some more to load its meta kernels.

The settings that trade time or precision for memory are run as they are, with what they compute
again: ``train.micro_batch``, ``train.grad_checkpointing``, ``train.accumulate``, ``train.amp``,
``train.freeze_encoder`` and the optimiser.

Two things are told to the run, because the device decides them:

- attention: the fused kernels (flash and memory-efficient on CUDA, flash on CPU) save queries,
  keys, values, the output and one float32 a row, never the N x N matrix;
- autocast: linear layers and convolutions work on bfloat16 copies, of their weights too, and
  LayerNorm in float32.

Not in the estimate: what the allocator rounds up or holds in reserve, what kernels use inside,
and what ``torch.compile`` computes again instead of saving it. Not measured on a GPU so far.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..config import OptimConfig, RunConfig
from ..model import SETR
from ..step import add_gradients
from ..typed import whole
from .recompute import recompute_encoder


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device."""

    weights: int
    """Parameters and BatchNorm's statistics."""
    gradients: int
    """One value per trainable parameter."""
    buckets: int
    """What DDP sends, with several processes. The gradients are views of these buckets, but those
    made in the backward pass count beside them: where the peak comes late, it is too high by up
    to one set of gradients."""
    optimizer: int
    """State of the optimiser: SGD with momentum one value per trainable parameter, AdamW two."""
    batch: int
    """Images (float32) and labels (uint8)."""
    activations: dict[str, int]
    """What autograd saves, by part of the model; a tensor that two parts save counts with the
    first. ``loss`` is the logits' gradient, which the loss works out together with its value."""
    at_peak: dict[str, int]
    """Memory at the peak beyond weights, buckets, optimiser state and batch, by what allocated
    it: ``activations of`` a part of the model, its temporaries included; ``encoder run again`` by
    `running.recompute`; ``gradients and temporaries`` of the backward pass or the optimiser."""

    @property
    def saved(self) -> int:
        """All activations."""
        return sum(self.activations.values())

    @property
    def step(self) -> int:
        """The most that is alive beside weights, buckets, optimiser state and batch."""
        return sum(self.at_peak.values())

    @property
    def peak(self) -> int:
        """The most that is alive at one time."""
        return self.weights + self.buckets + self.optimizer + self.batch + self.step

    @property
    def parts(self) -> dict[str, int]:
        """What the peak is made of, largest first."""
        parts = {"weights": self.weights, "optimiser": self.optimizer, "buckets": self.buckets,
                 "batch": self.batch}  # fmt: skip
        return dict(sorted((parts | self.at_peak).items(), key=lambda item: -item[1]))

    @property
    def dominant(self) -> str:
        """The largest part with its share, ``activations of encoder, 61 % of the peak``."""
        name, size = next(iter(self.parts.items()))
        return f"{name}, {100 * size / self.peak:.0f} % of the peak"

    def table(self) -> str:
        """A line for each part and the peak, with its share of the peak."""
        return "\n".join(
            f"{name:<26}{format_bytes(size):>12}{100 * size / self.peak:>7.1f} %"
            for name, size in {**self.parts, "peak": self.peak}.items() if size
        )  # fmt: skip


def format_bytes(size: int) -> str:
    """``24.08 GiB``, ``614 MiB``; a binary gigabyte is what GPUs are sold by."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def estimate_memory(config: RunConfig, *, processes: int = 1) -> MemoryEstimate:
    """Peak memory of one training step of `config`, on each of `processes` devices.

    ``train.amp=auto`` counts as on CUDA, bfloat16. The tests compare the estimate with what
    autograd saves and what the allocator hands out on a CPU; on a GPU it is unchecked. Several
    processes are taken to hold a copy each, as DDP has them: with ``train.parallel=fsdp``, which
    shares weights, gradients and the optimiser's state out, it is an upper bound.

    Raises:
        UserError: a batch that does not divide into processes and accumulated parts.
    """
    whole("processes", processes, 1)
    train, (height, width) = config.train, config.data.crop_size
    images = train.local_batch(processes) // train.accumulate
    with torch.device("meta"):
        model = SETR.from_config(config.model).train()
        if train.freeze_encoder:
            model.encoder.requires_grad_(False)
        for module in (model.encoder, *model.encoder.blocks):  # may run again in backward passes
            module.forward = _like_the_device(module.forward, train.amp != "off")
        recompute_encoder(model.encoder, train)
        image = torch.empty(images, 3, height, width)
        label = torch.empty(images, height, width, dtype=torch.uint8)
    learned = [p for p in model.parameters() if p.requires_grad]
    gradients = _bytes(learned)
    if train.accumulate > 1:  # the later parts find gradients there
        for parameter in learned:
            parameter.grad = torch.empty_like(parameter)
    one_part = replace(config, train=replace(train, accumulate=1))
    saved, at_peak = _take_step(model, image, label, one_part)
    late = "gradients and temporaries"
    if train.accumulate > 1:
        at_peak[late] += gradients
    # AdamW works out a denominator for every parameter before it uses any
    update = gradients * (2 if config.optim.name == "adamw" else 1)
    return MemoryEstimate(
        weights=_bytes([*model.parameters(), *model.buffers()]),
        gradients=gradients,
        buckets=gradients * (processes > 1),
        optimizer=gradients * _states(config.optim),
        batch=_bytes([image, label]),
        activations=saved,
        at_peak=dict(at_peak) if at_peak.total() >= update else {late: update},
    )


def _states(optim: OptimConfig) -> int:
    """Values that the optimiser holds for each parameter."""
    return 2 if optim.name == "adamw" else int(optim.momentum > 0)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _take_step(
    model: SETR, image: Tensor, label: Tensor, config: RunConfig
) -> tuple[dict[str, int], Counter[str]]:
    """Forward, loss, backward: bytes that each part saves, and all that is alive at the peak."""
    there = [*model.parameters(), *model.buffers(), image, label]
    there += [p.grad for p in model.parameters() if p.grad is not None]
    saved = _Saved(there)
    alive = _Alive(there, saved)
    # the model's own: odd sizes are padded before the encoder, which keeps that copy
    parts: dict[str, Iterable[nn.Module]] = {
        "encoder": [model], "neck": [model.neck], "head": [model.head],
        "auxiliary heads": model.aux_heads,
    }  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(alive)
        for name, modules in parts.items():
            for module in modules:
                stack.enter_context(module.register_forward_pre_hook(saved.enter(name)))
        stack.enter_context(model.register_forward_hook(saved.enter("loss")))
        stack.enter_context(_Backward(saved))
        with saved.hooks(), _LikeTheDevice(config.train.amp != "off"):
            add_gradients(model, image, label, config)
    return dict(saved.bytes), +alive.at_peak  # what has gone by then is left out


class _Saved:
    """Counts what autograd saves, by the part of the model that is at work."""

    def __init__(self, there: Iterable[Tensor]) -> None:
        self.seen = weakref.WeakSet(tensor.untyped_storage() for tensor in there)
        self.bytes: Counter[str] = Counter()
        self.part = ""

    def hooks(self) -> saved_tensors_hooks:
        return saved_tensors_hooks(self.count, lambda tensor: tensor)

    def count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if self.part and storage not in self.seen:  # not what a backward pass saves for itself
            self.seen.add(storage)
            self.bytes[self.part] += storage.nbytes()
        return tensor

    def enter(self, part: str) -> Any:
        """A forward hook that says which part is at work from now on."""

        def hook(*_: Any) -> None:
            self.part = part

        return hook


class _Backward(TorchFunctionMode):
    """Says that no part of the model is at work once the backward pass has begun."""

    def __init__(self, at_work: _Saved) -> None:
        super().__init__()
        self.at_work = at_work

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.backward:  # its first gradient would count as run again
            kwargs["gradient"], self.at_work.part = torch.ones_like(args[0]), ""
        return func(*args, **kwargs)


class _Alive(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, by what made them, until they go."""

    def __init__(self, there: Iterable[Tensor], at_work: _Saved) -> None:
        super().__init__()
        self.known = weakref.WeakSet(tensor.untyped_storage() for tensor in there)
        self.at_work = at_work
        self.shapes = _Shapes()
        self.now: Counter[str] = Counter()
        self.total = self.peak = 0
        self.at_peak: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = self.shapes.run(func, args, kwargs or {})
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._see(value.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage not in self.known:
            maker = self._maker()
            self.known.add(storage)
            self._add(maker, storage.nbytes())
            weakref.finalize(storage, self._add, maker, -storage.nbytes())

    def _maker(self) -> str:
        if self.at_work.part:
            return f"activations of {self.at_work.part}"
        # a backward pass runs without a graph; what it runs again is given one
        return "encoder run again" if torch.is_grad_enabled() else "gradients and temporaries"

    def _add(self, maker: str, size: int) -> None:
        self.now[maker] += size
        self.total += size
        if self.total > self.peak:
            self.peak, self.at_peak = self.total, self.now.copy()


class _Shapes:
    """Runs operations on meta tensors, each only once for the same shapes.

    A block is like the next and a micro-batch like the one before, and PyTorch takes a millisecond
    to work out in Python what shape a product has.
    """

    def __init__(self) -> None:
        self.known: dict[Any, list[tuple[Any, ...]]] = {}
        """What an operation makes; nothing where it returns what it was given."""

    def run(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """What `func` returns: its shapes, strides and types."""
        key = func, _looks(args), _looks(tuple(kwargs.items()))
        if looks := self.known.get(key):
            made = [torch.empty_strided(size, stride, dtype=dtype, device="meta")
                    for _, size, stride, dtype, _ in looks]  # fmt: skip
            return made[0] if len(made) == 1 else tuple(made)
        result = func(*args, **kwargs)
        if key not in self.known:
            outputs = result if isinstance(result, tuple) else (result,)
            new = _are_new(outputs, args)
            self.known[key] = [_looks(value) for value in outputs] if new else []
        return result


def _are_new(outputs: tuple, args: tuple) -> bool:
    """Whether all outputs lie on the meta device, in memory of their own."""
    given = {v.untyped_storage()._cdata for v in tree_leaves(args) if isinstance(v, Tensor)}
    return all(
        isinstance(value, Tensor) and value.is_meta and value.untyped_storage()._cdata not in given
        for value in outputs
    )


def _looks(value: Any) -> Any:
    """All that a meta kernel sees of an argument, to be compared."""
    if isinstance(value, Tensor):
        return Tensor, value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, list | tuple):
        return tuple(map(_looks, value))
    return type(value), value  # 1, 1.0 and True are equal


class _LikeTheDevice(TorchFunctionMode):
    """Fused attention and, with `amp`, autocast, for the meta device, which has neither."""

    def __init__(self, amp: bool) -> None:
        super().__init__()
        self.types = {F.linear: torch.bfloat16, F.conv2d: torch.bfloat16} if amp else {}
        self.types |= {F.layer_norm: torch.float32} if amp else {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _FusedAttention.apply(*args[:3])
        if func in self.types:
            dtype = self.types[func]
            args = tuple(_cast(value, dtype) for value in args)
            kwargs = {name: _cast(value, dtype) for name, value in kwargs.items()}
        return func(*args, **kwargs)


def _like_the_device(compute: Callable[..., Any], amp: bool) -> Callable[..., Any]:
    """`compute` in a `_LikeTheDevice` of its own: PyTorch leaves them while it goes backwards."""

    @wraps(compute)
    def run(*args: Any, **kwargs: Any) -> Any:
        with _LikeTheDevice(amp):
            return compute(*args, **kwargs)

    return run


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


class _FusedAttention(torch.autograd.Function):
    """What the fused kernels save, and an output that lies in memory as theirs does."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        b, heads, n, _ = q.shape
        out = v.new_empty(b, n, heads, v.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(q, k, v, out, q.new_empty(b, heads, n, dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])
