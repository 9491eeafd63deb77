"""What every source gives behind one interface: look first (cheap), then load.

A source is a function of the config group ``data`` that reads names and labels, checks everything
a person can have got wrong and counts; ``Index.load()`` decodes. ``make plan`` needs only the
first. Two kinds are written by what they read: sources of image files give a
:class:`~convlens.data.sources.image_files.Found`, stores of drawn or packed images an
:class:`Index` at once (:mod:`convlens.data.sources.registry` lists both).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from convlens.config.schema import DataConfig
from convlens.core.errors import UserError
from convlens.data.index.listing import Listing
from convlens.data.pixels.dataset import Dataset

DEFAULT_SHARE = 0.15  # of the images, for each split that a layout lacks


@dataclass(frozen=True)
class Index:
    """What a source holds, before anything is decoded.

    Attributes:
        class_names: K names.
        counts: split name to (K,) number of images per class.
        load: decodes everything.
        listing: the files, for sources that have files.
        notes: lines the person should read.
        masked: split name to the number of images with a mask; empty: this source has none.
    """

    class_names: tuple[str, ...]
    counts: dict[str, np.ndarray]
    load: Callable[[], Dataset]
    listing: Listing | None = None
    notes: list[str] = field(default_factory=list)
    masked: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Download:
    """What a run would fetch before anything else.

    Attributes:
        folder: where it would lie.
        megabytes: size of the archive or files.
        class_names: known without it.
    """

    folder: Path
    megabytes: int
    class_names: tuple[str, ...]


def read_split_fractions(spec: DataConfig, present: tuple[str, ...] = ()) -> dict[str, float]:
    """The split rule; a share for a split that the source already has is refused."""
    shares = {}
    for split in ("validation", "test"):
        share = getattr(spec.split, split)
        if split in present:
            if share is not None:
                raise UserError(
                    f"data.split.{split}={share}: data={spec.name} already has its own "
                    f"{split} images; leave the key out"
                )
            share = 0
        shares[split] = DEFAULT_SHARE if share is None else share
    return shares
