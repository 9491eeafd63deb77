"""What layers give for pictures, read through Captum: one forward pass for all of them.

Captum hooks the layers, keeps what they give from in-place operations behind them, and takes the
hooks off again. Ours is what it has not: which axis of an output holds the channels, and one line
for layers that cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from convlens.explain.layouts import Layouts


@contextmanager
def reading(
    model: nn.Module, layers: Sequence[str], *, gradients: bool = False
) -> Iterator[Layouts]:
    """The named ``layers``, to be read by the functions below while the ``with`` lasts.

    Args:
        layers: module paths as in ``model.named_modules()``.
        gradients: the graph begins at each layer before which nothing needs a gradient, so earlier
            layers cost nothing. Captum would ask for the gradient of the very tensor that the layer
            gave, which may be a parameter or something else that the network keeps.

    Raises:
        UserError: a name that is no module of ``model``.
    """
    layouts = Layouts(model, list(layers))

    def observe(name: str, output) -> Tensor | None:
        layouts.observe(name, output)
        begins = gradients and not output.requires_grad
        return output.detach().requires_grad_() if begins else None

    with layouts.hook_layers(observe):  # before Captum's own hooks, which get what this one returns
        yield layouts


def layer_outputs(layouts: Layouts, images: Tensor) -> dict[str, Tensor]:
    """Layer name -> its output, by ``captum.attr.LayerActivation``; of several calls the last.

    Raises:
        UserError: a layer that is never called, or that gives no tensor.
    """
    from captum.attr import LayerActivation

    def read(images: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for names in _passes(layouts):
            layers = [layouts.modules[name] for name in names]
            outputs = LayerActivation(layouts.run_whole, layers).attribute(images)
            found.update(zip(names, outputs, strict=True))
        return found

    return layouts.follow(read, images)


def _passes(layouts: Layouts) -> list[list[str]]:
    """Layers of one pass: all, but of a network on several devices each alone, as Captum wants."""
    names = list(layouts.modules)
    several = len({parameter.device for parameter in layouts.model.parameters()}) > 1
    return [[name] for name in names] if several else [names] if names else []


def layer_outputs_with_graph(layouts: Layouts, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Layer name -> its output, for ``torch.autograd.grad``; and what the network answers.

    This is the pass within ``captum.attr.LayerGradCam``, which goes through the network once for
    each layer and target. Captum gives several layers a pass only by this private function; its
    releases that have it are told in ``pyproject.toml``, and a test looks for it.

    Raises:
        UserError: a layer that is never called, or that gives no tensor.
    """
    from captum._utils.gradient import _forward_layer_distributed_eval

    modules = list(dict.fromkeys(layouts.modules.values()))  # one may have two names

    def read(images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        saved, answer = _forward_layer_distributed_eval(
            layouts.run_whole,
            images,
            modules,
            forward_hook_with_return=True,
            require_layer_grads=True,
        )
        # a tuple for each device that the layer's output lay on
        last = {module: [*outputs.values()][-1] for module, outputs in saved.items()}
        return {name: last[module][0] for name, module in layouts.modules.items()}, answer

    return layouts.follow(read, images)
