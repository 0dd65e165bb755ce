"""What a network has in hand half-way: maps caught on the way, read as classes, painted as colours.

`catch` keeps what modules of a model put out, `fit_readout` asks what a 1x1 classifier can read
there, `feature_colors` shows it as a picture. None of them changes the model.

Shapes: B images of H x W pixels, D channels of a map, h x w its size, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import IGNORE
from ..errors import UserError, nearest


@torch.no_grad()
def catch(model: nn.Module, image: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """Capture the outputs (activations) of the modules called `names` in one forward pass.

    Names are those of ``model.named_modules()``: ``head.convs.1``, ``neck.smooth.0``. The model
    runs as it is, so put it in eval mode first. Call it before any ``compile``: a compiled module
    runs without hooks.

    Raises:
        UserError: a name that the model lacks.
    """
    modules = dict(model.named_modules())
    names = list(names)
    caught: dict[str, Tensor] = {}
    for name in names:
        if name not in modules:
            raise UserError(f"no module {name!r} in the model{nearest(name, modules)}")
    handles = [
        modules[name].register_forward_hook(
            lambda _, inputs, output, name=name: caught.__setitem__(name, output)
        )
        for name in names
    ]
    try:
        model(image)
    finally:
        for handle in handles:
            handle.remove()
    return {name: caught[name] for name in names}


def fit_readout(
    features: Tensor, label: Tensor, num_classes: int, *, decay: float = 1e-4, steps: int = 100
) -> nn.Conv2d:
    """The best 1x1 classifier of a map, given labels at full size: a linear probe.

    Logistic regression by L-BFGS in float64, a convex problem with one answer. Each position
    learns from the class shares of the pixels below it. Channels are standardised first, and the
    weights returned take that back.

    Args:
        features: (B, D, h, w), where h and w divide H and W.
        label: (B, H, W) integers, 255 where unknown.
        num_classes: K.
        decay: weight of the squared weights, per standardised channel.
        steps: most iterations.

    Returns:
        A convolution (B, D, h, w) -> (B, K, h, w) of the features' type.

    Raises:
        UserError: a map that does not divide the label's size.
    """
    height, width = features.shape[-2:]
    target = _shares(label.to(features.device), (height, width), num_classes).double()
    x = features.detach().double().movedim(1, -1).flatten(0, 2)
    mean, spread = x.mean(dim=0), x.std(dim=0).clamp_min(1e-9)
    x, target = (x - mean) / spread, target.movedim(1, -1).flatten(0, 2)
    weight = x.new_zeros(num_classes, x.shape[1]).requires_grad_()
    bias = x.new_zeros(num_classes).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=steps, tolerance_grad=1e-9, tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        with torch.enable_grad():
            optimizer.zero_grad()
            logits = F.linear(x, weight, bias)
            value = -(target * logits.log_softmax(dim=1)).sum() / len(x)
            value = value + decay * weight.square().sum()
            value.backward()
        return value

    optimizer.step(loss)
    readout = nn.Conv2d(x.shape[1], num_classes, kernel_size=1).to(features)
    with torch.no_grad():
        weight = weight / spread
        readout.weight.copy_(weight[:, :, None, None])
        readout.get_parameter("bias").copy_(bias - weight @ mean)
    return readout.requires_grad_(False)


def _shares(label: Tensor, grid: tuple[int, int], num_classes: int) -> Tensor:
    """(B, H, W) labels -> (B, K, h, w), the share of each class in the pixels of a cell."""
    rows, columns = label.shape[-2] / grid[0], label.shape[-1] / grid[1]
    if rows % 1 or columns % 1:
        raise UserError(
            f"a map of {tuple(grid)} does not divide labels of {tuple(label.shape[-2:])} pixels"
        )
    one_hot = F.one_hot(label.long().where(label != IGNORE, num_classes), num_classes + 1)
    pixels = one_hot.movedim(-1, 1)[:, :num_classes].float()
    return F.avg_pool2d(pixels, (int(rows), int(columns)))


def feature_colors(features: Tensor, picture: Tensor) -> Tensor:
    """A map of D channels as colours, uint8 (h, w, 3).

    The three directions in which positions differ most become red, green and blue, turned so that
    they resemble `picture` as far as a rotation can: similar contents get similar colours.
    Without the turning, colours would jump from one stage to the next at random.

    Args:
        features: (D, h, w), D >= 3.
        picture: (3, H, W) uint8, what was segmented.
    """
    rows = features.detach().double().flatten(1).T  # (h * w, D)
    rows = rows - rows.mean(dim=0)
    height, width = features.shape[-2:]
    small = F.adaptive_avg_pool2d(picture.double(), (height, width)).flatten(1).T
    small = small - small.mean(dim=0)
    three = torch.linalg.svd(rows, full_matrices=False).U[:, :3]
    left, _, right = torch.linalg.svd(three.T @ small)
    three = three @ left @ right
    low, high = three.quantile(0.02, dim=0), three.quantile(0.98, dim=0)
    scaled = ((three - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return (255 * scaled).round().byte().unflatten(0, features.shape[-2:])
