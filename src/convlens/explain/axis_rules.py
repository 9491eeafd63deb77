"""Rules by which ``convlens.explain.axes`` derives the axes of an operation's results.

Axes are products of atoms, see ``convlens.explain.axis_atoms``. Axes are None for tensors that do
not depend on the image, such as parameters. An axis is unknown if no rule gives its label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves

from convlens.explain.axis_atoms import (
    CHANNELS,
    POSITIONS,
    SPATIAL,
    Axes,
    Axis,
    get_labels,
    get_size,
    is_coherent,
    is_unknown,
    join_axes,
    make_axes,
    make_axis,
    pad_axis,
    regroup,
    remove_atoms,
    resize_axis,
    roll_axis,
    slice_axis,
)

# operations, besides pointwise ones, that keep every axis in its place but may change its size
_KEEPING = {
    "clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh", "glu",
    "cumsum",
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
_CUTTING = {"slice", "split", "split_with_sizes", "roll", "flip"}
VIEWS = {"view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze"}
_REDUCTIONS = {"mean", "sum", "amax", "amin", "max", "min", "var", "std", "logsumexp", "argmax",
               "prod", "var_mean"}  # fmt: skip


def find_tensors(values: Any) -> list[Tensor]:
    """Return all tensors in nested containers."""
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def follow_axes(
    func: OpOverload,
    name: str,
    args: Sequence[Any],
    given: list[Tensor],
    known: list[Axes | None],
    outputs: list[Tensor],
) -> list[Axes | None]:
    """Return the axes of each output of an operation without weights; None if there is no rule.

    Args:
        func: the operation.
        name: its name without trailing underscores.
        args: its operands.
        given: the tensors among the operands.
        known: the axes of each of these tensors; of one at least.
        outputs: the resulting tensors.
    """
    shape = tuple(outputs[0].shape)
    if name == "copy":  # the first tensor is only overwritten
        return [_broadcast(given[1:], known[1:], shape)]
    if torch.Tag.pointwise in func.tags or name in {*_POINTWISE, "expand"}:
        return [_broadcast(given, known, tuple(each.shape)) for each in outputs]
    if name in _KEEPING and known[0] is not None:
        return [
            _keep(known[0], each.shape) if each.dim() == len(known[0]) else None for each in outputs
        ]
    if name == "constant_pad_nd" and known[0] is not None:
        return [tuple(pad_axis(axis, n) for axis, n in zip(known[0], shape, strict=True))]
    if name in _CUTTING and known[0] is not None:
        return _cut(name, args, given[0], known[0], outputs)
    return _rearrange(name, args, given, known, outputs)


def _keep(axes: Axes, shape: Sequence[int]) -> Axes:
    """Keep every axis in its place; its size may change."""
    return tuple(resize_axis(axis, size) for axis, size in zip(axes, shape, strict=True))


def _cut(name: str, args, given: Tensor, axes: Axes, outputs: list[Tensor]) -> list[Axes | None]:
    """Return the axes after a slice, a split, a roll or a flip."""
    rank = len(axes)
    if name in ("roll", "flip"):
        dims = args[2] if name == "roll" else args[1]
        if not dims:
            return [None]
        result = list(axes)
        for place, dim in enumerate(dims):
            if name == "roll":
                result[dim] = roll_axis(axes[dim], args[1][place])
            elif not get_labels(axes[dim]) <= CHANNELS:
                result[dim] = make_axis(None, get_size(axes[dim]))
        return [tuple(result)]
    where = 1 if name == "slice" else 2
    place = (args[where] if len(args) > where else 0) % rank
    size, start, step = given.shape[place], 0, 1
    results: list[Axes | None] = []
    if name == "slice":
        start, _, step = slice(*args[2:5]).indices(size)
    for output in outputs:
        stop = min(start + output.shape[place] * step, size)
        axis = slice_axis(axes[place], start, stop, step)
        kept = (*axes[:place], axis, *axes[place + 1 :])
        results.append(remove_atoms(kept, [axes[place]]) if not axis else kept)
        start = stop
    return results


def _broadcast(given: Sequence[Tensor], known: Sequence[Axes | None], shape) -> Axes:
    """Combine what is known of the operands' axes, which are aligned at the last axis."""
    result: list[Axis] = []
    for place, size in enumerate(shape):
        candidates = []
        for tensor, axes in zip(given, known, strict=True):
            at = place - (len(shape) - tensor.dim())
            if axes is not None and at >= 0 and tensor.shape[at] == size:
                candidates.append(axes[at])
        certain = {axis for axis in candidates if is_coherent(axis)}
        distinct = certain or {*candidates[:1]}
        if len(distinct) == 1 and size > 1:
            result += distinct
        else:
            labels = set().union(*map(get_labels, distinct))
            is_channel = distinct and labels <= CHANNELS
            result.append(make_axis("C" if is_channel else None, size))
    return tuple(result)


