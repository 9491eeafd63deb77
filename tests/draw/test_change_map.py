"""The map of changes: a cell for each layer and epoch, on one scale from 0 to 1."""

import matplotlib
import numpy as np
import pytest

from convlens.draw.change_map import change_map

LAYERS = ["net.block1.conv", "net.block2.conv"]


def has(picture: np.ndarray, value: float | None) -> bool:
    """Whether a large patch has the colour of a value; None: of an unknown one."""
    colour = matplotlib.colormaps["viridis"](value if value is not None else 0.0, bytes=True)[:3]
    wanted = np.array(colour if value is not None else (0xC8, 0xCC, 0xD2))
    return (np.abs(picture.astype(int) - wanted).max(axis=2) <= 2).sum() > 500


def test_values_have_the_colours_of_one_scale_and_unknown_ones_are_grey():
    before = np.array([[1.0, 1.0], [0.0, np.nan]])
    picture = change_map(LAYERS, [1, 2], before, before, title="x")
    assert has(picture, 1.0) and has(picture, 0.0) and has(picture, None)
    picture = change_map(LAYERS, [1, 2], np.full((2, 2), 0.5), None, title="x")
    assert has(picture, 0.5) and not has(picture, None)
    assert picture.shape[1] < change_map(LAYERS, [1], *[before[:, :1]] * 2, title="x").shape[1]


@pytest.mark.parametrize(("layers", "epochs"), [(1, 1), (12, 8), (12, 200), (80, 3)])
def test_any_number_of_layers_and_epochs(layers, epochs):
    values = np.linspace(-0.1, 1, layers * epochs).reshape(layers, epochs)
    names = [f"backbone.stage{k}.a very long name of a layer" for k in range(layers)]
    picture = change_map(names, range(epochs), values, values, title="x" * 300)
    assert picture.dtype == np.uint8 and picture.ndim == 3
    assert 700 < picture.shape[1] < 1200 and 200 < picture.shape[0] < 1500


def test_shapes_that_do_not_fit_are_refused():
    for layers, values in (([], np.zeros((0, 1))), (LAYERS, np.zeros((2, 2)))):
        with pytest.raises(ValueError, match="layers and 1 epochs"):
            change_map(layers, [1], values, None, title="x")
