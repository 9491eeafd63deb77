"""``data=pets``: Oxford-IIIT Pet, cats and dogs of 37 breeds, downloaded whole and listed.

Laid out as the official archives unpack, or all that inside ``oxford-iiit-pet/`` (torchvision)::

    images/Abyssinian_100.jpg
    annotations/trainval.txt test.txt          "Abyssinian_100 1 1 1": name, class, species, breed
    annotations/trimaps/Abyssinian_100.png     where the animal is (`convlens.data.masks.trimaps`)

O. M. Parkhi, A. Vedaldi, A. Zisserman, C. V. Jawahar, "Cats and Dogs", CVPR 2012.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
import re
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from convlens.config.schema import DataConfig
from convlens.core.downloads import fetch
from convlens.core.errors import UserError, nearest
from convlens.core.locks import is_same_file, wait_for_lock
from convlens.data.index.listing import Listing
from convlens.data.masks import trimaps
from convlens.data.masks.files import Masks
from convlens.data.sources.picture_files import Found
from convlens.data.sources.places import cache_dir, data_dir
from convlens.data.sources.source import Download

# The official server, then the older address that torchvision uses and that is forwarded to it.
ADDRESSES = (
    "https://thor.robots.ox.ac.uk/datasets/pets/",
    "https://www.robots.ox.ac.uk/~vgg/data/pets/data/",
)
# By torchvision; a test compares them.
MD5 = {
    "images.tar.gz": "5c4f3ee8e5d25df40f4fd59a7f44e54c",
    "annotations.tar.gz": "95a8c909bbe2e81eed6a22bccdf3f68f",
}
MEGABYTES = 811
CLASS_NAMES = {
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
}  # fmt: skip

_LISTS = {"train": "trainval.txt", "test": "test.txt"}
_LINE = re.compile(r"([^/\\\s]+)_\d+\s+([1-9]\d*)\s+([12])\s+[1-9]\d*")  # breed, class, species
_FOLDERS = ("images", "annotations", "annotations/trimaps")


def class_names(labels: str) -> tuple[str, ...]:
    """The class names of the whole set, sorted bytewise. Raises UserError: unknown ``labels``."""
    if labels not in CLASS_NAMES:
        raise UserError(f"data.labels={labels}: {nearest(str(labels), CLASS_NAMES)}")
    return CLASS_NAMES[labels]


def is_there(directory: Path) -> bool:
    """Whether ``directory`` holds anything, and so will be used as it is."""
    try:
        return directory.exists() and next(directory.iterdir(), None) is not None
    except OSError as error:
        raise UserError(
            f"cannot use {directory} for Oxford-IIIT Pet: {error.strerror}; set data.dir to a "
            "folder"
        ) from None


# --------------------------------------------------------------------------------------- download


def pets(
    directory: str | os.PathLike,
    *,
    addresses: Sequence[str] = ADDRESSES,
    md5: dict[str, str] = MD5,
    progress: bool = True,
) -> Path:
    """The data set in ``directory``, downloaded (811 MB) unless something is there already.

    ``addresses`` are tried in order for each archive named in ``md5``. Everything happens in one
    hidden folder beside ``directory``, which is moved into place when complete; whatever a killed
    run left there goes at the next one.

    Raises UserError: no connection, another checksum, a damaged archive or one of something else.
    """
    directory = Path(directory).expanduser()
    way_out = (
        f"check the connection, or unpack {' and '.join(md5)} from {ADDRESSES[0]} into "
        f"{directory} yourself"
    )
    if is_there(directory):
        return directory
    try:
        with _workshop(directory.with_name(f".{directory.name}.download")) as folder:
            if is_there(directory):
                return directory  # another process was faster
            whole = folder / "whole"
            for name, checksum in md5.items():
                archive = _fetched(addresses, folder / name, checksum, progress, way_out)
                _unpack(archive, whole)
                archive.unlink()
            lacking = [name for name in _FOLDERS if not (whole / name).is_dir()]
            if lacking:
                raise UserError(
                    f"the archives of {addresses[0]} hold no folder {lacking[0]}/: they are not "
                    f"Oxford-IIIT Pet; {way_out}"
                )
            os.replace(whole, directory)
    except OSError as error:
        raise UserError(
            f"cannot put Oxford-IIIT Pet into {directory}: {error.strerror or error}; make room "
            "there, or set data.dir to another place"
        ) from None
    return directory


def _fetched(
    addresses: Sequence[str], archive: Path, md5: str, progress: bool, way_out: str
) -> Path:
    for address, other in itertools.pairwise(addresses):
        url, instead = address + archive.name, f"trying {other}"
        try:
            return fetch(url, archive, md5=md5, progress=progress, way_out=instead)
        except UserError as error:
            print(error, file=sys.stderr)
    last = addresses[-1] + archive.name
    return fetch(last, archive, md5=md5, progress=progress, way_out=way_out)


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


# ---------------------------------------------------------------------------------------- listing


def list_pets(directory: str | os.PathLike, labels: str) -> Listing:
    """The pictures that the two official lists name, in the splits "train" and "test".

    labels  "species": cat and dog; "breeds": the class names are those of the files

    Raises UserError, one line: no such folder or list, a line that is none, a picture or trimap
    that is not there, a picture listed twice, a breed with two species.
    """
    class_names(labels)
    directory = Path(directory).expanduser()
    root = next((d for d in (directory / "oxford-iiit-pet", directory) if d.is_dir()), directory)
    again = f"put it there from {ADDRESSES[0]}, or remove {directory} to download everything again"
    for name in _FOLDERS:
        if not (root / name).is_dir():
            raise UserError(f"no folder {root / name}: {again}")
    kinds: dict[str, tuple[str, str]] = {}
    rows: dict[str, tuple[str, str]] = {}  # name -> (split, class)
    for split, name in _LISTS.items():
        path = root / "annotations" / name
        for place, picture, breed, number, species in _lines(path, again):
            if kinds.setdefault(breed, (number, species)) != (number, species):
                raise UserError(
                    f"{place}: {breed} is class {number}, species {species}, but was class "
                    f"{kinds[breed][0]}, species {kinds[breed][1]} before; {again}"
                )
            if picture in rows:
                raise UserError(f"{place}: {picture} is listed a second time; {again}")
            species_name = CLASS_NAMES["species"][int(species) - 1]
            rows[picture] = (split, species_name if labels == "species" else breed)
    _check_files(root / "images", ".jpg", rows, again)
    _check_files(root / "annotations" / "trimaps", ".png", rows, again)
    return _listing(root, rows, again)


def _listing(root: Path, rows: dict[str, tuple[str, str]], again: str) -> Listing:
    found = {split: {label for s, label in rows.values() if s == split} for split in _LISTS}
    for label in sorted(found["train"] ^ found["test"]):
        here, there = _LISTS.values() if label in found["train"] else reversed(_LISTS.values())
        raise UserError(f"{here} in {root} names pictures of {label}, {there} names none; {again}")
    if len(found["train"]) < 2:
        raise UserError(f"only one class, {found['train'].pop()}, in {root}: two are needed")
    names = sorted(found["train"], key=os.fsencode)
    place = {part: number for number, part in enumerate((*_LISTS, *names))}
    order = sorted(rows, key=lambda name: (*map(place.get, rows[name]), os.fsencode(name)))
    return Listing(
        files=tuple(root / "images" / f"{name}.jpg" for name in order),
        labels=np.array([names.index(rows[name][1]) for name in order], dtype=np.int64),
        class_names=tuple(names),
        splits=np.array([rows[name][0] for name in order]),
        directory=root,
    )


def _lines(path: Path, again: str) -> Iterator[tuple[str, str, str, str, str]]:
    """(place, picture, breed, class, species) of every line of a list."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(f"cannot read the list {path}: {reason}; {again}") from None
    empty = True
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        found, empty = _LINE.fullmatch(line), False
        if found is None:
            raise UserError(
                f"{path}:{number}: {line[:60]!r} is no line such as 'Abyssinian_100 1 1 1' "
                f"(name, class, species 1 or 2, breed); {again}"
            )
        yield f"{path}:{number}", line.split()[0], *found.groups()
    if empty:
        raise UserError(f"the list {path} names no pictures; {again}")


