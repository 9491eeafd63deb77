"""Any attribution method of Captum, by name: signed maps over the picture or over a layer.

Shapes: ``B`` batch, ``C`` channels, ``H W`` picture size, ``h w`` size of a layer's maps, ``K``
classes.

N. Kokhlikyan et al., *Captum: A unified and generic model interpretability library for PyTorch*,
2020, https://arxiv.org/abs/2009.07896; each method's own paper is named in Captum's documentation.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from convlens.core.errors import UserError
from convlens.explain.captum_methods import MethodCall, TwoClassNetwork, find_method
from convlens.explain.grad_cam import class_scores, probabilities
from convlens.explain.mode import chunks, explaining, prepare_images, switch_off
from convlens.explain.occlusion import compute_logits
from convlens.explain.outputs import answering
from convlens.explain.state import copy_network

_OVERRIDES_RELU = ("Guided", "Deconvolution", "DeepLift")


@dataclass(frozen=True, eq=False)
class AttributionMaps:
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


def attribute(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    method: str,
    *,
    layer: str | None = None,
    batch: int | None = None,
    seed: int = 0,
    **options: Any,
) -> AttributionMaps:
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
    layer = plan.layer_of(model, layer, images)
    if plan.mixes and len(images) < 2:
        raise UserError(f"{method} exchanges parts of pictures, and needs two of them at least")
    with ExitStack() as state:
        state.enter_context(explaining(model))
        state.enter_context(answering(model))
        images = prepare_images(model, images)
        targets = targets.detach().to(images.device, torch.long).clone()
        logits = compute_logits(model, images, batch=batch)
        predicted = probabilities(logits).argmax(1)
        targets = torch.where(targets == -1, predicted, targets)
        class_scores(logits, targets[:, None])  # tells targets that are no classes
        overrides = any(word in plan.base.__name__ for word in _OVERRIDES_RELU)
        notes = _relu_notes(model, images[:1], plan.name) if overrides else ()
        if "lrp" in plan.name:
            model = copy_network(model)
        state.enter_context(_untouched(model))
        # Captum keeps the inputs of activations: they write to fresh memory
        state.enter_context(switch_off(model.modules(), "inplace"))
        network = TwoClassNetwork(model)
        maps = []
        for part in chunks(len(images), 1 if plan.alone else None if plan.mixes else batch):
            _seed_generators(images.device, seed)
            maps.append(plan.run(network, layer, images, targets, part))
    return AttributionMaps(torch.cat(maps), logits, targets, method, layer, notes)


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


class _CountRelu(TorchDispatchMode):
    """Counts ReLUs, modules and calls of the function alike."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.total += func in (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)
        return func(*args, **(kwargs or {}))


def _relu_notes(model: nn.Module, image: Tensor, method: str) -> tuple[str, ...]:
    """A warning where ``method``, which overrides ReLU's gradient, cannot reach all ReLUs."""
    modules: list[nn.Module] = []  # those called, which alone can be hooked
    with _CountRelu() as counter, ExitStack() as hooks, torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                hooks.enter_context(module.register_forward_hook(lambda m, *_: modules.append(m)))
        model(image)
    missed = counter.total - len(modules)
    if missed > 0:
        return (
            f"{missed} of {counter.total} ReLUs are calls of a function, not modules: "
            f"{method} takes their plain gradient",
        )
    if not counter.total and "deep_lift" not in method:
        return (f"the network has no ReLU: {method} is its plain gradient",)
    return ()


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Hooks and attributes that Captum leaves on modules, also where it fails, are taken off."""
    kinds = ("__dict__", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks",
             "_backward_pre_hooks")  # fmt: skip
    stores = [getattr(module, kind) for module in model.modules() for kind in kinds]
    before = [set(store) for store in stores]
    try:
        yield
    finally:
        for store, known in zip(stores, before, strict=True):
            for key in set(store) - known:
                del store[key]


def _seed_generators(device: torch.device, seed: int) -> None:
    """Every generator Captum draws from starts at ``seed``; :func:`explaining` puts them back."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
