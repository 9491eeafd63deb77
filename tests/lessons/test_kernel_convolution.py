"""Kernels slid over images: checked with plain loops, torch's shapes and sums done by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from convlens.core.errors import UserError
from convlens.lessons.kernel.arithmetic import work_out
from convlens.lessons.kernel.convolution import (
    compute_output_size,
    find_strongest,
    format_output_size,
    pool,
    slide,
)
from convlens.lessons.kernel.kernels import KERNELS, parse_kernel


def pixels(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8))


def weights(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(-3, 4, shape).astype(float))


def by_hand(channel: list, kernel: list, stride: int, before: tuple, after: tuple) -> list:
    """Return the output (h, w) of a kernel on one channel, by loops over plain numbers."""
    height, width, kh, kw = len(channel), len(channel[0]), len(kernel), len(kernel[0])

    def at(row: int, column: int) -> float:
        return channel[row][column] if 0 <= row < height and 0 <= column < width else 0

    answers = []
    for top in range(-before[0], height + after[0] - kh + 1, stride):
        answers.append([])
        for left in range(-before[1], width + after[1] - kw + 1, stride):
            answers[-1].append(
                sum(kernel[i][j] * at(top + i, left + j) for i in range(kh) for j in range(kw))
            )
    return answers


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("edges", [(1, 1), (3, 3), (2, 2), (2, 3), (5, 1), (4, 6)])
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 0), (3, 2), (1, "same"), (2, "same")])
def test_answers_are_those_of_plain_loops(channels, edges, stride, padding):
    picture, kernel = pixels(channels, 7, 9), weights(*edges)
    slid = slide(picture, kernel, stride, padding)
    if padding == "same":
        before = tuple((edge - 1) // 2 for edge in edges)
        after = tuple(edge - 1 - first for edge, first in zip(edges, before, strict=True))
    else:
        before = after = (padding, padding)
    expected = [
        by_hand(channel, kernel.tolist(), stride, before, after) for channel in picture.tolist()
    ]
    assert slid.maps.tolist() == expected  # whole numbers: exact
    assert slid.total.tolist() == np.sum(expected, axis=0).tolist()
    assert slid.padding == tuple(zip(before, after, strict=True))


def test_the_sum_is_what_a_convolution_of_all_channels_gives():
    picture, kernel = pixels(3, 20, 30), weights(3, 3)
    layer = kernel.expand(1, 3, 3, 3)
    expected = functional.conv2d(picture.double()[None], layer, stride=2, padding=1)[0, 0]
    assert torch.equal(slide(picture, kernel, 2, 1).total, expected)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("edges", [(2, 2), (3, 3), (4, 5)])
def test_same_pads_as_torch_does(edges):
    picture, kernel = pixels(1, 8, 9), weights(*edges)
    expected = functional.conv2d(picture.double()[None], kernel[None, None], padding="same")
    assert torch.equal(slide(picture, kernel, 1, "same").maps, expected[0])


def test_output_size_is_torchs_wherever_torch_has_one():
    refused = 0
    for n, k, s, p in itertools.product(range(1, 9), range(1, 7), range(1, 5), range(4)):
        line, kernel = torch.zeros(1, 1, n, device="meta"), torch.zeros(1, 1, k, device="meta")
        try:
            expected = functional.conv1d(line, kernel, stride=s, padding=p).shape[2]
        except RuntimeError:
            refused += 1
            with pytest.raises(UserError, match="larger than the padded image"):
                compute_output_size(n, k, s, p)
            continue
        assert compute_output_size(n, k, s, p) == expected, (n, k, s, p)
        text, _, result = format_output_size(n, k, s, p).rpartition(" = ")
        for sign, word in zip("−·⌊⌋", ("-", "*", "math.floor(", ")"), strict=True):
            text = text.replace(sign, word)
        assert eval(text, {"math": math}) == int(result) == expected
    assert refused > 50


@pytest.mark.parametrize(("n", "k", "s"), [(150, 3, 1), (150, 4, 1), (7, 5, 2), (8, 2, 3)])
def test_same_gives_the_size_divided_by_the_stride_rounded_up(n, k, s):
    assert compute_output_size(n, k, s, "same") == -(-n // s)
    assert format_output_size(n, k, s, "same").endswith(f" = {-(-n // s)}")


def test_the_formula_as_it_is_written():
    assert format_output_size(150, 3) == "(150 + 2·0 − 3)/1 + 1 = 148"
    assert format_output_size(150, 3, 2, 1) == "⌊(150 + 2·1 − 3)/2⌋ + 1 = 75"
    assert format_output_size(150, 4, 1, "same") == "(150 + 1 + 2 − 4)/1 + 1 = 150"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 7), "7 pixels on 5 .*try padding=1 or more"),
        ((5, 9, 1, 1), "9 pixels on 7 .*try padding=2 or more"),
    ],
)
def test_impossible_sizes_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        compute_output_size(*arguments)


def test_a_kernel_as_large_as_the_padded_picture_has_one_place():
    assert slide(pixels(3, 4, 5), weights(6, 7), 1, 1).total.shape == (1, 1)
    with pytest.raises(UserError, match="larger than the padded image"):
        slide(pixels(3, 4, 5), weights(4, 8), 1, 1)


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("kind", ["max", "average", "min"])
def test_pooling_is_that_of_plain_loops(kind, window):
    maps = weights(3, 7, 8)
    picks = {"max": max, "min": min, "average": lambda values: sum(values) / len(values)}
    pick = picks[kind]
    expected = [
        [
            [
                pick([m[r + i][c + j] for i in range(window) for j in range(window)])
                for c in range(0, 8 - window + 1, window)
            ]
            for r in range(0, 7 - window + 1, window)
        ]
        for m in maps.tolist()
    ]
    pooled = pool(maps, kind, window)
    assert torch.allclose(pooled, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.equal(pool(maps[0], kind, window), pooled[0])


def test_impossible_pooling_is_refused():
    maps = weights(1, 3, 4)
    with pytest.raises(UserError, match="pooling=maxx.*did you mean max"):
        pool(maps, "maxx", 2)
    with pytest.raises(UserError, match="pool_size=4: .*3×4.*try pool_size=3 or less"):
        pool(maps, "max", 4)


@pytest.mark.parametrize("edges", [(3, 3), (2, 5)])
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 3), (1, "same")])
def test_the_arithmetic_of_every_place_sums_to_the_maps_value(edges, stride, padding):
    picture, kernel = pixels(3, 5, 6), weights(*edges)
    slid = slide(picture, kernel, stride, padding)
    (above, below), (left, right) = slid.padding
    padded = np.pad(picture.numpy(), ((0, 0), (above, below), (left, right)))
    there = np.pad(np.ones((5, 6), bool), ((above, below), (left, right)))
    for channel, row, column in itertools.product(range(3), *map(range, slid.total.shape)):
        found = work_out(picture, kernel, (row, column), stride=stride, padding=padding)
        part = np.s_[
            row * stride : row * stride + edges[0], column * stride : column * stride + edges[1]
        ]
        assert found.place == (row, column)
        assert found.corner == (row * stride - above, column * stride - left)
        assert found.patch[channel].tolist() == padded[channel][part].tolist()
        assert found.inside.tolist() == there[part].tolist()
        assert found.products[channel].tolist() == (padded[channel][part] * kernel.numpy()).tolist()
        total = found.sums[channel]
        assert total == found.products[channel].sum() == slid.maps[channel, row, column]


def test_the_place_is_the_strongest_one_of_either_sign():
    picture = torch.full((1, 9, 9), 100.0)
    picture[0, 4, 6] = 0  # blackest spot on plain ground
    middle = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]) - 1 / 9
    at = find_strongest(slide(picture, middle).total)
    found = work_out(picture, middle, at)
    assert found.place == (3, 5) and found.corner == (3, 5)
    assert found.sums == [pytest.approx(-800 / 9)]
    assert find_strongest(torch.tensor([[1.0, -7], [7, 2]])) == (0, 1)


@pytest.mark.parametrize("at", [(6, 0), (0, 6), (-1, 0)])
def test_places_outside_the_output_are_refused(at):
    with pytest.raises(UserError, match="6 rows and 6 columns, counted from 0.*at=5,5"):
        work_out(pixels(3, 8, 8), weights(3, 3), at)


def answer(name: str, rows: list) -> float:
    """Return the only output value of a named kernel on an image of 3 by 3."""
    return float(slide(torch.tensor([rows], dtype=torch.float64), KERNELS[name].values).total)


def test_named_kernels_answer_to_what_they_say():
    left = [[9, 9, 0]] * 3
    upper = [[9, 9, 9], [9, 9, 9], [0, 0, 0]]
    plain = [[7, 7, 7]] * 3
    spot = [[1, 1, 1], [1, 4, 1], [1, 1, 1]]
    assert answer("vertical_edge", left) == 27 and answer("vertical_edge", upper) == 0
    assert answer("horizontal_edge", upper) == 27 and answer("horizontal_edge", left) == 0
    assert answer("vertical_edge", plain) == answer("horizontal_edge", plain) == 0
    assert answer("sharpen", plain) == answer("emboss", plain) == 7
    assert answer("sharpen", spot) == 4 + 4 * (4 - 1)
    assert answer("blur", spot) == pytest.approx((8 + 4) / 9)
    rising = [[5, 6, 7], [6, 7, 8], [7, 8, 9]]
    falling = [row[::-1] for row in rising[::-1]]
    assert answer("emboss", rising) == 19 and answer("emboss", falling) == -5
    assert all(kernel.values.shape == (3, 3) for kernel in KERNELS.values())


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("[[1,0,-1],[1,0,-1],[1,0,-1]]", [[1, 0, -1]] * 3),
        (" [ [1, 2] , [3.5, -4e1] ] ", [[1, 2], [3.5, -40]]),
        ("[[1/4,1/2]]", [[0.25, 0.5]]),
        ("[1,-1]", [[1, -1]]),
        ("[[5]]", [[5]]),
        ("[[1],[2]]", [[1], [2]]),
    ],
)
def test_kernels_given_as_numbers(text, values):
    kernel = parse_kernel(text)
    assert kernel.name == "custom" and kernel.values.tolist() == values


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_given_by_name(name):
    kernel = parse_kernel(name)
    assert kernel is KERNELS[name] and kernel.name == name and kernel.responds_to


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vertical_edges", "did you mean vertical_edge"),
        ("", "there are: blur"),
        ("[[1,2],[3]]", "rows have 2, 1 numbers"),
        ("[[1,x]]", "x is not a number"),
        ("[[1,,2]]", "an empty weight is not a number"),
        ("[[1/0]]", "1/0 is not a number"),
        ("[[nan]]", "nan is out of range; use -1e6 to 1e6"),
        ("[[1,inf]]", "inf is out of range; use -1e6 to 1e6"),
        ("[[1e9]]", "1e9 is out of range; use -1e6 to 1e6"),
        ("[[1,2],[3,4]", "rows of numbers in brackets"),
        ("[[1,2]]]", "rows of numbers in brackets"),
        ("[]", "rows of numbers in brackets"),
        ("[[]]", "rows of numbers in brackets"),
        ("[[[1]]]", "rows of numbers in brackets"),
        ("[[1,2][3,4]]", "rows of numbers in brackets"),
    ],
)
def test_invalid_kernels_are_refused_in_one_line(text, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_kernel(text)
    assert "\n" not in str(caught.value)
