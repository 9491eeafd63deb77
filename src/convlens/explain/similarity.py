"""Compare maps by Pearson and rank correlation, and prepare maps for other scores.

Shapes: ``N`` maps, ``h w`` their size.

The correlations of torchmetrics are not used. Its Pearson correlation is NaN for a map with one
small bright spot. Its Spearman correlation sums ranks in 32 bits: for maps that are blank in more
than 65,535 pixels it can return 0.94 instead of -1.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# largest difference between equal outputs, as a fraction of the largest value; the batch size
# changes outputs by far less, half precision by about as much
_TOLERANCE, _TOLERANCE_IN_HALF = 1e-3, 5e-2


def pearson(maps: Tensor, others: Tensor) -> Tensor:
    """Return Pearson's correlation of each map with its counterpart: ``(N,)`` in [-1, 1].

    ``cov(a, b) / (std(a) std(b))`` over the pixels of a map. 1 means equal up to scale and offset,
    0 unrelated. NaN if one of the two maps is constant or not finite.

    Args:
        maps: ``(N, h, w)``, any range.
        others: ``(N, h, w)``, any range.
    """
    a, b = to_float_pair(maps, others)
    is_undefined = is_constant(a) | is_constant(b)
    a, b = (_standardise(values.flatten(1)) for values in (a, b))
    return (a * b).mean(1).clamp(-1, 1).masked_fill(is_undefined, math.nan)


def spearman(maps: Tensor, others: Tensor) -> Tensor:
    """Return Spearman's rank correlation of each map with its counterpart: ``(N,)`` in [-1, 1].

    This is Pearson's correlation of the ranks. Equal values share the mean of their ranks, because
    maps after a ReLU have large blank regions. 1 means the same order of pixels, 0 unrelated. NaN
    if one of the two maps is constant or not finite.

    Args:
        maps: ``(N, h, w)``, any range.
        others: ``(N, h, w)``, any range.
    """
    a, b = to_float_pair(maps, others)
    is_undefined = is_constant(a) | is_constant(b)
    return pearson(_rank(a), _rank(b)).masked_fill(is_undefined, math.nan)


def to_unit(maps: Tensor) -> Tensor:
    """Scale each map to [0, 1] by its minimum and maximum; all NaN if it is constant.

    >>> to_unit(torch.tensor([[[1.0, 2.0], [3.0, 1.0]]]))
    tensor([[[0.0000, 0.5000],
             [1.0000, 0.0000]]])
    """
    lowest, highest = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - lowest) / (highest - lowest)


def is_constant(maps: Tensor) -> Tensor:
    """Return ``(N,)`` bool: the map has a single value, or one that is not finite.

    This is exact, unlike a variance of zero, because the mean of equal numbers is rounded.
    """
    lowest, highest = maps.amin((-2, -1)), maps.amax((-2, -1))
    return ~(highest > lowest) | ~(highest - lowest).isfinite()


def blur(images: Tensor, radius: int, deviation: float) -> Tensor:
    """Blur images with a Gaussian filter that repeats the edge pixels outside the image.

    Args:
        images: ``(N, C, H, W)``.
        radius: radius of the filter in pixels; it is ``2 radius + 1`` wide.
        deviation: standard deviation in pixels.
    """
    positions = torch.arange(-radius, radius + 1, dtype=torch.float32)
    weights = (-positions.square() / (2 * deviation**2)).exp()
    weights = (weights / weights.sum()).to(images)
    channels = images.shape[1]
    down = weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    padded = F.pad(images, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, down, groups=channels), down.mT, groups=channels)


def to_float_maps(maps: Tensor) -> Tensor:
    """Return maps detached and in float32 (float64 stays).

    Raises:
        ValueError: if the shape is not ``(N, h, w)``.
    """
    if maps.dim() != 3:
        raise ValueError(f"maps must be (N, h, w), got shape {tuple(maps.shape)}")
    return maps.detach().to(torch.float64 if maps.dtype == torch.float64 else torch.float32)


def to_float_pair(maps: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Apply ``to_float_maps`` to both, and move the others to the device of the maps.

    Raises:
        ValueError: if their shapes differ, or are not ``(N, h, w)``.
    """
    if maps.shape != others.shape:
        shapes = f"{tuple(maps.shape)} and {tuple(others.shape)}"
        raise ValueError(f"maps must have one shape, got {shapes}")
    return to_float_maps(maps), to_float_maps(others).to(maps.device)


def _standardise(rows: Tensor) -> Tensor:
    """Scale rows ``(N, h w)`` to mean zero and mean square one."""
    # divides by the largest value first, because the squares of values like 1e-25 are zero
    centred = rows - rows.mean(1, keepdim=True)
    centred = centred / centred.abs().amax(1, keepdim=True)
    return centred / centred.square().mean(1, keepdim=True).sqrt()


def _rank(maps: Tensor) -> Tensor:
    """Return the rank of each pixel in its map, from 1; equal values share the mean rank."""
    rows = maps.flatten(1).contiguous()
    ordered = rows.sort(1).values
    below = torch.searchsorted(ordered, rows, right=False)
    up_to = torch.searchsorted(ordered, rows, right=True)
    return ((below + up_to + 1) / 2).view_as(maps).to(maps.dtype)


def are_close(one: Tensor, other: Tensor, narrow: bool) -> bool:
    """Return whether two outputs of a network are equal except for rounding.

    Args:
        one: an output.
        other: another output.
        narrow: whether one of them was computed in half precision.

    >>> are_close(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.001]), narrow=False)
    True
    """
    if one.shape != other.shape:
        return False
    narrow = narrow or bool({one.dtype, other.dtype} & {torch.float16, torch.bfloat16})
    one, other = one.detach().double(), other.detach().to(one.device).double()
    if not one.numel():
        return True
    tolerance = _TOLERANCE_IN_HALF if narrow else _TOLERANCE
    return bool((one - other).abs().max() <= tolerance * one.abs().max().clamp_min(1e-3))
