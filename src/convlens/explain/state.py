"""Whatever a network's pass may move, as it was before.

Evaluation mode alone does not keep a network still: layers count their calls, codebooks and
memories move, batch normalisation may be called with ``training=True``, dropout may draw.
"""

from __future__ import annotations

import copy
import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from convlens.core.errors import UserError

_OF_TORCH = frozenset(vars(nn.Module()))
_DICTS = (dict, OrderedDict, defaultdict, Counter)
_PLAIN = (type(None), bool, int, float, str)
_CONTAINERS = (list, deque, set, *_DICTS)  # these very types: others may be more than their items

_kept: set[int] = set()  # networks whose state is being kept, by id
# parameters that a network's own passes were seen to write to
_written: WeakKeyDictionary[nn.Module, frozenset[str]] = WeakKeyDictionary()


@contextmanager
def preserve_generators(model: nn.Module) -> Iterator[None]:
    """The global generators of torch (the network's devices too), numpy and Python, put back."""
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    with ExitStack() as state:
        state.callback(np.random.set_state, np.random.get_state())
        state.callback(random.setstate, random.getstate())
        state.enter_context(torch.random.fork_rng(devices=[]))
        for kind in {device.type for device in devices} - {"cpu", "meta"}:
            numbers = sorted({d.index or 0 for d in devices if d.type == kind})
            state.enter_context(torch.random.fork_rng(devices=numbers, device_type=kind))
        yield


@contextmanager
def preserve_state(model: nn.Module) -> Iterator[None]:
    """The network works on copies of what it may move, and gets its own back afterwards.

    That is: buffers, whether persistent or not; the attributes of every module; tensors, arrays and
    plain containers among them with their contents. The originals are the very same objects
    afterwards, and tensors were not even written to, so that a graph between a forward and a
    backward pass notices nothing.

    Parameters are too large to be copied each time. They are compared once for each network; those
    that its passes write to (a codebook's ``weight.data``) are put back, and count among the
    state from then on. What lies outside the modules (globals, class attributes, files) is beyond
    reach.

    Raises:
        UserError: a parameter was written to that had been left alone before.
    """
    if id(model) in _kept:
        yield
        return
    _kept.add(id(model))
    first = model not in _written
    before = _State(model, _written.get(model, frozenset()))
    weights = [
        (name, each, _version(each), each.detach().to("cpu", copy=True) if first else None)
        for name, each in before.parameters
    ]
    try:
        yield
    finally:
        _kept.discard(id(model))
        before.put_back()
        moved = _moved(weights)
        if first:
            _written[model] = frozenset(moved)
    if moved and not first:
        raise UserError(
            f"{type(model).__name__} wrote to its parameter {moved[0]} while it ran in "
            f"evaluation mode, which it had not done before: the old values are lost; change its "
            f"forward so that it leaves parameters alone"
        )


def copy_network(model: nn.Module) -> nn.Module:
    """A deep copy of the modules and their tensors; what else they refer to, they share.

    A LightningModule refers to its trainer, and that to everything.
    """
    copied = (nn.Module, Tensor, *_CONTAINERS, *_PLAIN)
    shared = {
        id(value): value
        for module in model.modules()
        for value in vars(module).values()
        if not isinstance(value, copied)
    }
    return copy.deepcopy(model, shared)


class _State:
    """What was where before, and copies in its place.

    Attributes:
        parameters: names and parameters for which no copy stands in.
    """

    def __init__(self, model: nn.Module, written: frozenset[str]):
        self.parameters: list[tuple[str, nn.Parameter]] = []
        self._stores: list[tuple[dict, dict]] = []
        self._contents: list[tuple[list | deque | set | dict, list | deque | set | dict]] = []
        self._scripted: list[tuple[Tensor, Tensor]] = []
        self._copies: dict[int, Tensor | np.ndarray] = {}
        self._seen: set[int] = set()
        for path, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):  # its tensors cannot be exchanged
                self._scripted += [(b, b.detach().clone()) for b in module.buffers(recurse=False)]
                continue
            stores = (vars(module), module._buffers, module._parameters, module._modules)
            self._stores += [(store, dict(store)) for store in stores]
            for store in (vars(module), module._buffers):
                for name, value in list(store.items()):
                    if type(value) not in _PLAIN and name not in _OF_TORCH:
                        store[name] = self._stand_in(value)
            for name, value in module._parameters.items():
                where = f"{path}.{name}" if path else name
                if value is None or nn.parameter.is_lazy(value):
                    continue
                if where not in written:
                    self.parameters.append((where, value))
                else:
                    module._parameters[name] = self._copies.setdefault(
                        id(value), nn.Parameter(value.detach().clone(), value.requires_grad)
                    )

    def _stand_in(self, value):
        """A copy of a tensor or an array, of a shared one always the same; else the value, whose
        contents, if it is a container, are noted."""
        if isinstance(value, np.ndarray):
            return self._copies.setdefault(id(value), value.copy())
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            return self._copies.setdefault(id(value), value.detach().clone())
        if type(value) is tuple:
            plain = all(type(item) in _PLAIN for item in value)
            return value if plain else tuple(map(self._stand_in, value))
        if type(value) not in _CONTAINERS or id(value) in self._seen:
            return value
        self._seen.add(id(value))
        self._contents.append((value, copy.copy(value)))
        if not isinstance(value, set):
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            for key, item in list(pairs):
                value[key] = self._stand_in(item)
        return value

    def put_back(self) -> None:
        for container, before in self._contents:
            container.clear()
            (container.update if isinstance(container, (dict, set)) else container.extend)(before)
        for store, before in self._stores:
            if list(store) != list(before):
                store.clear()
            store.update(before)
        for tensor, before in self._scripted:
            if not _same(tensor, before):
                tensor.data.copy_(before)


def _moved(weights: list[tuple[str, nn.Parameter, int, Tensor | None]]) -> list[str]:
    """Names of parameters that were written to; the values are put back where they are known.

    Args:
        weights: name, parameter, its version before, and its values or None.
    """
    found = [
        (name, parameter, values)
        for name, parameter, version, values in weights
        if _version(parameter) != version
        or (values is not None and not _same(parameter.detach().cpu(), values))
    ]
    for _, parameter, values in found:  # after all comparisons: names may share a parameter
        if values is not None:
            parameter.data.copy_(values)
    return [name for name, _, _ in found]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one, other) or torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
