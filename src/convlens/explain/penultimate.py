"""Read what a network's classifier reads: the features before its last layer.

Shapes: ``B N`` images, ``C`` channels, ``H W`` height and width, ``F`` features, ``K`` logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.explain.axis_rules import find_tensors
from convlens.explain.layouts import find_module
from convlens.explain.mode import explaining, prepare_images
from convlens.explain.occlusion import compute_logits
from convlens.explain.trace import layer_kind


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
            spoilt = _run_with(model, images, call.module, call.output * torch.nan)
            if spoilt and not any(each.isnan().any() for each in spoilt):
                continue  # they do not depend on it
            alone = _run_with(model, images * torch.nan, call.module, call.output)
            if len(alone) == len(outputs) and all(map(torch.equal, alone, outputs)):
                break
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


@contextmanager
def reading_features(model: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """Collect the features of every pass, ``(B, F)`` on the CPU, while the ``with`` lasts.

    Args:
        model: the network.
        layer: from ``find_classifier``.
    """
    found: list[Tensor] = []

    def note(_module: nn.Module, inputs: tuple) -> None:
        found.append(inputs[0].detach().flatten(1).to("cpu", copy=True))

    with find_module(model, layer).register_forward_pre_hook(note):
        yield found


def read_features(
    model: nn.Module, images: Tensor, layer: str, *, batch: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the features, ``(N, F)`` on the CPU, and the logits, ``(N, K)``.

    Args:
        model: the network.
        images: ``(N, C, H, W)``, ready for the network.
        layer: from ``find_classifier``.
        batch: images per pass; None for all at once.
    """
    with reading_features(model, layer) as found:
        logits = compute_logits(model, images, batch=batch)
    return torch.cat(found), logits
