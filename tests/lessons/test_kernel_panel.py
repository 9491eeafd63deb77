"""The panel of a kernel slid over a picture."""

from __future__ import annotations

import numpy as np
import pytest

from convlens.draw.colour import DIVERGING, colour_table
from convlens.draw.palette import SLATE
from convlens.draw.picture import to_uint8
from convlens.lessons.kernel.arithmetic import WorkedPatch, format_total, format_value
from convlens.lessons.kernel.maps import YELLOW, KernelMaps
from convlens.lessons.kernel.panel import kernel_panel
from support.panels import assert_margin_is_empty, find, is_colour


def panel(
    picture: np.ndarray,
    kernel: np.ndarray,
    *,
    place: tuple[int, int] = (0, 0),
    padding: int = 0,
    pooled: bool = False,
    maps: np.ndarray | None = None,
    **words,
) -> np.ndarray:
    """The panel of a kernel at stride 1, with answers of numpy's own."""
    zeros = ((padding, padding), (padding, padding))
    padded = np.pad(picture.astype(float), ((0, 0), *zeros))
    inside = np.pad(np.ones(picture.shape[1:], bool), zeros)
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape, (1, 2))
    maps = np.einsum("chwij,ij->chw", windows, kernel) if maps is None else maps
    row, column = place
    patch = windows[:, row, column]
    worked = WorkedPatch(
        place,
        (row - padding, column - padding),
        patch,
        inside[row : row + kernel.shape[0], column : column + kernel.shape[1]],
        patch * kernel,
        list((patch * kernel).sum((1, 2))),
    )
    answers = KernelMaps(maps, maps.sum(0), "answers", ["rows: 1", "columns: 1"])
    half = KernelMaps(maps[:, ::2, ::2], maps.sum(0)[::2, ::2], "pooled", ["rows: 1"])
    words = {
        "title": "x",
        "subtitle": "",
        "padding": zeros,
        "pooled": half if pooled else None,
        **words,
    }
    return kernel_panel(picture, kernel, answers, worked, **words)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


EDGE = np.array([[1.0, 0, -1]] * 3)
BLUR = np.full((3, 3), 1 / 9)


