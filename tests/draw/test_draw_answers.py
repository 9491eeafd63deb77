"""Panels about answers: confusion matrix, sheets of pictures, mistakes, class means, depth."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from convlens.draw.breakdown import breakdown, common_mistakes
from convlens.draw.canvas import BACKGROUND, GREEN, GREY, PAD, RED, resize, to_uint8
from convlens.draw.class_means import class_means
from convlens.draw.colour import HEAT, table
from convlens.draw.confusion_matrix import SHARES, confusion_counts, confusion_matrix
from convlens.draw.depth_chart import depth_chart, layer_labels
from convlens.draw.picture_sheet import SheetEntry, augmentation_sheet, picture_sheet

NAMES = ["dog", "Größe é", "狗", "🐶", "<b>bold</b>&amp;", "$x_1$", "x" * 200, "", "\ud800"]


def uniform(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


def names(count: int) -> list[str]:
    return [NAMES[i] if i < len(NAMES) else f"class {i}" for i in range(count)]


def some_counts(classes: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(1.0, (classes, classes)) + 30 * np.eye(classes, dtype=int)


def assert_margin_is_empty(image: np.ndarray, margin: int = PAD - 2) -> None:
    """Nothing is cut off: all around the panel there is background only."""
    for edge in (image[:margin], image[-margin:], image[:, :margin], image[:, -margin:]):
        assert (edge == np.array(BACKGROUND)).all()


def is_colour(image: np.ndarray, colour) -> np.ndarray:
    return (image == np.array(colour)).all(-1)


def find(panel: np.ndarray, image: np.ndarray) -> list[tuple[int, int]]:
    """Every place (top, left) where ``panel`` holds ``image`` pixel by pixel."""
    height, width = image.shape[:2]
    inside = panel[: panel.shape[0] - height + 1, : panel.shape[1] - width + 1]
    starts = np.argwhere(is_colour(inside, image[0, 0]))
    return [
        (int(y), int(x)) for y, x in starts if (panel[y : y + height, x : x + width] == image).all()
    ]


# --- counting


def test_counts_are_true_by_predicted_and_leave_out_unknown_classes():
    labels, answers = torch.tensor([0, 0, 2, 2, -1]), torch.tensor([0, 1, 2, 0, 1])
    counts = confusion_counts(labels, answers, 3)
    assert counts.dtype == np.int64
    assert counts.tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 1]]
    assert confusion_counts([], [], 2).tolist() == [[0, 0], [0, 0]]


def test_counts_equal_torchmetrics():
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    rng = np.random.default_rng(0)
    labels, answers = rng.integers(0, 7, 500), rng.integers(0, 7, 500)
    theirs = multiclass_confusion_matrix(torch.tensor(answers), torch.tensor(labels), 7)
    assert (confusion_counts(labels, answers, 7) == theirs.numpy()).all()


@pytest.mark.parametrize(
    ("labels", "answers"), [([0, 1], [0]), ([3], [0]), ([0], [3]), ([0], [-1]), ([[0]], [[0]])]
)
def test_classes_that_do_not_exist_are_not_counted_elsewhere(labels, answers):
    with pytest.raises(ValueError, match="label"):
        confusion_counts(labels, answers, 3)


# --- the confusion matrix


def cells_of(panel: np.ndarray, counts: np.ndarray, edge: int, root: bool) -> np.ndarray:
    """The upper left pixels of all cells, found by the matrix's own colours; asserts they fit."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    levels = np.rint((np.sqrt(shares) if root else shares) * 255).astype(np.uint8)
    expected = table(SHARES)[levels]
    height = len(counts) * edge
    first = np.argwhere(is_colour(panel, expected[0, 0]))
    for y, x in first:
        corner = panel[y : y + height : edge, x : x + height : edge]
        if corner.shape == expected.shape and (corner == expected).all():
            return np.array([y, x])
    raise AssertionError("the matrix is not in the panel")


@pytest.mark.parametrize(
    ("classes", "edge", "root"),
    [(2, 64, False), (5, 64, False), (20, 45, False), (21, 42, True), (60, 15, True)],
)
def test_a_cell_has_the_colour_of_its_share_of_the_true_class(classes, edge, root):
    counts = some_counts(classes)
    panel = confusion_matrix(counts, names(classes), title="epoch 3")
    cells_of(panel, counts, edge, root)
    assert_margin_is_empty(panel)


