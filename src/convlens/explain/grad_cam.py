"""Grad-CAM: where in the image a layer finds evidence for a class.

Shapes: ``B`` batch, ``C`` channels, ``H W`` image size, ``h w`` size of a layer's maps, ``K``
classes, ``T`` explained targets per image.

R. R. Selvaraju et al., *Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization*, ICCV 2017, https://arxiv.org/abs/1610.02391
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.explain.captum_layers import hook_layers, read_outputs_with_graph
from convlens.explain.grids import Layout
from convlens.explain.layouts import Layouts
from convlens.explain.mode import chunks, explaining, prepare_images
from convlens.explain.outputs import answering


@dataclass(frozen=True, eq=False)
class GradCamMaps:
    """Maps of ``T`` targets at ``L`` layers for one batch of images; fp32, detached.

    Attributes:
        maps: layer name -> ``(B, T, h, w)``; not negative unless computed with ``relu=False``.
            The scale is that of the logits: compare maps of one image, not of several networks.
        logits: ``(B, K)``; ``(B, 1)`` for a one-logit network.
        targets: ``(B, T)`` the explained classes.
    """

    maps: dict[str, Tensor]
    logits: Tensor
    targets: Tensor

    @property
    def probabilities(self) -> Tensor:
        """The class probabilities ``(B, K)``; ``(B, 2)`` for a one-logit network."""
        return probabilities(self.logits)

    def upsample(self, size: tuple[int, int]) -> dict[str, Tensor]:
        """Return layer name -> ``(B, T, H, W)``: the maps resized bilinearly to ``size`` (H, W)."""
        return {
            name: F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
            for name, maps in self.maps.items()
        }


def grad_cam(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    layers: Sequence[str],
    *,
    relu: bool = True,
    batch: int | None = None,
) -> GradCamMaps:
    """Compute Grad-CAM maps for several layers and several classes from one forward pass.

    With ``A`` the ``(C, h, w)`` output of a layer and ``y`` the logit of the class,

        map = ReLU( sum over c of  mean over h, w of dy/dA_c  *  A_c )

    which is Captum's ``LayerGradCam`` with ``relu_attributions=True``. Captum reads all layers in
    one forward pass. Each target costs one backward pass, which serves all layers and ends at the
    first of them. A one-logit network is treated as two classes: target 1 is explained by
    ``+logit``, target 0 by ``-logit``.

    The network does not change. Gradients come from ``torch.autograd.grad``, which leaves ``.grad``
    alone; ``convlens.explain.explaining`` restores everything else.

    Args:
        model: the network.
        images: ``(B, C, H, W)``, preprocessed as the network expects them.
        targets: ``(B,)`` or ``(B, T)`` class numbers; -1 for the predicted class, -2 for the second
            most probable one, and so on.
        layers: module paths whose outputs are maps, channels first or last, or tokens. Tokens
            without a place in the image are left out: of the map, and of the mean of gradients.
        relu: False keeps evidence against the class, as negative values.
        batch: images per forward pass; None for all at once.

    Raises:
        UserError: if a layer is unknown, has no spatial map, has its channels on an unknown axis or
            does not lead to the logits; if a target is not one of the classes; if the outputs are
            not logits (see ``convlens.explain.answering``).
    """
    targets = targets if targets.dim() == 2 else targets[:, None]
    if targets.dim() != 2 or len(targets) != len(images):
        raise ValueError(f"targets must be (B,) or (B, T) for {len(images)} images")
    with explaining(model), answering(model), hook_layers(model, layers, gradients=True) as layouts:
        images = prepare_images(model, images)
        asked = targets.detach().cpu().long()
        targets = asked.to(images.device, copy=True)
        results = [
            _compute_maps(layouts, images[part], targets[part], relu, asked[part])
            for part in chunks(len(images), batch)
        ]
    maps = {name: torch.cat([part[name] for part, _ in results]) for name in layers}
    return GradCamMaps(maps, torch.cat([logits for _, logits in results]), targets)


def _compute_maps(
    layouts: Layouts, images: Tensor, targets: Tensor, relu: bool, asked: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Return layer name -> maps ``(B, T, h, w)``, and the logits ``(B, K)``.

    In ``targets``, ranks below 0 are replaced by classes. ``asked`` are the same numbers on the
    CPU, which are checked without waiting for the device.
    """
    outputs, logits = read_outputs_with_graph(layouts, images)
    probs = probabilities(logits.detach())
    _check_ranks(asked, probs.shape[1])
    targets.copy_(_resolve_ranks(probs, targets))
    scores = pick_scores(logits, targets)
    known = {name: _find_layout(layouts, name, output) for name, output in outputs.items()}
    maps: dict[str, list[Tensor]] = {name: [] for name in outputs}
    last = targets.shape[1] - 1
    for t in range(targets.shape[1]):
        # images do not mix in evaluation mode, so one gradient of the sum has those of all images
        gradients = torch.autograd.grad(
            scores[:, t].sum(), [*outputs.values()], retain_graph=t < last, allow_unused=True
        )
        for (name, output), gradient in zip(outputs.items(), gradients, strict=True):
            if gradient is None:
                raise UserError(f"layer {name!r} does not lead to the logits: choose another layer")
            values, slopes = map(known[name].channels_first, (output.detach(), gradient))
            cam = (slopes.mean((-2, -1), keepdim=True) * values).sum(1)
            maps[name].append(cam.relu() if relu else cam)
    return {name: torch.stack(pieces, 1) for name, pieces in maps.items()}, logits.detach()


