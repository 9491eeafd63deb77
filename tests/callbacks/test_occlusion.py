"""Occlusion and attribution callbacks draw what explain/ computes, within their budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from captum.attr import Occlusion as CaptumOcclusion
from convlens.callbacks import Attribution, OcclusionMaps, signed_maps

from convlens.core.errors import UserError
from convlens.draw.attribution_panel import attribution_panel
from convlens.draw.canvas import PAD
from convlens.draw.colour import DIVERGING, HEAT, colour_table
from convlens.draw.grad_cam_panel import ClassMap
from support.looks import NAMES, FakeClock, look_at, untrained


@pytest.fixture(scope="module")
def network():
    return untrained()


@pytest.fixture
def look(network):
    return look_at(network, wrong=0, unknown=3)


@pytest.fixture
def drawn(monkeypatch) -> dict:
    """Title's first word -> (rows, title, note) of every panel asked for."""
    panels = {}

    def panel(picture, rows, *, title, note=None):
        panels[title.split(" ")[0]] = rows, title, note
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(signed_maps, "attribution_panel", panel)
    return panels


def attached(callback, look):
    callback.attach(look.probes, NAMES, None, 0)
    return callback


def tags(callback, look) -> list[str]:
    return [tag for tag, _ in callback.pictures(look)]


def test_occlusion_draws_captums_maps(look, drawn):
    callback = attached(OcclusionMaps(only="all", probes=4, baseline=0.5), look)
    assert tags(callback, look) == [f"occlusion/p{i}" for i in range(4)]
    roles = [[row.role for row in drawn[f"p{i}"][0]] for i in range(4)]
    right = ["predicted = true"]
    assert roles == [["predicted", "true"], right, right, ["predicted"]]
    assert "window 4×4, stride 2×2" in drawn["p0"][1]
    shares = look.network(look.probes.images).detach().softmax(1)
    for number in range(4):
        for row in drawn[f"p{number}"][0]:
            target = NAMES.index(row.class_name)
            assert row.probability == pytest.approx(float(shares[number, target]), abs=1e-6)
            theirs = CaptumOcclusion(look.network).attribute(
                look.probes.images[number : number + 1], target=target, baselines=0.5,
                sliding_window_shapes=(3, 4, 4), strides=(3, 2, 2),
            )  # fmt: skip
            torch.testing.assert_close(row.map, theirs[0].mean(0), atol=1e-5, rtol=0)


def test_which_probes_are_shown(look, drawn):
    def shown(**words):
        return tags(attached(OcclusionMaps(superpixels=True, segments=4, **words), look), look)

    # p1 and p2 are of one class, that of p3 is not known
    assert shown() == ["occlusion/p1", "occlusion/p3"]
    assert shown(probes=9) == ["occlusion/p1", "occlusion/p2", "occlusion/p3"]
    assert shown(only="wrong", probes=9) == ["occlusion/p0", "occlusion/p3"]
    assert shown(only="all", probes=1) == ["occlusion/p0"]
    assert "4 superpixels" in drawn["p0"][1]


def test_nothing_to_draw_is_said(look):
    look.probes.labels[:] = (look.network(look.probes.images).argmax(1) + 1) % 3
    callback = attached(OcclusionMaps(), look)
    said = []
    callback.log_once = lambda key, line: said.append(line)
    assert tags(callback, look) == []
    assert "only=correct" in said[0]


def test_the_budget_ends_a_look_before_a_probe_it_cannot_pay_and_the_next_begins_there(
    look, drawn, monkeypatch
):
    callback = attached(OcclusionMaps(only="all", probes=3), look)
    clock, compute = FakeClock(monkeypatch), callback.explain
    callback.explain = lambda *given: (clock.spend(0.25), compute(*given))[1]

    def within(seconds):
        return tags(callback, replace(look, clock=1, deadline=clock.now + seconds))

    assert within(0.125) == ["occlusion/p0"]  # timed: of the first it is not known what it takes
    assert within(0.125) == []
    assert within(0.25) == ["occlusion/p1"]
    assert within(60) == ["occlusion/p3", "occlusion/p0", "occlusion/p1"]
    assert within(0.625) == ["occlusion/p0", "occlusion/p1"]
    assert within(60) == ["occlusion/p3", "occlusion/p0", "occlusion/p1"]
    assert within(60) == ["occlusion/p0", "occlusion/p1", "occlusion/p3"]


