"""Follow tokens through the forward pass: which positions of an axis are patches of the image.

Shapes: ``B`` batch, ``L`` tokens, ``h w`` grid of patches.
"""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor

from convlens.explain.axes import AxisTracker, Tokens
from convlens.explain.axis_rules import Axes, Axis, get_labels, make_axis


class TokenTracker(AxisTracker):
    """An ``AxisTracker`` that also knows tokens after they were joined, sliced and merged.

    An axis of tokens has one atom, whose label is its ``Tokens``.
    """

    def tokens(self, tensor: Tensor, axis: int) -> Tokens | None:
        """Return how the positions of an axis lie on the image; None if it is not known."""
        axes = self.axes(tensor)
        return None if axes is None else _read_tokens(axes[axis], tensor.shape[axis])

    def _follow_axes(self, func, name: str, args, given, known, outputs) -> list[Axes | None]:
        lost = name == "convolution" and {None} in [get_labels(axis) for axis in known[0] or ()]
        if lost and outputs[0].dim() == 4:
            known = [None, *known[1:]]  # a padded map is one of the image again once convolved
        result = super()._follow_axes(func, name, args, given, known, outputs)
        if name in ("roll", "flip", "constant_pad_nd") and result[0] is not None:
            return [_displace(result[0], name, args, given[0], outputs[0])]
        if name == "cat" and result[0] is not None:
            dim = (args[1] if len(args) > 1 else 0) % outputs[0].dim()
            return [_replace(result[0], dim, _join_tokens(given, known, dim))]
        if name == "slice" and result[0] is not None and known[0] is not None:
            dim = (args[1] if len(args) > 1 else 0) % given[0].dim()
            tokens = _read_tokens(known[0][dim], given[0].shape[dim])
            if tokens is not None and outputs[0].shape[dim] != given[0].shape[dim]:
                return [_replace(result[0], dim, _slice_tokens(tokens, args[2:]))]
        return result


def _displace(axes: Axes, name: str, args, given: Tensor, output: Tensor) -> Axes:
    """Forget the places of positions along axes that were shifted, flipped or padded."""
    if name == "constant_pad_nd":
        moved = {d for d in range(output.dim()) if output.shape[d] != given.shape[d]}
    else:
        dims = args[-1] if isinstance(args[-1], (list, tuple)) else [args[-1]]
        moved = {d % output.dim() for d in dims}
    return tuple(
        make_axis(None, output.shape[d]) if d in moved and get_labels(axis) & {"H", "W"} else axis
        for d, axis in enumerate(axes)
    )


def _replace(axes: Axes, dim: int, tokens: Tokens | None) -> Axes:
    if tokens is None:
        return axes
    label: Any = tokens
    return (*axes[:dim], ((label, tokens.count),), *axes[dim + 1 :])


def _read_tokens(axis: Axis, size: int) -> Tokens | None:
    labels = [label for label, _ in axis]
    if len(axis) == 1 and isinstance(labels[0], Tokens) and labels[0].count == size:
        return labels[0]
    if labels == ["H", "W"]:
        return Tokens(0, axis[0][1], axis[1][1])
    return None


def _join_tokens(given: list[Tensor], known: list[Axes | None], dim: int) -> Tokens | None:
    """Return the tokens of a joined axis: one piece has patches, the others have none."""
    found, before = None, 0
    for tensor, axes in zip(given, known, strict=True):
        size = tensor.shape[dim]
        tokens = None if axes is None else _read_tokens(axes[dim], size)
        if tokens is not None:
            if found is not None:
                return None
            found = Tokens(before + tokens.prefix, tokens.height, tokens.width, tokens.suffix)
        elif size > 1 and axes is not None and get_labels(axes[dim]) & {"H", "W"}:
            return None
        elif found is not None:
            found = Tokens(found.prefix, found.height, found.width, found.suffix + size)
        before += size
    return found


def _slice_tokens(tokens: Tokens, bounds: tuple) -> Tokens | None:
    """Return what is left of an axis of tokens, if all patches are."""
    start, end, step = (*bounds, *(None, None, None)[len(bounds) :])
    first, last, step = slice(start, end, step).indices(tokens.count)
    patches = prod((tokens.height, tokens.width))
    if step != 1 or first > tokens.prefix or last < tokens.prefix + patches:
        return None
    return Tokens(
        tokens.prefix - first, tokens.height, tokens.width, last - tokens.prefix - patches
    )
