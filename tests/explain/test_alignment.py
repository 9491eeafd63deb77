"""CKA against its definition as a mean over fours of images, and against the paper's formula."""

from itertools import permutations

import pytest
import torch
from torch import Tensor

from convlens.explain.alignment import cka, compute_gram


def features(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).double()


def estimate_by_fours(first: Tensor, second: Tensor) -> float:
    """HSIC as a U-statistic: the mean over all ordered fours of different images."""
    found = [
        first[i, j] * (second[i, j] + second[k, m] - 2 * second[i, k])
        for i, j, k, m in permutations(range(len(first)), 4)
    ]
    return float(sum(found) / len(found))


def test_it_is_the_mean_over_all_fours_of_images():
    raw = [(features(6, 5, seed), features(6, 9, seed + 10)) for seed in range(3)]
    raw = [(one + 3, other + one[:, :1]) for one, other in raw]
    grams = [[each @ each.T for each in pair] for pair in raw]  # not centred
    sums = [
        sum(estimate_by_fours(pair[a], pair[b]) for pair in grams)
        for a, b in ((0, 1), (0, 0), (1, 1))
    ]
    expected = sums[0] / (sums[1] * sums[2]) ** 0.5
    first, second = (torch.stack([compute_gram(pair[k]) for pair in raw]) for k in (0, 1))
    assert cka(first, second) == pytest.approx(expected, abs=1e-12)


def test_with_many_images_it_is_the_formula_of_the_paper():
    one = features(3000, 4, 0)
    other = one @ features(4, 6, 1) + 2 * features(3000, 6, 2)
    x, y = one - one.mean(0), other - other.mean(0)
    paper = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    assert 0.2 < paper < 0.9
    found = cka(compute_gram(one)[None], compute_gram(other)[None])
    assert found == pytest.approx(float(paper), abs=0.005)


def test_neither_channels_nor_scale_nor_rotation_matter():
    values = features(16, 12, 0).reshape(16, 3, 2, 2)
    turn, _ = torch.linalg.qr(features(12, 12, 1))
    gram = compute_gram(values)[None]
    for same in (values, values[:, [2, 0, 1]], 7 * values + 5, values.flatten(1) @ turn):
        assert cka(gram, compute_gram(same)[None]) == pytest.approx(1, abs=1e-12)


def test_unrelated_wide_layers_are_about_zero_though_the_paper_s_estimate_is_not():
    found, biased = [], []
    for seed in range(20):
        one, other = (compute_gram(features(16, 4000, seed + k)) for k in (0, 100))
        found.append(cka(one[None], other[None]))
        biased.append(float((one * other).sum() / (one.norm() * other.norm())))
    assert abs(sum(found) / 20) < 0.1
    assert min(biased) > 0.8


def test_what_tells_no_image_from_another_has_none():
    flat = torch.ones(1, 8, 8) - 1
    assert torch.isnan(torch.tensor(cka(flat, compute_gram(features(8, 3, 0))[None])))


@pytest.mark.parametrize("shapes", [((1, 3, 3), (1, 3, 3)), ((2, 8, 8), (1, 8, 8)), ((8, 8),) * 2])
def test_other_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match="Gram matrices"):
        cka(*(torch.zeros(shape) for shape in shapes))
