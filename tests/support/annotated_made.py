"""Data sets with objects in the layouts of COCO and YOLO, drawn from known rectangles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from convlens.config.compose import compose
from convlens.data.datamodule import PictureData

SPLITS = {"train2017": "train", "val2017": "val"}
COLOURS = {"cat": (220, 40, 40), "dog": (40, 60, 220), "cow": (30, 200, 60)}
NAMES = tuple(COLOURS)  # by number: cat, dog, cow


def draw(path: Path, objects: list[tuple[str, tuple]], size: tuple[int, int]) -> Path:
    """Draw rectangles (left, top, width, height) in the colour of their class, lossless."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), 128, np.uint8)
    for name, (left, top, width, height) in objects:
        pixels[top : top + height, left : left + width] = COLOURS[name]
    pixels[0, 0] = np.frombuffer(path.stem[:3].encode().ljust(3), np.uint8)  # no two are equal
    Image.fromarray(pixels).save(path)
    return path


def place(rng: np.random.Generator, width: int, height: int) -> tuple[int, int, int, int]:
    """Return a rectangle of a third to half of the sides."""
    wide, high = (int(rng.integers(side // 3, side // 2)) for side in (width, height))
    return int(rng.integers(0, width - wide)), int(rng.integers(0, height - high)), wide, high


def scenes(count: int, seed: int = 0, names: tuple[str, ...] = NAMES) -> dict[str, list]:
    """Return by image name: its size, and its objects, all of one class."""
    rng, found = np.random.default_rng(seed), {}
    for number in range(count):
        size = tuple(int(n) for n in rng.integers(24, 60, 2))
        name = names[number % len(names)]
        objects = [(name, place(rng, *size)) for _ in range(1 + number % 2)]
        found[f"{seed}{number:02d}.png"] = [size, objects]
    return found


def rectangle(left: float, top: float, width: float, height: float) -> list[float]:
    """Return the outline of a rectangle."""
    return [left, top, left + width, top, left + width, top + height, left, top + height]


def coco_document(images: dict[str, list], kind: str = "box") -> dict:
    """Return the content of an instances_*.json; ``kind`` is box or outline."""
    document = {
        "info": {"year": 2017},
        "images": [], "annotations": [],
        "categories": [{"id": 10 * k + 7, "name": n, "supercategory": "animal"}
                       for k, n in enumerate(NAMES)],
    }  # fmt: skip
    for number, (file, (size, objects)) in enumerate(images.items()):
        document["images"].append(
            {"id": number, "file_name": file, "width": size[0], "height": size[1], "license": 1}
        )
        for name, box in objects:
            document["annotations"].append({
                "id": len(document["annotations"]), "image_id": number,
                "category_id": 10 * NAMES.index(name) + 7, "bbox": list(box), "iscrowd": 0,
                "area": box[2] * box[3],
                "segmentation": [rectangle(*box)] if kind == "outline" else [],
            })  # fmt: skip
    return document


def make_coco(root: Path, parts: dict[str, dict[str, list]], kind: str = "box") -> Path:
    """Write annotations/instances_PART.json and PART/*.png for each part."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for part, images in parts.items():
        for file, (size, objects) in images.items():
            draw(root / part / file, objects, size)
        write_coco(root, part, coco_document(images, kind))
    return root


def write_coco(root: Path, part: str, document: dict) -> Path:
    path = root / "annotations" / f"instances_{part}.json"
    path.write_text(json.dumps(document))
    return path


def make_yolo(root: Path, parts: dict[str, dict[str, list]], kind: str = "box") -> Path:
    """Write data.yaml, images/PART/*.png and labels/PART/*.txt for each part."""
    for part, images in parts.items():
        for file, (size, objects) in images.items():
            draw(root / "images" / part / file, objects, size)
            lines = [yolo_line(NAMES.index(name), box, size, kind) for name, box in objects]
            label = root / "labels" / part / Path(file).with_suffix(".txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("\n".join(lines) + "\n")
    entries = "".join(f"{part}: images/{part}\n" for part in parts)
    names = "".join(f"  {k}: {name}\n" for k, name in enumerate(NAMES))
    (root / "data.yaml").write_text(f"path: .\n{entries}nc: {len(NAMES)}\nnames:\n{names}")
    return root


def yolo_line(label: int, box: tuple, size: tuple[int, int], kind: str) -> str:
    left, top, width, height = box
    numbers = [left + width / 2, top + height / 2, width, height]
    numbers = rectangle(*box) if kind == "outline" else numbers
    values = [n / size[k % 2] for k, n in enumerate(numbers)]
    return " ".join([str(label), *(f"{value:.9f}" for value in values)])


def load(*words: str, seed: int = 0) -> PictureData:
    """Return the data of a config."""
    return PictureData(compose(list(words)).data, seed=seed, batch_size=4, eval_batch_size=5)