def mix_channels(contracted: Axis, size: int) -> Axis:
    """Return the axis that a product with weights makes from the axis ``contracted``."""
    labels = get_labels(contracted)
    mixes_positions = bool(labels) and labels <= POSITIONS  # as in an MLP-Mixer
    return make_axis(None if mixes_positions or labels == {None} else "C", size)


def multiply_axes(left: Axes | None, right: Axes | None, shape: tuple[int, ...]) -> Axes:
    """Return the axes of a matrix product; at least one of the factors depends on the image.

    Args:
        left: axes of the first factor; None for weights.
        right: axes of the second factor; None for weights.
        shape: shape of the product.
    """
    if left is None:
        assert right is not None, "one of the factors depends on the image"
        return remove_atoms((*right[:-2], make_axis(None, shape[-2]), right[-1]), [right[-2]])
    last = mix_channels(left[-1], shape[-1]) if right is None else right[-1]
    batch = left[:-2]
    if right is not None:
        pairs = zip(left[:-2], right[:-2], strict=True)
        batch = tuple(a if None not in get_labels(a) else b for a, b in pairs)
    return remove_atoms((*batch, left[-2], last), [left[-1]])


def convolve_axes(axes: Axes | None, shape: tuple[int, ...]) -> Axes | None:
    """Return the axes of a convolution's output of this ``shape``."""
    if axes is None or is_unknown(axes):
        # the axes of a two-dimensional convolution are known without its input
        return make_axes("BCHW", shape) if len(shape) == 4 else None
    mixes_positions = get_labels(axes[1]) and get_labels(axes[1]) <= POSITIONS
    kept = _keep(axes, (get_size(axes[0]), get_size(axes[1]), *shape[2:]))
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
        return [regroup(axes, shape)]
    if name == "permute":
        return [tuple(axes[d % rank] for d in args[1])]
    if name in ("transpose", "t"):
        order = list(range(rank))
        a, b = (d % rank for d in (args[1:3] if name == "transpose" else (0, rank - 1)))
        order[a], order[b] = order[b], order[a]
        return [tuple(axes[d] for d in order)]
    if name in ("select", "unbind"):
        dropped = (args[1] if len(args) > 1 else 0) % rank
        kept = remove_atoms((*axes[:dropped], *axes[dropped + 1 :]), [axes[dropped]])
        return [kept] * len(outputs)
    if name == "index_select":
        place = args[1] % rank
        return [tuple(make_axis(None, n) if d == place else axes[d] for d, n in enumerate(shape))]
    if name == "as_strided" and given[0].shape == shape and all(n == 1 for n in shape[2:]):
        return [axes]  # how global pooling makes its result channels last in memory
    if name == "linalg_vector_norm":  # the kind of norm comes before the axes
        name, args = "sum", (args[0], *args[2:])
    if name in _REDUCTIONS and len(args) > 1 and args[1] is not None:
        dims = [args[1]] if isinstance(args[1], int) else list(args[1])
        reduced = {d % rank for d in dims}
        lost = [axes[d] for d in reduced]
        if outputs[0].dim() == rank:
            kept = tuple(() if d in reduced else axis for d, axis in enumerate(axes))
        else:
            kept = tuple(axis for d, axis in enumerate(axes) if d not in reduced)
        return [remove_atoms(kept, lost)] * len(outputs)
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
    # what does not depend on the image has no place in it
    parts = [make_axis("T", t.shape[place]) if a is None else a[place] for t, a in pieces]
    labels = set().union(*map(get_labels, parts))
    if len(parts) == 1:
        result[place] = parts[0]
    elif labels <= CHANNELS and all(get_labels(part) for part in parts):
        result[place] = make_axis("C" if len(labels) > 1 else labels.pop(), shape[place])
    elif labels <= POSITIONS and any(get_labels(part) >= SPATIAL for part in parts):
        result[place] = join_axes(parts)
    elif labels == {"T"}:
        result[place] = make_axis("T", shape[place])
    else:
        result[place] = make_axis(None, shape[place])
    return tuple(result)
