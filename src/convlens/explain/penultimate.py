"""Read what a network's classifier reads: the features before its last dense layer.

Legend: B images, F features, K logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from convlens.explain.layouts import find_module
from convlens.explain.mode import explaining, prepare_images
from convlens.explain.occlusion import compute_logits
from convlens.explain.outputs import answering

_DENSE = (nn.Linear, nn.Conv2d)


def find_classifier(model: nn.Module, example: Tensor) -> str | None:
    """Return the dense layer that computes the logits, or None if there is none.

    It is known by its numbers, not by its name: in one pass, every logit is one of its outputs (of
    a classifier with more classes, some are selected). A convolution of one position is dense, too.

    Args:
        model: the network.
        example: (1, C, H, W), ready for the network.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, _DENSE)}
    calls: list[tuple[str, Tensor]] = []

    def note(name: str, _module: nn.Module, inputs: tuple, output: Tensor) -> None:
        is_single = all(each.numel() == each.shape[:2].numel() for each in (inputs[0], output))
        calls.append((name, output.detach().flatten(1).clone() if is_single else output[:0]))

    images = torch.cat([example[:1], example[:1].flip(-1) / 2])  # two that differ
    with ExitStack() as hooks, explaining(model), answering(model), torch.no_grad():
        for name, module in layers.items():
            hooks.enter_context(module.register_forward_hook(partial(note, name)))
        logits = model(prepare_images(model, images))
    names = [name for name, _ in calls]
    for name, outputs in reversed(calls):
        if names.count(name) == 1 and len(outputs) and _contains(outputs, logits):
            return name
    return None


def _contains(outputs: Tensor, logits: Tensor) -> bool:
    """Return whether each column of ``logits``, (B, K), is a column of ``outputs``, (B, M)."""
    if outputs.shape[1] < logits.shape[1] or bool((logits == logits.flatten()[0]).all()):
        return False  # equal logits are those of any layer
    if outputs.shape == logits.shape:
        return torch.equal(outputs, logits)
    return all(bool((outputs == column[:, None]).all(0).any()) for column in logits.T)


@contextmanager
def reading_features(model: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """Collect the features of every pass, (B, F) float32 on the CPU, while the ``with`` lasts.

    Args:
        model: the network.
        layer: from ``find_classifier``.
    """
    found: list[Tensor] = []

    def note(_module: nn.Module, inputs: tuple) -> None:
        found.append(inputs[0].detach().flatten(1).to("cpu", torch.float32, copy=True))

    with find_module(model, layer).register_forward_pre_hook(note):
        yield found


def read_features(
    model: nn.Module, images: Tensor, layer: str, *, batch: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the features, (B, F) float32 on the CPU, and the logits, (B, K).

    Args:
        model: the network.
        images: (B, C, H, W), ready for the network.
        layer: from ``find_classifier``.
        batch: images per pass; None for all at once.
    """
    with reading_features(model, layer) as found:
        logits = compute_logits(model, images, batch=batch)
    return torch.cat(found), logits
