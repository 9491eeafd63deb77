"""One ``.npy`` file being filled."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

_BLOCK = 1 << 24  # bytes written at a time


class ArrayFile:
    """An ``.npy`` file of known shape being filled in any order, from any thread.

    Written with ``pwrite``, not through a memory map: on a full disk a map kills the process
    (SIGBUS), a write says so; and resident memory stays flat however large the array.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype):
        self.path, self.shape, self.dtype = path, tuple(map(int, shape)), np.dtype(dtype)
        self._row = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        path.unlink(missing_ok=True)  # never into a file that somebody else has open
        with open(path, "xb") as file:
            description = np.lib.format.dtype_to_descr(self.dtype)
            np.lib.format.write_array_header_1_0(
                file, {"descr": description, "fortran_order": False, "shape": self.shape}
            )
            self._start = file.tell()
            size = self._start + int(np.prod(self.shape)) * self.dtype.itemsize
            file.truncate(size)  # rows never written read as zeros
            self._info = os.fstat(file.fileno())
        self._fd = os.open(path, os.O_RDWR)

    def put(self, first: int, rows: np.ndarray) -> None:
        """Write ``rows``, (n, …) of this file's dtype, at index ``first``."""
        if not rows.size:
            return  # an empty array has no memory to view
        data = memoryview(np.ascontiguousarray(rows, dtype=self.dtype)).cast("B")
        place = self._start + first * self._row
        while data:
            count = os.pwrite(self._fd, data[:_BLOCK], place)
            data, place = data[count:], place + count

    def is_there(self) -> bool:
        """Whether ``path`` is still this file: no other process took it for abandoned."""
        try:
            return os.path.samestat(self._info, self.path.stat())
        except FileNotFoundError:
            return False

    def sync(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)
