"""What a network says of one picture, and why."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from convlens.draw.grad_cam_panel import probability_text
from convlens.draw.jpeg import encode_jpeg
from convlens.pages.render import data_uri


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a network says of one picture, and why. In a notebook it shows itself.

    Shapes: ``C`` channels, ``H W`` picture size, ``h w`` size of a layer's maps, ``K`` classes,
    ``T`` classes explained.

    Attributes:
        name: of the picture.
        picture: ``(C, H, W)`` in [0, 1], as the network sees it before normalisation.
        class_names: ``K`` names.
        probabilities: ``(K,)`` in [0, 1].
        targets: the ``T`` classes explained.
        grad_cam: layer -> ``(T, h, w)``, at least 0; on the scale of logits.
        maps: method (``occlusion``, ``superpixels``, any of Captum's) -> ``(T, H, W)``, or
            ``(T, h, w)`` of a layer; signed.
        activations: layer -> ``(C', h, w)``.
        panels: tag -> uint8 ``(H, W, 3)``, the drawn explanations.
        notes: what a reader of the maps should know, one line each.
    """

    name: str
    picture: Tensor
    class_names: tuple[str, ...]
    probabilities: Tensor
    targets: tuple[int, ...]
    grad_cam: dict[str, Tensor]
    maps: dict[str, Tensor]
    activations: dict[str, Tensor]
    panels: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The likeliest classes with their probabilities, the likeliest first."""
        shares, numbers = self.probabilities.topk(min(count, len(self.probabilities)))
        names = (self.class_names[number] for number in numbers.tolist())
        return list(zip(names, shares.tolist(), strict=True))

    def __str__(self) -> str:
        said = ", ".join(f"{name} {probability_text(share)}" for name, share in self.top(3))
        return f"{self.name}: {said}"

    def _repr_html_(self) -> str:
        parts = [f"<p><b>{html.escape(str(self))}</b></p>"]
        for tag, panel in encode_panels(self.panels).items():
            uri, alt = data_uri(panel), html.escape(tag)
            parts.append(f'<p><img src="{uri}" alt="{alt}" style="max-width:100%"></p>')
        return "\n".join(parts)

    def save(self, folder: str | os.PathLike) -> list[Path]:
        """Write every panel as ``<tag>.jpg`` below ``folder``; returns the files."""
        return write_panels(Path(folder), encode_panels(self.panels))


def encode_panels(panels: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """Panels, uint8 ``(H, W, 3)`` by tag, as JPEG."""
    return {tag: encode_jpeg(panel) for tag, panel in panels.items()}


def write_panels(folder: Path, encoded: Mapping[str, bytes]) -> list[Path]:
    """Write encoded panels as ``<tag>.jpg`` below ``folder``; returns the files."""
    files = [folder / f"{tag}.jpg" for tag in encoded]
    for file, content in zip(files, encoded.values(), strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return files
