"""Grad-CAM panels, filter sheets, learning curves."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from convlens.draw.attribution_panel import attribution_panel
from convlens.draw.canvas import GAP, PAD
from convlens.draw.charts import find_best_epoch, learning_curves
from convlens.draw.colour import HEAT, colour_table
from convlens.draw.filter_sheet import draw_kernels, filter_sheet, kernel_sheet
from convlens.draw.grad_cam_panel import (
    ClassMap,
    LayerMap,
    draw_evidence,
    evidence_sheet,
    format_probability,
    grad_cam_panel,
)
from convlens.draw.palette import EMPTY, GREEN, RED
from convlens.draw.picture import to_uint8
from support.panels import NAMES, any_of, assert_margin_is_empty, find, is_colour
from support.panels import uniform_tensor as uniform


def enlarge(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What a panel makes of a picture that is not tiny: Pillow's bilinear enlargement."""
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def grey(size: int = 160) -> torch.Tensor:
    """A picture of the grey level 128."""
    return torch.full((1, size, size), 128 / 255)


def blended(level: int, cover: float) -> np.ndarray:
    """Grey 128 under heat, by the formula: a = 0.75 · cover."""
    a = 0.75 * cover
    return np.rint((1 - a) * 128 + a * colour_table(HEAT)[level].astype(float)).astype(np.uint8)


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [
        ((1, 28, 28), (308, 308)),  # tiny ones by an integer factor, so that pixels stay visible
        ((3, 64, 64), (320, 320)),
        ((3, 150, 150), (320, 320)),
        ((3, 96, 50), (320, 167)),
        ((3, 900, 600), (320, 213)),
    ],
)
def test_the_photograph_stands_once_beside_an_overlay_of_each_class(shape, drawn):
    picture = uniform(*shape)
    maps = [
        ClassMap(uniform(7, 7) + 0.1, "dog", "predicted", 0.9),
        ClassMap(uniform(7, 7) + 0.1, "cat", "true", 0.1),
    ]
    panel = grad_cam_panel(picture, maps, title="probe 3")
    image = to_uint8(picture)
    if max(shape) < 80:
        image = image.repeat(drawn[0] // shape[1], 0).repeat(drawn[1] // shape[2], 1)
    else:
        image = enlarge(image, drawn)
    ((_, left),) = find(panel, image)
    assert left == PAD and panel.shape[1] >= 2 * PAD + 3 * drawn[1]
    assert_margin_is_empty(panel)


def overlays(panel: np.ndarray, count: int) -> list[np.ndarray]:
    """The overlays of a grey photograph of 320 × 320 that stands at the left."""
    top = int(np.argmax((panel[:, PAD] == 128).all(-1)))
    lefts = [PAD + (320 + GAP) * column for column in range(1, count + 1)]
    return [panel[top : top + 320, left : left + 320] for left in lefts]


def test_evidence_covers_the_picture_by_the_formula():
    values = torch.tensor([[1.0, 0.5], [0.0, 0.25]])
    entries = [ClassMap(values, "dog", "target", 0.5)]
    (drawn,) = overlays(grad_cam_panel(grey(), entries, title="x", pixelated=True), 1)
    quarters = [blended(255, 1), blended(128, 0.5), blended(0, 0), blended(64, 0.25)]
    for number, colour in enumerate(quarters):
        rows, columns = (slice(160 * k, 160 * k + 160) for k in divmod(number, 2))
        assert (drawn[rows, columns] == colour).all(), number
    # interpolated, the colours of the cells stand at the corners alone
    (smooth,) = overlays(grad_cam_panel(grey(), entries, title="x"), 1)
    corners = smooth[0, 0], smooth[0, -1], smooth[-1, 0], smooth[-1, -1]
    assert all((drawn == colour).all() for drawn, colour in zip(corners, quarters, strict=True))
    assert not (smooth[0, 160] == quarters[0]).all() and not (smooth[0, 160] == quarters[1]).all()


def test_the_classes_of_a_layer_share_a_scale_and_layers_do_not():
    strong, weak = torch.full((3, 3), 4.0), torch.full((3, 3), 2.0)
    early = [LayerMap("early", torch.full((6, 6), 100.0)), LayerMap("early", torch.zeros(6, 6))]
    maps = [
        ClassMap(values, "a", role, 0.5, layer="late", others=(other,))
        for values, role, other in zip((strong, weak), ("predicted", "true"), early, strict=True)
    ]
    panel = grad_cam_panel(grey(), maps, title="x")
    drawn = overlays(panel, 2)
    assert (drawn[0] == blended(255, 1)).all() and (drawn[1] == 128).all()
    for colour, count in ((blended(255, 1), 2), (blended(128, 0.5), 1)):
        assert is_colour(panel, colour).sum() == count * 320 * 320


def test_a_given_scale_dims_a_weak_map():
    for scale, colour in ((None, blended(255, 1)), (2.0, blended(128, 0.5))):
        entry = ClassMap(torch.ones(5, 5), "a", "target", 0.5, scale=scale)
        (drawn,) = overlays(grad_cam_panel(grey(), [entry], title="x"), 1)
        assert (drawn == colour).all()


@pytest.mark.parametrize("size", [(7, 7), (150, 150), (200, 300), (1, 1)])
def test_a_map_of_zeros_leaves_the_picture_and_is_named(size):
    picture = uniform(3, 150, 150)
    panel = grad_cam_panel(picture, [ClassMap(torch.zeros(size), "a", "target", 0.5)], title="x")
    places = find(panel, enlarge(to_uint8(picture), (320, 320)))
    assert len(places) == 2  # photograph and overlay
    below = panel[places[0][0] + 320 :]
    assert any_of(below, RED)  # "empty"
    full = grad_cam_panel(picture, [ClassMap(torch.ones(size), "a", "target", 0.5)], title="x")
    assert not any_of(full[places[0][0] + 320 :], RED)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_map_that_is_not_finite_is_named(value, recwarn):
    values = torch.ones(4, 4)
    values[0, 0] = value
    panel = grad_cam_panel(uniform(3, 150, 150), [ClassMap(values, "a", "target", 0.5)], title="x")
    assert any_of(panel[-PAD - 60 :], RED) and not len(recwarn)


def test_a_sheet_holds_each_row_as_it_is():
    rows = [
        draw_evidence(uniform(3, 150, 150, seed=i), [ClassMap(uniform(7, 7), "a", "true", 0.5)])
        for i in range(3)
    ]
    sheet = evidence_sheet(rows, title="mistakes")
    tops = [find(sheet, row[30:300])[0][0] for row in rows]  # below the bands
    assert tops == sorted(tops)
    assert_margin_is_empty(sheet)
    with pytest.raises(ValueError, match="nothing to stack"):
        evidence_sheet([], title="x")


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


def test_rounding_does_not_look_like_evidence():
    """Without a least scale the largest value, whatever it is, gets full colour."""
    entry = ClassMap(torch.full((7, 7), 3e-7), "a", "target", 0.5)
    grey, picture = torch.full((3, 64, 64), 0.5), {"title": "x", "reading": ""}
    empty = attribution_panel(grey, [ClassMap(torch.zeros(7, 7), "a", "target", 0.5)], **picture)
    loud, quiet = (attribution_panel(grey, [entry], least=x, **picture) for x in (0.0, 1e-3))
    middle = (loud.shape[0] // 2, loud.shape[1] * 3 // 4)
    assert abs(loud[middle].astype(int) - empty[middle]).max() > 50
    assert abs(quiet[middle].astype(int) - empty[middle]).max() <= 1
