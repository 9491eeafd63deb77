"""What the classifier reads: known by its numbers in one pass, for heads of all kinds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from convlens.explain.penultimate import find_classifier, read_features

EXAMPLE = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Chosen(nn.Module):
    """Some of the outputs of a larger classifier."""

    def __init__(self, *columns: int):
        super().__init__()
        self.columns = list(columns)

    def forward(self, logits: Tensor) -> Tensor:
        return logits[:, self.columns]


class Twice(nn.Module):
    """Applies one dense layer to both halves of the features."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(8, 2)

    def forward(self, features: Tensor) -> Tensor:
        return self.dense(features[:, :8]) + 0 * self.dense(features[:, 8:])


def build(*head: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*pooled, *head)


HEADS = {
    "dense": ([nn.Flatten(), nn.Linear(16, 3)], "4", 16),
    "hidden": ([nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3)], "6", 5),
    "one logit": ([nn.Flatten(), nn.Linear(16, 1)], "4", 16),
    "softmax": ([nn.Flatten(), nn.Linear(16, 3), nn.Softmax(dim=1)], "4", 16),
    "selected": ([nn.Flatten(), nn.Linear(16, 9), Chosen(7, 1)], "4", 16),
    "convolution": ([nn.Conv2d(16, 3, 1), nn.Flatten()], "3", 16),
}


@pytest.mark.parametrize("kind", HEADS)
def test_features_and_the_layer_give_the_logits(kind):
    head, name, width = HEADS[kind]
    network = build(*head)
    assert find_classifier(network, EXAMPLE) == (name, "")
    images = torch.rand(5, 3, 8, 8)
    features, logits = read_features(network, images, name, batch=2)
    assert features.shape == (5, width)
    layer = network.get_submodule(name)
    again = features @ layer.weight.flatten(1).T + layer.bias
    again = again[:, [7, 1]] if kind == "selected" else again
    torch.testing.assert_close(again, logits)
    assert not layer._forward_pre_hooks and not layer._forward_hooks


@pytest.mark.parametrize(
    "head",
    [
        [nn.Flatten()],  # the logits are means of channels
        [nn.Flatten(), Twice()],
    ],
)
def test_other_classifiers_are_not_guessed(head):
    assert find_classifier(build(*head), EXAMPLE)[0] is None


def test_logits_that_depend_on_no_layer_have_no_classifier():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 3)

        def forward(self, images):
            self.layer(images.flatten(1)[:, :16])
            return torch.zeros(len(images), 3)

    assert find_classifier(Constant(), EXAMPLE)[0] is None
