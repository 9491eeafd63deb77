"""A backbone as a chain of parts, which can be cut after the frozen ones.

Legend: ``B`` images of a batch, ``C`` channels, ``H W`` height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.models.features import MAPS, FeatureLayout
from convlens.models.pooled import run_pooled
from convlens.models.winograd import LEAST_CHANNELS, FrozenChain


class Backbone(nn.Module):
    """Computes features, such as a map (B, C', h, w), from normalised images (B, C, H, W).

    Args:
        parts: children by name; parameter names start with these names.
        links: paths of the modules that make up the forward pass, one after the other; a network
            that is not such a chain is one link.
        stages: names of the links that are stages, or of modules in a link, in order; schedules and
            the choice of layers to explain refer to them.
        order: paths of modules in the order of their calls, for ``find_stage``; None for the links.

    Attributes:
        link_names: the links.
        stage_names: the stages.
        layout: how the output lies.
        settings: what else than the weights determines the output, as text; for caches.
        undecayed: parameters that the network's library leaves out of weight decay, such as tokens
            and position embeddings.
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        *,
        links: Sequence[str],
        stages: Sequence[str],
        order: Sequence[str] | None = None,
    ):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.link_names = tuple(links)
        self.stage_names = tuple(stages)
        self._order = self.link_names if order is None else tuple(order)
        self.layout = MAPS
        self.settings = ""
        self.undecayed: tuple[str, ...] = ()

    def no_weight_decay(self) -> tuple[str, ...]:
        """Return ``undecayed``, by the name under which timm's networks have it too."""
        return self.undecayed

    def append(self, name: str, part: nn.Module, layout: FeatureLayout) -> None:
        """Add a last link without parameters.

        Args:
            name: its name.
            part: computes the new output from the present one.
            layout: how the new output lies.
        """
        self.add_module(name, part)
        self.link_names += (name,)
        self.layout = layout

    def forward(self, images: Tensor) -> Tensor:
        return self.run(images, 0, len(self.link_names))

    def run(self, values: Tensor, start: int, stop: int, *, fast: bool = False) -> Tensor:
        """Run the links from ``start`` up to, but not including, ``stop``.

        Args:
            values: input of the first of these links.
            start: number of the first link.
            stop: number of the link after the last one.
            fast: whether to compute ReLU after max pooling, which takes less time; outputs and
                gradients are bit-identical.
        """
        for link in self.link_names[start:stop]:
            part = self.get_submodule(link)
            values = run_pooled(part, values) if fast else part(values)
        return values

    @torch.no_grad()
    def run_frozen(self, images: Tensor, stop: int) -> Tensor:
        """Run the frozen links before ``stop`` without gradients, on the fastest path.

        No layer hooks are called. On the CPU, ``convlens.models.winograd`` computes large 3×3
        convolutions; the results equal those of the layers up to rounding.
        """
        chains = _CHAINS.setdefault(self, {})
        if stop not in chains:
            parts = [self.get_submodule(link) for link in self.link_names[:stop]]
            is_faster = all(map(is_chain, parts)) and any(map(_has_large_kernels, parts))
            chains[stop] = FrozenChain(nn.Sequential(*parts)) if is_faster else None
        return chains[stop](images) if chains[stop] else self.run(images, 0, stop)

    def count_frozen_links(self) -> int:
        """Return the number of leading links that are frozen: no gradients, in evaluation mode."""
        for number, link in enumerate(self.link_names):
            part = self.get_submodule(link)
            is_trained = any(parameter.requires_grad for parameter in part.parameters())
            # layers without a mode, such as activations, do not decide
            in_training = any(module.training for module in part.modules() if _has_mode(module))
            if is_trained or in_training:
                return number
        return len(self.link_names)

    def find_stage(self, name: str) -> int:
        """Return the number of the stage that a parameter belongs to.

        Parameters before the first stage belong to the first, those after the last to the last.

        Args:
            name: name of the parameter in the backbone.
        """
        places = {link: number for number, link in enumerate(self._order)}
        for number, stage in enumerate(self.stage_names):
            if name.startswith(f"{stage}."):
                return number
        place = next((i for link, i in places.items() if name.startswith(f"{link}.")), -1)
        ends = [places.get(stage, -1) for stage in self.stage_names]
        return next((n for n, end in enumerate(ends) if end >= place), len(ends) - 1)


# kept outside the backbones, so that copying or pickling a backbone leaves them behind
_CHAINS: WeakKeyDictionary[Backbone, dict[int, FrozenChain | None]] = WeakKeyDictionary()


def is_chain(module: nn.Module) -> bool:
    """Return whether a module is made of layers, and sequences of them, that run in order.

    A subclass of ``nn.Sequential`` with its own ``forward`` is not a chain.
    """
    return all(
        type(part).forward is nn.Sequential.forward or not list(part.children())
        for part in module.modules()
    )


def _has_large_kernels(part: nn.Module) -> bool:
    """Return whether it contains a convolution that Winograd's algorithm may compute faster."""
    return any(
        layer.kernel_size == (3, 3) and layer.in_channels * layer.out_channels >= LEAST_CHANNELS
        for layer in part.modules()
        if isinstance(layer, nn.Conv2d)
    )


def _has_mode(module: nn.Module) -> bool:
    return not isinstance(module, nn.Conv2d | nn.ReLU | nn.MaxPool2d | nn.AvgPool2d | nn.Sequential)


def build_chain(parts: Mapping[str, nn.Module]) -> Backbone:
    """Build a backbone whose parts run in order, each of them a stage."""
    return Backbone(parts, links=list(parts), stages=list(parts))


def find_minimum_size(run: Callable[[int], object], size: int) -> int | None:
    """Find the smallest image edge above ``size`` that ``run`` accepts.

    Args:
        run: makes a forward pass on images with this edge in pixels; raises an error if the
            feature map vanishes.
        size: an edge in pixels that is too small.

    Returns:
        The edge in pixels; None if 1024 pixels are still too few.
    """

    def is_accepted(edge: int) -> bool:
        try:
            run(edge)
        except (RuntimeError, ValueError, AssertionError):
            return False
        return True

    low, high = size, max(2 * size, 16)
    while not is_accepted(high):
        low, high = high, 2 * high
        if high > 1024:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_accepted(middle) else (middle, high)
    return high


def too_small_error(name: str, size: int, least: int | None) -> UserError:
    """Return the error for images that are too small; it states the minimum.

    Args:
        name: the network, as ``model.name``.
        size: the edge in pixels.
        least: the minimum edge in pixels, or None if it is unknown.
    """
    way_out = f"at least {least} pixels are needed" if least else "choose a larger size"
    return UserError(
        f"data.size={size} is too small for model.name={name}: its feature maps vanish; {way_out}"
    )
