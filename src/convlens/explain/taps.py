"""Reading a network's inner values without leaving a trace in it.

Shapes: ``B`` batch, ``C`` channels, ``H W`` height and width, ``K`` classes, ``L`` layers.

Two context managers do all the work for the rest of the package: :func:`explaining` puts a network
into the state in which it may be looked at, and puts everything back; :func:`record` taps layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.core.evaluation import evaluation_mode
from convlens.explain.axes import AxisTracker, Layout
from convlens.explain.state import kept_generators, kept_state

_NARROW = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class _Known:
    """What one pass told of a layer; it holds as long as the network's code does."""

    module: ref[nn.Module]
    rank: int
    channels: int | None
    layout: Layout
    readers: frozenset[str]

    def fits(self, module: nn.Module, output: Tensor) -> bool:
        if self.module() is not module or output.dim() != self.rank:
            return False
        order = self.layout.order
        return order is None or output.shape[order[1]] == self.channels


# beside the networks, not in them: they are copied and saved without
_KNOWN: WeakKeyDictionary[nn.Module, dict[str, _Known]] = WeakKeyDictionary()


class _Stop(Exception):
    """Ends a forward pass early; never leaves :meth:`Taps.run`."""


class Taps(dict[str, Tensor]):
    """Layer name -> output of its last call, as the layer gives it; filled by :meth:`run`.

    Which axis of an output holds the channels is found out once for each network, by following the
    image's axes through a pass; see :mod:`convlens.explain.axes`.
    """

    def __init__(self, model: nn.Module, modules: Mapping[str, nn.Module]):
        super().__init__()
        self._model, self._modules = model, dict(modules)
        self._seen: dict[str, int] = {}
        self._tracker: AxisTracker | None = None
        self._known: dict[str, _Known] = {}

    def run(self, images: Tensor):
        """One forward pass; its output, or None where the pass was stopped at the last layer."""
        for known in (self._known, _KNOWN.get(self._model, {})):
            if self._modules.keys() <= known.keys():
                output, _ = self._pass(images)
                if all(known[name].fits(self._modules[name], self[name]) for name in self):
                    self._known = {name: known[name] for name in self._modules}
                    return output
        self._tracker = AxisTracker(images)
        try:
            with self._tracker:
                output, whole = self._pass(images)
            self._known = {name: self._told(name) for name in self}
        finally:
            self._tracker = None
        if whole:  # else what reads the outputs was not seen
            _KNOWN.setdefault(self._model, {}).update(self._known)
        return output

    def _pass(self, images: Tensor):
        """The network's output, and whether the pass was a whole one."""
        self.clear()
        self._seen.clear()
        try:
            return self._model(images), True
        except _Stop:
            return None, False

    def _told(self, name: str) -> _Known:
        output, layout = self[name], self._tracker.layout(self[name])
        channels = None if layout.order is None else output.shape[layout.order[1]]
        readers = frozenset(self._tracker.readers[name])
        return _Known(ref(self._modules[name]), output.dim(), channels, layout, readers)

    def layout(self, name: str) -> Layout:
        """How the output of a layer is to be read; after :meth:`run`.

        Raises:
            UserError: the layer was not called.
        """
        if name not in self:
            raise UserError(f"layer {name!r} is never called: choose another")
        return self._known[name].layout

    def channels_first(self, name: str) -> Tensor:
        """The output of a layer as maps ``(B, C, h, w)`` or features ``(B, C)``, a view of it.

        Raises:
            UserError: it is neither, or nobody can know which axis holds the channels; or the
                layer was not called.
        """
        layout = self.layout(name)
        if layout.order is None:
            raise UserError(f"layer {name!r} {layout.reason}: choose another layer")
        return layout.channels_first(self[name])

    def readers(self, name: str) -> frozenset[str]:
        """What reads the layer's output: see :attr:`AxisTracker.readers`. After a whole pass."""
        return self._known[name].readers


