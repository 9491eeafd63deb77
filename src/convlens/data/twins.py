"""Leaks: the same picture on both sides of a split.

Legend: N pictures.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convlens.data.labels import SPLITS
from convlens.data.listing import Listing
from convlens.errors import UserError

_END = 4096  # bytes at a file's end that tell most files of equal size apart


@dataclass(frozen=True)
class Duplicate:
    """Two files with the same bytes on both sides of a split."""

    first: Path
    first_split: str
    second: Path
    second_split: str


def duplicates(listing: Listing) -> list[Duplicate]:
    """Files of validation or test whose bytes also occur in an earlier split (in that of SPLITS).

    One entry for each such file, with the first of its twins, in the listing's order. Of files of
    equal size the last block is read, and the whole only where that is equal too. Empty and
    missing files are left to decoding, which names them.
    """
    if listing.splits is None:
        return []
    rank = np.empty(len(listing), np.int8)
    for number, name in enumerate(SPLITS):
        rank[listing.splits == name] = number
    sizes = np.fromiter(map(_size, listing.files.located()), np.int64, len(listing))
    rows = _shared(sizes, rank, np.flatnonzero(sizes > 0))
    marks = np.fromiter(map(_mark, listing.files[rows].located(), sizes[rows].tolist()),
                        np.uint64, len(rows))  # fmt: skip
    rows = rows[_shared(marks, rank[rows], np.arange(len(rows)))]
    by_content = defaultdict(list)
    for index in rows.tolist():
        by_content[_content(listing.files[index])].append(index)
    pairs = []
    for indices in by_content.values():
        first = min(indices, key=lambda index: (rank[index], index))
        pairs += [(index, first) for index in indices if rank[index] > rank[first]]
    return [
        Duplicate(
            listing.files[first], str(listing.splits[first]),
            listing.files[second], str(listing.splits[second]),
        )
        for second, first in sorted(pairs)
    ]  # fmt: skip


def _shared(values: np.ndarray, rank: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Those of ``rows``, rising, whose value occurs in another split too.

    values  (N,) numbers; rank (N,) the number of each one's split
    """
    rows = rows[np.argsort(values[rows], kind="stable")]
    if not len(rows):
        return rows
    starts = np.flatnonzero(np.diff(values[rows], prepend=values[rows[0]] - values.dtype.type(1)))
    ranks = rank[rows]
    mixed = np.minimum.reduceat(ranks, starts) != np.maximum.reduceat(ranks, starts)
    return np.sort(rows[np.repeat(mixed, np.diff(starts, append=len(rows)))])


def _size(path: bytes) -> int:
    """Bytes of a file; 0 of one that is not there."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _mark(path: bytes, size: int) -> int:
    """A number by which the file's last bytes are known.

    Of a million photographs nearly each one shares its size with another: reading them whole would
    cost what decoding costs. What compression leaves at a file's end differs where pictures do.
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
