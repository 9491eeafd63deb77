"""The three default callbacks draw what explain/ computes, for who the probes are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from convlens.callbacks import ActivationGrids, FilterVisuals, GradCam
from convlens.callbacks import grad_cam as module_under_test
from convlens.callbacks.look import Look

from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.experiment.module import build_module
from support.looks import NAMES, look_at, untrained
from support.tiny import TINY


@pytest.fixture
def network():
    return untrained()


@pytest.fixture
def look(network):
    return look_at(network, wrong=1, unknown=2)


def test_grad_cam_draws_captums_maps(look, monkeypatch):
    drawn = {}

    def panel(picture, rows, *, title):
        drawn[title.split(" ")[0]] = rows
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(module_under_test, "grad_cam_panel", panel)
    callback = GradCam()
    callback.attach(look.probes, NAMES, None, 0)
    assert [tag for tag, _ in callback.pictures(look)] == [f"grad_cam/p{i}" for i in range(4)]

    answers = look.network(look.probes.images).softmax(1)
    layer = look.network.backbone.block2.activation
    for number in range(4):
        rows = drawn[f"p{number}"]
        roles = {0: ["predicted = true"], 1: ["predicted", "true"], 2: ["predicted = true"]}
        if number != 2:
            assert [row.role for row in rows] == roles.get(number, roles[0])
        for row in rows:
            target = NAMES.index(row.class_name)
            assert row.probability == pytest.approx(float(answers[number, target]), abs=1e-6)
            captum = LayerGradCam(look.network, layer).attribute(
                look.probes.images[number : number + 1], target, relu_attributions=True
            )
            torch.testing.assert_close(row.map, captum[0, 0].detach(), atol=1e-5, rtol=0)


def test_unknown_truth_is_not_judged(look, monkeypatch):
    roles = []
    monkeypatch.setattr(
        module_under_test,
        "grad_cam_panel",
        lambda picture, rows, title: roles.append([row.role for row in rows]) or picture,
    )
    callback = GradCam()
    callback.attach(look.probes, NAMES, None, 0)
    list(callback.pictures(look))
    assert roles[2] == ["predicted"]


def test_a_named_class_is_explained_for_all(look):
    callback = GradCam(target="emu")
    callback.attach(look.probes, NAMES, None, 0)
    assert (callback._targets(look) == 2).all()
    callback = GradCam(target="emo")
    callback.attach(look.probes, NAMES, None, 0)
    with pytest.raises(UserError, match="did you mean emu"):
        callback.select_layers(look.network, look.example)


def rows_drawn(callback, look, monkeypatch) -> dict[str, list]:
    """What the callback gives to the panel, by probe."""
    drawn = {}

    def panel(picture, rows, *, title):
        drawn[title.split(" ")[0]] = rows
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(module_under_test, "grad_cam_panel", panel)
    assert [tag for tag, _ in callback.pictures(look)] == [f"grad_cam/p{i}" for i in range(4)]
    return drawn


def test_several_layers_share_a_panel_and_are_captums(look, monkeypatch):
    callback = GradCam(layers="*.activation*")
    callback.attach(look.probes, NAMES, None, 0)
    with pytest.raises(UserError):
        callback.select_layers(look.network, look.example) and list(callback.pictures(look))
    layers = ["backbone.block1.activation", "backbone.block2.activation"]
    callback = GradCam(layers=layers)
    callback.attach(look.probes, NAMES, None, 0)
    drawn = rows_drawn(callback, look, monkeypatch)
    for number in range(4):
        for row in drawn[f"p{number}"]:
            assert [one.layer for one in row.others] + [row.layer] == layers
            for layer, found in zip(layers, [row.others[0].map, row.map], strict=True):
                expected = LayerGradCam(look.network, look.network.get_submodule(layer)).attribute(
                    look.probes.images[number : number + 1],
                    NAMES.index(row.class_name),
                    relu_attributions=True,
                )
                torch.testing.assert_close(found, expected[0, 0].detach(), atol=1e-5, rtol=1e-5)


def test_colours_keep_their_scale_when_evidence_fades_also_after_a_resume(look, monkeypatch):
    callback = GradCam()
    callback.attach(look.probes, NAMES, None, 0)
    before = rows_drawn(callback, look, monkeypatch)
    last = [m for m in look.network.modules() if isinstance(m, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight.mul_(0.5)  # all logits, and so all evidence, halved; the answers stay
        last.bias.mul_(0.5)
    resumed = GradCam()
    resumed.attach(look.probes, NAMES, None, 0)
    resumed.load_state_dict(callback.state_dict())
    for again in (callback, resumed):
        after = rows_drawn(again, look, monkeypatch)
        for probe, rows in before.items():
            for old, new in zip(rows, after[probe], strict=True):
                torch.testing.assert_close(new.map, old.map / 2)
                assert new.scale == old.scale >= float(old.map.max())


def test_plan_tells_the_tags_that_are_drawn(look):
    for callback in (GradCam(), ActivationGrids(), FilterVisuals(units=1, steps=1)):
        callback.attach(look.probes, NAMES, None, 0)
        layers = callback.select_layers(look.network, look.example)
        planned = callback.plan(layers, len(look.probes))
        drawn = [tag for tag, _ in callback.pictures(look)]
        assert len(drawn) == sum(planned.values())
        for tag in planned:
            pattern = tag.split("<probe>")[0]
            assert [name for name in drawn if name.startswith(pattern)], tag


def test_dense_network_has_no_map_and_says_so(look, caplog):
    config = compose([*TINY, "model.filters=[]"])
    dense = build_module(config, list(NAMES)).model
    empty = Look(dense, look.probes, NAMES, 0, False, float("inf"), 0)
    for callback, count in ((GradCam(), 0), (ActivationGrids(), 0), (FilterVisuals(units=1), 2)):
        callback.attach(look.probes, NAMES, None, 0)
        assert len(list(callback.pictures(empty))) == count