def frames(image: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Top, bottom, left, right of what every yellow frame encloses, from top to bottom."""
    yellow = is_colour(image, YELLOW)
    found = []
    for top, left in np.argwhere(yellow):
        if yellow[top - 1, left] or yellow[top, left - 1]:
            continue
        if not (yellow[top : top + 2, left : left + 8].all()):
            continue
        right = left + int(np.argmin(yellow[top, left:]))
        bottom = top + int(np.argmin(yellow[top:, left]))
        found.append((int(top) + 2, bottom - 2, int(left) + 2, right - 2))
    return found


def test_the_place_is_framed_in_the_picture_and_in_every_map():
    picture = noise(3, 40, 60)
    image = panel(picture, EDGE, place=(20, 30))
    found = frames(image)
    assert len(found) == 1 + 4  # picture; red, green, blue, sum
    top, bottom, left, right = found[0]
    factor = 240 // 60
    patch = to_uint8(picture[:, 20:23, 30:33]).repeat(factor, 0).repeat(factor, 1)
    assert (image[top:bottom, left:right] == patch).all()
    for top, bottom, left, right in found[1:]:
        inner = image[top:bottom, left:right]
        assert inner.shape[:2] == (5, 5) and (inner == inner[0, 0]).all()  # one place, times 5


def test_the_frame_in_a_map_encloses_the_value_of_the_place():
    maps = np.zeros((1, 28, 28))
    maps[0, 9, 13] = 7
    image = panel(noise(1, 30, 30), EDGE, place=(9, 13), maps=maps)
    top, bottom, left, right = frames(image)[1]
    assert bottom - top == right - left == -(-240 // 28)
    assert is_colour(image[top:bottom, left:right], colour_table(DIVERGING)[255]).all()


def test_maps_are_blue_below_zero_and_red_above_with_one_scale_for_the_channels():
    maps = np.zeros((3, 10, 10))
    maps[0, 3, 4], maps[1, 5, 6], maps[2, 7, 8] = 100, -50, 100
    image = panel(noise(3, 12, 12), EDGE, maps=maps)
    colours = colour_table(DIVERGING)
    block = np.empty((24, 24, 3), np.uint8)
    ends = {"red": 255, "blue at half": round(0.25 * 255)}
    lefts = {}
    for name, level in ends.items():
        block[:] = colours[level]
        lefts[name] = [left for _, left in find(image, block)]
    # a place is 24 pixels wide: the peaks of red and of blue, and once more in the sum; the channel
    # at half strength stands between them, half as blue, as it does in the sum
    assert len(lefts["red"]) == 4 and len(lefts["blue at half"]) == 2
    first, second, *_ = sorted(lefts["red"])
    assert first < min(lefts["blue at half"]) < second


def test_the_numbers_of_a_patch_stand_on_their_greys_and_on_their_signs_colours():
    picture = noise(1, 40, 40)
    picture[0, 10:13, 20:23] = [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    image = panel(picture, EDGE, place=(10, 20))
    below = image[image.shape[0] // 2 :]
    for level in range(10, 100, 10):  # grey cells of 22 pixels, less the digits
        assert is_colour(below, (level,) * 3).sum() > 250
    red, blue = (is_colour(below, colour_table(DIVERGING)[level]) for level in (255, 0))
    # weights 1 and -1: three cells each; products: only the largest, -90, is of the end's colour
    assert 3 * 250 < red.sum() < 3 * 22 * 26 and red.sum() < blue.sum() < 5 * 22 * 30


def test_padding_is_drawn_around_the_picture_and_marked_in_the_numbers():
    picture = noise(3, 30, 30)
    without, inner, corner = (
        panel(picture, EDGE, padding=padding, place=place)
        for padding, place in ((0, (0, 0)), (1, (5, 5)), (1, (0, 0)))
    )
    counts = [int(is_colour(image, SLATE).sum()) for image in (without, inner, corner)]
    factor = -(-240 // 32)
    border = (32**2 - 30**2) * factor**2
    # letters of this colour are few; five of a corner's nine cells lie outside, in each channel
    assert counts[0] < 200 and border * 0.99 < counts[1] < border + 200
    assert counts[2] > counts[1] - 1000 + 3 * 5 * 250


def test_answers_of_weights_that_sum_to_one_are_shown_as_a_picture():
    picture = noise(3, 22, 22)
    windows = np.lib.stride_tricks.sliding_window_view(picture.astype(float), (3, 3), (1, 2))
    seen = to_uint8(np.rint(windows.mean((3, 4))).astype(np.uint8)).repeat(12, 0).repeat(12, 1)
    assert len(find(panel(picture, BLUR, place=(3, 3)), seen)) == 1
    assert not find(panel(picture, EDGE, place=(3, 3)), seen)


@pytest.mark.parametrize("kernel", [EDGE, BLUR, np.ones((1, 1)), np.eye(2), np.ones((2, 7)) * -1e5])
@pytest.mark.parametrize("shape", [(1, 7, 7), (3, 7, 7), (3, 9, 200), (3, 200, 9), (1, 500, 400)])
def test_panels_of_all_sizes_are_cut_off_nowhere(shape, kernel):
    image = panel(noise(*shape), kernel, pooled=True, title="x" * 300, subtitle="words " * 90)
    assert image.dtype == np.uint8 and max(image.shape) < 2200
    assert_margin_is_empty(image)


def test_a_large_kernel_is_written_out():
    image = panel(noise(3, 30, 30), np.random.default_rng(0).normal(0, 9, (15, 15)))
    assert max(image.shape) < 3000
    assert_margin_is_empty(image)


def test_a_grey_picture_has_one_map_and_no_sum():
    assert len(frames(panel(noise(1, 40, 60), EDGE, place=(20, 30)))) == 2


def test_pooled_maps_stand_below_without_a_frame():
    picture = noise(3, 40, 60)
    plain, more = (panel(picture, EDGE, place=(20, 30), pooled=p) for p in (False, True))
    assert more.shape[0] > plain.shape[0] + 150 and more.shape[1] == plain.shape[1]
    assert len(frames(more)) == len(frames(plain))


def test_answers_that_are_zero_everywhere_have_the_colour_of_zero(recwarn):
    image = panel(np.full((1, 20, 20), 99, np.uint8), EDGE)
    zero = np.empty((100, 100, 3), np.uint8)
    zero[:] = colour_table(DIVERGING)[128]
    assert find(image, zero) and not len(recwarn)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (-0.0, "0"), (255, "255"), (-1020, "-1020"), (12.5, "12.50"), (1 / 9, "0.111"),
        (0.30000000000000004 * 10, "3"), (1e8, "1e+08"), (-0.004, "-0.004"), (123456.7, "1.23e+05"),
    ],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert format_value(value) == text


def test_the_channels_add_up():
    assert format_total([1, -2, 3]) == "red + green + blue = 1 + (-2) + 3 = 2"
