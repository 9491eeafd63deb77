"""The state in which a network is explained, whatever state it is in, and pictures fit for it.

Shapes: ``B`` batch, ``C`` channels, ``H W`` height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from convlens.core.evaluation import evaluation_mode
from convlens.explain.state import preserve_generators, preserve_state

_NARROW = (torch.float16, torch.bfloat16)


@contextmanager
def explaining(model: nn.Module) -> Iterator[None]:
    """The state in which a network is explained, whatever state the caller is in.

    Inside: evaluation mode; no inference mode, gradients enabled; autocast off and half-precision
    weights widened, so everything is computed in fp32 (a float64 network stays float64); compiled
    modules run eagerly, because a warm compiled module ignores hooks; parameters need no gradient,
    so graphs begin at the layers. Afterwards all of it is as it was, also after an exception:
    ``.training`` and ``requires_grad`` flags one by one, ``.grad`` untouched, half-precision
    weights the very same tensors; buffers and attributes that its passes move, see
    :func:`convlens.explain.state.preserve_state`; and the global generators.
    """
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device_of(model).type, enabled=False),
        torch.compiler.set_stance("force_eager"),
        preserve_generators(model),
        preserve_state(model),
        evaluation_mode(model),
        switch_off(model.parameters(), "requires_grad"),
        _widened(model),
    ):
        yield


def add_preprocessing(model: nn.Module, preprocess: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """The network takes what ``preprocess`` makes of its input in a ``with`` of this.

    No layer's name changes by it, and nothing of it stays.
    """
    return model.register_forward_pre_hook(lambda _, given: (preprocess(given[0]), *given[1:]))


@contextmanager
def switch_off(owners: Iterable, flag: str) -> Iterator[None]:
    """The ``flag`` of those that have it on is off while this lasts."""
    on = [owner for owner in owners if getattr(owner, flag, False) is True]
    try:
        for owner in on:
            setattr(owner, flag, False)
        yield
    finally:
        for owner in on:
            setattr(owner, flag, True)


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


def prepare_images(model: nn.Module, images: Tensor) -> Tensor:
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


def fit_batch_to_cache(batch: int, images: Tensor, pixels: int) -> int:
    """At most ``batch`` pictures, on a CPU not more than ``pixels`` of them together.

    What a layer leaves for the next then stays in the processor's cache. ``images`` ``(…, H, W)``
    tell the size and the device.
    """
    if images.device.type != "cpu":
        return batch
    return min(batch, max(1, pixels // images.shape[-2:].numel()))
