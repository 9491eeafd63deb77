"""Captum's attribution methods: which there are, and how one of them is called for pictures.

Shapes: ``B`` batch, ``C`` channels, ``H W`` picture size, ``h w`` size of a layer's maps.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.explain.axes import Layout
from convlens.explain.captum_layers import layer_outputs, reading
from convlens.explain.layers import find_feature_map
from convlens.explain.layouts import find_module
from convlens.explain.mode import image_size
from convlens.explain.occlusion import window_pixels
from convlens.explain.superpixels import superpixels

# of whole data sets, only the base of others; the last selects the target twice (Captum 0.9) and
# always fails
_LEFT_OUT = {"DataLoaderAttribution", "LimeBase", "LayerFeaturePermutation"}
_NOT_OPTIONS = {
    "self", "forward_func", "model", "layer", "device_ids", "attribution_method", "inputs",
    "target", "additional_forward_args", "return_convergence_delta", "return_input_shape",
    "show_progress", "verbose", "kwargs",
}  # fmt: skip
# what Captum raises where a method does not fit a network or its options
_REFUSALS = (AssertionError, NotImplementedError, TypeError, ValueError, ImportError)
_SEGMENTS = 49  # superpixels where a method counts features
_EXACT_SEGMENTS = 4  # the exact Shapley values take the factorial of it
_TOGETHER = 8  # covered pictures a pass where nothing is said: the fastest on CPU


def attribution_methods() -> dict[str, type[Any]]:
    """Name, as in ``integrated_gradients`` -> class of ``captum.attr``, all that take pictures."""
    import captum.attr

    classes = (getattr(captum.attr, name) for name in captum.attr.__all__)
    return {
        _snake(kind.__name__): kind
        for kind in classes
        if inspect.isclass(kind)
        and issubclass(kind, captum.attr.Attribution)
        and hasattr(kind, "attribute")
        and "LLM" not in kind.__name__
        and kind.__name__ not in _LEFT_OUT
    }


def find_method(name: str) -> str:
    """The method's name as :func:`attribution_methods` has it, from ``snake`` or ``CamelCase``.

    Raises:
        UserError: there is none, with the nearest names.

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

    Call it inside ``convlens.explain.answering``.
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
    """One method with its options: how it is built, what it is called with, and on how much.

    Attributes:
        name, base: the method that explains, which ``noise_tunnel`` is called with; its class.
        alone: pictures are explained one by one: the method samples, multiplies its pictures, or
            needs features of their own.
        mixes: the method compares pictures of a batch, which must stay whole.
    """

    def __init__(self, method: str, options: dict, batch: int | None):
        known, options = attribution_methods(), dict(options)
        inner = find_method(options.pop("of", "saliency")) if method == "noise_tunnel" else None
        self.method, self.batch, self.kind = method, batch, known[method]
        self.name = inner or method
        self.base = known[self.name]
        if inner == "noise_tunnel":
            raise UserError("noise_tunnel cannot average itself: of=saliency, …")
        self.building = _parameters(self.base.__init__)
        self.calling = _parameters(self.base.attribute)
        outer = _parameters(self.kind.attribute)
        allowed = (self.building | self.calling | outer) - _NOT_OPTIONS
        for name in options:
            if name not in allowed:
                raise UserError(f"{method} has no option {name!r}: {nearest(name, allowed)}")
        if "neuron_selector" in self.calling and "neuron_selector" not in options:
            raise UserError(f"{method} needs neuron_selector=…: the unit's place in the layer")
        self.options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        samples = {"n_samples", "nt_samples"} & (self.calling | outer)
        multiplies = {"internal_batch_size", "perturbations_per_eval"} & self.calling
        alike = "layer_mask" in self.calling  # Captum does not repeat targets there
        self.mixes = "permutation" in self.name
        self.shap = "Shap" in self.base.__name__ and "feature_mask" not in self.calling
        self.alone = not self.mixes and bool(
            samples or self.shap or alike or (multiplies and batch)
        )

    def layer_of(self, model: nn.Module, layer: str | None, images: Tensor) -> str | None:
        if "layer" not in self.building:
            if layer is not None:
                raise UserError(f"{self.name} explains no layer: leave layer out")
            return None
        if layer is None:
            layer, why = find_feature_map(model, images[:1])
            if layer is None:
                raise UserError(f"{self.method} needs a layer, and {why}")
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
        """Maps of the pictures in ``part``, ``(B, h, w)``."""
        total, images = len(images), images[part].clone().requires_grad_()
        layout, shape = Layout(None), torch.Size()
        if layer and ("GradCam" in self.base.__name__ or self.base.__name__.startswith("Layer")):
            with reading(network.model, [layer]) as layouts, torch.no_grad():
                shape = layer_outputs(layouts, images[:1].detach())[layer].shape
            layout = layouts.layout(layer)
        if "GradCam" in self.base.__name__ and layout.order not in ((0, 1, 2, 3), (0, 1), None):
            # it averages over axes 2 and 3, whatever they are
            raise UserError(
                f"{self.name} takes axis 1 for the channels, but layer {layer!r} "
                "holds them elsewhere: choose a convolution, or the method grad_cam"
            )
        words = self._defaults(images.detach())
        if layer is not None and "layer_mask" in self.calling and "layer_mask" not in self.options:
            words["layer_mask"] = _positions(layer, layout, shape).to(images.device)
        words |= {name: self._piece(value, name, total, part, images.device)
                  for name, value in self.options.items()}  # fmt: skip
        building = {name: words.pop(name) for name in [*words] if name in self.building}
        if layer:
            building["layer"] = find_module(network.model, layer)
        if "target" in self.calling:
            words["target"] = targets[part]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of hooks, which are gone again behind it
                explainer = self.base(network, **building)
                if self.base is not self.kind:
                    explainer = self.kind(explainer)
                found = explainer.attribute(images, **words)
        except Exception as error:
            if not self._refuses(error):
                raise  # such as memory
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"{self.name} cannot explain this network so: {reason}") from error
        found = found[0] if isinstance(found, tuple) else found
        if self.base.__name__.startswith("Layer") and layout.order:
            found = found.permute(layout.order) if found.shape[1:] == shape[1:] else found
        if found.dim() != 4:
            raise UserError(
                f"{self.method} gives {tuple(found.shape[1:])} per picture at layer {layer!r}, and "
                "no maps (C, h, w): choose a convolution or its activation"
            )
        return found.detach().sum(1)

    def _refuses(self, error: Exception) -> bool:
        """Whether Captum says by ``error`` that the method does not do for the network."""
        text = str(error)
        return (
            isinstance(error, _REFUSALS)
            # of layers without a rule
            or (isinstance(error, AttributeError) and "lrp" in self.name)
            # of layers used twice, tensors changed in place
            or (isinstance(error, RuntimeError) and ("inplace" in text or "more than once" in text))
        )

    def _defaults(self, images: Tensor) -> dict:
        """What is said to Captum where the options say nothing."""
        words: dict[str, Any] = {}
        if "internal_batch_size" in self.calling and self.batch:
            words["internal_batch_size"] = self.batch
        if "perturbations_per_eval" in self.calling:
            words["perturbations_per_eval"] = 1 if self.mixes else self.batch or _TOGETHER
        if "sliding_window_shapes" in self.calling:
            channels = images.shape[1]
            words["sliding_window_shapes"] = (channels, *window_pixels(0.25, image_size(images)))
            # where the caller names windows of his own, strides of half of them
            window = self.options.get("sliding_window_shapes", words["sliding_window_shapes"])
            words["strides"] = (channels, *(max(1, int(side) // 2) for side in window[1:]))
        if "feature_mask" in self.calling and "feature_mask" not in self.options:
            count = _EXACT_SEGMENTS if self.base.__name__ == "ShapleyValues" else _SEGMENTS
            like = torch.zeros_like(images[:1]) if self.mixes else images
            words["feature_mask"] = superpixels(like, count)[:, None]
        if self.shap and "baselines" not in self.options:
            dark, bright = images.amin((1, 2, 3)), images.amax((1, 2, 3))
            ends = torch.cat([dark, bright])[:, None, None, None]
            words["baselines"] = ends.expand(-1, *images.shape[1:]).clone()
        return words

    def _piece(self, value, name: str, total: int, part: slice, device):
        """An option for the pictures of ``part``: tensors of one entry a picture are cut."""
        if not isinstance(value, Tensor):
            return value
        value = value.to(device)
        if name == "feature_mask" and value.dim() < 4:  # (H, W) or (B, H, W): for all channels
            value = value.reshape(-1, 1, *value.shape[-2:])
        shared = self.shap and name == "baselines"  # a set of pictures to compare with
        return value[part] if len(value) == total and value.dim() > 2 and not shared else value


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", str(name)).lower()


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def _parameters(function) -> set[str]:
    return set(inspect.signature(function).parameters)


def _positions(layer: str, layout: Layout, shape: Sequence[int]) -> Tensor:
    """``(1, 1, h, w)``: a number for each place of the layer's maps, the same for all channels."""
    order = layout.map_order
    if order is None:
        raise UserError(f"layer {layer!r} has no maps (C, h, w): choose a convolution")
    height, width = (shape[axis] for axis in order[2:])
    places = torch.arange(height * width).reshape(1, 1, height, width)
    return places.permute(*(order.index(axis) for axis in range(4)))
