"""What ``explain`` returns: a network's prediction for one image, with maps and panels."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from convlens.core.photograph import Photograph
from convlens.draw.grad_cam_panel import ClassMap, LayerMap, Role, format_probability
from convlens.draw.jpeg import encode_jpeg
from convlens.explain.shrink import shrink_maps
from convlens.pages.render import data_uri
from convlens.rundir.maps import IMAGE, SIDE, Maps, format_rank
from convlens.rundir.tags import find_picture


@dataclass(frozen=True, eq=False)
class Explanation:
    """A network's prediction for one image and its explanations; a notebook displays the panels.

    Shapes: ``C`` channels, ``H W`` image size, ``h w`` size of a layer's maps, ``K`` classes,
    ``T`` explained classes.

    Attributes:
        name: name of the image.
        source: path of the image, see ``name_source``; empty if it does not come from a file.
        picture: ``(C, H, W)`` in [0, 1], the image as the network gets it before normalisation.
        photograph: the image at its own proportions, on which maps are drawn.
        class_names: ``K`` names.
        probabilities: ``(K,)`` in [0, 1].
        targets: the ``T`` explained classes.
        predicted: the predicted classes, the most probable first; if an image may have several,
            those from their threshold on.
        grad_cam: by layer, ``(T, h, w)``, at least 0, on the scale of logits.
        maps: by method (``occlusion``, ``legrad``, a method of Captum, …), ``(T, H, W)`` or
            ``(T, h, w)``; signed, but those of ``legrad`` and ``relevance`` are at least 0.
        map_layers: by method of ``maps``, the explained layer; methods that explain the image
            itself are missing.
        attention: by layer, ``(heads, h, w)``, at least 0; and ``rollout`` of all layers,
            ``(1, h, w)``. It is the same for every class.
        activations: by layer, ``(C', h, w)``.
        panels: the drawn explanations by tag, uint8 ``(H, W, 3)``.
        notes: remarks that help to read the maps, one line each.
    """

    name: str
    source: str
    picture: Tensor
    photograph: Photograph
    class_names: tuple[str, ...]
    probabilities: Tensor
    targets: tuple[int, ...]
    predicted: tuple[int, ...]
    grad_cam: dict[str, Tensor] = field(default_factory=dict)
    maps: dict[str, Tensor] = field(default_factory=dict)
    map_layers: dict[str, str] = field(default_factory=dict)
    attention: dict[str, Tensor] = field(default_factory=dict)
    activations: dict[str, Tensor] = field(default_factory=dict)
    panels: dict[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """Return the most probable classes with their probabilities, in decreasing order."""
        values, numbers = self.probabilities.topk(min(count, len(self.probabilities)))
        names = (self.class_names[number] for number in numbers.tolist())
        return list(zip(names, values.tolist(), strict=True))

    def __str__(self) -> str:
        classes = (f"{name} {format_probability(value)}" for name, value in self.top(3))
        return f"{self.name}: {', '.join(classes)}"

    def _repr_html_(self) -> str:
        parts = [f"<p><b>{html.escape(str(self))}</b></p>"]
        for tag, panel in self.panels.items():
            uri, alt = data_uri(encode_jpeg(panel)), html.escape(tag)
            parts.append(f'<p><img src="{uri}" alt="{alt}" style="max-width:100%"></p>')
        return "\n".join(parts)

    def row(self, number: int, layers: Sequence[LayerMap]) -> ClassMap:
        """Return the row of a panel for one target.

        Args:
            number: index into ``targets``.
            layers: maps of the target; the last one is drawn large.
        """
        target, (*others, last) = self.targets[number], layers
        role: Role = "predicted" if target in self.predicted else "target"
        return ClassMap(
            last.map, self.class_names[target], role, float(self.probabilities[target]),
            last.scale, last.layer, tuple(others),
        )  # fmt: skip

    def to_maps(self, side: int = SIDE) -> list[Maps]:
        """Return Grad-CAM and the signed maps as a run keeps them, each with one probe.

        Args:
            side: larger maps are averaged down to at most ``side × side`` cells.
        """
        found = {"grad_cam": self.grad_cam} if self.grad_cam else {}
        for method, maps in self.maps.items():
            found[method] = {self.map_layers.get(method, IMAGE): maps}
        roles = [self._role(number) for number in range(len(self.targets))]
        names = [self.class_names[target] for target in self.targets]
        shares = self.probabilities[list(self.targets)].numpy()
        return [
            Maps(
                method, [self.name], roles, [names], shares[None],
                {name: shrink_maps(maps, side)[None].numpy() for name, maps in layers.items()},
            )
            for method, layers in found.items()
        ]  # fmt: skip

    def _role(self, number: int) -> str:
        """Return why a target is explained, see ``Maps``; several are the most probable ones."""
        if len(self.targets) > 1:
            return format_rank(number + 1) if number else "predicted"
        return "predicted" if self.targets[0] in self.predicted else "target"

    def save(self, folder: str | os.PathLike) -> list[Path]:
        """Write every panel as ``<tag>.jpg`` in ``folder``, and return the files."""
        folder = Path(folder)
        return [find_picture(folder, tag) for tag in write_panels(folder, self.panels)]


def write_panels(folder: Path, panels: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """Write panels, uint8 ``(H, W, 3)`` by tag, as ``<tag>.jpg``; return the encoded files."""
    encoded = {tag: encode_jpeg(panel) for tag, panel in panels.items()}
    for tag, content in encoded.items():
        file = find_picture(folder, tag)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return encoded
