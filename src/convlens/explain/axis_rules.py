"""Rules by which ``convlens.explain.axes`` derives the axes of an operation's results.

An axis is the product of its atoms, ``(label, size)``, outermost first. An axis is unknown if no
rule gives its label.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves

# An axis is the product of its atoms, outermost first: (label, size), no atom of size one. Labels:
# "B", "H", "W", "P" (the image's own channels), "C" (any later channels), None (unknown).
Atom = tuple[str | None, int]
Axis = tuple[Atom, ...]
Axes = tuple[Axis, ...]

CHANNELS = {"C", "P"}
_SPATIAL = {"H", "W"}
# operations, besides pointwise ones, that keep every axis in its place but may change its size
_KEEPING = {
    "clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh", "roll", "flip", "slice",
    "split", "split_with_sizes", "chunk", "narrow", "constant_pad_nd", "glu", "cumsum",
    "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle",
    "native_dropout", "_softmax", "_log_softmax", "softmax", "log_softmax", "native_layer_norm",
    "native_group_norm", "native_batch_norm", "_native_batch_norm_legit", "batch_norm",
    "_native_batch_norm_legit_no_training", "_batch_norm_with_update", "_batch_norm_no_update",
    "cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_impl_index", "rms_norm",
    "_fused_rms_norm", "max_pool2d", "max_pool2d_with_indices", "avg_pool2d", "lp_pool2d",
    "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d", "reflection_pad2d",
    "replication_pad2d", "upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_bilinear2d",
    "_upsample_bilinear2d_aa", "upsample_bicubic2d", "_upsample_bicubic2d_aa",
}  # fmt: skip
# pointwise operations that torch does not tag as such
_POINTWISE = {"hardswish", "prelu", "_prelu_kernel", "log_sigmoid_forward", "rsub"}
VIEWS = {"view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze"}
_REDUCTIONS = {"mean", "sum", "amax", "amin", "max", "min", "var", "std", "logsumexp", "argmax",
               "prod", "var_mean"}  # fmt: skip


def find_tensors(values: Any) -> list[Tensor]:
    """Return all tensors in nested containers."""
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def make_axis(label: str | None, size: int) -> Axis:
    """Return an axis of one atom; without atoms for size one."""
    return ((label, size),) if size > 1 else ()


def _common(labels: set[str | None], size: int) -> Axis:
    """Return an axis with the label, if there is exactly one; else an unknown axis."""
    return make_axis(next(iter(labels)) if len(labels) == 1 else None, size)


def make_axes(labels: str, shape: Sequence[int]) -> Axes:
    """Return axes of one atom each, one letter of ``labels`` for each side of ``shape``."""
    return tuple(make_axis(label, size) for label, size in zip(labels, shape, strict=True))


def get_labels(axis: Axis) -> set[str | None]:
    """Return the labels of an axis's atoms."""
    return {label for label, _ in axis}


def follow_axes(
    func: OpOverload,
    name: str,
    args: Sequence[Any],
    given: list[Tensor],
    known: list[Axes | None],
    outputs: list[Tensor],
) -> list[Axes | None]:
    """Return the axes of each output of an operation without weights; None for unknown ones.

    Args:
        func: the operation.
        name: its name without trailing underscores.
        args: its operands.
        given: the tensors among the operands.
        known: the axes of each of these tensors.
        outputs: the resulting tensors.
    """
    shape = tuple(outputs[0].shape)
    if all(axes is None for axes in known):
        return [None] * len(outputs)
    if name == "copy":  # the first tensor is only overwritten
        return [_broadcast(given[1:], known[1:], shape)]
    if torch.Tag.pointwise in func.tags or name in {*_POINTWISE, "expand"}:
        return [_broadcast(given, known, tuple(each.shape)) for each in outputs]
    if name in _KEEPING and known[0] is not None:
        return [
            _keep(known[0], each.shape) if each.dim() == len(known[0]) else None for each in outputs
        ]
    return _rearrange(name, args, given, known, outputs)


def _keep(axes: Axes, shape: Sequence[int]) -> Axes:
    """Keep every axis in its place; one of another size becomes a single atom."""
    result = []
    for axis, size in zip(axes, shape, strict=True):
        if prod(n for _, n in axis) == size:
            result.append(axis)
        else:
            result.append(_common(get_labels(axis), size))
    return tuple(result)


