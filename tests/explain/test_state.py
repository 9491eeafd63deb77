"""What moves in evaluation mode too is as it was after every explanation, and so is all chance."""

from __future__ import annotations

import copy
import random
from collections import Counter, deque

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convlens import wrap
from convlens.core.errors import UserError
from convlens.explain import (
    activations,
    attribute,
    choose_layers,
    explaining,
    faithfulness,
    grad_cam,
    gradient_ascent,
    insertion_deletion,
    occlusion,
    parameter_randomisation,
    search_patches,
    unit_effects,
)
from support.explain_networks import field, pictures, seeded

IMAGES, TARGETS = pictures(2), torch.tensor([0, 1])


class Restless(nn.Module):
    """Its state moves at every pass, whatever the mode, in every way a module can keep one."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 4)
        self.register_buffer("counter", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))
        self.register_buffer("codebook", torch.rand(8, 4))
        self.register_buffer("hidden", torch.zeros(4), persistent=False)
        self.register_buffer("shared", self.mean)
        self.tally, self.prototype, self.array = 0, torch.zeros(4), np.zeros(4)
        self.log, self.recent, self.seen = [], deque(maxlen=3), Counter()
        self.nested = {"sums": [torch.zeros(4)], "sizes": set()}

    def forward(self, x):
        x = self.conv(x)
        x = F.batch_norm(x, self.mean, self.var, training=True).relu().mean((2, 3))
        self.counter += 1
        self.codebook[0].mul_(0.9).add_(0.1 * x.detach().mean(0))
        self.hidden = self.hidden + x.detach().mean(0)  # another tensor under the same name
        self.tally += 1
        self.prototype += x.detach().mean(0)
        self.array += 1
        self.log.append(len(x))
        self.recent.append(len(x))
        self.seen["passes"] += 1
        self.nested["sums"][0] += 1
        self.nested["sizes"].add(len(x))
        self.late = x.detach()
        F.dropout(x, 0.5, training=True), np.random.rand(), random.random()
        return self.fc(x)


def everything(model: nn.Module) -> dict:
    """Every tensor and attribute, the tensors with who they are."""
    parts = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in vars(nn.Module()):
                parts[f"{path}.{name}"] = (id(value), copy.deepcopy(value))
    for name, tensor in [*model.named_buffers(remove_duplicate=False), *model.named_parameters()]:
        parts[name] = (id(tensor), tensor._version, tensor.detach().clone())
    return parts


def assert_unchanged(before: dict, after: dict) -> None:
    assert before.keys() == after.keys()
    for name, (identity, *rest) in before.items():
        assert identity == after[name][0], name
        for one, other in zip(rest, after[name][1:], strict=True):
            same = (
                torch.equal(one, other) if isinstance(one, torch.Tensor) else str(one) == str(other)
            )
            assert same, name


LOOKS = {
    "activations": lambda m: activations(m, IMAGES, ["conv"]).layers["conv"],
    "grad_cam": lambda m: grad_cam(m, IMAGES, TARGETS, ["conv"]).maps["conv"],
    "gradient_ascent": lambda m: (
        gradient_ascent(m, "fc", [0], size=24, channels=3, steps=2, step_size=0.05, seed=0).images
    ),
    "unit_effects": lambda m: unit_effects(m, IMAGES, ["conv"])["conv"],
    "receptive_field": lambda m: torch.tensor(field(m, "conv", IMAGES[:1])),
    "choose_layers": lambda m: choose_layers(m, "auto", "grad_cam", example=IMAGES),
    "occlusion": lambda m: occlusion(m, IMAGES, TARGETS, window=12, stride=12).maps,
    "faithfulness": lambda m: faithfulness(
        m, IMAGES, IMAGES.mean(1), TARGETS, lambda kept: kept.mean(1)
    ),
    "insertion": lambda m: insertion_deletion(m, IMAGES, IMAGES.mean(1), TARGETS, 3),
    "patches": lambda m: search_patches(m, {"conv": [0]}, [IMAGES])["conv"],
    "integrated_gradients": lambda m: attribute(m, IMAGES, TARGETS, "integrated_gradients").maps,
    "gradient_shap": lambda m: attribute(m, IMAGES, TARGETS, "gradient_shap").maps,
    "feature_ablation": lambda m: attribute(m, IMAGES, TARGETS, "feature_ablation").maps,
    "randomised": lambda m: parameter_randomisation(
        m, lambda: grad_cam(m, IMAGES, TARGETS, ["conv"]).maps["conv"][:, 0], seed=0
    ),
    "wrap": lambda m: wrap(m, list("abcd"), size=24).explain(IMAGES[0], only="grad_cam"),
}


@pytest.mark.parametrize("look", LOOKS)
def test_what_moves_in_evaluation_mode_is_unchanged(look):
    model = seeded(Restless).train()
    before = everything(model)
    LOOKS[look](model)
    assert_unchanged(before, everything(model))
    with torch.no_grad():
        model(IMAGES)
    assert int(model.counter) == model.tally == len(model.log) == 1


@pytest.mark.parametrize("look", LOOKS)
def test_the_global_generators_are_unchanged(look):
    def drawn():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()

    model = seeded(Restless)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        expected = drawn()
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        LOOKS[look](model)
        assert drawn() == expected


def test_state_is_unchanged_also_when_the_explanation_raises():
    model = seeded(Restless)
    before = everything(model)
    with pytest.raises(ZeroDivisionError), explaining(model):
        model(IMAGES)
        raise ZeroDivisionError
    assert_unchanged(before, everything(model))


def test_each_explanation_begins_with_the_same_state():
    model = seeded(Restless)
    first, second = (activations(model, IMAGES, ["fc"]).layers["fc"] for _ in range(2))
    assert torch.equal(first, second)


def test_a_graph_that_saved_a_buffer_is_still_good_after_an_explanation():
    """The buffer is not written to: autograd would refuse the backward pass."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)
            self.register_buffer("scale", torch.ones(4))

        def forward(self, x):
            x = self.conv(x).mean((2, 3)) * self.scale
            if not self.training:
                self.scale.mul_(2)
            return self.fc(x)

    model = seeded(Scaled).train()
    loss = model(IMAGES).sum()
    activations(model, IMAGES, ["conv"])
    loss.backward()
    assert torch.equal(model.scale, torch.ones(4))


