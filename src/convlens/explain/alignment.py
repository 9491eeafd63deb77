"""Centred kernel alignment (CKA): whether a layer relates images to each other as it did before.

Two representations of the same N images are compared through their Gram matrices, so that neither
the order of channels nor their scale matters (Kornblith et al. 2019, arXiv:1905.00414). With far
fewer images than values per image, the paper's estimate is near 1 for any two wide layers. So the
unbiased estimate of HSIC is used, averaged over batches (Nguyen et al. 2020, arXiv:2010.15327;
Song et al. 2012, equation 5).
"""

from __future__ import annotations

import torch
from torch import Tensor

FEWEST = 4  # images in a batch, below which the unbiased estimate does not exist


def compute_gram(values: Tensor) -> Tensor:
    """Return the inner products of what a layer returned for N images, (N, N).

    The mean over the images is subtracted first, which changes no CKA but keeps more digits.

    Args:
        values: (N, …), anything that a layer returns for N images.
    """
    rows = values.flatten(1)
    rows = rows - rows.mean(0)
    return rows @ rows.T


def cka(first: Tensor, second: Tensor) -> float:
    """Return the linear CKA of two representations of the same images.

    Args:
        first: (B, N, N), the Gram matrices of B batches of N images each; N is at least 4.
        second: (B, N, N), those of the other representation.

    Returns:
        1 if one is the other, turned, mirrored and scaled; about 0, and possibly a little below,
        if they are unrelated. NaN if a representation tells no image from another.

    Raises:
        ValueError: the shapes differ, or N is below 4.

    >>> gram = compute_gram(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0], [2.0, 5.0]]))
    >>> round(cka(gram[None], 9 * gram[None]), 6)
    1.0
    """
    if first.shape != second.shape or first.dim() != 3 or first.shape[-1] < FEWEST:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(f"Gram matrices must be (B, N, N), N at least {FEWEST}, not {shapes}")
    one, other = _estimate_hsic(first, first), _estimate_hsic(second, second)
    if not (one > 0 and other > 0):
        return float("nan")
    return float(_estimate_hsic(first, second) / (one * other).sqrt())


def _estimate_hsic(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean unbiased estimate of HSIC over the batches, a float64 number."""
    count = first.shape[-1]
    first, second = (_clear_diagonal(each) for each in (first, second))
    trace = (first * second).sum((-2, -1))  # both are symmetric
    totals = first.sum((-2, -1)) * second.sum((-2, -1))
    sums = (first.sum(-1) * second.sum(-1)).sum(-1)
    found = trace + totals / ((count - 1) * (count - 2)) - 2 * sums / (count - 2)
    return found.mean() / (count * (count - 3))


def _clear_diagonal(gram: Tensor) -> Tensor:
    gram = gram.double()
    return gram - torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))