def _check_ranks(asked: Tensor, classes: int) -> None:
    if asked.numel() and asked.min() < -classes:
        raise UserError(f"there are {classes} classes, so no rank {-int(asked.min())}")
    _check_classes(asked.clamp_min(0), classes)


def resolve_targets(logits: Tensor, targets: Tensor) -> Tensor:
    """Return targets ``(B, T)`` with -1 replaced by the predicted class, and so on.

    Raises:
        UserError: if a target is not one of the classes of ``logits`` ``(B, K)``.
    """
    probs = probabilities(logits)
    _check_ranks(targets, probs.shape[1])
    return _resolve_ranks(probs, targets)


def _resolve_ranks(probs: Tensor, targets: Tensor) -> Tensor:
    """Return the targets ``(B, T)`` with -1 replaced by the most probable class, and so on."""
    predicted = probs.argmax(1, keepdim=True)
    # the predicted class is first, even beside others that are equal or not finite
    ranked = probs.nan_to_num(nan=-1.0).scatter(1, predicted, torch.inf)
    order = ranked.sort(dim=1, descending=True, stable=True).indices
    return torch.where(targets < 0, order.gather(1, (-targets - 1).clamp_min(0)), targets)


def _find_layout(layouts: Layouts, name: str, output: Tensor) -> Layout:
    """Return the layout of a layer's output; raise a UserError if it does not hold maps."""
    layout = layouts.layout(name)
    if not layout.is_map:
        reason = layout.reason or f"returns {tuple(output.shape[1:])} per image"
        raise UserError(
            f"layer {name!r} {reason}; Grad-CAM needs maps (C, h, w): choose a convolution, a "
            "block or an activation"
        )
    return layout


def class_scores(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the logit of each target, ``(B, T)``, from logits ``(B, K)``.

    A single logit is the score of class 1; its negative is that of class 0.

    Raises:
        UserError: if a target is not one of the classes.
    """
    _check_classes(targets, max(2, logits.shape[1]))
    return pick_scores(logits, targets)


def _check_classes(targets: Tensor, classes: int) -> None:
    if targets.numel() and (targets.min() < 0 or targets.max() >= classes):
        raise UserError(f"targets must be classes 0 to {classes - 1}, got {targets.tolist()}")


def pick_scores(logits: Tensor, targets: Tensor) -> Tensor:
    """Return what ``class_scores`` does for targets that are classes: nothing is checked here."""
    if logits.shape[1] == 1:
        return torch.where(targets == 1, logits, -logits)
    return logits.gather(1, targets)


def probabilities(logits: Tensor) -> Tensor:
    """Return the class probabilities ``(B, K)`` in [0, 1], whose rows sum to 1.

    Several logits go through a softmax; one logit becomes ``[1 - sigmoid, sigmoid]``.

    Raises:
        ValueError: if the logits are not ``(B, K)``: a single axis could be images or classes.

    >>> probabilities(torch.tensor([[0.0]]))
    tensor([[0.5000, 0.5000]])
    """
    if logits.dim() != 2:
        raise ValueError(f"logits must be (B, K), got {tuple(logits.shape)}")
    if logits.shape[1] == 1:
        return torch.cat([(-logits).sigmoid(), logits.sigmoid()], 1)
    return logits.softmax(1)
