"""Where a network places images: what its last layer reads, in two dimensions.

The features of N images are projected on their two principal components, which keep most of their
variance (K. Pearson, *On lines and planes of closest fit to systems of points in space*, 1901,
https://doi.org/10.1080/14786440109462720). Their signs and, between looks, their directions are
arbitrary. So each picture is turned and mirrored until it fits the one before best (orthogonal
Procrustes, P. H. Schönemann 1966, https://doi.org/10.1007/BF02289451).

Shapes: ``B N`` images, ``C`` channels, ``H W`` height and width, ``D`` features, ``K`` logits.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.explain.axis_rules import find_tensors
from convlens.explain.mode import chunks, explaining, prepare_images
from convlens.explain.trace import layer_kind


@dataclass(frozen=True, eq=False)
class Projection:
    """N images in two dimensions.

    Attributes:
        points: ``(N, 2)`` float64, with mean zero; NaN for an image whose features are not finite.
        total: sum of the squared distances of the features from their mean, in all D dimensions.
    """

    points: Tensor
    total: float

    @property
    def shares(self) -> Tensor:
        """Fraction of the features' variance along each axis, ``(2,)``; NaN if there is none."""
        return self.points.nan_to_num(0.0).square().sum(0) / (self.total or torch.nan)


def project(features: Tensor) -> Projection:
    """Project features on their two principal components.

    The entry of the largest magnitude of each component is positive, so that the same features
    always give the same points. With fewer than two dimensions, the missing coordinates are zero.

    Args:
        features: ``(N, D)``; rows that are not finite are left out, and their points are NaN.

    Raises:
        ValueError: if it has another shape.

    >>> project(torch.tensor([[0.0, 1.0], [4.0, 1.0]])).points.tolist()
    [[-2.0, 0.0], [2.0, 0.0]]
    """
    if features.dim() != 2:
        raise ValueError(f"features must be (N, D), not {tuple(features.shape)}")
    known = features.isfinite().all(1)
    rows = features[known].double()
    rows = rows - rows.mean(0) if len(rows) else rows
    points = torch.full((len(features), 2), torch.nan, dtype=torch.float64, device=features.device)
    found = torch.zeros(len(rows), 2, dtype=torch.float64, device=features.device)
    if rows.numel():
        components = torch.linalg.svd(rows, full_matrices=False)[2][:2]
        strongest = components.gather(1, components.abs().argmax(1, keepdim=True))
        found[:, : len(components)] = rows @ (components * strongest.sign()).T
    points[known] = found
    return Projection(points, float(rows.square().sum()))


def fit_rotation(points: Tensor, reference: Tensor) -> Tensor:
    """Return the rotation or reflection R for which ``points @ R`` is closest to ``reference``.

    With the singular value decomposition of ``points.T @ reference``, both centred, as U S Vᵀ, it
    is U Vᵀ. It keeps all distances between points, and does not depend on the scale of either.

    Args:
        points: ``(N, D)``; rows with a value that is not finite in either are left out.
        reference: ``(N, D)``, the same images.

    Returns:
        ``(D, D)`` float64, orthogonal; the identity if one of them has no extent.

    Raises:
        ValueError: if the shapes differ.
    """
    if points.dim() != 2 or points.shape != reference.shape:
        shapes = f"{tuple(points.shape)} and {tuple(reference.shape)}"
        raise ValueError(f"both must be (N, D), not {shapes}")
    known = (points.isfinite() & reference.isfinite()).all(1)
    both = [each[known].double() for each in (points, reference)]
    first, second = (each - each.mean(0) if len(each) else each for each in both)
    product = first.T @ second
    if not product.any():
        return torch.eye(points.shape[1], dtype=torch.float64, device=points.device)
    left, _, right = torch.linalg.svd(product)
    return left @ right


