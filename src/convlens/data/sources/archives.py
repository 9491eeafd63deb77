"""Data sets in archives on a server: downloaded completely or not at all.

Pets: O. M. Parkhi, A. Vedaldi, A. Zisserman, C. V. Jawahar, "Cats and Dogs", CVPR 2012.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from convlens.core import system
from convlens.core.downloads import fetch
from convlens.core.errors import UserError
from convlens.core.locks import is_same_file, wait_for_lock
from convlens.data.sources.source import Download


@dataclass(frozen=True)
class Archives:
    """Archives that, unpacked together, form a data set.

    Attributes:
        title: name of the data set.
        addresses: folders on servers that contain the archives, tried in order.
        checksums: file name of each archive -> its checksum.
        algorithm: ``md5`` or ``sha256``, which computed the checksums.
        folders: the folders that the archives contain.
        megabytes: size of the download.
        class_names: class names for each value of ``data.labels``.
        by_hand: how a user can put the data set into ``{directory}`` instead.
    """

    title: str
    addresses: tuple[str, ...]
    checksums: Mapping[str, str]
    algorithm: str
    folders: tuple[str, ...]
    megabytes: int
    class_names: Mapping[str | None, tuple[str, ...]]
    by_hand: str

    def find_pending(self, directory: Path, labels: str | None) -> Download | None:
        """Return what a run would download, or None."""
        if self.is_there(directory):
            return None
        return Download(directory, self.megabytes, self.class_names[labels])

    def is_there(self, directory: Path) -> bool:
        """Return whether ``directory`` contains anything, so that it is used as it is."""
        try:
            return directory.exists() and next(directory.iterdir(), None) is not None
        except OSError as error:
            raise UserError(
                f"cannot use {directory} for {self.title}: {error.strerror}; set data.dir to a "
                "folder"
            ) from None

    def download(self, directory: Path) -> None:
        """Put the data set into ``directory``, unless something is there already.

        Everything happens in a hidden folder beside ``directory``, which is moved into place when
        complete. The next download removes what a killed run left there.

        Args:
            directory: the folder of the data set.

        Raises:
            UserError: there is no connection, a checksum differs, or an archive is damaged or
                contains something else.
        """
        if self.is_there(directory):
            return
        by_hand = self.by_hand.format(directory=directory)
        try:
            temporary = directory.with_name(f".{directory.name}.download")
            with own_folder(temporary, "downloading") as folder:
                if self.is_there(directory):
                    return  # another process was faster
                content_dir = folder / "whole"
                content_dir.mkdir()
                for name in self.checksums:
                    self._fetch(folder / name, f"check the connection, or {by_hand}")
                    _unpack(folder / name, content_dir)
                    (folder / name).unlink()
                candidates = [content_dir, *filter(Path.is_dir, content_dir.iterdir())]
                missing = {
                    folder: [name for name in self.folders if not (folder / name).is_dir()]
                    for folder in candidates
                }
                root = min(candidates, key=lambda folder: len(missing[folder]))
                if missing[root]:
                    raise UserError(
                        f"the archives of {self.addresses[0]} have no folder {missing[root][0]}/, "
                        f"so they are not {self.title}; {by_hand}"
                    )
                system.replace_folder(root, directory)
        except OSError as error:
            raise UserError(
                f"cannot put {self.title} into {directory}: {error.strerror or error}; free space "
                "there, or set data.dir to another folder"
            ) from None

    def _fetch(self, archive: Path, way_out: str) -> None:
        checksum = {self.algorithm: self.checksums[archive.name]}
        for address, other in itertools.pairwise(self.addresses):
            try:
                fetch(address + archive.name, archive, **checksum, way_out=f"trying {other}")
                return
            except UserError as error:
                print(error, file=sys.stderr)
        fetch(self.addresses[-1] + archive.name, archive, **checksum, way_out=way_out)


def _unpack(archive: Path, folder: Path) -> None:
    try:
        with tarfile.open(archive) as content:
            # "data" refuses members outside the folder: absolute names, "..", links, devices
            content.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"cannot unpack {archive.name}: {error}; download it again") from None


@contextlib.contextmanager
def own_folder(folder: Path, activity: str) -> Iterator[Path]:
    """Provide an empty folder for this process alone, and remove it afterwards.

    A file in it is locked, and the system releases locks when a process dies. So a second process
    waits for a living owner, and clears what a dead one left.

    Args:
        folder: the folder; it need not exist.
        activity: what the owner is doing, for the line that a second process prints.
    """
    lock = folder / ".lock"
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # its owner has just removed it: try again
            fd = system.open_file(lock, os.O_RDWR | os.O_CREAT)
            if not wait_for_lock(fd, activity) or is_same_file(fd, lock):
                break
            os.close(fd)
    try:
        for old in folder.iterdir():
            if old != lock:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(fd)


_FLOWERS = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
FLOWERS = Archives(
    title="the flower photographs",
    addresses=("http://download.tensorflow.org/example_images/",),
    # The checksum of TensorFlow Datasets. The connection is not encrypted, so only the
    # checksum ensures that the download is genuine.
    checksums={
        "flower_photos.tgz": "4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c"
    },
    algorithm="sha256",
    folders=_FLOWERS,
    megabytes=218,
    class_names={None: _FLOWERS},
    by_hand="put class folders into {directory} yourself",
)
# The official server, then the older address that torchvision uses, which redirects to it.
PETS_ADDRESSES = (
    "https://thor.robots.ox.ac.uk/datasets/pets/",
    "https://www.robots.ox.ac.uk/~vgg/data/pets/data/",
)
PETS = Archives(
    title="Oxford-IIIT Pet",
    addresses=PETS_ADDRESSES,
    # The checksums of torchvision; a test compares them.
    checksums={
        "images.tar.gz": "5c4f3ee8e5d25df40f4fd59a7f44e54c",
        "annotations.tar.gz": "95a8c909bbe2e81eed6a22bccdf3f68f",
    },
    algorithm="md5",
    folders=("images", "annotations", "annotations/trimaps"),
    megabytes=811,
    class_names={
        "species": ("cat", "dog"),
        "breeds": (
            "Abyssinian", "Bengal", "Birman", "Bombay", "British_Shorthair", "Egyptian_Mau",
            "Maine_Coon", "Persian", "Ragdoll", "Russian_Blue", "Siamese", "Sphynx",
            "american_bulldog", "american_pit_bull_terrier", "basset_hound", "beagle", "boxer",
            "chihuahua", "english_cocker_spaniel", "english_setter", "german_shorthaired",
            "great_pyrenees", "havanese", "japanese_chin", "keeshond", "leonberger",
            "miniature_pinscher", "newfoundland", "pomeranian", "pug", "saint_bernard", "samoyed",
            "scottish_terrier", "shiba_inu", "staffordshire_bull_terrier", "wheaten_terrier",
            "yorkshire_terrier",
        ),
    },
    by_hand=f"unpack images.tar.gz and annotations.tar.gz from {PETS_ADDRESSES[0]} into "
    "{directory} yourself",
)  # fmt: skip
