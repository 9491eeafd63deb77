"""``data=coco``: labels and masks are those that pycocotools reads from the same files."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convlens.core.errors import UserError
from support.annotated_made import (
    NAMES,
    SPLITS,
    coco_document,
    draw,
    load,
    make_coco,
    scenes,
    write_coco,
)

PARTS = {"train2017": scenes(18, 1), "val2017": scenes(6, 2)}
WORDS = ["data=coco", "data.size=32", "data.interpolation=nearest", "data.split.test=0.2"]


@pytest.fixture
def root(tmp_path) -> Path:
    return make_coco(tmp_path / "coco", PARTS)


def data(root: Path, *words: str):
    return load(*WORDS, f"data.dir={root}", *words)


def refused(root: Path, *words: str) -> str:
    with pytest.raises(UserError) as error:
        data(root, *words)
    assert "\n" not in str(error.value)
    return str(error.value)


def change(root: Path, part: str = "train2017", **changes) -> None:
    """Write an annotation file again with other content: a list to add, or None to remove."""
    path = root / "annotations" / f"instances_{part}.json"
    document = json.loads(path.read_text())
    for key, value in changes.items():
        document[key] = [*document[key], *value] if value is not None else None
    write_coco(root, part, {k: v for k, v in document.items() if v is not None})


@pytest.mark.parametrize("kind", ["box", "outline"])
def test_labels_and_masks_are_those_of_pycocotools(tmp_path, kind):
    coco = pytest.importorskip("pycocotools.coco", reason="the extra coco is not installed")
    root = make_coco(tmp_path / "coco", PARTS, kind)
    module, seen = data(root), 0
    readers = {}
    for part in PARTS:
        with contextlib.redirect_stdout(io.StringIO()):
            readers[part] = coco.COCO(root / "annotations" / f"instances_{part}.json")
    assert module.class_names == tuple(sorted(NAMES))
    for split, images in module.dataset.splits.items():
        for row, name in enumerate(images.names):
            file = Path(name)
            reader = readers[file.parent.name]
            assert (split == "validation") == (SPLITS[file.parent.name] == "val")
            (number,) = (n for n, i in reader.imgs.items() if i["file_name"] == file.name)
            objects = reader.loadAnns(reader.getAnnIds(imgIds=[number]))
            (category,) = {each["category_id"] for each in objects}
            label = reader.loadCats([category])[0]["name"]
            assert module.class_names[images.labels[row]] == label
            for each in objects:
                each["segmentation"] = each["segmentation"] or [[
                    x for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))
                    for x in (each["bbox"][0] + a * each["bbox"][2],
                              each["bbox"][1] + b * each["bbox"][3])
                ]]  # fmt: skip
            mask = np.any([reader.annToMask(each) for each in objects], axis=0)
            small = Image.fromarray(mask).resize((32, 32), Image.Resampling.NEAREST)
            assert np.array_equal(images.masks[row], np.asarray(small))
            seen += 1
    assert seen == 24


def test_masks_lie_on_the_drawn_objects(root):
    """The images are drawn in the colours of their objects, on grey."""
    images = data(root).dataset.splits["train"]
    pixels = images.pixels(np.arange(len(images))).astype(int)
    coloured = np.ptp(pixels, axis=3) > 100
    coloured[:, 0, 0] = images.masks[:, 0, 0]  # the mark that makes images different
    assert images.masked.all() and np.array_equal(images.masks, coloured)


def test_the_notes_and_counts(root):
    module = data(root)
    assert module.index.notes == ["objects of 24 of 24 images are used as masks"]
    assert module.index.masked == {s: len(i) for s, i in module.dataset.splits.items()}


def test_images_of_several_classes_are_left_out_and_counted(root):
    objects = [("cat", (1, 1, 9, 9)), ("dog", (15, 15, 9, 9))]
    draw(root / "train2017" / "both.png", objects, (30, 30))
    draw(root / "train2017" / "none.png", [], (30, 30))
    more = coco_document({"both.png": [(30, 30), objects], "none.png": [(30, 30), []]})
    for number, each in enumerate(more["images"]):
        each["id"] = f"more{number}"
    for each in more["annotations"]:
        each |= {"id": f"more{each['id']}", "image_id": f"more{each['image_id']}"}
    change(root, images=more["images"], annotations=more["annotations"])
    notes = data(root).index.notes
    assert any("1 image without an object" in n and "none.png" in n for n in notes)
    (line,) = (n for n in notes if "several classes" in n)
    assert "1 of 26 images" in line and "both.png (cat, dog)" in line
    assert "data.categories" in line
    module = data(root, "data.categories=[dog,cow]")  # the cat is ignored, and not in the mask
    (place,) = (
        (images, row)
        for images in module.dataset.splits.values()
        for row, name in enumerate(images.names)
        if name.endswith("both.png")
    )
    images, row = place
    assert module.class_names[images.labels[row]] == "dog"
    assert not images.masks[row][:12, :12].any() and images.masks[row].any()
    assert "did you mean dog" in refused(root, "data.categories=[dogs,cow]")


def test_roboflow_beside_the_images(tmp_path):
    for folder, images in (("train", PARTS["train2017"]), ("valid", PARTS["val2017"])):
        for file, (size, objects) in images.items():
            draw(tmp_path / folder / file, objects, size)
        path = tmp_path / folder / "_annotations.coco.json"
        path.write_text(json.dumps(coco_document(images)))
    module = data(tmp_path)
    assert module.index.counts["validation"].sum() == 6


def test_a_file_elsewhere_whose_name_says_its_split(root, tmp_path):
    file = tmp_path / "instances_train2017.json"
    (root / "annotations" / file.name).rename(file)
    module = data(root, f"data.annotations={file}", "data.split.validation=0.2")
    counts = {split: int(count.sum()) for split, count in module.index.counts.items()}
    assert counts == {"train": 10, "validation": 4, "test": 4}


def test_a_single_file_without_splits(tmp_path):
    root = make_coco(tmp_path, {"default": PARTS["train2017"]})
    (root / "default").rename(root / "images")
    module = data(root, "data.split.validation=0.2")
    counts = {split: int(count.sum()) for split, count in module.index.counts.items()}
    assert counts == {"train": 10, "validation": 4, "test": 4}


def test_run_lengths_and_crowds(root):
    coco = pytest.importorskip("pycocotools.mask", reason="the extra coco is not installed")
    mask = np.random.default_rng(0).random((20, 26)) < 0.3
    counts = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    draw(root / "train2017" / "crowd.png", [("cow", (2, 2, 5, 5))], (26, 20))
    change(
        root,
        images=[{"id": 99, "file_name": "crowd.png", "width": 26, "height": 20}],
        annotations=[{"id": 999, "image_id": 99, "category_id": 27, "iscrowd": 1,
                      "bbox": [0, 0, 1, 1], "segmentation": {"size": [20, 26], "counts": counts}}],
    )  # fmt: skip
    found = [
        images.masks[row]
        for images in data(root).dataset.splits.values()
        for row, name in enumerate(images.names)
        if name.endswith("crowd.png")
    ]
    want = Image.fromarray(mask).resize((32, 32), Image.Resampling.NEAREST)
    assert np.array_equal(found[0], np.asarray(want))


def test_an_object_without_a_place_gives_a_label_and_no_mask(root):
    draw(root / "train2017" / "word.png", [("cow", (2, 2, 5, 5))], (26, 20))
    change(
        root,
        images=[{"id": 99, "file_name": "word.png", "width": 26, "height": 20}],
        annotations=[{"id": 999, "image_id": 99, "category_id": 27}],
    )
    module = data(root)
    assert any("1 image has an object without a box or outline" in n for n in module.index.notes)
    assert sum(images.masked.sum() for images in module.dataset.splits.values()) == 24


OUTSIDE = {"id": 999, "image_id": 0, "category_id": 7, "bbox": [600, 10, 100, 20]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"categories": [{"id": 40}]}, "categories.3.name: Field required"),
        ({"categories": [{"id": 40, "name": " "}]}, "class 3 has no name"),
        ({"categories": [{"id": 40, "name": "cat"}]}, "2 classes are called 'cat'"),
        ({"categories": [{"id": 7, "name": "cot"}]}, "category 7 twice"),
        ({"categories": None}, "categories: Field required"),
        ({"images": [{"id": 0, "file_name": "x.png", "width": 9, "height": 9}]}, "image 0 twice"),
        ({"images": [{"id": 99, "file_name": "100.png", "width": 9, "height": 9}]},
         "100.png is annotated twice"),
        ({"images": [{"id": 99, "file_name": "no.png", "width": 9, "height": 9}]},
         "1 of 19 images named in"),
        ({"images": [{"id": 99, "file_name": "100.png", "width": 0, "height": 9}]},
         "images.18.width"),
        ({"annotations": [{**OUTSIDE, "image_id": 77}]}, "names image 77"),
        ({"annotations": [{**OUTSIDE, "category_id": 77}]}, "names category 77"),
        ({"annotations": [OUTSIDE]}, "annotation 999: the box 600 10 100 20"),
        ({"annotations": [{**OUTSIDE, "bbox": [1, 2, 3]}]}, "annotations.27.bbox"),
        ({"annotations": [{**OUTSIDE, "bbox": [1, 2, float("nan"), 4]}]}, "annotations.27.bbox"),
        ({"annotations": [{**OUTSIDE, "segmentation": [[1, 1, 2, 2]]}]}, "an outline of 4 numbers"),
        ({"annotations": [{**OUTSIDE, "segmentation": {"size": [1, 1], "counts": "01"}}]},
         "annotation 999: run lengths of"),
        ({"annotations": [{**OUTSIDE, "segmentation": {"size": [1, 1], "counts": [2**62]}}]},
         "annotation 999: run lengths of"),
    ],
)  # fmt: skip
def test_damaged_files_are_one_line(root, changes, words):
    change(root, **changes)
    message = refused(root)
    assert words in message and ("instances_train2017.json" in message or "twice" in message)


@pytest.mark.parametrize("text", ["", "{", '{"images": [', "[]", "null", "\udcff", "[" * 100_000])
def test_broken_json_is_one_line(root, text):
    path = root / "annotations" / "instances_train2017.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert str(path) in refused(root)


def test_json_in_utf_16_with_a_mark(root):
    path = root / "annotations" / "instances_train2017.json"
    path.write_bytes(path.read_text().encode("utf-16"))
    assert data(root).index.counts["validation"].sum() == 6


def test_a_box_outside_can_be_skipped(root):
    change(root, annotations=[OUTSIDE])
    module = data(root, "data.on_error=skip")
    assert any(
        "left out: 1 image with a damaged annotation" in n and "annotation 999" in n
        for n in module.index.notes
    )
    assert sum(len(images) for images in module.dataset.splits.values()) == 23


def test_an_image_of_another_size_than_annotated(root):
    draw(root / "train2017" / "100.png", [("cat", (2, 2, 5, 5))], (90, 20))
    with pytest.raises(UserError) as error:
        _ = data(root).dataset
    assert "100.png: it was drawn on" in str(error.value)


def test_no_annotations(tmp_path):
    (tmp_path / "annotations").mkdir()
    message = refused(tmp_path)
    assert "instances_*.json" in message and "data.annotations" in message


def test_images_that_are_not_there(root):
    (root / "train2017").rename(root / "elsewhere")
    assert "no image 100.png" in refused(root)


def test_two_files_of_one_split(root):
    make_coco(root, {"train2014": scenes(3, 7)})
    assert "both the train split" in refused(root)


def test_a_part_that_is_no_split_is_said(root):
    make_coco(root, {"extra": scenes(3, 7)})
    assert any("instances_extra.json is not used" in note for note in data(root).index.notes)


def test_no_image_of_one_class(tmp_path):
    objects = [("cat", (1, 1, 9, 9)), ("dog", (15, 15, 9, 9))]
    make_coco(tmp_path, {"train": {f"{n}.png": [(30, 30), objects] for n in range(4)}})
    assert "4 have several" in refused(tmp_path)
