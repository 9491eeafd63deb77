"""Any attribution method of Captum, for each probe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from convlens.callbacks.explanation import Look
from convlens.callbacks.signed_maps import SignedMaps
from torch import Tensor

from convlens.explain.attribution import attribute, check_attribution
from convlens.explain.captum_methods import find_method


class Attribution(SignedMaps):
    """``<method>/<probe>``: what ``captum.attr`` finds for and against the class.

    Several of them, each with a method of its own, may stand side by side.

    Args:
        method: a class of ``captum.attr``: ``integrated_gradients``, ``GuidedGradCam``, ….
        layer: for methods that explain a layer or through one: its path; null for the last
            feature map.
        options: the method's own, such as ``{n_steps: 20}``; see
            :func:`convlens.explain.attribution.attribute`.
        probes: so many at a look at most.
        only: ``correct``, ``wrong`` or ``all``: which probes, by the network's answer at this look.
        target: ``answer`` explains the predicted and the true class; the name of a class that one.
        every_n_epochs, batch: see :class:`~convlens.callbacks.explanation.Explanation`.

    Raises:
        UserError: an unknown method.
    """

    def __init__(
        self, *, method: str = "integrated_gradients", layer: str | None = None,
        options: Mapping[str, Any] | None = None, probes: int = 2, only: str = "all",
        target: str = "answer", every_n_epochs: int = 1, batch: int = 32,
    ):  # fmt: skip
        super().__init__(
            probes=probes, only=only, target=target, every_n_epochs=every_n_epochs, batch=batch
        )
        self.method, self.layer, self.options = find_method(method), layer, dict(options or {})

    @property
    def tag(self) -> str:
        return self.method

    @property
    def name(self) -> str:
        return f"Attribution ({self.method})"

    def select_layers(self, network, example) -> list[str]:
        super().select_layers(network, example)
        layer = check_attribution(network, example, self.method, self.layer, self.options)
        return [] if layer is None else [layer]

    def heading(self, look: Look) -> str:
        layers = self.layers_at(look)
        return " · ".join([self.method.replace("_", " "), *layers])

    def explain(self, look: Look, image: Tensor, targets: list[int]) -> tuple[Tensor, str | None]:
        images, classes = image.expand(len(targets), -1, -1, -1), torch.tensor(targets)
        found = self.fitting(
            lambda batch: attribute(
                look.network, images, classes, self.method, layer=self.layer, batch=batch,
                seed=look.seed, **self.options,
            )
        )  # fmt: skip
        for note in found.notes:
            self.say(note, f"{self.name}: {note}")
        return found.maps, "; ".join(found.notes) or None
