"""Which images a folder, a pattern or a table gives, and what is refused with which words."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from convlens.core.errors import UserError
from convlens.data.index.labels import Keys
from convlens.data.index.listing import list_images


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"listing never opens an image")
    return root


def names(listing) -> list[str]:
    return list(listing.files.names())


def refused(*args, **kwargs) -> str:
    """The message of the refusal, checked to be one line."""
    with pytest.raises(UserError) as caught:
        list_images(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_class_folders(tmp_path):
    touch(tmp_path, "dogs/b.JPG", "dogs/a.png", "cats/z.webp", "cats/deep/er/y.TIFF")
    touch(tmp_path, "cats/.hidden.jpg", "cats/notes.txt", ".git/x.jpg", "__MACOSX/cats/z.jpg")
    found = list_images(tmp_path)
    assert found.class_names == ("cats", "dogs")
    assert names(found) == ["cats/deep/er/y.TIFF", "cats/z.webp", "dogs/a.png", "dogs/b.JPG"]
    assert found.labels.tolist() == [0, 0, 1, 1] and found.labels.dtype == np.int64
    assert found.splits is None


@pytest.mark.parametrize("name", ["validation", "val", "valid", "Val"])
def test_split_folders_and_their_order(tmp_path, name):
    touch(tmp_path, *(f"{s}/{c}/1.jpg" for s in ("test", name, "train") for c in ("b", "a")))
    found = list_images(tmp_path)
    assert found.splits.tolist() == ["train"] * 2 + ["validation"] * 2 + ["test"] * 2
    assert found.labels.tolist() == [0, 1] * 3
    assert names(found)[:3] == ["train/a/1.jpg", "train/b/1.jpg", f"{name}/a/1.jpg"]


def test_missing_validation_and_test_are_no_error(tmp_path):
    found = list_images(touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg"))
    assert set(found.splits) == {"train"}


def test_order_is_that_of_bytes_whatever_the_locale_or_the_file_system(tmp_path):
    ordered = ["10.jpg", "9.jpg", "B.jpg", "a.jpg", "é.jpg", "字.jpg"]
    touch(tmp_path, *(f"x/{name}" for name in reversed(ordered)), "y/1.jpg")
    assert [Path(n).name for n in names(list_images(tmp_path))][:-1] == ordered


def test_links_are_followed_and_loops_end(tmp_path):
    touch(tmp_path, "data/a/1.jpg", "data/b/1.jpg", "elsewhere/2.jpg")
    (tmp_path / "data/a/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/a/loop").symlink_to(tmp_path / "data/a")
    (tmp_path / "data/b/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    found = names(list_images(tmp_path / "data"))
    # the dangling link is kept: decoding names it, leaving it out would be silent
    assert found == ["a/1.jpg", "a/more/2.jpg", "b/1.jpg", "b/gone.jpg"]


def test_a_class_called_train_is_a_class_among_others(tmp_path):
    touch(tmp_path, "train/1.jpg", "boat/1.jpg", "plane/1.jpg")
    assert list_images(tmp_path).class_names == ("boat", "plane", "train")


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(touch(tmp_path, "pics/a/1.jpg", "pics/b/1.jpg")))
    assert len(list_images("~/pics")) == 2


# ------------------------------------------------------------------------------ folders, refused


def test_missing_folder_lists_names_like_it(tmp_path):
    (tmp_path / "cats_dogs").mkdir()
    message = refused(tmp_path / "cat_dogs")
    assert str(tmp_path / "cat_dogs") in message and "did you mean cats_dogs?" in message
    assert f"nearest existing folder is {tmp_path}" in refused(tmp_path / "no" / "where")


def test_file_instead_of_folder(tmp_path):
    assert "is a file: data.dir names a folder" in refused(touch(tmp_path, "a") / "a")


def test_no_pictures_at_all(tmp_path):
    touch(tmp_path, "a/readme.heic", "b/x.heic")
    message = refused(tmp_path)
    # by what they hold, which is not what their names say
    assert message.startswith(f"no images in {tmp_path}, only 2 text (a/readme.heic, b/x.heic): ")
    assert "try data=shapes" in message


@pytest.mark.parametrize("root", ["", "train/"])
def test_empty_class_folder_is_named(tmp_path, root):
    touch(tmp_path, f"{root}cats/1.jpg", f"{root}dogs/notes.txt")
    assert refused(tmp_path).startswith(f"no images in {tmp_path / root / 'dogs'}, only")


def test_only_one_class(tmp_path):
    assert "only one class, 'cats'" in refused(touch(tmp_path, "cats/1.jpg", "cats/2.jpg"))


def test_one_folder_too_high(tmp_path):
    touch(tmp_path, "photos/daisy/1.jpg", "photos/rose/1.jpg")
    assert f"did you mean data.dir={tmp_path / 'photos'}?" in refused(tmp_path)


def test_folder_of_data_sets_is_no_data_set(tmp_path):
    touch(tmp_path, "pets/train/cat/1.jpg", "pets/train/dog/1.jpg", "flowers/rose/1.jpg")
    assert f"did you mean data.dir={tmp_path / 'pets'}?" in refused(tmp_path)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_class_in_train_but_not_elsewhere_and_the_reverse(tmp_path, split):
    touch(tmp_path, "train/cats/1.jpg", "train/dogs/1.jpg", "train/newts/1.jpg")
    touch(tmp_path, f"{split}/cats/1.jpg", f"{split}/dogs/1.jpg")
    message = refused(tmp_path)
    assert f"class 'newts' has images in train but none in {split}" in message
    touch(tmp_path, f"{split}/newts/1.jpg", f"{split}/Cats/1.jpg")
    message = refused(tmp_path)
    assert f"class 'Cats' has images in {split} but none in train" in message
    assert "did you mean cats" in message


def test_two_names_for_validation(tmp_path):
    touch(tmp_path, *(f"{s}/{c}/1.jpg" for s in ("train", "val", "valid") for c in "ab"))
    assert "are both the validation split" in refused(tmp_path)


def test_test_without_train(tmp_path):
    touch(tmp_path, "test/a/1.jpg", "test/b/1.jpg")
    assert "no train/ folder" in refused(tmp_path)


def test_pictures_that_belong_to_no_class_or_split_are_not_left_out_in_silence(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "extra/deep/1.jpg")
    assert "belongs to no split" in refused(tmp_path)
    touch(tmp_path / "two", "a/1.jpg", "b/1.jpg", "stray.jpg")
    assert "such as" in refused(tmp_path / "two") and "stray.jpg" in refused(tmp_path / "two")


# ---------------------------------------------------------------------------------- file patterns


def test_flat_folder_suggests_the_pattern_and_the_pattern_works(tmp_path):
    touch(tmp_path, "cat.0.jpg", "cat.1.jpg", "dog.10.jpg", "dog.2.jpg")
    message = refused(tmp_path)
    assert 'try "data.pattern={class}.*"' in message
    found = list_images(tmp_path, pattern="{class}.*")
    assert found.class_names == ("cat", "dog") and found.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("files", "pattern"),
    [
        (("great_dane_1.jpg", "great_dane_2.jpg", "pug_7.jpg"), "{class}_{number}.jpg"),
        (("great_dane_1.jpg", "great_dane_2.jpg", "pug_7.jpg"), r"(?P<class>.+)_\d+\.jpg"),
        (("1-great_dane.jpg", "2-pug.jpg"), "?-{class}.jpg"),
        (("set1/x/great_dane/1.jpg", "set2/pug/1.jpg"), "*/{class}/*.jpg"),
    ],
)
def test_patterns(tmp_path, files, pattern):
    found = list_images(touch(tmp_path, *files), pattern=pattern)
    assert found.class_names == ("great_dane", "pug")


def test_pattern_within_split_folders(tmp_path):
    touch(tmp_path, *(f"{s}/{c}.{n}.jpg" for s in ("train", "test") for c in "ab" for n in (1, 2)))
    found = list_images(tmp_path, pattern="{class}.*")
    assert found.splits.tolist() == ["train"] * 4 + ["test"] * 4


def test_pattern_refusals(tmp_path):
    touch(tmp_path, "cat.0.jpg", "dog.0.jpg", "odd.jpg")
    assert "none of 3 names" in refused(tmp_path, pattern="{class}_{number}.jpg")
    assert "2 of 3 names" in refused(tmp_path, pattern="{class}.{number}.jpg")
    assert "odd.jpg does not" in refused(tmp_path, pattern="{class}.{number}.jpg")
    assert "did you mean class?" in refused(tmp_path, pattern="{clas}.*")
    assert "needs {class} once" in refused(tmp_path, pattern="*.jpg")
    assert "not a regular expression" in refused(tmp_path, pattern="(?P<class>.+")
    assert "are set: set one of them for labels" in refused(
        tmp_path, pattern="{class}.*", csv="x.csv"
    )


def test_flat_folder_without_a_recognisable_pattern(tmp_path):
    message = refused(
        touch(tmp_path, "holiday.jpg", "aunt.jpg"), keys=Keys("src", "pattern", "csv")
    )
    assert "make a folder per class" in message and "data." not in message


# -------------------------------------------------------------------------------------------- CSV


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_table(tmp_path, separator):
    touch(tmp_path, "p/2.jpg", "p/1.jpg", "q.png")
    lines = ["file,label,split", "p/2.jpg, dog,train", "q.png,cat,val", "p/1.jpg,cat,train"]
    lines += ["p/3.jpg,dog,valid"]
    touch(tmp_path, "p/3.jpg")
    text = "\ufeff" + "\r\n".join(lines).replace(",", separator) + "\r\n"
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    found = list_images(tmp_path, csv="labels.csv")
    assert found.class_names == ("cat", "dog")
    assert names(found) == ["p/1.jpg", "p/2.jpg", "q.png", "p/3.jpg"]
    assert found.splits.tolist() == ["train", "train", "validation", "validation"]


def test_table_with_other_columns_no_split_and_absolute_files(tmp_path):
    touch(tmp_path, "data/1.jpg", "other/2.jpg")
    table = tmp_path / "t.csv"
    table.write_text(f"file,label,age\n1.jpg,pug,3\n{tmp_path}/other/2.jpg,collie,4\n")
    found = list_images(tmp_path / "data", csv=table)
    assert found.splits is None
    assert names(found) == [str(tmp_path / "other/2.jpg"), "1.jpg"]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("image,label\n1.jpg,a\n", "no column 'file'"),
        ("file,labels\n1.jpg,a\n", "did you mean label"),
        ("file,label\n", "no rows"),
        ("", "no column 'file'"),
        ("file,label\n1.jpg,\n2.jpg,b\n", "line 2: column 'label' is empty"),
        ("file,label\n1.jpg,a\n1.jpg,b\n", "twice, in lines 2 and 3"),
        ("file,label\n1.jpg,a\nno.jpg,b\nnot.jpg,b\n", "2 of 3 files named"),
        ("file,label,split\n1.jpg,a,train\n2.jpg,b,eval\n", "line 3: split 'eval'"),
        ("file,label,split\n1.jpg,a,test\n2.jpg,b,test\n", "no training images"),
        ("file,label,split\n1.jpg,a,train\n2.jpg,b,test\n", "class 'a' has images in train"),
        ("file,label\n1.jpg,a\n2.jpg,a\n", "only one class"),
    ],
)
def test_table_refusals(tmp_path, text, answer):
    touch(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "labels.csv").write_text(text)
    message = refused(tmp_path, csv="labels.csv")
    if "did you mean" in answer:
        assert "no column 'label'" in message and "did you mean labels?" in message
    else:
        assert answer in message


def test_table_missing(tmp_path):
    assert "no file" in refused(touch(tmp_path, "1.jpg"), csv=tmp_path / "none.csv")


def test_names_that_are_not_utf8(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "a" / os.fsdecode(b"\xff.jpg")).write_bytes(b"x")
    assert len(list_images(tmp_path)) == 3
