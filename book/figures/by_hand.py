"""A few layers and fillings by hand, for chapters 6 and 7: chapter 5 shows what they repeat."""

import torch
from torch import Tensor, nn


def fill(module: nn.Module, std: float = 0.2, seed: int = 0) -> nn.Module:
    """The module in float64 and eval mode, all its parameters and statistics drawn anew."""
    torch.manual_seed(seed)
    for name, value in module.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point():
            value.normal_(0, std)
    return module.double().eval()


def layer_norm(x: Tensor, norm: nn.Module) -> Tensor:
    """Over the channels of a map (B, C, h, w), position by position."""
    mean = x.mean(dim=1, keepdim=True)
    var = x.var(dim=1, keepdim=True, correction=0)
    x = (x - mean) / (var + norm.eps).sqrt()
    return x * norm.weight[:, None, None] + norm.bias[:, None, None]


def batch_norm(x: Tensor, norm: nn.Module) -> Tensor:
    """With the statistics of the training: one factor and one shift for each channel of a map."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * scale
    return x * scale[:, None, None] + shift[:, None, None]
