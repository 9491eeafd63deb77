"""Panels about answers: sheets of pictures, mistakes by pair, class means, depth."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from convlens.core.photograph import Photograph
from convlens.draw.breakdown import breakdown, find_common_mistakes
from convlens.draw.canvas import PAD
from convlens.draw.charts import depth_chart, shorten_layer_names
from convlens.draw.class_means import class_means
from convlens.draw.colour import HEAT, colour_table
from convlens.draw.palette import EMPTY, GREEN, RED
from convlens.draw.picture import resize, to_uint8
from convlens.draw.picture_sheet import SheetEntry, augmentation_sheet, picture_sheet
from support.panels import (
    NAMES,
    assert_margin_is_empty,
    find,
    is_colour,
    names,
    some_counts,
    uniform,
)

# --- sheets of pictures


def test_pictures_stand_in_the_sheet_in_order():
    pictures = [uniform(3, 224, 224, seed=i) for i in range(5)]
    sheet = picture_sheet([SheetEntry(p, ["a caption"]) for p in pictures], title="x", columns=3)
    places = [find(sheet, to_uint8(picture)) for picture in pictures]
    assert [len(found) for found in places] == [1] * 5
    ys, xs = zip(*(found[0] for found in places), strict=True)
    assert len(set(ys[:3])) == 1 and len(set(ys[3:])) == 1 and ys[3] > ys[0] + 224
    assert xs[0] == xs[3] == PAD and xs[1] == xs[4] and xs[0] < xs[1] < xs[2]
    assert_margin_is_empty(sheet)


def test_tiny_pictures_grow_by_a_whole_factor():
    picture = uniform(1, 28, 28)
    sheet = picture_sheet([SheetEntry(picture, ["7"])], title="x", columns=1)
    assert len(find(sheet, to_uint8(picture).repeat(8, 0).repeat(8, 1))) == 1


def test_photographs_keep_their_proportions_and_their_frame():
    whole = to_uint8(uniform(3, 112, 224))
    entry = SheetEntry(Photograph(whole, (0.25, 0.0, 0.75, 1.0)), ["a caption"])
    sheet = picture_sheet([entry], title="x", columns=1)
    assert len(find(sheet, whole[2:-2, 58:166])) == 1  # what the network sees, within its frame
    assert not find(sheet, whole)


def test_verdicts_are_green_and_red_and_only_where_something_is_judged():
    grey = np.full((3, 224, 224), 0.5, np.float32)

    def bands(*verdicts):
        entries = [SheetEntry(grey, ["x"], verdict) for verdict in verdicts]
        sheet = picture_sheet(entries, title="x", columns=8)
        return [(is_colour(sheet, c).sum(axis=0) > 5).sum() for c in (GREEN, RED)]

    assert bands(True, False, None) == [224, 224]
    assert bands(True, True, False) == [448, 224]
    assert bands(None, None) == [0, 0]


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (640, 480), (300, 10), (10, 300)])
def test_sheets_of_all_sizes_and_captions(size):
    entries = [
        SheetEntry(uniform(3, *size), [name, name], i % 2 == 0, f"folder/{name}.jpg")
        for i, name in enumerate(NAMES)
    ]
    sheet = picture_sheet(entries, title="y" * 300, columns=4, subtitle="z" * 300)
    assert_margin_is_empty(sheet)
    assert sheet.shape[1] < 1000 and sheet.std() > 10


def test_a_long_path_keeps_its_end():
    def draw(source: str) -> np.ndarray:
        return picture_sheet([SheetEntry(grey, source=source)], title="x", columns=1)

    grey = np.full((3, 224, 224), 0.5, np.float32)
    one, other = (draw(f"{letter * 90}/cat.jpg") for letter in "ab")
    assert (one == other).all() and (one != draw(f"{'a' * 90}/dog.jpg")).any()


def test_captions_wrap_instead_of_being_cut():
    picture = uniform(3, 150, 150)
    short = picture_sheet([SheetEntry(picture, ["said dog"])], title="x", columns=1)
    long = picture_sheet([SheetEntry(picture, ["said dog " * 8])], title="x", columns=1)
    assert long.shape[0] > short.shape[0] and long.shape[1] == short.shape[1]


def test_wrong_sheets_are_refused():
    with pytest.raises(ValueError, match="cannot tile"):
        picture_sheet([], title="x", columns=2)
    with pytest.raises(ValueError, match="cannot tile"):
        picture_sheet([SheetEntry(uniform(3, 8, 8))], title="x", columns=0)
    with pytest.raises(ValueError, match="an image must be"):
        picture_sheet([SheetEntry(uniform(8, 8, 8))], title="x", columns=1)


def test_augmentations_stand_after_their_original():
    picture = torch.from_numpy(uniform(3, 224, 224))
    draws = torch.stack([picture.roll(10 * i, 2) for i in range(1, 9)])
    sheet = augmentation_sheet(picture, draws, "probe 3")
    places = [find(sheet, to_uint8(image))[0] for image in (picture, *draws)]
    assert places == sorted(places)  # row by row
    assert len({y for y, _ in places}) == len({x for _, x in places}) == 3
    with pytest.raises(ValueError, match="draws must be"):
        augmentation_sheet(picture, draws[:0], "x")
    with pytest.raises(ValueError, match="draws must be"):
        augmentation_sheet(picture, picture, "x")


# --- mistakes by pair


def test_the_commonest_mistakes_come_first():
    counts = np.array([[90, 2, 5], [5, 1, 0], [0, 8, 3]])
    assert find_common_mistakes(counts, 10) == [(2, 1, 8), (0, 2, 5), (1, 0, 5), (0, 1, 2)]
    assert find_common_mistakes(counts, 2) == [(2, 1, 8), (0, 2, 5)]
    assert find_common_mistakes(np.eye(3, dtype=int), 10) == []


def _bar_lengths(panel: np.ndarray) -> list[int]:
    """Lengths of the red bars, from top to bottom."""
    red = is_colour(panel, RED).sum(axis=1)
    starts = np.flatnonzero((red > 0) & (np.roll(red, 1) == 0))
    return [int(red[start]) for start in starts]


def test_bars_are_as_long_as_their_pairs_are_frequent():
    counts = np.array([[90, 2, 6], [4, 1, 0], [0, 8, 3]])
    panel = breakdown(counts, ["a", "b", "c"], title="x")
    assert _bar_lengths(panel) == [240, 180, 120, 60]
    assert _bar_lengths(breakdown(counts, ["a", "b", "c"], title="x", most=2)) == [240, 180]
    assert_margin_is_empty(panel)


def test_no_mistakes_and_no_pictures_are_told():
    right = breakdown(np.eye(3) * 4, ["a", "b", "c"], title="x")
    none = breakdown(np.zeros((3, 3)), ["a", "b", "c"], title="x")
    assert is_colour(right, GREEN).any() and not is_colour(right, RED).any()
    assert not is_colour(none, GREEN).any() and none.std() > 5
    assert _bar_lengths(right) == []


@pytest.mark.parametrize("classes", [2, 9, 100])
def test_mistakes_of_any_class_names(classes):
    counts = some_counts(classes) + 1
    panel = breakdown(counts, names(classes), title="x" * 300, most=20)
    assert len(_bar_lengths(panel)) == min(20, classes * classes - classes)
    assert_margin_is_empty(panel)
    assert panel.shape[1] < 1000


def test_wrong_breakdowns_are_refused():
    with pytest.raises(ValueError, match="counts must be"):
        breakdown(np.eye(3), ["a", "b"], title="x")
    with pytest.raises(ValueError, match="most=0"):
        breakdown(np.eye(2), ["a", "b"], title="x", most=0)


# --- mean maps


def test_all_means_are_on_one_scale_cell_by_cell():
    maps = uniform(3, 7, 7)
    maps[1] *= 0.1
    maps[2, 0, 0] = 2.0  # the corner of one class is the brightest of all
    panel = class_means(maps, [5, 6, 7], ["a", "b", "c"], title="x")
    lefts = []
    for map in maps:
        heat = (
            colour_table(HEAT)[np.rint(map / 2.0 * 255).astype(np.uint8)]
            .repeat(24, 0)
            .repeat(24, 1)
        )
        places = find(panel, heat)
        assert len(places) == 1
        lefts.append(places[0][1])
    assert lefts == sorted(lefts)
    assert_margin_is_empty(panel)


def test_values_below_zero_widen_the_scale():
    maps = np.array([[[-1.0, 0.0], [1.0, 0.5]]], np.float32)
    panel = class_means(maps, [1], ["a"], title="x")
    heat = colour_table(HEAT)[np.rint((maps[0] + 1) / 2 * 255).astype(np.uint8)]
    assert len(find(panel, resize(heat, (168, 168)))) == 1


def test_classes_without_pictures_say_so_and_leave_the_scale_alone(recwarn):
    maps = uniform(3, 4, 4)
    maps[1] = np.nan
    panel = class_means(maps, [5, 0, 7], ["a", "b", "c"], title="x")
    maps[1] = 1000
    again = class_means(maps, [5, 0, 7], ["a", "b", "c"], title="x")
    assert (panel == again).all()
    empty = is_colour(panel, EMPTY)
    assert 168 * 130 < empty.sum() < 168 * 168  # all of one cell but its letters
    assert is_colour(panel, RED).any()
    broken = class_means(maps * np.nan, [5, 0, 7], ["a", "b", "c"], title="x")
    assert is_colour(broken, EMPTY).sum() > 3 * 168 * 130
    assert not len(recwarn)


def test_of_many_classes_those_with_most_pictures_are_shown():
    maps = np.zeros((100, 2, 2), np.float32)
    counts = np.ones(100)
    maps[70], counts[70] = uniform(2, 2) + 0.1, 9
    panel = class_means(maps, counts, [f"class {i}" for i in range(100)], title="x", most=3)
    heat = colour_table(HEAT)[np.rint(maps[70] / maps.max() * 255).astype(np.uint8)]
    assert len(find(panel, resize(heat, (168, 168)))) == 1
    assert is_colour(panel, RED).any()  # not all are shown, and that is told
    empty = is_colour(panel, colour_table(HEAT)[0]).sum()
    assert 2 * 168 * 168 <= empty < 2.5 * 168 * 168  # the two others, and the end of the bar


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (14, 7), (300, 200)])
@pytest.mark.parametrize("classes", [1, 9, 40])
def test_means_of_all_sizes_and_names(classes, size):
    panel = class_means(uniform(classes, *size), range(classes), names(classes), title="x" * 300)
    assert_margin_is_empty(panel)
    assert panel.shape[1] < 1100


def test_wrong_means_are_refused():
    for maps, counts in (
        (uniform(4, 4), [1]),
        (uniform(2, 4, 4), [1]),
        (uniform(1, 4, 4), [1]),
        (uniform(2, 0, 4), [1, 1]),
    ):
        with pytest.raises(ValueError, match="mean maps"):
            class_means(maps, counts, ["a", "b"], title="x")


# --- over depth

BLUE, FAINT = (52, 101, 192), (160, 166, 176)


def _heights(chart: np.ndarray, colour) -> tuple[float, float]:
    """Mean row of a line's pixels in the chart's left and right half, the legend left out."""
    rows, columns = np.nonzero(is_colour(chart, colour))
    keep = rows > 95
    rows, columns = rows[keep], columns[keep]
    left = columns < chart.shape[1] / 2
    return float(rows[left].mean()), float(rows[~left].mean())


def test_now_and_untrained_are_two_lines_over_depth():
    layers = [f"net.block{i}.conv" for i in range(8)]
    rising, level = np.linspace(0.1, 0.9, 8), np.full(8, 0.5)
    chart = depth_chart(layers, rising, level, title="x", what="sparsity")
    left, right = _heights(chart, BLUE)
    assert right < left - 60  # rows count downwards
    left, right = _heights(chart, FAINT)
    assert abs(left - right) < 5
    alone = depth_chart(layers, rising, None, title="x", what="sparsity")
    assert not is_colour(alone[95:], FAINT).any()
    assert_margin_is_empty(chart)
    assert (chart == depth_chart(layers, rising, level, title="x", what="sparsity")).all()


@pytest.mark.parametrize("count", [1, 2, 120])
def test_charts_of_any_depth_and_layer_names(count):
    layers = [NAMES[i % 9] + f".{i}" for i in range(count)]
    values = [float("nan") if i % 3 == 1 else 0.5 for i in range(count)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chart = depth_chart(layers, values, values, title="x" * 300, what="share of $zeros$ 狗")
    assert chart.shape[1] <= 1500 + 2 * PAD
    assert_margin_is_empty(chart)


def test_labels_drop_what_all_layers_share_and_keep_their_ends():
    assert shorten_layer_names(["net.a.conv", "net.b.conv"]) == ["a.conv", "b.conv"]
    assert shorten_layer_names(["conv"]) == ["conv"] and shorten_layer_names(["net.conv"]) == [
        "conv"
    ]
    long = shorten_layer_names(["a" * 100 + ".activation1", "b" * 100 + ".activation2"])
    assert [label[0] for label in long] == ["…", "…"]
    assert long[0].endswith("a.activation1") and long[1].endswith("b.activation2")


def test_wrong_depths_are_refused():
    with pytest.raises(ValueError, match="1 values for 2 layers"):
        depth_chart(["a", "b"], [0.5], None, title="x", what="y")
    with pytest.raises(ValueError, match=r"before training has values outside"):
        depth_chart(["a"], [0.5], [1.5], title="x", what="y")
    with pytest.raises(ValueError, match="for 0 layers"):
        depth_chart([], [], [], title="x", what="y")


def test_of_very_many_classes_those_without_pictures_are_left_out():
    maps, counts = uniform(100, 2, 2), np.zeros(100)
    counts[[3, 50]] = 1
    names = [f"class {i}" for i in range(100)]
    panel = class_means(maps, counts, names, title="x")
    assert not is_colour(panel, EMPTY).any()  # no grey field
    for one in (3, 50):
        heat = colour_table(HEAT)[np.rint(maps[one] / maps[[3, 50]].max() * 255).astype(np.uint8)]
        assert len(find(panel, resize(heat, (168, 168)))) == 1
    nothing = class_means(maps, np.zeros(100), names, title="x", most=3)
    assert is_colour(nothing, EMPTY).sum() > 3 * 168 * 130
