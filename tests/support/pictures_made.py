"""Images for the decoding tests: photographs of noise, and every kind of damage."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convlens.data.index.files import Files
from convlens.data.pixels.decode import Recipe, decode_image
from convlens.data.pixels.load import Pixels, decode_images

ORIENTATION = 0x0112


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Draw smooth colours with some texture, as in photographs."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((smooth + rng.integers(-8, 9, smooth.shape)).clip(0, 255).astype("u1"))


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    return [saved(folder / f"{n:02}.jpg", photo(40 + n, 60 - n, n), quality=95) for n in range(40)]


@pytest.fixture
def damaged(tmp_path):
    """Write damaged files; the keys say what is wrong with them."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    whole = io.BytesIO()
    photo(100, 80).save(whole, "JPEG")
    png = io.BytesIO()
    photo(100, 80).save(png, "PNG")
    contents = {
        "truncated.jpg": whole.getvalue()[: len(whole.getvalue()) // 2],
        "truncated.png": png.getvalue()[: len(png.getvalue()) // 2],
        "garbled.png": png.getvalue()[:60] + b"?" * 40 + png.getvalue()[100:],
        "text.jpg": b"not a picture at all\n" * 20,
        "empty.jpg": b"",
        "page.jpg": b"<!DOCTYPE html><title>404</title>",
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "folder.jpg").mkdir()
    return {path.name: path for path in sorted(folder.iterdir())}


def recipe(size: int | tuple[int, int], **kwargs) -> Recipe:
    height, width = (size, size) if isinstance(size, int) else size
    return Recipe(height, width, **kwargs)


def made(files, size=16, *, cache_dir=None, on_error="raise", **kwargs) -> Pixels:
    """Decode the files without a progress bar, into memory unless ``cache_dir`` is given."""
    return decode_images(
        Files.of(files), recipe(size, **kwargs), cache_dir=cache_dir, on_error=on_error,
        progress=False,
    )  # fmt: skip


def one(path, size=16, **kwargs) -> np.ndarray:
    return decode_image(path, recipe(size, **kwargs))
