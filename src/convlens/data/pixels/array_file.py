"""One ``.npy`` file that is filled in any order."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from convlens.core import system

_BLOCK = 1 << 24  # bytes written at a time


class ArrayFile:
    """An ``.npy`` file of known shape, filled in any order and from any thread.

    It is written at places, not through a memory map: on a full disk a map kills the process
    (SIGBUS), while a write reports it. Resident memory stays flat, however large the array.

    Args:
        path: the file to create.
        shape: the array's shape.
        dtype: the array's type.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype):
        self.path, self.shape, self.dtype = path, tuple(map(int, shape)), np.dtype(dtype)
        self._row = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        path.unlink(missing_ok=True)  # never write into a file that another process has open
        with open(path, "xb") as file:
            description = np.lib.format.dtype_to_descr(self.dtype)
            np.lib.format.write_array_header_1_0(
                file, {"descr": description, "fortran_order": False, "shape": self.shape}
            )
            self._start = file.tell()
            size = self._start + int(np.prod(self.shape)) * self.dtype.itemsize
            file.truncate(size)  # rows never written read as zeros
            self._info = os.fstat(file.fileno())
        self._fd = system.open_file(path, os.O_RDWR)

    def put(self, first: int, rows: np.ndarray) -> None:
        """Write ``rows``, (n, …) of this file's dtype, at index ``first``."""
        if not rows.size:
            return  # an empty array has no memory to view
        data = memoryview(np.ascontiguousarray(rows, dtype=self.dtype)).cast("B")
        place = self._start + first * self._row
        while data:
            count = system.write_at(self._fd, data[:_BLOCK], place)
            data, place = data[count:], place + count

    def is_there(self) -> bool:
        """Return whether ``path`` is still this file; another process may have replaced it."""
        try:
            return os.path.samestat(self._info, self.path.stat())
        except FileNotFoundError:
            return False

    def sync(self) -> None:
        """Write everything to the disk."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
