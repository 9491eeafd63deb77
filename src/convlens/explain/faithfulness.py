"""Does the network use what a map shows? The map decides which pixels to hide or to reveal.

Shapes: ``N`` images with one map and one target each, ``C`` channels, ``H W`` image size,
``h w`` size of the maps, ``K`` classes, ``S`` steps.

Maps are resized to the image (bilinear) and each is scaled to [0, 1] by its own minimum and
maximum, as in the papers. Confidence is the probability of the target, see
``convlens.explain.probabilities``; a one-logit network is treated as two classes. Hidden pixels are
replaced by a ``baseline``:

``"mean"``  the image's mean colour (zero, which the papers use after normalisation, is grey too)
``"zero"``  0, which is black for networks that normalise images in [0, 1] themselves
``"blur"``  the blurred image

A score that is undefined is NaN, never zero: a constant map carries no information. Networks are
left unchanged, see ``convlens.explain.explaining``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.explain.grad_cam import class_scores, probabilities
from convlens.explain.mode import chunks, explaining, prepare_images
from convlens.explain.outputs import answering
from convlens.explain.similarity import blur, is_constant, pearson, to_float_maps, to_unit

BASELINES = ("mean", "zero", "blur")


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """Scores of ``N`` maps, each ``(N,)``.

    ``Y`` is the confidence in the target for the image, ``O`` that for the masked image
    ``map * image + (1 - map) * baseline``. The means of ``drop`` and ``increase`` over images,
    times 100, are the *average drop %* and the *% increase in confidence* of A. Chattopadhay et
    al., *Grad-CAM++*, WACV 2018, https://arxiv.org/abs/1710.11063.

    Attributes:
        drop: loss of confidence, ``max(0, Y - O) / Y`` in [0, 1], lower is better.
        increase: whether confidence rises, ``Y < O``: 1 or 0, higher is better.
        coherency: in [0, 1], higher is better; see ``convlens.explain.coherency``.
        complexity: in [0, 1], lower is better; see ``convlens.explain.complexity``.
        adcc: in [0, 1], higher is better; see ``convlens.explain.adcc``.
    """

    drop: Tensor
    increase: Tensor
    coherency: Tensor
    complexity: Tensor
    adcc: Tensor


@dataclass(frozen=True, eq=False)
class InsertionDeletion:
    """Confidence while pixels are inserted or deleted in the order of the map.

    Attributes:
        shares: ``(S + 1,)`` fraction of the pixels inserted or deleted, from 0 to 1.
        insertion: ``(N, S + 1)`` confidence in [0, 1].
        deletion: ``(N, S + 1)`` confidence in [0, 1].
        insertion_auc: ``(N,)`` area under the curve in [0, 1], higher is better.
        deletion_auc: ``(N,)`` in [0, 1], lower is better.
    """

    shares: Tensor
    insertion: Tensor
    deletion: Tensor
    insertion_auc: Tensor
    deletion_auc: Tensor


def complexity(maps: Tensor) -> Tensor:
    """Return how much of the image a map highlights, ``(N,)`` in [0, 1]; lower is better.

    This is the mean of the map scaled to [0, 1] (its L1 norm over the number of pixels). S. Poppi
    et al., *Revisiting The Evaluation of Class Activation Mapping for Explainability*, CVPRW 2021,
    https://arxiv.org/abs/2104.10252. NaN for a constant map.

    Args:
        maps: ``(N, h, w)``.
    """
    maps = to_float_maps(maps)
    return to_unit(maps).mean((-2, -1)).masked_fill(is_constant(maps), math.nan)


def coherency(
    images: Tensor,
    maps: Tensor,
    explain: Callable[[Tensor], Tensor],
    *,
    baseline: str = "mean",
) -> Tensor:
    """Return how similar a map is to the map of the masked image, ``(N,)`` in [0, 1].

    Higher is better. The score is ``(1 + r) / 2``, where ``r`` is Pearson's correlation of the map
    and the map of the image masked by it. S. Poppi et al., https://arxiv.org/abs/2104.10252. NaN if
    one of the two maps is constant.

    Args:
        images: ``(N, C, H, W)``.
        maps: ``(N, h, w)``, the result of ``explain(images)``.
        explain: function from images to maps ``(N, h, w)``, for the same targets in the same order.
        baseline: ``mean``, ``zero`` or ``blur``: what replaces hidden pixels.
    """
    images = images.detach().to(maps.device)
    masked = _mask(images, _resize(maps, images), baseline)
    return (1 + pearson(explain(masked), maps)) / 2


def adcc(drop: Tensor, coherency: Tensor, complexity: Tensor) -> Tensor:
    """Combine three scores into one, ``(N,)`` in [0, 1]; higher is better.

    This is the harmonic mean ``3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - drop))``: zero
    if one of the three has its worst value. S. Poppi et al., https://arxiv.org/abs/2104.10252.

    >>> adcc(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.5]))
    tensor([0.7500, 0.0000])
    """
    return 3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - drop))


def faithfulness(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    explain: Callable[[Tensor], Tensor],
    *,
    baseline: str = "mean",
    batch: int | None = None,
) -> Faithfulness:
    """Compute all scores of a map, with two forward passes and one explanation.

    Complexity is that of the maps resized to the image.

    Args:
        model: the network.
        images: ``(N, C, H, W)``, preprocessed as the network expects them.
        maps: ``(N, h, w)``, the result of ``explain(images)``.
        targets: ``(N,)`` class numbers.
        explain: function from images to maps, see ``convlens.explain.coherency``.
        baseline: ``mean``, ``zero`` or ``blur``: what replaces hidden pixels.
        batch: images per forward pass; None for all at once.

    Raises:
        UserError: if a target is not one of the classes, or the baseline is unknown.
    """
    with explaining(model), answering(model), torch.no_grad():
        inputs = prepare_images(model, images)
        targets = targets.detach().to(inputs.device, torch.long)
        resized = _resize(maps, inputs)
        confidences = []
        for part in chunks(len(inputs), batch):
            masked = _mask(inputs[part], resized[part], baseline)
            confidences.append(
                [_confidence(model, each, targets[part]) for each in (inputs[part], masked)]
            )
        before, after = (torch.cat(pieces) for pieces in zip(*confidences, strict=True))
        after = after.masked_fill(is_constant(resized), math.nan)
    coherencies = coherency(images, maps, explain, baseline=baseline)
    drop = ((before - after).clamp_min(0) / before).to(coherencies.device)
    increase = (before < after).to(before.dtype).masked_fill(after.isnan(), math.nan)
    complexities = complexity(_resize(maps, images)).to(coherencies.device)
    combined = adcc(drop, coherencies, complexities)
    return Faithfulness(drop, increase, coherencies, complexities, combined)


def insertion_deletion(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    steps: int,
    baseline: str = "mean",
    *,
    batch: int | None = None,
) -> InsertionDeletion:
    """Measure confidence while the map's highest pixels are inserted into a blur, or deleted.

    Step ``s`` takes the fraction ``s / steps`` of the pixels, those where the map is highest. It
    copies them from the image to a blurred image (insertion), or replaces them in the image by the
    ``baseline`` (deletion), in all channels at once. If the map shows what the network uses,
    confidence rises and falls early. V. Petsiuk et al., *RISE*, BMVC 2018,
    https://arxiv.org/abs/1806.07421. Areas are computed by the trapezoidal rule. Pixels of equal
    map value are taken in reading order; a constant map gives NaN. This takes ``2 (steps + 1)``
    forward passes.

    Args:
        model: the network.
        images: ``(N, C, H, W)``, preprocessed as the network expects them.
        maps: ``(N, h, w)``.
        targets: ``(N,)`` class numbers.
        steps: number of steps of each curve, from 1 to the number of pixels.
        baseline: ``mean``, ``zero`` or ``blur``: what replaces deleted pixels.
        batch: images per forward pass; None for ``N``.

    Raises:
        UserError: if a target is not one of the classes, the baseline is unknown, or there are too
            few or too many steps.
    """
    pixels = images.shape[-2] * images.shape[-1]
    if not 1 <= steps <= pixels:
        raise UserError(f"steps must be 1 to {pixels}, the number of pixels, got {steps}")
    with explaining(model), answering(model), torch.no_grad():
        images = prepare_images(model, images)
        targets = targets.detach().to(images.device, torch.long)
        resized = _resize(maps, images)
        order = resized.flatten(1).sort(dim=1, descending=True, stable=True).indices
        ranks = order.argsort(1).view_as(resized)[:, None]
        shares = torch.arange(steps + 1, device=images.device) / steps
        counts = (shares * pixels).round()

        def measure_curve(highest: Tensor, others: Tensor) -> Tensor:
            """Take the highest pixels from ``highest`` and the other pixels from ``others``."""
            confidences = []
            for part in chunks(len(images) * (steps + 1), batch or len(images)):
                index = torch.arange(part.start, part.stop, device=images.device)
                which, step = index // (steps + 1), index % (steps + 1)
                first = ranks[which] < counts[step].view(-1, 1, 1, 1)
                mixed = torch.where(first, highest[which], others[which])
                confidences.append(_confidence(model, mixed, targets[which]))
            values = torch.cat(confidences).view(len(images), steps + 1)
            return values.masked_fill(is_constant(resized)[:, None], math.nan)

        insertion = measure_curve(images, _make_baseline(images, "blur"))
        deletion = measure_curve(_make_baseline(images, baseline), images)
    areas = [torch.trapezoid(values, dx=1 / steps) for values in (insertion, deletion)]
    return InsertionDeletion(shares, insertion, deletion, *areas)


def _confidence(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Return the probability of each image's target, ``(N,)``."""
    logits = model(images)
    class_scores(logits, targets[:, None])  # raises if a target is not one of the classes
    return probabilities(logits).gather(1, targets[:, None])[:, 0]