@pytest.mark.parametrize(("classes", "edge"), [(61, 14), (450, 2), (1000, 1)])
def test_many_classes_are_heat_without_lines(classes, edge):
    counts = np.eye(classes, dtype=int) * 4
    counts[3, 40] = 12  # 3 of 4 pictures of class 3 are taken for class 40
    panel = confusion_matrix(counts, names(classes), title="epoch 3")
    y, x = cells_of(panel, counts, edge, root=True)
    assert (panel[y + 3 * edge, x + 40 * edge] != table(SHARES)[0]).any()
    assert panel.shape[0] < 1300 and panel.shape[1] < 1300
    assert_margin_is_empty(panel)


def test_true_is_down_and_predicted_along():
    counts = np.array([[0, 9], [0, 9]])  # everything is called the second class
    panel = confusion_matrix(counts, ["a", "b"], title="x")
    y, x = cells_of(panel, counts, 64, root=False)
    dark, light = table(SHARES)[255], table(SHARES)[0]
    assert (panel[y + 2, x + 66] == dark).all() and (panel[y + 66, x + 2] == light).all()


def test_numbers_are_written_up_to_twenty_classes_and_fit_their_cells():
    few = confusion_matrix(np.full((20, 20), 123456), names(20), title="x")
    y, x = cells_of(few, np.full((20, 20), 123456), _edge_of(few, 20), root=False)
    edge = _edge_of(few, 20)
    background = table(SHARES)[np.rint(255 / 20).astype(int)]
    for row, column in ((0, 0), (7, 13), (19, 19)):
        cell = few[y + row * edge : y + (row + 1) * edge - 1, x + column * edge :][:, : edge - 1]
        inked = ~is_colour(cell, background)
        assert inked.any()
        assert not inked[:, :3].any() and not inked[:, -3:].any()
    counts = some_counts(21)
    many = confusion_matrix(counts, names(21), title="x")
    y, x = cells_of(many, counts, 42, root=True)
    cell = many[y : y + 41, x : x + 41]
    assert (cell == cell[0, 0]).all()


def _edge_of(panel: np.ndarray, classes: int) -> int:
    """The edge of a cell, from the height of the green and grey accuracy bars."""
    column = is_colour(panel, (222, 225, 230)).sum(axis=1) > classes * 20
    lines = np.flatnonzero(column)
    return int(np.bincount(np.diff(lines)).argmax())


def test_the_bar_at_the_right_is_the_rows_accuracy():
    counts = np.array([[3, 1, 0], [0, 4, 0], [2, 2, 0]])
    panel = confusion_matrix(counts, ["a", "b", "c"], title="x")
    y, _ = cells_of(panel, counts, 64, root=False)
    lengths = [int(is_colour(panel[y + 64 * row + 30], GREEN).sum()) for row in range(3)]
    assert lengths == [round(0.75 * 70), 70, 0]


def test_a_class_without_pictures_is_grey_and_told():
    counts = some_counts(4)
    full = confusion_matrix(counts, list("abcd"), title="x")
    counts[2] = 0
    panel = confusion_matrix(counts, list("abcd"), title="x")
    assert is_colour(panel, RED).any() and not is_colour(full, RED).any()
    rows = np.flatnonzero(is_colour(panel, GREY).sum(axis=1) > 4 * 60)
    assert 60 <= len(rows) <= 64 and np.ptp(rows) < 64
    assert not is_colour(full, GREY).sum(axis=1).max() > 60


@pytest.mark.parametrize("classes", [1, 2, 9, 30, 200])
def test_any_class_names_and_no_pictures_at_all(classes, recwarn):
    for counts in (some_counts(classes), np.zeros((classes, classes))):
        panel = confusion_matrix(counts, names(classes), title="x" * 300)
        assert_margin_is_empty(panel)
        assert panel.dtype == np.uint8
    assert not len(recwarn)


def test_different_names_are_seen_at_both_sides():
    counts = some_counts(3)
    one = confusion_matrix(counts, ["aa", "bb", "cc"], title="x")
    other = confusion_matrix(counts, ["aa", "bo", "cc"], title="x")
    assert one.shape == other.shape
    y, x = cells_of(one, counts, 64, root=False)
    differs = (one != other).any(-1)
    assert differs[y : y + 192, :x].any() and differs[:y, x : x + 192].any()
    assert not differs[y:, x:].any()
    assert not differs[y : y + 64, :x].any() and not differs[y + 128 :, :x].any()


