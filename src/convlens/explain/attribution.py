"""Any attribution method of Captum, by name: signed maps over the picture or over a layer.

Shapes: ``B`` batch, ``C`` channels, ``H W`` picture size, ``h w`` size of a layer's maps, ``K``
classes.

N. Kokhlikyan et al., *Captum: A unified and generic model interpretability library for PyTorch*,
2020, https://arxiv.org/abs/2009.07896; each method's own paper is named in Captum's documentation.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.explain.captum_methods import MethodCall, attribution_methods, find_method
from convlens.explain.captum_network import (
    TwoClassesAtLeast,
    nothing_in_place,
    own_randomness,
    relu_notes,
    untouched,
)
from convlens.explain.grad_cam import class_scores, probabilities
from convlens.explain.mode import chunks, explaining, ready
from convlens.explain.occlusion import class_logits
from convlens.explain.outputs import answering
from convlens.explain.state import copy_network

_OVERRIDES_RELU = ("Guided", "Deconvolution", "DeepLift")


@dataclass(frozen=True, eq=False)
class Attribution:
    """Maps of one method for one batch of pictures; fp32 (fp64 for a float64 network), detached.

    Attributes:
        maps: ``(B, H, W)``, or ``(B, h, w)`` of a layer: the sum over channels, signed. The unit
            is the method's: compare maps of one method only.
        logits: ``(B, K)`` of the pictures; ``(B, 1)`` for a one-logit network.
        targets: ``(B,)`` the classes explained.
        method: its name, as in ``integrated_gradients``.
        layer: whose maps these are, or through which they were found; None for the picture alone.
        notes: what a reader of the maps should know, one line each.
    """

    maps: Tensor
    logits: Tensor
    targets: Tensor
    method: str
    layer: str | None
    notes: tuple[str, ...]

    @property
    def probabilities(self) -> Tensor:
        """``(B, K)``, or ``(B, 2)`` for a one-logit network."""
        return probabilities(self.logits)


def attribute(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    method: str,
    *,
    layer: str | None = None,
    batch: int | None = None,
    seed: int = 0,
    **options,
) -> Attribution:
    """What a method of ``captum.attr`` gives for the logits of ``targets``, summed over channels.

    ``options`` go to the method's constructor or its ``attribute``, whichever knows them. Where
    nothing is said, these differ from Captum's: features that are covered or permuted are 49
    superpixels (squares for ``feature_permutation``; 4 superpixels for the exact
    ``shapley_values``), or a layer's positions with all channels; ``occlusion`` has windows of a
    quarter of the sides, half overlapping; the Shapley gradients (``gradient_shap``, …) compare
    with two plain pictures of the picture's darkest and brightest value. ``noise_tunnel`` takes
    ``of="saliency"``, the method whose maps are averaged.

    While Captum works, in-place activations write to fresh memory: it hooks their inputs, which
    would be overwritten. Nothing of the network changes; ``lrp``, which rewrites weights, gets a
    copy. A one-logit network is read as two classes: target 1 is explained by ``+logit``, target 0
    by ``-logit``. No global random number is drawn: methods that sample explain picture by picture
    and start from ``seed`` each time, so a picture's map does not depend on its neighbours.

    Args:
        images: ``(B, C, H, W)`` as the network takes them.
        targets: ``(B,)`` class numbers; -1 stands for the predicted class.
        method: ``integrated_gradients``, ``IntegratedGradients``, …; see
            :func:`attribution_methods`.
        layer: module path, for methods that explain a layer or through one; None for the last
            feature map.
        batch: pictures a pass at most (also steps of an integral, covered pictures); None for all
            at once.
        seed: of methods that sample.
        options: the method's own; a tensor with one entry for each picture goes along with it.

    Raises:
        UserError: an unknown method, layer or option; a layer without maps; a target outside the
            classes; a network that the method cannot explain.
    """
    if images.dim() != 4 or targets.dim() != 1 or len(targets) != len(images):
        raise ValueError(f"targets must be (B,) for {len(images)} pictures (B, C, H, W)")
    method = find_method(method)
    plan = MethodCall(method, options, batch)
    inner = plan.inner
    layer = plan.layer_of(model, layer, images)
    if plan.mixes and len(images) < 2:
        raise UserError(f"{method} exchanges parts of pictures, and needs two of them at least")
    with ExitStack() as state:
        state.enter_context(explaining(model))
        state.enter_context(answering(model))
        images = ready(model, images)
        targets = targets.detach().to(images.device, torch.long).clone()
        logits = class_logits(model, images, batch=batch)
        predicted = probabilities(logits).argmax(1)
        targets = torch.where(targets == -1, predicted, targets)
        class_scores(logits, targets[:, None])  # tells targets that are no classes
        kind = attribution_methods()[inner or method].__name__
        overrides = any(word in kind for word in _OVERRIDES_RELU)
        notes = relu_notes(model, images[:1], inner or method) if overrides else ()
        if "lrp" in method or "lrp" in (inner or ""):
            model = copy_network(model)
        state.enter_context(untouched(model))
        state.enter_context(nothing_in_place(model))
        network = TwoClassesAtLeast(model)
        maps = []
        for part in chunks(len(images), 1 if plan.alone else None if plan.mixes else batch):
            with own_randomness(images.device, seed):
                maps.append(plan.run(network, layer, images, targets, part))
    return Attribution(torch.cat(maps), logits, targets, method, layer, notes)


def check_attribution(
    model: nn.Module, example: Tensor, method: str, layer: str | None, options: dict
) -> str | None:
    """The layer that :func:`attribute` would explain, or None; nothing is computed.

    Args:
        example: ``(1, C, H, W)`` picture, for one pass where the layer is to be found.

    Raises:
        UserError: what can be told of a method, a layer and options beforehand.
    """
    return MethodCall(find_method(method), options, None).layer_of(model, layer, example)
