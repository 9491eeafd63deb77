"""Attribution methods of Captum, by name: signed maps over the image or over a layer.

Shapes: ``B`` batch, ``C`` channels, ``H W`` image size, ``h w`` size of a layer's maps, ``K``
classes.

N. Kokhlikyan et al., *Captum: A unified and generic model interpretability library for PyTorch*,
2020, https://arxiv.org/abs/2009.07896; Captum's documentation cites the paper of each method.
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
    """Maps of one method for one batch of images; fp32 (fp64 for a float64 network), detached.

    Attributes:
        maps: ``(B, H, W)``, or ``(B, h, w)`` for a layer: the sum over channels, signed. The
            unit depends on the method: compare maps of one method only.
        logits: ``(B, K)`` of the images; ``(B, 1)`` for a one-logit network.
        targets: ``(B,)`` the explained classes.
        method: name of the method, such as ``integrated_gradients``.
        layer: the layer that is explained or that the method works through; None if the method
            uses no layer.
        notes: one line for each caveat about the maps.
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
    """Attribute the logits of ``targets`` by a method of ``captum.attr``, summed over channels.

    Each of the ``options`` goes to the method's constructor or to its ``attribute``. Some defaults
    differ from Captum's. The features that are covered or permuted are 49 superpixels (squares for
    ``feature_permutation``; 4 superpixels for the exact ``shapley_values``), or a layer's positions
    with all channels. ``occlusion`` uses windows of a quarter of each side that overlap by half.
    The Shapley gradients (``gradient_shap``, …) compare with two uniform images, one of the image's
    lowest value and one of its highest. ``noise_tunnel`` takes ``of="saliency"``, the method whose
    maps it averages.

    While Captum runs, in-place activations write to new memory: Captum hooks their inputs, which
    they would otherwise overwrite. The network does not change; ``lrp``, which rewrites weights,
    gets a copy. A one-logit network is treated as two classes: target 1 is explained by ``+logit``,
    target 0 by ``-logit``. The global random state stays as it was. Methods that sample explain one
    image at a time and start from ``seed`` each time, so an image's map does not depend on the
    others.

    Args:
        model: the network.
        images: ``(B, C, H, W)``, preprocessed as the network expects them.
        targets: ``(B,)`` class numbers; -1 for the predicted class.
        method: ``integrated_gradients``, ``IntegratedGradients``, …; see
            ``convlens.explain.attribution_methods``.
        layer: module path, for methods that use a layer; None for the last feature map.
        batch: maximum number of images per pass (steps of an integral and covered images count
            too); None for all at once.
        seed: seed of the methods that sample.
        options: options of the method itself; a tensor with one entry per image is split along with
            the images.

    Raises:
        UserError: if the method, the layer or an option is unknown, the layer has no maps, a
            target is not one of the classes, or the method cannot explain the network.
    """
    if images.dim() != 4 or targets.dim() != 1 or len(targets) != len(images):
        raise ValueError(f"targets must be (B,) for {len(images)} images (B, C, H, W)")
    method = find_method(method)
    call = MethodCall(method, options, batch)
    layer = call.choose_layer(model, layer, images)
    if call.mixes_images and len(images) < 2:
        raise UserError(
            f"{method} swaps parts between images: choose at least two images, or another method"
        )
    with ExitStack() as state:
        state.enter_context(explaining(model))
        state.enter_context(answering(model))
        images = prepare_images(model, images)
        targets = targets.detach().to(images.device, torch.long).clone()
        logits = compute_logits(model, images, batch=batch)
        predicted = probabilities(logits).argmax(1)
        targets = torch.where(targets == -1, predicted, targets)
        class_scores(logits, targets[:, None])  # raises if a target is not one of the classes
        overrides = any(word in call.base.__name__ for word in _OVERRIDES_RELU)
        notes = _check_relus(model, images[:1], call.name) if overrides else ()
        if "lrp" in call.name:
            model = copy_network(model)
        state.enter_context(_remove_traces(model))
        # Captum keeps the inputs of activations, which must not be overwritten
        state.enter_context(switch_off(model.modules(), "inplace"))
        network = TwoClassNetwork(model)
        maps = []
        part_size = 1 if call.runs_singly else None if call.mixes_images else batch
        for part in chunks(len(images), part_size):
            _seed_generators(images.device, seed)
            maps.append(call.run(network, layer, images, targets, part))
    return AttributionMaps(torch.cat(maps), logits, targets, method, layer, notes)


def check_attribution(
    model: nn.Module, example: Tensor, method: str, layer: str | None, options: dict
) -> str | None:
    """Return the layer that ``convlens.explain.attribute`` would use, or None; compute no maps.

    Args:
        model: the network.
        example: ``(1, C, H, W)`` image for one forward pass, if the layer has to be found.
        method: as for ``convlens.explain.attribute``.
        layer: as for ``convlens.explain.attribute``.
        options: as for ``convlens.explain.attribute``.

    Raises:
        UserError: if the method, the layer or the options are invalid, as far as this can be
            checked without computing maps.
    """
    return MethodCall(find_method(method), options, None).choose_layer(model, layer, example)


class _ReluCounter(TorchDispatchMode):
    """Counts ReLUs, whether they are modules or function calls."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.total += func in (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)
        return func(*args, **(kwargs or {}))


def _check_relus(model: nn.Module, image: Tensor, method: str) -> tuple[str, ...]:
    """Return a note if ``method``, which overrides ReLU's gradient, cannot reach all ReLUs."""
    modules: list[nn.Module] = []  # those that are called: only modules can be hooked
    with _ReluCounter() as counter, ExitStack() as hooks, torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                hooks.enter_context(module.register_forward_hook(lambda m, *_: modules.append(m)))
        model(image)
    missed = counter.total - len(modules)
    if missed > 0:
        return (
            f"{missed} of {counter.total} ReLUs are function calls, not modules: {method} uses "
            "their plain gradient",
        )
    if not counter.total and "deep_lift" not in method:
        return (f"the network has no ReLU: {method} equals the plain gradient",)
    return ()


@contextmanager
def _remove_traces(model: nn.Module) -> Iterator[None]:
    """Remove on exit the hooks and attributes that Captum leaves on modules, even if it fails."""
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
    """Seed every generator that Captum uses; ``convlens.explain.explaining`` restores them."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
