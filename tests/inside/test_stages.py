"""Maps caught half-way: the right ones, read and painted as their definition says."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from setr_lite.errors import UserError
from setr_lite.inside.stages import catch, feature_colors, fit_readout
from setr_lite.model import SETR


def test_catch_gives_what_the_modules_put_out():
    model = SETR(5, "pup", "toy", img_size=(16, 24), channels=8, aux=False).eval()
    image = torch.randn(2, 3, 16, 24)
    maps = catch(model, image, ["head.convs.2", "head.norm"])
    assert list(maps) == ["head.convs.2", "head.norm"]
    assert maps["head.norm"].shape == (2, 144, 2, 3)
    logits = model.head.classifier(maps["head.convs.2"])
    torch.testing.assert_close(logits, model(image).logits)
    assert not any(module._forward_hooks for module in model.modules())


def test_catch_refuses_unknown_names_and_leaves_no_hook():
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    with pytest.raises(UserError, match="no module 'head'"):
        catch(model, torch.zeros(1, 3, 2, 2), ["0", "head"])
    assert not model[0]._forward_hooks


def test_readout_is_the_stationary_point_of_its_loss():
    torch.manual_seed(0)
    features = 3 + 2 * torch.randn(2, 4, 4, 6, dtype=torch.float64)
    label = torch.randint(0, 3, (2, 8, 12))
    label[0, :2, :2] = 255
    readout = fit_readout(features, label, 3, decay=1e-2, steps=500)
    weight = readout.weight.detach().clone().requires_grad_()
    bias = readout.bias.detach().clone().requires_grad_()
    logits = F.interpolate(F.conv2d(features, weight, bias), scale_factor=2.0, mode="nearest")
    total = F.cross_entropy(logits, label, ignore_index=255, reduction="sum")
    spread = features.movedim(1, 0).flatten(1).std(dim=1)
    scaled = weight * spread[None, :, None, None]
    (total / label.numel() + 1e-2 * scaled.square().sum()).backward()
    assert weight.grad.abs().max() < 1e-7
    assert bias.grad.abs().max() < 1e-7


def test_readout_finds_what_is_there_to_read():
    label = torch.randint(0, 4, (2, 6, 6))
    features = F.one_hot(label, 4).movedim(-1, 1).float() * 50 + 7
    found = fit_readout(features, label, 4)(features)
    assert found.dtype == torch.float32
    assert torch.equal(found.argmax(1), label)


def test_readout_refuses_a_map_that_does_not_divide_the_labels():
    with pytest.raises(UserError, match="does not divide"):
        fit_readout(torch.zeros(1, 2, 5, 6), torch.zeros(1, 12, 12), 3)


def test_colours_resemble_the_picture_and_ignore_rotations():
    torch.manual_seed(0)
    picture = torch.randint(0, 256, (3, 8, 12)).byte()
    features = torch.cat([picture.double() * 5, torch.randn(4, 8, 12).double()])
    colors = feature_colors(features, picture)
    assert colors.shape == (8, 12, 3)
    assert colors.dtype == torch.uint8
    for channel in range(3):
        pair = torch.stack(
            [colors[..., channel].flatten().double(), picture[channel].flatten().double()]
        )
        assert torch.corrcoef(pair)[0, 1] > 0.95
    turn = torch.linalg.qr(torch.randn(7, 7).double()).Q
    turned = torch.einsum("ij,jhw->ihw", turn, features)
    gap = feature_colors(turned, picture).int() - colors.int()
    assert gap.abs().max() <= 1
