"""Lessons about learning, checked with closed forms, least squares and torch's own optimizer."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from convlens.cli import lesson as command
from convlens.cli.main import main
from convlens.core.errors import UserError
from convlens.lessons.functions import ACTIVATIONS, compute_slope
from convlens.lessons.learning import network
from convlens.lessons.learning.charts import MOST, descent_chart, network_chart
from convlens.lessons.learning.curves import (
    activations_chart,
    compute_loss_curves,
    losses_chart,
    softmax_chart,
)
from convlens.lessons.learning.network import Settings, make_points, train
from convlens.lessons.learning.one_weight import (
    INPUTS,
    TARGETS,
    compute_curvature,
    compute_gradient,
    compute_loss,
    descend,
    find_best_weight,
)
from support.panels import assert_margin_is_empty

# --- one weight


@pytest.mark.parametrize("weight", [-3.0, 0.0, 0.5, 2.0, 40.0])
def test_loss_and_slope_are_those_of_plain_arithmetic(weight):
    errors = [weight * x - y for x, y in zip(INPUTS, TARGETS, strict=True)]
    assert compute_loss(weight) == pytest.approx(sum(e * e for e in errors) / 5, rel=1e-12)
    h = 1e-5
    slope = (compute_loss(weight + h) - compute_loss(weight - h)) / (2 * h)
    assert compute_gradient(weight) == pytest.approx(float(slope), rel=1e-6, abs=1e-6)


def test_the_lowest_point_is_that_of_least_squares():
    (expected,), *_ = np.linalg.lstsq(INPUTS[:, None], TARGETS, rcond=None)
    assert find_best_weight() == pytest.approx(expected, rel=1e-12)
    assert compute_gradient(expected) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("rate", [0.01, 0.8, 2.1, 2.2, 2.4, 5.0])
@pytest.mark.parametrize("start", [-4.0, 0.0, 3.0])
def test_every_step_multiplies_the_distance_by_one_minus_rate_times_curvature(rate, start):
    descent, best = descend(rate, 20, start), find_best_weight()
    factor = 1 - rate * compute_curvature()
    expected = [best + (start - best) * factor**step for step in range(21)]
    assert descent.weights == pytest.approx(expected, rel=1e-9)
    assert descent.losses == pytest.approx([float(compute_loss(w)) for w in expected], rel=1e-9)


def test_above_two_over_the_curvature_the_loss_rises():
    limit = 2 / compute_curvature()
    below, above = descend(0.99 * limit, 50, 0), descend(1.01 * limit, 50, 0)
    assert (np.diff(below.losses) < 0).all() and (np.diff(above.losses) > 0).all()


# --- a small network


def settings(**changes) -> Settings:
    plain = {
        "rate": 0.5, "activation": "relu", "loss": "cross_entropy", "hidden": (8, 8),
        "steps": 1000, "seed": 0,
    }  # fmt: skip
    return Settings(**plain | changes)


@pytest.mark.parametrize(
    ("activation", "kind"), [("relu", nn.ReLU), ("tanh", nn.Tanh), ("none", nn.Identity)]
)
@pytest.mark.parametrize("loss", network.LOSSES)
@pytest.mark.parametrize("hidden", [(3,), (5, 4)])
def test_a_network_learns_as_with_torchs_optimizer(activation, kind, loss, hidden):
    sizes = (2, *hidden, 1)
    layers = [nn.Linear(before, after) for before, after in itertools.pairwise(sizes)]
    start = network._initialise(sizes, torch.Generator().manual_seed(4))
    for layer, weight, bias in zip(layers, start[::2], start[1::2], strict=True):
        layer.weight.data, layer.bias.data = weight.detach().T.clone(), bias.detach().clone()
    modules = [module for layer in layers for module in (layer, kind())][:-1]
    reference, (points, labels) = nn.Sequential(*modules), make_points(3)
    optimizer, losses = torch.optim.SGD(reference.parameters(), lr=0.3), []
    for _ in range(31):
        logits = reference(points)[:, 0]
        if loss == "cross_entropy":
            value = functional.binary_cross_entropy(logits.sigmoid(), labels)
        else:
            value = functional.mse_loss(logits.sigmoid(), labels)
        losses.append(value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    found = train(settings(rate=0.3, activation=activation, loss=loss, hidden=hidden, steps=30,
                           seed=3))  # fmt: skip
    assert found.losses == pytest.approx(losses, rel=1e-4)


def test_points_are_a_disc_and_a_ring():
    for seed in range(3):
        points, labels = make_points(seed)
        radius = points.norm(dim=1)
        assert points.shape == (network.POINTS, 2) and labels.mean() == 0.5
        assert radius[labels == 0].max() < 0.5 < 0.6 < radius[labels == 1].min()
        assert radius.max() < 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_without_activations_a_network_draws_only_a_straight_line(seed):
    with_them, without = (train(settings(activation=name, seed=seed)) for name in ("relu", "none"))
    assert with_them.accuracy > 0.95 and without.accuracy < 0.75
    logits = without.map.double().logit()
    across, down = logits.diff(dim=1), logits.diff(dim=0)
    # a plane over the grid: the same slope everywhere
    assert (across - across.mean()).abs().max() < 1e-3 and (down - down.mean()).abs().max() < 1e-3


def test_a_step_that_is_too_large_ruins_the_network():
    good, bad = (train(settings(rate=rate)) for rate in (0.5, 100.0))
    assert good.losses[-1] < 0.1 and bad.accuracy < 0.75
    ended = train(settings(rate=1e30, activation="none", loss="cross_entropy"))
    assert len(ended.losses) < 1001 and all(map(math.isfinite, ended.losses))


def test_the_map_is_what_the_network_answers_with_row_0_at_the_top():
    """A network that learned only the vertical position answers with equal rows."""
    found = train(settings(steps=300))
    line = torch.linspace(-network.EDGE, network.EDGE, network.GRID)
    centre, corner = found.map[network.GRID // 2, network.GRID // 2], found.map[0, 0]
    assert centre < 0.5 < corner and found.map.shape == (len(line), len(line))


def test_lessons_draw_from_no_shared_generator():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    train(settings(steps=5))
    descend(0.1, 5, 0.0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


# --- curves


def test_loss_curves_are_their_closed_forms():
    z = torch.linspace(-8, 8, 33, dtype=torch.float64)
    p = 1 / (1 + torch.exp(-z))
    curves = compute_loss_curves(z)
    expected = {
        "cross_entropy": (torch.log1p(torch.exp(-z)), p - 1),
        "squared_error": ((1 - p) ** 2, -2 * (1 - p) * p * (1 - p)),
    }
    assert set(curves) == set(expected)
    for name, pair in expected.items():
        for found, wanted in zip(curves[name], pair, strict=True):
            assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_of_activations_are_finite_differences(name):
    x, h = torch.tensor([-3.1, -0.7, 0.4, 2.3], dtype=torch.float64), 1e-6
    function = ACTIVATIONS[name]
    expected = (function(x + h) - function(x - h)) / (2 * h)
    assert torch.allclose(compute_slope(function, x), expected, atol=1e-6)


@pytest.mark.parametrize("count", range(1, MOST + 1))
def test_charts_are_cut_off_nowhere(count):
    rates = [10.0 ** (number - 2) for number in range(count)]
    assert_margin_is_empty(descent_chart([descend(rate, 200, -3.0) for rate in rates]))
    results = [train(settings(rate=rate, steps=3)) for rate in rates]
    assert_margin_is_empty(network_chart(results))


def test_charts_of_functions_are_cut_off_nowhere():
    for chart in (activations_chart(), losses_chart(), softmax_chart([1, -2, 0.5, 3, 3])):
        assert_margin_is_empty(chart)
        assert chart.dtype == np.uint8 and chart.std() > 10


# --- the command


def run(capsys, *words: str) -> list[str]:
    assert command.run(list(words)) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("topic", command.TOPICS)
def test_every_topic_gives_a_picture_and_numbers(topic, at, capsys):
    lines = run(capsys, f"about={topic}", "run_dir=here")
    assert (at / "here" / "lesson.jpg").stat().st_size > 10_000
    assert lines[-1] == "picture  here/lesson.jpg" and len(lines) > 1


def test_softmax_is_that_of_plain_arithmetic(at, capsys):
    lines = run(capsys, "about=softmax", "logits=2,1,-1")
    powers = [math.exp(value) for value in (2, 1, -1)]
    assert [float(word) for word in lines[2].split()[1:4]] == pytest.approx(
        [power / sum(powers) for power in powers], abs=5e-4
    )
    assert float(lines[1].split()[-1]) == pytest.approx(sum(powers), rel=1e-3)


def test_the_first_step_is_written_with_its_numbers(at, capsys):
    lines = run(capsys, "about=one_weight", "lr=0.5", "steps=3", "start=1")
    gradient = compute_gradient(1.0)
    assert f"w = 1.000 − 0.5 · ({gradient:.3f}) = {1 - 0.5 * gradient:.3f}" in lines[1]
    assert "w arrives" in lines[2]
    assert "w moves away" in run(capsys, "about=one_weight", "lr=2.3")[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "lesson needs about="),
        (["about=weights"], "about=weights"),
        (["about=losses", "lr=1"], "lr=: the lesson about=losses does not use it"),
        (["about=one_weight", "activation=relu"], "it takes lr, steps, start"),
        (["about=network", "speed=1"], "lesson has no such key"),
        (["about=one_weight", "lr="], "lr=: expected a value, such as lr=0.1"),
        (["about=one_weight", "lr=0"], "lr=0: 0 is out of range; use numbers above 0"),
        (["about=one_weight", "lr=nan"], "lr=nan: nan is out of range"),
        (["about=one_weight", "lr=1,2,3,4,5,6"], "expected 1 to 5 numbers"),
        (["about=one_weight", "steps=0"], "steps=0: expected a whole number"),
        (["about=one_weight", "steps=1e9"], "steps=1e9: expected a whole number"),
        (["about=one_weight", "steps=99999"], "steps=99999: at most 10000"),
        (["about=one_weight", "start=1,2"], "expected one number"),
        (["about=network", "activation=rely"], "did you mean relu"),
        (["about=network", "loss=mse"], "loss=mse: no such loss"),
        (["about=network", "hidden=0"], "hidden=0: expected a whole number"),
        (["about=network", "hidden=8,9999"], "at most 6 layers of at most 256 units"),
        (["about=network", "seed=-1"], "seed=-1: expected a whole number"),
        (["about=network", "lr=1,2,3", "activation=relu,tanh"], "make 6 networks"),
        (["about=softmax", "logits=1"], "expected 2 to 5 numbers"),
        (["about=softmax", "logits=1,99"], "99 is out of range; use numbers from -30 to 30"),
    ],
)
def test_mistakes_get_one_line(at, words, message):
    with pytest.raises(UserError, match=message) as caught:
        command.run(words)
    assert "\n" not in str(caught.value) and not list(at.iterdir())


def test_an_earlier_picture_is_not_overwritten(at, capsys):
    assert main(["lesson", "about=losses", "run_dir=here"]) == 0
    assert main(["lesson", "about=losses", "run_dir=here"]) == 2
    assert "already contains lesson.jpg" in capsys.readouterr().err
