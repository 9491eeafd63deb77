"""Filter pictures: the kernels of the first layer, and what deeper units respond to."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from convlens.callbacks.embeddings import list_component_sheets, list_position_sheets
from convlens.callbacks.explanation import Findings
from convlens.callbacks.look import Look, Portion
from convlens.callbacks.looks import ExplanationCallback
from convlens.callbacks.pace import Allowance, Pace
from torch import Tensor, nn

from convlens.draw.filter_sheet import filter_sheet, kernel_sheet
from convlens.explain.axes import Layout
from convlens.explain.embeddings import find_positions
from convlens.explain.filters import (
    estimate_step_seconds,
    find_logits_layer,
    get_recipe,
    gradient_ascent,
    kernels,
    to_display,
)
from convlens.explain.importance import unit_effects
from convlens.explain.layers import choose_layers, find_image_convolutions
from convlens.explain.layouts import find_module
from convlens.explain.patches import ExcitingPatches, search_patches
from convlens.explain.units import Units, choose_units

log = logging.getLogger("convlens")
_SHARE = 0.25  # fraction of a look's time for choosing the units, and for the search of patches
_PASS = 8  # images in a pass of the search, which holds the activations of every layer
ASCENT_PASSES = 2.5  # forward passes that a step of ascent costs about
# what some work costs, in forward passes of one image
_EFFECTS = 4.0  # the effects of all units on one probe's prediction
_FIELD = 8  # measuring the receptive fields of a layer
_ESTIMATE = 8  # estimating what an ascent costs
_RESERVED = 60  # a first sheet at the end of the run, on a machine that is four times as busy then
CELL = 0.02  # seconds of drawing and writing a unit's cell, until the first were timed
_NAMED = 2  # layers that the line about missing units names


class FilterVisuals(ExplanationCallback):
    """``layers/filters/<layer>``: the kernels themselves, and images that excite single units most.

    The kernels of a convolution that reads the image itself are drawn at every look. For deeper
    convolutions and dense layers, gradient ascent finds the images: for a few units of each layer
    before training and after every epoch, and for more at the end of the run, if time allows. They
    are the units that matter most for the network's predictions on the probes at that moment, see
    ``convlens.explain.unit_effects``; their numbers and ranks are named. The units of the layer
    that gives the logits are labelled with the class names; a single logit is maximised for one
    class and minimised for the other.

    Of a transformer, the similarity of the learned embeddings of its positions is drawn at every
    look, and the principal components of the kernels that embed its patches before training and at
    the end.

    If too little time is left, fewer units are shown or the layer is skipped, and the next look
    starts with it. An ascent that would last longer than the look is stopped, and the labels say
    after how many steps. At the end of the run time is kept for the sheet of one layer.

    Before training (if there is time) and at the end, the patches of real validation images that
    excite the same units most are drawn beside them; a quarter of the look's time is for them.

    Args:
        layers: ``auto`` (convolutions and dense layers), a name, a glob, or a list of them.
        limit: maximum number of layers with ``auto``, spread over the depth; None for all.
        choose: which units of a layer: ``important`` (those that matter most for the predictions on
            the probes) or ``even`` (evenly spread over the layer, the same at every look).
        units: units of a layer in an epoch's look.
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

    kind, has_final_look = "filters", True

    def __init__(
        self, *, layers: str | list[str] = "auto",
        limit: int | None = 6, choose: Literal["important", "even"] = "important",
        units: int = 8,
        full_units: int | None = 64, steps: int = 30,
        step_size: float = 0.02, recipe: str = "robust", patches: int = 4,
        patch_pictures: int = 200, every_n_epochs: int = 1, batch: int = 64,
    ):  # fmt: skip
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.layers, self.limit, self.choose = layers, limit, choose
        self.units, self.full_units = units, full_units
        self.steps, self.step_size, self.recipe = steps, step_size, recipe
        self.patches, self.patch_pictures = patches, patch_pictures

    def select_layers(self, network: nn.Module, example: Tensor) -> list[str]:
        get_recipe(self.recipe)  # a wrong name is reported before training
        # found before training, so that a short look need not
        self.find_once(network, example, find_image_convolutions)
        self.find_once(network, example, self._find_logits)
        self.find_once(network, example, self._find_positions)
        return self.find_once(network, example, self._find_layers)

    def _find_layers(self, network: nn.Module, example: Tensor) -> list[str]:
        return choose_layers(network, self.layers, "filters", example=example, limit=self.limit)

    def _find_logits(self, network: nn.Module, example: Tensor) -> str | None:
        layers = self.find_once(network, example, self._find_layers)
        return find_logits_layer(network, layers, example)

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {f"layers/filters/{layer}": 1 for layer in layers}

    def portion(self, look: Look) -> Portion | None:
        units = self.full_units if look.final else self.units
        what = "layers × all units" if units is None else f"layers × {units} units"
        passes = ASCENT_PASSES * self.steps * (units or 1)  # of the whole network
        layers = len(self.layers_of(look))
        return Portion(layers, what, "ascent", passes, is_bound=True) if layers else None

    def reserve(self, pace: Pace) -> float:
        return _RESERVED * (pace.estimate("pass", 1) or float("inf"))

    def pictures(self, look: Look) -> Findings:
        layers = self.layers_of(look)
        reading = self.find_once(look.network, look.example, find_image_convolutions)
        reading = [layer for layer in reading if layer in layers]
        for first in reading:
            layers.remove(first)
            title = f"{first} · kernels · epoch {look.clock}"
            weights = kernels(find_module(look.network, first))
            yield f"layers/filters/{first}", kernel_sheet(weights, title=title)
        yield from self._draw_embeddings(look, reading)
        if not layers:
            return
        if look.seconds_left < (0 if look.final else 2 * look.pass_seconds):
            self.report_cut(look, "before gradient ascent")
            return
        selections = self._choose_units(look, layers)
        turns = self.rotate(layers)
        patches = self._search(look, {layer: selections[layer] for layer in turns})
        drawn = dict.fromkeys(layers, 0)
        look.work.begin(total=len(layers))
        for place, layer in enumerate(turns):
            count = self._count_affordable(look, layer, selections[layer], len(layers) - place)
            if count:
                self._turn = layers.index(layer) + 1
                drawn[layer] = yield from self._draw_layer(
                    look, layer, selections[layer], count, patches.get(layer)
                )
            look.work.advance()
        if (
            look.final
            and not any(drawn.values())
            and look.seconds_left > _get_sheet_seconds(look, 1)
        ):
            # one unit of the cheapest layer, in as many steps as there is time for
            steps = {each: self._get_step_seconds(look, each, selections[each]) for each in layers}
            layer = min(layers, key=lambda each: steps[each] or float("inf"))
            drawn[layer] = yield from self._draw_layer(
                look, layer, selections[layer], 1, patches.get(layer)
            )
        missing = [
            f"{count} of {len(selections[layer].units)} units of {layer}"
            for layer, count in drawn.items()
            if count < len(selections[layer].units)
        ]
        if missing:
            more = len(missing) - _NAMED
            named = ", ".join(missing[:_NAMED]) + (
                f", less of {more} more layers" if more > 0 else ""
            )
            self.report_cut(look, f"with {named} drawn")
            log.debug("%s drew only %s", self.name, ", ".join(missing))

    def _find_positions(self, network: nn.Module, example: Tensor) -> dict[str, Layout]:
        """Return the learned embeddings of positions; none if layers are named."""
        return find_positions(network, example) if self.layers in ("auto", ["auto"]) else {}

    def _draw_embeddings(self, look: Look, reading: list[str]) -> Findings:
        positions = self.find_once(look.network, look.example, self._find_positions)
        when = f" · epoch {look.clock}"
        sheets = [*list_position_sheets(look.network, positions, when)]
        if look.final or look.clock == 0:
            sheets += list_component_sheets(look.network, reading, when)
        for tag, make in sheets:
            yield from self.draw(look, tag, make)

    # --- which units

    def _choose_units(self, look: Look, layers: list[str]) -> dict[str, Units]:
        """Return the units of each layer to show at this look, with their labels."""
        effects = self._measure_effects(look, layers) if self.choose == "important" else {}
        logits = self.find_once(look.network, look.example, self._find_logits)
        count = (self.full_units if look.final else self.units) or None
        selections = {
            layer: choose_units(
                look.network, layer, count, effects=effects.get(layer),
                class_names=look.class_names if layer == logits else (),
            )
            for layer in layers
        }  # fmt: skip
        if self.choose == "important" and not effects:
            reason = "for lack of time to find those that matter most"
            return {
                layer: replace(each, choice=each.choice and f"{each.choice}, {reason}")
                for layer, each in selections.items()
            }
        return selections

    def _measure_effects(self, look: Look, layers: list[str]) -> dict[str, Tensor]:
        """Return (B, U) effects of each layer's units, for as many probes as there is time for."""
        images, found = look.probes.images, []
        seconds = _SHARE * look.seconds_left
        short = replace(look, deadline=time.perf_counter() + seconds)
        kind = ("unit effects", *layers)
        for part in short.pieces(kind, len(images), batch=self.batch, passes=_EFFECTS):
            found.append(self._measure(look, images[part], layers))
        return {layer: torch.cat([each[layer] for each in found]) for layer in layers if found}

    def _measure(self, look: Look, images: Tensor, layers: list[str]) -> dict[str, Tensor]:
        return self.fit_batch(lambda batch: unit_effects(look.network, images, layers, batch=batch))

    # --- what there is time for

    def _count_affordable(self, look: Look, layer: str, selection: Units, waiting: int) -> int:
        """Return how many units there is time for, in equal parts for each layer still waiting.

        If that is not enough for one unit, it may use all the time that is left.
        """
        units, kind = len(selection.units), _get_kind(layer, selection)
        if look.seconds_left == float("inf"):
            return units
        if look.pace.estimate(kind, 1) is None:
            if _ESTIMATE * look.pass_seconds > look.seconds_left:
                return 0
            images = look.example
            seconds = self.fit_batch(
                lambda batch: estimate_step_seconds(
                    look.network, layer, units, size=(images.shape[-2], images.shape[-1]),
                    channels=images.shape[1], batch=batch,
                )
            )  # fmt: skip
            look.pace.note(kind, 1, seconds)
        step, left = self._get_step_seconds(look, layer, selection) or 0.0, look.seconds_left
        each = step * self.steps + _get_sheet_seconds(look, units) / units
        return max(0, min(units, int(left / waiting / each) or int(left >= each)))

    def _get_step_seconds(self, look: Look, layer: str, selection: Units) -> float | None:
        """Return the seconds of a step for one of the units; None if none was measured."""
        steps = max(1, len(selection.units) * self.steps)
        seconds = look.pace.estimate(_get_kind(layer, selection), steps)
        return None if seconds is None else seconds / steps

    def _search(self, look: Look, selections: dict[str, Units]) -> dict[str, ExcitingPatches]:
        """Return the patches of as many layers as there is time for.

        Args:
            look: the current look.
            selections: the units of each layer, those to draw first at the front.

        Returns:
            Nothing between the first look and the last.
        """
        if not self.patches or not (look.final or look.clock == 0):
            return {}
        seconds, chosen = _SHARE * look.seconds_left, list(selections)
        while chosen and look.pass_seconds * (_FIELD * len(chosen) + _PASS) > seconds:
            chosen.pop()
        if not chosen:
            return {}
        deadline = time.perf_counter() + seconds

        def search(batch: int) -> dict[str, ExcitingPatches]:
            source = look.sample_images
            images = source(self.patch_pictures) if source else [look.probes.images]
            return search_patches(
                look.network, {layer: selections[layer].units for layer in chosen},
                _take_until(deadline, images), count=self.patches, batch=batch,
                signs={layer: selections[layer].signs for layer in chosen},
            )  # fmt: skip

        return self.fit_batch(search)

    # --- one sheet

    def _draw_layer(
        self, look: Look, layer: str, selection: Units, count: int, real: ExcitingPatches | None
    ) -> Generator[tuple[str, np.ndarray], None, int]:
        """Yield the sheet of ``count`` units of a layer, and return how many of them it shows."""
        images, part, began = look.example, selection.first(count), time.perf_counter()
        # another step, and the pass after the last one, end in time
        step = self._get_step_seconds(look, layer, selection) or 3 * look.pass_seconds
        stop = look.deadline - _get_sheet_seconds(look, count) - 1.5 * count * step
        on_cpu = images.device.type == "cpu"
        ascent = self.fit_batch(
            lambda batch: gradient_ascent(
                look.network, layer, part.units, signs=part.signs,
                size=(images.shape[-2], images.shape[-1]),
                channels=images.shape[1], seed=look.seed, batch=batch, steps=self.steps,
                step_size=self.step_size, proceed=Allowance(stop, on_cpu=on_cpu),
                **get_recipe(self.recipe),
            )
        )  # fmt: skip
        shown, steps = to_display(ascent.images).cpu(), ascent.steps.tolist()
        ended, count = time.perf_counter(), len(steps)
        look.pace.note(_get_kind(layer, selection), max(1, sum(steps)), ended - began)
        labels = [
            label if taken == self.steps else f"{label} · {taken} of {self.steps} steps"
            for label, taken in zip(part.labels, steps, strict=False)
        ]
        facts = f"{len(set(ascent.units))} of {part.total} units"
        sheet = filter_sheet(
            shown, ascent.units, labels=labels, choice=part.choice,
            marks=["zero gradient" if stuck else None for stuck in ascent.stuck.tolist()],
            patches=None if real is None else real.patches[part.places][:count],
            source=f"{real.search_count} {look.split} images" if real else "",
            title=f"{layer} · gradient ascent, {facts} · epoch {look.clock}",
        )  # fmt: skip
        yield f"layers/filters/{layer}", sheet
        look.pace.note("filter cells", count, time.perf_counter() - ended)
        return count


def _get_kind(layer: str, selection: Units) -> tuple[str, str, int]:
    """Return the kind of work, see ``Pace``: a step of one of the units."""
    return "ascent", layer, len(selection.units)


def _get_sheet_seconds(look: Look, cells: int) -> float:
    return look.pace.estimate("filter cells", cells) or CELL * cells


def _take_until(deadline: float, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the batches in small parts, at least one, until the clock reads ``deadline``."""
    for batch in batches:
        for part in batch.split(_PASS):
            yield part
            if time.perf_counter() > deadline:
                return
