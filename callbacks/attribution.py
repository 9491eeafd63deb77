"""Any attribution method of Captum, for each probe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from convlens.callbacks.look import Look
from convlens.callbacks.signed_maps import SignedMaps
from torch import Tensor, nn

from convlens.explain.attribution import attribute, check_attribution
from convlens.explain.captum_methods import find_method

COUNTS = ("n_steps", "n_samples", "nt_samples")  # options that say how often the network is called
PASSES = 50.0  # calls of a method without such an option; most make fewer


class Attribution(SignedMaps):
    """``<method>/<probe>``: what speaks for and against the class, by a method of ``captum.attr``.

    A run may have several of these callbacks, each with another method.

    Args:
        method: a class of ``captum.attr``: ``integrated_gradients``, ``GuidedGradCam``, ….
        layer: path of the layer, for methods that need one; None for the last feature map.
        options: arguments of the method, such as ``{n_steps: 20}``; see
            ``convlens.explain.attribution.attribute``.
        smooth: pictures show maps of single pixels averaged with a Gaussian of this standard
            deviation, as a fraction of the image's sides; 0: as they are.
        probes: maximum number of probes in a look.
        only: ``correct``, ``wrong`` or ``all``: which probes, by the current prediction.
        target: ``answer`` explains the predicted and the true class; a class name explains that
            class.
        every_n_epochs: look after every n-th epoch.
        batch: maximum number of images in a pass; halved when memory runs out.

    Raises:
        UserError: the method is unknown.
    """

    def __init__(
        self, *, method: str = "integrated_gradients", layer: str | None = None,
        options: Mapping[str, Any] | None = None, smooth: float = 0.02, probes: int = 2,
        only: str = "all", target: str = "answer", every_n_epochs: int = 1, batch: int = 32,
    ):  # fmt: skip
        super().__init__(
            probes=probes, only=only, target=target, every_n_epochs=every_n_epochs, batch=batch
        )
        self.method, self.layer, self.options = find_method(method), layer, dict(options or {})
        self.smooth = smooth

    @property
    def tag(self) -> str:
        return self.method

    @property
    def name(self) -> str:
        return f"Attribution ({self.method})"

    def select_layers(self, network: nn.Module, example: Tensor) -> list[str]:
        super().select_layers(network, example)
        layer = check_attribution(network, example, self.method, self.layer, self.options)
        return [] if layer is None else [layer]

    def heading(self, look: Look) -> str:
        layers = self.layers_of(look)
        return " · ".join([self.method.replace("_", " "), *layers])

    def estimate_passes(self, look: Look) -> float:
        counts = [float(self.options[name]) for name in COUNTS if name in self.options]
        # a gradient costs about two forward passes more, and two classes are explained
        return 2 * 3.0 * max([*counts, 1.0] if counts else [PASSES])

    def explain(self, look: Look, image: Tensor, targets: list[int]) -> tuple[Tensor, str | None]:
        images, classes = image.expand(len(targets), -1, -1, -1), torch.tensor(targets)
        result = self.fit_batch(
            lambda batch: attribute(
                look.network, images, classes, self.method, layer=self.layer, batch=batch,
                seed=look.seed, **self.options,
            )
        )  # fmt: skip
        for note in result.notes:
            self.log_once(note, f"{self.name}: {note}")
        return result.maps, "; ".join(result.notes) or None
