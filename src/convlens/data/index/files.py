"""Paths of very many files in little memory; each becomes a ``Path`` when it is needed.

A ``Path`` takes more than half a kilobyte; a name in one block of bytes takes its length plus eight
bytes. For a million images that is 30 MB instead of 600 MB.

Legend: N files.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from pathlib import Path

import numpy as np

from convlens.data.index.labels import SPLITS
from convlens.data.index.names import normalise_name

_CHUNK = 4096  # names read at a time


class Files(Sequence[Path]):
    """N paths below a folder; an index gives a ``Path``, a slice or an array of rows ``Files``.

    Args:
        directory: the folder that names are relative to; absolute names may be outside it.
        text: all names, concatenated, as the file system spells them.
        starts: (N + 1,) int64, where each name starts in ``text``, and the end.

    >>> files = Files.of(["pets/cat/1.jpg", "pets/dog/2.jpg"], "pets")
    >>> files[1].as_posix(), files.name(1), len(files[:1])
    ('pets/dog/2.jpg', 'dog/2.jpg', 1)
    """

    def __init__(self, directory: str | os.PathLike, text: bytes, starts: np.ndarray):
        self.directory = Path(directory)
        self._text, self._starts = text, starts
        self._rows: range | np.ndarray = range(len(starts) - 1)  # a range takes no memory
        self._plain = _is_plain(text, starts)

    @classmethod
    def of(cls, paths: Iterable[str | os.PathLike], directory: str | os.PathLike = Path()) -> Files:
        """Return the files ``paths``; those below ``directory`` are stored relative to it."""
        if isinstance(paths, Files) and paths.directory == Path(directory):
            return paths
        text, lengths = bytearray(), array("q", [0])
        for path in map(Path, paths):
            if path.is_relative_to(directory):
                path = path.relative_to(directory)
            elif not path.is_absolute():
                path = Path(os.path.abspath(path))
            name = os.fsencode(path.as_posix())
            text += name
            lengths.append(len(name))
        return cls(directory, bytes(text), np.cumsum(lengths))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index):
        if isinstance(index, slice | np.ndarray):
            part = copy(self)  # shares the block of names
            part._rows = _as_array(self._rows)[index]
            return part
        return self.directory / os.fsdecode(self._get_bytes(index))

    def __iter__(self) -> Iterator[Path]:
        return (self.directory / os.fsdecode(name) for name in self.byte_names())

    def _get_bytes(self, index: int) -> bytes:
        row = self._rows[index]
        return self._text[self._starts[row] : self._starts[row + 1]]

    def byte_names(self) -> Iterator[bytes]:
        """Yield the names as the file system spells them, without the directory."""
        text = self._text
        for first in range(0, len(self), _CHUNK):
            rows = _as_array(self._rows[first : first + _CHUNK])
            starts, stops = self._starts[rows].tolist(), self._starts[rows + 1].tolist()
            for start, stop in zip(starts, stops, strict=True):
                yield text[start:stop]

    def name(self, index: int) -> str:
        """Return file ``index`` relative to the directory, with slashes; absolute if outside it."""
        return _normalise_path(self._get_bytes(index))

    def names(self) -> Iterator[str]:
        """Yield the ``name`` of each file."""
        return map(_normalise_path, self.byte_names())

    def byte_paths(self) -> Iterator[bytes]:
        """Yield the paths as bytes for system calls, with the directory."""
        directory = b"" if self.directory == Path() else os.fsencode(self.directory)
        if not self._plain:
            return (os.path.join(directory, name) for name in self.byte_names())
        lead = os.path.join(directory, b"")
        return (lead + name for name in self.byte_names())

    def absolute(self) -> Iterator[str]:
        """Yield ``os.path.abspath`` of each file."""
        if not self._plain:
            return map(os.path.abspath, self)
        lead = os.path.join(os.path.abspath(self.directory), "")
        return (lead + os.fsdecode(name) for name in self.byte_names())


def _as_array(rows: range | np.ndarray) -> np.ndarray:
    return np.arange(rows.start, rows.stop, rows.step) if isinstance(rows, range) else rows


def _is_plain(text: bytes, starts: np.ndarray) -> bool:
    """Return whether every path is the directory, a slash and the name, with nothing to resolve."""
    letters = np.frombuffer(text, np.uint8)
    second = np.minimum(starts[:-1] + 1, len(text) - 1)
    is_absolute = (letters[starts[:-1]] == ord("/")) | (letters[second] == ord(":"))  # C:/…
    return b".." not in text and not is_absolute.any()


class Texts(Sequence[str]):
    """The paths of the files as text, as messages and tables show them."""

    def __init__(self, files: Files):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index):
        if isinstance(index, slice | np.ndarray):
            return Texts(self.files[index])
        return str(self.files[index])

    def __iter__(self) -> Iterator[str]:
        return map(str, self.files)


def _normalise_path(name: bytes) -> str:
    text = os.fsdecode(name)
    return os.path.abspath(text) if os.path.isabs(text) else text


class ListingBuilder:
    """Collects images for a listing: names in one block, split and class as numbers.

    Args:
        directory: the folder that names are relative to.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._text, self._lengths = bytearray(), array("q", [0])
        self._labels, self._splits = array("i"), array("b")
        self._known: dict[str, int] = {}  # class -> number, in order of appearance

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in composed spelling (``convlens.data.index.names``), sorted bytewise."""
        return tuple(sorted(self._known, key=os.fsencode))

    def know(self, label: str) -> int:
        """Return the number of a class in order of appearance; a new one is added."""
        return self._known.setdefault(normalise_name(label), len(self._known))

    def add(self, split: str | None, label: str, names: Sequence[str]) -> None:
        """Add images of one class; ``split`` is None either for all images or for none."""
        if not names:
            return
        encoded = list(map(os.fsencode, names))
        self._text += b"".join(encoded)
        self._lengths.extend(map(len, encoded))
        number = self.know(label)
        place = -1 if split is None else SPLITS.index(split)
        self._labels.extend(array("i", [number]) * len(names))
        self._splits.extend(array("b", [place]) * len(names))

    def sorted(self) -> tuple[Files, np.ndarray, np.ndarray | None]:
        """Return files, labels (N,) int64 into ``class_names``, and splits, (N,) str or None.

        The order is by split, class and path (bytewise, in composed spelling), so it is the same
        on every file system.
        """
        place = {name: number for number, name in enumerate(self.class_names)}
        ranks = np.array([place[name] for name in self._known])
        labels = ranks[np.frombuffer(self._labels, np.intc)]
        splits = np.frombuffer(self._splits, np.int8)
        starts = np.cumsum(self._lengths)
        files = Files(self.directory, bytes(self._text), starts)
        order = _sort_by_name(files, splits.astype(np.int64) * len(place) + labels)
        if (order[1:] < order[:-1]).any():
            text = b"".join(files[order].byte_names())
            np.cumsum(np.diff(starts)[order], out=starts[1:])
            files = Files(self.directory, text, starts)
            labels, splits = labels[order], splits[order]
        names = None if splits[0] < 0 else np.array(SPLITS)[splits]
        return files, labels.astype(np.int64, copy=False), names


def _sort_by_name(files: Files, groups: np.ndarray) -> np.ndarray:
    """Return the order by group, then by path, (N,), with one group's paths in memory at a time."""
    order = np.argsort(groups, kind="stable")
    edges = np.flatnonzero(np.diff(groups[order])) + 1
    for part in np.split(order, edges):  # views: assigning to them sorts `order`
        paths = list(files[part].byte_paths())
        keys = [path if path.isascii() else _compose(path) for path in paths]
        part[:] = part[sorted(range(len(paths)), key=keys.__getitem__)]
    return order


def _compose(path: bytes) -> bytes:
    return os.fsencode(normalise_name(os.fsdecode(path)))


def read_size_and_time(path: str | bytes) -> tuple[int, int]:
    """Return size in bytes and modification time in ns; -1 for both if the file is unreadable."""
    try:
        info = os.stat(path)
    except OSError:
        return -1, -1
    return info.st_size, info.st_mtime_ns
