"""Occlusion: how much a logit falls when a part of the picture is covered.

Shapes: ``B`` batch, ``C`` channels, ``H W`` picture size, ``K`` classes, ``T`` targets explained
per picture, ``P`` covered pictures (each of the ``B``, once for every window or superpixel).

M. D. Zeiler, R. Fergus, *Visualizing and Understanding Convolutional Networks*, ECCV 2014,
https://arxiv.org/abs/1311.2901
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.explain.grad_cam import class_scores, probabilities
from convlens.explain.mode import chunks, explaining, fit_batch_to_cache, prepare_images
from convlens.explain.outputs import answering

# On a CPU covered pictures of more than so many pixels together go through faster in smaller
# batches: what a layer leaves for the next stays in the processor's cache (VGG16, 150 × 150: six).
_CPU_PIXELS = 2**17


@dataclass(frozen=True, eq=False)
class Occlusion:
    """Maps of one batch of pictures; fp32 (fp64 for a float64 network), detached.

    Attributes:
        maps: ``(B, H, W)``, or ``(B, T, H, W)`` for targets ``(B, T)``: by how much the class's
            logit falls when the pixel is covered. Positive speaks for the class, negative against
            it; the scale is that of logits.
        logits: ``(B, K)`` of the pictures as they are; ``(B, 1)`` for a one-logit network.
        targets: ``(B,)`` or ``(B, T)`` the classes explained.
    """

    maps: Tensor
    logits: Tensor
    targets: Tensor


def occlusion(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    window: int | tuple[int, int],
    stride: int | tuple[int, int],
    baseline: float | str | Tensor = 0.0,
    batch: int | None = None,
) -> Occlusion:
    """A window slides over the picture; each pixel gets the mean fall over the windows covering it.

    All channels of a window are covered together. The last window of a row or column is cut off at
    the picture's edge where the stride does not fit. Equals ``captum.attr.Occlusion`` with
    ``sliding_window_shapes=(C, h, w)``, but windows of different pictures share a forward pass,
    and several targets of a picture cost no more than one.

    A one-logit network is read as two classes, as by :func:`convlens.explain.grad_cam`. Nothing of
    the network changes.

    Args:
        images: ``(B, C, H, W)`` as the network takes them.
        targets: ``(B,)`` or ``(B, T)`` class numbers; -1 stands for the predicted class.
        window: side of the square, or ``(h, w)``, in pixels.
        stride: pixels from one window to the next, or ``(down, across)``.
        baseline: what covers: a value, ``"mean"`` for each picture's own mean colour, or a tensor
            that broadcasts to the pictures.
        batch: covered pictures a forward pass at most; None for all at once. On a CPU large ones
            go in smaller batches, which is faster.

    Raises:
        UserError: a window larger than the picture or none, a stride that leaves gaps or is none,
            an unknown baseline, a target outside the classes.
    """
    _check_targets(images, targets)
    _check_baseline(baseline)
    corners, size = _corners(images.shape[-2:], window, stride), images.shape[-2:]
    rows, columns = (
        _spans(*line) for line in zip(corners.unbind(1), _pair(window), size, strict=True)
    )

    def cover(part: slice) -> tuple[Tensor, Tensor]:
        numbers = torch.arange(part.start, part.stop)
        which = numbers % len(corners)
        return numbers // len(corners), rows[which, :, None] & columns[which, None, :]

    return _falls(model, images, targets, baseline, len(images) * len(corners), cover, batch)


def superpixel_ablation(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    segments: Tensor,
    *,
    baseline: float | str | Tensor = 0.0,
    batch: int | None = None,
) -> Occlusion:
    """Superpixels are covered one by one; each pixel gets the fall that its superpixel causes.

    Equals ``captum.attr.FeatureAblation`` with ``feature_mask=segments``. A superpixel counts as
    one feature whatever its area.

    Args:
        images: as for :func:`occlusion`.
        targets: as for :func:`occlusion`.
        baseline: as for :func:`occlusion`.
        batch: as for :func:`occlusion`.
        segments: ``(B, H, W)``, or ``(H, W)`` for all pictures, whole numbers: pixels of one
            number are covered together. See :func:`convlens.explain.superpixels.superpixels`.

    Raises:
        UserError: an unknown baseline, a target outside the classes.
    """
    _check_targets(images, targets)
    _check_baseline(baseline)
    shape = (len(images), *images.shape[-2:])
    if segments.is_floating_point() or segments.shape not in (shape, shape[1:]):
        raise ValueError(f"segments are whole numbers {shape}, not {tuple(segments.shape)}")
    segments = segments.detach().cpu().expand(shape)
    pairs = [(i, int(s)) for i, labels in enumerate(segments) for s in labels.unique()]
    owners, labels = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(1)

    def cover(part: slice) -> tuple[Tensor, Tensor]:
        return owners[part], segments[owners[part]] == labels[part, None, None]

    return _falls(model, images, targets, baseline, len(pairs), cover, batch)


def check_occlusion(
    size: tuple[int, int],
    *,
    window: int | tuple[int, int],
    stride: int | tuple[int, int],
    baseline: float | str | Tensor = 0.0,
) -> int:
    """The number of windows on a picture of ``size`` ``(H, W)``.

    Raises:
        UserError: what :func:`occlusion` would raise for these.
    """
    _check_baseline(baseline)
    return len(_corners(size, window, stride))


def compute_logits(model: nn.Module, images: Tensor, *, batch: int | None = None) -> Tensor:
    """``(B, K)`` logits of pictures ``(B, C, H, W)``; ``(B, 1)`` for a one-logit network.

    Args:
        batch: pictures a forward pass; None for all at once.
    """
    with explaining(model), answering(model), torch.no_grad():
        images = prepare_images(model, images)
        return torch.cat([model(images[part]) for part in chunks(len(images), batch)])


def window_pixels(length: float, size: tuple[int, int]) -> tuple[int, int]:
    """A window or stride as ``(h, w)`` pixels: a share of each side, or pixels.

    Args:
        length: below 1 (or 1.0) a share of the picture's sides; a whole number: pixels.
        size: ``(H, W)`` of the picture.

    Raises:
        UserError: neither a share nor a whole number.

    >>> window_pixels(0.25, (150, 100)), window_pixels(20, (150, 100))
    ((38, 25), (20, 20))
    """
    if isinstance(length, float) and 0 < length <= 1:
        return tuple(max(1, round(side * length)) for side in size)
    if isinstance(length, bool) or length != int(length) or length < 1:
        raise UserError(f"{length} is neither a share of the picture (0.25) nor pixels (20)")
    return tuple(min(int(length), side) for side in size)


def _check_targets(images: Tensor, targets: Tensor) -> None:
    if images.dim() != 4 or targets.dim() not in (1, 2) or len(targets) != len(images):
        shapes = tuple(images.shape), tuple(targets.shape)
        raise ValueError(f"pictures (B, C, H, W) need targets (B,) or (B, T), got {shapes}")


def _check_baseline(baseline: float | str | Tensor) -> None:
    if isinstance(baseline, str) and baseline != "mean":
        raise UserError(f'baseline {baseline!r} is neither a number nor "mean"')


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _corners(
    size: tuple[int, int], window: int | tuple[int, int], stride: int | tuple[int, int]
) -> Tensor:
    """``(P, 2)``: the upper left pixel of every window on a picture of ``size`` ``(H, W)``."""
    starts = []
    for side, length, step in zip(size, _pair(window), _pair(stride), strict=True):
        if not 1 <= length <= side:
            raise UserError(f"a window of {length} pixels does not fit a picture of {side}")
        if step < 1 or (step > length < side):
            raise UserError(f"stride {step} must lie between 1 and the window's {length} pixels")
        starts.append(torch.arange(ceil((side - length) / step) + 1) * step)
    return torch.cartesian_prod(*starts)


def _spans(starts: Tensor, length: int, side: int) -> Tensor:
    """``(P, side)`` bool: the pixels of a line from each start on."""
    pixels = torch.arange(side)
    return (pixels >= starts[:, None]) & (pixels < starts[:, None] + length)


def _falls(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    baseline: float | str | Tensor,
    total: int,
    cover: Callable[[slice], tuple[Tensor, Tensor]],
    batch: int | None,
) -> Occlusion:
    """The mean fall over the covers of each pixel.

    ``cover(part)`` tells, for a part of the ``total`` covered pictures, which picture each is of,
    ``(P,)``, and what is covered in it, ``(P, H, W)`` bool.
    """
    with explaining(model), answering(model), torch.no_grad():
        images = prepare_images(model, images)
        targets = targets.detach().to(images.device, torch.long).clone()
        wanted = targets if targets.dim() == 2 else targets[:, None]
        fill = _fill(images, baseline)
        logits = compute_logits(model, images, batch=batch)
        predicted = probabilities(logits).argmax(1, keepdim=True)
        wanted = torch.where(wanted == -1, predicted, wanted)
        scores = class_scores(logits, wanted)
        sums = images.new_zeros(*wanted.shape, *images.shape[-2:])
        counts = images.new_zeros(len(images), 1, *images.shape[-2:])
        for part in chunks(total, fit_batch_to_cache(batch or total, images, _CPU_PIXELS)):
            owners, masks = (tensor.to(images.device) for tensor in cover(part))
            masks = masks[:, None]
            covered = torch.where(masks, fill[owners], images[owners])
            falls = scores[owners] - class_scores(model(covered), wanted[owners])
            sums.index_add_(0, owners, falls[..., None, None] * masks)
            counts.index_add_(0, owners, masks.to(counts.dtype))
        maps = sums / counts
        flat = targets.dim() == 1
        return Occlusion(maps[:, 0] if flat else maps, logits, wanted[:, 0] if flat else wanted)


def _fill(images: Tensor, baseline: float | str | Tensor) -> Tensor:
    """``(B, C, H, W)``: what is seen where a picture is covered."""
    if isinstance(baseline, str):
        return images.mean((-2, -1), keepdim=True).expand_as(images)
    return torch.as_tensor(baseline).detach().to(images).expand_as(images)
