"""Validation images in two dimensions: aligned from look to look, also after a resume."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from convlens.callbacks import FeatureSpace, feature_space

from convlens.explain.feature_space import project
from convlens.explain.penultimate import read_features
from support.looks import look_at, probes, train_small, untrained

TAG = "layers/feature_space"


@pytest.fixture(scope="module")
def network():
    return untrained()


@pytest.fixture
def drawn(monkeypatch):
    """What the callback asks to draw: places, labels and mistakes of each look."""
    calls = []

    def note(points, thumbnails, labels, wrong, *rest, **others):
        calls.append((points, labels.tolist(), wrong.tolist()))
        assert len(thumbnails) == len(points)
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(feature_space, "feature_space", note)
    return calls


def watch(callback: FeatureSpace, look, clock: int) -> dict:
    return dict(callback.pictures(replace(look, clock=clock)))


def turn_features(network: torch.nn.Module, seed: int) -> None:
    """Turn what the last layer reads of all images, and enlarge it."""
    linear = network.head.logits
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(seed)))[0]
    linear.register_forward_pre_hook(lambda _, args: (2 * args[0] @ turn,))


def test_the_picture_is_that_of_the_last_layer_and_stays_turned_as_it_was(drawn):
    network = untrained()
    look, callback = look_at(network, wrong=2), FeatureSpace()
    assert callback.layers_of(look) == ["head.logits"]
    assert list(watch(callback, look, 0)) == [TAG]
    features, _ = read_features(network, look.probes.images, "head.logits")
    first, labels, wrong = drawn[-1]
    np.testing.assert_allclose(first, project(features).points, atol=1e-6)
    assert labels == look.probes.labels.tolist()
    assert wrong == [False, False, True, False]
    turn_features(network, 0)
    watch(callback, look, 1)
    np.testing.assert_allclose(drawn[-1][0], 2 * first, atol=1e-5)


def test_a_real_picture_is_not_blank(network):
    picture = watch(FeatureSpace(), look_at(network), 0)[TAG]
    assert picture.dtype == np.uint8 and picture.std() > 5


def test_a_resumed_run_draws_the_same(network):
    look, whole, stopped = look_at(network), FeatureSpace(), FeatureSpace()
    other = look_at(untrained("seed=5"))
    for callback in (whole, stopped):
        watch(callback, look, 0)
    stored = io.BytesIO()
    torch.save(stopped.state_dict(), stored)
    stored.seek(0)
    resumed = FeatureSpace()
    resumed.load_state_dict(torch.load(stored, weights_only=True))
    for clock in (1, 2):
        expected, found = (watch(callback, other, clock) for callback in (whole, resumed))
        np.testing.assert_array_equal(found[TAG], expected[TAG])
    assert not np.array_equal(expected[TAG], watch(FeatureSpace(), other, 2)[TAG])


def test_without_time_nothing_or_less_is_drawn(network, drawn):
    callback = FeatureSpace()
    late = replace(look_at(network), deadline=0.0)
    assert watch(callback, late, 0) == {} and "before the first image" in callback.cut
    few = look_at(network)
    few = replace(few, probes=replace_probes(few.probes, 2))
    assert watch(FeatureSpace(), few, 0) == {}


def replace_probes(all_of_them, count: int):
    names = all_of_them.names[:count]
    return replace(
        all_of_them, images=all_of_them.images[:count], labels=all_of_them.labels[:count],
        names=names, sources=names,
    )  # fmt: skip


def test_a_diverged_network_draws_nothing_and_the_next_look_goes_on(drawn, caplog):
    network = untrained()
    look, callback = look_at(network), FeatureSpace()
    watch(callback, look, 0)
    layer = network.head.dense1
    weights = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.fill_(torch.nan)
    assert watch(callback, look, 1) == {}
    assert "no image has finite features" in caplog.text
    with torch.no_grad():
        layer.weight.copy_(weights)
    watch(callback, look, 2)
    np.testing.assert_allclose(drawn[0][0], drawn[-1][0], atol=1e-12)


def test_several_classes_and_unknown_ones(network, drawn):
    look = look_at(network, unknown=1)
    watch(FeatureSpace(), look, 0)
    assert drawn[-1][1:] == ([*look.probes.labels.tolist()], [False] * 4)
    shares = network(look.probes.images).sigmoid()
    present = shares >= 0.5
    present[3, 0] = ~present[3, 0]
    look = replace(
        look, probes=replace(look.probes, present=present), thresholds=torch.full((3,), 0.5)
    )
    watch(FeatureSpace(), look, 0)
    assert drawn[-1][2] == [False, False, False, True]


def test_alone_in_another_project_and_weights_unchanged(tmp_path):
    shown = probes(6)
    callback = FeatureSpace().watch(shown.images, shown.labels, ("a", "b"), folder=tmp_path)
    module, alone = train_small([callback]), train_small([])
    for name, value in module.state_dict().items():
        assert torch.equal(value, alone.state_dict()[name])
    files = sorted(file.parts[-3] for file in tmp_path.rglob("feature_space.jpg"))
    assert files == [f"epoch_{k:03d}" for k in range(4)]
