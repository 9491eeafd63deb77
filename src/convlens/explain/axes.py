"""Find out which axis of a layer's output is which: follow the axes through the forward pass.

Shapes: ``B`` batch, ``C`` channels, ``H W`` height and width, ``L`` tokens.

Layers return maps as ``(B, C, H, W)``, as ``(B, H, W, C)`` (ConvNeXt, Swin), or as tokens
``(B, L, C)``, and one network may do all three. The shape alone does not tell them apart.
``AxisTracker`` starts from the image ``(B, C, H, W)`` and follows its axes through every operation:
a permutation moves them, a convolution keeps the two spatial axes and makes new channels, a sum
combines what is known of its operands. After an operation without a rule the axes are unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from convlens.explain.axis_rules import (
    CHANNELS,
    VIEWS,
    Axes,
    convolve_axes,
    find_tensors,
    follow_axes,
    get_labels,
    make_axes,
    make_axis,
    mix_channels,
)

# matrix products: the position of the first factor among the operands
_PRODUCTS = {"mm": 0, "addmm": 1, "bmm": 0, "baddbmm": 1, "linear": 0}
# products inside operations that are whole layers (torch's fast path for nn.TransformerEncoder)
_WHOLE_LAYERS = {"_transformer_encoder_layer_fwd": 6, "_native_multi_head_attention": 4}
# operations that keep positive values: whatever reads their output also reads their input
_SIGN_KEEPING = {"clone", "detach", "alias", "_to_copy", "contiguous", "max_pool2d", "permute",
                 "max_pool2d_with_indices", "native_dropout", "transpose", *VIEWS}  # fmt: skip


@dataclass(frozen=True)
class Tokens:
    """An axis of tokens: how its positions lie on the image.

    Attributes:
        prefix: number of leading tokens without a place in the image: class token, registers.
        height: rows of the grid of patches.
        width: columns of the grid; the patches are in row-major order.
        suffix: number of tokens without a place after the patches.
    """

    prefix: int
    height: int
    width: int
    suffix: int = 0

    @property
    def count(self) -> int:
        """Number of tokens."""
        return self.prefix + self.height * self.width + self.suffix


@dataclass(frozen=True)
class Layout:
    """The order of the axes of a layer's output.

    Attributes:
        order: which axes of the output are ``B, C, h, w`` of maps, or ``B, C`` of features; None
            if it is neither or unknown.
        reason: why ``order`` is None, for error messages.
        tokens: how the tokens lie on the image, if the output holds tokens.
    """

    order: tuple[int, ...] | None
    reason: str = ""
    tokens: Tokens | None = None

    @property
    def map_order(self) -> tuple[int, ...] | None:
        """``order`` if the output holds maps, else None."""
        return self.order if self.order is not None and len(self.order) == 4 else None


class AxisTracker(TorchDispatchMode):
    """Follows the axes of ``images`` ``(B, C, H, W)`` inside a ``with`` block.

    Attributes:
        products: number of convolutions and matrix products over more than one position of an
            image so far: the depth that the pass has reached.
        readers: name -> kinds of operation that read the output given to ``watch``: ``rectifier``
            (zero for all values that are not above zero), ``norm`` or ``other``.
    """

    def __init__(self, images: Tensor):
        super().__init__()
        self.products = 0
        self._learned = False  # whether any layer with weights has run
        self.readers: dict[str, set[str]] = {}
        self._batch = len(images)
        self._axes: dict[tuple, Axes] = {_key(images): make_axes("BPHW", images.shape)}
        self._watched: dict[tuple, set[str]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, given = kwargs or {}, find_tensors(args)
        # looked up before the call: some operations move an operand in memory
        known = [self.axes(tensor) for tensor in given]
        result = func(*args, **kwargs)
        outputs = find_tensors(result)
        packet = func.overloadpacket.__name__
        name = packet.rstrip("_") if not packet.startswith("__") else packet
        self._note_readers(name, packet, args, kwargs, given, outputs)
        axes = self._follow_axes(func, name, args, given, known, outputs) if outputs else []
        for output, each in zip(outputs, axes, strict=False):
            if each is None:
                self._axes.pop(_key(output), None)
            else:
                self._axes[_key(output)] = each
        return result

    def axes(self, tensor: Tensor) -> Axes | None:
        """Return what is known of the tensor's axes; None if nothing is."""
        return self._axes.get(_key(tensor))

    def layout(self, output: Tensor) -> Layout:
        """Return the layout of an output of the pass."""
        shape, axes = tuple(output.shape), self.axes(output)
        if not shape or shape[0] != self._batch or (axes and not get_labels(axes[0]) <= {"B"}):
            return Layout(None, f"returns parts of images {shape}, not maps of whole images")
        if output.dim() == 2:
            return Layout((0, 1))
        if output.dim() != 4:
            kind = "tokens" if output.dim() == 3 else "a tensor"
            return Layout(None, f"returns {kind} {shape[1:]} per image, not maps")
        if axes is None:
            return Layout(None, f"returns {shape[1:]} per image, and its channel axis is unknown")
        return _map_layout(shape, axes)

    def is_image_input(self, given: Tensor) -> bool:
        """Return whether axis 1 of a layer's input ``(B, C, H, W)`` is the image's own channels."""
        axes = self.axes(given)
        if axes is None or len(axes) != 4:
            return False
        # a repeated grey channel, or channels that are stacked one by one, are the image's own too
        own = {"P"} if self._learned else {"P", None}
        return get_labels(axes[1]) <= own

    def watch(self, name: str, output: Tensor) -> None:
        """From now on, record in ``readers`` which operations read ``output``."""
        self.readers[name] = set()
        self._watched.setdefault(_key(output), set()).add(name)

    def _note_readers(self, name: str, packet: str, args, kwargs, given, outputs) -> None:
        for key in map(_key, given):
            names = self._watched.get(key, ())
            if names and name in _SIGN_KEEPING:
                for output in outputs[:1]:
                    self._watched.setdefault(_key(output), set()).update(names)
                continue
            for each in names:
                self.readers[each].add(_classify_reader(name, args, kwargs))
            if packet != name:  # in place: this memory now holds another value
                self._watched.pop(key, None)

    def _follow_axes(self, func, name: str, args, given, known, outputs) -> list[Axes | None]:
        """Return the axes of each output tensor."""
        shape = tuple(outputs[0].shape)
        self.products += _WHOLE_LAYERS.get(name, 0)
        self._learned |= name == "convolution" or name in _PRODUCTS
        if name == "convolution":
            self.products += prod(shape[2:]) > 1
            return [convolve_axes(known[0], shape)]
        if name in _PRODUCTS:
            return [self._multiply(name, known, shape)]
        if name.startswith("_scaled_dot_product"):
            self.products += 2 * (shape[-2] > 1)
            query, value = known[0], known[2]
            attention = query and value and (*query[:-1], value[-1])
            return [attention, *[None] * (len(outputs) - 1)]
        return follow_axes(func, name, args, given, known, outputs)

    def _multiply(self, name: str, known, shape: tuple[int, ...]) -> Axes | None:
        """Return the axes of a matrix product."""
        place = _PRODUCTS[name]
        left, right = known[place], None if name == "linear" else known[place + 1]
        rows = prod(shape[:-1]) if name in ("mm", "addmm", "linear") else shape[-2] * self._batch
        self.products += rows > self._batch
        if not left and not right:
            return None
        first = left[:-1] if left else [make_axis(None, n) for n in shape[:-1]]
        return (*first, right[-1] if right else mix_channels(left[-1], shape[-1]))


