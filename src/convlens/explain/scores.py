"""Numbers that say what a map shows, and whether it may be trusted: one map, one number.

Shapes: ``N`` maps, ``h w`` their size, ``H W`` the size of masks. Maps are not negative (what is
below zero counts as zero), masks are True on the object. Where masks are given, maps are brought
to their size first (bilinear, as :meth:`convlens.explain.GradCamMaps.upsample`).

A score that is undefined is NaN, never zero: an empty map (nowhere above zero), an empty mask, a
value that is not finite. Take means with ``nanmean``, and say how many were NaN.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from convlens.explain.similarity import is_constant, to_float_maps


def pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether a map's peak lies on the object: ``(N,)`` 1 or 0; higher is better.

    The mean over pictures is the accuracy of the pointing game: J. Zhang et al., *Top-down Neural
    Attention by Excitation Backprop*, ECCV 2016, https://arxiv.org/abs/1608.00507, without
    the paper's tolerance of 15 pixels. Where several places share the peak, one of them on the
    object is a hit. NaN for an empty mask, and for a constant map, which has no peak.

    Args:
        maps: ``(N, h, w)``.
        masks: ``(N, H, W)`` bool.
    """
    # Settled before maps are resized: interpolation makes equal values differ by a rounding error.
    flat = is_constant(to_float_maps(maps).clamp_min(0))
    maps, masks = _on_masks(maps, masks)
    peaks = maps == maps.amax((-2, -1), keepdim=True)
    hits = (peaks & masks).any(-1).any(-1).to(maps.dtype)
    return hits.masked_fill(flat | is_constant(maps) | ~masks.flatten(1).any(1), math.nan)


