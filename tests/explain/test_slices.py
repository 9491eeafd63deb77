"""Slices of low accuracy: a planted group of mistakes is found, independent mistakes are not."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
import torch
from torch import Tensor

from convlens.explain import clusters
from convlens.explain.clusters import group_points
from convlens.explain.slices import (
    choose_examples,
    compute_chance,
    describe_slice,
    find_low_slices,
    find_slices,
)

CHANCE = 0.01
WIDTH = 16  # features


def make_features(sizes: list[list[int]], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, classes and groups: by class, the sizes of its groups."""
    rng = torch.Generator().manual_seed(seed)
    rows, labels, groups = [], [], []
    for label, counts in enumerate(sizes):
        for group, count in enumerate(counts):
            centre = 3 * torch.randn(WIDTH, generator=rng)
            rows.append(centre + torch.randn(count, WIDTH, generator=rng))
            labels += [label] * count
            groups += [group] * count
    order = torch.randperm(len(labels), generator=rng)
    return torch.cat(rows)[order], torch.tensor(labels)[order], torch.tensor(groups)[order]


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_slice_is_found_and_no_other(seed):
    features, labels, groups = make_features([[40, 12], [30, 30], [50]], seed)
    wrong = (labels == 0) & (groups == 1)
    predictions = torch.where(wrong, 2, labels)
    slices = find_slices(features, labels, predictions)
    (number,) = find_low_slices(slices, fall=0.25, chance=CHANCE)
    found = slices[number]
    assert found.rows.sort().values.tolist() == wrong.nonzero()[:, 0].tolist()
    assert (found.label, found.accuracy, found.rest) == (0, 0.0, 1.0)
    assert (found.taken_for, found.taken) == (2, 12)
    assert describe_slice(found, ["cat", "dog", "emu"])[2] == "12 taken for emu"
    again = find_slices(features, labels, predictions)
    assert all(torch.equal(a.rows, b.rows) for a, b in zip(slices, again, strict=True))


def test_independent_mistakes_are_called_a_slice_no_more_often_than_stated():
    """In 200 draws at most two are expected."""
    rng, spoken = torch.Generator().manual_seed(0), 0
    for seed in range(200):
        features, labels, _ = make_features([[20, 15]], seed)
        wrong = torch.rand(len(labels), generator=rng) < 0.3
        predictions = torch.where(wrong, 1, labels)
        slices = find_slices(features, labels, predictions)
        spoken += bool(find_low_slices(slices, fall=0.0, chance=CHANCE))
    assert spoken <= 2


def test_a_fall_must_be_large_and_not_only_certain():
    features, labels, groups = make_features([[200, 200]])
    wrong = (groups == 1) & (torch.arange(400) % 5 == 0)
    slices = find_slices(features, labels, torch.where(wrong, 1, labels))
    assert find_low_slices(slices, fall=0.1, chance=CHANCE)
    assert not find_low_slices(slices, fall=0.5, chance=CHANCE)


@pytest.mark.parametrize(
    ("hits", "size", "all_hits", "total"),
    [(0, 5, 10, 30), (3, 10, 40, 50), (10, 10, 40, 50), (2, 7, 25, 27), (0, 4, 0, 9), (4, 4, 9, 9)],
)
def test_chance_is_that_of_drawing_without_replacement(hits, size, all_hits, total):
    ways = sum(comb(all_hits, k) * comb(total - all_hits, size - k) for k in range(hits + 1))
    expected = float(Fraction(ways, comb(total, size)))
    assert compute_chance(hits, size, all_hits, total) == pytest.approx(expected, rel=1e-9)


def test_small_classes_and_unknown_labels_have_no_slices():
    features, labels, _ = make_features([[9], [20, 20]])
    unknown = torch.where(labels == 1, -1, labels)
    assert find_slices(features, unknown, labels) == []
    slices = find_slices(features, labels, labels)
    assert {each.label for each in slices} == {1}
    assert all(each.taken_for is None and each.chance == 1.0 for each in slices)
    assert find_low_slices([], fall=0.25, chance=CHANCE) == []


def test_equal_features_are_one_group_and_not_a_slice():
    labels = torch.zeros(30, dtype=torch.long)
    predictions = (torch.arange(30) < 10).long()
    slices = find_slices(torch.ones(30, WIDTH), labels, predictions)
    assert find_low_slices(slices, fall=0.25, chance=CHANCE) == []


def test_mistakes_are_shown_first():
    features, labels, groups = make_features([[40, 12]])
    predictions = torch.where((groups == 1) & (torch.arange(52) % 3 == 0), 1, labels)
    found = min(find_slices(features, labels, predictions), key=lambda each: each.accuracy)
    shown = choose_examples(found, predictions, 6)
    assert len(shown) == 6 and set(shown.tolist()) <= set(found.rows.tolist())
    wrong = (predictions[shown] != 0).tolist()
    assert wrong == sorted(wrong, reverse=True) and wrong[0]


# --- clusters of many points


def make_groups(seed: int, sizes: tuple[int, ...] = (60, 40, 30)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    points = 8 * np.eye(len(sizes), 5)[groups] + rng.normal(size=(len(groups), 5))
    order = rng.permutation(len(groups))
    return points[order], groups[order]


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    return len({*zip(one.tolist(), other.tolist(), strict=True)}) == len({*one}) == len({*other})


@pytest.mark.parametrize("seed", range(3))
def test_points_beyond_the_largest_number_join_their_cluster(seed, monkeypatch):
    points, groups = make_groups(seed)
    assert same_partition(group_points(points, most=5), groups)
    monkeypatch.setattr(clusters, "LARGEST", 50)
    assert same_partition(group_points(points, most=5), groups)


@pytest.mark.parametrize("seed", range(3))
def test_the_partition_is_that_of_scikit_learn(seed):
    sklearn = pytest.importorskip("sklearn.cluster", reason="comes with the extra `proofs`")
    points, _ = make_groups(seed, (25, 20))
    squares = ((points[:, None] - points) ** 2).sum(2)
    scale = np.median(squares[np.triu_indices(len(points), 1)])
    reference = sklearn.SpectralClustering(
        2, affinity="precomputed", assign_labels="cluster_qr", random_state=0
    ).fit_predict(np.exp(-2 * squares / scale))
    assert same_partition(group_points(points, most=2, least=2), reference)
