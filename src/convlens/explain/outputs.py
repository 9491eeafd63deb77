"""What a network's outputs are: one row an image, and logits, whatever layer the network ends in.

Explanations and probabilities are computed from logits. A network may end in a softmax instead; its
answers are then read before it, which gives the same probabilities and gradients that do not
vanish where the network is sure. What the outputs are is known from the network or said, never
guessed: see :class:`OutputReader`.

Shapes: ``B`` batch, ``K`` outputs an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode

from convlens.core.errors import UserError, nearest

OUTPUTS = ("auto", "logits", "probabilities")
_MODULES = {
    nn.Softmax: "softmax", nn.Softmax2d: "softmax", nn.LogSoftmax: "log_softmax",
    nn.Sigmoid: "sigmoid",
}  # fmt: skip
_FUNCTIONS = {
    "softmax": "softmax", "special_softmax": "softmax", "log_softmax": "log_softmax",
    "special_log_softmax": "log_softmax", "sigmoid": "sigmoid", "special_expit": "sigmoid",
}  # fmt: skip
_NODES = {
    "SoftmaxBackward0": "softmax", "LogSoftmaxBackward0": "log_softmax",
    "SigmoidBackward0": "sigmoid",
}  # fmt: skip
# what leaves values as they are, between such a function and the network's output
_PASSING = (
    "View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Clone", "Alias", "ToCopy",
    "BackwardHookFunction",
)  # fmt: skip
_CLOSE, _CLOSE_IN_HALF = 1e-5, 1e-2  # how far a sum of probabilities may be from 1
_SAY = "say outputs=probabilities if they are, outputs=logits if not (an argument of wrap, watch"
_SAY = f"{_SAY} and explain.answering)"


@dataclass(frozen=True)
class _Call:
    """A softmax, log-softmax or sigmoid that was called.

    Attributes:
        kind: one of these three.
        name: as a person finds it in the network.
        dim: the softmax's axis; None for a sigmoid.
        given, made: its input and its output.
    """

    kind: str
    name: str
    dim: int | None
    given: Tensor
    made: Tensor


class OutputReader:
    """Reads logits from a network's outputs; entered before the network is called.

    Args:
        model: the network.
        outputs: ``auto``: logits, unless the network ends in a Softmax, LogSoftmax or Sigmoid
            module; outputs that look like probabilities otherwise are refused. ``logits``: as they
            are. ``probabilities``: probabilities or their logarithms, made by whatever.
        classes: how many there are, ``K``, or 2 for one output; None where nobody knows.

    Attributes:
        note: what a reader of the explanations should know of the outputs; None for logits.

    Raises:
        UserError: another value of ``outputs``.
    """

    def __init__(self, model: nn.Module, outputs: str = "auto", classes: int | None = None):
        if outputs not in OUTPUTS:
            raise UserError(f"outputs={outputs}: {nearest(str(outputs), OUTPUTS)}")
        self._model, self._outputs, self._classes = model, outputs, classes
        self._hooks = ExitStack()
        self._last: _Call | None = None
        self.note: str | None = None

    def __enter__(self) -> OutputReader:
        for name, module in self._model.named_modules() if self._outputs != "logits" else ():
            kind = next((k for each, k in _MODULES.items() if isinstance(module, each)), None)
            if kind:
                called = f"{type(module).__name__} ({name})" if name else type(module).__name__

                def note(module, given, made, kind=kind, called=called):
                    dim = -3 if isinstance(module, nn.Softmax2d) else getattr(module, "dim", None)
                    self._last = _Call(kind, called, dim, given[0], made)

                self._hooks.callback(module.register_forward_hook(note).remove)
        return self

    def __exit__(self, *_) -> None:
        self._hooks.close()
        self._last = None

    def watching(self) -> TorchFunctionMode | None:
        """Around a pass: softmaxes that are called as functions are noticed too, if it is said that
        there is one; noticing them takes time at every operation."""
        return _Functions(self) if self._outputs == "probabilities" else None

    def logits(self, output, count: int) -> Tensor:
        """Logits ``(B, K)``, or ``(B, 1)`` of one logit an image, from the output of a pass.

        Args:
            output: what the network returned.
            count: ``B`` images that it was given.

        Raises:
            UserError: an output of another shape; probabilities that are no such thing, that
                nobody has spoken of, or of several classes at once.
        """
        rows = output_rows(output, count, self._classes)
        call, self._last = self._last, None
        if self._outputs == "logits":
            return rows
        if call is not None and _same(call.made, rows):
            return self._before(call, rows)
        if isinstance(self._model, tuple(_MODULES)):  # it is the softmax itself
            return self._logarithms(rows)
        if self._outputs == "auto":
            _refuse_probabilities(rows)
            return rows
        return self._logarithms(rows)

    def _before(self, call: _Call, rows: Tensor) -> Tensor:
        """What the network's last layer was given, as the rows of logits that it is."""
        if call.kind == "sigmoid":
            if rows.shape[1] > 1:
                raise _several(call.name, rows)
        elif not _over_classes(call, rows):
            raise UserError(
                f"{call.name} runs over axis {call.dim} of {tuple(call.given.shape)}, which is not "
                f"that of the {rows.shape[1]} outputs: give it dim=1 after flattening"
            )
        self.note = (
            f"the network ends in {call.name}: its probabilities are used as they are, gradients "
            f"are taken before it"
        )
        return call.given.reshape(rows.shape)

    def _logarithms(self, rows: Tensor) -> Tensor:
        """Of probabilities whose making nobody saw; a softmax turns them into the same again."""
        how = _looks(rows)
        one = rows.shape[1] == 1 and bool(((rows >= 0) & (rows <= 1)).all())
        if how is None and not one:
            sums = rows.detach().sum(1)
            raise UserError(
                f"outputs=probabilities: the outputs are not probabilities: they lie in "
                f"[{float(rows.min()):.3g}, {float(rows.max()):.3g}] and their rows sum to "
                f"{float(sums.min()):.3g} to {float(sums.max()):.3g}; say outputs=logits if "
                f"that is what they are"
            )
        self.note = (
            "the outputs are used as probabilities; no softmax was found that made them, gradients "
            "are those of their logarithms"
        )
        if how == "log_softmax":
            return rows
        rows = rows.clamp_min(torch.finfo(rows.dtype).tiny)
        return torch.logit(rows, eps=torch.finfo(rows.dtype).eps) if one else rows.log()


