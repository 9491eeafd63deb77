"""Statistics that stream over batches equal those of all pictures at once."""

import pytest
import torch

from convlens.explain import activations, sparsity
from convlens.explain.activations import compute_layer_statistics
from support.explain_networks import ConvNet, pictures, seeded

LAYERS = ["conv1", "relu1", "pool2", "fc1"]


@pytest.mark.parametrize("sizes", [(7,), (3, 3, 1), (1,) * 7])
def test_streamed_statistics_equal_those_of_all_pictures(sizes):
    model, images = seeded(ConvNet), pictures(7)
    with torch.no_grad():
        model.conv1.weight[2] = 0
        model.conv1.bias[2] = -1  # never answers behind the ReLU, and is constant before it
        model.bn1.weight[2], model.bn1.bias[2] = 1, -5
    found = compute_layer_statistics(model, images.split(sizes), LAYERS)
    whole = activations(model, images, LAYERS)
    assert list(found) == LAYERS
    for name, maps in whole.layers.items():
        torch.testing.assert_close(found[name].sparsity, sparsity(maps))
        assert torch.equal(found[name].dead, whole.dead(name)), name
    assert found["relu1"].dead[2] and not found["relu1"].dead.all()
    assert not found["conv1"].dead.any()  # the normalisation behind it moves what it gives
