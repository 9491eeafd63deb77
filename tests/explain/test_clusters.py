"""Clusters of maps: groups with different places are told apart, alike ones are not split."""

import numpy as np
import pytest
import torch
from torch import Tensor

from convlens.explain.clusters import assign_labels, average_cells, cluster_maps, find_place


def make_maps(*places: tuple[int, float, float], spread: float = 0.1, seed: int = 0) -> Tensor:
    """Return maps with a bump each: (count, row, column) in [0, 1]; NaN for a random place."""
    rng = torch.Generator().manual_seed(seed)
    grid = torch.linspace(0, 1, 14)
    maps = []
    for count, row, column in places:
        for _ in range(count):
            at = torch.tensor([row, column]) + 0.03 * torch.randn(2, generator=rng)
            at = torch.where(at.isnan(), 0.2 + 0.6 * torch.rand(2, generator=rng), at)
            squares = (grid[:, None] - at[0]) ** 2 + (grid - at[1]) ** 2
            strength = 0.1 + torch.rand(1, generator=rng)
            maps.append(strength * torch.exp(-squares / (2 * spread**2)))
    return torch.stack(maps)


@pytest.mark.parametrize("seed", range(5))
def test_groups_at_different_places_are_told_apart(seed):
    maps = make_maps((14, 0.05, 0.05), (9, 0.9, 0.5), (7, 0.5, 0.9), seed=seed)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    clusters = cluster_maps(average_cells(maps[order]))
    assert [len(rows) for rows in clusters] == [14, 9, 7]
    groups = torch.tensor([0] * 14 + [1] * 9 + [2] * 7)[order]
    for number, rows in enumerate(clusters):
        assert (groups[rows] == number).all() and rows.tolist() == sorted(rows.tolist())


@pytest.mark.parametrize("seed", range(5))
def test_a_mark_in_half_of_the_images_is_a_cluster_of_its_own(seed):
    """The other half looks at objects that are anywhere."""
    nan = float("nan")
    maps = make_maps((15, 0.05, 0.95), (15, nan, nan), spread=0.15, seed=seed)
    clusters = cluster_maps(average_cells(maps))
    marked = max(clusters, key=lambda rows: int((rows < 15).sum()))
    assert (marked < 15).sum() == 15 and len(marked) <= 18


def test_one_place_is_one_cluster_and_strength_does_not_matter():
    maps = make_maps((20, 0.5, 0.5))
    (rows,) = cluster_maps(average_cells(maps))
    assert rows.tolist() == list(range(20))
    scaled = maps * torch.logspace(-6, 6, 20)[:, None, None]
    torch.testing.assert_close(average_cells(scaled), average_cells(maps))


def test_maps_without_evidence_belong_to_no_cluster():
    maps = make_maps((10, 0.5, 0.5))
    maps[3], maps[7, 2, 2] = 0, float("inf")
    (rows,) = cluster_maps(average_cells(maps))
    assert rows.tolist() == [0, 1, 2, 4, 5, 6, 8, 9]
    assert cluster_maps(average_cells(maps[:3])) == []
    assert [len(rows) for rows in cluster_maps(average_cells(maps[:3]), fewest=3)] == [3]


@pytest.mark.parametrize("size", [(14, 14), (7, 5), (1, 1), (9, 30)])
def test_cells_are_means_with_a_sum_of_one(size):
    maps = torch.rand(3, *size, generator=torch.Generator().manual_seed(0)).double()
    cells = average_cells(maps)
    assert cells.shape[1] == min(8, size[0]) and cells.shape[2] == min(8, size[1])
    torch.testing.assert_close(cells.sum((1, 2)), torch.ones(3).double())
    if max(size) <= 8:
        torch.testing.assert_close(cells, maps / maps.sum((1, 2), keepdim=True))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 1.0])
def test_a_place_is_the_smallest_set_with_its_share(share):
    cells = torch.rand(4, 5, generator=torch.Generator().manual_seed(1)).double()
    cells /= cells.sum()
    place = find_place(cells, share)
    assert cells[place].sum() >= share - 1e-9
    assert cells[place].sum() - cells[place].min() < share  # none can be left out
    assert place.all() or cells[place].min() >= cells[~place].max()


@pytest.mark.parametrize("count", [2, 3, 5])
def test_labels_are_those_of_scikit_learn(count):
    reference = pytest.importorskip(
        "sklearn.cluster._spectral", reason="comes with the extra `proofs`"
    ).cluster_qr
    for seed in range(10):
        rng = np.random.default_rng(seed)
        vectors = np.linalg.qr(rng.normal(size=(40, count)))[0] * rng.uniform(0.5, 2, (40, 1))
        assert np.array_equal(assign_labels(vectors), reference(vectors))
