"""Reading layers of a network that need not run to its end, without leaving a trace in it.

Where a whole pass is made, Captum reads the layers, see :mod:`convlens.explain.captum_layers`. It
has nothing that ends a pass early, which pictures that climb or fields that are measured want: they
pass a layer thousands of times, on canvases that the rest of the network could not take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.explain.layouts import Layouts


class _Stop(Exception):
    """Ends a forward pass early; never leaves :meth:`Taps.run`."""


class Taps(dict[str, Tensor]):
    """Layer name -> output of its last call, as the layer gives it; filled by :meth:`run`."""

    def __init__(self, layouts: Layouts):
        super().__init__()
        self._layouts = layouts
        self._seen: Counter[str] = Counter()  # calls of each layer in this pass
        self._last: Counter[str] | None = None  # and those with which a pass ends; None: at its end

    def run(self, images: Tensor):
        """One forward pass; its output, or None where the pass was stopped at the last layer."""
        return self._layouts.follow(self._pass, images)

    def _pass(self, images: Tensor):
        self.clear()
        self._seen.clear()
        try:
            return self._layouts.run(images)
        except _Stop:
            return None

    def stop_at_last(self, example: Tensor) -> None:
        """End passes from now on at the last call of the last layer, which one with ``example``
        finds out."""
        self.run(example)
        if silent := [name for name in self._layouts.modules if name not in self]:
            raise UserError(
                f"layer {silent[0]!r} is never called in a forward pass: choose another"
            )
        self._last = self._seen.copy()

    def tap(self, name: str, output) -> Tensor:
        """A hook's work: keep the output of a layer, and hand a copy on."""
        self._layouts.observe(name, output)
        self[name] = output
        self._seen[name] += 1
        if self._seen == self._last:
            raise _Stop
        return output.clone()

    def channels_first(self, name: str) -> Tensor:
        """The output of a layer as maps ``(B, C, h, w)`` or features ``(B, C)``, a view of it.

        Raises:
            UserError: it is neither, or nobody can know which axis holds the channels; or the
                layer was not called.
        """
        return self._layouts.channels_first(name, self.get(name))


@contextmanager
def record(
    model: nn.Module, layers: Sequence[str], *, example: Tensor | None = None
) -> Iterator[Taps]:
    """Tap the outputs of the named ``layers`` while the ``with`` lasts; the hooks go with it.

    Yields a :class:`Taps` mapping: ``taps.run(images)`` makes a forward pass and fills it. What the
    network computes further on gets a *copy* of every tapped output, so an in-place ReLU after a
    convolution cannot overwrite the convolution's values. A module that is called several times
    reports its last call.

    Args:
        layers: module paths as in ``model.named_modules()``; their outputs must be tensors.
        example: ``(1, C, H, W)`` picture the whole network can take. If given, passes end once
            every layer has made its last call, so that pictures fit which the rest of the network
            could not take; one pass of the example counts the calls.

    Raises:
        UserError: a name that is no module of ``model``, or whose output is not one tensor.
    """
    layouts = Layouts(model, list(layers))
    taps = Taps(layouts)
    with layouts.hook_layers(taps.tap):
        if example is not None:
            taps.stop_at_last(example)
        yield taps