def test_attribution_draws_captums_maps(look, drawn):
    callback = attached(Attribution(options={"n_steps": 6}, batch=4), look)
    assert tags(callback, look) == ["integrated_gradients/p0", "integrated_gradients/p1"]
    for row in drawn["p0"][0]:
        theirs = IntegratedGradients(look.network).attribute(
            look.probes.images[:1], target=NAMES.index(row.class_name), n_steps=6
        )
        torch.testing.assert_close(row.map, theirs[0].sum(0).float(), atol=1e-5, rtol=0)
    assert "integrated gradients" in drawn["p0"][1] and drawn["p0"][2] is None


def test_a_layers_attribution_and_a_named_class(look, drawn):
    layer = "backbone.block1.activation"
    callback = attached(
        Attribution(method="LayerGradCam", layer=layer, target="emu", probes=1), look
    )
    assert callback.select_layers(look.network, look.example) == [layer]
    assert tags(callback, look) == ["layer_grad_cam/p0"]
    (row,), title, _ = drawn["p0"]
    assert (row.class_name, row.role) == ("emu", "target") and layer in title
    assert row.map.shape == (16, 16)


def test_plan_tells_the_tags_that_are_drawn(look):
    for callback in (OcclusionMaps(only="all"), Attribution(method="saliency", probes=9)):
        attached(callback, look)
        planned = callback.plan(
            callback.select_layers(look.network, look.example), len(look.probes)
        )
        names = tags(callback, look)
        assert [tag.replace("<probe>", "") for tag in planned] == [names[0].removesuffix("p0")]
        assert len(names) == sum(planned.values())


def test_mistakes_are_told_before_training(look):
    cases = [
        (OcclusionMaps(window=0.1, stride=0.5), "stride 8 must be between"),
        (OcclusionMaps(window=1.5), "expected a fraction"),
        (OcclusionMaps(baseline="grey"), "neither a number nor"),
        (OcclusionMaps(only="corect"), "did you mean correct"),
        (OcclusionMaps(target="emo"), "did you mean emu"),
        (Attribution(options={"n_step": 3}), "did you mean n_steps"),
        (Attribution(layer="conv"), "leave layer out"),
        (Attribution(method="layer_grad_cam", layer="backbone.block1.con"), "did you mean"),
    ]
    for callback, message in cases:
        with pytest.raises(UserError, match=message):
            attached(callback, look).select_layers(look.network, look.example)
    with pytest.raises(UserError, match="did you mean guided_grad_cam"):
        Attribution(method="guided_gradcams")


def panel_of(values) -> np.ndarray:
    entry = ClassMap(np.asarray(values, np.float32), "dog", "predicted = true", 0.9)
    return attribution_panel(np.full((3, 192, 192), 0.5, np.float32), [entry], title="t")


def map_of(panel) -> np.ndarray:
    """The map's pixels: the second of three columns of 192, above a caption."""
    bottom = panel.shape[0] - PAD - 15 - 2
    return panel[bottom - 192 : bottom, PAD + 200 : PAD + 392]


def test_signed_maps_are_symmetric_about_zero_and_positive_ones_are_heat():
    drawn = map_of(panel_of([[1.0, -2.0], [0.0, 2.0]]))
    colours, at = colour_table(DIVERGING), [(0, 0), (0, 191), (191, 0), (191, 191)]
    levels = [191, 0, 128, 255]  # 1, -2, 0 and 2 between -2 and 2
    assert [drawn[place].tolist() for place in at] == [colours[k].tolist() for k in levels]
    drawn = map_of(panel_of([[1.0, 2.0], [0.0, 4.0]]))
    assert [drawn[place].tolist() for place in at] == [
        colour_table(HEAT)[k].tolist() for k in (64, 128, 0, 255)
    ]


def test_empty_and_broken_maps_are_neutral_and_said():
    zero = map_of(panel_of(np.zeros((4, 4))))
    assert (zero == colour_table(HEAT)[0]).all()
    alarm = [panel_of(m) for m in (np.zeros((4, 4)), np.full((4, 4), np.nan))]
    for panel in alarm:
        caption = panel[-PAD - 15 : -PAD, PAD + 200 : PAD + 392].astype(int)
        assert (caption[..., 0] - caption[..., 1] > 100).any()  # red letters


def test_a_few_extreme_pixels_do_not_take_all_the_colour():
    values = np.random.default_rng(0).normal(size=(64, 64))
    values[0, 0] = 1e6
    drawn = map_of(panel_of(values))
    assert (drawn == colour_table(DIVERGING)[0]).all(-1).any()
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 100
