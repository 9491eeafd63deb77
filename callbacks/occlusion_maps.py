"""Occlusion: how much the class's logit falls when a part of the image is covered."""

from __future__ import annotations

import math

import torch
from convlens.callbacks.look import Look
from convlens.callbacks.signed_maps import SignedMaps
from torch import Tensor, nn

from convlens.draw.attribution_panel import describe_reading
from convlens.explain.occlusion import (
    LEAST,
    check_occlusion,
    occlusion,
    superpixel_ablation,
    window_pixels,
)
from convlens.explain.superpixels import superpixels


class OcclusionMaps(SignedMaps):
    """``occlusion/<probe>``: where covering hurts the class (red) and where it helps (blue).

    It needs no gradient and no layer, so it is an independent check of the other maps. It costs
    one pass per window. The defaults make 7 by 7 windows.

    Args:
        window: side of the window, as a fraction of the image's side (0.25) or in pixels (38).
        stride: distance from one window to the next, likewise.
        superpixels: cover patches of similar colour one by one, instead of windows.
        segments: approximate number of superpixels.
        baseline: the covering value in [0, 1], or ``mean``, the mean colour of the image.
        probes: maximum number of probes in a look.
        only: ``correct``, ``wrong`` or ``all``: which probes, by the current prediction.
        target: ``answer`` explains the predicted and the true class; a class name explains that
            class.
        every_n_epochs: look after every n-th epoch.
        batch: maximum number of covered images in a pass; halved when memory runs out.
    """

    def __init__(
        self, *, window: float = 0.25, stride: float = 0.125, superpixels: bool = False,
        segments: int = 49, baseline: float | str = "mean", probes: int = 2,
        only: str = "correct", target: str = "answer", every_n_epochs: int = 1, batch: int = 32,
    ):  # fmt: skip
        super().__init__(
            probes=probes, only=only, target=target, every_n_epochs=every_n_epochs, batch=batch
        )
        self.least = LEAST
        self.window, self.stride, self.baseline = window, stride, baseline
        self.superpixels, self.segments = superpixels, segments

    @property
    def tag(self) -> str:
        return "occlusion"

    @property
    def reading(self) -> str:
        return describe_reading("superpixels" if self.superpixels else self.tag)

    def select_layers(self, network: nn.Module, example: Tensor) -> list[str]:
        window, stride = self._compute_sizes(example)
        size = (example.shape[-2], example.shape[-1])
        check_occlusion(size, window=window, stride=stride, baseline=self.baseline)
        return super().select_layers(network, example)

    def heading(self, look: Look) -> str:
        if self.superpixels:
            return f"occlusion, {self.segments} superpixels"
        window, stride = (
            f"{height}×{width}" for height, width in self._compute_sizes(look.example)
        )
        return f"occlusion, window {window}, stride {stride}"

    def estimate_passes(self, look: Look) -> float:
        if self.superpixels:
            return float(self.segments)
        window, stride = self._compute_sizes(look.example)
        sides = zip(look.example.shape[-2:], window, stride, strict=True)
        return float(math.prod(math.ceil((side - w) / s) + 1 for side, w, s in sides))

    def explain(self, look: Look, image: Tensor, targets: list[int]) -> tuple[Tensor, None]:
        classes = torch.tensor([targets])

        def compute(batch: int) -> Tensor:
            if self.superpixels:
                return superpixel_ablation(
                    look.network, image, classes, superpixels(image, self.segments),
                    baseline=self.baseline, batch=batch,
                ).maps[0]  # fmt: skip
            window, stride = self._compute_sizes(image)
            return occlusion(
                look.network, image, classes, window=window, stride=stride,
                baseline=self.baseline, batch=batch,
            ).maps[0]  # fmt: skip

        return self.fit_batch(compute), None

    def _compute_sizes(self, image: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return window and stride for an image, in pixels."""
        size = (image.shape[-2], image.shape[-1])
        return window_pixels(self.window, size), window_pixels(self.stride, size)
