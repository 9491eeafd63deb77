"""What a network's outputs are: one row an image, and logits, whatever layer the network ends in.

Explanations and probabilities are computed from logits. A network may end in a softmax instead; its
answers are then read before it, which gives the same probabilities and gradients that do not
vanish where the network is sure. What the outputs are is known from the network or said, never
guessed: see :class:`OutputReader`.

Shapes: ``B`` batch, ``K`` outputs an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from convlens.core.errors import UserError, nearest
from convlens.explain.softmaxes import (
    MODULES,
    SoftmaxCall,
    SoftmaxFunctions,
    hook_modules,
    looks_like,
    multi_label_error,
    over_classes,
    refuse_probabilities,
    same_values,
)

OUTPUTS = ("auto", "logits", "probabilities")


class OutputReader(ExitStack):
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
        super().__init__()
        self._model, self._outputs, self._classes = model, outputs, classes
        self._last: SoftmaxCall | None = None
        self.note: str | None = None

    def __enter__(self) -> OutputReader:
        if self._outputs != "logits":
            self.callback(self.note_call, None)
            self.enter_context(hook_modules(self._model, self.note_call))
        return super().__enter__()

    def note_call(self, call: SoftmaxCall | None) -> None:
        """A softmax was called; the last one of a pass may have made the output."""
        self._last = call

    def read_logits(self, output, count: int) -> Tensor:
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
        if call is not None and same_values(call.made, rows):
            return self._before(call, rows)
        itself = isinstance(self._model, MODULES)  # the network is the softmax
        if self._outputs == "auto" and not itself:
            refuse_probabilities(rows)
            return rows
        return self._logarithms(rows)

    def _before(self, call: SoftmaxCall, rows: Tensor) -> Tensor:
        """What the network's last layer was given, as the rows of logits that it is."""
        if call.sigmoid:
            if rows.shape[1] > 1:
                raise multi_label_error(call.name, rows)
        elif not over_classes(call, rows):
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
        how = looks_like(rows)
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

    def only(register: Callable) -> Callable:
        return lambda hook, **options: register(
            lambda module, *given: hook(module, *given) if module is model else None, **options
        )

    return only(register_module_forward_pre_hook), only(register_module_forward_hook)


@contextmanager
def answering(
    model: nn.Module, outputs: str = "auto", classes: int | None = None
) -> Iterator[OutputReader]:
    """The network answers with logits ``(B, K)`` or ``(B, 1)`` while this lasts.

    Nothing of it stays. Inside another such context of the same network that one counts.

    Args:
        outputs: ``auto``, ``logits`` or ``probabilities``, see :class:`OutputReader`.
        classes: how many there are; None where nobody knows.

    Raises:
        UserError: from a pass of the network, see :meth:`OutputReader.read_logits`.
    """
    if model in _IN_FORCE:
        yield _IN_FORCE[model]
        return
    before_call, after_call = _hooks_of(model)
    with OutputReader(model, outputs, classes) as reader:
        if outputs == "probabilities":
            # softmaxes called as functions too: noticing them takes time at every operation
            modes: list[TorchFunctionMode] = []

            def begin(*_) -> None:
                modes.append(SoftmaxFunctions(reader.note_call).__enter__())

            def end(*_) -> None:
                modes.pop().__exit__(None, None, None)

            reader.enter_context(before_call(begin))
            # also behind a pass that ends in an exception
            reader.enter_context(after_call(end, always_call=True))
        reader.enter_context(
            after_call(lambda _, given, output: reader.read_logits(output, len(given[0])))
        )
        _IN_FORCE[model] = reader
        reader.callback(_IN_FORCE.pop, model, None)
        yield reader


def check_outputs(model: nn.Module, images: Tensor) -> tuple[Tensor, str | None]:
    """One pass that tells what the outputs are: the logits, and the line to say of them or None.

    To be called inside :func:`answering` and :func:`convlens.explain.mode.explaining`.

    Args:
        images: ``(B, C, H, W)``, ready for the network. With a graph through them a softmax or
            sigmoid that is a call of a function, not a module, shows too.

    Raises:
        UserError: see :meth:`OutputReader.read_logits`.
    """
    with torch.enable_grad():
        logits = model(images.detach().clone().requires_grad_())
    return logits.detach(), _IN_FORCE[model].note


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


def add_logits_picker(model: nn.Module, where: str | int | Callable | None) -> RemovableHandle:
    """The network returns the logits alone in a ``with`` of this; see :func:`pick_logits`.

    No layer's name changes by it, and nothing of it stays.
    """
    return model.register_forward_hook(lambda _, given, output: pick_logits(output, where, model))


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


_IN_FORCE: WeakKeyDictionary[nn.Module, OutputReader] = WeakKeyDictionary()