def energy_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of a map's sum that lies on the object: ``(N,)`` in [0, 1]; higher is better.

    ``sum of the map inside / sum of the map``. The energy-based pointing game of H. Wang et al.,
    *Score-CAM*, CVPRW 2020, https://arxiv.org/abs/1910.01279, and the relevance mass accuracy of
    L. Arras et al., *CLEVR-XAI*, 2022, https://arxiv.org/abs/2003.07258. A map that knows nothing
    scores the object's share of the picture: compare with ``masks.float().mean((-2, -1))``.

    Args:
        maps: ``(N, h, w)``.
        masks: ``(N, H, W)`` bool.
    """
    maps, masks = _on_masks(maps, masks)
    shares = _shares(maps)
    return (shares * masks).sum((-2, -1)).masked_fill(~masks.flatten(1).any(1), math.nan)


def peak_position(maps: Tensor) -> Tensor:
    """Where a map is highest: ``(N, 2)`` row and column in [0, 1], (0, 0) is the upper left corner.

    Centres of pixels, ``(index + 0.5) / size``, so that maps of several resolutions compare. Of
    equal peaks the first in reading order. NaN for a constant map.

    >>> peak_position(torch.tensor([[[0.0, 0.0], [0.0, 1.0]]]))
    tensor([[0.7500, 0.7500]])
    """
    maps = to_float_maps(maps).clamp_min(0)
    size = maps.shape[-2:]
    places = torch.stack(torch.unravel_index(maps.flatten(1).argmax(1), size), 1)
    position = ((places + 0.5) / places.new_tensor(size)).to(maps.dtype)
    return position.masked_fill(is_constant(maps)[:, None], math.nan)


def border_energy(maps: Tensor, width: float = 0.1) -> Tensor:
    """Share of a map's sum within a frame along the picture's edge: ``(N,)`` in [0, 1].

    High values warn of a network that looks at frames, watermarks or padding; a uniform map scores
    ``1 - (1 - 2 width)²``, 0.36 for a tenth. Pixels that the frame's inner edge cuts count by the
    part of their area that lies in it.

    Args:
        maps: ``(N, h, w)``.
        width: of the frame, a share of the picture's height and width, in [0, 0.5].
    """
    if not 0 <= width <= 0.5:
        raise ValueError(f"the frame's width must be in [0, 0.5], got {width}")
    shares = _shares(to_float_maps(maps))
    down, across = (_within(size, width).to(shares) for size in shares.shape[-2:])
    # Summed over the frame itself: 1 - inside would leave a rounding error where nothing is.
    return (shares * (1 - down[:, None] * across)).sum((-2, -1))


def entropy(maps: Tensor) -> Tensor:
    """How widely a map is spread: ``(N,)`` in [0, 1]; 0: one place, 1: uniform. Lower is simpler.

    ``- sum p ln p / ln(h w)`` with ``p`` the map over its sum. Without the divisor it is the
    complexity of U. Bhatt et al., *Evaluating and Aggregating Feature-based Model Explanations*,
    IJCAI 2020, https://arxiv.org/abs/2005.00631. NaN for a map of a single pixel too.

    Args:
        maps: ``(N, h, w)``.
    """
    shares = _shares(to_float_maps(maps)).flatten(1)
    highest = math.log(shares.shape[1])
    nats = torch.special.entr(shares).sum(1)
    return (nats / highest).clamp(0, 1) if highest else torch.full_like(nats, math.nan)


def same_border_place(peaks: Tensor, border: float = 0.2, near: float = 0.15) -> float:
    """Share of pictures whose peak lies near the border and in one place, in [0, 1]; lower is
    better.

    Objects move from picture to picture, a watermark, a frame or a date does not: a class whose
    maps all peak in one corner is known by what stands there. The place is the border peak with
    the most border peaks around it. No mask is needed. (The horse that could count by watching its
    questioner: S. Lapuschkin et al., *Unmasking Clever Hans predictors*, 2019,
    https://arxiv.org/abs/1902.10178, cluster whole maps; this looks at their peaks.)

    Args:
        peaks: ``(N, 2)`` rows and columns in [0, 1], see
            :func:`peak_position`; NaN for a map without a peak, which
            counts as a picture without evidence at the border.
        border: a peak counts as near it below this distance, a share of the edge.
        near: peaks no farther apart than this, in rows and in columns, are in one place.

    Returns:
        NaN without pictures.

    >>> same_border_place(torch.tensor([[0.1, 0.1], [0.1, 0.2], [0.5, 0.5], [0.9, 0.9]]))
    0.5
    """
    if not len(peaks):
        return float("nan")
    edge = torch.minimum(peaks, 1 - peaks).amin(1)
    at_border = peaks[edge < border]  # NaN is never below
    if not len(at_border):
        return 0.0
    apart = (at_border[:, None] - at_border[None]).abs().amax(2)
    return float((apart <= near + 1e-6).sum(1).max()) / len(peaks)


def confident_mistakes(
    labels: Tensor, answers: Tensor, confidences: Tensor, threshold: float = 0.9
) -> float:
    """Share of all pictures answered wrongly and with confidence, in [0, 1]; lower is better.

    ``mean(answer ≠ label and confidence ≥ threshold)``; NaN without pictures. Such mistakes are
    what a wrong label, a twin class or a shortcut looks like: they are worth opening.

    Args:
        labels: ``(N,)`` class numbers, the true ones.
        answers: ``(N,)`` class numbers, those that the network predicts.
        confidences: ``(N,)`` probability of the answer, in [0, 1].
        threshold: what counts as confident.

    >>> labels, answers = torch.tensor([0, 1, 1, 0]), torch.tensor([1, 1, 0, 0])
    >>> confident_mistakes(labels, answers, torch.tensor([0.95, 0.99, 0.6, 0.7]))
    0.25
    """
    if not labels.shape == answers.shape == confidences.shape:
        raise ValueError("labels, answers and confidences must have one shape (N,)")
    wrong = labels.to(answers.device) != answers
    return float((wrong & (confidences.to(answers.device) >= threshold)).float().mean())


def _on_masks(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Maps ``(N, H, W)`` at the masks' size, not negative, and the masks as bool beside them."""
    maps = to_float_maps(maps)
    if masks.dim() != 3 or len(masks) != len(maps):
        raise ValueError(f"masks must be ({len(maps)}, H, W), got shape {tuple(masks.shape)}")
    if maps.shape != masks.shape:
        maps = F.interpolate(
            maps[:, None], size=masks.shape[-2:], mode="bilinear", align_corners=False
        )[:, 0]
    return maps.clamp_min(0), masks.to(maps.device, torch.bool)


def _shares(maps: Tensor) -> Tensor:
    """``(N, h, w)`` that sum to one; all NaN for a map that is empty or not finite."""
    maps = maps.clamp_min(0)
    # 0 / 0 and inf / inf give the NaN; dividing by the maximum first spares sums from overflow.
    maps = maps / maps.amax((-2, -1), keepdim=True)
    return maps / maps.sum((-2, -1), keepdim=True)


def _within(size: int, width: float) -> Tensor:
    """``(size,)``: the part of each pixel that lies between ``width`` and ``1 - width``."""
    start = torch.arange(size, dtype=torch.float32)
    low, high = width * size, (1 - width) * size
    return ((start + 1).clamp_max(high) - start.clamp_min(low)).clamp_min(0)
