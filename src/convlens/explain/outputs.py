"""Read a network's outputs as logits, one row per image, whatever layer the network ends in.

Explanations and probabilities are computed from logits. If a network ends in a softmax, its input
is read instead of its output. The probabilities stay the same, and the gradients do not vanish
where the network is confident. The kind of output is known from the network or set by the user,
and never guessed: see ``OutputReader``.

Shapes: ``B`` batch, ``K`` outputs per image.
"""

from __future__ import annotations

import sys
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
    detect_softmax,
    have_same_values,
    hook_modules,
    multi_label_error,
    refuse_probabilities,
    runs_over_classes,
)

OUTPUTS = ("auto", "logits", "probabilities")


class OutputReader(ExitStack):
    """Context that reads logits from a network's outputs. Enter it before the network is called.

    Args:
        model: the network.
        outputs: the kind of output. ``auto`` means logits, unless the network ends in a Softmax,
            LogSoftmax or Sigmoid module; any other outputs that look like probabilities are
            refused. ``logits`` are used as they are. ``probabilities`` may also be logarithms of
            probabilities, and any operation may have computed them.
        classes: number of classes: ``K``, or 2 for one output; None if unknown.

    Attributes:
        note: remark on the outputs for the readers of an explanation; None for logits.

    Raises:
        UserError: if ``outputs`` has another value.
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
        """Remember the latest softmax call of a pass: it may have computed the output."""
        self._last = call

    def read_logits(self, output, count: int) -> Tensor:
        """Return logits ``(B, K)``, or ``(B, 1)`` for one logit per image.

        Args:
            output: output of one pass of the network.
            count: number ``B`` of images in that pass.

        Raises:
            UserError: if the output has another shape, if it looks like probabilities that were
                not declared or is declared as probabilities but is not, or if it is multi-label.
        """
        rows = output_rows(unwrap_output(output), count, self._classes)
        call, self._last = self._last, None
        if self._outputs == "logits":
            return rows
        if call is not None and have_same_values(call.output, rows):
            return self._read_before(call, rows)
        is_softmax = isinstance(self._model, MODULES)  # the network itself
        if self._outputs == "auto" and not is_softmax:
            refuse_probabilities(rows)
            return rows
        return self._compute_logarithms(rows)

    def _read_before(self, call: SoftmaxCall, rows: Tensor) -> Tensor:
        """Return the input of the network's final softmax or sigmoid in the shape of ``rows``."""
        if call.is_sigmoid:
            if rows.shape[1] > 1:
                raise multi_label_error(call.name, rows)
        elif not runs_over_classes(call, rows):
            raise UserError(
                f"{call.name} runs over axis {call.dim} of {tuple(call.input.shape)}, not over "
                f"the axis of the {rows.shape[1]} outputs: use dim=1 after flattening"
            )
        self.note = (
            f"the network ends in {call.name}: its probabilities are used as they are, and "
            f"gradients are taken before it"
        )
        return call.input.reshape(rows.shape)

    def _compute_logarithms(self, rows: Tensor) -> Tensor:
        """Return logits whose softmax or sigmoid equals the probabilities ``rows``."""
        kind = detect_softmax(rows)
        is_single = rows.shape[1] == 1 and bool(((rows >= 0) & (rows <= 1)).all())
        if kind is None and not is_single:
            sums = rows.detach().sum(1)
            raise UserError(
                f"outputs=probabilities, but the outputs are not probabilities: values from "
                f"{float(rows.min()):.3g} to {float(rows.max()):.3g}, sums of rows from "
                f"{float(sums.min()):.3g} to {float(sums.max()):.3g}; for logits, set "
                f"outputs=logits"
            )
        self.note = (
            "the outputs are used as probabilities: no softmax was found that computed them, so "
            "gradients are those of their logarithms"
        )
        if kind == "log_softmax":
            return rows
        rows = rows.clamp_min(torch.finfo(rows.dtype).tiny)
        return torch.logit(rows, eps=torch.finfo(rows.dtype).eps) if is_single else rows.log()


def _get_hook_functions(model: nn.Module) -> tuple[Callable, Callable]:
    """Return the two functions that register a hook before and after each call of ``model``.

    A scripted module takes no hooks, but torch's global module hooks reach it.
    """
    if not isinstance(model, torch.jit.ScriptModule):
        return model.register_forward_pre_hook, model.register_forward_hook

    def limit_to_model(register: Callable) -> Callable:
        return lambda hook, **options: register(
            lambda module, *values: hook(module, *values) if module is model else None, **options
        )

    return (
        limit_to_model(register_module_forward_pre_hook),
        limit_to_model(register_module_forward_hook),
    )


@contextmanager
def answering(
    model: nn.Module, outputs: str = "auto", classes: int | None = None
) -> Iterator[OutputReader]:
    """Make the network return logits ``(B, K)`` or ``(B, 1)`` inside a ``with`` block.

    The network is unchanged afterwards. If blocks for the same network are nested, only the
    outermost has an effect.

    Args:
        model: the network.
        outputs: ``auto``, ``logits`` or ``probabilities``, see ``OutputReader``.
        classes: number of classes; None if unknown.

    Yields:
        The reader of the outputs; its ``note`` is set once the network has been called.

    Raises:
        UserError: while the network runs, see ``OutputReader.read_logits``.
    """
    if model in _ACTIVE_READERS:
        yield _ACTIVE_READERS[model]
        return
    before_call, after_call = _get_hook_functions(model)
    with OutputReader(model, outputs, classes) as reader:
        if outputs == "probabilities":
            # detect calls of softmax functions too; only here, as this slows every operation
            modes: list[TorchFunctionMode] = []

            def begin(*_) -> None:
                modes.append(SoftmaxFunctions(reader.note_call).__enter__())

            def end(*_) -> None:
                modes.pop().__exit__(None, None, None)

            reader.enter_context(before_call(begin))
            # also after a pass that ends in an exception
            reader.enter_context(after_call(end, always_call=True))
        reader.enter_context(
            after_call(lambda _, args, output: reader.read_logits(output, len(args[0])))
        )
        _ACTIVE_READERS[model] = reader
        reader.callback(_ACTIVE_READERS.pop, model, None)
        yield reader


