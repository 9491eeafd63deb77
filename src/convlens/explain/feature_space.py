"""Where a network places images: what its last layer reads, in two dimensions.

The features of N images are projected on their two principal components, which keep most of their
variance (K. Pearson, *On lines and planes of closest fit to systems of points in space*, 1901,
https://doi.org/10.1080/14786440109462720). Their signs and, between looks, their directions are
arbitrary. So each picture is turned and mirrored until it fits the one before best (orthogonal
Procrustes, P. H. Schönemann 1966, https://doi.org/10.1007/BF02289451).

Shapes: ``B N`` images, ``C`` channels, ``H W`` height and width, ``D`` features, ``K`` logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Projection:
    """N images in two dimensions.

    Attributes:
        points: ``(N, 2)`` float64, with mean zero; NaN for an image whose features are not finite.
        total: sum of the squared distances of the features from their mean, in all D dimensions.
    """

    points: Tensor
    total: float

    @property
    def shares(self) -> Tensor:
        """Fraction of the features' variance along each axis, ``(2,)``; NaN if there is none."""
        return self.points.nan_to_num(0.0).square().sum(0) / (self.total or torch.nan)


def project(features: Tensor) -> Projection:
    """Project features on their two principal components.

    The entry of the largest magnitude of each component is positive, so that the same features
    always give the same points. With fewer than two dimensions, the missing coordinates are zero.

    Args:
        features: ``(N, D)``; rows that are not finite are left out, and their points are NaN.

    Raises:
        ValueError: if it has another shape.

    >>> project(torch.tensor([[0.0, 1.0], [4.0, 1.0]])).points.tolist()
    [[-2.0, 0.0], [2.0, 0.0]]
    """
    if features.dim() != 2:
        raise ValueError(f"features must be (N, D), not {tuple(features.shape)}")
    known = features.isfinite().all(1)
    rows = features[known].double()
    rows = rows - rows.mean(0) if len(rows) else rows
    points = torch.full((len(features), 2), torch.nan, dtype=torch.float64, device=features.device)
    found = torch.zeros(len(rows), 2, dtype=torch.float64, device=features.device)
    if rows.numel():
        components = torch.linalg.svd(rows, full_matrices=False)[2][:2]
        strongest = components.gather(1, components.abs().argmax(1, keepdim=True))
        found[:, : len(components)] = rows @ (components * strongest.sign()).T
    points[known] = found
    return Projection(points, float(rows.square().sum()))


def fit_rotation(points: Tensor, reference: Tensor) -> Tensor:
    """Return the rotation or reflection R for which ``points @ R`` is closest to ``reference``.

    With the singular value decomposition of ``points.T @ reference``, both centred, as U S Vᵀ, it
    is U Vᵀ. It keeps all distances between points, and does not depend on the scale of either.

    Args:
        points: ``(N, D)``; rows with a value that is not finite in either are left out.
        reference: ``(N, D)``, the same images.

    Returns:
        ``(D, D)`` float64, orthogonal; the identity if one of them has no extent.

    Raises:
        ValueError: if the shapes differ.
    """
    if points.dim() != 2 or points.shape != reference.shape:
        shapes = f"{tuple(points.shape)} and {tuple(reference.shape)}"
        raise ValueError(f"both must be (N, D), not {shapes}")
    known = (points.isfinite() & reference.isfinite()).all(1)
    both = [each[known].double() for each in (points, reference)]
    first, second = (each - each.mean(0) if len(each) else each for each in both)
    product = first.T @ second
    if not product.any():
        return torch.eye(points.shape[1], dtype=torch.float64, device=points.device)
    left, _, right = torch.linalg.svd(product)
    return left @ right


def align(projection: Projection, reference: Tensor) -> Projection:
    """Return a projection, turned and mirrored so that it is closest to earlier points.

    Args:
        projection: N images.
        reference: ``(M, 2)``, earlier points of the first M of them, or of more.
    """
    shared = min(len(projection.points), len(reference))
    rotation = fit_rotation(projection.points[:shared], reference[:shared].to(projection.points))
    return Projection(projection.points @ rotation, projection.total)
