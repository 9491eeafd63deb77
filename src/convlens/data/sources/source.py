"""The interface of every source: index first (cheap), then load.

A source is a function of the config group ``data``. It reads names and labels, checks everything
that a user may have got wrong, and counts; ``Index.load()`` decodes. ``make plan`` needs only the
index. Sources of image files return ``convlens.data.sources.image_files.ImageFiles``; stores of
drawn or packed images return an ``Index``. ``convlens.data.sources.registry`` lists both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from convlens.config.schema import DataConfig
from convlens.core.errors import UserError
from convlens.data.index.listing import Listing
from convlens.data.pixels.dataset import Dataset
from convlens.data.sources.corrections import Correction

DEFAULT_SHARE = 0.15  # fraction of the images, for each split that a layout lacks


@dataclass(frozen=True)
class Index:
    """What a source contains, before anything is decoded.

    Attributes:
        class_names: K names.
        counts: split name -> (K,) number of images per class. If images may have several, each
            counts for one of them, so that the sum is the number of images.
        load: decodes everything.
        listing: the files, if the source has files.
        notes: lines to report to the user.
        masked: split name -> number of images with a mask; empty if the source has no masks.
        with_class: split name -> (K,) number of images that have the class; equal to ``counts`` if
            each image has one.
        correction_table: the rows of ``data.corrections``; empty without.
    """

    class_names: tuple[str, ...]
    counts: dict[str, np.ndarray]
    load: Callable[[], Dataset]
    listing: Listing | None = None
    notes: list[str] = field(default_factory=list)
    masked: dict[str, int] = field(default_factory=dict)
    with_class: dict[str, np.ndarray] = field(default_factory=dict)
    correction_table: Sequence[Correction] = ()

    def __post_init__(self) -> None:
        if not self.with_class:
            object.__setattr__(self, "with_class", self.counts)  # frozen, but not yet in use


@dataclass(frozen=True)
class Download:
    """What a run would download first.

    Attributes:
        folder: where it would be stored.
        megabytes: size of the archive or files.
        class_names: known before the download.
    """

    folder: Path
    megabytes: int
    class_names: tuple[str, ...]


def read_fold(spec: DataConfig) -> tuple[int, int] | None:
    """Return the number of the fold and of all folds of a cross-validation, or None.

    Raises:
        UserError: only one of both is set, or the size of the test split is.
    """
    fold, folds = spec.split.fold, spec.split.folds
    if (fold is None) != (folds is None):
        raise UserError("data.split.fold and data.split.folds belong together: set both or neither")
    if folds is not None and spec.split.test is not None:
        raise UserError(f"data.split.test={spec.split.test}: the fold is the test split")
    return None if fold is None or folds is None else (fold, folds)


def read_split_fractions(spec: DataConfig, present: tuple[str, ...] = ()) -> dict[str, float]:
    """Return the sizes of the splits to be split off; 0 for a split that the source already has.

    Args:
        spec: the config group ``data``.
        present: the splits of the source.

    Raises:
        UserError: ``data.split`` sets a size for a split that the source already has.
    """
    sizes = {}
    for split in ("validation", "test"):
        size = getattr(spec.split, split)
        if split in present:
            if size is not None:
                raise UserError(
                    f"data.split.{split}={size}: data={spec.name} has its own {split} images; "
                    f"remove this key"
                )
            size = 0
        sizes[split] = DEFAULT_SHARE if size is None else size
    return sizes
