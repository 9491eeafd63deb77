"""Softmaxes and sigmoids that a network may end in: noticed where called, told by what they make.

Shapes: ``B`` batch, ``K`` outputs an image.
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
# what leaves values as they are, between such a function and the network's output
_PASSING = (
    "View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Clone", "Alias", "ToCopy",
    "BackwardHookFunction",
)  # fmt: skip
_CLOSE, _CLOSE_IN_HALF = 1e-5, 1e-2  # how far a sum of probabilities may be from 1
_SAY = "say outputs=probabilities if they are, outputs=logits if not (an argument of wrap, watch"
_SAY = f"{_SAY} and explain.answering)"


@dataclass(frozen=True)
class SoftmaxCall:
    """A softmax, log-softmax or sigmoid that was called.

    Attributes:
        sigmoid: it is one.
        name: as a person finds it in the network.
        dim: the softmax's axis; None for a sigmoid.
        given, made: its input and its output.
    """

    sigmoid: bool
    name: str
    dim: int | None
    given: Tensor
    made: Tensor


def hook_modules(model: nn.Module, note: Callable[[SoftmaxCall], None]) -> ExitStack:
    """The network's modules of this kind tell ``note`` of each call, until the stack is closed."""
    hooks = ExitStack()
    for name, module in model.named_modules():
        if isinstance(module, MODULES):
            called = f"{type(module).__name__} ({name})" if name else type(module).__name__

            def hook(module, given, made, called=called):
                dim = -3 if isinstance(module, nn.Softmax2d) else getattr(module, "dim", None)
                note(SoftmaxCall(isinstance(module, nn.Sigmoid), called, dim, given[0], made))

            hooks.enter_context(module.register_forward_hook(hook))
    return hooks


class SoftmaxFunctions(TorchFunctionMode):
    """Tells ``note`` of calls of softmax and its like, modules' too."""

    def __init__(self, note: Callable[[SoftmaxCall], None]):
        super().__init__()
        self._note = note

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        known = name in _SOFTMAXES | _SIGMOIDS
        if known and isinstance(made, Tensor) and args and isinstance(args[0], Tensor):
            sigmoid = name in _SIGMOIDS
            dim = None if sigmoid else kwargs.get("dim", (*args, None)[1])
            self._note(SoftmaxCall(sigmoid, f"a call of {name}", dim, args[0], made))
        return made


def same_values(made: Tensor, rows: Tensor) -> bool:
    """Whether the rows are the very numbers that a function made, in whatever shape."""
    if made.numel() != rows.numel():
        return False
    return torch.equal(made.detach().flatten().to(rows.dtype), rows.detach().flatten())


def over_classes(call: SoftmaxCall, rows: Tensor) -> bool:
    count, outputs = rows.shape
    shape = call.given.shape
    dim = call.dim
    if dim is None:  # torch's own reading of a softmax without an axis
        dim = 0 if len(shape) in (0, 1, 3) else 1
    dim %= max(len(shape), 1)
    batch_first = dim > 0 or (len(shape) == 1 and count == 1)
    return outputs > 1 and batch_first and shape[dim] == outputs


def looks_like(rows: Tensor) -> str | None:
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


def refuse_probabilities(rows: Tensor) -> None:
    """Refuse outputs that a softmax or sigmoid seems to have made."""
    made = _made_by(rows)
    if made == "sigmoid" and rows.shape[1] > 1:
        raise multi_label_error("a sigmoid", rows)
    if made is None and (made := looks_like(rows)) is None:
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


def multi_label_error(what: str, rows: Tensor) -> UserError:
    return UserError(
        f"the network ends in {what} with {rows.shape[1]} outputs, each a yes or no of its own "
        f"(multi-label): explanations need one class out of several; give a network that ends "
        f"in one logit a class, or in one output for two classes"
    )
