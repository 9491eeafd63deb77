"""The sources of pictures behind one interface: look first (cheap), then load.

``index(spec)`` reads names and labels, checks everything a person can have got wrong and counts;
``Index.load()`` decodes. ``make plan`` needs only the first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from convlens.data import (
    cache,
    downloads,
    listing,
    masks,
    pets,
    pixels,
    shapes,
    splits,
    torchvision_sets,
    trimaps,
    twins,
)
from convlens.data.files import Texts
from convlens.data.pictures import SPLITS, Dataset, Pictures
from convlens.errors import UserError, nearest

DEFAULT_SHARE = 0.15  # of the pictures, for each split that a layout lacks


@dataclass(frozen=True)
class Index:
    """What a source holds, before anything is decoded.

    Attributes:
        class_names: K names.
        counts: split name to (K,) number of pictures per class.
        load: decodes everything.
        listing: the files, for sources that have files.
        notes: lines the person should read.
        masked: split name to the number of pictures with a mask; empty: this source has none.
    """

    class_names: tuple[str, ...]
    counts: dict[str, np.ndarray]
    load: Callable[[], Dataset]
    listing: listing.Listing | None = None
    notes: list[str] = field(default_factory=list)
    masked: dict[str, int] = field(default_factory=dict)


def data_dir(spec: dict) -> Path:
    """``data.dir``, or the place where the data set is looked for by its name."""
    if spec["dir"]:
        return Path(spec["dir"]).expanduser()
    return Path(os.environ.get("CONVLENS_DATA", "data")).expanduser() / spec["name"]


def cache_dir() -> Path:
    """Where pixel and feature caches lie: ``$CONVLENS_CACHE`` or ``~/.cache/convlens``."""
    return Path(os.environ.get("CONVLENS_CACHE", "~/.cache/convlens")).expanduser()


def index(spec: dict, seed: int) -> Index:
    """Look at the source that the config group ``data`` describes.

    Args:
        spec: plain dictionary of ``data/*.yaml``.
        seed: decides the split where the source has none, and what ``shapes`` draws.

    Raises:
        UserError: one line for whatever a person can mend.
    """
    if spec["name"] not in SOURCES:
        raise UserError(f"data.name={spec['name']}: {nearest(str(spec['name']), SOURCES)}")
    for key, known in {
        "resize": ("squash", "crop", "pad"),
        "interpolation": ("bilinear", "nearest", "bicubic"),
        "cache": ("disk", "ram"),
    }.items():
        if spec[key] not in known:
            raise UserError(f"data.{key}={spec[key]}: {nearest(str(spec[key]), known)}")
    if spec["channels"] not in (1, 3):
        raise UserError(f"data.channels={spec['channels']}: 1 (grey) or 3 (colour)")
    if not isinstance(spec["size"], int) or spec["size"] < 8:
        raise UserError(f"data.size={spec['size']}: a number of pixels of at least 8 is expected")
    return SOURCES[spec["name"]](spec, seed)


@dataclass(frozen=True)
class Download:
    """What :func:`index` would fetch before anything else.

    Attributes:
        folder: where it would lie.
        megabytes: size of the archive or files.
        class_names: known without it.
    """

    folder: Path
    megabytes: int
    class_names: tuple[str, ...]


def pending_download(spec: dict) -> Download | None:
    """What a run with ``spec`` would download, or None: nothing is fetched or changed."""
    folder = data_dir(spec)
    if spec["name"] == "flowers" and not folder.exists():
        return Download(folder, 218, downloads.FLOWERS_CLASSES)
    if spec["name"] == "pets":
        names = pets.class_names(spec["labels"])
        return None if pets.is_there(folder) else Download(folder, pets.MEGABYTES, names)
    for name, read, megabytes, names in (
        ("mnist", torchvision_sets.mnist, 12, torchvision_sets.MNIST_CLASSES),
        ("cifar10", torchvision_sets.cifar10, 170, torchvision_sets.CIFAR10_CLASSES),
    ):
        if spec["name"] == name:
            try:
                read(folder, download=False)
            except UserError:
                return Download(folder, megabytes, names)
    return None


def _shares(spec: dict, present: tuple[str, ...] = ()) -> dict[str, float]:
    """The split rule; a share for a split that the source already has is refused."""
    shares = {}
    for split in ("validation", "test"):
        share = spec["split"][split]
        if split in present:
            if share is not None:
                raise UserError(
                    f"data.split.{split}={share}: data={spec['name']} already has its own "
                    f"{split} pictures; leave the key out"
                )
            share = 0
        shares[split] = DEFAULT_SHARE if share is None else share
    return shares


def _counts(labels: np.ndarray, assigned: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    return {split: np.bincount(labels[assigned == split], minlength=classes) for split in SPLITS}


def _shapes(spec: dict, seed: int) -> Index:
    """The embedded set: drawn, not read; the test pictures never carry the shortcut's marks."""
    total, classes = spec["pictures"], spec["classes"]
    if not isinstance(total, int) or total < 3 * classes:
        raise UserError(f"data.pictures={total}: at least 3 for each of data.classes={classes}")
    if not 2 <= classes <= len(shapes.CLASS_NAMES):
        raise UserError(
            f"data.classes={classes}: shapes can draw 2 to {len(shapes.CLASS_NAMES)} classes"
        )
    if not 0 <= spec["shortcut"] <= 1:
        raise UserError(f"data.shortcut={spec['shortcut']}: a share in [0, 1] is expected")
    names = shapes.CLASS_NAMES[:classes]
    assigned = splits.split(np.arange(total) % classes, seed=seed, **_shares(spec))
    sizes = {split: int((assigned == split).sum()) for split in SPLITS}

    def draw(stream: int, split: str) -> Pictures:
        def make() -> dict[str, np.ndarray]:
            drawn = shapes.draw_shapes(
                sizes[split], size=spec["size"], channels=spec["channels"], classes=classes,
                seed=seed, stream=stream,
            )  # fmt: skip
            return {"images": drawn.images, "labels": drawn.labels, "masks": drawn.masks}

        key = dict(
            drawing=shapes.VERSION, split=split, count=sizes[split], seed=seed, classes=classes,
            size=spec["size"], channels=spec["channels"],
        )  # fmt: skip
        arrays = make() if spec["cache"] == "ram" else cache.cached_arrays(key, make, cache_dir())
        images = arrays["images"]
        if spec["shortcut"] and split != "test":
            images = np.array(images)
            shapes.paint_shortcut(images, arrays["labels"], spec["shortcut"], classes, seed, stream)
        titles = [f"shapes/{split}/{number}" for number in range(sizes[split])]
        return Pictures(images, np.asarray(arrays["labels"]), titles, arrays["masks"])

    def load() -> Dataset:
        return Dataset({split: draw(i, split) for i, split in enumerate(SPLITS)}, names)

    counts = {s: np.bincount(np.arange(n) % classes, minlength=classes) for s, n in sizes.items()}
    return Index(names, counts, load, masked=sizes)


def _image_folder(spec: dict, seed: int) -> Index:
    """The user's own pictures, in any layout that :mod:`convlens.data.listing` knows."""
    directory = data_dir(spec)
    found = listing.list_pictures(directory, pattern=spec["pattern"], csv=spec["csv"])
    if not spec.get("masks"):  # runs of old have no such key
        return _listed(spec, seed, found)
    labels = [found.class_names[label] for label in found.labels]
    folder = masks.MaskFolder(spec["masks"], directory)
    files, notes = masks.match(folder, found.files, labels)

    def read(rows: np.ndarray) -> masks.Masks:
        return masks.read_masks(
            [found.files[row] for row in rows], [files[row] for row in rows], size=spec["size"],
            resize=spec["resize"], cache=spec["cache"], cache_dir=cache_dir(),
            on_error=spec["on_error"],
        )  # fmt: skip

    return _listed(spec, seed, found, read, np.array([f is not None for f in files]), notes)


def _listed(
    spec: dict,
    seed: int,
    found: listing.Listing,
    read: Callable[[np.ndarray], masks.Masks] | None = None,
    masked: np.ndarray | None = None,
    notes: Sequence[str] = (),
) -> Index:
    """Picture files; ``read`` gives the masks of some rows, ``masked`` (N,) bool tells of which."""
    present = splits.present_splits(found)
    found = splits.resolve_splits(found, seed=seed, **_shares(spec, present))
    notes = [*notes] + [
        f"the same picture on both sides of the split: {twin.first} ({twin.first_split}) and "
        f"{twin.second} ({twin.second_split}); results on it are too good"
        for twin in twins.duplicates(found)
    ]

    def load() -> Dataset:
        made, skipped, lines = {}, [], []
        for split in SPLITS:
            rows = np.flatnonzero(found.splits == split)
            files = found.files[rows]
            decoded = pixels.decoded(
                files, size=spec["size"], resize=spec["resize"], channels=spec["channels"],
                interpolation=spec["interpolation"], cache=spec["cache"], cache_dir=cache_dir(),
                on_error=spec["on_error"],
            )  # fmt: skip
            skipped += decoded.errors
            kept = np.flatnonzero(decoded.good)
            places = None if len(kept) == len(rows) else kept
            good = files if places is None else files[kept]
            drawn = None if read is None else read(rows[kept])
            lines += drawn.notes if drawn else []
            made[split] = Pictures(
                decoded.images, found.labels[rows][kept], Texts(good),
                drawn and drawn.masks, places, decoded.made_from, drawn and drawn.masked,
            )  # fmt: skip
        if skipped:
            first = f"{skipped[0][0]} ({skipped[0][1]})"
            what = "picture" if len(skipped) == 1 else "pictures"
            lines.append(f"{len(skipped)} broken {what} skipped, the first: {first}")
        if read and not any(pictures.masked.any() for pictures in made.values()):
            raise UserError(f"no mask in data.masks={spec['masks']} is of use: {lines[0]}")
        told = [f"{file} ({reason})" for file, reason in skipped]
        return Dataset(made, found.class_names, notes + lines, told)

    counts = _counts(found.labels, found.splits, len(found.class_names))
    with_mask = {}
    if masked is not None:
        with_mask = {split: int(masked[found.splits == split].sum()) for split in SPLITS}
    return Index(found.class_names, counts, load, found, notes, with_mask)


def _flowers(spec: dict, seed: int) -> Index:
    """Five kinds of flowers, downloaded when the folder is not there."""
    directory = data_dir(spec)
    if not directory.exists():
        downloads.flowers(directory)
    return _image_folder(spec, seed)


def _pets(spec: dict, seed: int) -> Index:
    """Oxford-IIIT Pet, downloaded when the folder is not there: its own test list, and masks."""
    pets.class_names(spec["labels"])  # a misspelt one is said before the download
    found = pets.list_pets(pets.pets(data_dir(spec)), spec["labels"])

    def read(rows: np.ndarray) -> masks.Masks:
        drawn, lines = trimaps.masks(
            [found.files[row] for row in rows], size=spec["size"], resize=spec["resize"],
            cache=spec["cache"], cache_dir=cache_dir(),
        )  # fmt: skip
        return masks.Masks(drawn, np.ones(len(rows), bool), lines)

    return _listed(spec, seed, found, read, np.ones(len(found), bool))


def _arrays(spec: dict, seed: int, read: Callable, class_names: tuple[str, ...]) -> Index:
    """A torchvision set: small pictures that fit in memory, with a test split of its own."""
    raw = read(data_dir(spec))
    images, labels = raw["train"]
    shares = _shares(spec, ("test",))
    assigned = splits.split(labels, seed=seed, **shares)
    parts = {
        "train": (images, labels, np.flatnonzero(assigned == "train")),
        "validation": (images, labels, np.flatnonzero(assigned == "validation")),
        "test": (*raw["test"], np.arange(len(raw["test"][1]))),
    }

    def load() -> Dataset:
        made = {}
        for split, (pictures, classes, rows) in parts.items():
            whole = "test" if split == "test" else "train"
            names = [f"{spec['name']}/{whole}/{row}" for row in rows]
            made[split] = Pictures(_fitted(pictures[rows], spec), classes[rows], names)
        return Dataset(made, class_names)

    counts = {
        split: np.bincount(classes[rows], minlength=len(class_names))
        for split, (_, classes, rows) in parts.items()
    }
    return Index(class_names, counts, load)


def _fitted(images: np.ndarray, spec: dict) -> np.ndarray:
    """(N, H, W, C) uint8 brought to the wanted size and channels."""
    size, channels = spec["size"], spec["channels"]
    if images.shape[3] == channels and images.shape[1:3] == (size, size):
        return images
    how = InterpolationMode(spec["interpolation"])
    parts = []
    for start in range(0, len(images), 4096):
        part = torch.from_numpy(images[start : start + 4096]).permute(0, 3, 1, 2)
        part = tv.resize(part, [size, size], how, antialias=True)
        if part.shape[1] != channels:
            part = tv.rgb_to_grayscale(part) if channels == 1 else part.expand(-1, 3, -1, -1)
        parts.append(part.permute(0, 2, 3, 1).contiguous().numpy())
    return np.concatenate(parts)


def _mnist(spec: dict, seed: int) -> Index:
    return _arrays(spec, seed, torchvision_sets.mnist, torchvision_sets.MNIST_CLASSES)


def _cifar10(spec: dict, seed: int) -> Index:
    return _arrays(spec, seed, torchvision_sets.cifar10, torchvision_sets.CIFAR10_CLASSES)


SOURCES = {
    "shapes": _shapes,
    "image_folder": _image_folder,
    "cats_dogs": _image_folder,
    "flowers": _flowers,
    "pets": _pets,
    "mnist": _mnist,
    "cifar10": _cifar10,
}
