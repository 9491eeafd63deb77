"""Find out which axis of a layer's output is which: follow the axes through the forward pass.

Shapes: ``B`` batch, ``C`` channels, ``H W`` height and width, ``L`` tokens.

Layers return maps as ``(B, C, H, W)``, as ``(B, H, W, C)`` (ConvNeXt, Swin), or as tokens
``(B, L, C)``, and one network may do all three. The shape alone does not tell them apart.
``AxisTracker`` starts from the image ``(B, C, H, W)`` and follows its axes through every operation:
a permutation moves them, a convolution keeps the two spatial axes and makes new channels, a sum
combines what is known of its operands. A class token joined to the patches, windows and rolls are
followed, too, see ``convlens.explain.axis_atoms``. After an operation without a rule the axes are
unknown.
"""

from __future__ import annotations

from math import prod

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from convlens.explain.axis_atoms import Axes, get_labels, make_axes, make_axis, make_unknown
from convlens.explain.axis_rules import (
    VIEWS,
    convolve_axes,
    find_tensors,
    follow_axes,
    multiply_axes,
)
from convlens.explain.grids import Layout, Tokens, find_layout, find_tokens

__all__ = ["AxisTracker", "Layout", "Tokens"]

# matrix products: the position of the first factor among the operands
_PRODUCTS = {"mm": 0, "addmm": 1, "bmm": 0, "baddbmm": 1, "linear": 0}
# products inside operations that are whole layers (torch's fast path for nn.TransformerEncoder)
_WHOLE_LAYERS = {"_transformer_encoder_layer_fwd": 6, "_native_multi_head_attention": 4}
# operations that keep positive values: whatever reads their output also reads their input
# operations that take a tensor's shape alone
_FILLED = {"zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones",
           "new_full", "new_empty", "new_empty_strided"}  # fmt: skip
_VALUE_KEEPING = {"clone", "detach", "alias", "_to_copy", "contiguous", "permute",
                  "native_dropout", "transpose", *VIEWS}  # fmt: skip
_SPLITS = {"split", "split_with_sizes"}
_SIGN_KEEPING = {*_VALUE_KEEPING, *_SPLITS, "max_pool2d", "max_pool2d_with_indices"}
_ACTIVATIONS = {"gelu", "silu", "mish", "elu", "hardswish", "hardsigmoid", "leaky_relu", "softplus",
                "tanh", "sigmoid", "prelu", "_prelu_kernel", "log_sigmoid_forward"}  # fmt: skip