def _check_files(folder: Path, suffix: str, names: Iterable[str], again: str) -> None:
    there = set(os.listdir(folder))
    missing = [name for name in names if name + suffix not in there]
    if missing:
        raise UserError(
            f"the lists name {missing[0]} but there is no {folder / (missing[0] + suffix)} "
            f"({len(missing)} such files): {again}"
        )


# ----------------------------------------------------------------------------------------- source


def pet_files(spec: DataConfig, for_test: bool = False) -> Found:
    """Pictures and masks, downloaded when the folder is not there, with their own test list."""
    class_names(spec.labels)  # a misspelt one is said before the download
    found = list_pets(pets(data_dir(spec)), spec.labels)

    def read(rows: np.ndarray) -> Masks:
        drawn, lines = trimaps.masks(
            [found.files[row] for row in rows], size=spec.size, resize=spec.resize,
            cache=spec.cache, cache_dir=cache_dir(),
        )  # fmt: skip
        return Masks(drawn, np.ones(len(rows), bool), lines)

    return Found(found, read, np.ones(len(found), bool))


def pending(spec: DataConfig) -> Download | None:
    """What a run would download, or None."""
    folder, names = data_dir(spec), class_names(spec.labels)
    return None if is_there(folder) else Download(folder, MEGABYTES, names)
