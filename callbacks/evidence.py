"""Grad-CAM of many images at once, for callbacks about classes rather than single images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch
from convlens.callbacks.explanation import Explanation
from convlens.callbacks.look import Look
from torch import Tensor, nn

from convlens.explain.grad_cam import GradCamMaps, grad_cam
from convlens.explain.layers import choose_layers

PASSES = 5.0  # forward passes that the maps of two classes cost about, backward passes included
FEWEST = 10  # images: numbers about fewer would jump from look to look


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


_LAST_MAPS: WeakKeyDictionary[nn.Module, dict[torch.Size, list[str]]] = WeakKeyDictionary()


def find_last_feature_map(network: nn.Module, example: Tensor) -> list[str]:
    """Return the layer that Grad-CAM explains by default, or []; computed once for a network."""
    known = _LAST_MAPS.setdefault(network, {})
    if example.shape not in known:
        known[example.shape] = choose_layers(network, "auto", "grad_cam", example=example)
    return list(known[example.shape])


def collect_evidence(explanation: Explanation, look: Look, count: int) -> Evidence | None:
    """Return the maps of ``count`` images of the stage, or of the probes; computed once per look.

    If the time does not suffice for all, the maps of the first ones are returned, and the
    explanation reports it.

    Returns:
        None for a network without feature maps, and without time for ``FEWEST`` images.
    """
    key = ("evidence", count)
    if key not in look.memo:
        look.memo[key] = _compute_evidence(explanation, look, count)
    return look.memo[key]


def explain_classes(
    explanation: Explanation, look: Look, images: Tensor, targets: Tensor, layers: list[str]
) -> GradCamMaps:
    """Compute Grad-CAM maps, and record what they take."""
    with look.timed(("grad_cam", *layers), len(images)):
        found = explanation.fit_batch(
            lambda batch: grad_cam(look.network, images, targets, layers, batch=batch)
        )
    maps = {layer: each.cpu() for layer, each in found.maps.items()}
    return replace(found, maps=maps)


def _compute_evidence(explanation: Explanation, look: Look, count: int) -> Evidence | None:
    layers = find_last_feature_map(look.network, look.example)
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
    kind, fewest = ("grad_cam", *layers), min(FEWEST, len(labels))
    results: list[GradCamMaps] = []
    done = 0
    if look.affords(kind, fewest, PASSES):
        stream = Stream(batches)
        parts = look.pieces(kind, len(labels), batch=explanation.batch, passes=PASSES)
        for part in parts:
            images = stream.take(part.stop - part.start)
            results.append(explain_classes(explanation, look, images, pairs[part], layers))
            done = part.stop
    if done < len(labels):
        explanation.report_cut(look, f"with maps of {done} of {len(labels)} images")
    if done < fewest:
        return None
    maps = torch.cat([each.maps[layers[0]] for each in results])
    predictions = torch.cat([each.targets[:, 0].cpu() for each in results])
    masks = None if masks is None else masks[:done]
    return Evidence(layers[0], maps[:, 0], maps[:, 1], labels[:done], predictions, masks)


class Stream:
    """Images from batches of any size, in portions of any size.

    Args:
        batches: (B, C, H, W) each; read as late as possible.
    """

    def __init__(self, batches: Iterable[Tensor]):
        self._batches = iter(batches)
        self._ready: list[Tensor] = []

    def take(self, count: int) -> Tensor:
        """Return the next ``count`` images; fewer at the end."""
        while sum(map(len, self._ready)) < count:
            batch = next(self._batches, None)
            if batch is None:
                break
            self._ready.append(batch)
        images = torch.cat(self._ready)
        self._ready = [images[count:]]
        return images[:count]
