"""Which layers training changed, and when."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from convlens.callbacks.evidence import Stream
from convlens.callbacks.explanation import Findings
from convlens.callbacks.look import Look, Portion
from convlens.callbacks.looks import ExplanationCallback
from torch import Tensor, nn

from convlens.draw.change_map import change_map
from convlens.explain.activations import Activations, activations
from convlens.explain.alignment import FEWEST, cka, compute_gram
from convlens.explain.layers import choose_layers

KIND = "layer changes"
PASSES = 1.3  # forward passes of one image that a unit costs about
STATE_KEYS = ("start", "before", "rows")  # in checkpoints
Grams = dict[str, Tensor]  # layer -> (B, N, N), see ``cka``


class LayerChanges(ExplanationCallback):
    """``layers/changes``: the CKA of each layer with the look before, and with the start.

    The start is the network before training, so with pretrained weights the picture shows which
    layers fine-tuning changed. The numbers are ``explain/cka_before/<layer>`` and
    ``explain/cka_start/<layer>``; see ``convlens.explain.alignment``.

    Args:
        layers: ``auto`` (the output of each stage), a name, a glob, or a list of them.
        limit: maximum number of layers with ``auto``, spread over the depth.
        pictures: number of validation images; without a data set, the probes are used.
        every_n_epochs: look after every n-th epoch.
        batch: images among which a layer's outputs are compared, and those in a pass; at least 4.
    """

    for_some_networks = True

    def __init__(
        self, *, layers: str | list[str] = "auto", limit: int = 12, pictures: int = 32,
        every_n_epochs: int = 1, batch: int = 16,
    ):  # fmt: skip
        super().__init__(every_n_epochs=every_n_epochs, batch=batch)
        self.layers, self.limit, self.count = layers, limit, pictures
        self._start: Grams = {}
        self._before: Grams = {}
        # completed epochs, and by layer the CKA with the look before and with the start
        self._rows: list[tuple[int, dict[str, tuple[float, ...]]]] = []

    def state_dict(self) -> dict:
        return {name: getattr(self, f"_{name}") for name in STATE_KEYS}

    def load_state_dict(self, state_dict: dict) -> None:
        for name in STATE_KEYS:
            setattr(self, f"_{name}", state_dict[name])

    def select_layers(self, network: nn.Module, example: Tensor) -> list[str]:
        return choose_layers(network, self.layers, "stages", example=example, limit=self.limit)

    def find_obstacle(self, network: nn.Module, example: Tensor) -> str:
        if self.select_layers(network, example):
            return ""
        return "the network has no layer that returns maps or tokens"

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {"layers/changes": 1} if layers else {}

    def portion(self, look: Look) -> Portion | None:
        count = self._count(look)
        return Portion(count, "images", KIND, PASSES, count) if self.layers_of(look) else None

    def _count(self, look: Look) -> int:
        if look.sample_labels is None:
            return len(look.probes)
        return len(look.sample_labels(self.count))

    def pictures(self, look: Look) -> Findings:
        layers, count = self.layers_of(look), self._count(look)
        if not layers or (self._rows and self._rows[-1][0] == look.clock):
            return  # the look at the end follows that of the last epoch
        if min(count, self.batch) < FEWEST:
            self.log_once("few", f"{self.name} draws nothing: it needs {FEWEST} images or more")
            return
        if not look.affords(KIND, count, PASSES):
            self.report_cut(look, "before comparing the layers")
            return
        with look.timed(KIND, count):
            found = self._compute_grams(look, layers, count)
        if look.clock == 0:
            self._start = found
        if self._before:
            yield from self._compare(look, layers, found, count)
        self._before = found

    def _compute_grams(self, look: Look, layers: list[str], count: int) -> Grams:
        """Return the Gram matrices of each layer, for as many whole batches as there are."""
        size = min(self.batch, count)
        batches = [look.probes.images] if look.sample_images is None else look.sample_images(count)
        stream = Stream(batches)
        grams: dict[str, list[Tensor]] = {layer: [] for layer in layers}
        for _ in range(count // size):
            images = stream.take(size)
            outputs = self.fit_batch(partial(_read, look, images, layers))
            for layer in layers:
                grams[layer].append(compute_gram(outputs.all_values(layer)).cpu())
        return {layer: torch.stack(each) for layer, each in grams.items()}

    def _compare(self, look: Look, layers: list[str], found: Grams, count: int) -> Findings:
        values = {
            layer: tuple(_compare_layer(found, old, layer) for old in (self._before, self._start))
            for layer in layers
        }
        self._rows.append((look.clock, values))
        for number, name in enumerate(("cka_before", "cka_start")):
            for layer, pair in values.items():
                if not np.isnan(pair[number]):
                    yield f"explain/{name}/{layer}", pair[number]
        epochs = [epoch for epoch, _ in self._rows]
        before, start = (
            np.array([[values[layer][number] for _, values in self._rows] for layer in layers])
            for number in (0, 1)
        )
        title = f"how alike each layer stays · {count} {look.split} images · epoch {look.clock}"
        yield from self.draw(
            look, "layers/changes",
            partial(
                change_map, layers, epochs, before, start if self._start else None, title=title
            ),
        )  # fmt: skip


def _compare_layer(found: Grams, earlier: Mapping[str, Tensor], layer: str) -> float:
    known = layer in earlier and earlier[layer].shape == found[layer].shape
    return cka(found[layer], earlier[layer]) if known else float("nan")


def _read(look: Look, images: Tensor, layers: list[str], batch: int) -> Activations:
    return activations(look.network, images, layers, batch=batch)
