"""Grad-CAM of many pictures at once, for callbacks that look at classes rather than at pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from convlens.callbacks.explanation import Explanation, Look
from torch import Tensor

from convlens.explain.grad_cam import GradCamMaps, grad_cam
from convlens.explain.layers import choose_layers


@dataclass(frozen=True, eq=False)
class Evidence:
    """Maps of N pictures at the last feature map.

    Attributes:
        layer: its name.
        predicted: (N, h, w), for the predicted class; at least 0.
        true: (N, h, w), for the true class, or the predicted one where the truth is not known.
        labels: (N,) int64, -1 where the true class is not known.
        answers: (N,) int64.
        masks: (N, H, W) bool, or None.
    """

    layer: str
    predicted: Tensor
    true: Tensor
    labels: Tensor
    answers: Tensor
    masks: Tensor | None


def last_feature_map(look: Look) -> list[str]:
    """The layer that Grad-CAM explains by default, or nothing; found once a look."""
    if "last feature map" not in look.memo:
        look.memo["last feature map"] = choose_layers(
            look.network, "auto", "grad_cam", example=look.example
        )
    return look.memo["last feature map"]


def evidence(explanation: Explanation, look: Look, count: int) -> Evidence | None:
    """Evidence for ``count`` pictures of the stage, else for the probes; once a look.

    None for a network without feature maps.
    """
    key = ("evidence", count)
    if key not in look.memo:
        look.memo[key] = _evidence(explanation, look, count)
    return look.memo[key]


def _evidence(explanation: Explanation, look: Look, count: int) -> Evidence | None:
    layers = last_feature_map(look)
    if not layers:
        return None
    if look.pictures is None:
        batches, labels, masks = [look.probes.images], look.probes.labels, look.probes.masks
    else:
        batches, labels, masks = look.pictures(count), look.labels(count), look.masks(count)
    labels = labels.cpu()
    pairs = torch.stack([torch.full_like(labels, -1), labels], dim=1)
    found: list[GradCamMaps] = []
    for images in batches:
        targets, pairs = pairs[: len(images)], pairs[len(images) :]
        found.append(
            explanation.fitting(
                lambda batch, images=images, targets=targets: grad_cam(
                    look.network, images, targets, layers, batch=batch
                )
            )
        )
    maps = torch.cat([each.maps[layers[0]].cpu() for each in found])
    answers = torch.cat([each.targets[:, 0].cpu() for each in found])
    return Evidence(layers[0], maps[:, 0], maps[:, 1], labels, answers, masks)
