"""Which axis of a layer's output is which: followed through the forward pass, never guessed.

Shapes: ``B`` batch, ``C`` channels, ``H W`` height and width, ``L`` tokens.

Networks hand their maps on as ``(B, C, H, W)``, as ``(B, H, W, C)`` (ConvNeXt, Swin), or as tokens
``(B, L, C)``, and one network may do all three. From the shape alone nobody can tell them apart.
:class:`AxisTracker` starts from what is known, the image ``(B, C, H, W)``, and follows its axes
through every operation: a permutation moves them, a convolution keeps its two spatial axes and
makes new channels, a sum gives what is known of one operand to the other. What an operation that it
does not know makes of the axes stays unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

# An axis is the product of its atoms, outermost first: (label, size), no atom of size one. Labels:
# "B", "H", "W", "P" (the image's own channels), "C" (any later channels), None (not known).
Atom = tuple[str | None, int]
Axis = tuple[Atom, ...]
Axes = tuple[Axis, ...]

_CHANNELS = {"C", "P"}
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
_VIEWS = {"view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze"}
_REDUCTIONS = {"mean", "sum", "amax", "amin", "max", "min", "var", "std", "logsumexp", "argmax",
               "prod", "var_mean"}  # fmt: skip
_PRODUCTS = {"mm": 0, "addmm": 1, "bmm": 0, "baddbmm": 1, "linear": 0}  # place of the first factor
# products inside operations that are whole layers (torch's fast path for nn.TransformerEncoder)
_WHOLE_LAYERS = {"_transformer_encoder_layer_fwd": 6, "_native_multi_head_attention": 4}
# what hands on whether a value is above zero
_HANDING_ON = {"clone", "detach", "alias", "_to_copy", "contiguous", "max_pool2d", "permute",
               "max_pool2d_with_indices", "native_dropout", "transpose", *_VIEWS}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """How a layer's output is to be read.

    Attributes:
        order: axes of the output that are ``B, C, h, w`` of maps, or ``B, C`` of features; None
            where it is neither, or where that is not known.
        reason: then why, for a person.
    """

    order: tuple[int, ...] | None
    reason: str = ""

    @property
    def is_map(self) -> bool:
        return self.order is not None and len(self.order) == 4

    def channels_first(self, output: Tensor) -> Tensor:
        """The layer's output as ``(B, C, h, w)`` or ``(B, C)``: a view, the gradient goes along.

        Only for outputs whose ``order`` is known.
        """
        return output.permute(self.order)


class AxisTracker(TorchDispatchMode):
    """Follows the axes of the ``images`` ``(B, C, H, W)`` while its ``with`` lasts.

    Attributes:
        products: convolutions and matrix products over more than one place of an image, so far:
            the depth at which the pass has arrived.
        readers: name -> what read the outputs given to :meth:`watch`: ``rectifier`` (zero for
            everything that is not above zero), ``norm`` or ``other``.
    """

    def __init__(self, images: Tensor):
        super().__init__()
        self.products = 0
        self._learned = False  # whether any product has been taken
        self.readers: dict[str, set[str]] = {}
        self._batch = len(images)
        self._axes: dict[tuple, Axes] = {}
        self._watched: dict[tuple, set[str]] = {}
        labels = ("B", "P", "H", "W")
        named = tuple(_axis(label, n) for label, n in zip(labels, images.shape, strict=True))
        self._axes[_key(images)] = named

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # looked up before: some operations change where an operand lies
        known = [self.axes(tensor) for tensor in _tensors(args)]
        result = func(*args, **(kwargs or {}))
        packet = func.overloadpacket.__name__
        name = packet.rstrip("_") if not packet.startswith("__") else packet
        self._note_readers(name, packet, args, kwargs or {}, result)
        axes = self._followed(func, name, args, known, result)
        for output, each in zip(_tensors([result]), axes, strict=False):
            if each is None:
                self._axes.pop(_key(output), None)
            else:
                self._axes[_key(output)] = each
        return result

    def axes(self, tensor: Tensor) -> Axes | None:
        """What is known of the tensor's axes; None for nothing."""
        return self._axes.get(_key(tensor))

    def layout(self, output: Tensor) -> Layout:
        """How an output of the pass is to be read."""
        shape, axes = tuple(output.shape), self.axes(output)
        if not shape or shape[0] != self._batch or (axes and not _labels(axes[0]) <= {"B"}):
            return Layout(None, f"gives parts of images, {shape}, not maps of whole ones")
        if output.dim() == 2:
            return Layout((0, 1))
        if output.dim() != 4:
            what = "tokens" if output.dim() == 3 else "a tensor"
            return Layout(None, f"gives {what} {shape[1:]} per image, not maps")
        if axes is None:
            return Layout(None, f"gives {shape[1:]} per image, and which axis holds the channels is"
                                " not known")  # fmt: skip
        return _map_layout(shape, axes)

    def takes_image(self, given: Tensor) -> bool:
        """Whether axis 1 of a layer's input ``(B, C, H, W)`` holds the image's own channels."""
        axes = self.axes(given)
        if axes is None or len(axes) != 4:
            return False
        # one grey channel repeated, or three put together one by one, are the image's own as well
        own = {"P"} if self._learned else {"P", None}
        return _labels(axes[1]) <= own

    def watch(self, name: str, output: Tensor) -> None:
        """Note from now on what reads ``output``, in :attr:`readers`."""
        self.readers[name] = set()
        self._watched.setdefault(_key(output), set()).add(name)

    def _note_readers(self, name: str, packet: str, args, kwargs, result) -> None:
        if not self._watched:
            return
        for given in _tensors(args):
            key = _key(given)
            if not (names := self._watched.get(key)):
                continue
            if name in _HANDING_ON:
                for output in _tensors([result])[:1]:
                    self._watched.setdefault(_key(output), set()).update(names)
                continue
            for each in names:
                self.readers[each].add(_reader(name, args, kwargs))
            if packet != name:  # in place: what stands there now is another value
                del self._watched[key]

    def _followed(self, func, name: str, args, known, result) -> list[Axes | None]:
        """The axes of each output tensor."""
        outputs = _tensors([result])
        if name in _WHOLE_LAYERS:
            self.products += _WHOLE_LAYERS[name]
        if not outputs:
            return []
        given, shape = _tensors(args), tuple(outputs[0].shape)
        self._learned |= name == "convolution" or name in _PRODUCTS
        if name == "convolution":
            self.products += prod(shape[2:]) > 1
            return [_convolved(known[0], shape)]
        if name in _PRODUCTS:
            return [self._multiplied(name, given, known, shape)]
        if name.startswith("_scaled_dot_product"):
            self.products += 2 * (shape[-2] > 1)
            query, value = known[0], known[2]
            found = query and value and (*query[:-1], value[-1])
            return [found, *[None] * (len(outputs) - 1)]
        if all(axes is None for axes in known):
            return [None] * len(outputs)
        if name == "copy":  # into a tensor that was there before
            return [_broadcast(given[1:], known[1:], shape)]
        if torch.Tag.pointwise in func.tags or name in {*_POINTWISE, "expand"}:
            return [_broadcast(given, known, tuple(each.shape)) for each in outputs]
        if name in _KEEPING and known[0] is not None:
            return [
                _kept(known[0], each.shape) if each.dim() == len(known[0]) else None
                for each in outputs
            ]
        return _rearranged(name, args, given, known, outputs)

    def _multiplied(self, name: str, given, known, shape: tuple[int, ...]) -> Axes | None:
        place = _PRODUCTS[name]
        left, right = known[place], known[place + 1]
        rows = prod(shape[:-1]) if name in ("mm", "addmm", "linear") else shape[-2] * self._batch
        self.products += rows > self._batch
        if name == "linear":
            right = None
        if left is None:
            if right is None:
                return None
            return (*[_axis(None, n) for n in shape[:-1]], right[-1])
        last = right[-1] if right is not None else _new_channels(left[-1], shape[-1])
        return (*left[:-1], last)


