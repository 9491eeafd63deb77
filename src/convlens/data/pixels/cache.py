"""Arrays cached on disk between runs: memory-mapped, never half-written, rebuilt when in doubt.

An entry is one ``.npy`` file per array and a JSON sidecar. The sidecar is written last; without it
the arrays are ignored. It contains the fingerprint of the arrays' inputs; the size, modification
time and checksum of each array file; and a digest of itself. A checksum covers all bytes of a file
up to ``CHECKED``; of a larger file it covers that many bytes, spread evenly, because opening a
cache must not take as long as building it.

While a process builds an entry it holds a lock on ``<name>.json.tmp``, the future sidecar. A second
process that needs the same entry waits and then maps it. Temporary files without a lock belong to a
process that died and are removed.
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

from convlens.core import system
from convlens.core.errors import UserError
from convlens.core.locks import is_same_file, take_lock, wait_for_lock
from convlens.core.memory import read_total_memory
from convlens.data.index.digests import Digest, digest
from convlens.data.index.files import Files, read_size_and_time
from convlens.data.pixels.array_file import ArrayFile

FORMAT = 2
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
IN_MEMORY = "or keep the images in memory with data.cache=ram"
_BLOCK = 1 << 24  # bytes checked at a time
CHECKED = 1 << 30  # most bytes checked when a file is opened: about half a second
_ATTEMPTS = 5  # other processes may replace the entry between building and reading


@dataclass(frozen=True)
class Entry:
    """One entry of the cache; ``arrays`` are read-only memory maps, ``notes`` come from JSON."""

    arrays: dict[str, np.ndarray]
    notes: dict
    from_cache: bool


@dataclass(frozen=True)
class Rows:
    """An array in memory with the interface of ``ArrayFile``."""

    array: np.ndarray

    def put(self, first: int, rows: np.ndarray) -> None:
        """Write ``rows`` at index ``first``."""
        self.array[first : first + len(rows)] = rows


class MemoryWriter:
    """Creates the arrays of an entry that is built in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, Rows] = {}

    def create(self, key: str, shape: tuple[int, ...], dtype: np.dtype) -> Rows:
        """Create an array called ``key``.

        Raises:
            UserError: the machine's memory cannot hold it; the system would kill the process later.
        """
        needed = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if needed > (memory := read_total_memory()):
            raise UserError(
                f"data.cache=ram needs {needed / 1e9:.1f} GB for {shape[0]} images, but this "
                f"machine has {memory / 1e9:.1f} GB: use data.cache=disk or a smaller data.size"
            )
        self.rows[key] = Rows(np.zeros(shape, dtype))
        return self.rows[key]


@dataclass
class FileWriter:
    """Creates the array files of an entry that is being built."""

    directory: Path
    name: str
    suffix: str
    way_out: str
    files: dict[str, ArrayFile] = field(default_factory=dict)

    def create(self, key: str, shape: tuple[int, ...], dtype: np.dtype) -> ArrayFile:
        """Create an array called ``key``.

        Raises:
            UserError: the disk cannot hold it.
        """
        needed = int(np.prod(shape)) * np.dtype(dtype).itemsize
        free = shutil.disk_usage(self.directory).free
        if needed > free:
            detail = f"{needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free"
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
    """Return the error for a full disk."""
    return UserError(
        f"no space for the cache in {directory} ({detail}): free some, set CONVLENS_CACHE to a "
        f"larger disk, {way_out}"
    )


