"""Does the network use what a map shows? Pictures are hidden or uncovered as the map says.

Shapes: ``N`` pictures with one map and one target each, ``C`` channels, ``H W`` picture size,
``h w`` size of the maps, ``K`` classes, ``S`` steps.

Maps are brought to the picture's size (bilinear) and each to [0, 1] by its own minimum and maximum,
as the papers do. Confidence is the probability of the target, see
:func:`convlens.explain.probabilities`; a one-logit network is read as two classes. What is hidden
is replaced by a ``baseline``:

``"mean"``  the picture's own mean colour (the papers' zero, after normalisation, is grey too)
``"zero"``  0, which is black for networks that normalise pictures in [0, 1] themselves
``"blur"``  the picture, blurred

A score that is undefined is NaN, never zero: a constant map says nothing. Networks stay as they
are, see :func:`convlens.explain.explaining`.
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

    With ``Y`` the confidence in the target for the picture, and ``O`` for what the map keeps of it,
    ``map * picture + (1 - map) * baseline``. The means of ``drop`` and ``increase`` over pictures,
    times 100, are the *average drop %* and the *% increase in confidence* of A. Chattopadhay et
    al., *Grad-CAM++*, WACV 2018, https://arxiv.org/abs/1710.11063.

    Attributes:
        drop: confidence lost, ``max(0, Y - O) / Y`` in [0, 1], lower is better.
        increase: whether it rises, ``Y < O``: 1 or 0, higher is better.
        coherency: in [0, 1], higher is better; see :func:`coherency`.
        complexity: in [0, 1], lower is better; see :func:`complexity`.
        adcc: in [0, 1], higher is better; see :func:`adcc`.
    """

    drop: Tensor
    increase: Tensor
    coherency: Tensor
    complexity: Tensor
    adcc: Tensor


@dataclass(frozen=True, eq=False)
class InsertionDeletion:
    """How confidence goes when pixels come and go in the order of the map.

    Attributes:
        shares: ``(S + 1,)`` share of the pixels inserted or deleted, from 0 to 1.
        insertion, deletion: ``(N, S + 1)`` confidence in [0, 1].
        insertion_auc: ``(N,)`` area under the curve in [0, 1], higher is better.
        deletion_auc: ``(N,)`` in [0, 1], lower is better.
    """

    shares: Tensor
    insertion: Tensor
    deletion: Tensor
    insertion_auc: Tensor
    deletion_auc: Tensor


