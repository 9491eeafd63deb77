"""Find the one map that the classifier reads, on which Grad-CAM is computed.

Shapes: ``C`` channels, ``H W`` height and width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convlens.explain.axis_rules import find_tensors
from convlens.explain.mode import explaining, prepare_images
from convlens.explain.trace import Call, layer_kind, trace


def find_feature_map(model: nn.Module, example: Tensor) -> tuple[str | None, str]:
    """Return the layer whose map the classifier reads, or None and the reason why there is none.

    It is the output of the last convolution (or dense layer on a map or on tokens) before pooling
    or flattening, after its normalisation, its activation, the sum of its residual block or the
    concatenation of its branches. If the classifier reads a class token alone, the patches of that
    output no longer matter: then it is the last residual sum (block) whose patches still reach
    the logits. That is tried out by setting them to NaN, which every operation hands on. It is the
    last residual sum, too, if the classifier itself has dense layers on tokens.

    Of all convolutions and matrix products over more than one position, at least half must come
    before the map, or else the prediction is made by layers that are not known to keep a map.

    Args:
        model: the network.
        example: ``(1, C, H, W)`` image for one forward pass, or a few.
    """
    seen = trace(model, example)
    calls, products = seen.calls, seen.products
    last = _find_last_map(calls)
    if last is None:
        return None, "the network has no feature map"
    has_placeless = any(call.layout.has_placeless for call in calls)
    # a dense layer on tokens that no sum follows belongs to the classifier: keys, scores of patches
    is_read = layer_kind(last.module) == "dense" and last.layout.grid is not None
    if is_read or (has_placeless and not _reaches_logits(model, example, last)):
        # modules that hand on the same tensor are one candidate, under the name of the innermost
        sums = {c.output.data_ptr(): c for c in reversed(calls) if c.is_sum and c.size}
        found = next((c for c in sums.values() if _reaches_logits(model, example, c)), None)
        if found is None:
            return None, (
                f"the prediction reads no patch of {last.name!r}, the last map, and there is no "
                "residual sum before it"
            )
        last = found
    if 2 * last.products <= products:
        return None, (
            f"the last feature map is that of {last.name!r}, and {products - last.products} of "
            f"{products} convolutions and matrix products come after it: what they return is not "
            "known to be maps"
        )
    return last.name, ""


def _find_last_map(calls: list[Call]) -> Call | None:
    """Return the call that computed the last feature map, or None."""
    indices = [
        i
        for i, call in enumerate(calls)
        if call.size and layer_kind(call.module) in ("conv", "dense")
    ]
    if not indices:
        return None
    last = indices[-1]
    # From the last convolution on, maps keep their size until they are pooled. Calls in between
    # with another size (squeeze-and-excitation, windows, tokens) are skipped.
    same_size = [
        call
        for call in calls[last:]
        if call.size == calls[last].size and layer_kind(call.module) != "pool"
    ]
    # A block returns the tensor of its last layer: choose that layer. In-place layers (a ReLU
    # after a convolution, a residual sum) share the tensor object too, but not its version.
    final = same_size[-1]
    equal = [c for c in same_size if c.output is final.output and c.version == final.version]
    layers = [call for call in equal if layer_kind(call.module)]
    return (layers or equal)[0]


def _reaches_logits(model: nn.Module, example: Tensor, call: Call) -> bool:
    """Return whether the patches in a module's output matter for the network's outputs."""
    turn = 0

    def spoil(_module: nn.Module, _args: tuple, output: Tensor) -> Tensor | None:
        nonlocal turn
        turn += 1
        if turn != call.turn + 1:
            return None
        spoilt, grid = output.clone(), call.layout.grid
        if grid is None or grid.axes[2] is None:
            return spoilt.fill_(torch.nan)
        spoilt.narrow(grid.axes[2], grid.prefix, grid.patches).fill_(torch.nan)
        return spoilt

    with explaining(model), torch.no_grad(), call.module.register_forward_hook(spoil):
        output = model(prepare_images(model, example[:1]))
    return any(bool(each.isnan().any()) for each in find_tensors(output))
