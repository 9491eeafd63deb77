"""Facts about the images of a run, against the files themselves."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convlens.config.compose import compose
from convlens.data.datamodule import PictureData
from convlens.data.facts import collect_facts
from convlens.rundir.read import StoredRun
from convlens.rundir.write import write_data_facts
from support.pictures_made import ORIENTATION, made, photo, saved

SIZES = [(40, 30), (20, 20), (90, 30), (31, 30), (15, 60), (8, 8), (64, 48), (33, 33)]


def build(folder: Path, *words: str) -> PictureData:
    config = compose(["data=image_folder", f"data.dir={folder}", *words])
    return PictureData(config.data, seed=0, batch_size=4, eval_batch_size=4)


@pytest.fixture
def folder(tmp_path) -> Path:
    """24 photographs of eight sizes in two uneven classes, and copies of them."""
    home = tmp_path / "pictures"
    for number in range(24):
        place = home / ("cats" if number % 3 else "dogs")
        place.mkdir(parents=True, exist_ok=True)
        saved(place / f"{number:02}.png", photo(*SIZES[number % 8], seed=number))
    shutil.copy(home / "cats" / "01.png", home / "cats" / "again.png")
    shutil.copy(home / "cats" / "01.png", home / "cats" / "once more.png")
    shutil.copy(home / "cats" / "02.png", home / "dogs" / "a cat.png")
    return home


def test_sizes_are_those_of_the_upright_originals(tmp_path):
    """Whatever is read of a file: a JPEG at an eighth, one on its side, an animation's first."""
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    frames = [photo(30, 20, seed) for seed in (1, 2)]
    files = [
        saved(tmp_path / "a.jpg", photo(800, 600)),
        saved(tmp_path / "b.jpg", photo(800, 600), exif=turned),
        saved(tmp_path / "c.tif", photo(50, 20), exif=turned),
        saved(tmp_path / "d.gif", frames[0], save_all=True, append_images=frames[1:]),
        saved(tmp_path / "e.png", photo(7, 65)),
        tmp_path / "f.png",
        saved(tmp_path / "g.webp", photo(21, 22)),
    ]
    files[5].write_bytes(b"<html>404</html>")
    expected = [(800, 600), (600, 800), (20, 50), (30, 20), (7, 65), (0, 0), (21, 22)]
    for _ in range(2):  # the second time from the cache
        found = made(files, 16, cache_dir=tmp_path / "cache", on_error="skip")
        assert [tuple(size) for size in found.sizes.tolist()] == expected
    assert found.digests is None


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_sizes_by_brute_force(folder, resize):
    data = build(folder, "data.size=32", f"data.resize={resize}")
    found = collect_facts(data)["originals"]
    files = [Path(name) for part in data.dataset.splits.values() for name in part.names]
    sizes = [Image.open(file).size for file in files]
    ordered = sorted(sizes, key=lambda size: size[0] * size[1])
    assert found["smallest"] == list(ordered[0]) and found["largest"] == list(ordered[-1])
    middle = ordered[(len(ordered) - 1) // 2]
    assert np.prod(found["median"]) == np.prod(middle) and tuple(found["median"]) in sizes
    scales = {
        "squash": lambda w, h: max(32 / w, 32 / h),
        "crop": lambda w, h: max(32 / w, 32 / h),
        "pad": lambda w, h: min(32 / w, 32 / h),
    }
    assert found["enlarged"] == sum(scales[resize](*size) > 1 for size in sizes)
    ratios = sorted(max(size) / min(size) for size in sizes)
    assert found["oblong"] == sum(ratio > 1.1 for ratio in ratios)
    assert found["largest_ratio"] == pytest.approx(ratios[-1])
    assert found["median_ratio"] == pytest.approx(np.median(ratios))
    assert (found["size"], found["resize"]) == (32, resize)


def test_copies_by_brute_force(folder):
    data = build(folder, "data.size=16")
    found = collect_facts(data)["copies"]
    places = defaultdict(list)
    for split, part in data.dataset.splits.items():
        for name, label in zip(part.names, part.labels.tolist(), strict=True):
            places[hashlib.md5(Path(name).read_bytes()).hexdigest()].append((split, label))
    assert found == {
        "repeated": sum(len(each) - 1 for each in places.values()),
        "in_splits": sum(len({split for split, _ in each}) > 1 for each in places.values()),
        "in_classes": sum(len({label for _, label in each}) > 1 for each in places.values()),
    }
    assert found["repeated"] >= 1


def test_counts_and_notes(folder):
    data = build(folder, "data.size=16")
    facts = collect_facts(data)
    listing, counts = data.index.listing, defaultdict(lambda: [0, 0])
    for split, label in zip(listing.splits, listing.labels, strict=True):
        counts[split][label] += 1
    assert facts["images"] == counts and facts["classes"] == ["cats", "dogs"]
    assert any("conflicting labels" in line for line in facts["notes"])
    assert facts["skipped"] == {"count": 0, "reasons": [], "first": []}


def test_numbers_do_not_split_a_reason(folder):
    for number in range(3):
        file = folder / "cats" / f"half{number}.png"
        file.write_bytes(b"")
        saved(file.with_suffix(".jpg"), photo(200, 150, seed=number))
        whole = file.with_suffix(".jpg").read_bytes()
        file.with_suffix(".jpg").write_bytes(whole[: len(whole) - 1000 - 317 * number])
    skipped = collect_facts(build(folder, "data.size=16", "data.on_error=skip"))["skipped"]
    assert skipped["count"] == 6
    assert sorted(count for _, count in skipped["reasons"]) == [3, 3]
    assert any("truncated (… bytes not processed)" in reason for reason, _ in skipped["reasons"])


def test_drawn_images_have_no_originals():
    config = compose(["data=shapes", "data.pictures=60", "data.size=16"])
    facts = collect_facts(PictureData(config.data, seed=0, batch_size=4, eval_batch_size=4))
    assert facts["originals"] is None and facts["copies"] is None
    assert sum(map(sum, facts["images"].values())) == 60


def test_names_of_files_that_are_not_utf_8_are_kept(tmp_path):
    facts = {"skipped": {"first": [["caf\udce9.jpg", "empty"]]}, "name": "é"}
    write_data_facts(tmp_path, facts)
    assert json.loads((tmp_path / "data.json").read_text(encoding="utf-8")) == facts
    assert StoredRun(tmp_path, None, [], None).data_facts == facts
