"""Data sets that are packed on a server: downloaded whole, or not there at all.

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

from convlens.core.downloads import fetch
from convlens.core.errors import UserError
from convlens.core.locks import is_same_file, wait_for_lock
from convlens.data.sources.source import Download


@dataclass(frozen=True)
class Archives:
    """Packed folders that are, unpacked together, a data set.

    Attributes:
        title: of the data set.
        addresses: of the folders that hold the archives; tried in order.
        checksums: file name of each archive to its checksum.
        algorithm: of the checksums, ``md5`` or ``sha256``.
        folders: lie side by side in them.
        megabytes: to download.
        class_names: by ``data.labels``.
        by_hand: how a person puts the data set into ``{directory}`` instead.
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
        """What a run would download, or None."""
        if self.is_there(directory):
            return None
        return Download(directory, self.megabytes, self.class_names[labels])

    def is_there(self, directory: Path) -> bool:
        """Whether ``directory`` holds anything, and so will be used as it is."""
        try:
            return directory.exists() and next(directory.iterdir(), None) is not None
        except OSError as error:
            raise UserError(
                f"cannot use {directory} for {self.title}: {error.strerror}; set data.dir to a "
                "folder"
            ) from None

    def download(self, directory: Path) -> None:
        """Put the data set into ``directory``, unless something is there already.

        Everything happens in one hidden folder beside ``directory``, which is moved into place when
        complete; whatever a killed run left there goes at the next one.

        Raises UserError: no connection, another checksum, a damaged archive or one of something
        else.
        """
        if self.is_there(directory):
            return
        by_hand = self.by_hand.format(directory=directory)
        try:
            with _workshop(directory.with_name(f".{directory.name}.download")) as folder:
                if self.is_there(directory):
                    return  # another process was faster
                whole = folder / "whole"
                whole.mkdir()
                for name in self.checksums:
                    self._fetch(folder / name, f"check the connection, or {by_hand}")
                    _unpack(folder / name, whole)
                    (folder / name).unlink()
                places = [whole, *filter(Path.is_dir, whole.iterdir())]
                lacking = {
                    place: [name for name in self.folders if not (place / name).is_dir()]
                    for place in places
                }
                root = min(places, key=lambda place: len(lacking[place]))
                if lacking[root]:
                    raise UserError(
                        f"the archives of {self.addresses[0]} hold no folder {lacking[root][0]}/: "
                        f"they are not {self.title}; {by_hand}"
                    )
                os.replace(root, directory)
        except OSError as error:
            raise UserError(
                f"cannot put {self.title} into {directory}: {error.strerror or error}; make room "
                "there, or set data.dir to another place"
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
            # "data" refuses members that would land outside: absolute names, "..", links, devices
            content.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"cannot unpack {archive.name}: {error}; download again") from None


@contextlib.contextmanager
def _workshop(folder: Path) -> Iterator[Path]:
    """An empty folder for this process alone, gone afterwards.

    It is locked, and the system frees locks at any death: so a second process waits for a living
    one, and clears away what a dead one left.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # its owner has just removed it: again
            fd = os.open(folder, os.O_RDONLY)
            try:
                locked = wait_for_lock(fd, "downloading")
            except OSError:
                locked = False  # files can be locked there, and folders cannot
            if not locked or is_same_file(fd, folder):
                break
            os.close(fd)
    try:
        for left in folder.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(fd)


_FLOWERS = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
FLOWERS = Archives(
    title="the flower photographs",
    addresses=("http://download.tensorflow.org/example_images/",),
    # As TensorFlow Datasets has it; the connection is not encrypted, so this is what can be
    # trusted.
    checksums={
        "flower_photos.tgz": "4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c"
    },
    algorithm="sha256",
    folders=_FLOWERS,
    megabytes=218,
    class_names={None: _FLOWERS},
    by_hand="put class folders into {directory} yourself",
)
# The official server, then the older address that torchvision uses and that is forwarded to it.
PETS_ADDRESSES = (
    "https://thor.robots.ox.ac.uk/datasets/pets/",
    "https://www.robots.ox.ac.uk/~vgg/data/pets/data/",
)
PETS = Archives(
    title="Oxford-IIIT Pet",
    addresses=PETS_ADDRESSES,
    # By torchvision; a test compares them.
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
