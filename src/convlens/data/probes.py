"""The probes: the few pictures that are explained, the same ones for the whole run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from convlens.data import pixels
from convlens.data.order import generator
from convlens.data.pictures import Pictures
from convlens.errors import UserError


@dataclass(frozen=True)
class Probes:
    """Pictures to explain.

    Attributes:
        images: (N, C, H, W) float in [0, 1].
        labels: (N,) int64; -1 where the true class is not known.
        names: N short names, used in tags and file names.
        sources: N names by which a person finds the picture.
        masks: (N, H, W) bool or None.
    """

    images: Tensor
    labels: Tensor
    names: list[str]
    sources: list[str]
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)


def choose_probes(
    pictures: Pictures, class_names: tuple[str, ...], *, count: int, seed: int
) -> Probes:
    """``count`` pictures, seeded and balanced over the classes, in class order.

    When ``count`` is no multiple of the number of classes the first classes get one more; with
    fewer probes than classes only the first ``count`` classes are shown.
    """
    rng = generator(seed, 2)
    shuffled = rng.permutation(len(pictures))
    by_class = [shuffled[pictures.labels[shuffled] == k] for k in range(len(class_names))]
    rows: list[int] = []
    depth = 0
    while len(rows) < count and any(depth < len(found) for found in by_class):
        rows += [int(found[depth]) for found in by_class if depth < len(found)]
        depth += 1
    chosen = np.array(sorted(rows[:count], key=lambda row: (pictures.labels[row], row)), dtype=int)
    images = torch.from_numpy(pictures.pixels(chosen)).permute(0, 3, 1, 2)
    labels = torch.from_numpy(pictures.labels[chosen])
    masks = None
    if pictures.masks is not None:
        masks = torch.from_numpy(np.asarray(pictures.masks[chosen], dtype=bool))
    return Probes(
        images.float() / 255,
        labels,
        [f"{i:02d}_{_plain(class_names[k])}" for i, k in enumerate(labels.tolist())],
        [pictures.names[row] for row in chosen],
        masks,
    )


def own_probes(files: list[str], class_names: tuple[str, ...], spec: dict) -> Probes:
    """The user's pictures; the true class is known where the folder has a class's name.

    Raises:
        UserError: a file is missing or no picture.
    """
    paths = [Path(file).expanduser() for file in files]
    for path in paths:
        if not path.is_file():
            raise UserError(f"probes.files: there is no file {path}; give paths of pictures")
    decoded = pixels.decoded(
        paths, size=spec["size"], resize=spec["resize"], channels=spec["channels"],
        interpolation=spec["interpolation"], cache="ram", cache_dir=None, on_error="raise",
        progress=False,
    )  # fmt: skip
    images = torch.from_numpy(decoded.images).permute(0, 3, 1, 2).float() / 255
    known = {name: k for k, name in enumerate(class_names)}
    labels = torch.tensor([known.get(path.parent.name, -1) for path in paths])
    names = [f"{i:02d}_{_plain(path.stem)}" for i, path in enumerate(paths)]
    return Probes(images, labels, names, [str(path) for path in paths])


def _plain(name: str) -> str:
    """A name that can stand in a tag and in a file name on any system."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:40] or "_"
