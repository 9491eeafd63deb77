"""Detect the softmax or sigmoid a network ends in, by its call or by the values of its output.

Shapes: ``B`` batch, ``K`` outputs per image.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from convlens.core.errors import UserError

MODULES = (nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Sigmoid)
_SOFTMAXES = {"softmax", "special_softmax", "log_softmax", "special_log_softmax"}
_SIGMOIDS = {"sigmoid", "special_expit"}
_NODES = {
    "SoftmaxBackward0": "softmax", "LogSoftmaxBackward0": "log_softmax",
    "SigmoidBackward0": "sigmoid",
}  # fmt: skip
# operations after such a function that do not change values
_PASSING = (
    "View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Clone", "Alias", "ToCopy",
    "BackwardHookFunction",
)  # fmt: skip
# how far a sum of probabilities may be from 1
_TOLERANCE, _TOLERANCE_IN_HALF = 1e-5, 1e-2


@dataclass(frozen=True)
class SoftmaxCall:
    """One call of a softmax, log-softmax or sigmoid.

    Attributes:
        is_sigmoid: True for a sigmoid.
        name: name of the module or function in messages.
        dim: axis of a softmax; None for a sigmoid.
        input: input of the call.
        output: output of the call.
    """

    is_sigmoid: bool
    name: str
    dim: int | None
    input: Tensor
    output: Tensor


def hook_modules(model: nn.Module, note: Callable[[SoftmaxCall], None]) -> ExitStack:
    """Report each call of the network's softmax and sigmoid modules to ``note``.

    Args:
        model: the network.
        note: function that receives the calls.

    Returns:
        The hooks; closing the stack removes them.
    """
    hooks = ExitStack()
    for name, module in model.named_modules():
        if isinstance(module, MODULES):
            label = f"{type(module).__name__} ({name})" if name else type(module).__name__

            def hook(module, args, output, label=label):
                dim = -3 if isinstance(module, nn.Softmax2d) else getattr(module, "dim", None)
                note(SoftmaxCall(isinstance(module, nn.Sigmoid), label, dim, args[0], output))

            hooks.enter_context(module.register_forward_hook(hook))
    return hooks


class SoftmaxFunctions(TorchFunctionMode):
    """Mode that reports each call of a softmax or sigmoid, by a function or by a module.

    Args:
        note: function that receives the calls.
    """

    def __init__(self, note: Callable[[SoftmaxCall], None]):
        super().__init__()
        self._note = note

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        is_known = name in _SOFTMAXES | _SIGMOIDS
        if is_known and isinstance(output, Tensor) and args and isinstance(args[0], Tensor):
            is_sigmoid = name in _SIGMOIDS
            dim = None if is_sigmoid else kwargs.get("dim", (*args, None)[1])
            self._note(SoftmaxCall(is_sigmoid, f"a call of {name}", dim, args[0], output))
        return output


def have_same_values(output: Tensor, rows: Tensor) -> bool:
    """Return whether two tensors hold exactly the same numbers, in any shape."""
    if output.numel() != rows.numel():
        return False
    return torch.equal(output.detach().flatten().to(rows.dtype), rows.detach().flatten())


def runs_over_classes(call: SoftmaxCall, rows: Tensor) -> bool:
    """Return whether a softmax normalises over the ``K`` outputs of each image.

    Args:
        call: call of the softmax that computed the outputs.
        rows: ``(B, K)`` outputs of the network.
    """
    count, outputs = rows.shape
    shape = call.input.shape
    dim = call.dim
    if dim is None:  # torch's default for a softmax without an axis
        dim = 0 if len(shape) in (0, 1, 3) else 1
    dim %= max(len(shape), 1)
    is_within_image = dim > 0 or (len(shape) == 1 and count == 1)
    return outputs > 1 and is_within_image and shape[dim] == outputs


def detect_softmax(rows: Tensor) -> str | None:
    """Return ``softmax`` or ``log_softmax`` if all rows have the values of one, else None."""
    if rows.shape[1] < 2 or not rows.is_floating_point():
        return None
    is_wide = rows.dtype in (torch.float32, torch.float64)
    rows = rows.detach() if is_wide else rows.detach().float()
    close = rows.new_tensor(_TOLERANCE if is_wide else _TOLERANCE_IN_HALF)
    sums_to_one = ((rows.sum(1) - 1).abs() <= close).all()
    softmax = (rows >= 0).all() & (rows <= 1 + close).all() & sums_to_one
    log_softmax = (rows <= close).all() & (rows.logsumexp(1).abs() <= close).all()
    is_softmax, is_log_softmax = torch.stack([softmax, log_softmax]).tolist()
    return "softmax" if is_softmax else "log_softmax" if is_log_softmax else None


def refuse_probabilities(rows: Tensor) -> None:
    """Refuse outputs that a softmax or sigmoid seems to have computed.

    Raises:
        UserError: if the graph or the values of ``rows`` show such a function.
    """
    function = _find_function(rows)
    if function == "sigmoid" and rows.shape[1] > 1:
        raise multi_label_error("a sigmoid", rows)
    if function is None and (function := detect_softmax(rows)) is None:
        return
    reason = {
        "sigmoid": "a sigmoid computed them",
        "softmax": "values in [0, 1], each row sums to 1",
        "log_softmax": "values at most 0, exponentials of each row sum to 1",
    }[function]
    what = "log-probabilities" if function == "log_softmax" else "probabilities"
    raise UserError(
        f"the outputs look like {what} ({reason}): set outputs=probabilities or outputs=logits in "
        f"wrap, watch or explain.answering"
    )


def _find_function(rows: Tensor) -> str | None:
    """Return which of the three functions computed the rows; None if the graph does not show it."""
    node = rows.grad_fn
    while node is not None:
        name = node.name()
        if name in _NODES:
            return _NODES[name]
        if not name.startswith(_PASSING):
            return None
        node = node.next_functions[0][0] if node.next_functions else None
    return None


def multi_label_error(what: str, rows: Tensor) -> UserError:
    """Return the error for a network that gives each class an independent yes or no."""
    return UserError(
        f"the network ends in {what} with {rows.shape[1]} independent outputs (multi-label), but "
        f"explanations need exclusive classes: end in one logit per class, or one output for two"
    )