def _key(tensor: Tensor) -> tuple:
    """The same for all tensor objects of one view; it never comes back after the memory is free."""
    # autograd hands out views as new objects, so an object's own identity does not do
    storage = StorageWeakRef(tensor.untyped_storage())
    return storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


def _tensors(values: Iterable) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += [each for each in value if isinstance(each, Tensor)]
    return found


def _axis(label: str | None, size: int) -> Axis:
    return ((label, size),) if size > 1 else ()


def _labels(axis: Axis) -> set[str | None]:
    return {label for label, _ in axis}


def _map_layout(shape: tuple[int, ...], axes: Axes) -> Layout:
    """Of an output with four axes, the first of which holds the images."""
    found = {
        label: [a for a in (1, 2, 3) if axes[a] and _labels(axes[a]) <= labels]
        for label, labels in (("H", {"H"}), ("W", {"W"}), ("C", _CHANNELS))
    }
    named = {a for places in found.values() for a in places}
    unknown = [a for a in (1, 2, 3) if shape[a] > 1 and a not in named]
    channels, down, across = found["C"], found["H"], found["W"]
    if not channels and down and across:
        channels = [a for a in (1, 2, 3) if a not in (down[0], across[0])]
        unknown = []
    if len(channels) == 1 and len(down) < 2 and len(across) < 2 and not unknown:
        # axes of one pixel, which cannot be told apart, keep their order
        rest = [a for a in (1, 2, 3) if a not in (*channels, *down, *across)]
        height = down or rest[:1]
        width = across or rest[-1:]
        return Layout((0, channels[0], height[0], width[0]))
    return Layout(
        None, f"gives {shape[1:]} per image, which are not the channels, height and width of maps"
    )