class Codebook(nn.Module):
    """Its parameter moves by exponential averages, in evaluation mode too."""

    def __init__(self):
        super().__init__()
        self.conv, self.codes, self.fc = nn.Conv2d(3, 4, 3), nn.Embedding(8, 4), nn.Linear(4, 4)
        self.moves = True

    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        nearest = torch.cdist(x, self.codes.weight).argmin(1)
        x = x + (self.codes(nearest) - x).detach()
        if self.moves:
            self.codes.weight.data[nearest] = 0.5 * self.codes.weight.data[nearest] + x.detach()
        return self.fc(x)


def test_a_codebook_among_the_parameters_is_unchanged():
    model = seeded(Codebook)
    parameter, before = model.codes.weight, model.codes.weight.detach().clone()
    for _ in range(3):
        occlusion(model, IMAGES, TARGETS, window=12, stride=12)
        assert model.codes.weight is parameter and torch.equal(parameter, before)
    assert parameter.requires_grad


def test_a_parameter_that_moves_all_of_a_sudden_is_told():
    class Late(Codebook):
        def forward(self, x):
            found = super().forward(x)
            if self.moves:
                with torch.no_grad():
                    self.fc.bias.add_(1)
            return found

    model = seeded(Late)
    model.moves = False
    activations(model, IMAGES, ["conv"])
    model.moves = True
    with pytest.raises(UserError, match="wrote to its parameter fc.bias"):
        activations(model, IMAGES, ["conv"])


def test_a_scripted_network_is_unchanged():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)
            self.register_buffer("counter", torch.zeros(1))

        def forward(self, x):
            self.counter.add_(1)
            return self.fc(self.conv(x).mean((2, 3)))

    model = torch.jit.script(seeded(Counts))
    with explaining(model), torch.no_grad():
        model(IMAGES)
    assert float(model.counter) == 0
