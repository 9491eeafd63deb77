"""Which mask belongs to which image: layouts, spellings, and what is refused."""

from __future__ import annotations

import functools
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from convlens.core.errors import UserError
from convlens.data.masks.folder import MaskFolder, match_masks
from support.masks_made import data, png, xml


def taken(files: list[Path | None], root: Path) -> list[str | None]:
    return [file and file.relative_to(root).as_posix() for file in files]


LAYOUTS = {
    "like the images": "{split}/{label}/{stem}.png",
    "another word for the split": "{short}/{label}/{stem}.png",
    "capitals": "{split}/{label}/{stem}.PNG",
    "classes": "{label}/{stem}.png",
    "flat": "{stem}.png",
    "annotations": "annotations/{stem}.png",
    "Annotations by class": "Annotations/{label}/{stem}.png",
    "annotations inside": "{split}/annotations/{stem}.png",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_finds_every_picture(tmp_path, layout):
    pictures, labels, wanted = [], [], []
    for split in ("train", "validation"):
        for label in ("katze", "hündin"):
            for i in range(2):
                short = {"validation": "val"}.get(split, split)
                stem = f"{split[0]}.{label}.{i}"
                pictures.append(tmp_path / "pics" / split / label / f"{stem}.jpg")
                labels.append(label)
                names = dict(split=split, short=short, label=label, stem=stem)
                wanted.append(LAYOUTS[layout].format(**names))
    for name in wanted[:-1]:
        png(tmp_path / "masks" / name, np.ones((2, 2)))
    png(tmp_path / "masks" / "strange.png", np.ones((2, 2)))
    png(tmp_path / "masks" / ".hidden" / wanted[-1], np.ones((2, 2)))
    found, notes = match_masks(MaskFolder(tmp_path / "masks", tmp_path / "pics"), pictures, labels)
    assert taken(found, tmp_path / "masks") == [*wanted[:-1], None]
    assert sum(file is not None for file in found) == 7
    assert notes[0].startswith("1 file belongs to no image, the first: ") and "strange" in notes[0]


def test_pictures_of_one_stem_in_two_classes_never_share_a_mask(tmp_path):
    pictures = [tmp_path / "pics" / label / "1.jpg" for label in ("a", "b")]
    masks = tmp_path / "masks"
    one, two = (png(masks / label / "1.png", np.ones((2, 2))) for label in ("a", "b"))
    find = functools.partial(match_masks, images=pictures, labels=["a", "b"])
    assert find(MaskFolder(masks, tmp_path / "pics"))[0] == [one, two]
    two.unlink()
    assert find(MaskFolder(masks, tmp_path / "pics"))[0] == [one, None]
    one.rename(masks / "1.png")
    with pytest.raises(UserError, match=r"masks/1\.png matches both .*/a/1.* and .*/b"):
        find(MaskFolder(masks, tmp_path / "pics"))


def test_names_in_other_spellings_of_unicode_and_classes_from_names(tmp_path):
    """macOS takes letters apart; with a pattern the class is no folder of the image."""
    masks = tmp_path / "masks"
    name = unicodedata.normalize("NFD", "žluťoučký kůň 木")
    png(masks / unicodedata.normalize("NFD", "kůň") / f"{name}.png", np.ones((2, 2)))
    folder = MaskFolder(masks, tmp_path)
    flat = tmp_path / "pics" / f"{unicodedata.normalize('NFC', name)}.jpeg"
    assert folder.find(flat) is None
    assert folder.find(flat, unicodedata.normalize("NFC", "kůň")) == folder.files()[0]


def test_a_png_counts_before_an_xml_and_two_of_a_kind_are_refused(tmp_path):
    masks = tmp_path / "masks"
    boxes = xml(masks / "a" / "1.xml", (1, 1, 2, 2))
    wanted = tmp_path / "pics" / "a" / "1.jpg"
    assert MaskFolder(masks, tmp_path / "pics").find(wanted) == boxes
    exact = png(masks / "a" / "1.png", np.ones((2, 2)))
    assert MaskFolder(masks, tmp_path / "pics").find(wanted) == exact
    png(masks / "annotations" / "a" / "1.png", np.ones((2, 2)))
    with pytest.raises(UserError, match=".* and .* both match the image .*: keep one"):
        MaskFolder(masks, tmp_path / "pics").find(wanted)


def test_a_picture_is_never_its_own_mask(with_masks):
    pics = with_masks / "pics"
    with pytest.raises(UserError, match=r"\.png or \.xml .*beside its images"):
        data(with_masks, masks=str(pics))
    xml(pics / "dogs" / "3.xml", (1, 1, 4, 5))
    module = data(with_masks, masks=str(pics))
    assert module.index.notes == [f"masks for 1 of 20 images in {pics}"]
    # the folder above works too, and the masks beside it, being images of no folder of that name
    module = data(with_masks, masks=str(with_masks))
    assert module.index.notes[0].startswith("masks for 1 of 20")
    (with_masks / "masks").rename(pics / "masks")
    with pytest.raises(UserError, match="named like classes.*move it out of .*data.masks"):
        data(with_masks, masks=str(pics / "masks"))
    for file in (pics / "masks").rglob("*.png"):  # flat, so that no folder tells
        file.rename(pics / "masks" / f"{file.parent.name}_{file.name}")
    with pytest.raises(UserError, match="is among the images.* move that folder out of"):
        data(with_masks, masks=str(pics / "masks"))


def test_no_mask_at_all_names_the_folder_and_an_expected_name(with_masks):
    for file in (with_masks / "masks").rglob("*.png"):
        file.rename(file.with_name(f"{file.stem}_mask.png"))
    wanted = re.escape(str(with_masks / "masks" / "cats" / "0.png"))
    with pytest.raises(UserError, match=rf"data\.masks=.*expected {wanted} .*1_mask\.png"):
        data(with_masks)
    with pytest.raises(UserError, match=r"no folder .*mask: set data\.masks.*did you mean masks\?"):
        data(with_masks, masks=str(with_masks / "mask"))
