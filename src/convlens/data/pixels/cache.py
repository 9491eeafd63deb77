"""Arrays kept on disk between runs: memory-mapped, never half-written, rebuilt when in doubt.

An entry is one ``.npy`` file an array and a JSON sidecar, which is written last and without which
the arrays count for nothing. The sidecar holds the fingerprint of what the arrays were made from,
and size, modification time and checksum of each array file, under a digest of its own. The
checksum is of all bytes of a file up to ``CHECKED``; of a larger one, of so many bytes spread
evenly over it: opening a cache must not take as long as making it.

While an entry is built, its builder holds a lock on ``<name>.json.tmp``, the sidecar to be. So a
second process that wants the same entry waits and then maps it; and temporary files whose lock is
free belong to a process that died, and are removed. (The system frees locks at any death, where
process numbers are reused by the next container.)
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np

from convlens.core.errors import UserError
from convlens.core.locks import is_same_file, take_lock, wait_for_lock
from convlens.data.index.digests import Digest, digest
from convlens.data.index.files import Files, size_and_time
from convlens.data.pixels.array_file import ArrayFile

FORMAT = 2
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
IN_MEMORY = "or keep the images in memory with data.cache=ram"
_BLOCK = 1 << 24  # bytes checked at a time
CHECKED = 1 << 30  # bytes of a file that are checked when it is opened: half a second's worth
_ATTEMPTS = 5  # others may replace the entry between building and reading; not for ever


@dataclass(frozen=True)
class Entry:
    """What lies in the cache under one name; ``arrays`` are read-only memory maps."""

    arrays: dict[str, np.ndarray]
    notes: dict
    from_cache: bool


@dataclass(frozen=True)
class Rows:
    """An array in memory, filled as an :class:`ArrayFile` is."""

    array: np.ndarray

    def put(self, first: int, rows: np.ndarray) -> None:
        self.array[first : first + len(rows)] = rows


class MemoryWriter:
    """Hands out the arrays of an entry that is built in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, Rows] = {}

    def create(self, key: str, shape: tuple[int, ...], dtype: np.dtype) -> Rows:
        """A new array called ``key``; raises UserError at once if the memory cannot hold it.

        The system would kill the process for it later.
        """
        needed = int(np.prod(shape)) * np.dtype(dtype).itemsize
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if needed > there:
            raise UserError(
                f"data.cache=ram needs {needed / 1e9:.1f} GB for {shape[0]} images and this "
                f"machine has {there / 1e9:.1f}: use data.cache=disk or a smaller data.size"
            )
        self.rows[key] = Rows(np.zeros(shape, dtype))
        return self.rows[key]


@dataclass
class FileWriter:
    """Hands out the array files of an entry that is being built."""

    directory: Path
    name: str
    suffix: str
    way_out: str
    files: dict[str, ArrayFile] = field(default_factory=dict)

    def create(self, key: str, shape: tuple[int, ...], dtype: np.dtype) -> ArrayFile:
        """A new array called ``key``; raises UserError at once if the disk cannot hold it."""
        needed = int(np.prod(shape)) * np.dtype(dtype).itemsize
        free = shutil.disk_usage(self.directory).free
        if needed > free:
            detail = f"{needed / 1e9:.2f} GB needed, {free / 1e9:.2f} free"
            raise disk_full_error(self.directory, detail, self.way_out)
        path = self.directory / f"{self.name}.{key}.npy{self.suffix}"
        try:
            self.files[key] = ArrayFile(path, shape, dtype)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return self.files[key]


Writer = FileWriter | MemoryWriter


def disk_full_error(directory: Path, detail: str, way_out: str) -> UserError:
    return UserError(
        f"no room for the cache in {directory} ({detail}): free some, set CONVLENS_CACHE to a "
        f"larger disk, {way_out}"
    )


def load_or_build(
    directory: Path | None,
    name: str,
    fingerprint: str,
    build: Callable[[Writer], dict],
    way_out: str = IN_MEMORY,
) -> Entry:
    """The entry ``name`` if it holds ``fingerprint``, else built, and then read back.

    ``build(writer)`` fills the arrays it creates and returns JSON-able notes, kept beside them. It
    may raise what it likes: nothing of it stays. Two processes that want one entry build it once.
    Without a ``directory`` it is built in memory, and nothing is written.
    ``way_out`` ends error messages: what to do besides making room.

    Raises UserError if the folder cannot be written or the disk is full.
    """
    if directory is None:
        writer = MemoryWriter()
        notes = build(writer)
        return Entry({key: rows.array for key, rows in writer.rows.items()}, notes, False)
    with _explained(directory, way_out):
        directory.mkdir(parents=True, exist_ok=True)
        _sweep(directory)
    built = False
    for _ in range(_ATTEMPTS):
        entry = _load(directory, name, fingerprint)
        if entry is not None:
            return replace(entry, from_cache=not built)
        with _explained(directory, way_out), _owned(directory, name) as suffix:
            # another process may have been faster: then what it made is read
            built = suffix is not None and _load(directory, name, fingerprint) is None
            if built:
                _build(FileWriter(directory, name, suffix, way_out), fingerprint, build)
    raise UserError(
        f"the cache in {directory} does not keep what is written (sizes or times change): set "
        f"CONVLENS_CACHE to a local disk, {way_out}"
    )


def fingerprint_files(files: Files, *parts: object) -> tuple[str, str]:
    """What names an entry made from files, and what must be unchanged for it to hold.

    Sizes and times are not in the first, so that changed files replace their entry on disk.

    Args:
        files: they are read for it.
        parts: JSON-able; all else that it is made from.
    """
    identity = Digest(*parts)
    identity.add_all(files.absolute())
    whole = identity.copy()
    whole.add_all(map(size_and_time, files.located()))
    return identity.hexdigest(), whole.hexdigest()