def test_wrong_counts_are_refused():
    for wrong in (np.zeros((2, 3)), np.zeros((3, 3)), -np.eye(2)):
        with pytest.raises(ValueError, match="counts are"):
            confusion_matrix(wrong, ["a", "b"], title="x")
    with pytest.raises(ValueError, match="counts are"):
        confusion_matrix(np.zeros((0, 0)), [], title="x")


# --- sheets of pictures


def test_pictures_stand_in_the_sheet_in_order():
    pictures = [uniform(3, 150, 150, seed=i) for i in range(5)]
    sheet = picture_sheet([SheetEntry(p, ["a caption"]) for p in pictures], title="x", columns=3)
    places = [find(sheet, to_uint8(picture)) for picture in pictures]
    assert [len(found) for found in places] == [1] * 5
    ys, xs = zip(*(found[0] for found in places), strict=True)
    assert len(set(ys[:3])) == 1 and len(set(ys[3:])) == 1 and ys[3] > ys[0] + 150
    assert xs[0] == xs[3] == PAD and xs[1] == xs[4] and xs[0] < xs[1] < xs[2]
    assert_margin_is_empty(sheet)


def test_small_pictures_grow_by_a_whole_factor():
    picture = uniform(1, 28, 28)
    sheet = picture_sheet([SheetEntry(picture, ["7"])], title="x", columns=1)
    assert len(find(sheet, to_uint8(picture).repeat(4, 0).repeat(4, 1))) == 1


def test_verdicts_are_green_and_red_and_only_where_something_is_judged():
    grey = np.full((3, 120, 120), 0.5, np.float32)

    def bands(*verdicts):
        entries = [SheetEntry(grey, ["x"], verdict) for verdict in verdicts]
        sheet = picture_sheet(entries, title="x", columns=8)
        return [(is_colour(sheet, c).sum(axis=0) > 5).sum() for c in (GREEN, RED)]

    assert bands(True, False, None) == [120, 120]
    assert bands(True, True, False) == [240, 120]
    assert bands(None, None) == [0, 0]


def test_panels_stand_beside_the_picture_at_its_height():
    picture = uniform(3, 150, 150)
    panels = [
        (name, np.random.default_rng(i).integers(0, 256, (150, 150, 3)).astype(np.uint8))
        for i, name in enumerate(("for dog", "x" * 200))
    ]
    small = np.random.default_rng(7).integers(0, 256, (50, 50, 3)).astype(np.uint8)
    entry = SheetEntry(picture, ["said dog"], False, [*panels, ("small", small)])
    sheet = picture_sheet([entry], title="x", columns=1)
    shown = [to_uint8(picture), panels[0][1], panels[1][1], resize(small, (150, 150))]
    places = [find(sheet, image) for image in shown]
    assert [len(found) for found in places] == [1] * 4
    assert len({found[0][0] for found in places}) == 1
    lefts = [found[0][1] for found in places]
    assert lefts == sorted(lefts) and min(np.diff(lefts)) >= 150
    assert_margin_is_empty(sheet)


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (640, 480), (300, 10), (10, 300)])
def test_sheets_of_all_sizes_and_captions(size):
    entries = [SheetEntry(uniform(3, *size), [name, name], i % 2 == 0, [("p", to_uint8(
        uniform(3, *size)))]) for i, name in enumerate(NAMES)]  # fmt: skip
    sheet = picture_sheet(entries, title="y" * 300, columns=4)
    assert_margin_is_empty(sheet)
    assert sheet.shape[1] < 2200 and sheet.std() > 10


def test_captions_wrap_instead_of_being_cut():
    picture = uniform(3, 150, 150)
    short = picture_sheet([SheetEntry(picture, ["said dog"])], title="x", columns=1)
    long = picture_sheet([SheetEntry(picture, ["said dog " * 4])], title="x", columns=1)
    assert long.shape[0] > short.shape[0] and long.shape[1] == short.shape[1]


def test_wrong_sheets_are_refused():
    with pytest.raises(ValueError, match="cannot tile"):
        picture_sheet([], title="x", columns=2)
    with pytest.raises(ValueError, match="cannot tile"):
        picture_sheet([SheetEntry(uniform(3, 8, 8))], title="x", columns=0)
    with pytest.raises(ValueError, match="a panel is"):
        wrong = SheetEntry(uniform(3, 8, 8), panels=[("map", uniform(8, 8))])
        picture_sheet([wrong], title="x", columns=1)


