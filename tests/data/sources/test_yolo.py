"""``data=yolo``: labels and masks are those that supervision reads from the same files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convlens.core.errors import UserError
from convlens.data.sources.yolo import find_label_file
from support.annotated_made import NAMES, draw, load, make_yolo, scenes

PARTS = {"train": scenes(18, 1), "val": scenes(6, 2)}
WORDS = ["data=yolo", "data.size=32", "data.interpolation=nearest", "data.split.test=0.2"]


@pytest.fixture
def root(tmp_path) -> Path:
    return make_yolo(tmp_path / "yolo", PARTS)


def data(root: Path, *words: str):
    return load(*WORDS, f"data.dir={root}", *words)


def refused(root: Path, *words: str) -> str:
    with pytest.raises(UserError) as error:
        data(root, *words)
    assert "\n" not in str(error.value)
    return str(error.value)


def change(root: Path, old: str, new: str) -> None:
    """Replace text in data.yaml."""
    text = (root / "data.yaml").read_text()
    assert old in text
    (root / "data.yaml").write_text(text.replace(old, new))


@pytest.mark.parametrize("kind", ["box", "outline"])
def test_labels_and_boxes_are_those_of_supervision(tmp_path, kind):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    if kind == "outline":
        pytest.importorskip("pycocotools", reason="the extra coco is not installed")
    root, seen = make_yolo(tmp_path / "yolo", PARTS, kind), 0
    readers = {
        part: supervision.DetectionDataset.from_yolo(
            str(root / "images" / part), str(root / "labels" / part), str(root / "data.yaml")
        )
        for part in PARTS
    }
    module = data(root)
    for split, images in module.dataset.splits.items():
        for row, name in enumerate(images.names):
            part = Path(name).parent.name
            assert (split == "validation") == (part == "val")
            found = readers[part].annotations[name]
            (label,) = set(found.class_id.tolist())
            assert readers[part].classes[label] == module.class_names[images.labels[row]]
            width, height = Image.open(name).size
            mask = np.zeros((height, width), bool)
            for left, top, right, bottom in np.rint(found.xyxy).astype(int):  # drawn on pixels
                mask[top:bottom, left:right] = True
            small = Image.fromarray(mask).resize((32, 32), Image.Resampling.NEAREST)
            assert np.array_equal(images.masks[row], np.asarray(small))
            seen += 1
    assert seen == 24


def test_masks_lie_on_the_drawn_objects(root):
    images = data(root).dataset.splits["train"]
    pixels = images.pixels(np.arange(len(images))).astype(int)
    coloured = np.ptp(pixels, axis=3) > 100
    coloured[:, 0, 0] = images.masks[:, 0, 0]  # the mark that makes images different
    assert images.masked.all() and np.array_equal(images.masks, coloured)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("a/images/train/1.jpg", "a/labels/train/1.txt"),
        ("images/a/images/1.2.jpg", "images/a/labels/1.2.txt"),
        ("a/train/1.jpg", "a/train/1.txt"),
        ("a/images.jpg", "a/images.txt"),
    ],
)
def test_the_label_file_of_an_image(image, label):
    assert find_label_file(Path(image)) == Path(label)


@pytest.mark.parametrize(
    "names", ["[cat, dog, cow]", "{0: cat, 1: dog, 2: cow}", "{'2': cow, '0': cat, '1': dog}"]
)
def test_names_as_a_list_or_a_table(root, names):
    text = (root / "data.yaml").read_text().partition("names:")[0]
    (root / "data.yaml").write_text(f"{text}names: {names}\n")
    assert data(root).class_names == tuple(sorted(NAMES))


def test_roboflow_with_folders_above(tmp_path):
    root = make_yolo(tmp_path / "yolo", PARTS)
    for part, folder in (("train", "train"), ("val", "valid")):
        (root / folder).mkdir()
        for kind in ("images", "labels"):
            (root / kind / part).rename(root / folder / kind)
    (root / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 3\n"
        "names: ['cat', 'dog', 'cow']\n"
    )
    assert "test in" in refused(root)  # it names a folder that does not exist
    change(root, "test: ../test/images\n", "")
    assert data(root).index.counts["validation"].sum() == 6


def test_lists_of_images_and_several_folders(root, tmp_path):
    files = sorted((root / "images" / "train").iterdir())
    (root / "train.txt").write_text("".join(f"./images/train/{f.name}\n\n" for f in files))
    change(root, "train: images/train", "train: [train.txt]")
    assert data(root).index.counts["validation"].sum() == 6
    with open(root / "train.txt", "a") as file:
        file.write("./images/train/none.png\n")
    assert "train.txt line 37 names ./images/train/none.png" in refused(root)
    (root / "train.txt").write_text("".join(f"images/train/{f.name}\n" for f in [*files, files[0]]))
    assert "100.png twice" in refused(root)


def test_labels_beside_the_images(tmp_path):
    root = make_yolo(tmp_path / "yolo", {"train": PARTS["train"]})
    (root / "images").rename(root / "photos")
    for label in (root / "labels" / "train").iterdir():
        label.rename(root / "photos" / "train" / label.name)
    change(root, "images/train", "photos/train")
    module = data(root, "data.split.validation=0.2")
    assert sum(int(c.sum()) for c in module.index.counts.values()) == 18
    assert not any("not used" in note for note in module.index.notes)


def test_keypoints_leave_the_box(root):
    change(root, "nc: 3", "nc: 3\nkpt_shape: [2, 3]")
    for label in (root / "labels").rglob("*.txt"):
        lines = label.read_text().splitlines()
        label.write_text("".join(f"{line} 0.5 0.5 2 0.1 0.1 1\n" for line in lines))
    test_masks_lie_on_the_drawn_objects(root)
    change(root, "[2, 3]", "[2, 7]")
    assert "kpt_shape" in refused(root)


def test_a_confidence_is_ignored(root):
    for label in (root / "labels").rglob("*.txt"):
        label.write_text("".join(f"{line} 0.83\n" for line in label.read_text().splitlines()))
    test_masks_lie_on_the_drawn_objects(root)


def test_images_without_a_label_file_and_label_files_without_an_image(root):
    draw(root / "images" / "train" / "empty.png", [], (30, 30))
    draw(root / "images" / "train" / "void.png", [], (30, 30))
    (root / "labels" / "train" / "void.txt").write_text("\n")
    (root / "labels" / "train" / "gone.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (root / "labels" / "train" / "classes.txt").write_text("cat\ndog\ncow\n")
    notes = data(root).index.notes
    assert any("left out: 2 images without an object" in n and "empty.png" in n for n in notes)
    assert any("1 label file belongs to no image" in n and "gone.txt" in n for n in notes)


def test_images_of_several_classes_are_left_out_and_counted(root):
    with open(root / "labels" / "train" / "100.txt", "a") as file:
        file.write("1 0.5 0.5 0.1 0.1\n")
    (line,) = (note for note in data(root).index.notes if "several classes" in note)
    assert "1 of 24 images" in line and "100.png (cat, dog)" in line


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("3 0.5 0.5 0.1 0.1", "line 3: class 3 is not one of the 3 classes, 0 to 2"),
        ("-1 0.5 0.5 0.1 0.1", "class -1"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5"),
        ("cat 0.5 0.5 0.1 0.1", "'cat' is not a number"),
        ("0 0.5 0.5 nan 0.1", "'nan' is not a number"),
        ("0 0.5 0.5 0.1", "4 values"),
        ("0", "1 values"),
        ("0 0.95 0.5 0.2 0.1", "is outside the 1x1 image"),
        ("0 320 240 100 80", "is outside the 1x1 image"),
        ("0 0.5 0.5 -0.1 0.1", "negative size"),
        ("0 0.1 0.1 0.5 0.1 0.5 1.5", "an outline is outside"),
        ("\0\0\0", "is not a number"),
    ],
)
def test_damaged_label_files_are_one_line(root, line, words):
    label = root / "labels" / "train" / "100.txt"
    label.write_text(f"0 0.5 0.5 0.1 0.1\n\n{line}\n")
    message = refused(root)
    assert str(label) in message and words in message
    notes = data(root, "data.on_error=skip").index.notes
    assert any("1 image with a damaged annotation" in n and words in n for n in notes)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("nc: 3", "nc: 4", "nc: 4, but names 3 classes"),
        ("  1: dog", "  3: dog", "must be 0 to 2"),
        ("  1: dog", "  1:", "class 1 has no name"),
        ("  1: dog", "  1: yes", "name 1 is true: write it in quotes"),
        ("  1: dog", "  1: cat", "2 classes are called 'cat'"),
        ("  1: dog", "  1: [dog]", "class 1 has no name"),
        ("names:", "nomes:", "no names in"),
        ("train: images/train", "train: images/tarin", "names images/tarin, which does not exist"),
        ("train: images/train", "train: [", "is not YAML"),
        ("train: images/train", "train: !!python/object/apply:os.system [ls]", "is not YAML"),
    ],
)
def test_a_damaged_data_yaml_is_one_line(root, old, new, words):
    change(root, old, new)
    message = refused(root)
    assert words in message and "data.yaml" in message


@pytest.mark.parametrize("text", ["", "- a\n", "a", "\udcff", "a: &x [*x]", "[" * 1500])
def test_what_is_no_data_yaml(root, text):
    (root / "data.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "data.yaml" in refused(root)


def test_no_data_yaml(tmp_path):
    assert "data.annotations" in refused(tmp_path)


def test_two_images_of_one_label_file(root):
    draw(root / "images" / "train" / "100.bmp", [], (30, 30))
    assert "share" in refused(root)
