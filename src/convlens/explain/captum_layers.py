"""Outputs of layers, read through Captum in one forward pass for all of them.

Captum hooks the layers, protects their outputs from later in-place operations, and removes the
hooks again. This module adds which axis of an output holds the channels, and one-line errors for
layers that cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from convlens.explain.layouts import Layouts


@contextmanager
def hook_layers(
    model: nn.Module, layers: Sequence[str], *, gradients: bool = False
) -> Iterator[Layouts]:
    """Hook the named ``layers`` for the functions below, inside a ``with`` block.

    Args:
        model: the network.
        layers: module paths as in ``model.named_modules()``.
        gradients: start a graph at each layer whose output needs no gradient yet, so that earlier
            layers cost nothing. Captum alone would set ``requires_grad`` on the very tensor that
            the layer returns, which may be a parameter or another tensor that the network keeps.

    Raises:
        UserError: if ``model`` has no module of that name.
    """
    layouts = Layouts(model, list(layers))

    def observe(name: str, output) -> Tensor | None:
        layouts.observe(name, output)
        starts_graph = gradients and not output.requires_grad
        return output.detach().requires_grad_() if starts_graph else None

    # before Captum's own hooks, which then see the returned tensor
    with layouts.hook_layers(observe):
        yield layouts


def read_outputs(layouts: Layouts, images: Tensor) -> dict[str, Tensor]:
    """Return layer name -> output of its last call, by ``captum.attr.LayerActivation``.

    Args:
        layouts: the hooked layers.
        images: ``(B, C, H, W)``.

    Raises:
        UserError: if a layer is never called, or does not return a tensor.
    """
    from captum.attr import LayerActivation

    def read(images: Tensor) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = {}
        for names in _group_layers(layouts):
            layers = [layouts.modules[name] for name in names]
            activations = LayerActivation(layouts.run_whole, layers).attribute(images)
            outputs.update(zip(names, activations, strict=True))
        return outputs

    return layouts.follow(read, images)


def _group_layers(layouts: Layouts) -> list[list[str]]:
    """Return the layers of each pass: all in one, or one by one for a network on several devices.

    Captum cannot read several layers at once if they are on different devices.
    """
    names = list(layouts.modules)
    several = len({parameter.device for parameter in layouts.model.parameters()}) > 1
    return [[name] for name in names] if several else [names] if names else []


def read_outputs_with_graph(layouts: Layouts, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return layer name -> output with a graph for ``torch.autograd.grad``, and the logits.

    ``captum.attr.LayerGradCam`` makes the same pass, but once for each layer and target. In Captum
    only this private function reads several layers in one pass. ``pyproject.toml`` pins the
    releases that have it, and a test checks that it exists.

    Args:
        layouts: the hooked layers.
        images: ``(B, C, H, W)``.

    Raises:
        UserError: if a layer is never called, or does not return a tensor.
    """
    from captum._utils.gradient import _forward_layer_distributed_eval

    modules = list(dict.fromkeys(layouts.modules.values()))  # a module may have two names

    def read(images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        saved, logits = _forward_layer_distributed_eval(
            layouts.run_whole,
            images,
            modules,
            forward_hook_with_return=True,
            require_layer_grads=True,
        )
        # a tuple of outputs for each device
        last = {module: [*outputs.values()][-1] for module, outputs in saved.items()}
        return {name: last[module][0] for name, module in layouts.modules.items()}, logits

    return layouts.follow(read, images)
