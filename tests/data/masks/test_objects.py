"""Objects of COCO and YOLO as masks: equal to pycocotools', to the pixel."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from convlens.core.errors import UserError
from convlens.data.masks.load import ImageShape
from convlens.data.masks.objects import Objects, Region, read_run_lengths

REASON = "the extra coco is not installed"


def blob(seed: int, width: int, height: int) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width)) < 0.4


def runs_of(mask: np.ndarray) -> tuple[int, ...]:
    """Lengths of runs column by column, outside first: one pixel at a time."""
    counts, inside, length = [], False, 0
    for pixel in mask.T.ravel().tolist():
        if pixel != inside:
            counts.append(length)
            inside, length = pixel, 0
        length += 1
    return (*counts, length)


@pytest.mark.parametrize("seed", range(20))
def test_compressed_run_lengths_are_those_that_pycocotools_writes(seed):
    coco = pytest.importorskip("pycocotools.mask", reason=REASON)
    width, height = (int(n) for n in np.random.default_rng(seed).integers(1, 90, 2))
    mask = blob(seed, width, height)
    mask[:, : width // 2] = seed % 2  # long runs, whose differences are large in both directions
    text = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert read_run_lengths(text) == runs_of(mask)
    drawn = Region(runs=((height, width), read_run_lengths(text))).mask(width, height)
    assert np.array_equal(drawn, mask)


@pytest.mark.parametrize("text", ["\0", "é", "0" * 3 + "P", "P" * 30, "a b"])
def test_damaged_run_lengths(text):
    with pytest.raises(ValueError, match="run lengths"):
        read_run_lengths(text)


@pytest.mark.parametrize("counts", [(), (3,), (5, 5, 5), (-1, 17), (2**60, 1), (15,)])
def test_run_lengths_that_do_not_fill_the_image_are_refused(counts):
    """pycocotools 2.0.11 would write beyond its memory."""
    with pytest.raises(ValueError, match="run lengths of"):
        Region(runs=((4, 4), counts)).check(4, 4, 1)
    Region(runs=((4, 4), (10, 6))).check(4, 4, 1)
    with pytest.raises(ValueError, match="4x4 pixels in 4x5"):
        Region(runs=((4, 4), (10, 6))).check(4, 5, 1)


@pytest.mark.parametrize("seed", range(10))
def test_outlines_are_drawn_as_annToMask_draws_them(seed):
    coco = pytest.importorskip("pycocotools.coco", reason=REASON)
    rng = np.random.default_rng(seed)
    width, height = 37, 23
    outlines = [
        tuple(np.clip(rng.normal((18, 11) * n, 9), 0, (width, height) * n).tolist())
        for n in rng.integers(3, 9, 1 + seed % 3).tolist()
    ]
    reader = coco.COCO()
    reader.imgs = {1: {"height": height, "width": width}}
    want = reader.annToMask({"image_id": 1, "segmentation": [list(each) for each in outlines]})
    drawn = Objects((Region(outlines=tuple(outlines)),), (width, height)).draw(
        ImageShape((width, height), 1, Path("x.png"))
    )
    assert np.array_equal(drawn[0], want.astype(bool))
    assert drawn[1:] == (1, "")


@pytest.mark.parametrize("seed", range(10))
def test_a_box_covers_the_pixels_whose_centres_are_inside(seed):
    rng = np.random.default_rng(seed)
    width, height = 31, 19
    left, top = rng.random() * 20, rng.random() * 12
    across, down = 0.01 + rng.random() * 10, 0.01 + rng.random() * 6
    mask = Region(box=(left, top, across, down)).mask(width, height)
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    inside = np.outer((top <= y) & (y <= top + down), (left <= x) & (x <= left + across))
    if inside.any():
        assert np.array_equal(mask, inside)
    else:
        assert mask.any()


def test_whole_boxes_are_those_of_pycocotools():
    coco = pytest.importorskip("pycocotools.mask", reason=REASON)
    rng = np.random.default_rng(3)
    for _ in range(50):
        x, y = rng.integers(0, 20, 2).tolist()
        box = [x, y, *rng.integers(1, 10, 2).tolist()]
        want = coco.decode(coco.frPyObjects(np.array([box], float), 30, 32))[..., 0].astype(bool)
        assert np.array_equal(Region(box=tuple(box)).mask(32, 30), want)


def test_a_box_thinner_than_a_pixel_covers_one():
    assert Region(box=(5.6, 3.1, 0.0, 0.2)).mask(9, 9).sum() == 1
    assert Region(box=(9.5, 9.5, 0.5, 0.5)).mask(9, 9)[8, 8]


@pytest.mark.parametrize(
    ("region", "words"),
    [
        (Region(box=(600, 10, 100, 20)), "the box 600 10 100 20 .* outside the 640x480 image"),
        (Region(box=(-3, 10, 100, 20)), "outside"),
        (Region(box=(10, 470, 100, 20)), "outside"),
        (Region(box=(10, 10, -5, 20)), "negative size"),
        (Region(outlines=((1, 1, 5, 5),)), "4 numbers"),
        (Region(outlines=((1, 1, 5, 5, 6, 7, 8),)), "7 numbers"),
        (Region(outlines=((1, 1, 5, 5, 6, 7), (1, 1, 5, 5, 1e9, 7))), "an outline is outside"),
        (Region(outlines=((1, 1, 5, 5, 6, 490),)), "an outline is outside"),
    ],
)
def test_impossible_places_are_refused(region, words):
    with pytest.raises(ValueError, match=words):
        region.check(640, 480, 1)


def test_rounding_by_a_pixel_is_allowed():
    Region(box=(-0.5, 0, 641, 480.9)).check(640, 480, 1)


def test_an_endless_outline_is_refused_before_it_takes_memory():
    pytest.importorskip("pycocotools", reason=REASON)
    outline = (0.0, 0.0, 4000.0, 4000.0) * 2000
    with pytest.raises(ValueError, match="longer than 4,000,000 pixels"):
        Region(outlines=(outline,)).mask(4000, 4000)


def test_fractions_of_the_sides_become_pixels():
    box, outline = (0.25, 0.5, 0.5, 0.25), (0.25, 0.5, 0.75, 0.5, 0.75, 0.75)
    assert Region(box=box).scaled(40, 20).box == (10, 10, 20, 5)
    assert Region(outlines=(outline,)).scaled(40, 20).outlines == ((10, 10, 30, 10, 30, 15),)


@pytest.mark.parametrize("turn", range(1, 9))
def test_objects_of_a_turned_image_as_they_lie_or_upright(turn):
    """The annotated size says whether a program drew on the stored or the upright pixels."""
    stored, upright = (40, 22), (22, 40) if turn > 4 else (40, 22)
    image = ImageShape(stored, turn, Path("x.jpg"))
    mask, turn_by, _ = Objects((Region(box=(3, 4, 10, 6)),), stored).draw(image)
    if turn > 4:  # drawn on the pixels as they lie: rotated with the image
        assert mask.shape == (22, 40) and turn_by == turn
        mask, turn_by, remark = Objects((Region(box=(3, 4, 10, 6)),), upright).draw(image)
        assert mask.shape == (40, 22) and (turn_by, remark) == (1, "")
        assert mask[4:10, 3:13].all() and mask.sum() == 60
    mask, turn_by, remark = Objects((Region(box=(0.1, 0.1, 0.2, 0.2)),)).draw(image)
    assert mask.shape == upright[::-1] and (turn_by, remark) == (1, "")


def test_objects_annotated_at_another_size_are_scaled():
    image = ImageShape((40, 20), 1, Path("x.jpg"))
    mask, _, _ = Objects((Region(box=(20, 8, 40, 16)),), (80, 40)).draw(image)
    assert mask.shape == (20, 40) and mask[4:12, 10:30].all() and mask.sum() == 160
    with pytest.raises(ValueError, match="drawn on 80x80 pixels, but its image has 40x20"):
        Objects((Region(box=(20, 8, 40, 16)),), (80, 80)).draw(image)
    with pytest.raises(ValueError, match="pixels are more than"):
        Objects((Region(box=(20, 8, 40, 16)),), (40_000, 20_000)).draw(image)


def test_the_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(UserError, match=r"pip install 'convlens\[coco\]'"):
        Region(outlines=((1, 1, 5, 5, 1, 5),)).mask(9, 9)