def cache_arrays(
    key: dict, make: Callable[[], dict[str, np.ndarray]], directory: Path | None
) -> dict[str, np.ndarray]:
    """The arrays that ``make()`` gives, made once for each ``key`` (JSON-able; say it all in it).

    Returns the same names; the arrays are read-only memory maps. Without a ``directory`` they are
    made anew and nothing is kept. Raises UserError if it cannot be written or is full.
    """
    if directory is None:
        return make()

    def build(writer: Writer) -> dict:
        for name, array in make().items():
            writer.create(name, array.shape, array.dtype).put(0, array)
        return {}

    mark = digest(FORMAT, key)
    return load_or_build(directory, f"arrays-{mark}", mark, build).arrays


@contextlib.contextmanager
def _explained(directory: Path, way_out: str) -> Iterator[None]:
    """A full disk or an unusable folder, as the one line a person can act on."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full_error(directory, error.strerror, way_out) from None
        raise UserError(
            f"cannot write the cache folder {directory}: {error.strerror or error}; set "
            f"CONVLENS_CACHE to another folder, {way_out}"
        ) from None


def _build(writer: FileWriter, fingerprint: str, build: Callable[[Writer], dict]) -> None:
    """Fill the temporary files, then move them into place, the sidecar last."""
    place, files, taken = writer.directory / writer.name, writer.files, False
    temporary = Path(f"{place}.json{writer.suffix}")
    try:
        try:
            notes = build(writer)
            for file in files.values():
                file.sync()
        finally:
            for file in files.values():
                file.close()
        arrays = {}
        for key, file in files.items():
            if taken := not file.is_there():
                raise UserError(
                    f"another machine builds the same cache in {writer.directory}, whose locks do "
                    f"not reach from one machine to the other: set CONVLENS_CACHE to a local disk "
                    f"of each, or build it beforehand by a run on one of them"
                )
            with open(file.path, "rb") as written:
                arrays[key] = _state(written)
            os.replace(file.path, f"{place}.{key}.npy")
        content = {"fingerprint": fingerprint, "arrays": arrays, "notes": notes}
        content["digest"] = digest(FORMAT, content)
        with open(temporary, "w", encoding="utf-8") as sidecar:
            json.dump(content, sidecar)
            sidecar.flush()
            os.fsync(sidecar.fileno())
        os.replace(temporary, f"{place}.json")
    except BaseException:
        for file in files.values():
            if file.is_there():
                file.path.unlink(missing_ok=True)
        if not taken:
            temporary.unlink(missing_ok=True)
        raise


def _load(directory: Path, name: str, fingerprint: str) -> Entry | None:
    """The entry, if every byte of the sidecar and every array file is as it was written."""
    try:
        content = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))
        if content.pop("digest") != digest(FORMAT, content):
            return None
        if content["fingerprint"] != fingerprint:
            return None
        arrays = {
            key: _mapped(directory / f"{name}.{key}.npy", expected)
            for key, expected in content["arrays"].items()
        }
        return Entry(arrays, content["notes"], from_cache=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _state(file: BinaryIO) -> dict[str, int]:
    """What an array file is known by: its size, its time, and CRC-32C over its blocks."""
    info = os.fstat(file.fileno())
    blocks = -(-info.st_size // _BLOCK)
    most = CHECKED // _BLOCK
    chosen = range(blocks)
    if blocks > most:  # the first, the last, and those evenly between
        chosen = [round(number * (blocks - 1) / (most - 1)) for number in range(most)]
    mark = 0
    for block in chosen:
        file.seek(block * _BLOCK)
        mark = google_crc32c.extend(mark, file.read(_BLOCK))
    return {"bytes": info.st_size, "mtime_ns": info.st_mtime_ns, "crc32c": mark}


def _mapped(path: Path, expected: dict) -> np.ndarray:
    """Map the file that was checked: opened once, so that it cannot be replaced in between."""
    with open(path, "rb") as file:
        if _state(file) != expected:
            raise ValueError(f"{path} is not as it was written")
        file.seek(0)
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.memmap(file, dtype, "r", offset=file.tell(), shape=shape)


# ------------------------------------------------------------------------------------------ locks


@contextlib.contextmanager
def _owned(directory: Path, name: str) -> Iterator[str | None]:
    """Own the entry ``name``: yields the suffix of temporary files.

    Waits for another builder; yields None when that one has finished meanwhile. On a file system
    without locks every process builds for itself under a name of its own, and the last wins.
    """
    path = directory / f"{name}.json.tmp"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not wait_for_lock(fd, f"building {name}"):
            path.unlink(missing_ok=True)
            yield f".{os.getpid()}.tmp"
        else:
            yield ".tmp" if is_same_file(fd, path) else None
    finally:
        os.close(fd)


def _sweep(directory: Path) -> None:
    """Remove what dead processes left: the temporary files of entries whose lock is free."""
    for temporary in directory.glob("*.json.tmp"):
        with contextlib.suppress(OSError):  # somebody else removes it too, or may alone
            fd = os.open(temporary, os.O_RDWR)
            try:
                if take_lock(fd) and is_same_file(fd, temporary):
                    name = temporary.name.removesuffix(".json.tmp")
                    for array in directory.glob(f"{name}.*.npy.tmp"):
                        array.unlink(missing_ok=True)
                    temporary.unlink(missing_ok=True)
            finally:
                os.close(fd)
