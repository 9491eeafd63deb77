"""``data=mnist``, ``data=cifar10`` and custom data sets: arrays of images that fit in memory.

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

# name -> (function that reads the set, its class names, megabytes to download)
SETS = {
    "mnist": (torchvision_sets.read_mnist, torchvision_sets.MNIST_CLASSES, 12),
    "cifar10": (torchvision_sets.read_cifar10, torchvision_sets.CIFAR10_CLASSES, 170),
}


def index_packed(spec: DataConfig, seed: int) -> Index:
    """Return the index of a torchvision set: small images in memory, with its own test split."""
    read, class_names, _ = SETS[spec.name]
    return _build_index(spec, seed, read(find_data_dir(spec)), class_names)


def index_user_set(spec: OwnDataConfig, seed: int) -> Index:
    """Return the index of a custom data set, from what its class reads (docs/extending.md).

    Args:
        spec: the config group ``data`` with the class and its arguments.
        seed: decides the split.

    Raises:
        UserError: the class does not exist, rejects its keys, or does not return images
            and labels.
    """
    source = instantiate("data", spec, size=spec.size, channels=spec.channels, seed=seed)
    names, arrays = call(
        "data", spec.class_path, lambda: (tuple(source.class_names), source.read())
    )
    for split in ("train", "test"):
        if not _is_valid(arrays, split, len(names)):
            raise UserError(
                f"data: {spec.class_path}.read() needs {split!r}: (images, labels): uint8 "
                f"(N, H, W, C) with C 1 or 3, and (N,) whole numbers 0 to {len(names) - 1} for "
                f"its {len(names)} class_names"
            )
    return _build_index(spec, seed, {split: arrays[split] for split in ("train", "test")}, names)


def _is_valid(arrays: object, split: str, classes: int) -> bool:
    try:
        images, labels = arrays[split]
        is_typed = images.dtype == np.uint8 and labels.dtype.kind in "iu"
        is_shaped = images.shape[3] in (1, 3) and labels.shape == images.shape[:1]
        return is_typed and is_shaped and labels.min() >= 0 and labels.max() < classes
    except (TypeError, LookupError, ValueError, AttributeError):
        return False


def _build_index(
    spec: DataConfig, seed: int, arrays: dict[str, torchvision_sets.Split],
    class_names: tuple[str, ...],
) -> Index:  # fmt: skip
    images, labels = arrays["train"]
    fractions = read_split_fractions(spec, ("test",))
    assigned = assign_splits(labels, seed=seed, **fractions)
    digests = {name: array_digests(pixels) for name, (pixels, _) in arrays.items()}
    leaked = np.isin(digests["test"], digests["train"])
    notes = []
    if leaked.any():
        notes.append(
            f"left out {leaked.sum()} test images because training or validation contains the "
            f"same ones, such as {spec.name}/test/{np.argmax(leaked)}"
        )
    parts = {
        "train": (images, labels, np.flatnonzero(assigned == "train")),
        "validation": (images, labels, np.flatnonzero(assigned == "validation")),
        "test": (*arrays["test"], np.flatnonzero(~leaked)),
    }

    def load() -> Dataset:
        splits = {}
        for split, (pixels, classes, rows) in parts.items():
            source = "test" if split == "test" else "train"
            names = [f"{spec.name}/{source}/{row}" for row in rows]
            resized = _resize(pixels[rows], spec)
            splits[split] = Images(resized, classes[rows], names, digests=digests[source][rows])
        return Dataset(splits, class_names, notes)

    counts = {
        split: np.bincount(classes[rows], minlength=len(class_names))
        for split, (_, classes, rows) in parts.items()
    }
    return Index(class_names, counts, load, notes=notes)


def _resize(images: np.ndarray, spec: DataConfig) -> np.ndarray:
    """Convert (N, H, W, C) uint8 to the configured size and channels."""
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
    """Return what a run would download, or None."""
    read, class_names, megabytes = SETS[spec.name]
    folder = find_data_dir(spec)
    try:
        read(folder, download=False)
    except UserError:
        return Download(folder, megabytes, class_names)
    return None