def _key(tensor: Tensor) -> tuple:
    """Return a key that all tensor objects of a view share, and that is never used again."""
    # autograd makes new objects for views, so the object's identity cannot be the key
    storage = StorageWeakRef(tensor.untyped_storage())
    return storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


def _map_layout(shape: tuple[int, ...], axes: Axes) -> Layout:
    """Return the layout of an output with four axes, the first of which is the batch."""

    def places(labels: set[str]) -> list[int]:
        return [a for a in (1, 2, 3) if axes[a] and get_labels(axes[a]) <= labels]

    channels, down, across = places(CHANNELS), places({"H"}), places({"W"})
    unknown = [a for a in (1, 2, 3) if shape[a] > 1 and a not in (*channels, *down, *across)]
    if not channels and down and across:
        channels = [a for a in (1, 2, 3) if a not in (down[0], across[0])]
        unknown = []
    if len(channels) == 1 and len(down) < 2 and len(across) < 2 and not unknown:
        # spatial axes of length one cannot be told apart and keep their order
        others = [a for a in (1, 2, 3) if a not in (*channels, *down, *across)]
        height = down or others[:1]
        width = across or others[-1:]
        return Layout((0, channels[0], height[0], width[0]))
    return Layout(None, f"returns {shape[1:]} per image, which is not the (C, h, w) of maps")


def _classify_reader(name: str, args, kwargs) -> str:
    """Return the kind of an operation, as in ``AxisTracker.readers``."""
    if "norm" in name and "vector" not in name:
        return "norm"
    low = {"hardtanh": -1.0, "clamp": None, "clamp_min": None}
    if name in low:
        low = args[1] if len(args) > 1 else kwargs.get("min", kwargs.get("min_val", low[name]))
        return "rectifier" if low == 0 else "other"
    return "rectifier" if name in ("relu", "relu6") else "other"
