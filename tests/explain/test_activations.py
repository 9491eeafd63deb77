"""Feature maps against Captum, and the taps they come from."""

import pytest
import torch
from captum.attr import LayerActivation

from convlens.core.errors import UserError
from convlens.explain import activations, choose_layers, dead_channels, record, sparsity
from support.explain_networks import ConvNet, InPlaceNet, pictures, residual, seeded


@pytest.mark.parametrize(
    ("build", "size", "pattern"),
    [(ConvNet, 24, "*"), (InPlaceNet, 20, "*"), (residual, 32, "layer[24].1.[cb]*")],
    ids=["conv", "in_place", "residual"],
)
def test_maps_equal_captum_also_before_an_in_place_relu(build, size, pattern):
    model, images = seeded(build), pictures(2, size)
    layers = choose_layers(model, pattern)
    ours = activations(model, images, layers, batch=1).layers
    assert list(ours) == layers
    for name in layers:
        theirs = LayerActivation(model, model.get_submodule(name)).attribute(images)
        torch.testing.assert_close(ours[name], theirs, rtol=1e-5, atol=1e-5)


def test_taps_before_and_after_an_in_place_relu_differ():
    maps = activations(seeded(InPlaceNet), pictures(2, 20), ["features.0", "features.1"]).layers
    assert maps["features.0"].min() < 0
    assert torch.equal(maps["features.0"].relu(), maps["features.1"])


def test_a_layer_called_twice_reports_its_last_call():
    model, images = seeded(residual), pictures(1, 32)
    maps = activations(model, images, ["layer1.0.relu", "layer1.0"]).layers
    assert torch.equal(maps["layer1.0.relu"], maps["layer1.0"])
    with record(model, ["layer1.0.relu"], example=images) as taps:
        assert taps.run(images) is None
        assert torch.equal(taps["layer1.0.relu"], maps["layer1.0"])


def test_stopping_at_the_last_layer_lets_pictures_in_which_the_head_could_not_take():
    model = seeded(ConvNet)
    with record(model, ["conv1", "pool1"], example=pictures(1)) as taps:
        assert taps.run(pictures(2, 10)) is None
        assert taps["pool1"].shape == (2, 8, 4, 4)
        assert set(taps) == {"conv1", "pool1"}


def test_dead_channels_and_sparsity():
    maps = torch.zeros(2, 4, 3, 3)
    maps[0, 1, 0, 0] = 1.0
    maps[:, 2] = 5.0
    maps[:, 3] = -torch.rand(2, 3, 3)
    assert dead_channels(maps).tolist() == [True, False, True, True]
    torch.testing.assert_close(sparsity(maps), torch.tensor([1.0, 17 / 18, 0.0, 1.0]))
    assert dead_channels(maps[:, :, 0, 0]).tolist() == [True, False, True, True]


def test_unknown_and_silent_layers_are_named():
    model = seeded(ConvNet)
    with pytest.raises(UserError, match=r"'relu7'.*did you mean"):
        activations(model, pictures(1), ["relu7"])
    model.spare = torch.nn.Conv2d(3, 3, 3)
    with pytest.raises(UserError, match="'spare' is never called"):
        activations(model, pictures(1), ["spare"])
