"""The probes: the few images that are explained, the same ones for the whole run."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from convlens.config.schema import DataConfig
from convlens.core.errors import UserError
from convlens.core.photograph import Photograph
from convlens.data.index.files import Files
from convlens.data.index.generators import make_generator
from convlens.data.index.names import find_on_disk, normalise_name
from convlens.data.masks.files import USER_MASKS
from convlens.data.masks.folder import MaskFolder
from convlens.data.masks.load import read_masks
from convlens.data.pixels import load as pixels
from convlens.data.pixels.dataset import Images
from convlens.data.pixels.decode import make_recipe
from convlens.data.pixels.photograph import make_photograph, read_photographs
from convlens.data.sources.places import find_data_dir


@dataclass(frozen=True)
class Probes:
    """The images to explain.

    Attributes:
        images: (N, C, H, W) float in [0, 1].
        labels: (N,) int64; -1 if the true class is unknown. If images may have several classes,
            one of those of the image.
        names: N short names, used in tags and file names.
        sources: N names by which a user finds the image.
        masks: (N, H, W) bool, True on the object; None if no probe has a mask.
        masked: (N,) bool, whether a probe has a mask. Without one its row of ``masks`` is all
            False, as it is for an image without an object. By default, an all-False mask counts
            as none.
        photographs: N images at their own proportions, on which maps are drawn. By default, the
            images as the network gets them.
        present: (N, K) bool, the classes of each image; None if images have one class, or if
            their classes are unknown.
    """

    images: Tensor
    labels: Tensor
    names: list[str]
    sources: list[str]
    masks: Tensor | None = None
    masked: Tensor | None = None
    photographs: Sequence[Photograph] = ()
    present: Tensor | None = None

    def __post_init__(self) -> None:
        if self.masked is None:
            masked = torch.zeros(len(self.names), dtype=torch.bool)
            if self.masks is not None:
                masked = self.masks.flatten(1).any(dim=1)
            object.__setattr__(self, "masked", masked)  # frozen, but not yet in use
        if not self.photographs:
            photographs = [make_photograph(image) for image in self.images]
            object.__setattr__(self, "photographs", photographs)

    def __len__(self) -> int:
        return len(self.names)

    def order_in_turns(self) -> list[int]:
        """Return the probes' numbers, the first probe of each class before the second of any.

        Probes are sorted by class; a few of them should not all belong to one class.
        """
        counts: Counter[int] = Counter()
        turns = []
        for number, label in enumerate(self.labels.tolist()):
            turns.append((counts[label] if label >= 0 else 0, number))
            counts[label] += 1
        return [number for _, number in sorted(turns)]


def choose_probes(
    images: Images, class_names: tuple[str, ...], *, count: int, seed: int,
    spec: DataConfig | None = None,
) -> Probes:  # fmt: skip
    """Choose ``count`` images, seeded and balanced over the classes, in class order.

    If ``count`` is not a multiple of the number of classes, the first classes get one more; with
    fewer probes than classes, the seed decides which ``count`` classes appear.

    Args:
        images: the images to choose from.
        class_names: K names.
        count: number of probes.
        seed: seed of the run.
        spec: the config group ``data``, to read photographs from files; None for none.
    """
    rng = make_generator(seed, 2)
    shuffled = rng.permutation(len(images))
    labels = images.labels[shuffled]
    edges = np.cumsum(np.bincount(labels, minlength=len(class_names)))[:-1]
    by_class = np.split(shuffled[np.argsort(labels, kind="stable")], edges)
    by_class = [rows for rows in by_class if len(rows)]
    if count < len(by_class):
        by_class = [by_class[k] for k in rng.permutation(len(by_class))[:count]]
    alternating = (row for turn in zip_longest(*by_class) for row in turn if row is not None)
    rows = sorted(islice(alternating, count), key=lambda row: (images.labels[row], row))
    chosen = np.array(rows, dtype=int)
    labels = torch.from_numpy(images.labels[chosen])
    masks = None
    if images.masks is not None:
        masks = torch.from_numpy(np.asarray(images.masks[chosen], dtype=bool))
    present = None if images.present is None else torch.from_numpy(images.present[chosen])
    titles = [
        "-".join(class_names[k] for k in (row.nonzero()[0] if row.ndim else [row]))
        for row in images.targets[chosen]
    ]
    tensor, photographs = _to_tensor(images.pixels(chosen)), ()
    if spec is not None and images.files is not None:
        files = [images.files[row] for row in chosen]
        photographs = read_photographs(files, tensor, make_recipe(spec))
    return Probes(
        tensor,
        labels,
        [f"{i:02d}_{_make_safe(title)}" for i, title in enumerate(titles)],
        [images.names[row] for row in chosen],
        masks,
        torch.from_numpy(images.masked[chosen]),
        photographs,
        present,
    )


def load_user_probes(files: list[str], class_names: tuple[str, ...], spec: DataConfig) -> Probes:
    """Load the user's images; the true class is known if the folder is named like a class.

    A file in ``data.masks`` that is named like an image is its mask.

    Args:
        files: paths of images.
        class_names: K names.
        spec: the config group ``data``.

    Raises:
        UserError: a file is missing; an image or mask cannot be used and ``data.on_error`` is not
            "skip" (then it is left out and reported on stderr); no image is left.
    """
    paths = [find_on_disk(Path(file).expanduser()) for file in files]
    for path in paths:
        if not path.is_file():
            raise UserError(f"probes.files: {path} does not exist; give paths of images")
    files, on_error = Files.of(paths), spec.on_error or "raise"
    decoded = pixels.decode_images(
        files, make_recipe(spec), cache_dir=None, on_error=on_error, progress=False
    )
    for path, reason in decoded.errors:
        print(f"probes.files: left out {path} ({reason})", file=sys.stderr)
    paths = [path for path, good in zip(paths, decoded.good, strict=True) if good]
    images = _to_tensor(decoded.images[decoded.good])
    known = {normalise_name(name): k for k, name in enumerate(class_names)}
    labels = torch.tensor([known.get(normalise_name(path.parent.name), -1) for path in paths])
    names = [f"{i:02d}_{_make_safe(path.stem)}" for i, path in enumerate(paths)]
    masks, masked = _load_masks(paths, spec)
    photographs = read_photographs(paths, images, make_recipe(spec))
    return Probes(images, labels, names, [str(path) for path in paths], masks, masked, photographs)


def _load_masks(paths: list[Path], spec: DataConfig) -> tuple[Tensor | None, Tensor | None]:
    """Return the images' masks, (N, H, W) bool, and (N,) bool; None if there are no masks."""
    if not spec.masks:  # some sources and earlier runs lack this key
        return None, None
    folder = MaskFolder(spec.masks, find_data_dir(spec))
    files = [folder.find(path) for path in paths]
    if not any(files):
        return None, None
    read = read_masks(
        USER_MASKS, paths, files, size=spec.size, resize=spec.resize, cache_dir=None,
        on_error=spec.on_error,
    )  # fmt: skip
    for line in read.notes:
        print(f"probes.files: {line}", file=sys.stderr)
    return torch.from_numpy(read.masks), torch.from_numpy(read.masked)


def _to_tensor(pixels: np.ndarray) -> Tensor:
    """Convert (N, H, W, C) uint8 to (N, C, H, W) float in [0, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255


def _make_safe(name: str) -> str:
    """Return a name that works in a tag and in a file name on any system."""
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in normalise_name(name))
    return safe[:40] or "_"