def align(projection: Projection, reference: Tensor) -> Projection:
    """Return a projection, turned and mirrored so that it is closest to earlier points.

    Args:
        projection: N images.
        reference: ``(M, 2)``, earlier points of the first M of them, or of more.
    """
    shared = min(len(projection.points), len(reference))
    rotation = fit_rotation(projection.points[:shared], reference[:shared].to(projection.points))
    return Projection(projection.points @ rotation, projection.total)


@dataclass(frozen=True, eq=False)
class _Dense:
    """The call of a layer that computes weighted sums.

    Attributes:
        name: path of the module.
        module: the module.
        reads_features: whether it read one vector of features for each image.
        output: its output.
    """

    name: str
    module: nn.Module
    reads_features: bool
    output: Tensor


def find_classifier(model: nn.Module, example: Tensor) -> tuple[str | None, str]:
    """Return the layer that computes the logits, or None and the reason why it is not known.

    It is the last convolution or dense layer of a pass on which the outputs depend, if they depend
    on the image through it alone. Both are tried out with NaN, which every operation hands on: if
    the image is NaN, and the layer returns what it returns for the real image, the network returns
    what it returns for the real image.

    Args:
        model: the network.
        example: ``(1, C, H, W)`` image for a few forward passes, or a few images.
    """
    with explaining(model), torch.no_grad():
        # two images, so that the axis of the images is known
        images = prepare_images(model, example[:1]).repeat(2, 1, 1, 1)
        calls, outputs = _record_calls(model, images)
        if not outputs or not all(each.isfinite().all() for each in outputs):
            return None, "its outputs are not finite"
        for call in reversed(calls):
            alone = _run_with(model, images * torch.nan, call.module, call.output)
            if len(alone) == len(outputs) and all(map(torch.equal, alone, outputs)):
                break
            spoilt = _run_with(model, images, call.module, call.output * torch.nan)
            if not spoilt or any(each.isnan().any() for each in spoilt):
                return None, f"its outputs do not depend on {call.name!r}, its last layer, alone"
        else:
            return None, "no convolution or dense layer computes its outputs"
    if sum(each.module is call.module for each in calls) > 1:
        return None, f"its last layer, {call.name!r}, is called more than once"
    if not call.reads_features:
        return None, f"its last layer, {call.name!r}, reads maps or tokens"
    return call.name, ""


def _record_calls(model: nn.Module, images: Tensor) -> tuple[list[_Dense], list[Tensor]]:
    """Return the calls of convolutions and dense layers in a pass, and the network's outputs."""
    calls: list[_Dense] = []

    def note(name: str, module: nn.Module, args: tuple, output) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            width = getattr(module, "in_features", None) or getattr(module, "in_channels", None)
            is_features = args[0].shape[0] == len(images) and args[0][0].numel() == width
            calls.append(_Dense(name, module, is_features, output.clone()))

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if layer_kind(module) in ("conv", "dense"):
                hook = lambda m, args, output, name=name: note(name, m, args, output)  # noqa: E731
                hooks.enter_context(module.register_forward_hook(hook))
        return calls, _run(model, images)


def _run_with(model: nn.Module, images: Tensor, module: nn.Module, output: Tensor) -> list[Tensor]:
    """Return the network's outputs if one of its modules returns ``output``."""
    with module.register_forward_hook(lambda *_: output.clone()):
        return _run(model, images)


def _run(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the tensors that a pass returns; none if they cannot be read as logits."""
    try:
        return list(find_tensors(model(images)))
    except UserError:
        return []


def read_features(
    model: nn.Module, images: Tensor, layer: str, *, batch: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return what a layer reads of each image, ``(N, D)``, and the logits, ``(N, K)``.

    Args:
        model: the network, which returns logits.
        images: ``(N, C, H, W)``.
        layer: the layer that ``find_classifier`` found.
        batch: images per forward pass; None for all at once.
    """
    seen: list[Tensor] = []
    with explaining(model), torch.no_grad():
        images = prepare_images(model, images)
        module = model.get_submodule(layer)
        with module.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(1))):
            logits = [model(images[part]) for part in chunks(len(images), batch)]
    return torch.cat(seen), torch.cat(logits)
