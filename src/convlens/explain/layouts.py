"""Learn the layouts of layer outputs once per network, and cache them.

Captum and hooks return a layer's output, but not which of its axes holds the channels.

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

Result = TypeVar("Result")


@dataclass(frozen=True)
class _CachedLayout:
    """What one pass revealed about a layer; valid as long as the network's code is unchanged.

    Attributes:
        module: the layer.
        images: shape of the images.
        shape: shape of its output.
        layout: layout of its output.
        readers: kinds of operation that read its output.
    """

    module: ref[nn.Module]
    images: torch.Size
    shape: torch.Size
    layout: Layout
    readers: frozenset[str]

    def matches(self, module: nn.Module, images: torch.Size, shape: torch.Size) -> bool:
        """Return whether the layout holds for an output of this module and shape."""
        if self.module() is not module or len(shape) != len(self.shape):
            return False
        if self.layout.order is not None:  # holds for images of any size
            channels = self.layout.channel_axis
            return shape[channels] == self.shape[channels]
        if self.layout.grid is None:
            return True
        # places of tokens depend on the size of the image, even if their number does not
        batch = self.layout.grid.axes[0]
        return images[1:] == self.images[1:] and all(
            size * self.images[0] == known * images[0] if axis == batch else size == known
            for axis, (size, known) in enumerate(zip(shape, self.shape, strict=True))
        )


# not stored in the networks themselves, which are copied and saved
_CACHE: WeakKeyDictionary[nn.Module, dict[str, _CachedLayout]] = WeakKeyDictionary()


class Layouts:
    """The layouts of the outputs of some layers, known after a pass run by ``follow``.

    Hooks on the layers pass each output to ``observe``. In the first pass of a network the axes of
    the image are tracked, see ``convlens.explain.axes``. Later passes skip this as long as their
    outputs match the cached layouts.

    Args:
        model: the network.
        layers: names of the layers.

    Attributes:
        model: the network.
        modules: layer name -> the module.

    Raises:
        UserError: if a name is not a module of ``model``.
    """

    def __init__(self, model: nn.Module, layers: list[str]):
        self.model = model
        self.modules = {name: find_module(model, name) for name in layers}
        # in this pass, the shape of each layer's output, and its layout if the axes are tracked
        self._seen: dict[str, tuple[torch.Size, Layout | None]] = {}
        self._tracker: AxisTracker | None = None
        self._layouts: dict[str, _CachedLayout] = {}

    def observe(self, name: str, output) -> None:
        """Register an output of a layer; call this before anything else reads the output.

        Args:
            name: name of the layer.
            output: what the layer returned.

        Raises:
            UserError: if the output is not a single tensor.
        """
        if not isinstance(output, Tensor):
            raise UserError(
                f"layer {name!r} returns a {type(output).__name__}, not one tensor: choose a layer "
                "inside it or after it"
            )
        layout = None
        if self._tracker is not None:
            layout = self._tracker.layout(output)
            self._tracker.watch(name, output)
        self._seen[name] = output.shape, layout

    def follow(self, forward: Callable[[Tensor], Result], images: Tensor) -> Result:
        """Return ``forward(images)``, and learn the layouts of the layers from it.

        If cached layouts do not match, ``forward`` is called once more, with the axes tracked.

        Args:
            forward: function that calls ``run`` or ``run_whole``. It returns None if it ended the
                pass early.
            images: ``(B, C, H, W)``.
        """
        for layouts in (self._layouts, _CACHE.get(self.model, {})):
            if self.modules.keys() <= layouts.keys():
                result = self._run_pass(forward, images)
                if all(
                    layouts[name].matches(self.modules[name], images.shape, shape)
                    for name, (shape, _) in self._seen.items()
                ):
                    self._layouts = {name: layouts[name] for name in self.modules}
                    return result
        result = self._track(forward, images)
        if len(images) == 1 and any(each.layout.order is None for each in self._layouts.values()):
            # with a single image, nothing tells the axis of the batch from others of size one
            self._track(forward, images.repeat(2, 1, 1, 1))
            return self._run_pass(forward, images)
        return result

    def _track(self, forward: Callable[[Tensor], Result], images: Tensor) -> Result:
        """Run a pass in which the axes are tracked, and learn the layouts of the layers."""
        self._tracker = AxisTracker(images)
        try:
            result = self._run_pass(forward, images)
            self._layouts = {
                name: self._learn(name, self._tracker, images.shape) for name in self._seen
            }
        finally:
            self._tracker = None
        if result is not None:  # after a pass that ended early, the readers are not known
            _CACHE.setdefault(self.model, {}).update(self._layouts)
        return result

    def _run_pass(self, forward: Callable[[Tensor], Result], images: Tensor) -> Result:
        self._seen.clear()
        return forward(images)

    def _learn(self, name: str, tracker: AxisTracker, images: torch.Size) -> _CachedLayout:
        shape, layout = self._seen[name]
        assert layout is not None, "every layer of a tracked pass has a layout"
        readers = frozenset(tracker.readers[name])
        return _CachedLayout(ref(self.modules[name]), images, shape, layout, readers)

    def hook_layers(self, hook: Callable[[str, Any], Tensor | None]) -> ExitStack:
        """Call ``hook`` with each layer's name and output; closing the stack removes the hooks."""
        hooks = ExitStack()
        for name, module in self.modules.items():
            handle = module.register_forward_hook(lambda *call, name=name: hook(name, call[-1]))
            hooks.enter_context(handle)
        return hooks

    def run(self, images: Tensor):
        """Return the network's output; call this inside the ``forward`` of ``follow``."""
        # the axes are tracked inside the network only, not in what is computed from its output
        with self._tracker or nullcontext():
            return self.model(images)

    def run_whole(self, images: Tensor):
        """Return the network's output like ``run``, and check that every layer was called.

        Raises:
            UserError: if a layer was not called.
        """
        output = self.run(images)
        for name in self.modules:
            self.check_called(name)
        return output

    def check_called(self, name: str) -> None:
        """Raise a UserError if the layer was not called in the last pass."""
        if name not in self._seen:
            raise uncalled_error(name, self.modules[name])

    def layout(self, name: str) -> Layout:
        """Return the layout of a layer's output.

        Raises:
            UserError: if the layer was not called.
        """
        self.check_called(name)
        return self._layouts[name].layout

    def channels_first(self, name: str, output: Tensor) -> Tensor:
        """Return a layer's output as maps ``(B, C, h, w)`` or features ``(B, C)``.

        Patches are put on their grid; tokens without a place in the image are left out. The
        result is a view where the order of the output allows it.

        Args:
            name: name of the layer.
            output: output of the layer.

        Raises:
            UserError: if the output is neither, if the place of the channels or the tokens is
                unknown, or if the layer was not called.
        """
        return self._known(name).channels_first(output)

    def prefix(self, name: str, output: Tensor) -> Tensor:
        """Return the tokens of a layer's output that have no place in the image, ``(B, C, p)``.

        These are class tokens and registers; there are none in maps.

        Args:
            name: name of the layer.
            output: output of the layer.

        Raises:
            UserError: as ``channels_first``.
        """
        return self._known(name).placeless(output)

    def _known(self, name: str) -> Layout:
        layout = self.layout(name)
        if not layout.is_known:
            raise UserError(f"layer {name!r} {layout.reason}: choose another layer")
        return layout

    def readers(self, name: str) -> frozenset[str]:
        """Return the kinds of operation that read a layer's output, see ``AxisTracker.readers``.

        Call this only after a pass that ran to its end.
        """
        return self._layouts[name].readers


def uncalled_error(name: str, module: nn.Module) -> UserError:
    """Return the error for a layer that a forward pass never calls.

    Args:
        name: path of the layer.
        module: the layer.
    """
    if next(module.children(), None) is None:
        return UserError(f"layer {name!r} is never called: choose another")
    kind = type(module).__name__
    return UserError(
        f"layer {name!r} is a {kind} that is never called, only what it holds: choose a layer "
        "inside it"
    )


def find_module(model: nn.Module, name: str) -> nn.Module:
    """Return the module at a path.

    Args:
        model: the network.
        name: path as in ``model.named_modules()``.

    Raises:
        UserError: if there is no such module; the message names the most similar paths.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    if not name or name not in modules:
        paths = [path for path in modules if path]
        raise UserError(f"no layer {name!r} in {type(model).__name__}: {nearest(name, paths)}")
    return modules[name]
