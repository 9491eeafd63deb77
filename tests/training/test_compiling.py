"""Networks are compiled in place, equal blocks once, for whole training batches only."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from convlens.config.compose import compose
from convlens.experiment.module import build_module
from convlens.models import Classifier, build_model
from convlens.training.compiling import compile_in_place, count_compiled_layers, find_blocks
from support.tiny import TINY


def build(name: str) -> Classifier:
    words = [f"exp=finetune_{name}"] if name in ("vgg16", "inception_v3") else [
        "exp=finetune_timm", f"model.name={name}"
    ]  # fmt: skip
    size = 96 if name == "inception_v3" else 64
    config = compose([*words, "data=shapes", f"data.size={size}", "model.weights=none"])
    return build_model(config.model, channels=3, size=size, outputs=5)


@pytest.fixture
def graphs(monkeypatch):
    """Compile with a compiler that runs what it is given; the number of graphs so far."""
    count, original = [0], torch.compile

    def backend(graph: torch.fx.GraphModule, inputs: list) -> object:
        count[0] += 1
        return graph.forward

    def compile(function, *, dynamic, options):
        assert dynamic is False
        return original(function, dynamic=dynamic, backend=backend)

    monkeypatch.setattr(torch, "compile", compile)
    torch._dynamo.reset()
    yield count
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("vgg16", {"Classifier": 1}),
        ("resnet18", {"BasicBlock": 8}),
        ("resnet50", {"Bottleneck": 16}),
        ("convnext_atto", {"ConvNeXtBlock": 12}),
        ("efficientnet_b0", {"DepthwiseSeparableConv": 1, "InvertedResidual": 15}),
        ("inception_v3", {
            "InceptionA": 3, "InceptionB": 1, "InceptionC": 4, "InceptionD": 1, "InceptionE": 2,
        }),
    ],
)  # fmt: skip
def test_blocks_are_those_of_the_papers(name, classes):
    assert Counter(type(block).__name__ for block in find_blocks(build(name))) == classes


def test_blocks_do_not_overlap():
    """No parameter is in two blocks."""
    for name in ("convnext_atto", "inception_v3", "densenet121"):
        blocks = find_blocks(build(name))
        parameters = [id(p) for block in blocks for p in block.parameters()]
        assert len(parameters) == len(set(parameters))


def test_equal_blocks_are_compiled_once(graphs):
    """ResNet18: in each stage the first block differs from the second, but not in the first."""
    network = build("resnet18").train()
    names = list(network.state_dict())
    compile_in_place(network, graphs=False, deterministic=True)
    assert list(network.state_dict()) == names  # a checkpoint is what it was
    images = torch.rand(2, 3, 64, 64)
    for _ in range(2):
        network(images).sum().backward()
        assert graphs == [7]
    # two convolutions in each, and one beside the first of three stages
    assert count_compiled_layers(network) == 7 * 2 + 3


def test_a_network_of_many_shapes_is_compiled_whole(graphs):
    """More than torch's eight compilations of one piece of code."""
    network = build("efficientnet_b0").train()
    compile_in_place(network, graphs=False, deterministic=True)
    network(torch.rand(2, 3, 64, 64)).sum().backward()
    shapes = {
        (type(b), *(p.shape for p in b.parameters()), tuple(m.stride for m in b.modules()
         if isinstance(m, nn.Conv2d))) for b in find_blocks(network)
    }  # fmt: skip
    assert graphs[0] == len(shapes) > 8


@pytest.fixture
def module(graphs):
    made = build_module(compose([*TINY, "model.batch_norm=true"]), ["a", "b", "c"])
    made.compile_network(4, deterministic=True)
    return made


def batch_of(count: int) -> dict:
    generator = torch.Generator().manual_seed(0)
    return {"image": torch.rand(count, 3, 16, 16, generator=generator)}


def test_only_whole_training_batches_are_compiled(module, graphs):
    module.eval()
    module.compute_logits(batch_of(4))
    module.train()
    module.compute_logits(batch_of(3))
    with torch.no_grad():
        features = module.model.features(batch_of(4)["image"], 1)
    module.compute_logits({"features": features, "cut": 1})
    assert graphs == [0]
    module.compute_logits(batch_of(4)).sum().backward()
    assert graphs == [1]
    for count in (3, 5, 4):  # after a smaller last batch, the same graph serves again
        module.compute_logits(batch_of(count)).sum().backward()
    assert graphs == [1]


def test_compiled_logits_are_those_of_the_network(module, graphs):
    plain = build_module(compose([*TINY, "model.batch_norm=true"]), ["a", "b", "c"])
    for count in (4, 3):
        batch = batch_of(count)
        found, expected = (each.train().compute_logits(batch) for each in (module, plain))
        torch.testing.assert_close(found, expected)
    assert graphs == [1]
