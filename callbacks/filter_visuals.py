"""Filter pictures: the kernels of the first layer, and what deeper units respond to."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from convlens.callbacks.explanation import Findings
from convlens.callbacks.look import Look
from convlens.callbacks.looks import ExplanationCallback
from torch import Tensor, nn

from convlens.draw.filter_sheet import filter_sheet, kernel_sheet
from convlens.explain.filters import (
    AscentCost,
    estimate_ascent_cost,
    find_logits_layer,
    get_recipe,
    gradient_ascent,
    kernels,
    to_display,
)
from convlens.explain.layers import choose_layers, find_image_convolutions
from convlens.explain.layouts import find_module
from convlens.explain.patches import ExcitingPatches, search_patches

log = logging.getLogger("convlens")
_SEARCH = 0.25  # fraction of a look's time for the search of patches
_PASS = 8  # images in a pass of the search, which holds the activations of every layer
_MEASURING = 20  # measuring the receptive field of a layer costs about that many single passes
SLOWER = 1.4  # how many times its estimate an ascent may take, until the first was timed
DRAWING = 0.1  # seconds of drawing and writing a sheet, until the first was timed
PARTIAL = 0.7  # speed of a smaller batch, per unit
_NAMED = 2  # layers that the line about missing units names


class FilterVisuals(ExplanationCallback):
    """``filters/<layer>``: the kernels themselves, and images that excite single units most.

    The kernels of a convolution that reads the image itself are drawn at every look. For deeper
    convolutions and dense layers, gradient ascent finds the images: for a few units of each layer
    before training and after every epoch, and for the full set at the end of the run, if time
    allows. The cost of a layer is measured first. If too little time is left, fewer units are shown
    or the layer is skipped, and the next look starts with it. The units of the layer that gives
    the logits are labelled with the class names; a single logit is maximised for one class and
    minimised for the other.

    Before training (if there is time) and at the end, the patches of real validation images that
    excite the same units most are drawn beside them; a quarter of the look's time is for them.

    Args:
        layers: ``auto`` (convolutions and dense layers), a name, a glob, or a list of them.
        limit: maximum number of layers with ``auto``, spread over the depth; None for all.
        units: units of a layer in an epoch's look, evenly spread over the layer; always the same.
        full_units: units of a layer at the end; None for all.
        steps: number of ascent steps.
        step_size: mean change of a pixel in a step, in [0, 1].
        recipe: ``robust`` (frequencies and colours of natural images; jitter, zoom, rotation) or
            ``plain`` ascent.
        patches: number of real patches for each unit; 0 for none.
        patch_pictures: maximum number of validation images to search for patches.
        every_n_epochs: look after every n-th epoch.
        batch: maximum number of images in a pass; halved when memory runs out.
    """

    has_final_look = True

    def __init__(
        self, *, layers: str | list[str] = "auto",
        limit: int | None = 6,
        units: int = 8,
        full_units: int | None = 64, steps: int = 30,
        step_size: float = 0.02, recipe: str = "robust", patches: int = 4,
        patch_pictures: int = 200, every_n_epochs: int = 1, batch: int = 32,
    ):  # fmt: skip
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.layers, self.limit = layers, limit
        self.units, self.full_units = units, full_units
        self.steps, self.step_size, self.recipe = steps, step_size, recipe
        self.patches, self.patch_pictures = patches, patch_pictures
        self._costs: dict[str, AscentCost] = {}  # by layer
        self._slower = SLOWER  # how many times its estimate the latest ascent took
        self._ascent_seconds = 0.0  # of the latest ascent
        self._drawing = DRAWING  # seconds that drawing and writing the latest sheet took

    def select_layers(self, network: nn.Module, example: Tensor) -> list[str]:
        get_recipe(self.recipe)  # a wrong name is reported before training
        layers = choose_layers(network, self.layers, "filters", example=example)
        if self.layers != "auto" or self.limit is None or len(layers) <= self.limit:
            return layers
        places = np.linspace(0, len(layers) - 1, self.limit).round().astype(int)
        return [layers[place] for place in places]

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {f"filters/{layer}": 1 for layer in layers}

    def pictures(self, look: Look) -> Findings:
        layers = self.layers_of(look)
        for first in self.find_once(look.network, look.example, find_image_convolutions):
            if first not in layers:
                continue
            layers.remove(first)
            title = f"{first} · kernels · epoch {look.clock}"
            weights = kernels(find_module(look.network, first))
            yield f"filters/{first}", kernel_sheet(weights, title=title)
        if not layers:
            return
        if look.seconds_left < 2 * look.pass_seconds:
            self.report_cut(look, "before gradient ascent")
            return
        logits = find_logits_layer(look.network, layers, look.example)
        selections = {layer: self._select_units(look, layer, layer == logits) for layer in layers}
        patches = self._search(look, selections)
        missing = []
        for place, layer in enumerate(self.rotate(layers)):
            selection = selections[layer]
            count = self._count_affordable(look, layer, len(selection.units), len(layers) - place)
            if count < len(selection.units):
                missing.append(f"{count} of {len(selection.units)} units of {layer}")
            if count:
                self._turn = layers.index(layer) + 1
                began = time.perf_counter()
                yield self._draw_ascent(look, layer, selection.first(count), patches.get(layer))
                self._drawing = time.perf_counter() - began - self._ascent_seconds
        if missing:
            more = len(missing) - _NAMED
            named = ", ".join(missing[:_NAMED]) + (
                f", less of {more} more layers" if more > 0 else ""
            )
            self.report_cut(look, f"with {named} drawn")
            log.debug("%s drew only %s", self.name, ", ".join(missing))

    def _count_affordable(self, look: Look, layer: str, units: int, waiting: int) -> int:
        """Return how many units there is time for.

        A layer may use an equal part of the time for each layer still waiting, or the time of one
        batch, if that is more.
        """
        if look.seconds_left == float("inf"):
            return units
        if layer not in self._costs:
            # it finds the layer's receptive field, then takes two passes of the units
            if (_MEASURING + 2 * units) * look.pass_seconds > look.seconds_left:
                return 0
            images = look.example
            self._costs[layer] = estimate_ascent_cost(
                look.network, layer, units, size=(images.shape[-2], images.shape[-1]),
                channels=images.shape[1], steps=self.steps, batch=self.batch,
            )  # fmt: skip
        cost, left = self._costs[layer], look.seconds_left - self._drawing
        seconds = max(left / waiting, min(self._slower * cost.seconds, left)) / self._slower
        # less than a batch: a smaller one costs somewhat more for each unit
        part = int(PARTIAL * cost.units * seconds / max(cost.seconds, 1e-9))
        return max(0, min(units, cost.count_affordable(seconds) or part))

    def _select_units(self, look: Look, layer: str, logits: bool) -> _Units:
        """Return the units of a layer to show at this look, with their labels."""
        module, names = find_module(look.network, layer), look.class_names
        total: int = getattr(module, "out_channels", 0) or getattr(module, "out_features", 0)
        if logits and total == 1 and len(names) == 2:
            return _Units(1, [0, 0], [-1, 1], [f"{names[0]} (-logit)", f"{names[1]} (+logit)"])
        count = min((self.full_units if look.final else self.units) or total, total)
        units = [round(i * total / count) for i in range(count)]
        named = logits and total == len(names)
        return _Units(total, units, None, [names[unit] for unit in units] if named else None)

    def _search(self, look: Look, selections: dict[str, _Units]) -> dict[str, ExcitingPatches]:
        """Return the patches of each layer; none between the first look and the last.

        Args:
            look: the current look.
            selections: the units of each layer.

        Returns:
            Nothing if there is too little time.
        """
        least = look.pass_seconds * (_MEASURING * len(selections) + _PASS)
        seconds = _SEARCH * look.seconds_left
        if not self.patches or not (look.final or look.clock == 0) or least > seconds:
            return {}
        deadline = time.perf_counter() + seconds

        def search(batch: int) -> dict[str, ExcitingPatches]:
            source = look.sample_images
            images = source(self.patch_pictures) if source else [look.probes.images]
            return search_patches(
                look.network, {layer: each.units for layer, each in selections.items()},
                _take_until(deadline, images), count=self.patches, batch=batch,
                signs={layer: each.signs for layer, each in selections.items()},
            )  # fmt: skip

        return self.fit_batch(search)

    def _draw_ascent(
        self, look: Look, layer: str, selection: _Units, real: ExcitingPatches | None
    ) -> tuple[str, np.ndarray]:
        images, began = look.example, time.perf_counter()
        ascent = self.fit_batch(
            lambda batch: gradient_ascent(
                look.network, layer, selection.units, signs=selection.signs,
                size=(images.shape[-2], images.shape[-1]),
                channels=images.shape[1], seed=look.seed, batch=batch, steps=self.steps,
                step_size=self.step_size, **get_recipe(self.recipe),
            )
        )  # fmt: skip
        self._ascent_seconds = time.perf_counter() - began
        if cost := self._costs.get(layer):
            estimate = cost.seconds * -(-len(selection.units) // cost.units)
            self._slower = max(1.0, self._ascent_seconds / max(estimate, 1e-9))
        marks = ["zero gradient" if stuck else None for stuck in ascent.stuck.tolist()]
        count = f"{len(set(ascent.units))} of {selection.total} units"
        sheet = filter_sheet(
            to_display(ascent.images), ascent.units, marks=marks, labels=selection.labels,
            patches=None if real is None else real.patches[selection.places],
            note=None if real is None else f"of {real.search_count} images",
            title=f"{layer} · gradient ascent, {count} · epoch {look.clock}",
        )  # fmt: skip
        return f"filters/{layer}", sheet


class _Units(NamedTuple):
    """The units shown of a layer with ``total`` units; ``places`` are indices in a longer list."""

    total: int
    units: list[int]
    signs: list[int] | None
    labels: list[str] | None
    places: list[int] | None = None

    def first(self, count: int) -> _Units:
        """Return ``count`` of them, evenly spread."""
        places = [round(i * len(self.units) / count) for i in range(count)]
        return self._replace(
            units=[self.units[i] for i in places],
            signs=self.signs and [self.signs[i] for i in places],
            labels=self.labels and [self.labels[i] for i in places],
            places=places,
        )


def _take_until(deadline: float, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the batches in small parts, at least one, until the clock reads ``deadline``."""
    for batch in batches:
        for part in batch.split(_PASS):
            yield part
            if time.perf_counter() > deadline:
                return
