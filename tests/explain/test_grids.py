"""Maps are put together from tokens and windows in whatever order, or refused; never guessed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convlens.core.errors import UserError
from convlens.explain import activations, grad_cam
from support.token_networks import double, images_of


class OneBlock(nn.Module):
    """Tokens that pass through ``way`` between a convolution and the mean of all."""

    def __init__(self, way):
        super().__init__()
        self.stem, self.out, self.way = nn.Conv2d(3, 4, 2, 2), nn.Identity(), way
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        maps = self.stem(x)
        # each way ends with the channels last, and calls ``self.out`` where it is looked at
        return self.head(self.way(maps, self.out).flatten(1, -2).mean(1))


def as_tokens(maps):
    return maps.flatten(2).transpose(1, 2)


def in_windows(maps, out):
    batch, channels, height, width = maps.shape
    parts = maps.view(batch, channels, height // 4, 4, width // 4, 4)
    windows = out(parts.permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, channels))
    parts = windows.view(batch, height // 4, width // 4, 4, 4, channels)
    return parts.permute(0, 1, 3, 2, 4, 5).reshape(batch, height * width, channels)


def in_shifted_windows(maps, out):
    return in_windows(maps.roll((-2, 1), (2, 3)), out)


def shifted_there_and_back(maps, out):
    again = in_windows(maps.roll((-2, -2), (2, 3)), nn.Identity())
    whole = again.view(len(maps), *maps.shape[2:], -1).roll((2, 2), (1, 2))
    return out(whole.flatten(1, 2))


def with_tokens_before_and_after(maps, out):
    tokens, one = as_tokens(maps), maps.new_ones(1, 1, 4).expand(len(maps), -1, -1)
    return out(torch.cat([one, one, tokens, one], 1))[:, 2:-1]


def sequence_first(maps, out):
    return out(maps.flatten(2).permute(2, 0, 1)).transpose(0, 1)


def channels_in_the_middle(maps, out):
    return out(as_tokens(maps).transpose(1, 2)).transpose(1, 2)


def every_second(maps, out):
    return as_tokens(out(maps[:, :, ::2, 1::2]).contiguous())


def batch_and_tokens_in_one(maps, out):
    return out(as_tokens(maps).reshape(-1, 4)).view(len(maps), -1, 4)


KNOWN = {
    in_windows: lambda maps: maps,
    in_shifted_windows: lambda maps: maps,
    shifted_there_and_back: lambda maps: maps,
    with_tokens_before_and_after: lambda maps: maps,
    sequence_first: lambda maps: maps,
    channels_in_the_middle: lambda maps: maps,
    every_second: lambda maps: maps[:, :, ::2, 1::2],
    batch_and_tokens_in_one: lambda maps: maps,
}


@pytest.mark.parametrize("way", KNOWN, ids=lambda way: way.__name__)
@pytest.mark.parametrize("count", [1, 2])
def test_a_map_is_put_together_from_whatever_a_layer_makes_of_it(way, count):
    model, images = double(OneBlock, way=way), images_of(16, 24, count)
    with torch.no_grad():
        expected = KNOWN[way](model.stem(images))
    for _ in range(2):  # tracked, then from the cache
        assert torch.equal(activations(model, images, ["out"]).layers["out"], expected)
    more = images_of(16, 24, 5)
    with torch.no_grad():
        expected = KNOWN[way](model.stem(more))
    assert torch.equal(activations(model, more, ["out"]).layers["out"], expected)
    # as many patches on another grid
    turned = images_of(24, 16)
    with torch.no_grad():
        expected = KNOWN[way](model.stem(turned))
    assert torch.equal(activations(model, turned, ["out"]).layers["out"], expected)


def rolled_by_hand(maps, out):
    return as_tokens(out(torch.cat([maps[:, :, 3:], maps[:, :, :3]], 2)))


def flipped(maps, out):
    return out(as_tokens(maps.flip(2)))


def shuffled(maps, out):
    tokens = as_tokens(maps)
    return out(tokens[:, torch.arange(tokens.shape[1] - 1, -1, -1)])


def half_of_them(maps, out):
    return out(as_tokens(maps)[:, 5:])


def doubled(maps, out):
    return out(torch.cat([as_tokens(maps), as_tokens(maps)], 1))


def rows_only(maps, out):
    parts = maps.unflatten(2, (2, -1))
    return out(parts[:, :, 0].flatten(2).transpose(1, 2))


def mixed_positions(maps, out):
    weights = maps.new_ones(maps.shape[2] * maps.shape[3], 7)
    return out((maps.flatten(2) @ weights).transpose(1, 2))


def attention_matrix(maps, out):
    tokens = as_tokens(maps)
    return out((tokens @ tokens.transpose(1, 2)).softmax(-1)) @ tokens


def transposed_grid_added(maps, out):
    return out(as_tokens(maps) + maps.transpose(2, 3).flatten(2).transpose(1, 2))


@pytest.mark.parametrize(
    "way",
    [rolled_by_hand, flipped, shuffled, half_of_them, doubled, rows_only, mixed_positions,
     attention_matrix, transposed_grid_added],
    ids=lambda way: way.__name__,
)  # fmt: skip
def test_what_no_rule_knows_is_refused(way):
    model, images = double(OneBlock, way=way), images_of(16)
    for look in (
        lambda: activations(model, images, ["out"]),
        lambda: grad_cam(model, images, torch.tensor([0, 1]), ["out"]),
    ):
        with pytest.raises(UserError, match="layer 'out' returns"):
            look()
