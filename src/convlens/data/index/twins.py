"""Twins: the same image twice, on both sides of a split or under two labels.

Legend: N images, K classes.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from convlens.core.errors import UserError
from convlens.data.index.files import size_and_time
from convlens.data.index.folders import count_noun
from convlens.data.index.labels import SPLITS
from convlens.data.index.listing import Listing

_END = 4096  # bytes at a file's end that tell most files of equal size apart
_NAMED = 4  # pairs of classes that one line names


def find_twins(listing: Listing) -> list[list[int]]:
    """Rows of files with the same bytes, group by group, each group and the groups rising.

    Only groups with several splits or several classes: an image that lies twice among the
    training images of its class does no harm. Of files of equal size the last block is read, and
    the whole only where that is equal too. Empty and missing files are left to decoding, which
    names them.
    """
    part = _ranks(listing) * len(listing.class_names) + listing.labels
    sizes = (size_and_time(path)[0] for path in listing.files.located())
    sizes = np.fromiter(sizes, np.int64, len(listing))
    rows = _shared(sizes, part, np.flatnonzero(sizes > 0))
    marks = np.fromiter(map(_mark, listing.files[rows].located(), sizes[rows].tolist()),
                        np.uint64, len(rows))  # fmt: skip
    rows = rows[_shared(marks, part[rows], np.arange(len(rows)))]
    by_content = defaultdict(list)
    for row in rows.tolist():
        by_content[_content(listing.files[row])].append(row)
    return [group for group in by_content.values() if len(set(part[group].tolist())) > 1]


def find_duplicates(listing: Listing, groups: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Files of validation or test whose bytes also occur in an earlier split (in that of SPLITS).

    One pair of rows for each such file, itself and the first of its twins, in the listing's order;
    their labels may differ.

    Args:
        groups: as :func:`find_twins` gives them.
    """
    rank, pairs = _ranks(listing), []
    for rows in groups:
        first = min(rows, key=lambda row: (rank[row], row))
        pairs += [(row, first) for row in rows if rank[row] > rank[first]]
    return sorted(pairs)


def describe_leaks(listing: Listing, leaks: Sequence[tuple[int, int]]) -> str:
    """One line on images on both sides of the split (``find_duplicates``); empty without any."""
    if not leaks:
        return ""
    second, first = (f"{listing.files[row]} ({listing.splits[row]})" for row in leaks[0])
    return (
        f"{count_noun(len(leaks), 'picture lies', 'pictures lie')} on both sides of the split, "
        f"such as {first} and {second}; "
        f"results on {'it' if len(leaks) == 1 else 'them'} are too good"
    )


def describe_conflicts(listing: Listing, groups: Sequence[Sequence[int]]) -> str:
    """One line on images that lie in several classes, within a split or across; "" without any.

    Args:
        groups: as :func:`find_twins` gives them.
    """
    found: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)  # by pair of classes
    images = files = 0
    for rows in groups:
        first = {int(listing.labels[row]): row for row in reversed(rows)}  # of each class
        if len(first) > 1:
            images, files = images + 1, files + len(rows)
        for a, b in combinations(sorted(first), 2):
            found[a, b].append((first[a], first[b]))
    if not images:
        return ""
    named = sorted(found, key=lambda pair: -len(found[pair]))[:_NAMED]
    one, other = map(listing.files.name, found[named[0]][0])
    pairs = ", ".join(
        f"{len(found[a, b])} in both {listing.class_names[a]} and {listing.class_names[b]}"
        for a, b in named
    )
    if more := len(found) - len(named):
        pairs += f", and {count_noun(more, 'more pair', 'more pairs')} of classes"
    return (
        f"labels contradict: {count_noun(images, 'image has', 'images have')} several labels "
        f"({pairs}; {files} files in all), such as {one} and {other}: "
        "no network can be right about them; "
        "keep each in one class"
    )


def _ranks(listing: Listing) -> np.ndarray:
    """(N,) the number of each one's split; 0 where there are none."""
    if listing.splits is None:
        return np.zeros(len(listing), np.int64)
    return sum(number * (listing.splits == name) for number, name in enumerate(SPLITS))


def _shared(values: np.ndarray, rank: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Those of ``rows``, rising, whose value occurs in another part too.

    values  (N,) numbers; rank (N,) the number of each one's part
    """
    rows = rows[np.argsort(values[rows], kind="stable")]
    if not len(rows):
        return rows
    starts = np.flatnonzero(np.diff(values[rows], prepend=values[rows[0]] - values.dtype.type(1)))
    ranks = rank[rows]
    mixed = np.minimum.reduceat(ranks, starts) != np.maximum.reduceat(ranks, starts)
    return np.sort(rows[np.repeat(mixed, np.diff(starts, append=len(rows)))])


def _mark(path: bytes, size: int) -> int:
    """A number by which the file's last bytes are known.

    Of a million photographs nearly each one shares its size with another: reading them whole would
    cost what decoding costs. What compression leaves at a file's end differs where images do.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            end = os.pread(descriptor, _END, max(0, size - _END))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(f"cannot read {os.fsdecode(path)}: {error.strerror}") from None
    return int.from_bytes(hashlib.blake2b(end, digest_size=8).digest())


def _content(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, hashlib.blake2b).digest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
