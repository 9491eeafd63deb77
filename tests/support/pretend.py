"""A device that only pretends: real training steps run on it, and what would wait is an error.

Its tensors are torch's ``meta`` tensors, which have shapes but no numbers. A mode watches every
operation between them; what would make a GPU's host wait raises ``Waited``.
"""

from __future__ import annotations

import contextlib
import sys
from types import SimpleNamespace

import numpy as np
import pytorch_lightning as L
import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.loops import evaluation_loop, fit_loop
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from convlens.core import host_copy

DEVICE = torch.device("meta")
# operations whose result the host needs to go on: a number, or the size of a tensor
READS = ("_local_scalar_dense", "is_nonzero", "equal", "item")
SIZES = (
    "nonzero", "masked_select", "bincount", "unique", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "histc", "repeat_interleave",
)  # fmt: skip

MAKERS = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)


class Waited(Exception):
    """An operation that would make the host wait for the device."""


class Enough(Exception):
    """Ends a training after a number of steps."""


class NoConstants(TorchFunctionMode):
    """Raises ``Waited`` for tensors that are made on the device from Python's numbers.

    A GPU copies them from pageable memory, and the host waits; a meta tensor is made without.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in MAKERS and result.device == DEVICE:
            source = args[-1] if args else kwargs.get("data")
            if not isinstance(source, Tensor):
                raise Waited(f"{func.__name__}: numbers are copied to the device")
        if func in (Tensor.__getitem__, Tensor.__setitem__) and args[0].device == DEVICE:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(each, list | np.ndarray) for each in index):
                raise Waited(f"{func.__name__}: an index is copied to the device")
        return result


class NoWaiting(TorchDispatchMode):
    """Raises ``Waited`` for reads, masks, and copies between the pretended device and the host.

    Attributes:
        carries_batch: whether the batch is being copied, which may come from the host.
        seen: names of the operations on the device.
    """

    def __init__(self):
        super().__init__()
        self.carries_batch = False
        self.seen: set[str] = set()
        self._constants = NoConstants()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        name = func.overloadpacket.__name__
        if any(each.device == DEVICE for each in given):
            self.seen.add(name)
            self._check(name, args, kwargs, given)
        elif name == "_to_copy" and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            self._check_upload(kwargs)
        if name == "_fused_sgd_":
            return None  # torch has no such kernel for tensors without numbers; it returns nothing
        return func(*args, **kwargs)

    def __enter__(self):
        self._constants.__enter__()
        return super().__enter__()

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        self._constants.__exit__(*error)

    def _check_upload(self, kwargs: dict) -> None:
        if not (self.carries_batch and kwargs.get("non_blocking")):
            raise Waited("a copy of host memory to the device, other than the batch")

    def _check(self, name: str, args: tuple, kwargs: dict, given: list[Tensor]) -> None:
        if name in READS:
            raise Waited(f"{name}: a number of the device is read")
        if name in SIZES:
            raise Waited(f"{name}: a size depends on numbers of the device")
        if name in ("index", "index_put", "index_put_", "_unsafe_index"):
            indices = [each for each in args[1] if each is not None]
            if any(each.dtype in (torch.bool, torch.uint8) for each in indices):
                raise Waited(f"{name}: an index is a mask")
            if any(each.device != DEVICE for each in indices):
                raise Waited(f"{name}: an index is copied to the device")
        to = kwargs.get("device")
        if name == "_to_copy" and to is not None and torch.device(to) != DEVICE:
            raise Waited("a copy of the device's memory to the host")
        if name in ("copy_", "copy") and len({each.device for each in given}) > 1:
            raise Waited("a copy between the host and the device")


class Accelerator(CPUAccelerator):
    """Takes the pretended device for its own."""

    def setup_device(self, device: torch.device) -> None:
        assert device == DEVICE


class Strategy(SingleDeviceStrategy):
    """Moves batches to the pretended device, which is the only copy from the host."""

    def __init__(self, mode: NoWaiting):
        super().__init__(DEVICE, accelerator=Accelerator())
        self.mode = mode

    def batch_to_device(self, batch, device=None, dataloader_idx=0):
        self.mode.carries_batch = True
        try:
            return super().batch_to_device(batch, device, dataloader_idx)
        finally:
            self.mode.carries_batch = False

    def teardown(self) -> None:
        """Bring nothing back to the host: there are no numbers."""


class Last(L.Callback):
    """Ends the training after a number of steps; it comes after all other callbacks."""

    def __init__(self, steps: int):
        self.steps = steps

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if batch_idx + 1 == self.steps:
            raise Enough


def pretend(monkeypatch, mode: NoWaiting) -> None:
    """Let torch and convlens take the pretended device for a GPU.

    From the second step on, ``mode`` is on: the first makes what a device keeps.
    """
    advance = _TrainingEpochLoop.advance

    def watched(loop, fetcher) -> None:
        with mode if loop.batch_progress.current.ready else contextlib.nullcontext():
            advance(loop, fetcher)

    def copy(self, tensor: Tensor) -> None:
        self._values, self._copied = torch.zeros(tensor.shape, dtype=tensor.dtype), None

    monkeypatch.setattr(_TrainingEpochLoop, "advance", watched)
    monkeypatch.setattr(host_copy.HostCopy, "__init__", copy)  # a copy that does not wait
    monkeypatch.setattr(
        torch, "meta", SimpleNamespace(manual_seed=lambda seed: None), raising=False
    )
    # before the first step, Lightning counts the batches of all processes on the device
    for loop in (fit_loop, evaluation_loop):
        monkeypatch.setattr(loop, "has_len_all_ranks", lambda *args, **options: True)
    kinds = "_get_fused_kernels_supported_devices"
    monkeypatch.setattr(sys.modules[torch.optim.Optimizer.__module__], kinds, lambda: ["meta"])
    monkeypatch.setattr("convlens.training.module.may_fuse", lambda *_: True)
