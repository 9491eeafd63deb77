"""A filter (a kernel for each channel, a bias, an activation), checked with torch's own layers."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from torch import nn

from convlens.cli import kernel as command
from convlens.config.schema.model import ACTIVATIONS as CONFIGURED
from convlens.core.errors import UserError
from convlens.draw.colour import GREYS, colour_table
from convlens.lessons.functions import ACTIVATIONS, find_activation
from convlens.lessons.kernel.arithmetic import format_ending, work_out
from convlens.lessons.kernel.convolution import pool, slide
from convlens.lessons.kernel.kernels import parse_kernel
from convlens.lessons.kernel.maps import KernelMaps, MapRow
from convlens.lessons.kernel.panel import kernel_panel
from support.panels import assert_margin_is_empty, find
from support.places import ROOT

LAYERS = {
    "none": nn.Identity, "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU,
    "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid,
}  # fmt: skip
CAT = f"image={ROOT / 'tests' / 'photographs' / 'cat.jpg'}"
RED_MINUS_BLUE = "[[[1,1],[1,1]],[[0,0],[0,0]],[[-1,-1],[-1,-1]]]"


def pixels(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8))


def layer(kernel: torch.Tensor, bias: float, stride: int, padding: int) -> nn.Conv2d:
    """Return a layer of torch with one filter."""
    channels, *edges = kernel.shape
    convolution = nn.Conv2d(channels, 1, edges, stride, padding, dtype=torch.float64)
    with torch.no_grad():
        convolution.weight.copy_(kernel)
        convolution.bias.fill_(bias)
    return convolution.requires_grad_(False)


@pytest.mark.parametrize("edges", [(1, 1), (3, 3), (2, 4)])
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), (3, 2)])
def test_a_kernel_for_each_channel_is_a_filter_of_a_layer(edges, stride, padding):
    image = pixels(3, 7, 9)
    kernel = torch.from_numpy(np.random.default_rng(1).integers(-3, 4, (3, *edges)).astype(float))
    expected = layer(kernel, 0.0, stride, padding)(image.double()[None])[0, 0]
    found = slide(image, kernel, stride, padding)
    assert torch.equal(found.total, expected)  # whole numbers: exact
    for channel in range(3):
        alone = slide(image[channel : channel + 1], kernel[channel], stride, padding)
        assert torch.equal(found.maps[channel], alone.total)


@pytest.mark.parametrize("activation", LAYERS)
def test_bias_and_activation_are_those_of_torch(activation):
    image, kernel = pixels(3, 5, 6), torch.randn(3, 2, 3, dtype=torch.float64)
    convolution = layer(kernel, -70.5, 2, 1)
    expected = LAYERS[activation]()(convolution(image.double()[None]))[0, 0]
    for row, column in itertools.product(*map(range, expected.shape)):
        worked = work_out(
            image, kernel, (row, column), stride=2, padding=1, bias=-70.5, activation=activation
        )
        assert worked.output == pytest.approx(expected[row, column].item(), rel=1e-12, abs=1e-12)


def test_the_functions_are_those_that_a_network_may_have():
    assert tuple(ACTIVATIONS) == ("none", *CONFIGURED) == tuple(LAYERS)
    x = torch.linspace(-6, 6, 25, dtype=torch.float64)
    for name, kind in LAYERS.items():
        assert torch.equal(find_activation(name)(x), kind()(x))
    with pytest.raises(UserError, match="activation=rely: no such function; did you mean relu"):
        find_activation("rely")


@pytest.mark.parametrize("window", [1, 2, 3])
def test_min_pooling_is_the_smallest_value_of_each_window(window):
    maps = torch.randn(2, 7, 8, dtype=torch.float64)
    cut = maps[:, : 7 // window * window, : 8 // window * window].numpy()
    blocks = cut.reshape(2, cut.shape[1] // window, window, cut.shape[2] // window, window)
    assert np.array_equal(pool(maps, "min", window).numpy(), blocks.min((2, 4)))


@pytest.mark.parametrize("padding", [0, "same"])
def test_three_kernels_are_read_in_the_order_of_red_green_and_blue(padding):
    kernel = parse_kernel(" [[[1, 2]], [[3, 1/2]] ,[[-5,0]]] ")
    assert kernel.values.tolist() == [[[1, 2]], [[3, 0.5]], [[-5, 0]]]
    red = torch.zeros(3, 1, 2)
    red[0] = 10
    assert slide(red, kernel.values, padding=padding).total[0, 0] == 30


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[[1]],[[2]]]", "rows of numbers in brackets"),
        ("[[[1]],[[2]],[[3]],[[4]]]", "rows of numbers in brackets"),
        ("[[[1]],[[2]],[3]]", "rows of numbers in brackets"),
        ("[[[1]],[[2]],[[3,4]]]", "three kernels need the same size"),
        ("[[[1,2],[3]],[[2]],[[3]]]", "rows have 2, 1 numbers"),
        ("[[[1]],[[x]],[[3]]]", "x is not a number"),
    ],
)
def test_wrong_filters_are_refused_in_one_line(text, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_kernel(text)
    assert "\n" not in str(caught.value)


def test_three_kernels_need_three_channels():
    with pytest.raises(UserError, match="has 3 kernels.*number of channels is 1"):
        slide(pixels(1, 5, 5), torch.zeros(3, 2, 2))


def read_total(line: str) -> float:
    return float(line.rsplit("=", 1)[1])


def test_the_command_writes_the_filters_whole_calculation(at, capsys):
    assert command.run([CAT, f"kernel={RED_MINUS_BLUE}", "bias=-100", "activation=relu"]) == 0
    out = capsys.readouterr().out.splitlines()
    sums = [float(line.partition("sum ")[2]) for line in out if "sum " in line]
    (line,) = [line for line in out if line.startswith("red + green + blue + bias")]
    assert len(sums) == 3 and sums[1] == 0 and read_total(line) == sum(sums) - 100 > 0
    assert out[-2] == f"relu({sum(sums) - 100:.0f}) = {sum(sums) - 100:.0f}"
    assert any(line.startswith("kernel   custom 3×2×2") for line in out)


def test_the_strongest_place_is_that_of_the_filters_answer(at, capsys):
    words = [CAT, "kernel=[[-1]]", "activation=relu", "bias=300", "size=40"]
    assert command.run(words) == 0
    out = capsys.readouterr().out
    # negative sums are large, but the activation turns them into 0
    assert float(re.search(r"relu\((\S+)\)", out)[1]) > 0


def test_several_kinds_of_pooling_stand_side_by_side(at):
    assert command.run([CAT, "pooling=max,average,min", "size=60", "run_dir=three"]) == 0
    assert command.run([CAT, "pooling=max", "activation=relu", "size=60", "run_dir=one"]) == 0
    assert (at / "three" / "kernel.jpg").exists() and (at / "one" / "kernel.jpg").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["activation=rely"], "activation=rely: no such function; did you mean relu"),
        (["bias=much"], "bias=much: expected a number"),
        (["bias=nan"], "bias=nan: out of range"),
        (["bias=1e12"], "bias=1e12: out of range"),
        (["pooling=max,none"], "pooling=max,none: leave out none"),
        (["pooling=max,mim"], "pooling=mim: no such pooling; did you mean min"),
        (["pooling=max,"], "pooling=: no such pooling"),
        (["colours=gray"], "colours=gray: did you mean grey"),
    ],
)
def test_mistakes_get_one_line(at, words, message):
    with pytest.raises(UserError, match=message) as caught:
        command.run([CAT, *words])
    assert "\n" not in str(caught.value) and not list(at.iterdir())


def test_three_kernels_on_a_grey_image_are_refused(at):
    from PIL import Image

    Image.new("L", (9, 9), 50).save(at / "grey.png")
    with pytest.raises(UserError, match="number of channels is 1"):
        command.run(["image=grey.png", f"kernel={RED_MINUS_BLUE}"])


def draw(rows: list[MapRow], *, is_grey: bool = False, weights=None) -> np.ndarray:
    picture = np.random.default_rng(0).integers(0, 256, (3, 30, 30)).astype(np.uint8)
    weights = np.eye(3) if weights is None else weights
    slid = slide(torch.from_numpy(picture), torch.from_numpy(weights))
    worked = work_out(torch.from_numpy(picture), torch.from_numpy(weights), (4, 5), bias=3.0)
    outputs = KernelMaps(slid.maps, slid.total, "output", ["rows: 1"])
    return kernel_panel(
        picture, weights, outputs, worked, title="x", subtitle="", padding=slid.padding,
        pooled=None, rows=rows, is_grey=is_grey,
    )  # fmt: skip


def test_maps_of_a_row_share_a_scale_or_have_their_own():
    small, large = np.zeros((28, 28)), np.zeros((28, 28))
    small[3:9, 3:9], large[3:9, 3:9] = 5, 10
    block = np.empty((40, 40, 3), np.uint8)
    block[:] = colour_table("coolwarm")[255]
    maps = {"small": small, "large": large}
    assert len({x for _, x in find(draw([MapRow("r", maps)]), block)}) == 15  # only the large one
    own = draw([MapRow("r", maps, has_one_scale=False)])
    assert len({x for _, x in find(own, block)}) == 30


def test_grey_maps_are_black_at_zero_and_white_at_the_end():
    map = np.zeros((28, 28))
    map[10:20, 10:20] = 7
    image = draw([MapRow("r", {"a": map})], is_grey=True)
    white, black = (np.full((50, 50, 3), level, np.uint8) for level in (255, 0))
    assert find(image, white) and find(image, black)
    zero = np.empty((50, 50, 3), np.uint8)
    zero[:] = colour_table("coolwarm")[128]
    assert not find(image, zero) and find(draw([MapRow("r", {"a": map})]), zero)
    assert (colour_table(GREYS)[[0, 255]] == [[0] * 3, [255] * 3]).all()


@pytest.mark.parametrize("edges", [(1, 1), (3, 3), (5, 2), (15, 15)])
@pytest.mark.parametrize("is_grey", [False, True])
def test_panels_of_filters_are_cut_off_nowhere(edges, is_grey):
    weights = np.random.default_rng(0).normal(0, 9, (3, *edges))
    rows = [MapRow("x" * 90, {"y" * 60: np.zeros((9, 9)), "z": -np.ones((9, 9))}, at_place=True)]
    image = draw(rows, is_grey=is_grey, weights=weights)
    assert_margin_is_empty(image)


def test_what_follows_the_sums_is_written_only_where_something_follows():
    image, kernel = pixels(1, 4, 4), torch.ones(1, 1)
    plain = work_out(image, kernel, (0, 0))
    assert format_ending(plain) == []
    assert len(format_ending(work_out(image, kernel, (0, 0), bias=1.0))) == 1
    assert len(format_ending(work_out(image, kernel, (0, 0), bias=1.0, activation="relu"))) == 2