def load_or_build(
    directory: Path | None,
    name: str,
    fingerprint: str,
    build: Callable[[Writer], dict],
    way_out: str = IN_MEMORY,
) -> Entry:
    """Return the entry ``name`` if it has this ``fingerprint``; else build it and read it back.

    Whatever ``build`` raises, nothing partial stays on disk. If two processes need one entry, one
    builds it.

    Args:
        directory: folder of the cache; None: build in memory and write nothing.
        name: the entry's name.
        fingerprint: digest of everything that the arrays depend on.
        build: given a writer, fills the arrays that it creates, and returns notes (JSON-able) that
            are stored with them.
        way_out: ends error messages: what the user can do besides freeing space.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    if directory is None:
        writer = MemoryWriter()
        notes = build(writer)
        return Entry({key: rows.array for key, rows in writer.rows.items()}, notes, False)
    with _convert_errors(directory, way_out):
        directory.mkdir(parents=True, exist_ok=True)
        _sweep(directory)
    built = False
    for _ in range(_ATTEMPTS):
        entry = _load(directory, name, fingerprint)
        if entry is not None:
            return replace(entry, from_cache=not built)
        with _convert_errors(directory, way_out), _own_entry(directory, name) as suffix:
            # if another process finished first, read what it built
            built = suffix is not None and _load(directory, name, fingerprint) is None
            if built:
                _build(FileWriter(directory, name, suffix, way_out), fingerprint, build)
    raise UserError(
        f"the cache in {directory} does not keep what is written (sizes or times change): set "
        f"CONVLENS_CACHE to a local disk, {way_out}"
    )


def fingerprint_files(files: Files, *parts: object) -> tuple[str, str]:
    """Return a name for an entry made from files, and the fingerprint that it has to match.

    The name does not depend on sizes and times, so that changed files replace their entry on disk.

    Args:
        files: the files that the entry is made from.
        *parts: everything else that it is made from, JSON-able.
    """
    identity = Digest(*parts)
    identity.add_all(files.absolute())
    fingerprint = identity.copy()
    fingerprint.add_all(map(read_size_and_time, files.byte_paths()))
    return identity.hexdigest(), fingerprint.hexdigest()


def cache_arrays(
    key: dict, make: Callable[[], dict[str, np.ndarray]], directory: Path | None
) -> dict[str, np.ndarray]:
    """Return the arrays from ``make()`` by name; it is called once for each ``key``.

    Args:
        key: everything that the arrays depend on, JSON-able.
        make: computes the arrays.
        directory: folder of the cache; None: compute them and write nothing.

    Returns:
        Read-only memory maps.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
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
def _convert_errors(directory: Path, way_out: str) -> Iterator[None]:
    """Convert a full disk or an unusable folder into a UserError."""
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
    place, files, is_taken = writer.directory / writer.name, writer.files, False
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
            if is_taken := not file.is_there():
                raise UserError(
                    f"another machine is building the same cache in {writer.directory}, which does "
                    f"not share locks: set CONVLENS_CACHE to a local disk of each, or run on one "
                    f"machine first"
                )
            with open(file.path, "rb") as array_file:
                arrays[key] = _read_state(array_file)
            system.replace(file.path, f"{place}.{key}.npy")
        content = {"fingerprint": fingerprint, "arrays": arrays, "notes": notes}
        content["digest"] = digest(FORMAT, content)
        with open(temporary, "w", encoding="utf-8") as sidecar:
            json.dump(content, sidecar)
            sidecar.flush()
            os.fsync(sidecar.fileno())
        system.replace(temporary, f"{place}.json")
    except BaseException:
        for file in files.values():
            if file.is_there():
                file.path.unlink(missing_ok=True)
        if not is_taken:
            temporary.unlink(missing_ok=True)
        raise


def _load(directory: Path, name: str, fingerprint: str) -> Entry | None:
    """Return the entry, if the sidecar and every array file are as they were written."""
    try:
        content = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))
        if content.pop("digest") != digest(FORMAT, content):
            return None
        if content["fingerprint"] != fingerprint:
            return None
        arrays = {
            key: _map_file(directory / f"{name}.{key}.npy", expected)
            for key, expected in content["arrays"].items()
        }
        return Entry(arrays, content["notes"], from_cache=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _read_state(file: BinaryIO) -> dict[str, int]:
    """Return what identifies an array file: its size, its time, and CRC-32C of its blocks."""
    info = os.fstat(file.fileno())
    blocks = -(-info.st_size // _BLOCK)
    most = CHECKED // _BLOCK
    chosen = range(blocks)
    if blocks > most:  # the first, the last, and some evenly between
        chosen = [round(number * (blocks - 1) / (most - 1)) for number in range(most)]
    mark = 0
    for block in chosen:
        file.seek(block * _BLOCK)
        mark = google_crc32c.extend(mark, file.read(_BLOCK))
    return {"bytes": info.st_size, "mtime_ns": info.st_mtime_ns, "crc32c": mark}


def _map_file(path: Path, expected: dict) -> np.ndarray:
    """Check and map a file; it is opened once, so that it cannot be replaced in between."""
    with open(path, "rb") as file:
        if _read_state(file) != expected:
            raise ValueError(f"{path} is not as it was written")
        file.seek(0)
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.memmap(file, dtype, "r", offset=file.tell(), shape=shape)


# ------------------------------------------------------------------------------------------ locks


@contextlib.contextmanager
def _own_entry(directory: Path, name: str) -> Iterator[str | None]:
    """Own the entry ``name`` and yield the suffix of its temporary files.

    Wait for another builder, and yield None if that one finished. On a file system without locks
    every process builds the entry under its own temporary name, and the last one wins.
    """
    path = directory / f"{name}.json.tmp"
    fd = system.open_file(path, os.O_RDWR | os.O_CREAT)
    try:
        if not wait_for_lock(fd, f"building {name}"):
            path.unlink(missing_ok=True)
            yield f".{os.getpid()}.tmp"
        else:
            yield ".tmp" if is_same_file(fd, path) else None
    finally:
        os.close(fd)


def _sweep(directory: Path) -> None:
    """Remove what dead processes left: temporary files of entries that nobody has locked."""
    for temporary in directory.glob("*.json.tmp"):
        with contextlib.suppress(OSError):  # another process removes it too, or owns it
            fd = system.open_file(temporary, os.O_RDWR)
            try:
                if take_lock(fd) and is_same_file(fd, temporary):
                    name = temporary.name.removesuffix(".json.tmp")
                    for array in directory.glob(f"{name}.*.npy.tmp"):
                        array.unlink(missing_ok=True)
                    temporary.unlink(missing_ok=True)
            finally:
                os.close(fd)
