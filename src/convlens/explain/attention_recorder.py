"""Compute fused attention by its definition, and record the weights of every attention.

Shapes: ``B`` images, ``N`` queries, ``M`` keys, ``C`` channels, ``n`` positions of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from convlens.explain.axes import AxisTracker, Tokens
from convlens.explain.axis_rules import CHANNELS, get_labels
from convlens.explain.windows import Windows, find_windows

_SOFTMAXES = {"softmax", "special_softmax"}
_PRODUCTS = {"matmul", "__matmul__", "bmm"}
# what networks do between the softmax and the product, without changing a weight
_PASSING = {"dropout", "view", "reshape", "flatten", "unflatten", "to", "type_as", "contiguous",
            "clone", "expand", "float", "half", "double", "squeeze", "unsqueeze"}  # fmt: skip


@dataclass(frozen=True)
class Places:
    """Where the queries and keys of one attention lie on the image.

    Attributes:
        queries: axis of the queries; None in windows and for a single query without a place.
        keys: axis of the keys; None in windows.
        windows: windows of the keys; None if each query sees the keys of a whole image.
        shape: ``(B, heads, N, M)`` if each query sees the keys of a whole image.
        reason: why nothing is known of it, for error messages.
    """

    queries: Tokens | None = None
    keys: Tokens | None = None
    windows: Windows | None = None
    shape: tuple[int, ...] | None = None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Recorded:
    """The weights of one attention in one pass.

    Attributes:
        layer: path of the module that computes it; "path[2]" for its second call.
        weights: ``(…, N, M)`` in the order of the network; on the path to the output.
        places: where queries and keys lie.
    """

    layer: str
    weights: Tensor
    places: Places


@dataclass(frozen=True, eq=False)
class Block:
    """The part of the network around one attention.

    Attributes:
        name: path of the largest module that contains this attention and no other.
        output: what it returned.
    """

    name: str
    output: Tensor | tuple | list


# for each network and shape of images: layers and shapes of the weights, and their places
_PLACES: WeakKeyDictionary[nn.Module, dict[tuple, tuple[tuple, tuple[Places, ...]]]] = (
    WeakKeyDictionary()
)


class Recorder(TorchFunctionMode):
    """Records the attention of the passes that ``run`` makes.

    Fused attention is replaced by its definition, and only in these passes. Attention that a
    network writes out itself is recognised by what it does: a softmax over the last axis whose
    result is multiplied with values.

    Args:
        model: the network. Its modules must call ``enter`` and ``leave`` by hooks.

    Attributes:
        found: the attentions of the last pass, in their order.
        blocks: for each of them its block; None if no module contains it alone.
        unread: paths of modules with a softmax over the last of three or more axes that is not
            multiplied with values, so that it is not known what it mixes.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.found: list[Recorded] = []
        self.blocks: list[Block | None] = []
        self.unread: list[str] = []
        self._tracker: AxisTracker | None = None
        self._running = False
        self._calls: list[tuple[str, int]] = []  # running calls: path, attentions before it
        self._inputs: list[Tensor] = []  # of all modules so far, while places are learned
        # results of a softmax that wait for their product, by id: the result, the weights, whether
        # it is transposed, and the path of the module
        self._waiting: dict[int, tuple[Tensor, Tensor, bool, str]] = {}
        self._matched: set[int] = set()

    def run(self, images: Tensor):
        """Return the network's output for ``images`` ``(B, C, H, W)``, ready for it.

        Where queries and keys lie is learned in the first pass for each shape of images.
        """
        known = _PLACES.setdefault(self.model, {})
        key = tuple(images.shape)
        images = images.detach().requires_grad_()
        places = known.get(key)
        output = self._pass(images, learn=False)
        if places is None and self.found:  # a slower pass, of no use without attention
            output = self._pass(images, learn=True)
        elif places is not None and places[0] != self._signature():
            places, output = None, self._pass(images, learn=True)
        if places is None:
            known[key] = self._signature(), tuple(each.places for each in self.found)
        else:
            pairs = zip(self.found, places[1], strict=True)
            self.found = [Recorded(each.layer, each.weights, place) for each, place in pairs]
        return output

    def _signature(self) -> tuple:
        return tuple((each.layer, tuple(each.weights.shape)) for each in self.found)

    def _pass(self, images: Tensor, learn: bool):
        for store in (self._calls, self._inputs, self.blocks, self.unread, self._waiting):
            store.clear()
        self.found, self._matched, self._running = [], set(), True
        self._tracker = AxisTracker(images) if learn else None
        try:
            with self._tracker or nullcontext(), self:
                output = self.model(images)
            for _, weights, _, path in self._waiting.values():
                if id(weights) not in self._matched and path not in self.unread:
                    self.unread.append(path)
            return output
        finally:
            self._running, self._tracker = False, None
            self._waiting.clear()
            self._inputs.clear()

    def enter(self, path: str, args: Sequence) -> None:
        """Note that a module is called."""
        if not self._running:
            return
        self._calls.append((path, len(self.found)))
        if self._tracker is not None and args and isinstance(args[0], Tensor):
            self._inputs.append(args[0])

    def leave(self, path: str, output) -> None:
        """Note that a module has returned; ``output`` is None after an exception."""
        if not self._running:
            return
        _, before = self._calls.pop()
        if path and output is not None and len(self.found) == before + 1:
            self.blocks[before] = Block(path, output)  # the outermost module returns last

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._attend_heads(func, args, kwargs)
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in _SOFTMAXES and isinstance(result, Tensor) and result.dim() > 2:
            dim = args[1] if len(args) > 1 else kwargs.get("dim")
            if dim in (-1, result.dim() - 1):
                self._waiting[id(result)] = result, result, False, self._path()
        elif self._waiting and args:
            self._follow(name, args, result)
        return result

    def _path(self) -> str:
        return self._calls[-1][0] if self._calls else ""

    def _follow(self, name: str, args: Sequence, result) -> None:
        """Follow the result of a softmax to its product with the values."""
        entries = [self._waiting.get(id(each)) for each in args[:3]]
        if name in _PRODUCTS and len(args) > 1:
            if entries[0] and not entries[0][2]:
                self._match(entries[0][1], args[1])
            elif entries[1] and entries[1][2]:
                self._match(entries[1][1], args[0].transpose(-1, -2))
        elif name == "einsum" and len(args) == 3 and entries[1] and not entries[1][2]:
            terms = args[0].replace(" ", "").split("->")[0].split(",")
            if terms[1][-2:-1] == terms[0][-1:]:
                self._match(entries[1][1], args[2])
        elif entries[0] and isinstance(result, Tensor):
            _, weights, transposed, path = entries[0]
            last = {result.dim() - 1, result.dim() - 2}
            if name in _PASSING and args[0].shape[-2:] == result.shape[-2:]:
                self._waiting[id(result)] = result, weights, transposed, path
            elif name in ("transpose", "swapaxes") and last == {
                each % result.dim() for each in args[1:3]
            }:
                self._waiting[id(result)] = result, weights, not transposed, path

    def _match(self, weights: Tensor, values: Tensor) -> None:
        self._matched.add(id(weights))
        self._add(weights, values)

    def _add(self, weights: Tensor, values: Tensor | None, shape: Sequence[int] = ()) -> None:
        path = self._path()
        calls = sum(each.layer.split("[")[0] == path for each in self.found)
        places = Places()
        if self._tracker is not None:
            places = _find_places(self._tracker, weights, values, self._inputs, shape)
        layer = f"{path}[{calls + 1}]" if calls else path
        self.found.append(Recorded(layer, weights, places))
        self.blocks.append(None)

    def _attend(
        self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None,
        enable_gqa=False,
    ):  # fmt: skip
        """Compute ``F.scaled_dot_product_attention`` by its definition."""
        if enable_gqa:
            repeats = query.shape[-3] // key.shape[-3]
            key, value = (each.repeat_interleave(repeats, -3) for each in (key, value))
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        scores = query * scale @ key.transpose(-1, -2)
        if is_causal:
            sides = scores.shape[-2:]
            attn_mask = torch.ones(sides, dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None:
            if attn_mask.dtype == torch.bool:
                scores = scores.masked_fill(~attn_mask, -torch.inf)
            else:
                scores = scores + attn_mask
        weights = scores.softmax(-1)
        if attn_mask is not None:  # as in fused attention, a query that sees no key reads zeros
            weights = weights.masked_fill((scores == -torch.inf).all(-1, keepdim=True), 0.0)
        self._add(weights, value)
        return F.dropout(weights, dropout_p) @ value if dropout_p else weights @ value

    def _attend_heads(self, func, args, kwargs):
        """Compute ``F.multi_head_attention_forward`` with its weights."""
        wanted, mean = kwargs.get("need_weights", True), kwargs.get("average_attn_weights", True)
        weighing = {**kwargs, "need_weights": True, "average_attn_weights": False}
        output, shown = func(*args, **weighing)
        # a view beside the path to the output: gradients are those of the tensor that it shows
        self._add(shown if shown._base is None else shown._base, None, shown.shape)
        return output, (shown.mean(-3) if mean else shown) if wanted else None


def _find_places(
    tracker: AxisTracker,
    weights: Tensor,
    values: Tensor | None,
    inputs: list[Tensor],
    shape: Sequence[int],
) -> Places:
    """Return where the queries and keys of ``weights`` ``(…, N, M)`` lie.

    Args:
        tracker: knows the axes of all tensors so far.
        weights: the weights.
        values: ``(…, M, C)``; None if not known.
        inputs: inputs of all modules so far, the last one last.
        shape: ``(B, heads, N, M)`` if known.
    """
    axes = tracker.axes(weights)
    if axes is None:
        return Places(reason="attends over axes that cannot be followed")
    if get_labels(axes[-1]) and get_labels(axes[-1]) <= CHANNELS:
        return Places(reason="attends over channels, not over positions")
    # of the values, because queries may be learned vectors, of which nothing is known
    owner = axes if values is None else tracker.axes(values) or axes
    lead = set().union(*(get_labels(axis) for axis in owner[:-2]))
    queries, keys = tracker.tokens(weights, -2), tracker.tokens(weights, -1)
    if keys is not None and lead <= {"B", *CHANNELS}:
        shape = shape or _split_heads(axes[0], weights.shape)
        if shape and (queries is not None or weights.shape[-2] == 1):
            return Places(queries, keys, shape=tuple(shape))
    elif values is not None and values.shape[:-1] == (*weights.shape[:-2], weights.shape[-1]):
        for source in reversed(inputs):
            to_maps = _find_maps(tracker, source)
            if to_maps is not None:
                windows = find_windows(source, to_maps, values)
                if windows is not None:
                    return Places(windows=windows)
                break
    return Places(reason="attends to positions that cannot be placed on the image")


def _find_maps(tracker: AxisTracker, source: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Return the function from a tensor like ``source`` to maps ``(B, C, h, w)``, if it holds any.

    Maps, or tokens that are all patches.
    """
    layout = tracker.layout(source)
    has_others = layout.tokens is not None and (layout.tokens.prefix or layout.tokens.suffix)
    return layout.channels_first if layout.is_map and not has_others else None


def _split_heads(first, shape: torch.Size) -> Sequence[int]:
    """Return ``(B, heads, N, M)`` of weights whose first axis holds images, and heads in 3D."""
    if len(shape) == 4:
        return shape
    batch = [atom.size for atom in first if atom.label == "B"]
    if len(shape) != 3 or len(batch) > 1 or (batch and first[0].label != "B"):
        return ()
    images = batch[0] if batch else 1
    return (images, shape[0] // images, *shape[1:])