def check_outputs(model: nn.Module, images: Tensor) -> tuple[Tensor, str | None]:
    """Run the network once and return its logits, and a remark on its outputs or None.

    Call it inside ``answering`` and ``convlens.explain.mode.explaining``. The pass records a graph
    from the images on, in which softmaxes and sigmoids called as functions are visible too.

    Args:
        model: the network.
        images: ``(B, C, H, W)``, ready for the network.

    Raises:
        UserError: see ``OutputReader.read_logits``.
    """
    with torch.enable_grad():
        logits = model(images.detach().clone().requires_grad_())
    return logits.detach(), _ACTIVE_READERS[model].note


def pick_logits(output, where: str | int | Callable | None, model: nn.Module) -> Tensor:
    """Return the part of a network's output that holds the logits.

    Args:
        output: output of ``model``.
        where: a key or attribute (``"logits"``), an index into a tuple, or a function of the
            output; None for the output itself.
        model: the network, for the error message.

    Raises:
        UserError: if that part is missing or not a tensor.
    """
    name, kind = type(model).__name__, type(output).__name__
    if callable(where):
        logits = where(output)
    elif where is None:
        logits = output
    elif isinstance(output, Tensor):
        raise UserError(
            f"{name} returns a single tensor in evaluation mode, so logits={where!r} does not "
            f"apply: leave it out, or give a function of the output"
        )
    else:
        try:
            if isinstance(where, int) or isinstance(output, Mapping):
                logits = output[where]
            else:
                logits = getattr(output, where)
        except (AttributeError, IndexError, KeyError, TypeError):
            raise UserError(
                f"{name} returns a {kind} without {where!r}: set logits= to a key, attribute or "
                f"index that it has"
            ) from None
    if not isinstance(logits, Tensor):
        raise UserError(
            f"{name} returns a {type(logits).__name__} instead of logits: set logits= to a key, "
            f"an index into a tuple, or a function of the output"
        )
    return logits


def add_logits_picker(model: nn.Module, where: str | int | Callable | None) -> RemovableHandle:
    """Make the network return only its logits until the returned handle is removed.

    Use the handle in a ``with`` block. The names of the layers stay as they are.

    Args:
        model: the network.
        where: where the logits are in the output, see ``pick_logits``.
    """
    return model.register_forward_hook(lambda _, args, output: pick_logits(output, where, model))


def unwrap_output(output):
    """Return the logits of an output of the library ``transformers``; others as they are.

    Its networks return a ``ModelOutput``, which has ``logits`` if the network classifies.

    Args:
        output: output of one pass of the network.

    Raises:
        UserError: if it is a ``ModelOutput`` without logits.
    """
    transformers = sys.modules.get("transformers")  # not imported here: it need not be installed
    if transformers is None or not isinstance(output, transformers.utils.ModelOutput):
        return output
    logits = output.get("logits")
    if logits is None:
        raise UserError(
            f"the network returns a {type(output).__name__} without logits: use its class with "
            "a classifier, …ForImageClassification"
        )
    return logits


def output_rows(output, count: int, classes: int | None = None) -> Tensor:
    """Return a network's output as ``(B, K)``, or ``(B, 1)`` for one output per image.

    Axes of length one after the second are dropped. The output for one image may lack the batch
    axis, which a final ``squeeze()`` removes.

    Args:
        output: output of one pass of the network.
        count: number ``B`` of images in that pass.
        classes: number of classes; None if unknown.

    Raises:
        UserError: if the output is not a tensor, or has another shape.

    >>> output_rows(torch.zeros(2), 1).shape, output_rows(torch.zeros(2), 2).shape
    (torch.Size([1, 2]), torch.Size([2, 1]))
    """
    if not isinstance(output, Tensor):
        raise UserError(
            f"the network returns a {type(output).__name__}, not a tensor of logits (B, K): pass "
            f"the part of it that returns logits, or return only the logits"
        )
    shape = tuple(output.shape)
    if output.dim() and len(output) == count and all(side == 1 for side in shape[2:]):
        rows = output.reshape(count, -1)
    elif count == 1 and output.dim() < 2:
        rows = output.reshape(1, -1)
    else:
        raise UserError(
            f"the network returns {shape} for {count} images: expected logits (B, K), one row per "
            f"image, or (B,)"
        )
    width = rows.shape[1]
    if not width or not (classes is None or width == classes or (width == 1 and classes == 2)):
        raise UserError(
            f"the network returns {width} outputs per image, but there are {classes} classes: "
            f"expected one output per class, or a single output for two classes"
        )
    return rows


_ACTIVE_READERS: WeakKeyDictionary[nn.Module, OutputReader] = WeakKeyDictionary()
