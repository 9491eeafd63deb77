"""``data=mnist`` and ``data=cifar10``: images that lie in files of many and fit in memory.

Legend: N images, H W C height, width, channels.
"""

from __future__ import annotations

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from convlens.config.schema import DataConfig, OwnDataConfig
from convlens.config.targets import call, instantiate
from convlens.core.errors import UserError
from convlens.data.index.digests import array_digests
from convlens.data.index.splits import assign_splits
from convlens.data.pixels.dataset import Dataset, Images
from convlens.data.sources import torchvision_sets
from convlens.data.sources.places import find_data_dir
from convlens.data.sources.source import Download, Index, read_split_fractions

# by name: what reads a set, its classes, megabytes of its download
SETS = {
    "mnist": (torchvision_sets.read_mnist, torchvision_sets.MNIST_CLASSES, 12),
    "cifar10": (torchvision_sets.read_cifar10, torchvision_sets.CIFAR10_CLASSES, 170),
}


def index_packed(spec: DataConfig, seed: int) -> Index:
    """A torchvision set: small images that fit in memory, with a test split of its own."""
    read, class_names, _ = SETS[spec.name]
    return _index(spec, seed, read(find_data_dir(spec)), class_names)


def index_user_set(spec: OwnDataConfig, seed: int) -> Index:
    """A person's own set, from what its class reads; see ``docs/extending.md``.

    Raises:
        UserError: the class is none, does not take its keys, or reads something else.
    """
    own = instantiate("data", spec, size=spec.size, channels=spec.channels, seed=seed)
    names, raw = call("data", spec.class_path, lambda: (tuple(own.class_names), own.read()))
    for split in ("train", "test"):
        if not _fits(raw, split, len(names)):
            raise UserError(
                f"data: {spec.class_path}.read() gives no {split!r}: (images, labels): uint8 "
                f"(N, H, W, C), C 1 or 3, and (N,) whole numbers, 0 to {len(names) - 1} for its "
                f"{len(names)} class_names"
            )
    return _index(spec, seed, {split: raw[split] for split in ("train", "test")}, names)


def _fits(raw: object, split: str, classes: int) -> bool:
    try:
        images, labels = raw[split]
        alike = images.dtype == np.uint8 and labels.dtype.kind in "iu"
        shaped = images.shape[3] in (1, 3) and labels.shape == images.shape[:1]
        return alike and shaped and labels.min() >= 0 and labels.max() < classes
    except (TypeError, LookupError, ValueError, AttributeError):
        return False


def _index(
    spec: DataConfig, seed: int, raw: dict[str, torchvision_sets.Split],
    class_names: tuple[str, ...],
) -> Index:  # fmt: skip
    images, labels = raw["train"]
    shares = read_split_fractions(spec, ("test",))
    assigned = assign_splits(labels, seed=seed, **shares)
    digests = {name: array_digests(pictures) for name, (pictures, _) in raw.items()}
    leaked = np.isin(digests["test"], digests["train"])
    notes = []
    if leaked.any():
        notes.append(
            f"{leaked.sum()} test images are left out because the same ones are in training or "
            f"validation, such as {spec.name}/test/{np.argmax(leaked)}"
        )
    parts = {
        "train": (images, labels, np.flatnonzero(assigned == "train")),
        "validation": (images, labels, np.flatnonzero(assigned == "validation")),
        "test": (*raw["test"], np.flatnonzero(~leaked)),
    }

    def load() -> Dataset:
        made = {}
        for split, (pictures, classes, rows) in parts.items():
            whole = "test" if split == "test" else "train"
            names = [f"{spec.name}/{whole}/{row}" for row in rows]
            fitted = _fitted(pictures[rows], spec)
            made[split] = Images(fitted, classes[rows], names, digests=digests[whole][rows])
        return Dataset(made, class_names, notes)

    counts = {
        split: np.bincount(classes[rows], minlength=len(class_names))
        for split, (_, classes, rows) in parts.items()
    }
    return Index(class_names, counts, load, notes=notes)


def _fitted(images: np.ndarray, spec: DataConfig) -> np.ndarray:
    """(N, H, W, C) uint8 brought to the wanted size and channels."""
    size, channels = spec.size, spec.channels
    if images.shape[3] == channels and images.shape[1:3] == (size, size):
        return images
    how = InterpolationMode(spec.interpolation)
    parts = []
    for start in range(0, len(images), 4096):
        part = torch.from_numpy(images[start : start + 4096]).permute(0, 3, 1, 2)
        part = tv.resize(part, [size, size], how, antialias=True)
        if part.shape[1] != channels:
            part = tv.rgb_to_grayscale(part) if channels == 1 else part.expand(-1, 3, -1, -1)
        parts.append(part.permute(0, 2, 3, 1).contiguous().numpy())
    return np.concatenate(parts)


def find_pending(spec: DataConfig) -> Download | None:
    """What a run would download, or None."""
    read, class_names, megabytes = SETS[spec.name]
    folder = find_data_dir(spec)
    try:
        read(folder, download=False)
    except UserError:
        return Download(folder, megabytes, class_names)
    return None
