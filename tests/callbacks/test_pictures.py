"""The three default callbacks draw what explain/ computes, for who the probes are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from convlens.callbacks import ActivationGrids, FilterVisuals, GradCam
from convlens.callbacks import evidence_maps as module_under_test
from convlens.callbacks.look import Look

from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.experiment.module import build_module
from convlens.rundir.maps import FILE, read_maps, write_maps
from support.looks import NAMES, collect_maps, look_at, untrained
from support.tiny import TINY


@pytest.fixture
def network():
    return untrained()


@pytest.fixture
def look(network):
    return look_at(network, wrong=1, unknown=2)


def test_grad_cam_draws_captums_maps(look, monkeypatch):
    callback = GradCam()
    callback.attach(look.probes, NAMES, None, 0)
    drawn = rows_drawn(callback, look, monkeypatch)
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
        lambda picture, rows, **_: roles.append([row.role for row in rows]) or np.zeros((8, 8, 3)),
    )
    callback = GradCam()
    callback.attach(look.probes, NAMES, None, 0)
    list(callback.pictures(look))
    assert roles[2] == ["predicted"]


def test_a_named_class_is_explained_for_all(look):
    callback = GradCam(target="emu")
    callback.attach(look.probes, NAMES, None, 0)
    _, found = collect_maps(callback, look)
    assert found.roles == ["target"] and found.classes == [["emu"]] * 4
    callback = GradCam(target="emo")
    callback.attach(look.probes, NAMES, None, 0)
    with pytest.raises(UserError, match="did you mean emu"):
        callback.select_layers(look.network, look.example)


def rows_drawn(callback, look, monkeypatch) -> dict[str, list]:
    """What the callback gives to the panel, by probe."""
    drawn = {}

    def panel(picture, rows, *, title, **_):
        drawn[title.split(" ")[0]] = rows
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(module_under_test, "grad_cam_panel", panel)
    assert list_tags(callback, look) == [f"grad_cam/p{i}" for i in range(4)]
    return drawn


def list_tags(callback, look) -> list[str]:
    """The tags of the pictures."""
    return [tag for tag, value in callback.pictures(look) if isinstance(value, np.ndarray)]


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
                pooled = average(expected[0, 0].detach().numpy(), 14)
                np.testing.assert_allclose(found, pooled, atol=1e-5, rtol=1e-5)


def average(values: np.ndarray, side: int) -> np.ndarray:
    """Mean over the cells that each of at most ``side`` cells a side covers, even in part."""
    height, width = (min(side, each) for each in values.shape)
    result = np.zeros((height, width))
    for y, x in np.ndindex(height, width):
        top, left = y * values.shape[0] // height, x * values.shape[1] // width
        bottom, right = (
            -(-(y + 1) * values.shape[0] // height), -(-(x + 1) * values.shape[1] // width)
        )  # fmt: skip
        result[y, x] = values[top:bottom, left:right].mean()
    return result


def test_the_maps_in_the_file_are_captums_averaged_to_14_cells(look, tmp_path):
    layers = ["backbone.block1.activation", "backbone.block2.activation"]
    callback = GradCam(layers=layers, classes=3)
    callback.attach(look.probes, NAMES, None, 0)
    method, found = collect_maps(callback, look)
    write_maps(tmp_path / "epoch_000", found)
    stored = read_maps(tmp_path / "epoch_000" / FILE)[method]
    assert stored.roles == ["predicted", "true", "2nd"] and list(stored.layers) == layers
    assert stored.layers[layers[0]].shape == (4, 3, 14, 14)
    shares = look.network(look.probes.images).softmax(1).detach().numpy()
    for number, column in np.ndindex(4, 3):
        name, image = stored.classes[number][column], look.probes.images[number : number + 1]
        if (number, column) == (2, 1):  # its true class is unknown
            assert name == "" and all(np.isnan(m[2, 1]).all() for m in stored.layers.values())
            continue
        target = NAMES.index(name)
        ranks = {"predicted": 0, "2nd": 1}
        if (role := stored.roles[column]) in ranks:
            assert target == np.argsort(-shares[number])[ranks[role]]
        else:
            assert target == look.probes.labels[number]
        assert stored.probabilities[number, column] == pytest.approx(shares[number, target], 1e-5)
        for layer in layers:
            theirs = LayerGradCam(look.network, look.network.get_submodule(layer)).attribute(
                image, target, relu_attributions=True
            )
            expected = average(theirs[0, 0].detach().double().numpy(), 14)
            difference = np.abs(stored.layers[layer][number, column] - expected).max()
            assert difference <= 2**-11 * expected.max() + 1e-7


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
        drawn = list_tags(callback, look)
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
        assert len(list_tags(callback, empty)) == count
