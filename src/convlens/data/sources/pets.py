"""``data=pets``: Oxford-IIIT Pet, cats and dogs of 37 breeds, as its two official lists name them.

The layout is that of the unpacked official archives, or the same in ``oxford-iiit-pet/``, as
torchvision has it:

    images/Abyssinian_100.jpg
    annotations/trainval.txt test.txt          "Abyssinian_100 1 1 1": name, class, species, breed
    annotations/trimaps/Abyssinian_100.png     where the animal is (convlens.data.masks.trimaps)
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from convlens.config.schema import DataConfig
from convlens.core.errors import UserError
from convlens.data.index.files import ListingBuilder
from convlens.data.index.listing import Listing
from convlens.data.masks.trimaps import TRIMAPS, find_trimap
from convlens.data.sources.archives import PETS
from convlens.data.sources.image_files import ImageFiles
from convlens.data.sources.places import find_data_dir

_LISTS = {"train": "trainval.txt", "test": "test.txt"}
_LINE = re.compile(r"([^/\\\s]+)_\d+\s+([1-9]\d*)\s+([12])\s+[1-9]\d*")  # breed, class, species


def list_pets(directory: Path, labels: str) -> Listing:
    """List the images of the two official lists, in the splits "train" and "test".

    Args:
        directory: the data set.
        labels: "species": cat and dog; "breeds": the class names are those of the files.

    Raises:
        UserError: a folder, list, image or trimap is missing, a line is not valid, an image is
            listed twice, or a breed has two species.
    """
    root = next((d for d in (directory / "oxford-iiit-pet", directory) if d.is_dir()), directory)
    source = PETS.addresses[0]
    way_out = f"put it there from {source}, or remove {directory} to download everything again"
    for name in PETS.folders:
        if not (root / name).is_dir():
            raise UserError(f"no folder {root / name}: {way_out}")
    kinds: dict[str, tuple[str, str]] = {}
    labelled: dict[str, dict[str, str]] = {split: {} for split in _LISTS}  # name -> class
    for split, name in _LISTS.items():
        for place, image, breed, number, species in _read_lines(
            root / "annotations" / name, way_out
        ):
            if kinds.setdefault(breed, (number, species)) != (number, species):
                raise UserError(
                    f"{place}: {breed} is class {number}, species {species}, but was class "
                    f"{kinds[breed][0]}, species {kinds[breed][1]} before; {way_out}"
                )
            if any(image in names for names in labelled.values()):
                raise UserError(f"{place}: {image} is listed a second time; {way_out}")
            species_name = PETS.class_names["species"][int(species) - 1]
            labelled[split][image] = species_name if labels == "species" else breed
    train, test = (set(names.values()) for names in labelled.values())
    for label in sorted(train ^ test):
        here, there = _LISTS.values() if label in train else reversed(_LISTS.values())
        raise UserError(f"{here} in {root} names images of {label}, {there} names none; {way_out}")
    if len(train) < 2:
        raise UserError(f"only one class, {train.pop()}, in {root}: a classifier needs two")
    rows = ListingBuilder(root)
    for split, names in labelled.items():
        _check_files(root / "images", ".jpg", names, way_out)
        _check_files(root / "annotations" / "trimaps", ".png", names, way_out)
        for image, label in names.items():
            rows.add(split, label, [f"images/{image}.jpg"])
    files, numbers, splits = rows.sorted()
    return Listing(files, numbers, rows.class_names, splits, root)


def _read_lines(path: Path, way_out: str) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield (place, image, breed, class, species) for every line of a list."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(f"cannot read the list {path}: {reason}; {way_out}") from None
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    numbered = [(number, line) for number, line in numbered if line and line[0] != "#"]
    if not numbered:
        raise UserError(f"the list {path} names no images; {way_out}")
    for number, line in numbered:
        match = _LINE.fullmatch(line)
        if match is None:
            raise UserError(
                f"{path}:{number}: {line[:60]!r} is not like 'Abyssinian_100 1 1 1' "
                f"(name, class, species 1 or 2, breed); {way_out}"
            )
        yield f"{path}:{number}", line.split()[0], *match.groups()


def _check_files(folder: Path, suffix: str, names: Iterable[str], way_out: str) -> None:
    existing = set(os.listdir(folder))
    missing = [name for name in names if name + suffix not in existing]
    if missing:
        raise UserError(
            f"the lists name {missing[0]}, but {folder / (missing[0] + suffix)} is missing "
            f"({len(missing)} such files): {way_out}"
        )


def find_pets(spec: DataConfig, for_test: bool = False) -> ImageFiles:
    """Find images and trimaps, with the official test list."""
    listing = list_pets(find_data_dir(spec), spec.labels)
    return ImageFiles(listing, TRIMAPS, [find_trimap(image) for image in listing.files])
