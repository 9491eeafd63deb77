"""Grad-CAM of many images at once, for callbacks about classes rather than single images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from convlens.callbacks.explanation import Explanation, Look
from torch import Tensor

from convlens.explain.grad_cam import GradCamMaps, grad_cam
from convlens.explain.layers import choose_layers


@dataclass(frozen=True, eq=False)
class Evidence:
    """Grad-CAM maps of N images at the last feature map.

    Attributes:
        layer: the name of that layer.
        predicted: (N, h, w), maps for the predicted class; at least 0.
        true: (N, h, w), maps for the true class, or for the predicted one if it is unknown.
        labels: (N,) int64, the true class; -1 if unknown.
        predictions: (N,) int64, the predicted class.
        masks: (N, H, W) bool, object masks, or None.
    """

    layer: str
    predicted: Tensor
    true: Tensor
    labels: Tensor
    predictions: Tensor
    masks: Tensor | None


def find_last_feature_map(look: Look) -> list[str]:
    """Return the layer that Grad-CAM explains by default, or []; computed once per look."""
    if "last feature map" not in look.memo:
        look.memo["last feature map"] = choose_layers(
            look.network, "auto", "grad_cam", example=look.example
        )
    return look.memo["last feature map"]


def collect_evidence(explanation: Explanation, look: Look, count: int) -> Evidence | None:
    """Return the maps of ``count`` images of the stage, or of the probes; computed once per look.

    Returns:
        None for a network without feature maps.
    """
    key = ("evidence", count)
    if key not in look.memo:
        look.memo[key] = _compute_evidence(explanation, look, count)
    return look.memo[key]


def _compute_evidence(explanation: Explanation, look: Look, count: int) -> Evidence | None:
    layers = find_last_feature_map(look)
    if not layers:
        return None
    batches: Iterable[Tensor] = [look.probes.images]
    labels, masks = look.probes.labels, look.probes.masks
    if look.sample_images is not None:
        assert look.sample_labels is not None and look.sample_masks is not None
        batches = look.sample_images(count)
        labels, masks = look.sample_labels(count), look.sample_masks(count)
    labels = labels.cpu()
    pairs = torch.stack([torch.full_like(labels, -1), labels], dim=1)
    results: list[GradCamMaps] = []
    for images in batches:
        targets, pairs = pairs[: len(images)], pairs[len(images) :]
        results.append(_compute_maps(explanation, look, images, targets, layers))
    maps = torch.cat([each.maps[layers[0]].cpu() for each in results])
    predictions = torch.cat([each.targets[:, 0].cpu() for each in results])
    return Evidence(layers[0], maps[:, 0], maps[:, 1], labels, predictions, masks)


def _compute_maps(
    explanation: Explanation, look: Look, images: Tensor, targets: Tensor, layers: list[str]
) -> GradCamMaps:
    return explanation.fit_batch(
        lambda batch: grad_cam(look.network, images, targets, layers, batch=batch)
    )
