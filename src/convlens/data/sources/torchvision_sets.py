"""MNIST and CIFAR-10: torchvision's download and checksums; existing files are used in place.

Legend: N images, H W C height, width, channels. Both sets fit in memory and are read completely.

A folder that contains the files is only read, never written: compressed files are read directly,
while torchvision would unpack them into the same folder.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import os
import pickle
import shutil
import socket
import struct
import tarfile
import textwrap
import zlib
from pathlib import Path

import numpy as np
from torchvision import datasets

from convlens.core import system
from convlens.core.errors import UserError

Split = tuple[np.ndarray, np.ndarray]

MNIST_CLASSES = tuple("0123456789")
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
TIMEOUT = 30  # seconds without a byte before a download fails

_MNIST_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# Exceptions from reading a damaged compressed file.
_DAMAGE = (EOFError, zlib.error, tarfile.TarError, struct.error, ValueError)


def read_mnist(directory: Path, download: bool = True) -> dict[str, Split]:
    """Read ``{"train": (images, labels), "test": …}``: (N, 28, 28, 1) uint8, (N,) int64 0 to 9.

    The four IDX files, with or without ``.gz``, are searched in ``directory/MNIST/raw``,
    ``directory/raw`` and ``directory``; if none has all of them, they are downloaded to the first.

    Args:
        directory: the data set.
        download: whether to download missing files.

    Raises:
        UserError: a file is damaged, or missing and cannot be downloaded; the error states its
            official address.
    """
    folder = _find_mnist_folder(directory)
    if folder is None and download:
        _download(datasets.MNIST, directory, "MNIST/raw", "*.gz", _missing_mnist_error)
        folder = _find_mnist_folder(directory)
    if folder is None:
        raise _missing_mnist_error(
            directory, "; the download left them incomplete" if download else ""
        )
    return {split: _read_mnist_split(folder, *names) for split, names in _MNIST_FILES.items()}


def _find_mnist_folder(directory: Path) -> Path | None:
    folders = (directory / "MNIST" / "raw", directory / "raw", directory)
    names = list(itertools.chain(*_MNIST_FILES.values()))
    return next(
        (each for each in folders if all(_find_idx_file(each, name) for name in names)), None
    )


def _find_idx_file(folder: Path, name: str) -> Path | None:
    """Return the compressed file rather than the plain one: it has a checksum of its content."""
    return next(filter(Path.is_file, (folder / f"{name}.gz", folder / name)), None)


def _read_mnist_split(folder: Path, images_name: str, labels_name: str) -> Split:
    images, labels = (
        _read_idx(_find_idx_file(folder, name)) for name in (images_name, labels_name)
    )
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise UserError(
            f"{folder / images_name} has shape {images.shape}, but {labels_name} {labels.shape}: "
            "they do not match; remove both to download them again"
        )
    if labels.size and labels.max() >= len(MNIST_CLASSES):
        raise UserError(
            f"{folder / labels_name} contains the label {labels.max()}: expected digits 0 to 9"
        )
    return images[..., None], labels.astype(np.int64)


def _read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of bytes: 00 00 08, number of dimensions, each size big-endian, the data."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = file.read()
        zero, kind, dimensions = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{dimensions}I", content, 4)
        if (zero, kind) != (0, 8):
            raise ValueError("not an IDX file of bytes")
        # reshape fails for a truncated file, or one with more data than its header states
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy()
    except (OSError, *_DAMAGE) as error:
        raise UserError(f"{path} is damaged ({error}): remove it to download it again") from None


def _missing_mnist_error(directory: Path, detail: str) -> UserError:
    names = " ".join(name for name, _ in datasets.MNIST.resources)
    return UserError(
        f"MNIST is not in {directory}{detail}: put {names} into {directory / 'MNIST' / 'raw'}, "
        f"from {' or '.join(datasets.MNIST.mirrors)}"
    )


def read_cifar10(directory: Path, download: bool = True) -> dict[str, Split]:
    """Read ``{"train": (images, labels), "test": …}``: (N, 32, 32, 3) uint8 RGB, (N,) int64 0 to 9.

    ``directory`` is searched for the archive ``cifar-10-python.tar.gz``, the folder
    ``cifar-10-batches-py``, or its files; otherwise the archive is downloaded.

    Args:
        directory: the data set.
        download: whether to download missing files.

    Raises:
        UserError: a file is missing and cannot be downloaded (the error states its official
            address), or its MD5 is not torchvision's. The files are pickles, which can run code,
            so no other file is opened.
    """
    source = datasets.CIFAR10
    files = _read_cifar_files(directory)
    if files is None and download:
        _download(source, directory, source.base_folder, "*", _missing_cifar_error)
        files = _read_cifar_files(directory)
    if files is None:
        raise _missing_cifar_error(
            directory, "; the download left it incomplete" if download else ""
        )
    names = pickle.loads(files[source.meta["filename"]], encoding="latin1")
    if tuple(names[source.meta["key"]]) != CIFAR10_CLASSES:
        raise UserError(f"the class names in {directory} are not CIFAR-10's: {names}")
    lists = {"train": source.train_list, "test": source.test_list}
    return {
        split: _read_cifar_split(files, [name for name, _ in each]) for split, each in lists.items()
    }


def _read_cifar_split(files: dict[str, bytes], names: list[str]) -> Split:
    batches = [pickle.loads(files[name], encoding="latin1") for name in names]
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([batch["labels"] for batch in batches]).astype(np.int64)
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels


def _read_cifar_files(directory: Path) -> dict[str, bytes] | None:
    """Return the contents of the checked batch files by name, or None if any is missing."""
    source = datasets.CIFAR10
    sums = dict([*source.train_list, *source.test_list])
    sums[source.meta["filename"]] = source.meta["md5"]
    for place in (directory / source.base_folder, directory):
        if all((place / name).is_file() for name in sums):
            files = {name: (place / name).read_bytes() for name in sums}
            break
    else:
        place = directory / source.filename
        if not place.is_file():
            return None
        files = _read_archive(place, sums)
    for name, md5 in sums.items():
        if hashlib.md5(files[name], usedforsecurity=False).hexdigest() != md5:
            raise UserError(f"{name} in {place} is damaged (its MD5 differs): remove it to "
                            "download it again")  # fmt: skip
    return files


def _read_archive(path: Path, names: dict[str, str]) -> dict[str, bytes]:
    try:
        with tarfile.open(path) as archive:
            folder = datasets.CIFAR10.base_folder
            return {name: archive.extractfile(f"{folder}/{name}").read() for name in names}
    except (OSError, KeyError, AttributeError, *_DAMAGE) as error:
        raise UserError(f"{path} is damaged ({error}): remove it to download it again") from None


def _missing_cifar_error(directory: Path, detail: str) -> UserError:
    source = datasets.CIFAR10
    return UserError(
        f"CIFAR-10 is not in {directory}{detail}: put {source.filename} there, from {source.url}"
    )


def _download(source: type, directory: Path, below: str, files: str, missing) -> None:
    """Let torchvision download into a temporary folder and check; then move the files.

    Each file appears under its own name only when it is complete, so a killed run leaves nothing
    that a later one would take for the data set.
    """
    temporary, before = directory / f".download.{os.getpid()}", socket.getdefaulttimeout()
    # torchvision opens addresses without a time limit, so it could wait forever
    socket.setdefaulttimeout(TIMEOUT)
    try:
        temporary.mkdir(parents=True)
        source(temporary, train=True, download=True)
        target = directory / below
        target.mkdir(parents=True, exist_ok=True)
        for file in sorted((temporary / below).glob(files)):
            system.replace(file, target / file.name)
    except (OSError, RuntimeError, *_DAMAGE) as error:
        # URLError is an OSError; torchvision's RuntimeError lists every mirror over many lines
        brief = textwrap.shorten(str(error), 160, placeholder=" …")
        raise missing(directory, f" and cannot be downloaded ({brief})") from None
    finally:
        socket.setdefaulttimeout(before)
        shutil.rmtree(temporary, ignore_errors=True)
