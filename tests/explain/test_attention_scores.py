"""Scores of attention and tokens, in closed form and by brute force."""

import math

import pytest
import torch

from convlens.explain.attention_scores import (
    attention_distance,
    head_diversity,
    head_entropy,
    norm_outliers,
    token_drift,
)
from convlens.explain.axes import Tokens


def random_weights(heads=3, count=7):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, heads, count, count, generator=generator).double().softmax(-1)


def test_entropy_in_closed_form():
    even, sharp = torch.full((1, 1, 4, 4), 0.25), torch.eye(4)[None, None]
    half = torch.tensor([0.5, 0.5, 0, 0]).expand(1, 1, 4, 4)
    assert head_entropy(torch.cat([even, sharp, half], 1))[0].tolist() == pytest.approx([1, 0, 0.5])
    assert head_entropy(torch.ones(1, 1, 3, 1)).item() == 0
    even = [torch.full((1, 1, 1, count), 1 / count) for count in range(2, 200)]
    assert max(head_entropy(each).item() for each in even) <= 1  # also when rounded
    weights = random_weights()
    expected = torch.distributions.Categorical(weights).entropy().mean(-1) / math.log(7)
    torch.testing.assert_close(head_entropy(weights), expected)


def test_diversity_in_closed_form():
    same = torch.full((1, 2, 4, 4), 0.25)
    apart = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]])[:, None].expand(1, 2, 4, 4)
    assert head_diversity(same).item() == 0
    assert head_diversity(apart).item() == pytest.approx(1)
    assert head_diversity(same[:, :1]).isnan().all()


def test_diversity_is_the_mean_divergence_from_the_mean_head():
    weights = random_weights()
    mean = weights.mean(1, keepdim=True)
    expected = (weights * (weights / mean).log()).sum(-1).mean(1).mean(-1) / math.log(3)
    torch.testing.assert_close(head_diversity(weights), expected)


def test_distance_by_brute_force():
    tokens, size = Tokens(1, 2, 3), (20, 60)
    weights = random_weights(2, 7)
    expected = torch.zeros(2, 2).double()
    for query in range(6):
        inner = weights[:, :, 1 + query, 1:]
        for key in range(6):
            rows, columns = query // 3 - key // 3, query % 3 - key % 3
            apart = math.hypot(rows * 10, columns * 20)
            expected += inner[..., key] / inner.sum(-1) * apart / 6
    torch.testing.assert_close(attention_distance(weights, tokens, size), expected)
    assert attention_distance(torch.eye(7)[None, None], tokens, size).item() == 0


def test_outliers_are_planted_ones():
    generator = torch.Generator().manual_seed(1)
    patches = torch.randn(2, 64, 8, 8, generator=generator)
    assert norm_outliers(patches).share.tolist() == [0, 0]
    patches[0, :, 0, 0] *= 8
    patches[0, :, 5, 6] *= 8
    found = norm_outliers(patches)
    assert found.map.nonzero().tolist() == [[0, 0, 0], [0, 5, 6]]
    assert found.share.tolist() == pytest.approx([2 / 64, 0])
    logs = patches.norm(dim=1).log()
    spread = 1.4826 * (logs - logs.median()).abs().median()
    assert found.threshold == pytest.approx(float((logs.median() + 6 * spread).exp()))
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[:, :, :8] = True  # the object: the left half, with one of the two
    assert norm_outliers(patches, masks).share.tolist() == pytest.approx([1 / 32, 0])
    assert norm_outliers(patches, torch.ones_like(masks)).share.isnan().all()


def test_drift_in_closed_form():
    before = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 0]])
    after = torch.tensor([[3.0, 0], [0, 2], [-1, 0], [1, 0]])
    drift = token_drift(before, after)
    assert drift[:3].tolist() == [0, 1, 2] and drift[3].isnan()