def _mask(images: Tensor, maps: Tensor, baseline: str) -> Tensor:
    """Blend ``images`` with the baseline, weighted by ``maps`` ``(N, H, W)`` scaled to [0, 1].

    A constant map gives the baseline alone: its scores are NaN anyway.
    """
    weights = to_unit(maps).nan_to_num(0, 0, 0)[:, None]
    return weights * images + (1 - weights) * _make_baseline(images, baseline)


def _resize(maps: Tensor, images: Tensor) -> Tensor:
    """Return the maps ``(N, H, W)`` in the size, precision and on the device of ``images``.

    A constant map becomes all NaN.
    """
    if len(maps) != len(images):
        raise ValueError(f"{len(images)} images need as many maps, got {len(maps)}")
    maps = to_float_maps(maps).to(images)
    # before resizing, because interpolation makes equal values differ by a rounding error
    maps = maps.masked_fill(is_constant(maps)[:, None, None], math.nan)
    size = images.shape[-2:]
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def _make_baseline(images: Tensor, name: str) -> Tensor:
    """Return the values of hidden pixels, ``(N, C, H, W)``."""
    if name == "mean":
        return images.mean((-2, -1), keepdim=True).expand_as(images)
    if name == "zero":
        return torch.zeros_like(images)
    if name == "blur":
        # as in RISE's code: 11 pixels wide, standard deviation 5
        return blur(images, 5, 5.0)
    raise UserError(f"baseline={name}: {nearest(str(name), BASELINES)}")
