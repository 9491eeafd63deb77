"""Cluster maps of evidence by where the evidence is (SpRAy).

S. Lapuschkin et al., *Unmasking Clever Hans predictors and assessing what machines really learn*,
2019, https://doi.org/10.1038/s41467-019-08987-4: spectral clustering of a class's maps, whose
number of clusters is read from the largest gap between the Laplacian's eigenvalues.

Legend: N maps, (h, w) their size.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LARGEST = 1000  # points that are clustered; others join their clusters
CELLS = 8  # rows and columns to which larger maps are averaged
_ALIKE = 0.5  # squared Hellinger distance (0..2) up to which maps are not told apart
_SHARPNESS = 2.0  # of affinities: maps at the median distance have e^-2


def average_cells(maps: Tensor, most: int = CELLS) -> Tensor:
    """Return maps of at most ``most`` rows and columns, each with a sum of 1.

    Args:
        maps: (N, h, w), at least 0.
        most: maximum number of rows, and of columns.

    Returns:
        (N, h', w') float64; all 0 for a map without evidence, or one that is not finite.
    """
    maps = torch.where(torch.isfinite(maps).all((1, 2), keepdim=True), maps, 0).double()
    size = min(most, maps.shape[1]), min(most, maps.shape[2])
    cells = torch.nn.functional.adaptive_avg_pool2d(maps.clamp_min(0)[:, None], size)[:, 0]
    sums = cells.sum((1, 2), keepdim=True)
    return torch.where(sums > 0, cells / sums.clamp_min(torch.finfo(torch.float64).tiny), 0)


def cluster_maps(cells: Tensor, *, most: int = 3, fewest: int = 4) -> list[Tensor]:
    """Return clusters of maps with evidence, the largest first.

    Maps are alike if their Hellinger distance is small, which compares where the evidence is and
    not how strong it is. The same maps always give the same clusters.

    Args:
        cells: (N, h, w) from ``average_cells``.
        most: maximum number of clusters.
        fewest: minimum number of maps in a cluster; smaller ones are left out.

    Returns:
        The rows of each cluster, (n,) int64, ascending.
    """
    rows = (cells.sum((1, 2)) > 0).nonzero()[:, 0]
    if len(rows) < 2 * fewest:
        return [rows] if len(rows) >= fewest else []
    points = cells[rows].flatten(1).sqrt().cpu().numpy()
    labels = torch.from_numpy(group_points(points, most=most, alike=_ALIKE))
    return list_clusters(rows, labels, fewest)


def list_clusters(rows: Tensor, labels: Tensor, fewest: int) -> list[Tensor]:
    """Return the rows, (N,), of each label that has at least ``fewest``, the largest first."""
    clusters = [rows[labels == number] for number in range(int(labels.max()) + 1)]
    return sorted((each for each in clusters if len(each) >= fewest), key=len, reverse=True)


def group_points(
    points: np.ndarray, *, most: int, least: int = 1, alike: float = 0.0
) -> np.ndarray:
    """Return the cluster of each point, (N,) int64, by spectral clustering of their affinities.

    Time and memory of that grow with the square of N and more. So of more than ``LARGEST`` points,
    only so many, evenly chosen, are clustered; each of the others joins the cluster with the
    highest mean affinity to it.

    Args:
        points: (N, D) float64, at least two.
        most: maximum number of clusters.
        least: minimum number of clusters.
        alike: squared distance up to which points are not told apart.
    """
    chosen = np.linspace(0, len(points) - 1, min(len(points), LARGEST)).round().astype(int)
    squares = _compute_squares(points[chosen], points[chosen])
    scale = max(np.median(squares[np.triu_indices(len(chosen), 1)]), alike) or 1.0
    graph = np.exp(-_SHARPNESS * squares / scale)
    degrees = 1 / np.sqrt(graph.sum(axis=1))
    values, vectors = np.linalg.eigh(np.eye(len(chosen)) - graph * degrees[:, None] * degrees)
    gaps = np.diff(values[: most + 1])[least - 1 :]
    count = int(np.argmax(gaps)) + least
    own = assign_labels(vectors[:, :count] * degrees[:, None])
    if len(chosen) == len(points):
        return own
    labels = np.empty(len(points), np.int64)
    members = (own[:, None] == np.arange(count)) / np.maximum(1, np.bincount(own, minlength=count))
    for start in range(0, len(points), LARGEST):
        part = slice(start, start + LARGEST)
        affinity = np.exp(-_SHARPNESS * _compute_squares(points[part], points[chosen]) / scale)
        labels[part] = (affinity @ members).argmax(axis=1)
    labels[chosen] = own
    return labels


def _compute_squares(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the squared distances between points (N, D) and (M, D): (N, M)."""
    lengths = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)
    return np.maximum(lengths - 2 * one @ other.T, 0)


def assign_labels(vectors: np.ndarray) -> np.ndarray:
    """Return the cluster of each point, (N,) int64, from the first k eigenvectors, (N, k).

    A. Damle, V. Minden, L. Ying, *Simple, direct and efficient multi-way spectral clustering*,
    2019, https://doi.org/10.1093/imaiai/iay008: the k points that are most unlike each other are
    chosen by a QR decomposition with pivoting, and become the axes.
    """
    rest, chosen = vectors.copy(), []
    for _ in range(vectors.shape[1]):
        chosen.append(int((rest**2).sum(axis=1).argmax()))
        axis = rest[chosen[-1]] / np.linalg.norm(rest[chosen[-1]])
        rest = rest - (rest @ axis)[:, None] * axis
    left, _, right = np.linalg.svd(vectors[chosen].T)
    return np.abs(vectors @ (left @ right)).argmax(axis=1)


def find_place(cells: Tensor, share: float) -> Tensor:
    """Return the smallest set of cells that holds a share of the evidence, (h, w) bool.

    Args:
        cells: (h, w), at least 0, with a sum of 1.
        share: fraction of the evidence, in (0, 1].

    >>> find_place(torch.tensor([[0.5, 0.2], [0.2, 0.1]]), 0.6)
    tensor([[ True,  True],
            [False, False]])
    """
    values, order = cells.flatten().sort(descending=True, stable=True)
    count = int((values.cumsum(0) < share - 1e-9).sum()) + 1
    place = torch.zeros(cells.numel(), dtype=torch.bool, device=cells.device)
    place[order[:count]] = True
    return place.reshape(cells.shape)