@contextmanager
def record(
    model: nn.Module,
    layers: Sequence[str],
    *,
    gradients: bool = False,
    stop_at_last: bool = False,
    example: Tensor | None = None,
) -> Iterator[Taps]:
    """Tap the outputs of the named ``layers`` while the ``with`` lasts; the hooks go with it.

    Yields a :class:`Taps` mapping: ``taps.run(images)`` makes a forward pass and fills it. What the
    network computes further on gets a *copy* of every tapped output, so an in-place ReLU after a
    convolution cannot overwrite the convolution's values. A module that is called several times
    reports its last call.

    Args:
        layers: module paths as in ``model.named_modules()``; their outputs must be tensors.
        gradients: make each tap a point ``torch.autograd.grad`` can be asked for. Where nothing
            before a tap needs a gradient, the graph begins there, and earlier layers cost nothing.
        stop_at_last: end the pass once every layer has made its last call, so that pictures fit
            which the rest of the network could not take. Needs ``example``.
        example: ``(1, C, H, W)`` picture the whole network can take; one pass counts the calls.

    Raises:
        UserError: a name that is no module of ``model``, or whose output is not one tensor.
    """
    modules = {name: find_module(model, name) for name in layers}
    if stop_at_last and example is None:
        raise ValueError("stop_at_last=True needs an example: it tells how often layers are called")
    calls = _count_calls(model, modules, example) if stop_at_last else None
    taps = Taps(model, modules)

    def tap(name: str, output) -> Tensor:
        if not isinstance(output, Tensor):
            raise UserError(
                f"layer {name!r} returns a {type(output).__name__}, not one tensor: "
                "name a layer inside it or after it"
            )
        if gradients and not output.requires_grad:
            output = output.detach().requires_grad_()
        taps[name] = output
        if taps._tracker is not None:
            taps._tracker.watch(name, output)
        if calls is not None:
            taps._seen[name] = taps._seen.get(name, 0) + 1
            if taps._seen == calls:
                raise _Stop
        return output.clone()

    with ExitStack() as hooks:
        for name, module in modules.items():
            handle = module.register_forward_hook(lambda *call, name=name: tap(name, call[-1]))
            hooks.callback(handle.remove)
        yield taps


def find_module(model: nn.Module, name: str) -> nn.Module:
    """The module of that path, or a UserError with the nearest paths."""
    modules = dict(model.named_modules(remove_duplicate=False))
    if not name or name not in modules:
        known = [path for path in modules if path]
        raise UserError(f"no layer {name!r} in {type(model).__name__}: {nearest(name, known)}")
    return modules[name]


def _count_calls(model: nn.Module, modules: Mapping[str, nn.Module], example: Tensor) -> dict:
    calls: dict[str, int] = {}
    with ExitStack() as hooks:
        for name, module in modules.items():

            def count(*_, name=name):
                calls[name] = calls.get(name, 0) + 1

            hooks.callback(module.register_forward_hook(count).remove)
        model(example)
    if silent := [name for name in modules if name not in calls]:
        raise UserError(f"layer {silent[0]!r} is never called in a forward pass: choose another")
    return calls


@contextmanager
def explaining(model: nn.Module) -> Iterator[None]:
    """The state in which a network is explained, whatever state the caller is in.

    Inside: evaluation mode; no inference mode, gradients enabled; autocast off and half-precision
    weights widened, so everything is computed in fp32 (a float64 network stays float64); compiled
    modules run eagerly, because a warm compiled module ignores hooks; parameters need no gradient,
    so graphs begin at the taps. Afterwards all of it is as it was, also after an exception:
    ``.training`` and ``requires_grad`` flags one by one, ``.grad`` untouched, half-precision
    weights the very same tensors; buffers and attributes that its passes move, see
    :func:`convlens.explain.state.kept_state`; and the global generators.
    """
    with ExitStack() as state:
        state.enter_context(torch.inference_mode(False))
        state.enter_context(torch.enable_grad())
        state.enter_context(torch.autocast(device_of(model).type, enabled=False))
        state.enter_context(torch.compiler.set_stance("force_eager"))
        state.enter_context(kept_generators(model))
        state.enter_context(kept_state(model))
        state.enter_context(evaluation_mode(model))
        state.enter_context(_frozen(model))
        state.enter_context(_widened(model))
        yield


