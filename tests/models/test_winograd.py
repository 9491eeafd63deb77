"""Winograd's algorithm computes what a convolution computes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convlens.models import winograd
from convlens.models.winograd import (
    TILES,
    FrozenChain,
    choose_tile,
    conv3x3_winograd,
    is_worthwhile,
    transform_weight,
)


def a_layer(channels, outputs, height, width, pictures=3):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(pictures, channels, height, width, generator=generator).relu()
    scale = (2 / (9 * channels)) ** 0.5
    weight = torch.randn(outputs, channels, 3, 3, generator=generator) * scale
    return x, weight, torch.randn(outputs, generator=generator) * 0.1


def exact(x, weight, bias=None):
    return F.conv2d(x.double(), weight.double(), None if bias is None else bias.double(), padding=1)


def close(found, wanted):
    """Largest error below 2e-4 of the wanted values' standard deviation."""
    return (found.double() - wanted).abs().max() < 2e-4 * wanted.std()


@pytest.mark.parametrize("m", TILES)
@pytest.mark.parametrize("size", [(1, 1), (2, 7), (9, 9), (18, 18), (37, 25), (75, 4)])
def test_equals_the_direct_convolution_in_float64(m, size, monkeypatch):
    monkeypatch.setattr(winograd, "TILES", (m,))
    x, weight, bias = a_layer(24, 40, *size)
    wanted = exact(x, weight, bias)
    kept = transform_weight(weight, m)
    assert close(conv3x3_winograd(x, weight, bias, kept), wanted)
    assert close(conv3x3_winograd(x, weight, bias, kept, relu=True), wanted.relu())
    assert close(conv3x3_winograd(x, weight, None, kept), exact(x, weight))


def test_memory_layout_does_not_matter():
    x, weight, bias = a_layer(16, 8, 18, 18)
    kept = transform_weight(weight, choose_tile(18, 18))
    plain = conv3x3_winograd(x, weight, bias, kept)
    last = conv3x3_winograd(x.contiguous(memory_format=torch.channels_last), weight, bias, kept)
    assert torch.equal(plain, last)
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_the_direct_convolution_is_wanted_where_this_one_does_not_fit():
    x = torch.rand(16, 128, 18, 18)
    conv = nn.Conv2d(128, 128, 3, padding=1)
    assert is_worthwhile(x, conv)
    assert is_worthwhile(x, nn.Conv2d(128, 128, 3, padding="same"))
    assert not is_worthwhile(x[:1], conv)
    assert not is_worthwhile(x.double(), conv)
    assert not is_worthwhile(x[:, :32], nn.Conv2d(32, 32, 3, padding=1))
    for other in (
        dict(kernel_size=3),
        dict(kernel_size=1),
        dict(kernel_size=5, padding=2),
        dict(kernel_size=3, padding=1, stride=2),
        dict(kernel_size=3, padding=1, groups=2),
        dict(kernel_size=3, padding=2, dilation=2),
        dict(kernel_size=3, padding=1, padding_mode="reflect"),
    ):
        assert not is_worthwhile(x, nn.Conv2d(128, 128, **other))
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_worthwhile(x, conv)


def chain():
    torch.manual_seed(0)
    block = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )
    return nn.Sequential(block, nn.Conv2d(128, 128, 3, padding=1)).requires_grad_(False)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("pictures", [1, 7, 20])
def test_a_chain_gives_what_its_layers_give(threads, pictures):
    layers, x = chain(), torch.rand(pictures, 3, 30, 30)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = FrozenChain(layers)(x)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert close(found, layers.double()(x.double()))
    assert not found.requires_grad


def test_the_first_layers_see_few_images_at_a_time():
    """Their maps are the largest: a whole batch of them would decide the peak of memory."""
    layers, seen = chain(), []
    layers[0][0].register_forward_hook(lambda layer, x, y: seen.append(len(y)))
    FrozenChain(layers)(torch.rand(19, 3, 30, 30))
    assert sum(seen) == 19
    assert max(seen) == winograd.PIECE


def test_a_chain_gives_the_same_bits_every_time():
    layers, x = chain(), torch.rand(20, 3, 30, 30)
    assert torch.equal(FrozenChain(layers)(x), FrozenChain(layers)(x))


def test_a_chain_notices_new_weights():
    layers, x = chain(), torch.rand(12, 3, 30, 30)
    run = FrozenChain(layers)
    run(x)
    layers[1].weight.mul_(-2)
    layers[0][2].weight = nn.Parameter(layers[0][2].weight * 3)
    assert close(run(x), layers.double()(x.double()))


def test_an_error_in_a_thread_reaches_the_caller_and_the_threads_come_back():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError):
        FrozenChain(chain())(torch.rand(20, 5, 30, 30))
    assert torch.get_num_threads() == before
