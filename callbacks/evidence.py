"""Maps of evidence of many images at once, for callbacks about classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np
import torch
from convlens.callbacks.explanation import Explanation
from convlens.callbacks.look import Look
from torch import Tensor, nn

from convlens.explain.grad_cam import GradCamMaps, grad_cam
from convlens.explain.layers import choose_layers
from convlens.explain.legrad import legrad
from convlens.explain.obstacles import find_obstacle
from convlens.rundir.maps import BLOCKS

PASSES = 5.0  # forward passes that the maps of two classes cost about, backward passes included
METHODS = ("grad_cam", "legrad")
FEWEST = 10  # images: numbers about fewer would jump from look to look


@dataclass(frozen=True, eq=False)
class Evidence:
    """Grad-CAM maps of N images at the last feature map, or LeGrad maps.

    If images may have several classes, each pair of an image and one of its classes counts as an
    image: both maps are those of this class, and so are label, prediction and mask.

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


def find_evidence_layers(look: Look, method: str) -> list[str]:
    """Return the one layer that a method of ``METHODS`` explains, or []; computed once."""
    if method == "grad_cam":
        return find_last_feature_map(look.network, look.example)
    return [] if find_obstacle(look.network, look.example, method) else [BLOCKS]


def collect_evidence(
    explanation: Explanation, look: Look, count: int, method: str = "grad_cam"
) -> Evidence | None:
    """Return the maps of ``count`` images of the stage, or of the probes; computed once per look.

    If the time does not suffice for all, the maps of the first ones are returned, and the
    explanation reports it.

    Args:
        explanation: the one that needs them.
        look: the look.
        count: number of images.
        method: one of ``METHODS``.

    Returns:
        None for a network that the method cannot explain, and without time for ``FEWEST`` images.
    """
    key = ("evidence", method, count)
    if key not in look.memo:
        look.memo[key] = _compute_evidence(explanation, look, count, method)
    return look.memo[key]


def explain_by(
    method: str, explanation: Explanation, look: Look, images: Tensor, targets: Tensor,
    layers: list[str],
) -> GradCamMaps:  # fmt: skip
    """Compute the maps of a method of ``METHODS``, and record what they take."""
    if method == "grad_cam":
        return explain_classes(explanation, look, images, targets, layers)
    return explain_attention(explanation, look, images, targets)


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


def explain_attention(
    explanation: Explanation, look: Look, images: Tensor, targets: Tensor, pool: str = "mean"
) -> GradCamMaps:
    """Compute LeGrad maps, as those of one layer, and record what they take."""
    with look.timed(("legrad", BLOCKS), len(images)):
        found = explanation.fit_batch(
            lambda batch: legrad(look.network, images, targets, pool=pool, batch=batch)
        )
    return GradCamMaps({BLOCKS: found.maps.cpu()}, found.logits, found.targets)


def _compute_evidence(
    explanation: Explanation, look: Look, count: int, method: str
) -> Evidence | None:
    layers = find_evidence_layers(look, method)
    if not layers:
        return None
    batches: Iterable[Tensor] = [look.probes.images]
    labels, masks = look.probes.labels, look.probes.masks
    if look.sample_images is not None:
        assert look.sample_labels is not None and look.sample_masks is not None
        batches = look.sample_images(count)
        labels, masks = look.sample_labels(count), look.sample_masks(count)
    labels = labels.cpu()
    present = None if look.sample_present is None else look.sample_present(count)
    if look.thresholds is None:
        targets = torch.stack([torch.full_like(labels, -1), labels], dim=1)
    else:
        present = look.probes.present if present is None else present
        if present is None:  # the user's own images, whose classes are unknown
            return None
        targets = list_present(present.cpu())
    kind, fewest = (method, *layers), min(FEWEST, len(labels))
    results: list[GradCamMaps] = []
    done = 0
    passes = PASSES * targets.shape[1] / 2
    if look.affords(kind, fewest, passes):
        stream = Stream(batches)
        parts = look.pieces(kind, len(labels), batch=explanation.batch, passes=passes)
        for part in parts:
            images = stream.take(part.stop - part.start)
            wanted = targets[part]
            results.append(explain_by(method, explanation, look, images, wanted, layers))
            done = part.stop
    if done < len(labels):
        explanation.report_cut(look, f"with maps of {done} of {len(labels)} images")
    if done < fewest:
        return None
    maps = torch.cat([each.maps[layers[0]] for each in results])
    if look.thresholds is not None:
        objects = None if look.sample_objects is None else look.sample_objects(count)
        return _split_classes(layers[0], maps, targets[:done], masks, objects)
    predictions = torch.cat([each.targets[:, 0].cpu() for each in results])
    masks = None if masks is None else masks[:done]
    return Evidence(layers[0], maps[:, 0], maps[:, 1], labels[:done], predictions, masks)


def list_present(present: Tensor) -> Tensor:
    """Return the classes of images, (N, M) int64, ascending; -1 where one has fewer than others.

    Args:
        present: (N, K) bool.

    >>> list_present(torch.tensor([[True, False, True], [False, True, False]])).tolist()
    [[0, 2], [1, -1]]
    """
    rows = [row.nonzero()[:, 0] for row in present]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


def _split_classes(
    layer: str, maps: Tensor, classes: Tensor, masks: Tensor | None,
    objects: Callable[[int, int], np.ndarray] | None,
) -> Evidence:  # fmt: skip
    """Return the maps of each image and class as if of an image each.

    Args:
        layer: the name of the layer.
        maps: (n, M, h, w).
        classes: (n, M), -1 where an image has fewer classes.
        masks: (N, H, W) bool or None; of all objects together.
        objects: from the numbers of an image and a class to a mask, (H, W) bool, of its objects;
            None if that is not known.
    """
    image, column = (classes >= 0).nonzero(as_tuple=True)
    labels, own = classes[image, column], maps[image, column]
    if objects is not None:
        pairs = zip(image.tolist(), labels.tolist(), strict=True)
        masks = torch.from_numpy(np.stack([objects(row, label) for row, label in pairs]))
    elif masks is not None:
        masks = masks[image]
    return Evidence(layer, own, own, labels, labels, masks)


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