def _kept(axes: Axes, shape: Sequence[int]) -> Axes:
    """Every axis in its place; one whose size changed stays what it was as a whole."""
    found = []
    for axis, size in zip(axes, shape, strict=True):
        if prod(n for _, n in axis) == size:
            found.append(axis)
        else:
            labels = _labels(axis)
            found.append(_axis(labels.pop() if len(labels) == 1 else None, size))
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
        sure = [axis for axis in said if None not in _labels(axis)]
        if size == 1 or not said:
            found.append(_axis(None, size))
        elif not sure:
            found.append(said[0])
        elif all(axis == sure[0] for axis in sure):
            found.append(sure[0])
        else:
            labels = set().union(*map(_labels, sure))
            labels = {"C"} if labels <= _CHANNELS else labels
            found.append(_axis(labels.pop() if len(labels) == 1 else None, size))
    return tuple(found)


def _new_channels(contracted: Axis, size: int) -> Axis:
    """The axis that a learned product puts in place of ``contracted``."""
    labels = _labels(contracted)
    mixes_places = bool(labels) and labels <= _SPATIAL  # as an MLP-Mixer does
    return _axis(None if mixes_places or labels == {None} else "C", size)


def _convolved(axes: Axes | None, shape: tuple[int, ...]) -> Axes | None:
    if axes is None:
        if len(shape) != 4:
            return None
        # a two-dimensional convolution says by itself what its axes are
        labels = ("B", "C", "H", "W")
        return tuple(_axis(label, n) for label, n in zip(labels, shape, strict=True))
    places = _labels(axes[1]) and _labels(axes[1]) <= _SPATIAL
    kept = _kept(axes, (prod(n for _, n in axes[0]), prod(n for _, n in axes[1]), *shape[2:]))
    return (kept[0], _axis(None if places else "C", shape[1]), *kept[2:])


def _rearranged(name: str, args, given, known, outputs) -> list[Axes | None]:
    """Of operations that move, merge, split or drop axes; None for those not known here."""
    axes, shape = known[0], tuple(outputs[0].shape)
    rank = given[0].dim()
    if name in ("cat", "stack"):
        return [_joined(name, args, given, known, shape)]
    if axes is None:
        return [None] * len(outputs)
    if name in _VIEWS:
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
        moved = [_axis(None, n) if d == args[1] % rank else axes[d] for d, n in enumerate(shape)]
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
        return (*rest[:place], _axis(None, shape[place]), *rest[place:])
    pieces = [(t, a) for t, a in zip(given, known, strict=True) if t.dim() == rank]
    found = list(_broadcast(*zip(*pieces, strict=True), shape))
    labels = [set() if axes is None else _labels(axes[place]) for _, axes in pieces]
    same = all(labels) and all(len(each) == 1 and each == labels[0] for each in labels)
    found[place] = _axis(next(iter(labels[0])) if same else None, shape[place])
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


def _reader(name: str, args, kwargs) -> str:
    """What an operation is to the value that it reads."""
    if "norm" in name and "vector" not in name:
        return "norm"
    low = {"hardtanh": -1.0, "clamp": None, "clamp_min": None}
    if name in low:
        low = args[1] if len(args) > 1 else kwargs.get("min", kwargs.get("min_val", low[name]))
        return "rectifier" if low == 0 else "other"
    return "rectifier" if name in ("relu", "relu6") else "other"
