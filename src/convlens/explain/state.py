"""Restore everything that a network's forward pass may change.

Evaluation mode alone does not prevent changes: layers count their calls, codebooks and memories
are updated, batch normalisation may be called with ``training=True``, dropout may draw numbers.
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
# exactly these types: a subclass may hold more than its items
_CONTAINERS = (list, deque, set, *_DICTS)

_PRESERVED: set[int] = set()  # ids of the networks whose state is currently preserved
# for each network that was compared, the parameters that its own passes write to
_WRITTEN: WeakKeyDictionary[nn.Module, frozenset[str]] = WeakKeyDictionary()


@contextmanager
def preserve_generators(model: nn.Module) -> Iterator[None]:
    """Restore the global random generators of torch, numpy and Python after a ``with`` block.

    Args:
        model: the network; torch's generators of its devices are restored too.
    """
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    with ExitStack() as state:
        state.callback(np.random.set_state, np.random.get_state())
        state.callback(random.setstate, random.getstate())
        state.enter_context(torch.random.fork_rng(devices=[]))
        for kind in {device.type for device in devices} - {"cpu", "meta"}:
            indices = sorted({d.index or 0 for d in devices if d.type == kind})
            state.enter_context(torch.random.fork_rng(devices=indices, device_type=kind))
        yield


@contextmanager
def preserve_state(model: nn.Module) -> Iterator[None]:
    """Run the network on copies of its state inside a ``with`` block, then restore the originals.

    The state is all buffers, persistent or not, and the attributes of every module, including the
    contents of tensors, arrays and plain containers. Afterwards the originals are the same objects
    as before. The original tensors are never written to, so that a graph between a forward and a
    backward pass stays valid.

    Parameters are too large to be copied each time. They are compared once per network. Those that
    its passes write to (such as a codebook's ``weight.data``) are restored, and are part of the
    state from then on. Anything outside the modules (globals, class attributes, files) is not
    restored.

    Args:
        model: the network.

    Raises:
        UserError: if a pass wrote to a parameter that the first one left unchanged.
    """
    if id(model) in _PRESERVED:
        yield
        return
    _PRESERVED.add(id(model))
    is_first = model not in _WRITTEN
    state = _State(model, _WRITTEN.get(model, frozenset()))
    weights = [
        (name, each, _version(each), each.detach().to("cpu", copy=True) if is_first else None)
        for name, each in state.parameters
    ]
    try:
        yield
    finally:
        _PRESERVED.discard(id(model))
        state.restore()
        written = _restore_written(weights)
        if is_first:
            _WRITTEN[model] = frozenset(written)
    if written and not is_first:
        raise UserError(
            f"{type(model).__name__} wrote to its parameter {written[0]} in evaluation mode, "
            f"unlike in earlier passes, so its old values are lost: do not write to it in forward"
        )


def copy_network(model: nn.Module) -> nn.Module:
    """Return a deep copy of the modules and their tensors that shares everything else.

    Other objects are shared because they may refer to much more: a LightningModule refers to its
    trainer, and the trainer to the whole run.
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
    """The original state of a network, which is replaced by copies until ``restore`` is called.

    Args:
        model: the network.
        written: names of the parameters that count as state.

    Attributes:
        parameters: names and values of the parameters that are not copied.
    """

    def __init__(self, model: nn.Module, written: frozenset[str]):
        self.parameters: list[tuple[str, nn.Parameter]] = []
        # pairs of a dictionary, container or tensor in use and its original contents
        self._stores: list[tuple[dict, dict]] = []
        self._contents: list[tuple[list | deque | set | dict, list | deque | set | dict]] = []
        self._scripted: list[tuple[Tensor, Tensor]] = []
        self._copies: dict[int, Tensor | np.ndarray] = {}
        self._seen: set[int] = set()
        for path, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):  # its tensors cannot be replaced
                self._scripted += [(b, b.detach().clone()) for b in module.buffers(recurse=False)]
                continue
            stores = (vars(module), module._buffers, module._parameters, module._modules)
            self._stores += [(store, dict(store)) for store in stores]
            for store in (vars(module), module._buffers):
                for name, value in list(store.items()):
                    if type(value) not in _PLAIN and name not in _OF_TORCH:
                        store[name] = self._replace(value)
            for name, value in module._parameters.items():
                full_name = f"{path}.{name}" if path else name
                if value is None or nn.parameter.is_lazy(value):
                    continue
                if full_name not in written:
                    self.parameters.append((full_name, value))
                else:
                    module._parameters[name] = self._copies.setdefault(
                        id(value), nn.Parameter(value.detach().clone(), value.requires_grad)
                    )

    def _replace(self, value):
        """Return a copy of a tensor or array, and any other value itself.

        A tensor that several attributes share gets one copy. A container stays the same object:
        its contents are remembered and replaced.
        """
        if isinstance(value, np.ndarray):
            return self._copies.setdefault(id(value), value.copy())
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            return self._copies.setdefault(id(value), value.detach().clone())
        if type(value) is tuple:
            is_plain = all(type(item) in _PLAIN for item in value)
            return value if is_plain else tuple(map(self._replace, value))
        if type(value) not in _CONTAINERS or id(value) in self._seen:
            return value
        self._seen.add(id(value))
        self._contents.append((value, copy.copy(value)))
        if not isinstance(value, set):
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            for key, item in list(pairs):
                value[key] = self._replace(item)
        return value

    def restore(self) -> None:
        """Put the originals back in place of the copies."""
        for container, original in self._contents:
            container.clear()
            (container.update if isinstance(container, (dict, set)) else container.extend)(original)
        for store, original in self._stores:
            if list(store) != list(original):
                store.clear()
            store.update(original)
        for tensor, values in self._scripted:
            if not _are_equal(tensor, values):
                tensor.data.copy_(values)


def _restore_written(weights: list[tuple[str, nn.Parameter, int, Tensor | None]]) -> list[str]:
    """Return the names of parameters that were written to, and restore their values if known.

    Args:
        weights: for each parameter its name, the parameter, its version before, and its values
            before or None.
    """
    written = [
        (name, parameter, values)
        for name, parameter, version, values in weights
        if _version(parameter) != version
        or (values is not None and not _are_equal(parameter.detach().cpu(), values))
    ]
    for _, parameter, values in written:  # after all comparisons: names may share a parameter
        if values is not None:
            parameter.data.copy_(values)
    return [name for name, _, _ in written]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _are_equal(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one, other) or torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
