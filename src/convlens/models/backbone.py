"""A backbone as a chain of parts, so that it can be cut where the frozen ones end.

Legend: ``B`` pictures of a batch, ``C`` channels, ``H W`` height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.models.pooled import run_pooled
from convlens.models.winograd import LEAST_CHANNELS, FrozenChain


class Backbone(nn.Module):
    """Normalised pictures (B, C, H, W) to a feature map (B, C', h, w).

    Args:
        parts: children by name; parameter names follow from them.
        links: paths of the modules that run one after the other, which is the whole forward
            pass; None where the network is not such a chain.
        stages: names of the links that count as stages, in order; schedules and the choice of
            layers to explain know them.
        whole: the forward pass of a network that is no chain, called with this module.

    Attributes:
        link_names, stage_names: as given; a network that is no chain is one link, ``""``.
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        *,
        links: Sequence[str] | None,
        stages: Sequence[str],
        whole: Callable[[nn.Module, Tensor], Tensor] | None = None,
    ):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.link_names = ("",) if links is None else tuple(links)
        self.stage_names = tuple(stages)
        self._whole = whole

    def forward(self, pictures: Tensor) -> Tensor:
        return self.run(pictures, 0, len(self.link_names))

    def run(self, values: Tensor, start: int, stop: int, *, fast: bool = False) -> Tensor:
        """The links ``start`` up to, not including, ``stop``; ``values`` is the first's input.

        ``fast`` gives the same bits, gradients too, in less time; see :mod:`models.pooled`.
        """
        for link in self.link_names[start:stop]:
            if not link:
                values = self._whole(self, values)
            elif fast:
                values = run_pooled(self.get_submodule(link), values)
            else:
                values = self.get_submodule(link)(values)
        return values

    @torch.no_grad()
    def run_frozen(self, pictures: Tensor, stop: int) -> Tensor:
        """The links before ``stop``, which are frozen: no gradient, and as fast as can be.

        No hook of a layer is called. On the CPU large 3×3 convolutions are computed by
        :mod:`convlens.models.winograd`, equal to the layers' own to rounding.
        """
        chains = _CHAINS.setdefault(self, {})
        if stop not in chains:
            parts = [self.get_submodule(link) if link else self for link in self.link_names[:stop]]
            gains = all(map(is_chain, parts)) and any(map(_has_large_kernels, parts))
            chains[stop] = FrozenChain(nn.Sequential(*parts)) if gains else None
        return chains[stop](pictures) if chains[stop] else self.run(pictures, 0, stop)

    def count_frozen_links(self) -> int:
        """How many links from the start are frozen: no gradient wanted, in evaluation mode."""
        for number, link in enumerate(self.link_names):
            part = self.get_submodule(link)
            wanted = any(parameter.requires_grad for parameter in part.parameters())
            # activation and pooling layers without a mode of their own follow what is before them
            moving = any(module.training for module in part.modules() if _has_mode(module))
            if wanted or moving:
                return number
        return len(self.link_names)

    def find_stage(self, name: str) -> int:
        """The number of the stage that a parameter (by its name in the backbone) belongs to.

        What stands before the first stage belongs to it, and what stands behind the last to that.
        """
        places = {link: number for number, link in enumerate(self.link_names)}
        for number, stage in enumerate(self.stage_names):
            if name.startswith(f"{stage}."):
                return number
        place = next((i for link, i in places.items() if name.startswith(f"{link}.")), -1)
        ends = [places.get(stage, -1) for stage in self.stage_names]
        return next((n for n, end in enumerate(ends) if end >= place), len(ends) - 1)


# beside the backbones, not in them: they are copied and sent to other processes without
_CHAINS: WeakKeyDictionary[Backbone, dict[int, FrozenChain | None]] = WeakKeyDictionary()


def is_chain(module: nn.Module) -> bool:
    """Whether a module is layers, and sequences of layers, that run one after the other."""
    return all(
        type(part).forward is nn.Sequential.forward or not list(part.children())
        for part in module.modules()
    )


def _has_large_kernels(part: nn.Module) -> bool:
    """Whether a layer in it may be computed faster than by itself."""
    return any(
        layer.kernel_size == (3, 3) and layer.in_channels * layer.out_channels >= LEAST_CHANNELS
        for layer in part.modules()
        if isinstance(layer, nn.Conv2d)
    )


def _has_mode(module: nn.Module) -> bool:
    return not isinstance(module, nn.Conv2d | nn.ReLU | nn.MaxPool2d | nn.AvgPool2d | nn.Sequential)


def build_chain(parts: Mapping[str, nn.Module]) -> Backbone:
    """A backbone whose parts run in order and are its stages."""
    return Backbone(parts, links=list(parts), stages=list(parts))


def find_minimum_size(run: Callable[[int], object], size: int) -> int | None:
    """The smallest picture edge above ``size``, which is too small, that ``run`` accepts.

    Args:
        run: makes a forward pass at an edge in pixels; raises where the map vanishes.
    """

    def works(edge: int) -> bool:
        try:
            run(edge)
        except (RuntimeError, ValueError, AssertionError):
            return False
        return True

    low, high = size, max(2 * size, 16)
    while not works(high):
        low, high = high, 2 * high
        if high > 1024:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle) else (middle, high)
    return high


def too_small_error(name: str, size: int, least: int | None) -> UserError:
    """The error for pictures that vanish in the network."""
    way_out = f"at least {least} are needed" if least else "choose a larger one"
    return UserError(
        f"data.size={size}: too few pixels for model.name={name}, its maps would vanish; {way_out}"
    )
