"""Oxford-IIIT Pet: downloaded whole, listed as its lists say, masks that lie on their images."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from convlens.cli.main import main
from convlens.core.errors import UserError
from convlens.data.sources.archives import PETS
from convlens.data.sources.pets import list_pets
from convlens.data.sources.registry import find_pending_download
from support.pets_drawn import (
    BREEDS,
    COMMENTS,
    TEST,
    TRAIN,
    change,
    data,
    draw_pets,
    spec_of,
    stems,
)

# ---------------------------------------------------------------------------------------- listing


@pytest.mark.parametrize("labels", ["species", "breeds"])
@pytest.mark.parametrize("below", ["", "oxford-iiit-pet"])
def test_lists_files_and_labels_are_torchvisions(tmp_path, labels, below):
    draw_pets(tmp_path / "oxford-iiit-pet")
    listed = tmp_path / "oxford-iiit-pet" / "annotations" / "test.txt"
    comments = "".join(f"{line}\n" for line in COMMENTS)
    change(listed, comments, "")  # which torchvision cannot read
    found = list_pets(tmp_path if below else tmp_path / "oxford-iiit-pet", labels)
    names = ("cat", "dog") if labels == "species" else tuple(BREEDS)
    assert found.class_names == names
    kind = "binary-category" if labels == "species" else "category"
    for split, theirs in (("train", "trainval"), ("test", "test")):
        other = datasets.OxfordIIITPet(tmp_path, theirs, kind)
        ids = other._bin_labels if labels == "species" else other._labels
        want = {
            (path.name, (number if labels == "species" else path.name.rsplit("_", 1)[0]))
            for path, number in zip(other._images, ids, strict=True)
        }
        ours = found.splits == split
        got = {
            (file.name, int(label) if labels == "species" else names[label])
            for file, label, mine in zip(found.files, found.labels, ours, strict=True)
            if mine
        }
        assert got == want


def test_validation_comes_from_trainval_and_test_is_the_official_list(drawn):
    one, again, other = (data(drawn, seed=seed).dataset.splits for seed in (0, 0, 1))
    official = {
        line.split()[0]
        for line in (drawn / "annotations" / "test.txt").read_text().splitlines()
        if not line.startswith("#")
    }
    assert stems(one["test"].names) == stems(other["test"].names) == official
    assert not official & (stems(one["train"].names) | stems(one["validation"].names))
    assert len(one["validation"]) == 5 and len(one["train"]) == 27  # 0.15 of 32
    chosen, same, others = (list(each["validation"].names) for each in (one, again, other))
    assert chosen == same != others
    counts = data(drawn, "data.split.validation=8", "data.labels=breeds").index.counts
    assert counts["validation"].tolist() == [2] * 4 and counts["test"].tolist() == [TEST] * 4
    with pytest.raises(UserError, match=r"data\.split\.test=0\.2: data=pets has its own"):
        data(drawn, "data.split.test=0.2")


def test_the_real_class_names_and_checksums():
    theirs = {url.rsplit("/", 1)[1]: md5 for url, md5 in datasets.OxfordIIITPet._RESOURCES}
    assert theirs == PETS.checksums
    breeds = PETS.class_names["breeds"]
    assert len(set(breeds)) == 37
    assert list(breeds) == sorted(breeds)
    # in the official set the 12 breeds of cats are those with a capital
    assert sum(name[0].isupper() for name in breeds) == 12


@pytest.mark.parametrize(
    ("list_name", "old", "new", "said"),
    [
        ("test.txt", "beagle_8 5 2 1", "beagle_8 5", r"test.txt:12: 'beagle_8 5' is not like"),
        ("test.txt", "beagle_8 5 2 1", "beagle_8 5 3 1", "species 1 or 2"),
        ("test.txt", "beagle_8 5 2 1", "../beagle_8 5 2 1", "is not like"),
        ("test.txt", "beagle_8 5 2 1", "beagle_8 5 1 1", "class 5, species 1, but was class 5, s"),
        ("test.txt", "beagle_8 5 2 1", "beagle_8 7 2 1", "class 7, species 2, but was class 5"),
        ("test.txt", "beagle_8 5", "beagle_0 5", r"test.txt:12: beagle_0 is listed a second time"),
        ("trainval.txt", "beagle_3 ", "beagle_99 ", r"beagle_99\.jpg is missing \(1 such files\)"),
    ],
)
def test_wrong_lists_are_named_with_their_line(drawn, list_name, old, new, said):
    change(drawn / "annotations" / list_name, old, new)
    with pytest.raises(UserError, match=said) as caught:
        list_pets(drawn, "species")
    assert PETS.addresses[0] in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files_and_unreadable_lists(drawn):
    def refused(said: str) -> None:
        with pytest.raises(UserError, match=said) as caught:
            list_pets(drawn, "species")
        assert "\n" not in str(caught.value)

    trimap = drawn / "annotations" / "trimaps" / "Bengal_2.png"
    trimap.rename(drawn / "kept.png")
    refused(rf"{trimap} is missing")
    (drawn / "kept.png").rename(trimap)
    listed = drawn / "annotations" / "test.txt"
    content = listed.read_bytes()
    for wrong, said in (
        (b"\xff\xfe\x00", "cannot read the list .*it is not text"),
        (b"# nothing\n", "names no images"),
        (b"Bengal_8 6 1 1\n", "trainval.txt .*names images of dog, test.txt names none"),
    ):
        listed.write_bytes(wrong)
        refused(said)
    listed.unlink()
    refused("cannot read the list .*No such file")
    listed.write_bytes(content)
    (drawn / "images").rename(drawn / "pictures")
    refused(rf"no folder {drawn / 'images'}")


# ------------------------------------------------------------------------------------------ masks


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_masks_lie_on_their_pictures_to_the_pixel(drawn, resize):
    """Body and border are the object; also where images are turned by their EXIF."""
    # nearest on both sides, and lossless files: colours and classes must agree everywhere
    made = data(drawn, f"data.resize={resize}", "data.interpolation=nearest").dataset
    objects = 0
    for pictures in made.splits.values():
        assert pictures.masks.dtype == bool and pictures.masks.shape == (len(pictures), 24, 24)
        assert isinstance(pictures.masks, np.memmap)
        for row in range(len(pictures)):
            red, green, blue = pictures.pixels(np.array([row]))[0].astype(int).transpose(2, 0, 1)
            assert np.array_equal(pictures.masks[row], np.maximum(red, green) > 125)
            assert resize == "pad" or ((blue > 125) != pictures.masks[row]).all()
            objects += pictures.masks[row].any()
    assert objects > 35  # of 44; a crop may cut one off
    assert made.notes == []


def test_masks_follow_smoothly_resized_photographs(drawn):
    pictures = data(drawn).dataset.splits["test"]
    for row in range(len(pictures)):
        blue = pictures.pixels(np.array([row]))[0][..., 2]
        inside, outside = blue < 40, blue > 220
        assert inside.any() and outside.any()
        assert pictures.masks[row][inside].all() and not pictures.masks[row][outside].any()


def test_masks_are_kept_and_made_anew_when_a_trimap_changed(drawn, capsys):
    before = data(drawn).dataset.splits["test"]
    said = capsys.readouterr().err
    assert said.count("reading") == 3
    same = data(drawn).dataset.splits["test"]
    assert "reading" not in capsys.readouterr().err
    assert np.array_equal(before.masks, same.masks) and before.identity == same.identity
    ram = data(drawn, "data.cache=ram").dataset.splits["test"]
    assert not isinstance(ram.masks, np.memmap) and np.array_equal(before.masks, ram.masks)
    capsys.readouterr()
    file = Path(before.names[4])
    size = Image.open(drawn / "annotations" / "trimaps" / f"{file.stem}.png").size
    Image.new("L", size, 2).save(drawn / "annotations" / "trimaps" / f"{file.stem}.png")
    after = data(drawn).dataset.splits["test"]
    assert capsys.readouterr().err.count("reading") == 1
    assert before.masks[3].any() and not after.masks[4].any()
    assert np.array_equal(np.delete(after.masks, 4, 0), np.delete(ram.masks, 4, 0))


def test_trimaps_that_are_none(drawn):
    trimap = drawn / "annotations" / "trimaps" / "Bengal_9.png"
    for content, said in (
        (np.zeros((40, 40), np.uint8), "it is not a trimap of 1 (object)"),
        (np.ones((40, 40, 3), np.uint8), "it is not a trimap of 1 (object)"),
        (None, "its content is not PNG"),
    ):
        if content is None:
            trimap.write_bytes(b"no image")
        else:
            Image.fromarray(content).save(trimap)
        with pytest.raises(UserError, match=re.escape(said)) as caught:
            _ = data(drawn, "data.on_error=skip").dataset
        assert str(trimap) in str(caught.value) and "\n" not in str(caught.value)
    trimap.unlink()
    trimap.symlink_to(drawn / "nowhere")
    with pytest.raises(UserError, match="Bengal_9.png: No such file"):
        _ = data(drawn).dataset


def test_palette_trimaps_and_those_of_another_size(drawn):
    folder = drawn / "annotations" / "trimaps"
    want = data(drawn, "data.cache=ram", "data.resize=crop").dataset.splits["test"]
    for row, name in ((0, "Abyssinian_10"), (1, "Abyssinian_8")):
        assert Path(want.names[row]).stem == name
    one = Image.open(folder / "Abyssinian_10.png")
    coloured = Image.fromarray(np.asarray(one), "P")
    coloured.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    coloured.save(folder / "Abyssinian_10.png")
    two = Image.open(folder / "Abyssinian_8.png")
    two.resize((two.width * 3, two.height * 3), Image.Resampling.NEAREST).save(two.filename)
    made = data(drawn, "data.resize=crop").dataset
    assert np.array_equal(made.splits["test"].masks, want.masks)
    assert made.notes == []
    two.resize((two.width * 2, two.height), Image.Resampling.NEAREST).save(two.filename)
    made = data(drawn, "data.resize=crop").dataset
    assert np.array_equal(made.splits["test"].masks, want.masks)
    (note,) = made.notes
    assert (
        note.startswith("masks stretched because their proportions differ from their images': 1,")
        and "Abyssinian_8.png" in note
    )


def test_skipped_pictures_leave_masks_and_pixels_together(drawn):
    (drawn / "images" / "Bengal_8.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"cannot read .*Bengal_8\.jpg"):
        _ = data(drawn).dataset
    made = data(drawn, "data.on_error=skip", "data.interpolation=nearest").dataset
    pictures = made.splits["test"]
    assert len(pictures) == len(pictures.masks) == 4 * TEST - 1
    for row in range(len(pictures)):
        blue = pictures.pixels(np.array([row]))[0][..., 2]
        assert np.array_equal(pictures.masks[row], blue < 125)
    assert made.notes[-1].startswith("1 broken image skipped")


# --------------------------------------------------------------------------------------- together


def test_pending_download_and_bad_words(drawn, tmp_path):
    assert find_pending_download(spec_of().replace(dir=str(drawn))) is None
    nowhere = {"dir": str(tmp_path / "none")}
    download = find_pending_download(spec_of().replace(**nowhere))
    assert (download.megabytes, download.class_names) == (811, ("cat", "dog"))
    download = find_pending_download(spec_of("data.labels=breeds").replace(**nowhere))
    assert download.class_names == PETS.class_names["breeds"]
    with pytest.raises(UserError, match=r"data\.labels=breed: did you mean breeds"):
        data(tmp_path / "none", "data.labels=breed")


def test_a_run(drawn, at):
    small = ["model.filters=[4,6]", "model.padding=same", "model.head.hidden=[8]"]
    small += ["training.batch_size=8", "training.epochs=1", "trainer=cpu", "precision=32"]
    pets_there = ["data=pets", f"data.dir={drawn}", "data.size=24"]
    home = at / "run"
    assert main(["train", *pets_there, *small, "callbacks=none", f"run_dir={home}"]) == 0
    rows = (home / "split.csv").read_text().splitlines()
    assert len(rows) == 1 + 4 * (TRAIN + TEST)
    assert "images/Bengal_8.jpg,cat,test" in rows
