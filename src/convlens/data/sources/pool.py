"""Every labelled image of a source, from which an evaluation chooses what to test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from convlens.config.schema import DataConfig
from convlens.data.index.files import Texts
from convlens.data.index.labels import SPLITS
from convlens.data.pixels.contents import FileDigests
from convlens.data.pixels.dataset import Dataset, Images
from convlens.data.sources.corrections import Corrected, correct
from convlens.data.sources.image_files import ImageFiles, decode_rows, describe_skipped
from convlens.data.sources.places import resolve_cache
from convlens.data.sources.source import Index


@dataclass(frozen=True)
class Pool:
    """Every labelled image of a source, before an evaluation decides which of them to test.

    Attributes:
        place: what messages call the source.
        class_names: K names.
        labels: (N,) int64, indices into ``class_names``, corrected.
        splits: (N,) str, the source's own splits; None if it has none.
        names: N names by which a user finds the images.
        digests: returns (N,) int64 (``convlens.data.index.digests``).
        load: decodes some rows as the test split of a data set.
        notes: lines to report to the user.
        corrected: which labels are corrected, and which images are to be left out; None without
            corrections of test images.
    """

    place: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    splits: np.ndarray | None
    names: Sequence[str]
    digests: Callable[[], np.ndarray]
    load: Callable[[np.ndarray], Dataset]
    notes: Sequence[str] = ()
    corrected: Corrected | None = None


def pool_files(spec: DataConfig, image_files: ImageFiles) -> Pool:
    """Return the pool of image files.

    Whichever of them are tested, they are test images: they are corrected if ``corrections_of``
    names these.

    Raises:
        UserError: a row of ``data.corrections`` does not fit the images.
    """
    files, corrected = image_files.listing, None
    if spec.corrections and "test" in (spec.corrections_of or ()):
        corrected = correct(spec, files, np.ones(len(files), bool))
        files = replace(files, labels=corrected.labels)
        image_files = replace(image_files, listing=files)

    def load(rows: np.ndarray) -> Dataset:
        part = decode_rows(spec, image_files, rows, np.zeros(len(files), np.int64))
        skipped = [(str(file), reason) for file, reason in part.skipped]
        lines = [*part.notes, *describe_skipped(part.skipped)]
        return Dataset({"test": part.images}, files.class_names, lines, skipped)

    return Pool(
        str(files.directory), files.class_names, files.labels, files.splits, Texts(files.files),
        FileDigests(files.files, resolve_cache(spec)).get, load, image_files.notes, corrected,
    )  # fmt: skip


def pool_store(spec: DataConfig, index: Index) -> Pool:
    """Return the pool of drawn or packed images."""
    dataset = index.load()
    parts = [dataset.splits[split] for split in SPLITS]
    starts = np.cumsum([0, *map(len, parts)])
    names = [name for part in parts for name in part.names]
    labels, digests = (
        np.concatenate([getattr(part, key) for part in parts]) for key in ("labels", "digests")
    )

    def load(rows: np.ndarray) -> Dataset:
        chosen = [
            (part, rows[(rows >= start) & (rows < start + len(part))] - start)
            for part, start in zip(parts, starts[:-1], strict=True)
        ]
        masks = None
        if parts[0].masks is not None:
            masks = np.concatenate([part.masks[inside] for part, inside in chosen])
        pixels = np.concatenate([part.pixels(inside) for part, inside in chosen])
        several = {}
        if parts[0].present is not None:
            several["present"] = np.concatenate([part.present[inside] for part, inside in chosen])
        if parts[0].objects is not None:
            origins = [(part, row) for part, inside in chosen for row in inside.tolist()]

            def draw(image: int, label: int) -> np.ndarray:
                part, row = origins[image]
                return part.objects(row, label)

            several["objects"] = draw
        images = Images(pixels, labels[rows], [names[row] for row in rows], masks, **several)
        return Dataset({"test": images}, index.class_names)

    return Pool(
        f"data={spec.name}", index.class_names, labels,
        np.repeat(np.array(SPLITS), np.diff(starts)), names, lambda: digests, load, index.notes,
    )  # fmt: skip
