"""Score maps: one number per map that describes it, or shows whether to trust it.

Shapes: ``N`` maps, ``h w`` their size, ``H W`` the size of masks. Negative values of maps count as
zero. Masks are True on the object. Scores with masks first resize the maps to the masks (bilinear,
like ``upsample`` of Grad-CAM maps).

An undefined score is NaN, never zero. This happens for an empty map (no value above zero), an empty
mask, or a value that is not finite. Average scores with ``nanmean``, and report how many were NaN.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from convlens.explain.similarity import is_constant, to_float_maps


def pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Return whether each map's peak is on the object: ``(N,)`` 1 or 0; higher is better.

    The mean over images is the accuracy of the pointing game of J. Zhang et al., *Top-down Neural
    Attention by Excitation Backprop*, ECCV 2016, https://arxiv.org/abs/1608.00507, but without the
    paper's tolerance of 15 pixels. If several positions share the peak, one of them on the object
    is a hit. NaN for an empty mask, and for a constant map, which has no peak.

    Args:
        maps: ``(N, h, w)``.
        masks: ``(N, H, W)`` bool.
    """
    # before resizing, because interpolation makes equal values differ by a rounding error
    is_flat = is_constant(to_float_maps(maps).clamp_min(0))
    maps, masks = _match_masks(maps, masks)
    peaks = maps == maps.amax((-2, -1), keepdim=True)
    hits = (peaks & masks).any(-1).any(-1).to(maps.dtype)
    return hits.masked_fill(is_flat | is_constant(maps) | ~masks.flatten(1).any(1), math.nan)


