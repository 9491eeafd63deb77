"""Read layers of a network in passes that may end early, and leave the network unchanged.

In whole passes Captum reads the layers, see ``convlens.explain.captum_layers``, but it cannot end a
pass early. Gradient ascent and measuring receptive fields need that: they run up to a layer
thousands of times, on images of a size that later layers may not accept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from convlens.explain.layouts import Layouts, uncalled_error


class _Stop(Exception):
    """Ends a forward pass early; ``Taps`` always catches it."""


class Taps(dict[str, Tensor]):
    """Layer name -> unchanged output of the layer's last call; filled by ``run``.

    Args:
        layouts: the layouts of the layers to read.
    """

    def __init__(self, layouts: Layouts):
        super().__init__()
        self._layouts = layouts
        self._calls: Counter[str] = Counter()  # calls of each layer in this pass
        self._last_calls: Counter[str] | None = None  # calls after which a pass ends; None: never

    def run(self, images: Tensor):
        """Run one forward pass and return its output, or None if it ended at the last layer."""
        return self._layouts.follow(self._pass, images)

    def _pass(self, images: Tensor):
        self.clear()
        self._calls.clear()
        try:
            return self._layouts.run(images)
        except _Stop:
            return None

    def stop_at_last(self, example: Tensor) -> None:
        """End later passes at the last call of the last layer.

        Args:
            example: ``(1, C, H, W)`` image; one pass of it counts the calls.

        Raises:
            UserError: if a layer was not called.
        """
        self.run(example)
        if uncalled := [name for name in self._layouts.modules if name not in self]:
            raise uncalled_error(uncalled[0], self._layouts.modules[uncalled[0]])
        self._last_calls = self._calls.copy()

    def tap(self, name: str, output) -> Tensor:
        """Store the output of a layer, and return a copy for the network (for a hook)."""
        self._layouts.observe(name, output)
        self[name] = output
        self._calls[name] += 1
        if self._calls == self._last_calls:
            raise _Stop
        return output.clone()

    def channels_first(self, name: str) -> Tensor:
        """Return a view of a layer's output as maps ``(B, C, h, w)`` or features ``(B, C)``.

        Raises:
            UserError: if the output is neither, if the axis of the channels is unknown, or if the
                layer was not called.
        """
        self._layouts.check_called(name)
        return self._layouts.channels_first(name, self[name])


@contextmanager
def record(
    model: nn.Module, layers: Sequence[str], *, example: Tensor | None = None
) -> Iterator[Taps]:
    """Record the outputs of layers inside a ``with`` block.

    The rest of the network gets a *copy* of each recorded output, so that an in-place ReLU after a
    convolution cannot overwrite the convolution's values. If a module is called several times, its
    last call counts. The hooks are removed at the end of the block.

    Args:
        model: the network.
        layers: module paths as in ``model.named_modules()``; their outputs must be tensors.
        example: ``(1, C, H, W)`` image that the whole network accepts. If given, passes end after
            the last call of the last layer, so that they also take images of a size that later
            layers do not accept. One pass of the example counts the calls.

    Yields:
        Mapping of layer name to output; ``taps.run(images)`` runs a forward pass and fills it.

    Raises:
        UserError: if a name is not a module of ``model``, or its output is not a single tensor.
    """
    layouts = Layouts(model, list(layers))
    taps = Taps(layouts)
    with layouts.hook_layers(taps.tap):
        if example is not None:
            taps.stop_at_last(example)
        yield taps
