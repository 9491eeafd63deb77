"""How alike two maps are: Pearson and rank correlation; and the blur that some scores need.

Shapes: ``N`` maps, ``h w`` their size.

Not by torchmetrics, whose Pearson is NaN for a map with one small bright spot, and whose Spearman
sums ranks in 32 bits: of maps that are blank in more than 65,535 places it can give 0.94 for -1.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# of the largest value: batches of other sizes differ by far less, half precision by about so much
_ALIKE, _ALIKE_NARROW = 1e-3, 5e-2


def pearson(maps: Tensor, others: Tensor) -> Tensor:
    """Pearson's correlation of each map with its counterpart: ``(N,)`` in [-1, 1].

    ``cov(a, b) / (std(a) std(b))`` over the places of a map; 1: alike up to scale and offset, 0:
    unrelated. NaN where one of the two is constant or not finite.

    Args:
        maps: ``(N, h, w)``, any range.
        others: ``(N, h, w)``, any range.
    """
    a, b = to_float_pair(maps, others)
    undefined = is_constant(a) | is_constant(b)
    a, b = (_standardised(values.flatten(1)) for values in (a, b))
    return (a * b).mean(1).clamp(-1, 1).masked_fill(undefined, math.nan)


def spearman(maps: Tensor, others: Tensor) -> Tensor:
    """Spearman's rank correlation of each map with its counterpart: ``(N,)`` in [-1, 1].

    Pearson's correlation of the ranks; equal values share the mean of their ranks (blank regions
    are large in maps that went through a ReLU). 1: the same order of places, 0: unrelated. NaN
    where one of the two is constant or not finite.

    Args:
        maps: ``(N, h, w)``, any range.
        others: ``(N, h, w)``, any range.
    """
    a, b = to_float_pair(maps, others)
    undefined = is_constant(a) | is_constant(b)
    return pearson(_ranks(a), _ranks(b)).masked_fill(undefined, math.nan)


def to_unit(maps: Tensor) -> Tensor:
    """Each map brought to [0, 1] by its own minimum and maximum; all NaN if it is constant.

    >>> to_unit(torch.tensor([[[1.0, 2.0], [3.0, 1.0]]]))
    tensor([[[0.0000, 0.5000],
             [1.0000, 0.0000]]])
    """
    lowest, highest = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - lowest) / (highest - lowest)


def is_constant(maps: Tensor) -> Tensor:
    """``(N,)`` bool: the map is the same everywhere, or has a value that is not finite.

    Exact, where a variance of zero would not be: the mean of equal numbers is rounded.
    """
    lowest, highest = maps.amin((-2, -1)), maps.amax((-2, -1))
    return ~(highest > lowest) | ~(highest - lowest).isfinite()


def blur(images: Tensor, radius: int, deviation: float) -> Tensor:
    """``images`` ``(N, C, H, W)`` through a Gaussian filter; the picture's edge goes on outside.

    Args:
        radius: of the filter, pixels: it is ``2 radius + 1`` wide.
        deviation: standard deviation, pixels.
    """
    place = torch.arange(-radius, radius + 1, dtype=torch.float32)
    weights = (-place.square() / (2 * deviation**2)).exp()
    weights = (weights / weights.sum()).to(images)
    channels = images.shape[1]
    down = weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    padded = F.pad(images, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, down, groups=channels), down.mT, groups=channels)


def to_float_maps(maps: Tensor) -> Tensor:
    """``(N, h, w)`` detached and in fp32 (float64 stays), or a ValueError for another shape."""
    if maps.dim() != 3:
        raise ValueError(f"maps must be (N, h, w), got shape {tuple(maps.shape)}")
    return maps.detach().to(torch.float64 if maps.dtype == torch.float64 else torch.float32)


def to_float_pair(maps: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Both as :func:`to_float_maps`, or a ValueError if their shapes differ."""
    if maps.shape != others.shape:
        raise ValueError(f"maps of one shape, not {tuple(maps.shape)} and {tuple(others.shape)}")
    return to_float_maps(maps), to_float_maps(others).to(maps.device)


def _standardised(rows: Tensor) -> Tensor:
    """``(N, P)`` with mean zero and mean square one."""
    # Scaled by the largest value first: squares of maps as small as 1e-25 would all be zero.
    centred = rows - rows.mean(1, keepdim=True)
    centred = centred / centred.abs().amax(1, keepdim=True)
    return centred / centred.square().mean(1, keepdim=True).sqrt()


def _ranks(maps: Tensor) -> Tensor:
    """Rank of each place in its map, from 1, equal values sharing the mean; same shape."""
    rows = maps.flatten(1).contiguous()
    ordered = rows.sort(1).values
    below = torch.searchsorted(ordered, rows, right=False)
    up_to = torch.searchsorted(ordered, rows, right=True)
    return ((below + up_to + 1) / 2).view_as(maps).to(maps.dtype)


def are_close(one: Tensor, other: Tensor, narrow: bool) -> bool:
    """Whether two answers of a network are the same but for rounding.

    Args:
        narrow: one of them was computed in half precision.

    >>> are_close(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.001]), narrow=False)
    True
    """
    if one.shape != other.shape:
        return False
    narrow = narrow or bool({one.dtype, other.dtype} & {torch.float16, torch.bfloat16})
    one, other = one.detach().double(), other.detach().to(one.device).double()
    if not one.numel():
        return True
    share = _ALIKE_NARROW if narrow else _ALIKE
    return bool((one - other).abs().max() <= share * one.abs().max().clamp_min(1e-3))