def energy_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the fraction of each map's sum on the object: ``(N,)`` in [0, 1]; higher is better.

    ``sum of the map inside / sum of the map``. This is the energy-based pointing game of H. Wang et
    al., *Score-CAM*, CVPRW 2020, https://arxiv.org/abs/1910.01279, and the relevance mass accuracy
    of L. Arras et al., *CLEVR-XAI*, 2022, https://arxiv.org/abs/2003.07258. A uniform map scores
    the object's fraction of the image: compare with ``masks.float().mean((-2, -1))``.

    Args:
        maps: ``(N, h, w)``.
        masks: ``(N, H, W)`` bool.
    """
    maps, masks = _match_masks(maps, masks)
    fractions = _normalise(maps)
    return (fractions * masks).sum((-2, -1)).masked_fill(~masks.flatten(1).any(1), math.nan)


def peak_position(maps: Tensor) -> Tensor:
    """Return the position of each map's peak: ``(N, 2)`` row and column in [0, 1].

    (0, 0) is the upper left corner. Positions are centres of pixels, ``(index + 0.5) / size``, so
    that maps of different resolutions can be compared. Of equal peaks the first in reading order
    counts. NaN for a constant map.

    Args:
        maps: ``(N, h, w)``.

    >>> peak_position(torch.tensor([[[0.0, 0.0], [0.0, 1.0]]]))
    tensor([[0.7500, 0.7500]])
    """
    maps = to_float_maps(maps).clamp_min(0)
    size = maps.shape[-2:]
    indices = torch.stack(torch.unravel_index(maps.flatten(1).argmax(1), size), 1)
    positions = ((indices + 0.5) / indices.new_tensor(size)).to(maps.dtype)
    return positions.masked_fill(is_constant(maps)[:, None], math.nan)


def border_energy(maps: Tensor, width: float = 0.1) -> Tensor:
    """Return the fraction of each map's sum in a frame along the image's edge: ``(N,)`` in [0, 1].

    High values warn of a network that relies on frames, watermarks or padding. A uniform map scores
    ``1 - (1 - 2 width)²``, which is 0.36 for a width of 0.1. Pixels that the inner edge of the
    frame cuts count in proportion to their area in the frame.

    Args:
        maps: ``(N, h, w)``.
        width: width of the frame as a fraction of the image's height and width, in [0, 0.5].
    """
    if not 0 <= width <= 0.5:
        raise ValueError(f"the frame's width must be in [0, 0.5], got {width}")
    fractions = _normalise(to_float_maps(maps))
    down, across = (_inner_fractions(size, width).to(fractions) for size in fractions.shape[-2:])
    # sums over the frame, because 1 - inside would leave a rounding error for an empty frame
    return (fractions * (1 - down[:, None] * across)).sum((-2, -1))


def entropy(maps: Tensor) -> Tensor:
    """Return how widely each map is spread: ``(N,)`` in [0, 1]; lower is simpler.

    0 is a single pixel, 1 a uniform map. The formula is ``- sum p ln p / ln(h w)``, where ``p`` is
    the map divided by its sum. Without the divisor it is the complexity of U. Bhatt et al.,
    *Evaluating and Aggregating Feature-based Model Explanations*, IJCAI 2020,
    https://arxiv.org/abs/2005.00631. Maps of size 1×1 give NaN too.

    Args:
        maps: ``(N, h, w)``.
    """
    fractions = _normalise(to_float_maps(maps)).flatten(1)
    highest = math.log(fractions.shape[1])
    nats = torch.special.entr(fractions).sum(1)
    return (nats / highest).clamp(0, 1) if highest else torch.full_like(nats, math.nan)


def same_border_place(peaks: Tensor, border: float = 0.2, near: float = 0.15) -> float:
    """Return the fraction of images that peak at one place near the border; lower is better.

    Objects move from image to image, but a watermark, a frame or a date does not. If all maps of a
    class peak in one corner, the network recognises the class by what is in that corner. The place
    is the border peak with the most border peaks around it. No mask is needed.

    S. Lapuschkin et al., *Unmasking Clever Hans predictors*, 2019,
    https://arxiv.org/abs/1902.10178, cluster whole maps to find such shortcuts; this score uses
    only their peaks.

    Args:
        peaks: ``(N, 2)`` rows and columns in [0, 1], see ``peak_position``. NaN, for a map without
            a peak, counts as an image without evidence at the border.
        border: maximum distance of border peaks from the edge, as a fraction of the image's side.
        near: maximum distance of peaks at one place, in rows and in columns.

    Returns:
        The fraction in [0, 1]; NaN without images.

    >>> same_border_place(torch.tensor([[0.1, 0.1], [0.1, 0.2], [0.5, 0.5], [0.9, 0.9]]))
    0.5
    """
    if not len(peaks):
        return float("nan")
    edge_distances = torch.minimum(peaks, 1 - peaks).amin(1)
    border_peaks = peaks[edge_distances < border]  # leaves out NaN
    if not len(border_peaks):
        return 0.0
    distances = (border_peaks[:, None] - border_peaks[None]).abs().amax(2)
    return float((distances <= near + 1e-6).sum(1).max()) / len(peaks)


def confident_mistakes(
    labels: Tensor, answers: Tensor, confidences: Tensor, threshold: float = 0.9
) -> float:
    """Return the fraction of images with a wrong but confident prediction; lower is better.

    ``mean(prediction ≠ label and confidence ≥ threshold)``, in [0, 1]; NaN without images. Such
    mistakes can come from a wrong label, two classes that look alike, or a shortcut, so the images
    are worth inspecting.

    Args:
        labels: ``(N,)`` true class indices.
        answers: ``(N,)`` predicted class indices.
        confidences: ``(N,)`` probability of the predicted class, in [0, 1].
        threshold: lowest probability of a confident prediction.

    >>> labels, answers = torch.tensor([0, 1, 1, 0]), torch.tensor([1, 1, 0, 0])
    >>> confident_mistakes(labels, answers, torch.tensor([0.95, 0.99, 0.6, 0.7]))
    0.25
    """
    if not labels.shape == answers.shape == confidences.shape:
        raise ValueError("labels, answers and confidences must have one shape (N,)")
    is_wrong = labels.to(answers.device) != answers
    return float((is_wrong & (confidences.to(answers.device) >= threshold)).float().mean())


def _match_masks(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return non-negative maps at the size of the masks, and bool masks on the maps' device."""
    maps = to_float_maps(maps)
    if masks.dim() != 3 or len(masks) != len(maps):
        raise ValueError(f"masks must be ({len(maps)}, H, W), got shape {tuple(masks.shape)}")
    if maps.shape != masks.shape:
        maps = F.interpolate(
            maps[:, None], size=masks.shape[-2:], mode="bilinear", align_corners=False
        )[:, 0]
    return maps.clamp_min(0), masks.to(maps.device, torch.bool)


def _normalise(maps: Tensor) -> Tensor:
    """Scale each map to a sum of one; all NaN for a map that is empty or not finite."""
    maps = maps.clamp_min(0)
    # 0 / 0 and inf / inf give NaN; dividing by the maximum first prevents an overflow of the sum
    maps = maps / maps.amax((-2, -1), keepdim=True)
    return maps / maps.sum((-2, -1), keepdim=True)


def _inner_fractions(size: int, width: float) -> Tensor:
    """Return ``(size,)``, the fraction of each pixel between ``width`` and ``1 - width``."""
    start = torch.arange(size, dtype=torch.float32)
    low, high = width * size, (1 - width) * size
    return ((start + 1).clamp_max(high) - start.clamp_min(low)).clamp_min(0)
