"""Pascal VOC boxes: where they lie, and what they may not be."""

from __future__ import annotations

import numpy as np
import pytest

from convlens.data.masks.boxes import read_boxes
from support.masks_made import BOX, VOC, own_masks, picture, reference, xml


def test_boxes_count_from_one_include_their_ends_and_are_united(tmp_path):
    boxes = read_boxes(xml(tmp_path / "b.xml", (1, 1, 1, 1), (3, 2, 5, 4), (5, 4, 6, 4)))
    want = np.zeros((5, 6), bool)
    want[0, 0] = want[1:4, 2:5] = want[3, 4:6] = True
    assert np.array_equal(boxes.mask(6, 5), want)
    # drawn on an image of half the size
    boxes = read_boxes(xml(tmp_path / "b.xml", (2, 1, 2, 3), size=(6, 5)))
    want = np.zeros((10, 12), bool)
    want[0:6, 2:4] = True
    assert boxes.size == (6, 5) and np.array_equal(boxes.mask(12, 10), want)
    # from 0, or to one more than there is; as numbers with a point; a size nobody knew
    boxes = read_boxes(xml(tmp_path / "b.xml", (0, "0.0", 7.0, "2"), size=(0, 0)))
    want = np.arange(5)[:, None] < np.full(6, 2)
    assert boxes.size is None and np.array_equal(boxes.mask(6, 5), want)
    # on an image that was shrunk a box keeps a pixel
    boxes = read_boxes(xml(tmp_path / "b.xml", (100, 100, 100, 100), size=(100, 100)))
    assert np.argwhere(boxes.mask(4, 4)).tolist() == [[3, 3]]


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_boxes_become_masks_that_lie_on_their_pictures(tmp_path, resize):
    mask = np.zeros((23, 41), bool)
    mask[3:11, 8:30] = mask[9:20, 2:12] = True
    lying = picture(tmp_path / "p.png", mask)
    boxes = xml(tmp_path / "p.xml", (9, 4, 30, 11), (3, 10, 12, 20), size=(41, 23))
    read = own_masks([lying], [boxes], size=16, resize=resize)
    assert np.array_equal(read.masks[0], reference(mask, 16, resize))
    # the same, lying on its side: the boxes belong to the side of which they give the size
    lying = picture(tmp_path / "q.png", mask, 6)
    read = own_masks([lying], [boxes], size=16, resize=resize)
    upright = np.rot90(mask, -1)
    assert np.array_equal(read.masks[0], reference(upright, 16, resize))


def test_parts_of_an_object_are_no_boxes_of_their_own(tmp_path):
    text = VOC.format(size="", objects=BOX.format(
        "<xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax>"))  # fmt: skip
    part = "<part><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>1</xmax><ymax>1</ymax></bndbox></part>"
    (tmp_path / "b.xml").write_text(text.replace("</object>", f"{part}</object>"))
    assert read_boxes(tmp_path / "b.xml").corners == ((1, 1, 2, 2),)


def test_an_entity_bomb_costs_nothing(tmp_path):
    """Ten levels of ten: a hundred gigabytes if anybody expanded them."""
    levels = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(10))
    bomb = f'<!DOCTYPE a [<!ENTITY e0 "{"ha" * 10}">{levels}]><annotation>&e10;</annotation>'
    (tmp_path / "b.xml").write_text(bomb)
    with pytest.raises(ValueError, match="DOCTYPE"):
        read_boxes(tmp_path / "b.xml")
    (tmp_path / "b.xml").write_bytes(b" " * 10_000_001)
    with pytest.raises(ValueError, match="more than 10,000,000 bytes"):
        read_boxes(tmp_path / "b.xml")
