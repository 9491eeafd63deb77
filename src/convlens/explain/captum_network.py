"""What Captum needs around it to explain any network, and to leave it as it was.

It hooks modules' inputs, draws from every generator, and asks a network for one logit a class;
these are the network in that shape, and the contexts that clean up behind it.

Shapes: ``B`` pictures, ``K`` classes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class TwoClassesAtLeast(nn.Module):
    """The network with logits ``(B, K)``, K at least 2: one logit becomes ``[-logit, logit]``.

    To be called inside :func:`convlens.explain.outputs.answering`.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        return torch.cat([-logits, logits], 1) if logits.shape[1] == 1 else logits


class _CountRelu(TorchDispatchMode):
    """Counts ReLUs, and those inside ``nn.ReLU``, which alone can be hooked."""

    def __init__(self):
        super().__init__()
        self.total = self.hooked = self.inside = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.relu.default, torch.ops.aten.relu_.default):
            self.total += 1
            self.hooked += self.inside > 0
        return func(*args, **(kwargs or {}))


def relu_notes(model: nn.Module, image: Tensor, method: str) -> tuple[str, ...]:
    """A warning where ``method``, which overrides ReLU's gradient, cannot reach all ReLUs."""
    counter = _CountRelu()

    def step(change: int):
        def hook(*_):
            counter.inside += change

        return hook

    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                hooks.callback(module.register_forward_pre_hook(step(1)).remove)
                hooks.callback(module.register_forward_hook(step(-1)).remove)
        with counter, torch.no_grad():
            model(image)
    missed = counter.total - counter.hooked
    if missed:
        return (
            f"{missed} of {counter.total} ReLUs are calls of a function, not modules: "
            f"{method} takes their plain gradient",
        )
    if not counter.total and "deep_lift" not in method:
        return (f"the network has no ReLU: {method} is its plain gradient",)
    return ()


@contextmanager
def nothing_in_place(model: nn.Module) -> Iterator[None]:
    """Activations write to fresh memory while this lasts: Captum keeps their inputs."""
    in_place = [module for module in model.modules() if getattr(module, "inplace", False) is True]
    try:
        for module in in_place:
            module.inplace = False
        yield
    finally:
        for module in in_place:
            module.inplace = True


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Hooks and attributes that Captum leaves on modules, also where it fails, are taken off."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = list(model.modules())
    before = [(set(vars(m)), [set(getattr(m, kind)) for kind in kinds]) for m in modules]
    try:
        yield
    finally:
        for module, (names, hooks) in zip(modules, before, strict=True):
            for kind, known in zip(kinds, hooks, strict=True):
                registered = getattr(module, kind)
                for key in [key for key in registered if key not in known]:
                    del registered[key]
            for name in set(vars(module)) - names:
                delattr(module, name)


@contextmanager
def own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Every generator Captum draws from starts at ``seed``, and is put back afterwards."""
    kind = "cuda" if device.type == "cpu" else device.type
    devices = [] if device.type == "cpu" else [device.index or 0]
    others = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=devices, device_type=kind):
            torch.default_generator.manual_seed(seed)
            if devices:
                torch.get_device_module(device).manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(others[0])
        random.setstate(others[1])