@contextmanager
def preprocessing(model: nn.Module, preprocess: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """The network takes what ``preprocess`` makes of its input while this lasts.

    No layer's name changes by it, and nothing of it stays.
    """
    handle = model.register_forward_pre_hook(lambda _, given: (preprocess(given[0]), *given[1:]))
    try:
        yield
    finally:
        handle.remove()


def pick_logits(output, where: str | int | Callable | None, model: nn.Module) -> Tensor:
    """The logits in what a network returns.

    Args:
        output: of ``model``, which is named where that goes wrong.
        where: None: the output itself; a key or attribute (``"logits"``), a place in a tuple, or a
            function of the output.

    Raises:
        UserError: there is no tensor.
    """
    name, kind = type(model).__name__, type(output).__name__
    if callable(where):
        found = where(output)
    elif where is None:
        found = output
    elif isinstance(output, Tensor):
        raise UserError(
            f"{name} returns one tensor in evaluation mode, where logits={where!r} means "
            f"nothing: leave it out, or give a function of the output"
        )
    else:
        try:
            inside = isinstance(where, int) or isinstance(output, Mapping)
            found = output[where] if inside else getattr(output, where)
        except (AttributeError, IndexError, KeyError, TypeError):
            raise UserError(
                f"{name} returns a {kind} without {where!r}: logits={where!r} finds nothing in it"
            ) from None
    if not isinstance(found, Tensor):
        raise UserError(
            f"{name} returns a {type(found).__name__} where the logits should be: say where they "
            f"are with logits=, a key, a place in a tuple, or a function of the output"
        )
    return found


@contextmanager
def picking(model: nn.Module, where: str | int | Callable | None) -> Iterator[None]:
    """The network returns the logits alone while this lasts; see :func:`pick_logits`.

    No layer's name changes by it, and nothing of it stays.
    """
    handle = model.register_forward_hook(lambda _, given, output: pick_logits(output, where, model))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


@contextmanager
def _widened(model: nn.Module) -> Iterator[None]:
    """Half-precision parameters and buffers as fp32, swapped in place and back.

    Swapping ``.data`` needs no deep copy (a LightningModule drags its trainer along) and hands the
    optimiser back the tensors it knows.
    """
    narrow = [t for t in [*model.parameters(), *model.buffers()] if t.dtype in _NARROW]
    before = [(tensor, tensor.data) for tensor in narrow]
    try:
        for tensor, data in before:
            tensor.data = data.float()
        yield
    finally:
        for tensor, data in before:
            tensor.data = data


def device_of(model: nn.Module) -> torch.device:
    """Where the network's first parameter lives; the CPU for a network without parameters."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def dtype_of(model: nn.Module) -> torch.dtype:
    """float64 for a float64 network, else float32: what its explanations are computed in."""
    first = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return torch.float64 if first == torch.float64 else torch.float32


def ready(model: nn.Module, images: Tensor) -> Tensor:
    """``images`` ``(B, C, H, W)`` on the network's device, in its precision, fit for autograd.

    They keep their layout in memory: a network that flattens with ``view`` takes contiguous ones
    only, and convolutions whose weights are channels last hand that on whatever comes in.

    To be called inside :func:`explaining`: a tensor born in inference mode is cloned here, because
    autograd refuses to save it.
    """
    if images.dim() != 4:
        raise ValueError(f"pictures must be (B, C, H, W), got shape {tuple(images.shape)}")
    images = images.detach().to(device_of(model), dtype_of(model))
    return images.clone() if images.is_inference() else images


def chunks(total: int, batch: int | None) -> list[slice]:
    """Slices that cut ``total`` items into parts of at most ``batch`` (None: one part).

    >>> chunks(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, batch or total)
    return [slice(start, min(start + step, total)) for start in range(0, total, step)]