def _hooks_of(model: nn.Module) -> tuple[Callable, Callable]:
    """What registers a hook before and behind each call of ``model``.

    A scripted module takes no hooks of its own; those that torch keeps for all modules reach it.
    """
    if not isinstance(model, torch.jit.ScriptModule):
        return model.register_forward_pre_hook, model.register_forward_hook

    def only(hook: Callable) -> Callable:
        return lambda module, *given: hook(module, *given) if module is model else None

    def before(hook: Callable):
        return register_module_forward_pre_hook(only(hook))

    def behind(hook: Callable, **options):
        return register_module_forward_hook(only(hook), **options)

    return before, behind


@contextmanager
def answering(
    model: nn.Module, outputs: str = "auto", classes: int | None = None
) -> Iterator[OutputReader]:
    """The network answers with logits ``(B, K)`` or ``(B, 1)`` while this lasts.

    Nothing of it stays. Inside another such context of the same network that one counts.

    Args:
        outputs, classes: see :class:`OutputReader`.

    Raises:
        UserError: from a pass of the network, see :meth:`OutputReader.logits`.
    """
    if model in _IN_FORCE:
        yield _IN_FORCE[model]
        return
    reader = OutputReader(model, outputs, classes)
    modes: list[TorchFunctionMode] = []

    def before(module, given) -> None:
        if (mode := reader.watching()) is not None:
            modes.append(mode.__enter__())

    def after(module, given, output) -> None:
        if modes:
            modes.pop().__exit__(None, None, None)

    def read(module, given, output) -> Tensor:
        return reader.logits(output, len(given[0]))

    with ExitStack() as stack:
        stack.enter_context(reader)
        before_call, after_call = _hooks_of(model)
        stack.callback(before_call(before).remove)
        # also behind a pass that ends in an exception
        stack.callback(after_call(after, always_call=True).remove)
        stack.callback(after_call(read).remove)
        _IN_FORCE[model] = reader
        stack.callback(_IN_FORCE.pop, model, None)
        yield reader


def check_outputs(model: nn.Module, images: Tensor) -> tuple[Tensor, str | None]:
    """One pass that tells what the outputs are: the logits, and the line to say of them or None.

    To be called inside :func:`answering` and :func:`convlens.explain.taps.explaining`.

    Args:
        images: ``(B, C, H, W)``, ready for the network. With a graph through them a softmax or
            sigmoid that is a call of a function, not a module, shows too.

    Raises:
        UserError: see :meth:`OutputReader.logits`.
    """
    with torch.enable_grad():
        logits = model(images.detach().clone().requires_grad_())
    return logits.detach(), _IN_FORCE[model].note


