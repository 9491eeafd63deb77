"""Filter pictures: the first layer's kernels, and what deeper units look for."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from convlens.callbacks.base import ExplanationCallback, Look

from convlens.draw.filter_sheet import filter_sheet, kernel_sheet
from convlens.explain.filters import gradient_ascent, kernels, to_display
from convlens.explain.layers import choose_layers, layer_kind
from convlens.explain.taps import find_module


class FilterVisuals(ExplanationCallback):
    """``filters/<layer>``: kernels as they are, and pictures that excite single units most.

    The first convolution's kernels are drawn at every look. For the deeper convolutions and the
    dense layers pictures are found by gradient ascent: a few units of each layer before training
    and after every epoch, as far as the budget reaches (layers take turns to be first), and the
    full set at the end of the run.

    Args:
        layers: ``auto`` (every convolution and dense layer), a name, a glob, or a list of them.
        units: units of a layer at an epoch's look, evenly spread over the layer; always the same.
        full_units: units of a layer at the end; null for all.
        steps: of the ascent.
        step_size: mean change of a pixel in a step, in [0, 1].
        smoothing: exponent of the gradient's frequency weighting; 0 for plain ascent.
        colours: whether the gradient is taken in the decorrelated colours of natural pictures.
        jitter: pixels by which the picture is rolled before each step.
        every_n_epochs, batch: see :class:`ExplanationCallback`.
    """

    def __init__(
        self, *, layers="auto", units: int = 8, full_units: int | None = 64, steps: int = 30,
        step_size: float = 0.02, smoothing: float = 1.0, colours: bool = True, jitter: int = 2,
        every_n_epochs: int = 1, batch: int = 32,
    ):  # fmt: skip
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.layers, self.units, self.full_units = layers, units, full_units
        self.recipe = dict(
            steps=steps, step_size=step_size, smoothing=smoothing, colours=colours, jitter=jitter
        )
        self._cost: dict[str, float] = {}  # seconds of the latest ascent, by layer
        self._turn = 0

    @property
    def has_final_look(self) -> bool:
        return True

    def chosen(self, network, example) -> list[str]:
        return choose_layers(network, self.layers, "filters", example=example)

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {f"filters/{layer}": 1 for layer in layers}

    def pictures(self, look: Look) -> Iterator[tuple[str, np.ndarray]]:
        layers = self.chosen(look.network, look.example)
        if layers and layer_kind(find_module(look.network, layers[0])) == "conv":
            first = layers.pop(0)
            title = f"{first} · kernels · epoch {look.clock}"
            weights = kernels(find_module(look.network, first))
            yield f"filters/{first}", kernel_sheet(weights, title=title)
        if not layers:
            return
        start = self._turn % len(layers)
        for layer in layers[start:] + layers[:start]:
            if self._cost.get(layer, 0.0) > look.left or look.left < 0:
                break  # the next look begins with this layer
            self._turn += 1
            yield self._ascent(look, layer)

    def _ascent(self, look: Look, layer: str) -> tuple[str, np.ndarray]:
        began = time.perf_counter()
        total = _unit_count(find_module(look.network, layer))
        wanted = (self.full_units if look.final else self.units) or total
        units = [round(i * total / wanted) for i in range(wanted)] if wanted < total else None
        images = look.example
        found = self.fitting(
            lambda batch: gradient_ascent(
                look.network, layer, units, size=tuple(images.shape[-2:]),
                channels=images.shape[1], seed=look.seed, batch=batch, **self.recipe,
            )
        )  # fmt: skip
        marks = ["zero gradient" if stuck else None for stuck in found.stuck.tolist()]
        shown = f"{len(found.units)} of {total} units"
        sheet = filter_sheet(
            to_display(found.images), found.units, marks=marks,
            title=f"{layer} · gradient ascent, {shown} · epoch {look.clock}",
        )  # fmt: skip
        if not look.final:
            self._cost[layer] = time.perf_counter() - began
        return f"filters/{layer}", sheet


def _unit_count(module) -> int:
    return getattr(module, "out_channels", None) or module.out_features
