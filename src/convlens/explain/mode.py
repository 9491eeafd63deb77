"""Bring networks and images into the state in which networks are explained.

Shapes: ``B`` batch, ``C`` channels, ``H W`` height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from convlens.core.evaluation import evaluation_mode
from convlens.explain.state import preserve_generators, preserve_state

_HALF_PRECISION = (torch.float16, torch.bfloat16)


@contextmanager
def explaining(model: nn.Module) -> Iterator[None]:
    """Put a network into the state in which it is explained, inside a ``with`` block.

    - Evaluation mode is on, inference mode is off, gradients are enabled.
    - Autocast is off and half-precision weights are converted, so that everything is computed in
      float32 (a float64 network stays float64).
    - Compiled modules run eagerly, because they ignore hooks once they have run.
    - Parameters need no gradient, so that graphs begin at the layers.
    - Gradients reach normalisation layers in a memory format for which torch computes them right.

    Afterwards everything is restored, even after an exception: the ``training`` and
    ``requires_grad`` flag of each module and parameter, the half-precision tensors themselves, the
    buffers and attributes that passes change (see ``convlens.explain.state.preserve_state``), and
    the global random generators. ``.grad`` is never changed.

    Args:
        model: the network.
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
        _widen(model),
        _straighten_gradients(model),
    ):
        yield


def add_preprocessing(model: nn.Module, preprocess: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """Preprocess the network's input until the returned handle is removed.

    Use the handle in a ``with`` block. The names of the layers stay as they are.

    Args:
        model: the network.
        preprocess: function from images ``(B, C, H, W)`` to the network's input.
    """
    return model.register_forward_pre_hook(lambda _, args: (preprocess(args[0]), *args[1:]))


@contextmanager
def switch_off(owners: Iterable, flag: str) -> Iterator[None]:
    """Set a flag to False inside a ``with`` block for all owners for which it is True.

    Args:
        owners: modules or parameters.
        flag: name of the attribute.
    """
    changed = [owner for owner in owners if getattr(owner, flag, False) is True]
    try:
        for owner in changed:
            setattr(owner, flag, False)
        yield
    finally:
        for owner in changed:
            setattr(owner, flag, True)


@contextmanager
def _straighten_gradients(model: nn.Module) -> Iterator[None]:
    """Make the gradients of normalisation layers contiguous inside a ``with`` block.

    On a CPU, torch (seen in 2.15) takes the numbers of one image's gradient in the wrong order if
    they lie in memory as tokens do, which they do where a map is flattened to tokens, as in
    EfficientFormer and LeViT: the gradient of batch normalisation was wrong by up to its own size.
    So was that of instance normalisation before a mean, for any number of images.
    """

    def straighten(gradient: Tensor) -> Tensor:
        last = torch.channels_last
        is_right = len(gradient) > 1 and gradient.dim() == 4
        if is_right and gradient.is_contiguous(memory_format=last):
            return gradient
        return gradient.contiguous()

    def follow(_module: nn.Module, _args: tuple, output: Tensor) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(straighten)

    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                hooks.enter_context(module.register_forward_hook(follow))
        yield


@contextmanager
def _widen(model: nn.Module) -> Iterator[None]:
    """Convert half-precision parameters and buffers to float32 in place, then restore them.

    Replacing ``.data`` needs no deep copy of the network (a LightningModule would copy its trainer
    too), and the optimiser keeps its tensors.
    """
    tensors = [t for t in [*model.parameters(), *model.buffers()] if t.dtype in _HALF_PRECISION]
    originals = [(tensor, tensor.data) for tensor in tensors]
    try:
        for tensor, data in originals:
            tensor.data = data.float()
        yield
    finally:
        for tensor, data in originals:
            tensor.data = data


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the network's first parameter; the CPU if it has no parameters."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def dtype_of(model: nn.Module) -> torch.dtype:
    """Return the dtype of a network's explanations: float64 for a float64 network, else float32."""
    first = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return torch.float64 if first == torch.float64 else torch.float32


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was told, so that a clock shows what it took."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def image_size(images: Tensor) -> tuple[int, int]:
    """Return ``(H, W)`` of images ``(…, H, W)``."""
    height, width = images.shape[-2:]
    return height, width


def prepare_images(model: nn.Module, images: Tensor) -> Tensor:
    """Return images on the network's device, in the dtype of its explanations, without a graph.

    Their memory format is kept, because a network that flattens with ``view`` needs contiguous
    ones. Convolutions with channels-last weights use that format for any input.

    Call this inside ``explaining``: tensors created in inference mode are cloned here, because
    autograd cannot save them.

    Args:
        model: the network.
        images: ``(B, C, H, W)``.
    """
    if images.dim() != 4:
        raise ValueError(f"images must be (B, C, H, W), got shape {tuple(images.shape)}")
    images = images.detach().to(device_of(model), dtype_of(model))
    return images.clone() if images.is_inference() else images


def chunks(total: int, batch: int | None) -> list[slice]:
    """Return slices that split ``total`` items into parts of at most ``batch``.

    Args:
        total: number of items.
        batch: maximum size of a part; None for a single part.

    >>> chunks(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, batch or total)
    return [slice(start, min(start + step, total)) for start in range(0, total, step)]


def fit_batch_to_cache(batch: int, images: Tensor, pixels: int) -> int:
    """Return ``batch``, or on a CPU the smaller batch whose feature maps fit the CPU's cache.

    Args:
        batch: maximum batch size.
        images: ``(…, H, W)``, which determines the image size and the device.
        pixels: maximum number of pixels in a batch on a CPU.
    """
    if images.device.type != "cpu":
        return batch
    return min(batch, max(1, pixels // images.shape[-2:].numel()))
