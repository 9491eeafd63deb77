"""Every labelled image of a source, from which an evaluation chooses what to test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from convlens.config.schema import DataConfig
from convlens.data.index.files import Texts
from convlens.data.index.labels import SPLITS
from convlens.data.pixels.contents import FileDigests
from convlens.data.pixels.pictures import Dataset, Pictures
from convlens.data.sources.picture_files import Found, decode_rows, skipped_lines
from convlens.data.sources.places import cache_dir
from convlens.data.sources.source import Index


@dataclass(frozen=True)
class Pool:
    """Every labelled image of a source, before it is decided which of them are tested.

    Attributes:
        place: what messages call it.
        class_names: K names.
        labels: (N,) int64, indices into them.
        splits: (N,) str, the splits that the source itself has; None where it has none.
        names: N names by which a person finds the images.
        digests: gives (N,) int64, see :mod:`convlens.data.index.digests`.
        load: decodes some rows as the test split of a data set.
        notes: lines that the person should read.
    """

    place: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    splits: np.ndarray | None
    names: Sequence[str]
    digests: Callable[[], np.ndarray]
    load: Callable[[np.ndarray], Dataset]
    notes: Sequence[str] = ()


def pool_of_files(spec: DataConfig, found: Found) -> Pool:
    files = found.listing

    def load(rows: np.ndarray) -> Dataset:
        part = decode_rows(spec, found, rows, np.zeros(len(files), np.int64))
        told = [f"{file} ({reason})" for file, reason in part.skipped]
        lines = [*part.notes, *skipped_lines(part.skipped)]
        return Dataset({"test": part.pictures}, files.class_names, lines, told)

    return Pool(
        str(files.directory), files.class_names, files.labels, files.splits, Texts(files.files),
        FileDigests(files.files, spec.cache, cache_dir()).get, load, found.notes,
    )  # fmt: skip


def pool_of_store(spec: DataConfig, found: Index) -> Pool:
    dataset = found.load()
    parts = [dataset.splits[split] for split in SPLITS]
    starts = np.cumsum([0, *map(len, parts)])

    def joined(of: Callable[[Pictures, np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
        inside = [rows[(rows >= a) & (rows < b)] - a for a, b in pairwise(starts)]
        return np.concatenate([of(part, some) for part, some in zip(parts, inside, strict=True)])

    names = [name for part in parts for name in part.names]

    def load(rows: np.ndarray) -> Dataset:
        drawn = parts[0].masks is not None
        pictures = Pictures(
            joined(Pictures.pixels, rows), joined(lambda part, some: part.labels[some], rows),
            [names[row] for row in rows],
            joined(lambda part, some: part.masks[some], rows) if drawn else None,
        )  # fmt: skip
        return Dataset({"test": pictures}, found.class_names)

    return Pool(
        f"data={spec.name}", found.class_names, np.concatenate([part.labels for part in parts]),
        np.repeat(np.array(SPLITS), np.diff(starts)), names,
        lambda: np.concatenate([part.digests for part in parts]), load, found.notes,
    )  # fmt: skip
