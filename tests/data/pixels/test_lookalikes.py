"""The same image at another size: found by what it shows, not by its bytes or its name."""

from __future__ import annotations

import io
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convlens.config.compose import compose
from convlens.data.datamodule import PictureData
from convlens.data.facts import collect_facts, list_conflicts
from convlens.data.pixels.decode import Recipe, decode_image
from convlens.data.pixels.lookalikes import _find_twins, compute_signature, find_lookalikes
from support.pictures_made import made


def scene(seed: int, size: int = 96) -> Image.Image:
    """An image with broad areas and edges, as photographs have."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def write(file: Path, image: Image.Image, **how) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, **how)


def notes_of(folder: Path, *words: str) -> list[str]:
    words = ["data=image_folder", f"data.dir={folder}", "data.size=32", "data.cache=ram", *words]
    spec = compose(words).data
    module = PictureData(spec, seed=0, batch_size=4, eval_batch_size=4)
    return [note for note in module.dataset.notes if "other size" in note]


@pytest.fixture
def folders(tmp_path) -> Path:
    for number in range(24):
        split = ("train", "validation", "test")[number % 3]
        write(tmp_path / split / ("cats", "dogs")[number // 12] / f"{number}.png", scene(number))
    return tmp_path


@pytest.mark.parametrize("size", [8, 64, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_look_is_the_mean_grey_of_a_grids_parts(size, channels):
    picture = np.random.default_rng(0).integers(0, 256, (size, size, channels), dtype=np.uint8)
    grey = picture.astype(float) @ ([0.299, 0.587, 0.114] if channels == 3 else [1])
    parts = [part for rows in np.split(grey, 4) for part in np.split(rows, 4, axis=1)]
    assert np.allclose(compute_signature(picture), [part.mean() for part in parts], atol=1e-3)


def test_pairs_are_those_that_comparing_all_with_all_finds():
    pictures, rng = [], np.random.default_rng(1)
    for number in range(150):
        sizes = [32, *rng.integers(16, 64, rng.integers(0, 3))]
        pictures += [np.asarray(scene(number).resize((s, s)).resize((32, 32))) for s in sizes]
    looks = np.stack([compute_signature(picture) for picture in pictures]).astype(np.float16)
    flat = np.stack([picture.astype(float).ravel() for picture in pictures])
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    alike = flat @ flat.T > 0.99  # by correlation: another measure than the one that is tested
    wanted = [pair for pair in combinations(range(len(pictures)), 2) if alike[pair]]
    found = find_lookalikes(looks, lambda one, other: np.ones(len(one), bool), pictures.__getitem__)
    assert len(wanted) > 100 and found == wanted


def test_blank_pictures_and_thousands_of_equal_ones_do_not_grow_into_pairs():
    blank = np.full((3000, 16), 200, np.float16)
    assert find_lookalikes(blank, lambda one, other: np.ones(len(one), bool), None) == []
    film = np.tile(compute_signature(np.asarray(scene(0))), (3000, 1)).astype(np.float16)
    seen = []
    find_lookalikes(
        film, lambda one, other: seen.append(len(one)) or np.zeros(len(one), bool), None
    )
    assert sum(seen) <= 3000 * 64


@pytest.mark.parametrize(
    "copy",
    [
        lambda image, file: write(file.with_suffix(".png"), image.resize((40, 40))),
        lambda image, file: write(file.with_suffix(".jpg"), image, quality=60),
        lambda image, file: write(file.with_suffix(".webp"), image.resize((150, 150))),
        lambda image, file: write(file.with_suffix(".bmp"), image),
    ],
)
def test_a_resized_or_recompressed_copy_in_another_split_is_said(folders, copy):
    assert notes_of(folders) == []
    copy(scene(0), folders / "test" / "cats" / "quite_another_name")
    (note,) = notes_of(folders)
    assert note.startswith("1 image repeats one of another split (other size")
    assert "train/cats/0.png (train)" in note and "quite_another_name" in note and "(test)" in note


def test_a_resized_copy_in_another_class_is_said_also_within_a_split(folders):
    write(folders / "train" / "dogs" / "tom.jpg", scene(0).resize((50, 50)))
    (note,) = notes_of(folders)
    assert "train/cats/0.png (cats)" in note and "train/dogs/tom.jpg (dogs)" in note
    assert note.endswith("labels conflict")


def test_conflicts_are_all_pairs_with_different_labels_copies_and_twins(folders):
    """Of three files with the same bytes, each is paired with the first of another class."""
    write(folders / "train" / "dogs" / "tom.jpg", scene(0).resize((50, 50)))
    write(folders / "validation" / "dogs" / "later.webp", scene(3).resize((150, 150)))
    write(folders / "train" / "cats" / "again.jpg", scene(6).resize((50, 50)))  # the same class
    for name in ("x.png", "y.png"):
        (folders / "train/dogs" / name).write_bytes((folders / "train/cats/9.png").read_bytes())
    spec = compose(["data=image_folder", f"data.dir={folders}", "data.size=32"]).data
    data = PictureData(spec, seed=0, batch_size=4, eval_batch_size=4)
    found = {
        (*sorted((f[f.index(root) + len(root) + 1 :], k) for f, k in pairs), same)
        for root in [str(folders)]
        for *cells, same in list_conflicts(data.dataset)
        for pairs in [[(cells[0], cells[1]), (cells[3], cells[4])]]
    }
    assert found == {
        (("train/cats/0.png", "cats"), ("train/dogs/tom.jpg", "dogs"), "looks"),
        (("train/cats/3.png", "cats"), ("validation/dogs/later.webp", "dogs"), "looks"),
        (("train/cats/9.png", "cats"), ("train/dogs/x.png", "dogs"), "bytes"),
        (("train/cats/9.png", "cats"), ("train/dogs/y.png", "dogs"), "bytes"),
    }
    facts = collect_facts(data)["conflicts"]
    assert facts["count"] == 4 == len(data.dataset.conflicts)
    splits = {(cells[2], cells[5]) for cells in facts["first"]}
    assert splits == {("train", "train"), ("train", "validation")}


def test_twins_are_those_that_comparing_all_with_all_finds():
    rng = np.random.default_rng(3)
    digests, labels = rng.integers(0, 60, 200), rng.integers(0, 4, 200)  # 0: not read
    wanted = set()
    for row in range(200):
        others = [n for n in range(200) if digests[n] == digests[row] and labels[n] != labels[row]]
        if others and digests[row]:
            wanted.add((min(row, others[0]), max(row, others[0])))
    assert _find_twins(digests, labels) == wanted and len(wanted) > 50


def test_thumbnails_in_a_folder_of_a_class_are_said_twice_as_names_and_as_pictures(tmp_path):
    for number in range(20):
        file = tmp_path / ("cats", "dogs")[number // 10] / f"{number}.png"
        write(file, scene(number))
        write(file.parent / "small" / f"{number}.jpg", scene(number).resize((32, 32)))
    (note,) = notes_of(tmp_path)
    assert " images repeat images of another split" in note
    module = PictureData(compose(["data=image_folder", f"data.dir={tmp_path}"]).data, seed=0,
                         batch_size=4, eval_batch_size=4)  # fmt: skip
    assert any("(cats/small/, dogs/small/) with 20 images" in note for note in module.index.notes)


def test_a_broken_picture_moves_no_other(folders):
    (folders / "train" / "cats" / "00.png").write_bytes(b"no image")
    write(folders / "test" / "dogs" / "copy.jpg", scene(12))
    (note,) = notes_of(folders, "data.on_error=skip")
    assert "train/dogs/12.png (train)" in note and "copy.jpg (test)" in note


def test_looks_come_back_from_the_cache(folders, tmp_path):
    files = sorted(folders.rglob("*.png"))
    several = [made(files, 24, cache_dir=place) for place in (*[tmp_path / "cache"] * 2, None)]
    assert [each.digests is None for each in several] == [False, True, False]
    for each in several:
        expected = [compute_signature(decode_image(file, Recipe(24, 24))) for file in files]
        assert np.allclose(each.signatures, expected, atol=0.1)


def test_photographs_photographed_once_are_no_twins_and_their_thumbnails_are(shared_data):
    files = sorted((shared_data / "cats_dogs").rglob("*.jpg"))[::7][:300]
    if len(files) < 100:
        pytest.skip("the photographs of cats and dogs are not there")
    pictures = [decode_image(file, Recipe(64, 64)) for file in files]
    for file in files[:60]:
        out = io.BytesIO()
        with Image.open(file) as image:
            image.convert("RGB").resize((image.width // 2, image.height // 2)).save(out, "JPEG")
        with Image.open(out) as small:
            pictures.append(np.asarray(small.resize((64, 64), Image.Resampling.BILINEAR)))
    looks = np.stack([compute_signature(picture) for picture in pictures])
    found = set(find_lookalikes(looks, lambda a, b: np.ones(len(a), bool), pictures.__getitem__))
    true = {(number, len(files) + number) for number in range(60)}
    assert len(found & true) >= 58 and not found - true
