"""The function that a file computes: images to probabilities and logits, and perhaps a map.

Shapes: ``B`` images, ``C`` channels, ``H W`` image size, ``h w`` size of a layer's map, ``K``
classes.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.attention import SDPBackend, sdpa_kernel

from convlens.core.errors import UserError
from convlens.explain.captum_layers import hook_layers, read_outputs
from convlens.explain.grad_cam import probabilities
from convlens.explain.grids import Layout
from convlens.explain.layouts import find_module
from convlens.explain.mode import explaining

INPUT = "images"
PROBABILITIES, LOGITS, GRAD_CAM = "probabilities", "logits", "grad_cam"  # names of the outputs


class Answers(nn.Module):
    """Computes probabilities ``(B, K)`` and logits from images ``(B, C, H, W)`` in [0, 1].

    The logits are ``(B, K)``, or ``(B, 1)`` for a one-logit network, divided by the temperature:
    the probabilities are their softmax, or ``[1 - sigmoid, sigmoid]``. If images may have several
    classes, they are the sigmoids of ``K`` logits.

    Args:
        network: maps images in [0, 1] to logits, normalisation included.
        temperature: above 0.
        several: whether images may have several classes.
    """

    def __init__(self, network: nn.Module, temperature: float = 1.0, *, several: bool = False):
        super().__init__()
        self.network, self.temperature, self.several = network, temperature, several

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(images) / self.temperature
        return logits.sigmoid() if self.several else probabilities(logits), logits


def copy_plain(network: nn.Module) -> nn.Module:
    """Return a copy in the plainest form: on the CPU, float32, contiguous, in evaluation mode.

    The copy is not compiled and runs layer by layer: ``Classifier.forward`` calls neither
    Winograd's convolutions nor the reordered poolings of training.
    """
    plain = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
    return plain.to(memory_format=torch.contiguous_format)


def trace_with_map(answers: Answers, layer: str, example: Tensor) -> GraphModule:
    """Trace a network together with the Grad-CAM map of one layer.

    The map explains the predicted class. If images may have several, there is one for each class.

    The gradient needs only what comes after the layer. It is a vector-Jacobian product with a
    one-hot vector (``±1`` for one logit), which is traced into the graph. For a head that averages
    and multiplies it is a row of the weights. The map equals ``convlens.explain.grad_cam`` with
    target -1 (or with all classes), on the scale of the logits before the temperature.

    Args:
        answers: the network, from ``copy_plain``.
        layer: path in ``answers.network`` of a layer that returns maps.
        example: ``(2, C, H, W)``, two images.

    Returns:
        A graph from images to ``(probabilities, logits, map)``; the map is ``(B, h, w)``, or
        ``(B, K, h, w)`` with several classes, at least 0. Any number of images is possible.

    Raises:
        Exception: torch cannot trace the network; the type depends on the reason.
    """
    from torch._dispatch.python import enable_python_dispatcher
    from torch.fx.experimental.proxy_tensor import make_fx  # slow to import

    layout = _find_layout(answers.network, layer, example)
    module = find_module(answers.network, layer)

    def run(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outputs: list[Tensor] = []

        def begin(_module: nn.Module, _args: tuple, output: Tensor) -> Tensor:
            outputs.append(output.detach().requires_grad_())
            return outputs[-1].clone()  # a following in-place layer must not change the map

        with torch.enable_grad(), module.register_forward_hook(begin):
            shares, logits = answers(images)
            values = outputs[-1]
            vectors = [_choose_vector(logits.detach())]
            if answers.several:
                vectors = [_select_class(logits.detach(), k) for k in range(logits.shape[1])]
            gradients = [
                torch.autograd.grad(
                    logits, values, vector * answers.temperature, retain_graph=True
                )[0]
                for vector in vectors
            ]
        values = layout.channels_first(values.detach())
        maps = [_weigh(layout.channels_first(slopes.detach()), values) for slopes in gradients]
        cam = torch.stack(maps, dim=1) if answers.several else maps[0]
        return shares.detach(), logits.detach(), cam

    aten = torch.ops.aten
    decompositions = {
        aten.max_pool2d_with_indices_backward.default: lambda slopes, values, *options: _route(
            slopes, values, options[-1]
        ),
        aten.adaptive_max_pool2d_backward.default: _route,
        aten.avg_pool2d_backward.default: _spread,
    }
    stand_in = _make_stand_in(example)
    # ONNX has no gradient of fused attention, but of the products and the softmax it consists of
    with sdpa_kernel(SDPBackend.MATH), stand_in.fake_mode, enable_python_dispatcher():
        return make_fx(run, decompositions)(stand_in)


def _make_stand_in(example: Tensor) -> Any:
    """Return a fake tensor of the shape of ``example`` whose first axis may have any length."""
    # slow to import
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import (
        DimDynamic,
        ShapeEnv,
        StatelessSymbolicContext,
    )

    # the weights are not fake
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    sizes = [DimDynamic.DYNAMIC, *[DimDynamic.STATIC] * (example.dim() - 1)]
    return mode.from_tensor(example, symbolic_context=StatelessSymbolicContext(sizes))


def _route(slopes: Tensor, values: Tensor, indices: Tensor) -> Tensor:
    """Compute the gradient of max pooling by operations that can be exported.

    Args:
        slopes: ``(B, C, h, w)``, the gradient by the pooled values.
        values: ``(B, C, H, W)``, the input.
        indices: ``(B, C, h, w)``, which of the ``H · W`` values each pooled value is.
    """
    zeros = torch.zeros_like(values).flatten(2)
    return zeros.scatter_add(2, indices.flatten(2), slopes.flatten(2)).view(values.shape)


def _spread(
    slopes: Tensor, values: Tensor, kernel: list[int], stride: list[int], padding: list[int],
    ceil_mode: bool, count_include_pad: bool, divisor: int | None,
) -> Tensor:  # fmt: skip
    """Compute the gradient of average pooling by operations that can be exported.

    Args:
        slopes: ``(B, C, h, w)``, the gradient by the pooled values.
        values: ``(B, C, H, W)``, the input.
        kernel: as of ``torch.nn.AvgPool2d``, like all other arguments.

    Raises:
        UserError: the windows are not all divided by the same number.
    """
    if ceil_mode or divisor is not None or (any(padding) and not count_include_pad):
        raise UserError(
            "cam=true: the gradient of average pooling with ceil_mode, a divisor or partial "
            "windows cannot be exported; leave cam=true out"
        )
    channels, height, width = values.shape[1:]
    weights = slopes.new_full((channels, 1, *kernel), 1 / math.prod(kernel))
    padded = F.conv_transpose2d(slopes, weights, stride=stride or kernel, groups=channels)
    top, left = padding
    below = max(0, top + height - padded.shape[2])  # values that no window reaches
    right = max(0, left + width - padded.shape[3])
    padded = F.pad(padded, (0, right, 0, below))
    return padded[:, :, top : top + height, left : left + width]


def _choose_vector(logits: Tensor) -> Tensor:
    """Return the gradient of the predicted class's score by the logits, in their shape."""
    if logits.shape[1] == 1:  # class 0 is predicted at 0, too
        return torch.where(logits > 0, 1.0, -1.0)
    classes = torch.arange(logits.shape[1], device=logits.device)
    return (classes == logits.argmax(1, keepdim=True)).to(logits.dtype)


def _select_class(logits: Tensor, number: int) -> Tensor:
    """Return the gradient of one class's score by the logits, in their shape."""
    classes = torch.arange(logits.shape[1], device=logits.device)
    return (classes == number).to(logits.dtype).expand_as(logits)


def _weigh(slopes: Tensor, values: Tensor) -> Tensor:
    """Return the map ``(B, h, w)`` of slopes and feature maps, ``(B, C, h, w)`` each."""
    return (slopes.mean((-2, -1), keepdim=True) * values).sum(1).relu()


def _find_layout(network: nn.Module, layer: str, example: Tensor) -> Layout:
    """Return where the maps are in a layer's output."""
    with explaining(network), hook_layers(network, [layer]) as layouts:
        read_outputs(layouts, example)
        layout = layouts.layout(layer)
    assert layout.is_map, "find_feature_map returns only layers with maps"
    return layout
