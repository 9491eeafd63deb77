"""Effects of units: measured differences of logits, closed forms, Captum."""

from __future__ import annotations

import pytest
import torch
from captum.attr import LayerGradientXActivation
from torch import nn

from convlens.core.errors import UserError
from convlens.explain import rank_units, unit_effects
from support.explain_networks import ConvNet, InPlaceNet, pictures, seeded


class Twice(nn.Module):
    """One convolution that is called twice, each time before an in-place ReLU."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        x = self.relu(self.conv(self.relu(self.conv(x))))
        return self.head(x.mean((2, 3)))


class ChannelsLast(nn.Module):
    """A dense layer on maps whose channels are the last axis."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.mix = nn.Linear(5, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.mix(self.conv(x).relu().permute(0, 2, 3, 1)).sigmoid()
        return self.head(x.mean((1, 2)))


def measure(model: nn.Module, images, layer: str, unit: int, axis: int, score, call: int = 0):
    """Return d score / d scale of a unit at scale 1, (B,), from two passes with a plain hook.

    By Euler's rule this is the sum over positions of output times gradient.
    """
    values = []
    for scale in (1 + 1e-5, 1 - 1e-5):
        calls = []

        def hook(_, args, output, scale=scale, calls=calls):
            calls.append(1)
            if len(calls) == call + 1:
                factor = torch.ones_like(output)
                factor.select(axis, unit).fill_(scale)
                return output * factor
            return None

        with model.get_submodule(layer).register_forward_hook(hook), torch.no_grad():
            values.append(score(model(images)))
    return (values[0] - values[1]) / 2e-5


@pytest.mark.parametrize(
    ("build", "size", "layers", "axis", "call"),
    [
        (ConvNet, 24, ("conv1", "bn1", "conv2", "fc1", "fc2"), 1, 0),
        (lambda: InPlaceNet(3), 16, ("features.0", "features.2"), 1, 0),
        (Twice, 12, ("conv",), 1, 1),  # the last call counts
        (ChannelsLast, 12, ("mix",), -1, 0),
    ],
)
def test_effects_are_the_measured_slopes_of_the_predicted_class(build, size, layers, axis, call):
    model = seeded(build).double()
    images = pictures(3, size).double()
    predicted = model(images).argmax(1)
    found = unit_effects(model, images, layers)
    assert list(found) == list(layers)
    for layer, effects in found.items():
        for unit in range(effects.shape[1]):
            score = lambda logits: logits.gather(1, predicted[:, None])[:, 0]  # noqa: E731
            expected = measure(model, images, layer, unit, axis, score, call)
            torch.testing.assert_close(effects[:, unit], expected, rtol=1e-5, atol=1e-8)


def test_before_a_linear_end_the_effect_is_what_removing_the_unit_costs():
    model = seeded(ConvNet).double()
    images, targets = pictures(2, 24).double(), torch.tensor([3, 0])
    effects = unit_effects(model, images, ["relu3"], targets=targets)["relu3"]
    hidden = []
    with model.relu3.register_forward_hook(lambda *call: hidden.append(call[2].clone())):
        model(images)
    torch.testing.assert_close(effects, hidden[0].detach() * model.fc2.weight[targets].detach())


def test_one_logit_is_two_classes():
    model = seeded(InPlaceNet).double()
    images = pictures(4, 16).double()
    logits = model(images)[:, 0]
    plus = unit_effects(model, images, ["features.2"], targets=torch.ones(4))["features.2"]
    minus = unit_effects(model, images, ["features.2"], targets=torch.zeros(4))["features.2"]
    chosen = unit_effects(model, images, ["features.2"])["features.2"]
    torch.testing.assert_close(plus, -minus)
    torch.testing.assert_close(chosen, torch.where(logits[:, None] > 0, plus, minus))
    expected = measure(model, images, "features.2", 1, 1, lambda logits: logits[:, 0])
    torch.testing.assert_close(plus[:, 1], expected, rtol=1e-5, atol=1e-8)


def test_captum_gives_the_same_layer_by_layer_and_so_do_batches():
    model, images = seeded(ConvNet), pictures(5, 24)
    layers = ["conv1", "conv2", "fc1"]
    found = unit_effects(model, images, layers)
    parts = unit_effects(model, images, layers, batch=2)
    predicted = model(images).argmax(1)
    for layer in layers:
        captum = LayerGradientXActivation(model, model.get_submodule(layer))
        theirs = captum.attribute(images, target=predicted).detach()
        theirs = theirs.flatten(2).sum(2) if theirs.dim() > 2 else theirs
        torch.testing.assert_close(found[layer], theirs, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(parts[layer], theirs, rtol=1e-5, atol=1e-6)


def test_a_layer_beside_the_way_to_the_logits_has_no_effect():
    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.aside = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            self.aside(x)
            return self.head(self.conv(x).mean((2, 3)))

    effects = unit_effects(seeded(Aside), pictures(2, 8), ["aside", "conv"])
    assert effects["aside"].tolist() == [[0.0] * 4] * 2 and effects["conv"].all()
    assert rank_units(effects["aside"]) == [0, 1, 2, 3]


def test_the_ranking_is_by_mean_magnitude():
    effects = torch.tensor([[1.0, -5.0, 0.0, 2.0], [1.0, 4.0, 0.0, -2.0]])
    assert rank_units(effects) == [1, 3, 0, 2]
    effects[0, 1] = torch.nan
    assert rank_units(effects) == [1, 3, 0, 2] and rank_units(effects[:1]) == [3, 0, 1, 2]


def test_mistakes_are_answered_in_one_line():
    model, images = seeded(ConvNet), pictures(2, 24)
    with pytest.raises(UserError, match="no layer 'conv9'"):
        unit_effects(model, images, ["conv9"])
    with pytest.raises(UserError, match="classes 0 to 3"):
        unit_effects(model, images, ["conv1"], targets=torch.tensor([0, 4]))
