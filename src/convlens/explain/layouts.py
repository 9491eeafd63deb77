"""How the outputs of layers are to be read: found out once for each network, then remembered.

Captum and hooks hand on what a layer gives; which of its axes holds the channels neither can tell.

Shapes: ``B`` batch, ``C`` channels, ``H W`` height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.explain.axes import AxisTracker, Layout

Found = TypeVar("Found")


@dataclass(frozen=True)
class _Known:
    """What one pass told of a layer; it holds as long as the network's code does."""

    module: ref[nn.Module]
    rank: int
    channels: int | None
    layout: Layout
    readers: frozenset[str]

    def fits(self, module: nn.Module, shape: torch.Size) -> bool:
        if self.module() is not module or len(shape) != self.rank:
            return False
        order = self.layout.order
        return order is None or shape[order[1]] == self.channels


# beside the networks, not in them: they are copied and saved without
_KNOWN: WeakKeyDictionary[nn.Module, dict[str, _Known]] = WeakKeyDictionary()


class Layouts:
    """How the outputs of named layers are to be read, after a pass that :meth:`follow` made.

    Whoever hooks the layers shows each output to ``observe``. The image's axes are followed through
    the first pass of a network, see :mod:`convlens.explain.axes`; later passes go without, as long
    as their outputs fit what is known.

    Attributes:
        model: the network.
        modules: layer name -> the module.

    Raises:
        UserError: a name that is no module of ``model``.
    """

    def __init__(self, model: nn.Module, layers: list[str]):
        self.model = model
        self.modules = {name: find_module(model, name) for name in layers}
        # what each layer gave in this pass, and how to read it where the axes are followed
        self._seen: dict[str, tuple[torch.Size, Layout | None]] = {}
        self._tracker: AxisTracker | None = None
        self._known: dict[str, _Known] = {}

    def observe(self, name: str, output) -> None:
        """To be called with each output of each layer, before anything else gets it.

        Raises:
            UserError: the output is not one tensor.
        """
        if not isinstance(output, Tensor):
            raise UserError(
                f"layer {name!r} returns a {type(output).__name__}, not one tensor: "
                "name a layer inside it or after it"
            )
        self._seen[name] = output.shape, self._tracker and self._tracker.layout(output)
        if self._tracker is not None:
            self._tracker.watch(name, output)

    def follow(self, forward: Callable[[Tensor], Found], images: Tensor) -> Found:
        """What ``forward`` makes of ``images`` in a pass of the network.

        It is called again where what is known of the layers does not fit.

        Args:
            forward: calls :meth:`run` or :meth:`run_whole`; None of it says that the pass was cut.
            images: ``(B, C, H, W)``.
        """
        for known in (self._known, _KNOWN.get(self.model, {})):
            if self.modules.keys() <= known.keys():
                found = self._pass(forward, images)
                seen = self._seen.items()
                if all(known[name].fits(self.modules[name], shape) for name, (shape, _) in seen):
                    self._known = {name: known[name] for name in self.modules}
                    return found
        self._tracker = AxisTracker(images)
        try:
            found = self._pass(forward, images)
            self._known = {name: self._learn(name) for name in self._seen}
        finally:
            self._tracker = None
        if found is not None:  # else what reads the outputs was not seen
            _KNOWN.setdefault(self.model, {}).update(self._known)
        return found

    def _pass(self, forward: Callable[[Tensor], Found], images: Tensor) -> Found:
        self._seen.clear()
        return forward(images)

    def _learn(self, name: str) -> _Known:
        shape, layout = self._seen[name]
        channels = None if layout.order is None else shape[layout.order[1]]
        readers = frozenset(self._tracker.readers[name])
        return _Known(ref(self.modules[name]), len(shape), channels, layout, readers)

    def hook_layers(self, hook: Callable[[str, Any], Tensor | None]) -> ExitStack:
        """Each output of each layer goes through ``hook`` with the layer's name, in a ``with``."""
        hooks = ExitStack()
        for name, module in self.modules.items():
            handle = module.register_forward_hook(lambda *call, name=name: hook(name, call[-1]))
            hooks.enter_context(handle)
        return hooks

    def run(self, images: Tensor):
        """The network's output; for ``forward`` of :meth:`follow`."""
        # the axes of what happens to the outputs later are nobody's business
        with self._tracker or nullcontext():
            return self.model(images)

    def run_whole(self, images: Tensor):
        """The network's output, in which every layer has been called.

        Raises:
            UserError: one was not.
        """
        output = self.run(images)
        for name in self.modules:
            self._check_called(name)
        return output

    def _check_called(self, name: str) -> None:
        if name not in self._seen:
            raise UserError(f"layer {name!r} is never called: choose another")

    def layout(self, name: str) -> Layout:
        """How the output of a layer is to be read.

        Raises:
            UserError: the layer was not called.
        """
        self._check_called(name)
        return self._known[name].layout

    def channels_first(self, name: str, output: Tensor) -> Tensor:
        """The output of a layer as maps ``(B, C, h, w)`` or features ``(B, C)``, a view of it.

        Raises:
            UserError: it is neither, or nobody can know which axis holds the channels; or the
                layer was not called.
        """
        layout = self.layout(name)
        if layout.order is None:
            raise UserError(f"layer {name!r} {layout.reason}: choose another layer")
        return output.permute(layout.order)

    def readers(self, name: str) -> frozenset[str]:
        """What reads the layer's output: see :attr:`AxisTracker.readers`. After a whole pass."""
        return self._known[name].readers


def find_module(model: nn.Module, name: str) -> nn.Module:
    """The module of that path, or a UserError with the nearest paths."""
    modules = dict(model.named_modules(remove_duplicate=False))
    if not name or name not in modules:
        known = [path for path in modules if path]
        raise UserError(f"no layer {name!r} in {type(model).__name__}: {nearest(name, known)}")
    return modules[name]