def complexity(maps: Tensor) -> Tensor:
    """How much of the picture a map shows: ``(N,)`` in [0, 1]; lower is better.

    The mean of the map brought to [0, 1] (its L1 norm over the number of places). S. Poppi et al.,
    *Revisiting The Evaluation of Class Activation Mapping for Explainability*, CVPRW 2021,
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
    """Whether what a map keeps is explained by the same map: ``(N,)`` in [0, 1]; higher is better.

    ``(1 + r) / 2`` with ``r`` Pearson's correlation of the map and the map of the picture of which
    only what it shows is kept. S. Poppi et al., https://arxiv.org/abs/2104.10252. NaN where one of
    the two is constant.

    Args:
        images: ``(N, C, H, W)``.
        maps: ``(N, h, w)``, what ``explain(images)`` gives.
        explain: pictures to maps ``(N, h, w)``, for the same targets in the same order.
        baseline: see the module.
    """
    images = images.detach().to(maps.device)
    kept = _kept(images, _resized(maps, images), baseline)
    return (1 + pearson(explain(kept), maps)) / 2


def adcc(drop: Tensor, coherency: Tensor, complexity: Tensor) -> Tensor:
    """One number of three: ``(N,)`` in [0, 1]; higher is better.

    The harmonic mean ``3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - drop))``: zero if one
    of the three is as bad as can be. S. Poppi et al., https://arxiv.org/abs/2104.10252.

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
    """All scores of :class:`Faithfulness` for the price of two forward passes and one explanation.

    Complexity is that of the maps at the picture's size.

    Args:
        images: ``(N, C, H, W)`` as the network takes them.
        maps: ``(N, h, w)``, what ``explain(images)`` gives.
        targets: ``(N,)`` class numbers.
        explain: see :func:`coherency`.
        baseline: see the module.
        batch: pictures a forward pass; None for all at once.

    Raises:
        UserError: a target outside the classes, an unknown baseline.
    """
    with explaining(model), answering(model), torch.no_grad():
        pictures = prepare_images(model, images)
        targets = targets.detach().to(pictures.device, torch.long)
        resized = _resized(maps, pictures)
        confidences = []
        for part in chunks(len(pictures), batch):
            shown = _kept(pictures[part], resized[part], baseline)
            confidences.append(
                [_confidence(model, each, targets[part]) for each in (pictures[part], shown)]
            )
        whole, kept = (torch.cat(pieces) for pieces in zip(*confidences, strict=True))
        kept = kept.masked_fill(is_constant(resized), math.nan)
    same = coherency(images, maps, explain, baseline=baseline)
    drop = ((whole - kept).clamp_min(0) / whole).to(same.device)
    increase = (whole < kept).to(whole.dtype).masked_fill(kept.isnan(), math.nan)
    simple = complexity(_resized(maps, images)).to(same.device)
    return Faithfulness(drop, increase, same, simple, adcc(drop, same, simple))


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
    """Confidence while the map's highest pixels are inserted into a blur, or deleted.

    After step ``s`` the ``s / steps`` highest pixels, all channels at once, are the picture's in a
    blurred picture (insertion), or the ``baseline``'s in the picture (deletion). A map that shows
    what the network uses makes confidence rise early and fall early. V. Petsiuk et al., *RISE*,
    BMVC 2018, https://arxiv.org/abs/1806.07421. Areas are by the trapezoidal rule. Equal values of
    a map go in reading order; a constant map gives NaN. ``2 (steps + 1)`` forward passes.

    Args:
        images: ``(N, C, H, W)`` as the network takes them.
        maps: ``(N, h, w)``.
        targets: ``(N,)`` class numbers.
        steps: of each curve, from 1 to the number of pixels.
        baseline: of the deletion, see the module.
        batch: pictures a forward pass; None for ``N``.

    Raises:
        UserError: a target outside the classes, an unknown baseline, too few or too many steps.
    """
    pixels = images.shape[-2] * images.shape[-1]
    if not 1 <= steps <= pixels:
        raise UserError(f"steps must be 1 to {pixels}, the number of pixels, got {steps}")
    with explaining(model), answering(model), torch.no_grad():
        images = prepare_images(model, images)
        targets = targets.detach().to(images.device, torch.long)
        resized = _resized(maps, images)
        order = resized.flatten(1).sort(dim=1, descending=True, stable=True).indices
        ranks = order.argsort(1).view_as(resized)[:, None]
        shares = torch.arange(steps + 1, device=images.device) / steps
        counts = (shares * pixels).round()

        def curve(there: Tensor, beyond: Tensor) -> Tensor:
            """Pixels of ``there`` up to the count, of ``beyond`` from there on."""
            found = []
            for part in chunks(len(images) * (steps + 1), batch or len(images)):
                index = torch.arange(part.start, part.stop, device=images.device)
                which, step = index // (steps + 1), index % (steps + 1)
                first = ranks[which] < counts[step].view(-1, 1, 1, 1)
                mixed = torch.where(first, there[which], beyond[which])
                found.append(_confidence(model, mixed, targets[which]))
            values = torch.cat(found).view(len(images), steps + 1)
            return values.masked_fill(is_constant(resized)[:, None], math.nan)

        insertion = curve(images, _baseline(images, "blur"))
        deletion = curve(_baseline(images, baseline), images)
    areas = [torch.trapezoid(values, dx=1 / steps) for values in (insertion, deletion)]
    return InsertionDeletion(shares, insertion, deletion, *areas)


def _confidence(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """``(N,)``: the probability of each picture's target."""
    logits = model(images)
    class_scores(logits, targets[:, None])  # refuses targets outside the classes
    return probabilities(logits).gather(1, targets[:, None])[:, 0]


def _kept(images: Tensor, maps: Tensor, baseline: str) -> Tensor:
    """What ``maps`` ``(N, H, W)`` keep of ``images``; the rest is the baseline.

    A constant map keeps nothing: its scores are NaN anyway.
    """
    weights = to_unit(maps).nan_to_num(0, 0, 0)[:, None]
    return weights * images + (1 - weights) * _baseline(images, baseline)


def _resized(maps: Tensor, images: Tensor) -> Tensor:
    """``(N, H, W)`` on the device and in the precision of ``images``; a constant map is all NaN."""
    if len(maps) != len(images):
        raise ValueError(f"{len(images)} pictures need as many maps, got {len(maps)}")
    maps = to_float_maps(maps).to(images)
    # Before it is resized: interpolation makes equal values differ by a rounding error.
    maps = maps.masked_fill(is_constant(maps)[:, None, None], math.nan)
    size = images.shape[-2:]
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def _baseline(images: Tensor, name: str) -> Tensor:
    """What stands where a picture is hidden; ``(N, C, H, W)``."""
    if name == "mean":
        return images.mean((-2, -1), keepdim=True).expand_as(images)
    if name == "zero":
        return torch.zeros_like(images)
    if name == "blur":
        # as in RISE's code: 11 pixels wide, standard deviation 5
        return blur(images, 5, 5.0)
    raise UserError(f"baseline={name}: {nearest(str(name), BASELINES)}")
