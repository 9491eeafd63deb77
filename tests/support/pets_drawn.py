"""A miniature of the Oxford-IIIT Pet data set, laid out as its archives unpack."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from convlens.config.compose import compose
from convlens.config.schema import DataConfig
from convlens.data.datamodule import PictureData

# breed -> class id, species, as in the original lists
BREEDS = {"Abyssinian": (1, 1), "Bengal": (6, 1), "american_bulldog": (2, 2), "beagle": (5, 2)}
COMMENTS = ("#Image CLASS-ID SPECIES BREED ID", "#1:37 Class ids")  # as in list.txt
TRAIN, TEST = 8, 3  # images per breed
OBJECT, BORDER, GROUND = (250, 10, 10), (10, 250, 10), (10, 10, 250)
ORIENTATION = 0x0112


def draw(folder: Path, name: str, seed: int) -> None:
    """Draw an image and its trimap: an off-centre body with a border.

    The files are lossless, so colours identify the classes exactly. They have every format that
    files called .jpg have in practice. Every third image is rotated, with an EXIF orientation.
    """
    rng = np.random.default_rng(seed)
    width, height = (int(n) for n in rng.integers(30, 90, 2))
    left, top = rng.integers(0, width // 2), rng.integers(0, height // 2)
    box = (left, top, left + width // 3, top + height // 4)
    picture = Image.new("RGB", (width, height), GROUND)
    ImageDraw.Draw(picture).ellipse(box, fill=OBJECT, outline=BORDER, width=2)
    trimap = Image.new("L", (width, height), 2)
    ImageDraw.Draw(trimap).ellipse(box, fill=1, outline=3, width=2)
    kind = ("PNG", "GIF", "BMP", "palette")[seed % 4]
    if kind == "palette":
        picture, kind = picture.quantize(8), "PNG"
    exif = Image.Exif()
    exif[ORIENTATION] = seed % 8 + 1
    more = {"exif": exif} if kind == "PNG" and seed % 3 == 0 else {}
    picture.save(folder / "images" / f"{name}.jpg", kind, **more)
    trimap.save(folder / "annotations" / "trimaps" / f"{name}.png")


def draw_pets(folder: Path) -> Path:
    """Draw a miniature of the data set, with the layout of the unpacked archives."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations" / "trimaps").mkdir(parents=True)
    seed = 0
    for split, numbers in (("trainval", range(TRAIN)), ("test", range(TRAIN, TRAIN + TEST))):
        lines = [*COMMENTS] if split == "test" else []
        for breed, (number, species) in BREEDS.items():
            for i in numbers:
                draw(folder, f"{breed}_{i}", seed)
                lines.append(f"{breed}_{i} {number} {species} 1")
                seed += 1
        (folder / "annotations" / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def drawn(tmp_path) -> Path:
    return draw_pets(tmp_path / "pets")


@functools.cache
def spec_of(*changes: str) -> DataConfig:
    """Compose the config once: Hydra takes a third of a second."""
    return compose(["data=pets", "data.size=24", *changes]).data


def data(folder: Path, *changes: str, seed: int = 0) -> PictureData:
    spec = spec_of(*changes).replace(dir=str(folder))
    return PictureData(spec, seed=seed, batch_size=4, eval_batch_size=5)


def stems(names) -> set[str]:
    return {Path(name).stem for name in names}


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
