"""Follow one forward pass of a network: which modules are called, and what they return.

Shapes: ``B`` batch, ``C`` channels, ``H W`` height and width.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convlens.explain.axes import AxisTracker
from convlens.explain.grids import Layout
from convlens.explain.mode import explaining, prepare_images

_CLASSES = {
    "conv": nn.modules.conv._ConvNd,
    "norm": nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm | nn.LocalResponseNorm,
    "dense": nn.Linear,
}
_NOT_SHOWN = (nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin)


def layer_kind(module: nn.Module) -> str | None:
    """Return ``"conv"``, ``"norm"``, ``"activation"``, ``"pool"``, ``"dense"``, or None.

    Activations are recognised by the Python module that defines them, poolings by name. This
    covers those of timm and torchvision without importing either.

    >>> layer_kind(nn.ReLU()), layer_kind(nn.Conv2d(3, 8, 3)), layer_kind(nn.Flatten())
    ('activation', 'conv', None)
    """
    for name, classes in _CLASSES.items():
        if isinstance(module, classes):
            return name
    kind = type(module)
    source = kind.__module__.rpartition(".")[2]
    if source.startswith("activation") and not isinstance(module, _NOT_SHOWN):
        return "activation"
    return "pool" if "Pool" in kind.__name__ else None


@dataclass(frozen=True, eq=False)
class Call:
    """One finished call of a module in a forward pass.

    Attributes:
        name: path of the module.
        module: the module.
        output: its output.
        version: version counter of the output at the end of the call.
        layout: layout of the output.
        products: number of products before the end of the call, which measures its depth.
        reads_image: whether the module's input holds the channels of the image.
        is_sum: whether the output is a sum of two tensors that depend on the image.
        turn: number of earlier calls of the module in this pass.
    """

    name: str
    module: nn.Module
    output: Tensor
    version: int
    layout: Layout
    products: int
    reads_image: bool
    is_sum: bool
    turn: int

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the output's maps; None if it is not a map or has a single pixel."""
        if not self.layout.is_map:
            return None
        height, width = self.layout.channels_first(self.output).shape[2:]
        return (height, width) if max(height, width) > 1 else None


@dataclass(frozen=True, eq=False)
class Trace:
    """One forward pass.

    Attributes:
        calls: all module calls with a tensor output, in the order in which they end.
        products: number of convolutions and matrix products over more than one position.
        readers: path of a convolution or dense layer -> kinds of operation that read its output,
            see ``convlens.explain.axes.AxisTracker``.
    """

    calls: list[Call]
    products: int
    readers: dict[str, set[str]]

    @property
    def last(self) -> dict[str, Call]:
        """Path of a module -> its last call."""
        return {call.name: call for call in self.calls}


def trace(model: nn.Module, example: Tensor) -> Trace:
    """Follow a forward pass of one image.

    Args:
        model: the network.
        example: ``(1, C, H, W)`` image, or a few, of which the first is used.
    """
    calls: list[Call] = []
    image_readers: set[str] = set()
    turns: Counter[str] = Counter()

    def begin(name, args):
        if args and isinstance(args[0], Tensor) and tracker.is_image_input(args[0]):
            image_readers.add(name)

    def end(name, module, output):
        turn = turns[name]
        turns[name] += 1
        if not isinstance(output, Tensor):
            return
        calls.append(
            Call(
                name,
                module,
                output,
                output._version,
                tracker.layout(output),
                tracker.products,
                name in image_readers,
                tracker.is_sum(output),
                turn,
            )
        )
        if layer_kind(module) in ("conv", "dense"):
            tracker.watch(name, output)

    with explaining(model), torch.no_grad(), ExitStack() as hooks:
        # two images, because nothing tells a batch of one from other axes of size one
        images = prepare_images(model, example[:1]).repeat(2, 1, 1, 1)
        tracker = AxisTracker(images)
        for name, module in model.named_modules():
            if not name:
                continue
            hook = module.register_forward_hook(lambda m, _, out, n=name: end(n, m, out))
            hooks.enter_context(hook)
            if isinstance(module, nn.Conv2d):
                hook = module.register_forward_pre_hook(lambda _, args, n=name: begin(n, args))
                hooks.enter_context(hook)
        with tracker:
            model(images)
    return Trace(calls, tracker.products, tracker.readers)
