"""ReLU behind max pooling gives the bits of ReLU before it, maps and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convlens.models.pooled import run_pooled


def block(pool: nn.Module, inplace: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=inplace), pool, nn.Conv2d(8, 4, 3))


def both(part: nn.Module, half: bool = False) -> list[list[torch.Tensor]]:
    """Output and gradients, as the part stands and swapped."""
    # few different values: windows with ties, and windows without a positive value
    images = torch.randint(-2, 3, (4, 3, 21, 18), generator=torch.Generator().manual_seed(1)) / 2
    found = []
    for run in (part, lambda values: run_pooled(part, values)):
        part.zero_grad()
        given = images.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = run(given)
        output.float().square().sum().backward()
        found.append([output.detach(), given.grad, *(p.grad.clone() for p in part.parameters())])
    return found


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    "pool",
    [nn.MaxPool2d(2), nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)],
    ids=["2", "overlapping", "padded"],
)
def test_maps_and_gradients_are_the_same_bit_for_bit(pool, half):
    part = block(pool)
    ran = []
    pool.forward = lambda x, forward=pool.forward: ran.append(bool((x < 0).any())) or forward(x)
    stood, swapped = both(part, half)
    assert ran == [False, True]  # it really pooled before the ReLU
    for one, other in zip(stood, swapped, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("layer", [1, 2])
def test_a_hook_sees_what_the_layer_gives_where_it_stands(layer):
    part = block(nn.MaxPool2d(2), inplace=False)
    seen = []
    part[layer].register_forward_hook(lambda module, given, output: seen.append(output.detach()))
    images = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(2))
    part(images), run_pooled(part, images)
    assert torch.equal(*seen)


def test_other_layers_run_in_their_order():
    """Average pooling does not commute with ReLU; what is no ReLU is left alone."""
    for first, pool in ((nn.ReLU(), nn.AvgPool2d(2)), (nn.Tanh(), nn.MaxPool2d(2))):
        part = nn.Sequential(nn.Conv2d(3, 8, 3), first, pool)
        images = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(3))
        assert torch.equal(part(images), run_pooled(part, images))