def test_augmentations_stand_after_their_original():
    picture = torch.from_numpy(uniform(3, 120, 120))
    draws = torch.stack([picture.roll(10 * i, 2) for i in range(1, 9)])
    sheet = augmentation_sheet(picture, draws, "probe 3")
    places = [find(sheet, to_uint8(image))[0] for image in (picture, *draws)]
    assert places == sorted(places)  # row by row
    assert len({y for y, _ in places}) == len({x for _, x in places}) == 3
    with pytest.raises(ValueError, match="draws are"):
        augmentation_sheet(picture, draws[:0], "x")
    with pytest.raises(ValueError, match="draws are"):
        augmentation_sheet(picture, picture, "x")


# --- mistakes by pair


def test_the_commonest_mistakes_come_first():
    counts = np.array([[90, 2, 5], [5, 1, 0], [0, 8, 3]])
    assert common_mistakes(counts, 10) == [(2, 1, 8), (0, 2, 5), (1, 0, 5), (0, 1, 2)]
    assert common_mistakes(counts, 2) == [(2, 1, 8), (0, 2, 5)]
    assert common_mistakes(np.eye(3, dtype=int), 10) == []


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
    with pytest.raises(ValueError, match="counts are"):
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
        heat = table(HEAT)[np.rint(map / 2.0 * 255).astype(np.uint8)].repeat(16, 0).repeat(16, 1)
        places = find(panel, heat)
        assert len(places) == 1
        lefts.append(places[0][1])
    assert lefts == sorted(lefts)
    assert_margin_is_empty(panel)


def test_values_below_zero_widen_the_scale():
    maps = np.array([[[-1.0, 0.0], [1.0, 0.5]]], np.float32)
    panel = class_means(maps, [1], ["a"], title="x")
    heat = table(HEAT)[np.rint((maps[0] + 1) / 2 * 255).astype(np.uint8)]
    assert len(find(panel, resize(heat, (112, 112)))) == 1


def test_classes_without_pictures_say_so_and_leave_the_scale_alone(recwarn):
    maps = uniform(3, 4, 4)
    maps[1] = np.nan
    panel = class_means(maps, [5, 0, 7], ["a", "b", "c"], title="x")
    maps[1] = 1000
    again = class_means(maps, [5, 0, 7], ["a", "b", "c"], title="x")
    assert (panel == again).all()
    empty = is_colour(panel, (214, 216, 220))
    assert 112 * 80 < empty.sum() < 112 * 112  # all of one cell but its letters
    assert is_colour(panel, RED).any()
    broken = class_means(maps * np.nan, [5, 0, 7], ["a", "b", "c"], title="x")
    assert is_colour(broken, (214, 216, 220)).sum() > 3 * 112 * 80
    assert not len(recwarn)


def test_of_many_classes_those_with_most_pictures_are_shown():
    maps = np.zeros((100, 2, 2), np.float32)
    counts = np.ones(100)
    maps[70], counts[70] = uniform(2, 2) + 0.1, 9
    panel = class_means(maps, counts, [f"class {i}" for i in range(100)], title="x", most=3)
    heat = table(HEAT)[np.rint(maps[70] / maps.max() * 255).astype(np.uint8)]
    assert len(find(panel, resize(heat, (112, 112)))) == 1
    assert is_colour(panel, RED).any()  # not all are shown, and that is told
    assert len(find(panel, np.broadcast_to(table(HEAT)[0], (112, 112, 3)))) == 2


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
    keep = rows > 75
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
    assert not is_colour(alone[75:], FAINT).any()
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
    assert layer_labels(["net.a.conv", "net.b.conv"]) == ["a.conv", "b.conv"]
    assert layer_labels(["conv"]) == ["conv"] and layer_labels(["net.conv"]) == ["conv"]
    long = layer_labels(["a" * 100 + ".activation1", "b" * 100 + ".activation2"])
    assert [label[0] for label in long] == ["…", "…"]
    assert long[0].endswith("a.activation1") and long[1].endswith("b.activation2")


def test_wrong_depths_are_refused():
    with pytest.raises(ValueError, match="1 values for 2 layers"):
        depth_chart(["a", "b"], [0.5], None, title="x", what="y")
    with pytest.raises(ValueError, match=r"untrained has values outside"):
        depth_chart(["a"], [0.5], [1.5], title="x", what="y")
    with pytest.raises(ValueError, match="for 0 layers"):
        depth_chart([], [], [], title="x", what="y")
