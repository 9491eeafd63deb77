"""Captum's attribution methods: their names, and how to call one of them for images.

Shapes: ``B`` batch, ``C`` channels, ``H W`` image size, ``h w`` size of a layer's maps.
"""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.explain.axes import Layout
from convlens.explain.captum_layers import hook_layers, read_outputs
from convlens.explain.layers import find_feature_map
from convlens.explain.layouts import find_module
from convlens.explain.mode import image_size
from convlens.explain.occlusion import window_pixels
from convlens.explain.superpixels import superpixels

# The first explains whole data sets, the second is only a base of others, and the last always
# fails, because it selects the target twice (Captum 0.9).
_EXCLUDED = {"DataLoaderAttribution", "LimeBase", "LayerFeaturePermutation"}
_NOT_OPTIONS = {
    "self", "forward_func", "model", "layer", "device_ids", "attribution_method", "inputs",
    "target", "additional_forward_args", "return_convergence_delta", "return_input_shape",
    "show_progress", "verbose", "kwargs",
}  # fmt: skip
# what Captum raises if a method does not suit the network or its options
_CAPTUM_ERRORS = (AssertionError, NotImplementedError, TypeError, ValueError, ImportError)
_SEGMENTS = 49  # superpixels that serve as features
_EXACT_SEGMENTS = 4  # for exact Shapley values, whose cost is the factorial of this number
_COVERED_PER_PASS = 8  # default number of covered images per pass: the fastest on a CPU


def attribution_methods() -> dict[str, type[Any]]:
    """Return name (such as ``integrated_gradients``) -> class of ``captum.attr``, for images."""
    import captum.attr

    classes = (getattr(captum.attr, name) for name in captum.attr.__all__)
    return {
        _snake(kind.__name__): kind
        for kind in classes
        if inspect.isclass(kind)
        and issubclass(kind, captum.attr.Attribution)
        and hasattr(kind, "attribute")
        and "LLM" not in kind.__name__
        and kind.__name__ not in _EXCLUDED
    }


def find_method(name: str) -> str:
    """Return a method's name in ``attribution_methods``, from snake_case or CamelCase.

    Raises:
        UserError: if there is none; the message names the most similar ones.

    >>> find_method("GuidedGradCam"), find_method("lrp")
    ('guided_grad_cam', 'lrp')
    """
    known = attribution_methods()
    by_letters = {_letters(method): method for method in known}
    if _letters(name) not in by_letters:
        raise UserError(f"no attribution method {name!r}: {nearest(_snake(name), known)}")
    return by_letters[_letters(name)]


class TwoClassNetwork(nn.Module):
    """A network with logits ``(B, K)``, K at least 2: one logit becomes ``[-logit, logit]``.

    Use it inside ``convlens.explain.answering``.
    """

    model: nn.Module

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        return torch.cat([-logits, logits], 1) if logits.shape[1] == 1 else logits


