"""Which layers changed: the numbers are CKA of the layers' outputs, also after a resume."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from convlens.callbacks import LayerChanges

from convlens.core.evaluation import evaluation_mode
from convlens.data.probes import Probes
from convlens.explain.activations import activations
from convlens.explain.alignment import cka, compute_gram
from convlens.explain.layers import choose_layers
from support.looks import look_at, untrained


def watch(callback: LayerChanges, look, clock: int) -> dict:
    return dict(callback.pictures(replace(look, clock=clock)))


def shake(layer: torch.nn.Module, seed: int) -> None:
    """Change the weights of a layer, at random."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += (
                5 * parameter.std().nan_to_num(1) * torch.randn(parameter.shape, generator=rng)
            )


@pytest.fixture
def network():
    return untrained()


def collect(network, images) -> dict:
    layers = choose_layers(network, "auto", "stages", example=images[:1], limit=12)
    with evaluation_mode(network), torch.no_grad():
        found = activations(network, images, layers)
    return {layer: compute_gram(found.layers[layer])[None] for layer in layers}


def test_only_what_changed_and_what_follows_it_changes(network):
    look, callback = look_at(network), LayerChanges()
    start = collect(network, look.probes.images)
    layers = list(start)
    assert len(layers) > 1
    assert watch(callback, look, 0) == {}  # there is nothing to compare with
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    shake(convolutions[-1], 0)
    first = collect(network, look.probes.images)
    found = watch(callback, look, 1)
    assert isinstance(found.pop("layers/changes"), np.ndarray)
    assert list(found) == [f"explain/cka_{to}/{n}" for to in ("before", "start") for n in layers]
    for layer in layers[:-1]:
        assert found[f"explain/cka_before/{layer}"] == pytest.approx(1, abs=1e-6)
    last = found[f"explain/cka_before/{layers[-1]}"]
    assert last == pytest.approx(cka(first[layers[-1]], start[layers[-1]]), abs=1e-5)
    assert last < 0.99
    shake(convolutions[0], 1)
    second = collect(network, look.probes.images)
    found = watch(callback, look, 2)
    for layer in layers:
        for to, earlier in (("before", first), ("start", start)):
            expected = cka(second[layer], earlier[layer])
            assert found[f"explain/cka_{to}/{layer}"] == pytest.approx(expected, abs=1e-5)
    # the look at the end shows the same network
    assert watch(callback, replace(look, final=True), 2) == {}


def test_a_resumed_run_goes_on_comparing(network):
    look, whole, stopped = look_at(network), LayerChanges(), LayerChanges()
    for clock in (0, 1):
        for callback in (whole, stopped):
            watch(callback, look, clock)
        shake(network, clock)
    stored = io.BytesIO()
    torch.save(stopped.state_dict(), stored)
    stored.seek(0)
    resumed = LayerChanges()
    resumed.load_state_dict(torch.load(stored, weights_only=True))
    for clock in (2, 3):
        expected, found = (watch(callback, look, clock) for callback in (whole, resumed))
        assert found.keys() == expected.keys() and len(found) > 1
        for tag, value in found.items():
            np.testing.assert_array_equal(value, expected[tag])
        shake(network, clock)


def test_without_the_look_before_training_only_the_look_before_is_compared(network):
    look, callback = look_at(network), LayerChanges()
    assert watch(callback, look, 3) == {}
    found = watch(callback, look, 4)
    assert "layers/changes" in found
    assert {tag.split("/")[1] for tag in found} == {"changes", "cka_before"}


def test_what_cannot_be_compared_draws_nothing(network):
    look = look_at(network)
    names = ["p0", "p1", "p2"]
    probes = Probes(look.probes.images[:3], look.probes.labels[:3], names, names)
    few = replace(look, probes=probes)
    dense = look_at(untrained("model.filters=[]"))
    for each in (few, dense):
        callback = LayerChanges()
        assert watch(callback, each, 0) == watch(callback, each, 1) == {}
    assert LayerChanges().find_obstacle(dense.network, dense.example)
    assert not LayerChanges().find_obstacle(network, look.example)
