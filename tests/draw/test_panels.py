"""Grad-CAM panels, filter sheets, learning curves."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch

from convlens.draw.canvas import PAD
from convlens.draw.charts import find_best_epoch, learning_curves
from convlens.draw.colour import HEAT, colour_table
from convlens.draw.filter_sheet import draw_kernels, filter_sheet, kernel_sheet
from convlens.draw.grad_cam_panel import ClassMap, format_probability, grad_cam_panel
from convlens.draw.palette import EMPTY, GREEN, RED
from convlens.draw.picture import resize, to_uint8
from support.panels import NAMES, any_of, assert_margin_is_empty, find
from support.panels import uniform_tensor as uniform


@pytest.mark.parametrize(
    ("shape", "factor"), [((1, 28, 28), 6), ((3, 64, 64), 3), ((3, 150, 150), 1), ((3, 96, 50), 2)]
)
def test_the_panel_holds_the_picture_unchanged_once_a_class(shape, factor):
    picture = uniform(*shape)
    maps = [
        ClassMap(uniform(7, 7), "dog", "predicted", 0.9),
        ClassMap(uniform(7, 7), "cat", "true", 0.1),
    ]
    panel = grad_cam_panel(picture, maps, title="probe 3")
    image = to_uint8(picture).repeat(factor, 0).repeat(factor, 1)
    places = find(panel, image)
    assert len(places) == 2 and {x for _, x in places} == {PAD}
    assert_margin_is_empty(panel)


def test_the_map_is_drawn_cell_by_cell_beside_the_picture():
    picture, values = uniform(3, 150, 150), uniform(5, 5)
    values[2, 2] = 2.0
    panel = grad_cam_panel(picture, [ClassMap(values, "dog", "target", 0.5)], title="x")
    levels = np.rint(values.numpy() / 2.0 * 255).astype(np.uint8)
    heat = resize(colour_table(HEAT)[levels], (150, 150))
    assert len(find(panel, heat)) == 1


def test_a_given_scale_dims_a_weak_map():
    picture, values = uniform(3, 150, 150), uniform(5, 5)
    own = grad_cam_panel(picture, [ClassMap(values, "a", "target", 0.5)], title="x")
    weak = grad_cam_panel(picture, [ClassMap(values, "a", "target", 0.5, scale=100.0)], title="x")
    brightest = colour_table(HEAT)[255]
    row = slice(80, 150)  # within the pictures, above the bar
    assert any_of(own[row], brightest) or any_of(own[80:-40], brightest)
    assert not any_of(weak[80:-40], brightest)


@pytest.mark.parametrize("size", [(7, 7), (150, 150), (200, 300), (1, 1)])
def test_a_map_of_zeros_leaves_the_picture_and_is_named(size):
    picture = uniform(3, 150, 150)
    panel = grad_cam_panel(picture, [ClassMap(torch.zeros(size), "a", "target", 0.5)], title="x")
    places = find(panel, to_uint8(picture))
    assert len(places) == 2  # picture and overlay
    below = panel[places[0][0] + 150 :]
    assert any_of(below, RED)  # "no positive evidence"
    full = grad_cam_panel(picture, [ClassMap(torch.ones(size), "a", "target", 0.5)], title="x")
    assert not any_of(full[places[0][0] + 150 :], RED)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_map_that_is_not_finite_is_named(value, recwarn):
    values = torch.ones(4, 4)
    values[0, 0] = value
    panel = grad_cam_panel(uniform(3, 150, 150), [ClassMap(values, "a", "target", 0.5)], title="x")
    assert any_of(panel[-PAD - 20 :], RED) and not len(recwarn)


def test_the_verdict_is_told_only_where_the_truth_is():
    def colours(*roles):
        maps = [ClassMap(torch.ones(3, 3), "a", role, 0.5) for role in roles]
        panel = grad_cam_panel(torch.zeros(1, 150, 150), maps, title="x")
        return any_of(panel, GREEN), any_of(panel, RED)

    assert colours("predicted = true") == (True, False)
    assert colours("predicted", "true") == (False, True)
    assert colours("predicted") == (False, False)
    assert colours("target") == (False, False)


@pytest.mark.parametrize("size", [(150, 150), (28, 28), (200, 20), (20, 200), (3, 3), (900, 600)])
@pytest.mark.parametrize("name", NAMES)
def test_any_class_name_and_picture_size_stays_inside_the_panel(name, size):
    maps = [
        ClassMap(uniform(4, 4), name, "predicted", 0.12345),
        ClassMap(uniform(4, 4), name, "true", float("nan"), 1e-9),
    ]
    panel = grad_cam_panel(uniform(1, *size), maps, title=name)
    assert_margin_is_empty(panel)
    assert panel.std() > 10 and panel.dtype == np.uint8


def test_probabilities_never_round_to_certainty():
    texts = [format_probability(p) for p in (0, 0.001, 0.934, 0.996, 1)]
    assert texts == ["0.00", "<0.01", "0.93", ">0.99", "1.00"]


def test_class_maps_are_frozen_and_wrong_input_is_refused():
    entry = ClassMap(torch.ones(2, 2), "a", "target", 0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.class_name = "b"
    with pytest.raises(ValueError, match="at least one"):
        grad_cam_panel(uniform(3, 8, 8), [], title="x")
    with pytest.raises(ValueError, match="class map"):
        wrong = ClassMap(torch.ones(1, 2, 2), "a", "target", 0.5)
        grad_cam_panel(uniform(3, 8, 8), [wrong], title="x")


def test_rgb_kernels_are_symmetric_around_grey_each_by_its_own_maximum():
    kernels = np.zeros((2, 3, 1, 2), np.float32)
    kernels[0, 0] = [[2.0, -2.0]]
    kernels[1, 1] = [[0.1, 0.05]]
    images, _ = draw_kernels(kernels)
    assert images[0].tolist() == [[[255, 128, 128], [0, 128, 128]]]
    assert images[1].tolist() == [[[128, 255, 128], [128, 191, 128]]]


def test_grey_and_deep_kernels_are_diverging():
    grey = draw_kernels(np.array([[[[1.0, 0.0, -1.0]]]]))[0][0][0].astype(int)
    assert grey[0, 0] > grey[0, 2] + 60 and grey[2, 2] > grey[2, 0] + 60  # red, blue
    assert np.ptp(grey[1]) < 5
    deep = np.zeros((1, 8, 1, 3))
    deep[0, :4] = 2 * np.array([1.0, 0.0, -1.0])
    images, read = draw_kernels(deep)
    assert (images[0][0] == grey).all() and "mean of 8" in read


@pytest.mark.parametrize(
    "shape",
    [
        *[(64, 3, 7, 7), (6, 1, 5, 5), (512, 512, 3, 3), (1, 3, 1, 1)],
        *[(20, 4, 7, 1), (20, 4, 1, 7), (4, 3, 400, 300), (256, 64, 1, 1)],
    ],
)
def test_kernel_sheets_of_all_shapes(shape):
    sheet = kernel_sheet(uniform(*shape) - 0.5, title="conv1")
    assert sheet.shape[1] <= 1600 and sheet.std() > 5
    assert_margin_is_empty(sheet)


def test_kernels_of_zeros_and_nan_are_drawn_and_told(recwarn):
    assert not any_of(kernel_sheet(torch.zeros(4, 3, 3, 3), title="x"), RED)
    broken = torch.zeros(4, 3, 3, 3)
    broken[1, 0, 0, 0] = float("nan")
    assert any_of(kernel_sheet(broken, title="x"), RED)
    assert not len(recwarn)
    with pytest.raises(ValueError, match="kernels must be"):
        kernel_sheet(torch.zeros(3, 3), title="x")


def test_filter_pictures_stand_in_the_sheet_and_stuck_ones_do_not():
    pictures = uniform(5, 3, 32, 32)
    sheet = filter_sheet(
        pictures, [4, 8, 15, 16, 23], title="x", marks=[None, "stuck", None, None, None]
    )
    for index in range(5):
        image = to_uint8(pictures[index]).repeat(4, 0).repeat(4, 1)
        assert len(find(sheet, image)) == (0 if index == 1 else 1)
    assert any_of(sheet, EMPTY) and any_of(sheet[:80], RED)


def test_a_filter_picture_that_is_not_finite_is_marked_by_itself():
    pictures = uniform(2, 1, 32, 32)
    pictures[1, 0, 3, 3] = float("nan")
    marks = [None, None]
    sheet = filter_sheet(pictures, [0, 1], title="x", marks=marks)
    assert any_of(sheet, EMPTY) and marks == [None, None]


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (128, 128), (400, 300), (100, 4)])
@pytest.mark.parametrize("count", [1, 9, 64])
def test_filter_sheets_of_all_sizes_and_names(count, size):
    labels = [NAMES[i % len(NAMES)] for i in range(count)]
    marks = [None if i % 3 else "stuck, and a long story about it" for i in range(count)]
    sheet = filter_sheet(
        uniform(count, 3, *size), list(range(count)), title="x", labels=labels, marks=marks
    )
    assert sheet.shape[1] <= 1600
    assert_margin_is_empty(sheet)


def test_wrong_filter_input_is_refused():
    with pytest.raises(ValueError, match="filter pictures must be"):
        filter_sheet(uniform(3, 8, 8), [0], title="x")
    with pytest.raises(ValueError, match="2 units"):
        filter_sheet(uniform(3, 3, 8, 8), [0, 1], title="x")


HISTORY = {
    "train/loss": [float("nan"), 0.9, 0.5, 0.3],
    "val/loss": [1.2, 0.8, 0.7, 0.9],
    "train/accuracy": [float("nan"), 0.6, 0.8, 0.9],
    "val/accuracy": [0.4, 0.6, 0.7, 0.65],
}


def test_learning_curves_ring_the_best_epoch_and_touch_no_global_figure():
    import matplotlib

    before = dict(matplotlib.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chart = learning_curves(HISTORY, [0, 1, 2, 3], title="run", marks={"unfrozen 狗 $x": 2})
    assert find_best_epoch(HISTORY, [0, 1, 2, 3]) == 2
    assert chart.dtype == np.uint8 and chart.std() > 10 and 900 < chart.shape[1] < 1100
    assert any_of(chart, RED)
    without = learning_curves({"train/loss": [1.0, 0.5]}, [0, 1], title="run")
    assert not any_of(without, RED)
    assert_margin_is_empty(chart)
    assert dict(matplotlib.rcParams) == before
    again = learning_curves(HISTORY, [0, 1, 2, 3], title="run", marks={"unfrozen 狗 $x": 2})
    assert (chart == again).all()


@pytest.mark.parametrize("last", [1, 4, 200])
def test_learning_curves_of_any_length_and_unusual_series(last):
    epochs = list(range(last))
    history = {
        "val/loss": [float("nan") if i % 2 else 1.0 / (i + 1) for i in epochs],
        "_odd $name": [float("inf")] * last,
        "val/f1_<b>狗": epochs,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_margin_is_empty(learning_curves(history, epochs, title="x" * 300))


def test_wrong_histories_are_refused():
    assert find_best_epoch({"val/loss": [float("nan")]}, [0]) is None
    assert find_best_epoch({}, []) is None
    with pytest.raises(ValueError, match="3 values for 2 epochs"):
        learning_curves({"val/loss": [1, 2, 3]}, [0, 1], title="x")
    with pytest.raises(ValueError, match="at least one"):
        learning_curves({}, [], title="x")
