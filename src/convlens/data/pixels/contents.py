"""By what an image is known wherever it lies: the digests of image files, read once and kept.

Legend: N files.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from convlens.data.index.digests import UNREAD, file_digest
from convlens.data.index.files import Files
from convlens.data.pixels.cache import Writer, fingerprint_files, load_or_build
from convlens.data.pixels.load import count_cores, show_progress

_VERSION = 1  # of the digests: raise it when a file would get another one
_CHUNK = 64  # files a thread takes at a time
_MANY = 2000  # files from which on it is said that they are read


class FileDigests:
    """The digests of N files: from an earlier run if no size or time changed, else read.

    Sizes and times are looked up here, before anything is read: a file that changes later is
    read anew by whoever comes next.

    Args:
        files: N files.
        cache_dir: keeps the digests; None writes nothing.
    """

    def __init__(self, files: Files, cache_dir: Path | None):
        self._files, self._cache_dir = files, cache_dir
        if cache_dir is not None:
            self._name, self._fingerprint = fingerprint_files(files, _VERSION)

    def get(self, known: np.ndarray | None = None) -> np.ndarray:
        """(N,) int64; ``UNREAD`` for a file that cannot be read.

        Args:
            known: (N,) digests that somebody has come by, ``UNREAD`` where not: only those files
                are read.

        Raises:
            UserError: the cache cannot be written, or the disk is full.
        """
        found = np.full(len(self._files), UNREAD, np.int64) if known is None else known
        if self._cache_dir is None:
            return _read(self._files, found)

        def build(writer: Writer) -> dict:
            writer.create("digests", found.shape, found.dtype).put(0, _read(self._files, found))
            return {}

        entry = load_or_build(self._cache_dir, f"digests-{self._name}", self._fingerprint, build)
        return _read(self._files, np.array(entry.arrays["digests"]))  # once more what was UNREAD


def _read(files: Files, known: np.ndarray) -> np.ndarray:
    """``known`` with the missing ones read, in parallel; hashing leaves Python's lock free."""
    found = known.copy()
    missing = np.flatnonzero(found == UNREAD)
    if not len(missing):
        return found
    workers = min(count_cores(), -(-len(missing) // _CHUNK))

    def work(rows: np.ndarray) -> int:
        for row, path in zip(rows.tolist(), files[rows].located(), strict=True):
            found[row] = file_digest(path)
        return len(rows)

    what = f"{len(missing)} images to know them by their content, {workers} threads"
    shown = len(missing) >= _MANY
    with (
        show_progress("hashing", "hashed", what, len(missing), shown) as advance,
        ThreadPoolExecutor(workers, thread_name_prefix="hash") as pool,
    ):
        for count in pool.map(work, np.array_split(missing, -(-len(missing) // _CHUNK))):
            advance(count)
    return found
