"""Image files as an index: divided into splits, without broken files or leaks between splits.

Legend: N files, K classes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from convlens.config.schema import DataConfig
from convlens.core.errors import UserError
from convlens.data.index import splits, twins
from convlens.data.index.digests import UNREAD
from convlens.data.index.labels import SPLITS
from convlens.data.pixels import lookalikes
from convlens.data.pixels.contents import FileDigests
from convlens.data.pixels.dataset import Dataset
from convlens.data.sources.image_files import (
    FoundFiles,
    decode_files,
    decode_rows,
    describe_skipped,
)
from convlens.data.sources.places import resolve_cache
from convlens.data.sources.source import Index, read_split_fractions


def index_files(spec: DataConfig, seed: int, found: FoundFiles, before: np.ndarray) -> Index:
    """Return the index of image files, divided into splits.

    Args:
        spec: the config group ``data``.
        seed: decides the split if the layout has none.
        found: the image files.
        before: digests of images used by an earlier run; they are excluded from the test split.

    Raises:
        UserError: a class or a split has no images left, or no mask can be used.
    """
    present = found.listing.present_splits
    divided = splits.resolve_splits(found.listing, seed=seed, **read_split_fractions(spec, present))
    found = replace(found, listing=divided)
    if spec.on_error == "skip":
        found = _without_broken(spec, found)
    found, lines = _without_leaks(found)
    if len(before):
        found, more = _without_used(spec, found, before)
        lines += more
    files = found.listing
    notes = [*_describe_masks(spec, found), *found.notes, *lines, *describe_skipped(found.skipped)]

    def load() -> Dataset:
        contents = FileDigests(files.files, resolve_cache(spec))
        digests = np.zeros(len(files), np.int64)
        parts = {
            split: decode_rows(spec, found, np.flatnonzero(files.splits == split), digests)
            for split in SPLITS
        }
        digests = contents.get(digests)
        images = {
            split: replace(part.images, digests=digests[part.kept]) for split, part in parts.items()
        }
        lines = [line for part in parts.values() for line in part.notes]
        if found.kind and not any(part.masked.any() for part in images.values()):
            raise UserError(f"no mask in data.masks={spec.masks} can be used: {lines[0]}")
        skipped = [f"{file} ({reason})" for file, reason in found.skipped]
        signatures = np.concatenate([part.signatures for part in parts.values()])
        lines += lookalikes.describe_lookalikes(signatures, images, files.class_names)
        return Dataset(images, files.class_names, notes + lines, skipped)

    counts = {
        split: np.bincount(files.labels[files.splits == split], minlength=len(files.class_names))
        for split in SPLITS
    }
    masked = {}
    if found.kind:
        masked = {split: int(found.masked[files.splits == split].sum()) for split in SPLITS}
    index = Index(files.class_names, counts, load, files, notes, masked)
    if found.decoded is None:
        return index
    dataset = load()  # everything is decoded anyway, and then the masks left out are known too
    masked = {split: int(dataset.splits[split].masked.sum()) for split in masked}
    return replace(index, load=lambda: dataset, notes=dataset.notes, masked=masked)


def _describe_masks(spec: DataConfig, found: FoundFiles) -> list[str]:
    if not spec.masks or found.kind is None:  # earlier runs lack this key
        return []
    count = int(found.masked.sum())
    return [f"masks for {count} of {len(found.mask_files)} images in {Path(spec.masks)}"]


def _without_broken(spec: DataConfig, found: FoundFiles) -> FoundFiles:
    """Keep only files that can be decoded, so that counts, weights and tables exclude the others.

    All files are decoded for this.

    Raises:
        UserError: a class has no image left in a split.
    """
    whole = found.listing
    good, places = np.ones(len(whole), bool), np.zeros(len(whole), np.int64)
    decoded, skipped = {}, []
    for split in whole.present_splits:
        rows = np.flatnonzero(whole.splits == split)
        decoded[split] = decode_files(spec, whole.files[rows])
        good[rows], places[rows] = decoded[split].good, np.arange(len(rows))
        skipped += decoded[split].errors
    for split in decoded:
        for label, name in enumerate(whole.class_names):
            rows = np.flatnonzero((whole.splits == split) & (whole.labels == label))
            if len(rows) and not good[rows].any():  # the class would not be learned or tested
                first = whole.files[rows[0]]
                raise UserError(
                    f"data.on_error=skip leaves class {name!r} without images in {split}: all "
                    f"{len(rows)} are broken, such as {first} ({dict(skipped)[first]}); replace "
                    f"them or remove the class"
                )
    found = replace(found, decoded=decoded, places=places, skipped=skipped)
    return found.select(np.flatnonzero(good))


def _without_leaks(found: FoundFiles) -> tuple[FoundFiles, list[str]]:
    """Leave out test files whose bytes are also among the training or validation images.

    The lines report them, images that validation shares with training, and images with several
    labels.
    """
    files = found.listing
    groups = twins.find_twins(files)
    twice = twins.find_duplicates(files, groups)
    leaks = [pair for pair in twice if files.splits[pair[0]] == "test"]
    kept = [pair for pair in twice if files.splits[pair[0]] != "test"]
    lines = [twins.describe_conflicts(files, groups), twins.describe_leaks(files, kept)]
    lines = [line for line in lines if line]
    if not leaks:
        return found, lines
    keep = np.delete(np.arange(len(files)), [row for row, _ in leaks])
    second, first = (files.files[row] for row in leaks[0])
    if not (files.splits[keep] == "test").any():
        raise UserError(
            f"all {len(leaks)} test images are training or validation images too, such as "
            f"{second} and {first}, so none is left to test: remove the copies"
        )
    what = "test image is" if len(leaks) == 1 else "test images are"
    lines.append(
        f"{len(leaks)} {what} left out because the same bytes are in training or validation: "
        f"{second} ({files.splits[leaks[0][1]]}: {first}){', …' if len(leaks) > 1 else ''}"
    )
    return found.select(keep), lines


def _without_used(
    spec: DataConfig, found: FoundFiles, before: np.ndarray
) -> tuple[FoundFiles, list[str]]:
    """Leave out test files that the run whose weights this one starts from has used."""
    files = found.listing
    digests = FileDigests(files.files, resolve_cache(spec)).get()
    used = np.isin(digests, before) & (digests != UNREAD)
    leaked, whole = used & (files.splits == "test"), int((files.splits == "test").sum())
    lines = []
    if count := int((used & (files.splits == "validation")).sum()):
        lines.append(
            f"{count} validation images were used by the run whose weights this one starts from: "
            f"validation results are too good"
        )
    if not leaked.any():
        return found, lines
    first = files.files[int(np.argmax(leaked))]
    count = f"{leaked.sum()} of {whole} test images, such as {first}, were used"
    if leaked.sum() == whole:
        raise UserError(
            f"{count} by the run whose weights this one starts from: use the data and seed of "
            f"that run, which give the same split, or other test images"
        )
    lines.append(f"{count} by the run whose weights this one starts from and are left out")
    return found.select(np.flatnonzero(~leaked)), lines
