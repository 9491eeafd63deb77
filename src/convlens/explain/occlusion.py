"""Occlusion maps: how much a logit falls when a part of the image is covered.

Shapes: ``B`` batch, ``C`` channels, ``H W`` height and width, ``K`` classes, ``T`` targets per
image, ``P`` covered images (each of the ``B`` images, once for every window or superpixel).

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
from convlens.explain.mode import (
    chunks,
    explaining,
    fit_batch_to_cache,
    image_size,
    prepare_images,
)
from convlens.explain.outputs import answering

# On a CPU, batches with more pixels are slower, because feature maps no longer fit the CPU's cache
# (VGG16: about 6 images of 150 × 150).
_CPU_PIXELS = 2**17
# A change of a logit that is worth looking at; rounding alone reaches a hundred-thousandth of it.
LEAST = 1e-3


@dataclass(frozen=True, eq=False)
class Occlusion:
    """Maps for one batch of images: float32 (float64 for a float64 network), detached.

    Attributes:
        maps: ``(B, H, W)``, or ``(B, T, H, W)`` for targets ``(B, T)``: the mean fall of the
            class's logit when the pixel is covered. Positive values are evidence for the class,
            negative values against it.
        logits: ``(B, K)`` logits of the uncovered images; ``(B, 1)`` for a one-logit network.
        targets: ``(B,)`` or ``(B, T)``, the explained classes.
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
    """Slide a window over each image, and map the mean fall of a logit when a pixel is covered.

    The mean is over all windows that cover the pixel. A window covers all channels. If the stride
    does not fit, the last window of a row or column is cut off at the edge of the image. The maps
    equal those of ``captum.attr.Occlusion`` with ``sliding_window_shapes=(C, h, w)``, but windows
    of different images share a forward pass, and several targets of an image cost no more than one.

    A one-logit network is treated as two classes, as in ``convlens.explain.grad_cam``. The network
    stays unchanged.

    Args:
        model: the network.
        images: ``(B, C, H, W)``, ready for the network.
        targets: ``(B,)`` or ``(B, T)`` class indices; -1 for the predicted class.
        window: side of the square, or ``(h, w)``, in pixels.
        stride: pixels from one window to the next, or ``(down, across)``.
        baseline: what covers the image: a value, ``"mean"`` for the mean colour of each image, or a
            tensor that broadcasts to the images.
        batch: maximum number of covered images per forward pass; None for all at once. On a CPU
            batches of large images are smaller, which is faster.

    Raises:
        UserError: if the window does not fit the image, the stride leaves gaps or is less than 1,
            the baseline is unknown, or a target is not a class.
    """
    _check_targets(images, targets)
    _check_baseline(baseline)
    size = image_size(images)
    corners = _find_corners(size, window, stride)
    rows, columns = (
        _mark_spans(*axis) for axis in zip(corners.unbind(1), _to_pair(window), size, strict=True)
    )

    def cover(part: slice) -> tuple[Tensor, Tensor]:
        indices = torch.arange(part.start, part.stop)
        windows = indices % len(corners)
        return indices // len(corners), rows[windows, :, None] & columns[windows, None, :]

    return _compute_maps(model, images, targets, baseline, len(images) * len(corners), cover, batch)


def superpixel_ablation(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    segments: Tensor,
    *,
    baseline: float | str | Tensor = 0.0,
    batch: int | None = None,
) -> Occlusion:
    """Cover the superpixels one by one, and map the fall of a logit when each is covered.

    The maps equal those of ``captum.attr.FeatureAblation`` with ``feature_mask=segments``. All
    pixels of a superpixel get the same value, whatever its area.

    Args:
        model: the network.
        images: ``(B, C, H, W)``, ready for the network.
        targets: ``(B,)`` or ``(B, T)`` class indices; -1 for the predicted class.
        segments: ``(B, H, W)``, or ``(H, W)`` for all images, integers: pixels with the same number
            are covered together. See ``convlens.explain.superpixels``.
        baseline: what covers the image, as for ``occlusion``.
        batch: maximum number of covered images per forward pass, as for ``occlusion``.

    Raises:
        UserError: if the baseline is unknown, or a target is not a class.
    """
    _check_targets(images, targets)
    _check_baseline(baseline)
    shape = (len(images), *images.shape[-2:])
    if segments.is_floating_point() or segments.shape not in (shape, shape[1:]):
        raise ValueError(
            f"segments must be integers of shape {shape}, got {segments.dtype} of shape "
            f"{tuple(segments.shape)}"
        )
    segments = segments.detach().cpu().expand(shape)
    pairs = [(i, int(s)) for i, labels in enumerate(segments) for s in labels.unique()]
    owners, labels = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(1)

    def cover(part: slice) -> tuple[Tensor, Tensor]:
        return owners[part], segments[owners[part]] == labels[part, None, None]

    return _compute_maps(model, images, targets, baseline, len(pairs), cover, batch)


def check_occlusion(
    size: tuple[int, int],
    *,
    window: int | tuple[int, int],
    stride: int | tuple[int, int],
    baseline: float | str | Tensor = 0.0,
) -> int:
    """Check the arguments of ``occlusion``, and return the number of windows per image.

    Args:
        size: ``(H, W)`` of the image.
        window: as for ``occlusion``.
        stride: as for ``occlusion``.
        baseline: as for ``occlusion``.

    Raises:
        UserError: if ``occlusion`` would raise one for these arguments.
    """
    _check_baseline(baseline)
    return len(_find_corners(size, window, stride))


