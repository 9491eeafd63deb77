"""What an operation makes of the axes of its operands: the rules of :mod:`convlens.explain.axes`.

An axis is the product of its atoms, ``(label, size)``, outermost first. What a rule does not know
stays unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

# An axis is the product of its atoms, outermost first: (label, size), no atom of size one. Labels:
# "B", "H", "W", "P" (the image's own channels), "C" (any later channels), None (not known).
Atom = tuple[str | None, int]
Axis = tuple[Atom, ...]
Axes = tuple[Axis, ...]

CHANNELS = {"C", "P"}
_SPATIAL = {"H", "W"}
# what keeps every axis in its place, whatever it does to the sizes (beside pointwise operations)
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
# pointwise too, though torch does not mark them so
_POINTWISE = {"hardswish", "prelu", "_prelu_kernel", "log_sigmoid_forward", "rsub"}
VIEWS = {"view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze"}
_REDUCTIONS = {"mean", "sum", "amax", "amin", "max", "min", "var", "std", "logsumexp", "argmax",
               "prod", "var_mean"}  # fmt: skip


def tensors_in(values) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def axis_of(label: str | None, size: int) -> Axis:
    return ((label, size),) if size > 1 else ()


def _common(labels: set[str | None], size: int) -> Axis:
    """An axis of the one label that there is; not known where there are several."""
    return axis_of(next(iter(labels)) if len(labels) == 1 else None, size)


def named_axes(labels: str, shape: Sequence[int]) -> Axes:
    """Axes that are one atom each: ``"BCHW"`` of a shape of four."""
    return tuple(axis_of(label, size) for label, size in zip(labels, shape, strict=True))


def labels_of(axis: Axis) -> set[str | None]:
    return {label for label, _ in axis}


def follow_axes(
    func, name: str, args, given: list[Tensor], known: list[Axes | None], outputs: list[Tensor]
) -> list[Axes | None]:
    """The axes of each output of an operation that learns nothing; None for those not known.

    Args:
        func, name, args: the operation, its name without underscores behind, its operands.
        given, known: the tensors among the operands, and the axes of each.
    """
    shape = tuple(outputs[0].shape)
    if all(axes is None for axes in known):
        return [None] * len(outputs)
    if name == "copy":  # into a tensor that was there before
        return [_broadcast(given[1:], known[1:], shape)]
    if torch.Tag.pointwise in func.tags or name in {*_POINTWISE, "expand"}:
        return [_broadcast(given, known, tuple(each.shape)) for each in outputs]
    if name in _KEEPING and known[0] is not None:
        return [
            _kept(known[0], each.shape) if each.dim() == len(known[0]) else None for each in outputs
        ]
    return _rearranged(name, args, given, known, outputs)


def _kept(axes: Axes, shape: Sequence[int]) -> Axes:
    """Every axis in its place; one whose size changed stays what it was as a whole."""
    found = []
    for axis, size in zip(axes, shape, strict=True):
        if prod(n for _, n in axis) == size:
            found.append(axis)
        else:
            found.append(_common(labels_of(axis), size))
    return tuple(found)


def _broadcast(given: Sequence[Tensor], known: Sequence[Axes | None], shape) -> Axes:
    """What the operands, aligned at their last axes, say of each axis together."""
    found = []
    for place, size in enumerate(shape):
        said = []
        for tensor, axes in zip(given, known, strict=True):
            at = place - (len(shape) - tensor.dim())
            if axes is not None and at >= 0 and tensor.shape[at] == size:
                said.append(axes[at])
        sure = {axis for axis in said if None not in labels_of(axis)} or {*said[:1]}
        if size == 1 or not said:
            found.append(axis_of(None, size))
        elif len(sure) == 1:
            found += sure
        else:
            labels = set().union(*map(labels_of, sure))
            found.append(_common({"C"} if labels <= CHANNELS else labels, size))
    return tuple(found)


def new_channels(contracted: Axis, size: int) -> Axis:
    """The axis that a learned product puts in place of ``contracted``."""
    labels = labels_of(contracted)
    mixes_places = bool(labels) and labels <= _SPATIAL  # as an MLP-Mixer does
    return axis_of(None if mixes_places or labels == {None} else "C", size)


def convolve_axes(axes: Axes | None, shape: tuple[int, ...]) -> Axes | None:
    if axes is None:
        # a two-dimensional convolution says by itself what its axes are
        return named_axes("BCHW", shape) if len(shape) == 4 else None
    places = labels_of(axes[1]) and labels_of(axes[1]) <= _SPATIAL
    kept = _kept(axes, (prod(n for _, n in axes[0]), prod(n for _, n in axes[1]), *shape[2:]))
    return (kept[0], axis_of(None if places else "C", shape[1]), *kept[2:])


def _rearranged(name: str, args, given, known, outputs) -> list[Axes | None]:
    """Of operations that move, merge, split or drop axes; None for those not known here."""
    axes, shape = known[0], tuple(outputs[0].shape)
    rank = given[0].dim()
    if name in ("cat", "stack"):
        return [_joined(name, args, given, known, shape)]
    if axes is None:
        return [None] * len(outputs)
    if name in VIEWS:
        return [_regrouped(axes, shape)]
    if name == "permute":
        return [tuple(axes[d % rank] for d in args[1])]
    if name in ("transpose", "t"):
        order = list(range(rank))
        a, b = (d % rank for d in (args[1:3] if name == "transpose" else (0, rank - 1)))
        order[a], order[b] = order[b], order[a]
        return [tuple(axes[d] for d in order)]
    if name in ("select", "unbind"):
        gone = (args[1] if len(args) > 1 else 0) % rank
        return [(*axes[:gone], *axes[gone + 1 :])] * len(outputs)
    if name == "index_select":
        moved = [axis_of(None, n) if d == args[1] % rank else axes[d] for d, n in enumerate(shape)]
        return [tuple(moved)]
    if name == "as_strided" and prod(shape[2:]) == 1 and given[0].shape == shape:
        return [axes]  # how global pooling says that its result is channels last in memory
    if name == "linalg_vector_norm":  # its axes come behind the kind of norm
        name, args = "sum", (args[0], *args[2:])
    if name in _REDUCTIONS and len(args) > 1 and args[1] is not None:
        dims = [args[1]] if isinstance(args[1], int) else list(args[1])
        if outputs[0].dim() == rank:
            return [_kept(axes, each.shape) for each in outputs]
        gone = {d % rank for d in dims}
        return [tuple(axis for d, axis in enumerate(axes) if d not in gone)] * len(outputs)
    return [None] * len(outputs)


def _joined(name: str, args, given, known, shape: tuple[int, ...]) -> Axes:
    rank = len(shape)
    place = (args[1] if len(args) > 1 else 0) % rank
    if name == "stack":
        rest = _broadcast(given, known, tuple(given[0].shape))
        return (*rest[:place], axis_of(None, shape[place]), *rest[place:])
    pieces = [(t, a) for t, a in zip(given, known, strict=True) if t.dim() == rank]
    tensors, tensor_axes = zip(*pieces, strict=True)
    found = list(_broadcast(tensors, tensor_axes, shape))
    labels = [set() if axes is None else labels_of(axes[place]) for _, axes in pieces]
    found[place] = _common(set().union(*labels) if all(labels) else set(), shape[place])
    return tuple(found)


def _regrouped(axes: Axes, shape: tuple[int, ...]) -> Axes | None:
    """The atoms, in their order, cut and joined to axes of the sizes of ``shape``."""
    atoms = [atom for axis in axes for atom in axis]
    found = []
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
        found.append(tuple(axis))
    return tuple(found)
