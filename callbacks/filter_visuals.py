"""Filter pictures: the first layer's kernels, and what deeper units look for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from convlens.callbacks.explanation import Findings, Look
from convlens.callbacks.looks import ExplanationCallback
from torch import Tensor

from convlens.draw.filter_sheet import filter_sheet, kernel_sheet
from convlens.explain.filters import (
    AscentCost,
    ascent_cost,
    gradient_ascent,
    kernels,
    logits_layer,
    recipe,
    to_display,
)
from convlens.explain.layers import choose_layers, takes_image
from convlens.explain.layouts import find_module
from convlens.explain.patches import ExcitingPatches, search_patches

_SHARE = 0.25  # of a look's time, for the search of patches
_PASS = 8  # pictures of a pass of the search: every layer's activations are held at once
_MEASURING = 20  # about so many passes of one picture cost a layer's receptive field


class FilterVisuals(ExplanationCallback):
    """``filters/<layer>``: kernels as they are, and pictures that excite single units most.

    The kernels of a convolution that reads the image itself are drawn at every look. For deeper
    convolutions and the dense layers pictures are found by gradient ascent: a few units of each
    layer before training and after every epoch, and the full set at the end of the run, as far as
    time reaches. What a layer takes is measured first: where there is too little left, fewer units
    are shown or the layer is passed over, and layers take turns to be first. The units of the layer
    that gives the logits bear the classes' names; a single logit is climbed for one class and
    descended for the other.

    Beside them, before training (if there is time) and at the end, stand the patches of real
    validation pictures that excite the same units most; a quarter of the look's time goes there.

    Args:
        layers: ``auto`` (every convolution and dense layer), a name, a glob, or a list of them.
        units: units of a layer at an epoch's look, evenly spread over the layer; always the same.
        full_units: units of a layer at the end; null for all.
        steps: of the ascent.
        step_size: mean change of a pixel in a step, in [0, 1].
        recipe: ``robust`` (frequencies and colours of natural pictures; jitter, zoom, rotation) or
            ``plain`` ascent.
        patches: real patches of each unit; 0 for none.
        patch_pictures: validation pictures searched for them at most, as far as time allows.
        every_n_epochs, batch: see :class:`~convlens.callbacks.explanation.Explanation`.
    """

    reckons = has_final_look = True

    def __init__(
        self, *, layers="auto", units: int = 8, full_units: int | None = 64, steps: int = 30,
        step_size: float = 0.02, recipe: str = "robust", patches: int = 4,
        patch_pictures: int = 200, every_n_epochs: int = 1, batch: int = 32,
    ):  # fmt: skip
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.layers, self.units, self.full_units = layers, units, full_units
        self.steps, self.step_size, self.recipe = steps, step_size, recipe
        self.patches, self.patch_pictures = patches, patch_pictures
        self._costs: dict[str, AscentCost] = {}  # by layer

    def select_layers(self, network, example) -> list[str]:
        recipe(self.recipe)  # a wrong name is told before training
        return choose_layers(network, self.layers, "filters", example=example)

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {f"filters/{layer}": 1 for layer in layers}

    def pictures(self, look: Look) -> Findings:
        layers = self.layers_at(look)
        for first in self.found_once(look, takes_image):
            if first not in layers:
                continue
            layers.remove(first)
            title = f"{first} · kernels · epoch {look.clock}"
            weights = kernels(find_module(look.network, first))
            yield f"filters/{first}", kernel_sheet(weights, title=title)
        if not layers:
            return
        began = time.perf_counter()
        logits = logits_layer(look.network, layers, look.example)
        wanted = {layer: self._asked(look, layer, layer == logits) for layer in layers}
        found = self._search(look, wanted, time.perf_counter() - began)
        passed = []
        for place, layer in enumerate(self.in_turn(layers)):
            asked = wanted[layer]
            count = self._affordable(look, layer, len(asked.units), len(layers) - place)
            if count < len(asked.units):
                passed.append(f"{count} of {len(asked.units)} units of {layer}")
            if count:
                self._turn = layers.index(layer) + 1
                yield self._ascent(look, layer, asked.first(count), found.get(layer))
        if passed:
            self.say("short", f"{self.name}: time allows only {', '.join(passed)} (looking.…)")

    def _affordable(self, look: Look, layer: str, units: int, waiting: int) -> int:
        """How many units there is time for: an equal share for each layer still waiting, or one
        batch, if that is more."""
        if look.left == float("inf"):
            return units
        if layer not in self._costs:
            images = look.example
            self._costs[layer] = ascent_cost(
                look.network, layer, units, size=tuple(images.shape[-2:]),
                channels=images.shape[1], steps=self.steps, batch=self.batch,
            )  # fmt: skip
        cost, left = self._costs[layer], look.left
        share = max(left / waiting, min(cost.seconds, left))
        return min(units, max(0, cost.affordable(share)))

    def _asked(self, look: Look, layer: str, logits: bool) -> _Asked:
        """The units of a layer to be shown at this look, and what they are called."""
        module, names = find_module(look.network, layer), look.class_names
        total = getattr(module, "out_channels", None) or module.out_features
        if logits and total == 1 and len(names) == 2:
            return _Asked(1, [0, 0], [-1, 1], [f"{names[0]} (-logit)", f"{names[1]} (+logit)"])
        count = min((self.full_units if look.final else self.units) or total, total)
        units = [round(i * total / count) for i in range(count)]
        named = logits and total == len(names)
        return _Asked(total, units, None, [names[unit] for unit in units] if named else None)

    def _search(
        self, look: Look, wanted: dict[str, _Asked], once: float
    ) -> dict[str, ExcitingPatches]:
        """The patches of each layer; none between the first look and the last, or without time.

        ``once`` is the seconds that a pass of one picture takes.
        """
        least = once * (_MEASURING * len(wanted) + _PASS)
        seconds = _SHARE * look.left
        if not self.patches or not (look.final or look.clock == 0) or least > seconds:
            return {}
        deadline = time.perf_counter() + seconds

        def search(batch: int) -> dict[str, ExcitingPatches]:
            source = look.pictures
            pictures = source(self.patch_pictures) if source else [look.probes.images]
            return search_patches(
                look.network, {layer: asked.units for layer, asked in wanted.items()},
                _until(deadline, pictures), count=self.patches, batch=batch,
                signs={layer: asked.signs for layer, asked in wanted.items()},
            )  # fmt: skip

        return self.fitting(search)

    def _ascent(
        self, look: Look, layer: str, asked: _Asked, real: ExcitingPatches | None
    ) -> tuple[str, np.ndarray]:
        images = look.example
        found = self.fitting(
            lambda batch: gradient_ascent(
                look.network, layer, asked.units, signs=asked.signs, size=tuple(images.shape[-2:]),
                channels=images.shape[1], seed=look.seed, batch=batch, steps=self.steps,
                step_size=self.step_size, **recipe(self.recipe),
            )
        )  # fmt: skip
        marks = ["zero gradient" if stuck else None for stuck in found.stuck.tolist()]
        shown = f"{len(set(found.units))} of {asked.total} units"
        sheet = filter_sheet(
            to_display(found.images), found.units, marks=marks, labels=asked.labels,
            patches=real and real.patches[asked.places],
            note=real and f"of {real.searched} pictures",
            title=f"{layer} · gradient ascent, {shown} · epoch {look.clock}",
        )  # fmt: skip
        return f"filters/{layer}", sheet


class _Asked(NamedTuple):
    """What is shown of a layer with ``total`` units; ``places`` in a longer list of them."""

    total: int
    units: list[int]
    signs: list[int] | None
    labels: list[str] | None
    places: list[int] | None = None

    def first(self, count: int) -> _Asked:
        """So many of them, evenly spread."""
        kept = [round(i * len(self.units) / count) for i in range(count)]
        return self._replace(
            units=[self.units[i] for i in kept],
            signs=self.signs and [self.signs[i] for i in kept],
            labels=self.labels and [self.labels[i] for i in kept],
            places=kept,
        )


def _until(deadline: float, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The batches in small parts, the first in any case, until the clock reads ``deadline``."""
    for batch in batches:
        for part in batch.split(_PASS):
            yield part
            if time.perf_counter() > deadline:
                return