def compute_logits(model: nn.Module, images: Tensor, *, batch: int | None = None) -> Tensor:
    """Return the logits ``(B, K)`` of images; ``(B, 1)`` for a one-logit network.

    Args:
        model: the network.
        images: ``(B, C, H, W)``, ready for the network.
        batch: images per forward pass; None for all at once.
    """
    with explaining(model), answering(model), torch.no_grad():
        images = prepare_images(model, images)
        return torch.cat([model(images[part]) for part in chunks(len(images), batch)])


def window_pixels(length: float, size: tuple[int, int]) -> tuple[int, int]:
    """Convert a window or stride to ``(h, w)`` pixels.

    Args:
        length: a float up to 1.0 is a fraction of each side, an integer a number of pixels.
        size: ``(H, W)`` of the image.

    Raises:
        UserError: if ``length`` is neither a fraction nor an integer.

    >>> window_pixels(0.25, (150, 100)), window_pixels(20, (150, 100))
    ((38, 25), (20, 20))
    """
    height, width = size
    if isinstance(length, float) and 0 < length <= 1:
        return max(1, round(height * length)), max(1, round(width * length))
    if isinstance(length, bool) or length != int(length) or length < 1:
        raise UserError(
            f"window or stride {length}: expected a fraction of the image's side (like 0.25) or a "
            "number of pixels (like 20)"
        )
    return min(int(length), height), min(int(length), width)


def _check_targets(images: Tensor, targets: Tensor) -> None:
    if images.dim() != 4 or targets.dim() not in (1, 2) or len(targets) != len(images):
        shapes = tuple(images.shape), tuple(targets.shape)
        raise ValueError(f"expected images (B, C, H, W) and targets (B,) or (B, T), got {shapes}")


def _check_baseline(baseline: float | str | Tensor) -> None:
    if isinstance(baseline, str) and baseline != "mean":
        raise UserError(f'baseline {baseline!r} is neither a number nor "mean"')


def _to_pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _find_corners(
    size: tuple[int, int], window: int | tuple[int, int], stride: int | tuple[int, int]
) -> Tensor:
    """Return the upper left pixels ``(windows, 2)`` of all windows in an image of ``size``."""
    starts = []
    for side, length, step in zip(size, _to_pair(window), _to_pair(stride), strict=True):
        if not 1 <= length <= side:
            raise UserError(
                f"a window of {length} pixels does not fit an image of {side} pixels: choose 1 to "
                f"{side}"
            )
        if step < 1 or (step > length < side):
            raise UserError(f"stride {step} must be between 1 and the window's {length} pixels")
        starts.append(torch.arange(ceil((side - length) / step) + 1) * step)
    return torch.cartesian_prod(*starts)


def _mark_spans(starts: Tensor, length: int, side: int) -> Tensor:
    """Return ``(windows, side)`` bool: which pixels of a side belong to each window."""
    pixels = torch.arange(side)
    return (pixels >= starts[:, None]) & (pixels < starts[:, None] + length)


def _compute_maps(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    baseline: float | str | Tensor,
    total: int,
    cover: Callable[[slice], tuple[Tensor, Tensor]],
    batch: int | None,
) -> Occlusion:
    """Compute for each pixel the mean fall of the logits over the images in which it is covered.

    Args:
        model: the network.
        images: ``(B, C, H, W)``.
        targets: ``(B,)`` or ``(B, T)``.
        baseline: what covers the images.
        total: number ``P`` of covered images.
        cover: function that returns, for a slice of the covered images, the index of each one's
            original image, and the covered pixels as ``(…, H, W)`` bool.
        batch: maximum number of covered images per forward pass.
    """
    with explaining(model), answering(model), torch.no_grad():
        images = prepare_images(model, images)
        targets = targets.detach().to(images.device, torch.long).clone()
        classes = targets if targets.dim() == 2 else targets[:, None]
        fill = _make_fill(images, baseline)
        logits = compute_logits(model, images, batch=batch)
        predicted = probabilities(logits).argmax(1, keepdim=True)
        classes = torch.where(classes == -1, predicted, classes)
        scores = class_scores(logits, classes)
        sums = images.new_zeros(*classes.shape, *images.shape[-2:])
        counts = images.new_zeros(len(images), 1, *images.shape[-2:])
        for part in chunks(total, fit_batch_to_cache(batch or total, images, _CPU_PIXELS)):
            owners, masks = (tensor.to(images.device) for tensor in cover(part))
            masks = masks[:, None]
            covered = torch.where(masks, fill[owners], images[owners])
            falls = scores[owners] - class_scores(model(covered), classes[owners])
            sums.index_add_(0, owners, falls[..., None, None] * masks)
            counts.index_add_(0, owners, masks.to(counts.dtype))
        maps = sums / counts
        if targets.dim() == 1:
            maps, classes = maps[:, 0], classes[:, 0]
        return Occlusion(maps, logits, classes)


def _make_fill(images: Tensor, baseline: float | str | Tensor) -> Tensor:
    """Return ``(B, C, H, W)``, the pixels that replace covered ones."""
    if isinstance(baseline, str):
        return images.mean((-2, -1), keepdim=True).expand_as(images)
    return torch.as_tensor(baseline).detach().to(images).expand_as(images)
