"""Digests of image files, which identify an image by its content: computed once and cached.

Legend: N files.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from convlens.core.system import count_cores
from convlens.data.index.digests import UNREAD, file_digest
from convlens.data.index.files import Files
from convlens.data.pixels.cache import Writer, fingerprint_files, load_or_build
from convlens.data.pixels.load import show_progress

_VERSION = 1  # of the digests: raise it when a file would get a different one
_CHUNK = 64  # files per task of a thread
_MANY = 2000  # files: threshold above which progress is shown


class FileDigests:
    """The digests of N files: from an earlier run if no size or time changed, else computed.

    Sizes and times are read here, before any content: if a file changes later, the next reader
    computes its digest again.

    Args:
        files: N files.
        cache_dir: folder of the cache; None writes nothing.
    """

    def __init__(self, files: Files, cache_dir: Path | None):
        self._files, self._cache_dir = files, cache_dir
        if cache_dir is not None:
            self._name, self._fingerprint = fingerprint_files(files, _VERSION)

    def get(self, known: np.ndarray | None = None) -> np.ndarray:
        """Return (N,) int64; ``UNREAD`` for a file that cannot be read.

        Args:
            known: (N,) digests that are known already, ``UNREAD`` elsewhere: only those files are
                read.

        Raises:
            UserError: the cache cannot be written, or the disk is full.
        """
        digests = np.full(len(self._files), UNREAD, np.int64) if known is None else known
        if self._cache_dir is None:
            return _read(self._files, digests)

        def build(writer: Writer) -> dict:
            complete = _read(self._files, digests)
            writer.create("digests", digests.shape, digests.dtype).put(0, complete)
            return {}

        entry = load_or_build(self._cache_dir, f"digests-{self._name}", self._fingerprint, build)
        return _read(self._files, np.array(entry.arrays["digests"]))  # retry those that are UNREAD


def _read(files: Files, known: np.ndarray) -> np.ndarray:
    """Return ``known`` with the missing digests, computed in threads (hashing releases the GIL)."""
    digests = known.copy()
    missing = np.flatnonzero(digests == UNREAD)
    if not len(missing):
        return digests
    workers = min(count_cores(), -(-len(missing) // _CHUNK))

    def work(rows: np.ndarray) -> int:
        for row, path in zip(rows.tolist(), files[rows].byte_paths(), strict=True):
            digests[row] = file_digest(path)
        return len(rows)

    what = f"{len(missing)} images to identify them by content, {workers} threads"
    is_visible = len(missing) >= _MANY
    with (
        show_progress("hashing", "hashed", what, len(missing), is_visible) as advance,
        ThreadPoolExecutor(workers, thread_name_prefix="hash") as pool,
    ):
        for count in pool.map(work, np.array_split(missing, -(-len(missing) // _CHUNK))):
            advance(count)
    return digests
