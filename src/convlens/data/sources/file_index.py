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
from convlens.data.sources.corrections import apply_corrections
from convlens.data.sources.image_files import (
    ImageFiles,
    decode_files,
    decode_rows,
    describe_skipped,
)
from convlens.data.sources.places import resolve_cache
from convlens.data.sources.source import Index, read_fold, read_split_fractions
from convlens.data.sources.threshold import add_threshold_class


def index_files(spec: DataConfig, seed: int, image_files: ImageFiles, before: np.ndarray) -> Index:
    """Return the index of image files, divided into splits.

    Args:
        spec: the config group ``data``.
        seed: decides the split if the layout has none.
        image_files: the image files.
        before: digests of images used by an earlier run; they are excluded from the test split.

    Raises:
        UserError: a class or a split has no images left, or no mask can be used.
    """
    image_files = _divide(spec, seed, image_files)
    image_files, corrected, table = apply_corrections(spec, image_files)
    if spec.on_error == "skip":
        image_files = _exclude_broken(spec, image_files)
    image_files, lines = _exclude_leaks(image_files)
    if len(before):
        image_files, more = _exclude_used(spec, image_files, before)
        lines += more
    if part := spec.threshold_samples:
        listing = add_threshold_class(image_files.listing, part, seed)
        image_files = replace(image_files, listing=listing)
    files = image_files.listing
    notes = [*_describe_masks(spec, image_files), *image_files.notes, *corrected, *lines]
    notes += describe_skipped(image_files.skipped)

    def load() -> Dataset:
        contents = FileDigests(files.files, resolve_cache(spec))
        digests = np.zeros(len(files), np.int64)
        parts = {
            split: decode_rows(spec, image_files, np.flatnonzero(files.splits == split), digests)
            for split in SPLITS
        }
        digests = contents.get(digests)
        images = {
            split: replace(part.images, digests=digests[part.rows]) for split, part in parts.items()
        }
        lines = [line for part in parts.values() for line in part.notes]
        if image_files.kind and not any(part.masked.any() for part in images.values()):
            where = f"data.masks={spec.masks}" if spec.masks else str(files.directory)
            raise UserError(f"no mask in {where} can be used: {lines[0]}")
        skipped = [(str(file), reason) for file, reason in image_files.skipped]
        signatures = np.concatenate([part.signatures for part in parts.values()])
        compared = images
        # images that look the same may well differ in classes, or one be a threshold sample
        if files.present is not None or spec.threshold_samples:
            compared = {s: replace(p, labels=np.zeros_like(p.labels)) for s, p in images.items()}
        more, conflicts = lookalikes.check_lookalikes(signatures, compared, files.class_names)
        return Dataset(images, files.class_names, notes + lines + more, skipped, conflicts)

    counts = {
        split: np.bincount(files.labels[files.splits == split], minlength=len(files.class_names))
        for split in SPLITS
    }
    masked = {}
    if image_files.kind:
        masked = {split: int(image_files.masked[files.splits == split].sum()) for split in SPLITS}
    with_class = {}
    if files.present is not None:
        with_class = {s: files.present[files.splits == s].sum(axis=0) for s in SPLITS}
    index = Index(files.class_names, counts, load, files, notes, masked, with_class, table)
    if image_files.decoded is None:
        return index
    dataset = load()  # everything is decoded already; loading also shows which masks are left out
    masked = {split: int(dataset.splits[split].masked.sum()) for split in masked}
    return replace(index, load=lambda: dataset, notes=dataset.notes, masked=masked)


def _divide(spec: DataConfig, seed: int, image_files: ImageFiles) -> ImageFiles:
    present = image_files.listing.present_splits
    listing = splits.resolve_splits(
        image_files.listing, seed=seed, fold=read_fold(spec), **read_split_fractions(spec, present)
    )
    return replace(image_files, listing=listing)


def _describe_masks(spec: DataConfig, image_files: ImageFiles) -> list[str]:
    if not spec.masks or image_files.kind is None:  # earlier runs lack this key
        return []
    count = int(image_files.masked.sum())
    return [f"masks for {count} of {len(image_files.mask_files)} images in {Path(spec.masks)}"]


def _exclude_broken(spec: DataConfig, image_files: ImageFiles) -> ImageFiles:
    """Keep only files that can be decoded, so that counts, weights and tables exclude the others.

    All files are decoded for this.

    Raises:
        UserError: a class has no image left in a split.
    """
    listing = image_files.listing
    good, places = np.ones(len(listing), bool), np.zeros(len(listing), np.int64)
    decoded, skipped = {}, []
    for split in listing.present_splits:
        rows = np.flatnonzero(listing.splits == split)
        decoded[split] = decode_files(spec, listing.files[rows])
        good[rows], places[rows] = decoded[split].good, np.arange(len(rows))
        skipped += decoded[split].errors
    for split in decoded:
        for label, name in enumerate(listing.class_names):
            rows = np.flatnonzero((listing.splits == split) & (listing.labels == label))
            if len(rows) and not good[rows].any():  # the class would not be learned or tested
                first = listing.files[rows[0]]
                raise UserError(
                    f"data.on_error=skip leaves class {name!r} without images in {split}: all "
                    f"{len(rows)} are broken, such as {first} ({dict(skipped)[first]}); replace "
                    f"them or remove the class"
                )
    image_files = replace(image_files, decoded=decoded, places=places, skipped=skipped)
    return image_files.select(np.flatnonzero(good))


def _exclude_leaks(image_files: ImageFiles) -> tuple[ImageFiles, list[str]]:
    """Leave out test files whose bytes are also among the training or validation images.

    The returned lines report these files, images that validation shares with training, and images
    with several labels.
    """
    files = image_files.listing
    groups = twins.find_twins(files)
    duplicates = twins.find_duplicates(files, groups)
    leaks = [pair for pair in duplicates if files.splits[pair[0]] == "test"]
    shared = [pair for pair in duplicates if files.splits[pair[0]] != "test"]
    conflicts = "" if files.present is not None else twins.describe_conflicts(files, groups)
    lines = [conflicts, twins.describe_leaks(files, shared)]
    lines = [line for line in lines if line]
    if not leaks:
        return image_files, lines
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
    return image_files.select(keep), lines


def _exclude_used(
    spec: DataConfig, image_files: ImageFiles, before: np.ndarray
) -> tuple[ImageFiles, list[str]]:
    """Leave out test files used by the run whose weights this one starts from."""
    files = image_files.listing
    digests = FileDigests(files.files, resolve_cache(spec)).get()
    used = np.isin(digests, before) & (digests != UNREAD)
    leaked, total = used & (files.splits == "test"), int((files.splits == "test").sum())
    lines = []
    if count := int((used & (files.splits == "validation")).sum()):
        lines.append(
            f"{count} validation images were used by the run whose weights this one starts from: "
            f"validation results look better than they are"
        )
    if not leaked.any():
        return image_files, lines
    first = files.files[int(np.argmax(leaked))]
    count = f"{leaked.sum()} of {total} test images, such as {first}, were used"
    if leaked.sum() == total:
        raise UserError(
            f"{count} by the run whose weights this one starts from: use the data and seed of "
            f"that run, which give the same split, or other test images"
        )
    lines.append(f"{count} by the run whose weights this one starts from and are left out")
    return image_files.select(np.flatnonzero(~leaked)), lines
