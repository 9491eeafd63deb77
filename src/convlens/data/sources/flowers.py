"""``data=flowers``: TensorFlow's five kinds of flowers, downloaded whole or not there at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import zlib
from pathlib import Path

from convlens.config.schema import DataConfig
from convlens.core.downloads import fetch
from convlens.core.errors import UserError
from convlens.data.sources.folder import image_folder
from convlens.data.sources.picture_files import Found
from convlens.data.sources.places import data_dir
from convlens.data.sources.source import Download

FLOWERS_URL = "http://download.tensorflow.org/example_images/flower_photos.tgz"
# As TensorFlow Datasets has it; the connection is not encrypted, so this is what can be trusted.
FLOWERS_SHA256 = "4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c"
FLOWERS_CLASSES = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
MEGABYTES = 218


def flowers(
    directory: str | os.PathLike,
    *,
    url: str = FLOWERS_URL,
    sha256: str | None = FLOWERS_SHA256,
    progress: bool = True,
) -> Path:
    """TensorFlow's flower photographs (3,670, five classes, 229 MB) as class folders.

    A ``directory`` that exists and is not empty is used as it is. Else the archive is downloaded
    beside it, unpacked, and moved into place when complete. Returns ``directory``.

    Raises UserError: no connection, another checksum, an archive without the five class folders.
    """
    directory = Path(directory).expanduser()
    try:
        if directory.is_dir() and next(directory.iterdir(), None) is not None:
            return directory
        directory.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot use {directory} for the flowers: {error.strerror}") from None
    archive = directory.with_name(f".{directory.name}.{os.getpid()}.tgz")
    folder = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
    try:
        way_out = f"check the connection, or put class folders into {directory} yourself"
        fetch(url, archive, sha256=sha256, progress=progress, way_out=way_out)
        _unpack(archive, folder)
        inside = next((d for d in (folder, *folder.iterdir()) if (d / "daisy").is_dir()), None)
        missing = [name for name in FLOWERS_CLASSES if inside and not (inside / name).is_dir()]
        if inside is None or missing:
            raise UserError(
                f"{url} holds no folder {missing[0] if missing else 'daisy'}/: it is not the "
                f"flower photographs; put class folders into {directory} yourself"
            )
        os.replace(inside, directory)
    except OSError as error:
        raise UserError(f"cannot put the flowers into {directory}: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            archive.unlink()
        shutil.rmtree(folder, ignore_errors=True)
    return directory


def _unpack(archive: Path, folder: Path) -> None:
    try:
        with tarfile.open(archive) as content:
            # "data" refuses members that would land outside: absolute names, "..", links, devices
            content.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(f"cannot unpack the flower archive: {error}; download again") from None


def flower_files(spec: DataConfig, for_test: bool = False) -> Found:
    """Five kinds of flowers, downloaded when the folder is not there."""
    directory = data_dir(spec)
    if not directory.exists():
        flowers(directory)
    return image_folder(spec, for_test)


def pending(spec: DataConfig) -> Download | None:
    """What a run would download, or None."""
    folder = data_dir(spec)
    return None if folder.exists() else Download(folder, MEGABYTES, FLOWERS_CLASSES)
