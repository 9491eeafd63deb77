"""Bring windows of attention back to the grid of the image.

Networks move positions into windows by padding, shifting and reordering. Where each position went
is measured: the values that attention reads from a window depend on exactly one position of the
map that came before, and the gradient of ``sum of (i + 1) * values[i]`` with respect to that
position is ``i + 1`` times the gradient of ``sum of values[i]``.

Shapes: ``B`` batch, ``C`` channels, ``h w`` size of the map, ``n`` positions in a window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

_TOLERANCE = 0.01


@dataclass(frozen=True, eq=False)
class Windows:
    """Where the positions of a map are among the keys of windows.

    Attributes:
        index: ``(B, h, w)`` number of each position among the keys, in the order of the network.
        heads: which axis of the weights holds the heads; None if there is no such axis.
    """

    index: Tensor
    heads: int | None

    def gather(self, values: Tensor) -> Tensor:
        """Return one value per key, in the order of the network, as maps ``(B, heads, h, w)``.

        Args:
            values: weights without the axis of the queries, such as ``(B * windows, heads, n)``.
        """
        values = values[None] if self.heads is None else values.movedim(self.heads, 0)
        return values.flatten(1)[:, self.index.to(values.device)].movedim(0, 1)


def find_windows(
    source: Tensor, to_maps: Callable[[Tensor], Tensor], values: Tensor
) -> Windows | None:
    """Return where the positions of ``source`` are among the values; None if that is not unique.

    Args:
        source: map from which the values were computed, with a graph to them.
        to_maps: function from a tensor like ``source`` to maps ``(B, C, h, w)``.
        values: ``(…, n, channels)`` values that attention reads, heads among the first axes.
    """
    if not (values.requires_grad and source.requires_grad):
        return None
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(values.shape[-1], generator=generator).add(0.5).to(values)
    lead = values.shape[:-1]

    def slope(axis: int | None) -> Tensor | None:
        sizes = torch.ones(lead, device=values.device, dtype=values.dtype)
        if axis is not None:
            steps = torch.arange(1, lead[axis] + 1, device=values.device, dtype=values.dtype)
            sizes = sizes * steps.reshape([-1 if d == axis else 1 for d in range(len(lead))])
        with _disable_current_modes():
            (found,) = torch.autograd.grad(
                values, source, sizes[..., None] * weights, retain_graph=True, allow_unused=True
            )
        return None if found is None else to_maps(found).movedim(1, -1)

    base = slope(None)
    if base is None or not (size := base.square().sum(-1)).all():
        return None  # a position that no value depends on
    index, mixed = torch.zeros(size.shape, dtype=torch.long, device=size.device), []
    for axis, length in enumerate(lead):
        if length == 1:
            continue
        found = slope(axis)
        assert found is not None
        step = (base * found).sum(-1) / size
        error = (found - step[..., None] * base).square().sum(-1).sqrt() / found.norm(dim=-1)
        place = step.round()
        if bool((error > _TOLERANCE).any()) or bool(((step - place).abs() > _TOLERANCE).any()):
            mixed.append(axis)
            continue
        index = index * length + place.long() - 1
    single = [axis for axis, length in enumerate(lead[:-1]) if length == 1]
    if len(mixed) > 1 or len(lead) - 1 in mixed:
        return None
    heads = next(iter(mixed or single), None)
    return Windows(index, heads)