def output_rows(output, count: int, classes: int | None = None) -> Tensor:
    """A network's output for ``count`` images as ``(B, K)``, or ``(B, 1)`` of one output an image.

    Axes of length one behind the second are dropped; one image's row is understood without the
    batch's axis, which a final ``squeeze()`` takes away.

    Raises:
        UserError: no tensor, or one of another shape.

    >>> output_rows(torch.zeros(2), 1).shape, output_rows(torch.zeros(2), 2).shape
    (torch.Size([1, 2]), torch.Size([2, 1]))
    """
    if not isinstance(output, Tensor):
        raise UserError(
            f"the network returns a {type(output).__name__}, not a tensor of logits (B, K): name "
            f"the part that returns one, or return the logits alone"
        )
    shape = tuple(output.shape)
    if output.dim() and len(output) == count and all(side == 1 for side in shape[2:]):
        rows = output.reshape(count, -1)
    elif count == 1 and output.dim() < 2:
        rows = output.reshape(1, -1)
    else:
        raise UserError(
            f"the network returns {shape} for {count} images: logits (B, K), one row an image, or "
            f"(B,) are expected"
        )
    found = rows.shape[1]
    if not found or not (classes is None or found == classes or (found == 1 and classes == 2)):
        raise UserError(
            f"the network gives {found} outputs per image, but there are {classes} classes: one "
            f"output for each is expected, or one for two classes"
        )
    return rows


class _Functions(TorchFunctionMode):
    """Notices calls of softmax and its like, modules' too."""

    def __init__(self, reader: OutputReader):
        super().__init__()
        self._reader = reader

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        kind = _FUNCTIONS.get(name)
        if kind and isinstance(made, Tensor) and args and isinstance(args[0], Tensor):
            dim = None if kind == "sigmoid" else kwargs.get("dim", (*args, None)[1])
            self._reader._last = _Call(kind, f"a call of {name}", dim, args[0], made)
        return made


def _same(made: Tensor, rows: Tensor) -> bool:
    """Whether the rows are the very numbers that a function made, in whatever shape."""
    if made.numel() != rows.numel():
        return False
    return torch.equal(made.detach().flatten().to(rows.dtype), rows.detach().flatten())


def _over_classes(call: _Call, rows: Tensor) -> bool:
    count, outputs = rows.shape
    shape = call.given.shape
    dim = call.dim
    if dim is None:  # torch's own reading of a softmax without an axis
        dim = 0 if len(shape) in (0, 1, 3) else 1
    dim %= max(len(shape), 1)
    batch_first = dim > 0 or (len(shape) == 1 and count == 1)
    return outputs > 1 and batch_first and shape[dim] == outputs


def _looks(rows: Tensor) -> str | None:
    """``softmax`` or ``log_softmax`` where every row has the values of one; else None."""
    if rows.shape[1] < 2 or not rows.is_floating_point():
        return None
    close = _CLOSE if rows.dtype in (torch.float32, torch.float64) else _CLOSE_IN_HALF
    rows = rows.detach().float() if close == _CLOSE_IN_HALF else rows.detach()
    near = rows.new_tensor(close)
    share = (rows >= 0).all() & (rows <= 1 + near).all() & ((rows.sum(1) - 1).abs() <= near).all()
    logarithm = (rows <= near).all() & (rows.logsumexp(1).abs() <= near).all()
    share, logarithm = torch.stack([share, logarithm]).tolist()
    return "softmax" if share else "log_softmax" if logarithm else None


def _refuse_probabilities(rows: Tensor) -> None:
    """Refuse outputs that a softmax or sigmoid seems to have made."""
    made = _made_by(rows)
    if made == "sigmoid" and rows.shape[1] > 1:
        raise _several("a sigmoid", rows)
    if made is None and (made := _looks(rows)) is None:
        return
    why = {
        "sigmoid": "a sigmoid has made them",
        "softmax": "each row lies in [0, 1] and sums to 1",
        "log_softmax": "each row is at most 0, and its exponentials sum to 1",
    }[made]
    what = "logarithms of probabilities" if made == "log_softmax" else "probabilities"
    raise UserError(f"the network's outputs look like {what}, not logits ({why}): {_SAY}")


def _made_by(rows: Tensor) -> str | None:
    """Which of the three functions made the rows, as far as a graph tells."""
    node = rows.grad_fn
    while node is not None:
        name = node.name()
        if name in _NODES:
            return _NODES[name]
        if not name.startswith(_PASSING):
            return None
        node = node.next_functions[0][0] if node.next_functions else None
    return None


def _several(what: str, rows: Tensor) -> UserError:
    return UserError(
        f"the network ends in {what} with {rows.shape[1]} outputs, each a yes or no of its own "
        f"(multi-label): explanations need one class out of several; give a network that ends "
        f"in one logit a class, or in one output for two classes"
    )


_IN_FORCE: WeakKeyDictionary[nn.Module, OutputReader] = WeakKeyDictionary()