def _broadcast(given: Sequence[Tensor], known: Sequence[Axes | None], shape) -> Axes:
    """Combine what is known of the operands' axes, which are aligned at the last axis."""
    result = []
    for place, size in enumerate(shape):
        candidates = []
        for tensor, axes in zip(given, known, strict=True):
            at = place - (len(shape) - tensor.dim())
            if axes is not None and at >= 0 and tensor.shape[at] == size:
                candidates.append(axes[at])
        certain = {axis for axis in candidates if None not in get_labels(axis)}
        distinct = certain or {*candidates[:1]}
        if size == 1 or not candidates:
            result.append(make_axis(None, size))
        elif len(distinct) == 1:
            result += distinct
        else:
            labels = set().union(*map(get_labels, distinct))
            result.append(_common({"C"} if labels <= CHANNELS else labels, size))
    return tuple(result)


def mix_channels(contracted: Axis, size: int) -> Axis:
    """Return the axis that a product with weights makes from the axis ``contracted``."""
    labels = get_labels(contracted)
    mixes_positions = bool(labels) and labels <= _SPATIAL  # as in an MLP-Mixer
    return make_axis(None if mixes_positions or labels == {None} else "C", size)


def convolve_axes(axes: Axes | None, shape: tuple[int, ...]) -> Axes | None:
    """Return the axes of a convolution's output of this ``shape``."""
    if axes is None:
        # the axes of a two-dimensional convolution are known without its input
        return make_axes("BCHW", shape) if len(shape) == 4 else None
    mixes_positions = get_labels(axes[1]) and get_labels(axes[1]) <= _SPATIAL
    kept = _keep(axes, (prod(n for _, n in axes[0]), prod(n for _, n in axes[1]), *shape[2:]))
    return (kept[0], make_axis(None if mixes_positions else "C", shape[1]), *kept[2:])


def _rearrange(name: str, args, given, known, outputs) -> list[Axes | None]:
    """Return the axes after an operation that moves, merges, splits or drops some.

    None for any other operation.
    """
    axes, shape = known[0], tuple(outputs[0].shape)
    rank = given[0].dim()
    if name in ("cat", "stack"):
        return [_join(name, args, given, known, shape)]
    if axes is None:
        return [None] * len(outputs)
    if name in VIEWS:
        return [_regroup(axes, shape)]
    if name == "permute":
        return [tuple(axes[d % rank] for d in args[1])]
    if name in ("transpose", "t"):
        order = list(range(rank))
        a, b = (d % rank for d in (args[1:3] if name == "transpose" else (0, rank - 1)))
        order[a], order[b] = order[b], order[a]
        return [tuple(axes[d] for d in order)]
    if name in ("select", "unbind"):
        dropped = (args[1] if len(args) > 1 else 0) % rank
        return [(*axes[:dropped], *axes[dropped + 1 :])] * len(outputs)
    if name == "index_select":
        place = args[1] % rank
        return [tuple(make_axis(None, n) if d == place else axes[d] for d, n in enumerate(shape))]
    if name == "as_strided" and prod(shape[2:]) == 1 and given[0].shape == shape:
        return [axes]  # how global pooling makes its result channels last in memory
    if name == "linalg_vector_norm":  # the kind of norm comes before the axes
        name, args = "sum", (args[0], *args[2:])
    if name in _REDUCTIONS and len(args) > 1 and args[1] is not None:
        dims = [args[1]] if isinstance(args[1], int) else list(args[1])
        if outputs[0].dim() == rank:
            return [_keep(axes, each.shape) for each in outputs]
        reduced = {d % rank for d in dims}
        return [tuple(axis for d, axis in enumerate(axes) if d not in reduced)] * len(outputs)
    return [None] * len(outputs)


def _join(name: str, args, given, known, shape: tuple[int, ...]) -> Axes:
    """Return the axes after ``cat`` or ``stack``."""
    rank = len(shape)
    place = (args[1] if len(args) > 1 else 0) % rank
    if name == "stack":
        axes = _broadcast(given, known, tuple(given[0].shape))
        return (*axes[:place], make_axis(None, shape[place]), *axes[place:])
    pieces = [(t, a) for t, a in zip(given, known, strict=True) if t.dim() == rank]
    tensors, tensor_axes = zip(*pieces, strict=True)
    result = list(_broadcast(tensors, tensor_axes, shape))
    labels = [set() if axes is None else get_labels(axes[place]) for _, axes in pieces]
    result[place] = _common(set().union(*labels) if all(labels) else set(), shape[place])
    return tuple(result)


def _regroup(axes: Axes, shape: tuple[int, ...]) -> Axes | None:
    """Split and join the atoms, in their order, into axes of the sizes in ``shape``."""
    atoms = [atom for axis in axes for atom in axis]
    result = []
    for size in shape:
        axis: list[Atom] = []
        while size > 1:
            if not atoms:
                return None
            label, n = atoms.pop(0)
            if size % n == 0:
                axis.append((label, n))
                size //= n
            elif n % size == 0:
                axis.append((label, size))
                atoms.insert(0, (label, n // size))
                size = 1
            else:
                return None
        result.append(tuple(axis))
    return tuple(result)