class AxisTracker(TorchDispatchMode):
    """Follows the axes of ``images`` ``(B, C, H, W)`` inside a ``with`` block.

    Attributes:
        products: number of convolutions and matrix products over more than one position of an
            image so far: the depth that the pass has reached.
        readers: name -> kinds of operation that read the output given to ``watch``: ``rectifier``
            (zero for all values that are not above zero), ``activation`` (another one), ``norm`` or
            ``other``.
    """

    def __init__(self, images: Tensor):
        super().__init__()
        self.products = 0
        self._learned = False  # whether any layer with weights has run
        self.readers: dict[str, set[str]] = {}
        self._batch = len(images)
        self._axes: dict[tuple, Axes] = {_key(images): make_axes("BPHW", images.shape)}
        # the memory of all tensors that depend on the image
        self._dependent = {_memory(images)}
        self._sums: set[tuple] = set()
        self._added: dict[tuple, Layout] = {}  # tensors such as position embeddings
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
        self._count_products(name, outputs)
        if outputs and name not in _FILLED and any(axes is not None for axes in known):
            axes = self._follow_axes(func, name, args, given, known, outputs)
            for output, each in zip(outputs, axes, strict=False):
                self._axes[_key(output)] = each or make_unknown(output.shape)
                self._dependent.add(_memory(output))
            self._note_sum(name, given, known, outputs[0])
        return result

    def axes(self, tensor: Tensor) -> Axes | None:
        """Return what is known of the tensor's axes; None if it does not depend on the image."""
        known = self._axes.get(_key(tensor))
        if known is None and _memory(tensor) in self._dependent:
            return make_unknown(tensor.shape)
        return known

    def layout(self, output: Tensor) -> Layout:
        """Return the layout of an output of the pass."""
        return find_layout(tuple(output.shape), self.axes(output), self._batch)

    def tokens(self, tensor: Tensor, axis: int) -> Tokens | None:
        """Return how the positions of an axis lie on the image.

        Args:
            tensor: a tensor of the pass.
            axis: one of its axes.

        Returns:
            None if the axis does not hold all patches of the image, row by row.
        """
        axes = self.axes(tensor)
        return find_tokens(axes[axis]) if axes else None

    def layout_added_to(self, tensor: Tensor) -> Layout | None:
        """Return the layout of what a tensor was added to, such as a position embedding.

        Args:
            tensor: a tensor that does not depend on the image.

        Returns:
            None if it was not added to anything with as many axes.
        """
        return self._added.get(_key(tensor))

    def is_sum(self, tensor: Tensor) -> bool:
        """Return whether the tensor is a sum of two that depend on the image: a residual sum."""
        return _key(tensor) in self._sums

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
                for output in outputs if name in _SPLITS else outputs[:1]:
                    self._watched.setdefault(_key(output), set()).update(names)
                continue
            for each in names:
                self.readers[each].add(_classify_reader(name, args, kwargs))
            if packet != name:  # in place: this memory now holds another value
                self._watched.pop(key, None)

    def _note_sum(self, name: str, given, known, result: Tensor) -> None:
        """Remember what was added, and whether the result is a residual sum."""
        is_sum = name in _VALUE_KEEPING and _key(given[0]) in self._sums
        if name == "add" and len(given) == 2:
            is_sum = None not in known
            if not is_sum and given[0].dim() == given[1].dim():
                self._added[_key(given[known.index(None)])] = self.layout(result)
        (self._sums.add if is_sum else self._sums.discard)(_key(result))

    def _follow_axes(self, func, name: str, args, given, known, outputs) -> list[Axes | None]:
        """Return the axes of each output tensor."""
        shape = tuple(outputs[0].shape)
        if name == "convolution":
            return [convolve_axes(known[0], shape)]
        if name in _PRODUCTS:
            place = _PRODUCTS[name]
            right = None if name == "linear" else known[place + 1]
            return [multiply_axes(known[place], right, shape)]
        if name.startswith("_scaled_dot_product"):
            query, value = known[0], known[2]
            if value is not None:
                # queries that do not depend on the image have no place in it
                query = query or (*value[:-2], make_axis("T", shape[-2]), value[-1])
                return [(*query[:-1], value[-1]), *[None] * (len(outputs) - 1)]
            return [None] * len(outputs)
        if name in _WHOLE_LAYERS:
            query = known[0]
            whole = query and (*query[:-1], make_axis("C", shape[-1]))
            return [whole, *[None] * (len(outputs) - 1)]
        return follow_axes(func, name, args, given, known, outputs)

    def _count_products(self, name: str, outputs: list[Tensor]) -> None:
        """Count convolutions and matrix products over more than one position."""
        shape = tuple(outputs[0].shape) if outputs else ()
        self.products += _WHOLE_LAYERS.get(name, 0)
        self._learned |= name == "convolution" or name in _PRODUCTS
        if name == "convolution":
            self.products += prod(shape[2:]) > 1
        elif name in _PRODUCTS:
            rows = (
                shape[-2] * self._batch if len(shape) > 2 and name != "linear" else prod(shape[:-1])
            )
            self.products += rows > self._batch
        elif name.startswith("_scaled_dot_product"):
            self.products += 2 * (shape[-2] > 1)


def _memory(tensor: Tensor) -> StorageWeakRef:
    """Return a key that all tensors in the same memory share, and that is never used again."""
    return StorageWeakRef(tensor.untyped_storage())


def _key(tensor: Tensor) -> tuple:
    """Return a key that all tensor objects of a view share, and that is never used again."""
    # autograd makes new objects for views, so the object's identity cannot be the key
    return _memory(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


def _classify_reader(name: str, args, kwargs) -> str:
    """Return the kind of an operation, as in ``AxisTracker.readers``."""
    if "norm" in name and "vector" not in name:
        return "norm"
    low = {"hardtanh": -1.0, "clamp": None, "clamp_min": None}
    if name in low:
        low = args[1] if len(args) > 1 else kwargs.get("min", kwargs.get("min_val", low[name]))
        return "rectifier" if low == 0 else "activation"
    if name in ("relu", "relu6"):
        return "rectifier"
    return "activation" if name in _ACTIVATIONS else "other"
