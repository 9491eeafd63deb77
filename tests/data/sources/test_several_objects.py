"""``data.multi_label`` with COCO and YOLO: an image has the classes and places of its objects.

Labels and masks are those that pycocotools reads; boxes of different classes overlap.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convlens.cli.main import main
from convlens.core.errors import UserError
from convlens.experiment.unseen import _relabel_several
from support.annotated_made import NAMES, draw, load, make_coco, make_yolo
from support.tiny import TINY


def scene(number: int, seed: int) -> list:
    """Return the size and objects of an image: two classes whose boxes overlap, or one."""
    rng = np.random.default_rng((seed, number))
    size = tuple(int(n) for n in rng.integers(30, 60, 2))
    names = [NAMES[number % 3], NAMES[(number + 1) % 3]][: 1 + (number % 4 > 0)]
    corners = [(int(rng.integers(0, 8)), int(rng.integers(0, 8))) for _ in names]
    boxes = [(left, top, size[0] // 2, size[1] // 2) for left, top in corners]
    return [size, list(zip(names, boxes, strict=True))]


PARTS = {
    part: {f"{seed}{n:02d}.png": scene(n, seed) for n in range(count)}
    for part, count, seed in (("train2017", 24, 1), ("val2017", 9, 2))
}
MAKE = {"coco": make_coco, "yolo": make_yolo}
# callbacks that are not needed here
OTHERS = ["mistakes", "confusion_matrix", "class_means", "activation_grids", "occlusion_maps",
          "filter_visuals", "augmentation_preview", "learning_curves"]  # fmt: skip
WORDS = ["data.size=32", "data.interpolation=nearest", "data.split.test=0.2"]


def make(kind: str, root: Path, form: str = "box") -> Path:
    parts = {part.removesuffix("2017"): images for part, images in PARTS.items()}
    return MAKE[kind](root / kind, PARTS if kind == "coco" else parts, form)


def data(kind: str, root: Path, *words: str):
    return load(f"data={kind}", *WORDS, "data.multi_label=true", f"data.dir={root}", *words)


@pytest.mark.parametrize("form", ["box", "outline"])
@pytest.mark.parametrize("kind", MAKE)
def test_classes_and_masks_of_each_are_those_of_pycocotools(tmp_path, kind, form):
    coco = pytest.importorskip("pycocotools.coco", reason="the extra coco is not installed")
    root, module = make("coco", tmp_path, form), data(kind, make(kind, tmp_path, form))
    seen = overlapping = 0
    for split, images in module.dataset.splits.items():
        part = "val2017" if split == "validation" else "train2017"
        with contextlib.redirect_stdout(io.StringIO()):
            reader = coco.COCO(root / "annotations" / f"instances_{part}.json")
        for row, name in enumerate(images.names):
            (number,) = (n for n, i in reader.imgs.items() if i["file_name"] == Path(name).name)
            objects = reader.loadAnns(reader.getAnnIds(imgIds=[number]))
            masks = {}
            for each in objects:
                left, top, wide, high = each["bbox"]
                each["segmentation"] = each["segmentation"] or [[
                    left, top, left + wide, top, left + wide, top + high, left, top + high
                ]]  # fmt: skip
                mask = Image.fromarray(reader.annToMask(each).astype(bool))
                small = np.asarray(mask.resize((32, 32), Image.Resampling.NEAREST))
                masks[reader.loadCats([each["category_id"]])[0]["name"]] = small
            names = {module.class_names[k] for k in np.flatnonzero(images.present[row])}
            assert names == set(masks)
            assert images.present[row, images.labels[row]]
            for label, own in enumerate(module.class_names):
                expected = masks.get(own, np.zeros((32, 32), bool))
                assert np.array_equal(images.objects(row, label), expected)
            assert np.array_equal(images.masks[row], np.any(list(masks.values()), axis=0))
            overlapping += bool(np.all(list(masks.values()), axis=0).any()) and len(masks) > 1
            seen += 1
    assert seen == 33 and overlapping > 10
    assert any("24 of 33 images have several classes" in note for note in module.index.notes)


def test_categories_choose_classes_and_other_images_are_left_out(tmp_path):
    root = make("coco", tmp_path)
    module = data("coco", root, "data.categories=[cat,dog]")
    assert module.class_names == ("cat", "dog")
    kept = sum(
        any(name != "cow" for name, _ in objects)
        for images in PARTS.values() for _, objects in images.values()
    )  # fmt: skip
    assert sum(map(len, module.dataset.splits.values())) == kept < 33
    assert any(f"left out: {33 - kept} images without" in note for note in module.index.notes)
    alone = load("data=coco", *WORDS, f"data.dir={root}", "data.categories=[cat,dog]")
    assert any("data.multi_label=true keeps all" in note for note in alone.index.notes)


def test_an_image_whose_objects_have_no_place_has_classes_and_no_mask(tmp_path):
    root = make("coco", tmp_path)
    path = root / "annotations" / "instances_train2017.json"
    document = json.loads(path.read_text())
    draw(root / "train2017" / "word.png", [("cow", (2, 2, 5, 5))], (26, 20))
    document["images"].append({"id": 99, "file_name": "word.png", "width": 26, "height": 20})
    for number in (7, 27):
        document["annotations"].append({"id": 900 + number, "image_id": 99, "category_id": number})
    path.write_text(json.dumps(document))
    images, row = next(
        (images, row)
        for images in data("coco", root).dataset.splits.values()
        for row, name in enumerate(images.names)
        if name.endswith("word.png")
    )
    assert images.present[row].sum() == 2 and not images.masked[row]
    assert not any(images.objects(row, label).any() for label in range(3))


def test_other_class_numbers_find_the_same_objects(tmp_path):
    images = data("coco", make("coco", tmp_path)).dataset.splits["test"]
    moved = _relabel_several(images, np.array([2, 0, 3]), 4)
    assert np.array_equal(moved.present[:, [2, 0, 3]], images.present)
    for row in range(len(images)):
        for old, new in enumerate((2, 0, 3)):
            if images.present[row, old]:
                assert np.array_equal(moved.objects(row, new), images.objects(row, old))


def test_what_cannot_be_is_one_line(tmp_path):
    root = make("coco", tmp_path)
    path = root / "annotations" / "instances_val2017.json"
    whole = path.read_text()
    document = json.loads(whole)
    dogs = {"annotations": [a for a in document["annotations"] if a["category_id"] != 17]}
    path.write_text(json.dumps(document | dogs))
    for words in ([], ["data.multi_label=false"]):
        with pytest.raises(UserError, match=r"'dog' .* none in validation") as error:
            data("coco", root, *words)
        assert str(error.value).endswith("data.categories=[a,b] leaves it out")
    path.write_text(json.dumps(document | {"annotations": []}))
    train = root / "annotations" / "instances_train2017.json"
    train.write_text(json.dumps(json.loads(train.read_text()) | {"annotations": []}))
    with pytest.raises(UserError, match="has an object of the classes used"):
        data("coco", root)
    path.write_text(whole.replace('"name": "dog"', '"name": "dog|wolf"'))
    train.unlink()
    with pytest.raises(UserError, match=r"class 'dog\|wolf' in .* contains \|"):
        data("coco", root, "data.split.validation=0.2")


def test_a_class_folder_with_the_separator_in_its_name_is_refused_too(tmp_path):
    for name in ("cat", "dog|wolf"):
        for number in range(4):
            draw(tmp_path / name / f"{number}{name}.png", [("cat", (1, 1, number, 9))], (30, 30))
    with pytest.raises(UserError, match=r"class 'dog\|wolf' in .* contains \|"):
        load("data=image_folder", "data.multi_label=true", f"data.dir={tmp_path}")


def test_a_run_scores_each_class_on_its_own_boxes(tmp_path):
    """The fraction of evidence and the covered area are those of the objects of each class."""
    root, home = make("coco", tmp_path), tmp_path / "run"
    words = [word for word in TINY if not word.startswith("data.pictures")]
    words += [f"callbacks.{name}=null" for name in OTHERS]
    words += ["data=coco", f"data.dir={root}", "data.multi_label=true", "data.size=32",
              "training.loss=multi_label", "training.epochs=1", "looking.seconds=600",
              "looking.first_seconds=600"]  # fmt: skip
    assert main(["train", f"run_dir={home}", *words]) == 0
    images = data("coco", root, "data.interpolation=bilinear").dataset.splits["validation"]
    shares = [
        images.objects(row, label).mean()
        for row in range(len(images)) for label in np.flatnonzero(images.present[row])
    ]  # fmt: skip
    found = json.loads((home / "summary.json").read_text())["scores"]["object_share"]
    assert found == pytest.approx(np.mean(shares), abs=1e-6)
    assert found < images.masks.mean() - 0.01  # which is that of all objects together
