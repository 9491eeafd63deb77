"""Images with a known object, and its mask as PNG or Pascal VOC."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convlens.config.compose import compose
from convlens.config.schema import DataConfig
from convlens.data.datamodule import PictureData
from convlens.data.masks.files import USER_MASKS
from convlens.data.masks.load import Masks, read_masks
from convlens.data.pixels.dataset import Images

ORIENTATION = 0x0112
VOC = "<annotation>{size}{objects}</annotation>"
BOX = "<object><name>cat</name><bndbox>{}</bndbox></object>"


def picture(path: Path, mask: np.ndarray, turn: int = 1) -> Path:
    """Write a lossless image, red where ``mask`` (h, w) is True and blue elsewhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.where(mask[..., None], [255, 0, 0], [0, 0, 255]).astype(np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    Image.fromarray(pixels).save(path, **({"exif": exif} if turn > 1 else {}))
    return path


def png(path: Path, mask: np.ndarray, value: int = 255) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * value).save(path, "PNG")
    return path


def xml(path: Path, *boxes: tuple, size: tuple[int, int] | None = None) -> Path:
    """Return Pascal VOC XML with boxes (xmin, ymin, xmax, ymax)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ("xmin", "ymin", "xmax", "ymax")
    corners = ["".join(f"<{n}>{v}</{n}>" for n, v in zip(names, box, strict=True)) for box in boxes]
    said = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    path.write_text(VOC.format(size=said, objects="".join(map(BOX.format, corners))))
    return path


def blob(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Return (h, w) bool: an off-centre block with a hole and a ragged edge."""
    mask = np.zeros((height, width), bool)
    top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
    mask[top : top + height // 2, left : left + width // 3] = True
    return mask ^ (rng.random(mask.shape) < 0.03)


def own_masks(
    pictures: list[Path], files: list[Path | None], *, cache_dir=None, on_error="raise", **keys
) -> Masks:
    """Read the masks of an image folder, into memory unless ``cache_dir`` is given."""
    return read_masks(USER_MASKS, pictures, files, cache_dir=cache_dir, on_error=on_error, **keys)


@functools.cache
def spec_of(*changes: str) -> DataConfig:
    """Compose the config once: Hydra takes a third of a second."""
    return compose(["data=image_folder", "data.size=16", *changes]).data


def data(root: Path, *changes: str, **keys) -> PictureData:
    spec = spec_of(*changes).replace(
        **{"dir": str(root / "pics"), "masks": str(root / "masks"), **keys}
    )
    return PictureData(spec, seed=0, batch_size=4, eval_batch_size=5)


def red(pictures: Images) -> np.ndarray:
    """Return (N, H, W) bool: where the images are red, which is the object."""
    return pictures.pixels(np.arange(len(pictures)))[..., 0] > 127


def reference(mask: np.ndarray, size: int, resize: str) -> np.ndarray:
    """Resize by nearest neighbour, one pixel at a time."""
    height, width = mask.shape
    across, down, left, top, column, row = width / size, height / size, 0.0, 0.0, 0, 0
    wide = high = size
    if resize == "crop":
        across = down = min(width, height) / size
        left, top = (width - size * across) / 2, (height - size * down) / 2
    elif resize == "pad":
        scale = size / max(width, height)
        wide, high = max(1, round(width * scale)), max(1, round(height * scale))
        across, down = width / wide, height / high
        column, row = (size - wide) // 2, (size - high) // 2
    result = np.zeros((size, size), bool)
    for y in range(high):
        for x in range(wide):
            at = int(top + (y + 0.5) * down), int(left + (x + 0.5) * across)
            result[row + y, column + x] = mask[at]
    return result


@pytest.fixture
def with_masks(tmp_path) -> Path:
    """Draw two classes of 10 images with the same names; every second cat has a mask."""
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        for i in range(10):
            width, height = (int(n) for n in rng.integers(17, 60, 2))
            mask = blob(rng, width, height)
            picture(tmp_path / "pics" / name / f"{i}.png", mask)
            if name == "dogs" or i % 2:
                png(tmp_path / "masks" / name / f"{i}.png", mask, 1 + 254 * (i % 3 == 0))
    return tmp_path
