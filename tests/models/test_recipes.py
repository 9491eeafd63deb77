"""The networks of the reference recipes: parameter counts, output sizes, receptive fields."""

from __future__ import annotations

import pytest
import torch

from convlens.config.checks import replace_values
from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.models import build_layer_table, build_model

CONFIG = compose(["exp=reproduce/cats_dogs_overfit"])
SPEC = CONFIG.model


def network(experiment: str, outputs: int):
    config = compose([f"exp={experiment}"])
    data = config.data
    return (
        build_model(config.model, channels=data.channels, size=data.size, outputs=outputs),
        data,
    )


def count(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("experiment", "outputs", "parameters"),
    [
        ("reproduce/cats_dogs_overfit", 1, 3_453_121),
        ("reproduce/cats_dogs_regularized", 1, 3_453_121),
        # 320 + 18,496 + 36,928 + (576 · 64 + 64) + (64 · 10 + 10)
        ("reproduce/mnist_convnet", 10, 93_322),
        ("reproduce/mnist_dense", 10, 784 * 512 + 512 + 512 * 10 + 10),
        # 6 · 9 + 6, 6 · 16 · 9 + 16, 7 · 7 · 16 · 10 + 10
        ("reproduce/mnist_small", 10, 60 + 880 + 7_850),
    ],
)
def test_parameter_counts(experiment, outputs, parameters):
    assert count(network(experiment, outputs)[0]) == parameters


def test_no_pooling_has_the_documents_convolutions():
    model, data = network("reproduce/mnist_no_pooling", 10)
    rows = build_layer_table(model, channels=data.channels, size=data.size)
    convolutions = [row for row in rows if row.kind == "Conv2d"]
    assert [row.parameters for row in convolutions] == [320, 18_496, 36_928]
    assert convolutions[-1].output == (64, 22, 22)
    # "the 3 × 3 windows in the third layer will only contain information from 7 × 7 windows"
    assert convolutions[-1].receptive_field == 7


def test_layer_table_of_the_overfitting_network():
    model, data = network("reproduce/cats_dogs_overfit", 1)
    rows = {row.path: row for row in build_layer_table(model, channels=3, size=data.size)}
    sizes = [rows[f"backbone.block{i}.conv"].output for i in range(1, 5)]
    assert sizes == [(32, 148, 148), (64, 72, 72), (128, 34, 34), (128, 15, 15)]
    assert rows["backbone.block4.pool"].output == (128, 7, 7)
    assert [rows[f"backbone.block{i}.conv"].receptive_field for i in range(1, 5)] == [3, 8, 18, 38]
    assert rows["head.dense1"].receptive_field is None
    assert rows["head.dense1"].parameters == 6272 * 512 + 512


def test_layer_table_leaves_modes_and_statistics_unchanged():
    model = build_model(SPEC.replace(batch_norm=True), channels=3, size=64, outputs=5)
    model.train()
    model.backbone.block1.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    build_layer_table(model, channels=3, size=64)
    assert modes == [part.training for part in model.modules()]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("padding", ["valid", "same", 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("pooling", ["max", "average", "none"])
def test_output_size_by_the_formula(padding, stride, kernel, pooling):
    """(n - f + 2p) / s + 1, then halved by pooling."""
    spec = SPEC.replace(filters=[4], padding=padding, stride=stride, kernel_size=kernel)
    model = build_model(spec.replace(pooling=pooling), channels=1, size=29, outputs=2)
    pixels = {"valid": 0, "same": kernel // 2}.get(padding, padding)
    expected = (29 - kernel + 2 * pixels) // stride + 1
    expected = expected if pooling == "none" else expected // 2
    assert model.backbone(torch.zeros(1, 1, 29, 29)).shape == (1, 4, expected, expected)


def test_keras_initialisation_is_glorot_uniform_with_zero_biases():
    torch.manual_seed(0)
    model = build_model(SPEC, channels=3, size=64, outputs=5)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            field = layer.weight[0, 0].numel() if layer.weight.ndim == 4 else 1
            fan = (layer.weight.shape[0] + layer.weight.shape[1]) * field
            limit = (6 / fan) ** 0.5
            assert layer.weight.abs().max() <= limit
            if layer.weight.numel() > 2000:
                assert layer.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.05)
            if layer.bias is not None:
                assert not layer.bias.any()


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"activation": "rellu"}, "did you mean relu"),
        ({"pooling": "mean"}, "model.pooling=mean"),
        ({"kernel_size": [3, 3]}, "2 values for 4 blocks"),
        ({"filters": [8] * 9, "kernel_size": 3, "padding": "valid"}, "the map vanishes in block"),
        ({"padding": "same", "kernel_size": 4}, "odd kernels"),
        ({"initialisation": "xavier"}, "model.initialisation=xavier"),
        ({"normalisation": "imagnet"}, "model.normalisation=imagnet"),
        ({"dropout": 1.0}, "model.dropout=1.0"),
        ({"name": "scrach"}, "did you mean scratch"),
    ],
)
def test_bad_values_are_named(keys, named):
    keys = {"filters": [8, 8, 8, 8], "padding": "same", "pooling": "max", **keys}
    with pytest.raises(UserError, match=named):
        config = replace_values(CONFIG, {f"model.{key}": value for key, value in keys.items()})
        build_model(config.model, channels=3, size=64, outputs=5)