class MethodCall:
    """One method with its options, ready to explain images.

    Args:
        method: a name in ``attribution_methods``.
        options: arguments of Captum's constructor or its ``attribute``.
        batch: images per pass at most; None for all at once.

    Attributes:
        method: name of the method.
        kind: Captum's class of the method.
        name: name of the method that computes the maps: ``of`` for ``noise_tunnel``, else
            ``method``.
        base: Captum's class of ``name``.
        init_names: parameter names of the constructor of ``base``.
        call_names: parameter names of ``attribute`` of ``base``.
        options: the options, lists converted to tuples.
        batch: images per pass at most; None for all at once.
        uses_baseline_set: whether the method compares with a set of baseline images.
        runs_singly: whether images are explained one by one, because the method samples, makes
            several images of each, or needs separate features for each.
        mixes_images: whether the method swaps parts between the images of a batch, so that the
            batch must not be split.

    Raises:
        UserError: if an option is unknown or a required one is missing.
    """

    def __init__(self, method: str, options: dict, batch: int | None):
        known, options = attribution_methods(), dict(options)
        inner = find_method(options.pop("of", "saliency")) if method == "noise_tunnel" else None
        self.method, self.batch, self.kind = method, batch, known[method]
        self.name = inner or method
        self.base = known[self.name]
        if inner == "noise_tunnel":
            raise UserError(
                "noise_tunnel cannot average itself: set of= to another method, such as saliency"
            )
        self.init_names = _parameters(self.base.__init__)
        self.call_names = _parameters(self.base.attribute)
        outer = _parameters(self.kind.attribute)
        allowed = (self.init_names | self.call_names | outer) - _NOT_OPTIONS
        for name in options:
            if name not in allowed:
                raise UserError(f"{method} has no option {name!r}: {nearest(name, allowed)}")
        if "neuron_selector" in self.call_names and "neuron_selector" not in options:
            raise UserError(
                f"{method} needs the option neuron_selector: the unit's position in the layer"
            )
        self.options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        samples = {"n_samples", "nt_samples"} & (self.call_names | outer)
        multiplies = {"internal_batch_size", "perturbations_per_eval"} & self.call_names
        masked = "layer_mask" in self.call_names  # Captum does not repeat the targets for these
        self.mixes_images = "permutation" in self.name
        shap = "Shap" in self.base.__name__
        self.uses_baseline_set = shap and "feature_mask" not in self.call_names
        self.runs_singly = not self.mixes_images and bool(
            samples or self.uses_baseline_set or masked or (multiplies and batch)
        )

    def choose_layer(self, model: nn.Module, layer: str | None, images: Tensor) -> str | None:
        """Return the layer to use: ``layer``, the last feature map, or None if none is needed.

        Raises:
            UserError: if the layer does not exist, or the method does not use one.
        """
        if "layer" not in self.init_names:
            if layer is not None:
                raise UserError(f"{self.name} does not use a layer: leave layer out")
            return None
        if layer is None:
            layer, reason = find_feature_map(model, images[:1])
            if layer is None:
                raise UserError(f"{self.method} needs a layer, but {reason}")
        find_module(model, layer)
        return layer

    def run(
        self,
        network: TwoClassNetwork,
        layer: str | None,
        images: Tensor,
        targets: Tensor,
        part: slice,
    ) -> Tensor:
        """Return the maps of the images in ``part``, ``(B, h, w)``.

        Args:
            network: the network.
            layer: the result of ``choose_layer``.
            images: ``(B, C, H, W)``, all of them.
            targets: ``(B,)`` class numbers.
            part: which of the images to explain.

        Raises:
            UserError: if the method cannot explain this network, or the layer has no maps.
        """
        total, images = len(images), images[part].clone().requires_grad_()
        layout, shape = Layout(None), torch.Size()
        if layer and ("GradCam" in self.base.__name__ or self.base.__name__.startswith("Layer")):
            with hook_layers(network.model, [layer]) as layouts, torch.no_grad():
                shape = read_outputs(layouts, images[:1].detach())[layer].shape
            layout = layouts.layout(layer)
        if "GradCam" in self.base.__name__ and (
            layout.grid or layout.order not in ((0, 1, 2, 3), (0, 1), None)
        ):
            # Captum averages over axes 2 and 3, whatever they are
            raise UserError(
                f"{self.name} reads the channels from axis 1, but layer {layer!r} has them on "
                "another axis: choose a convolution, or the method grad_cam"
            )
        arguments = self._defaults(images.detach())
        masked = "layer_mask" in self.call_names and "layer_mask" not in self.options
        if layer is not None and masked:
            arguments["layer_mask"] = _number_positions(layer, layout, shape).to(images.device)
        for name, value in self.options.items():
            arguments[name] = self._slice_option(value, name, total, part, images.device)
        init_arguments = {
            name: arguments.pop(name) for name in [*arguments] if name in self.init_names
        }
        if layer:
            init_arguments["layer"] = find_module(network.model, layer)
        if "target" in self.call_names:
            arguments["target"] = targets[part]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about hooks, which are removed afterwards
                explainer = self.base(network, **init_arguments)
                if self.base is not self.kind:
                    explainer = self.kind(explainer)
                maps = explainer.attribute(images, **arguments)
        except Exception as error:
            if not self._is_misuse(error):
                raise  # such as out of memory
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"{self.name} cannot explain this network: {reason}") from error
        maps = maps[0] if isinstance(maps, tuple) else maps
        if self.base.__name__.startswith("Layer") and layout.is_known:
            maps = layout.channels_first(maps) if maps.shape[1:] == shape[1:] else maps
        if maps.dim() != 4:
            raise UserError(
                f"{self.method} at layer {layer!r} returns {tuple(maps.shape[1:])} per image, "
                "not maps (C, h, w): choose a convolution or its activation"
            )
        return maps.detach().sum(1)

    def _is_misuse(self, error: Exception) -> bool:
        """Return whether Captum raised ``error`` because the method does not suit the network."""
        text = str(error)
        return (
            isinstance(error, _CAPTUM_ERRORS)
            # layers without a rule
            or (isinstance(error, AttributeError) and "lrp" in self.name)
            # layers used twice, tensors changed in place
            or (isinstance(error, RuntimeError) and ("inplace" in text or "more than once" in text))
        )

    def _defaults(self, images: Tensor) -> dict:
        """Return the arguments for Captum that the options do not set, or may override."""
        arguments: dict[str, Any] = {}
        if "internal_batch_size" in self.call_names and self.batch:
            arguments["internal_batch_size"] = self.batch
        if "perturbations_per_eval" in self.call_names:
            count = 1 if self.mixes_images else self.batch or _COVERED_PER_PASS
            arguments["perturbations_per_eval"] = count
        if "sliding_window_shapes" in self.call_names:
            channels = images.shape[1]
            default = (channels, *window_pixels(0.25, image_size(images)))
            arguments["sliding_window_shapes"] = default
            # strides of half a window, also for windows that the caller chooses
            window = self.options.get("sliding_window_shapes", default)
            arguments["strides"] = (channels, *(max(1, int(side) // 2) for side in window[1:]))
        if "feature_mask" in self.call_names and "feature_mask" not in self.options:
            count = _EXACT_SEGMENTS if self.base.__name__ == "ShapleyValues" else _SEGMENTS
            like = torch.zeros_like(images[:1]) if self.mixes_images else images
            arguments["feature_mask"] = superpixels(like, count)[:, None]
        if self.uses_baseline_set and "baselines" not in self.options:
            dark, bright = images.amin((1, 2, 3)), images.amax((1, 2, 3))
            ends = torch.cat([dark, bright])[:, None, None, None]
            arguments["baselines"] = ends.expand(-1, *images.shape[1:]).clone()
        return arguments

    def _slice_option(
        self, value: Any, name: str, total: int, part: slice, device: torch.device
    ) -> Any:
        """Return an option for the images in ``part``: slice tensors with one entry per image."""
        if not isinstance(value, Tensor):
            return value
        value = value.to(device)
        if name == "feature_mask" and value.dim() < 4:  # (H, W) or (B, H, W): for all channels
            value = value.reshape(-1, 1, *value.shape[-2:])
        shared = self.uses_baseline_set and name == "baselines"  # a set of images to compare with
        return value[part] if len(value) == total and value.dim() > 2 and not shared else value


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", str(name)).lower()


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def _parameters(function) -> set[str]:
    return set(inspect.signature(function).parameters)


def _number_positions(layer: str, layout: Layout, shape: Sequence[int]) -> Tensor:
    """Number the positions of a layer's output: the same for all channels and images."""
    if not layout.is_map or (layout.grid and layout.tokens is None):
        raise UserError(f"layer {layer!r} has no maps (C, h, w): choose a convolution")
    batch = layout.grid.axes[0] if layout.grid else 0
    sides = [1 if axis in (batch, layout.channel_axis) else n for axis, n in enumerate(shape)]
    return torch.arange(math.prod(sides)).reshape(sides)
