"""Twins: the same image twice, across splits or with different labels.

Legend: N images, K classes.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from convlens.core import system
from convlens.core.errors import UserError
from convlens.data.index.files import read_size_and_time
from convlens.data.index.folders import count_noun
from convlens.data.index.labels import SPLITS
from convlens.data.index.listing import Listing
from convlens.data.index.several import pick_rarest, refuse_separator

_END = 4096  # bytes at a file's end that distinguish most files of equal size
_NAMED = 4  # pairs of classes that a line names


def find_twins(listing: Listing) -> list[list[int]]:
    """Return rows of files with the same bytes, in groups; each group and the groups ascend.

    Only groups that span several splits or classes are included: an image that occurs twice among
    the training images of its class does no harm. For files of equal size the last block is read,
    and the whole file only if that is equal too. Decoding reports empty and missing files.
    """
    part = _rank_splits(listing) * len(listing.class_names) + listing.labels
    sizes = (read_size_and_time(path)[0] for path in listing.files.byte_paths())
    sizes = np.fromiter(sizes, np.int64, len(listing))
    rows = _find_shared(sizes, part, np.flatnonzero(sizes > 0))
    marks = np.fromiter(map(_hash_end, listing.files[rows].byte_paths(), sizes[rows].tolist()),
                        np.uint64, len(rows))  # fmt: skip
    rows = rows[_find_shared(marks, part[rows], np.arange(len(rows)))]
    by_content = defaultdict(list)
    for row in rows.tolist():
        by_content[_hash_content(listing.files[row])].append(row)
    return [group for group in by_content.values() if len(set(part[group].tolist())) > 1]


def merge_twins(listing: Listing) -> Listing:
    """Return the listing with one image for files of a split with the same bytes, in all classes.

    The image keeps the first of its files. It is how class folders say that an image has several
    classes: a copy of the file, or a link to it, is in each of them.

    Args:
        listing: one label per file.
    """
    refuse_separator(listing.class_names, str(listing.directory))
    present = listing.labels[:, None] == np.arange(len(listing.class_names))
    ranks, dropped = _rank_splits(listing), []
    for rows in find_twins(listing):
        by_split = defaultdict(list)
        for row in rows:
            by_split[ranks[row]].append(row)
        for first, *others in by_split.values():
            present[first] |= present[others].any(axis=0)
            dropped += others
    keep = np.delete(np.arange(len(listing)), dropped)
    splits = None if listing.splits is None else listing.splits[keep]
    present = present[keep]
    count = int((present.sum(axis=1) > 1).sum())
    line = (
        f"{count} of {len(keep)} images have several classes: files with the same bytes are in "
        f"several class folders"
    )
    return replace(
        listing, files=listing.files[keep], labels=pick_rarest(present), splits=splits,
        notes=(*listing.notes, line), present=present,
    )  # fmt: skip


def find_duplicates(listing: Listing, groups: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Return files of validation or test whose bytes also occur in an earlier split.

    Each is a pair of rows, the file and the first of its twins, in the listing's order; their
    labels may differ.

    Args:
        listing: the images.
        groups: from ``find_twins``.
    """
    rank, pairs = _rank_splits(listing), []
    for rows in groups:
        first = min(rows, key=lambda row: (rank[row], row))
        pairs += [(row, first) for row in rows if rank[row] > rank[first]]
    return sorted(pairs)


def describe_leaks(listing: Listing, leaks: Sequence[tuple[int, int]]) -> str:
    """Return a line on images in several splits, pairs of ``find_duplicates``; "" for none."""
    if not leaks:
        return ""
    second, first = (f"{listing.files[row]} ({listing.splits[row]})" for row in leaks[0])
    what = count_noun(len(leaks), "image is", "images are")
    return (
        f"{what} in several splits, such as {first} and {second}; "
        f"results on {'it' if len(leaks) == 1 else 'them'} look better than they are"
    )


def describe_conflicts(listing: Listing, groups: Sequence[Sequence[int]]) -> str:
    """Return a line on images that are in several classes, within or across splits; "" for none.

    Args:
        listing: the images.
        groups: from ``find_twins``.
    """
    by_classes: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    images = files = 0
    for rows in groups:
        first = {int(listing.labels[row]): row for row in reversed(rows)}  # of each class
        if len(first) > 1:
            images, files = images + 1, files + len(rows)
        for a, b in combinations(sorted(first), 2):
            by_classes[a, b].append((first[a], first[b]))
    if not images:
        return ""
    named = sorted(by_classes, key=lambda pair: -len(by_classes[pair]))[:_NAMED]
    one, other = map(listing.files.name, by_classes[named[0]][0])
    pairs = ", ".join(
        f"{len(by_classes[a, b])} in both {listing.class_names[a]} and {listing.class_names[b]}"
        for a, b in named
    )
    if more := len(by_classes) - len(named):
        pairs += f", and {count_noun(more, 'more pair', 'more pairs')} of classes"
    what = count_noun(images, "image has", "images have")
    return (
        f"conflicting labels: {what} several labels ({pairs}; {files} files in all), such as {one} "
        f"and {other}: keep each image in one class, since no network can get both right"
    )


def _rank_splits(listing: Listing) -> np.ndarray:
    """Return (N,) the number of each image's split; 0 if there are no splits."""
    if listing.splits is None:
        return np.zeros(len(listing), np.int64)
    return sum(number * (listing.splits == name) for number, name in enumerate(SPLITS))


def _find_shared(values: np.ndarray, rank: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return those of ``rows``, ascending, whose value also occurs in another part.

    Args:
        values: (N,) numbers.
        rank: (N,) number of the part that each image belongs to.
        rows: rows to compare.
    """
    rows = rows[np.argsort(values[rows], kind="stable")]
    if not len(rows):
        return rows
    starts = np.flatnonzero(np.diff(values[rows], prepend=values[rows[0]] - values.dtype.type(1)))
    ranks = rank[rows]
    mixed = np.minimum.reduceat(ranks, starts) != np.maximum.reduceat(ranks, starts)
    return np.sort(rows[np.repeat(mixed, np.diff(starts, append=len(rows)))])


def _hash_end(path: bytes, size: int) -> int:
    """Return a number that identifies the file's last bytes.

    Among a million photographs, nearly every one shares its size with another, and reading them
    whole would cost as much as decoding. The end of a compressed file differs if the images do.
    """
    try:
        descriptor = system.open_file(path, os.O_RDONLY)
        try:
            end = system.read_at(descriptor, _END, max(0, size - _END))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(f"cannot read {os.fsdecode(path)}: {error.strerror}") from None
    return int.from_bytes(hashlib.blake2b(end, digest_size=8).digest())


def _hash_content(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, hashlib.blake2b).digest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
