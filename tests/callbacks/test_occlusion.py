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
from convlens.draw.canvas import GAP, PAD
from convlens.draw.colour import DIVERGING, colour_table
from convlens.draw.grad_cam_panel import ClassMap
from convlens.draw.palette import RED
from convlens.rundir.maps import IMAGE
from support.looks import NAMES, FakeClock, collect_maps, look_at, untrained
from support.panels import any_of


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

    def panel(picture, rows, *, title, note=None, **_):
        panels[title.split(" ")[0]] = rows, title, note
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(signed_maps, "attribution_panel", panel)
    return panels


def attached(callback, look):
    callback.attach(look.probes, NAMES, None, 0)
    return callback


def tags(callback, look) -> list[str]:
    return [tag for tag, value in callback.pictures(look) if isinstance(value, np.ndarray)]


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


def test_the_maps_are_kept_as_numbers_with_names(look, drawn):
    callback = attached(OcclusionMaps(only="all", probes=4, baseline=0.5), look)
    method, found = collect_maps(callback, look)
    assert (method, found.method, found.roles) == ("occlusion", "occlusion", ["predicted", "true"])
    assert list(found.probes) == ["p0", "p1", "p2", "p3"] and list(found.layers) == [IMAGE]
    maps = found.layers[IMAGE]
    assert maps.shape == (4, 2, 14, 14) and (maps[:3] < 0).any()
    predicted = [NAMES[k] for k in look.network(look.probes.images).argmax(1)]
    true = [NAMES[k] for k in look.probes.labels[:3]]
    assert [row[0] for row in found.classes] == predicted
    assert [row[1] for row in found.classes] == [*true, ""]  # unknown for p3
    assert np.isnan(maps[3, 1]).all() and np.isfinite(maps[:3]).all()
    shares = look.network(look.probes.images).detach().softmax(1).numpy()
    for number, column in np.ndindex(3, 2):
        target = NAMES.index(found.classes[number][column])
        assert found.probabilities[number, column] == pytest.approx(shares[number, target], 1e-5)
        theirs = CaptumOcclusion(look.network).attribute(
            look.probes.images[number : number + 1], target=target, baselines=0.5,
            sliding_window_shapes=(3, 4, 4), strides=(3, 2, 2),
        )  # fmt: skip
        pooled = torch.nn.functional.adaptive_avg_pool2d(theirs[0].mean(0)[None], 14)[0]
        np.testing.assert_allclose(maps[number, column], pooled, atol=1e-5)


def test_a_layers_maps_carry_its_name_and_one_target_has_one_role(look, drawn):
    callback = attached(Attribution(method="LayerGradCam", target="emu", probes=2), look)
    method, found = collect_maps(callback, look)
    assert method == "layer_grad_cam" and found.roles == ["target"]
    assert found.classes == [["emu"], ["emu"]]
    assert list(found.layers) == callback.layers_of(look) == ["backbone.block2.activation"]


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


def draw(values, **options) -> np.ndarray:
    """The panel of a map over a grey photograph of 320 × 320 pixels."""
    entry = ClassMap(np.asarray(values, np.float32), "dog", "predicted = true", 0.9)
    image = np.full((3, 320, 320), 120 / 255, np.float32)
    return attribution_panel(image, [entry], title="t", reading="r", **options)


def find_overlay(panel: np.ndarray) -> np.ndarray:
    """The overlay, to the right of the photograph."""
    top = int(np.argmax((panel[:, PAD] == 120).all(-1)))
    return panel[top : top + 320, PAD + 320 + GAP : PAD + 640 + GAP]


def blended(level: int, cover: float) -> np.ndarray:
    """The photograph in pale grey under a colour, by the formula: a = 0.75 · cover."""
    ground, a = 90 + (1 - 90 / 255) * 120, 0.75 * cover
    return np.rint((1 - a) * ground + a * colour_table(DIVERGING)[level].astype(float))


def test_signed_maps_are_symmetric_about_zero_whatever_their_sign():
    drawn = find_overlay(draw([[1.0, -2.0], [0.0, 2.0]]))
    corners = [drawn[place] for place in ((0, 0), (0, -1), (-1, 0), (-1, -1))]
    for colour, expected in zip(
        corners, (blended(191, 0.5), blended(0, 1), blended(128, 0), blended(255, 1)), strict=True
    ):
        assert (colour == expected).all()
    # of a map without negative values, 0 is the middle of the scale too
    drawn = find_overlay(draw([[1.0, 2.0], [0.0, 4.0]]))
    corners = [drawn[place] for place in ((0, 0), (0, -1), (-1, 0), (-1, -1))]
    for colour, expected in zip(
        corners,
        (blended(159, 0.25), blended(191, 0.5), blended(128, 0), blended(255, 1)),
        strict=True,
    ):
        assert (colour == expected).all()


def test_all_classes_share_a_scale():
    entries = [
        ClassMap(np.full((3, 3), value, np.float32), "a", role, 0.5)
        for value, role in ((4.0, "predicted"), (-2.0, "true"))
    ]
    image = np.full((3, 320, 320), 120 / 255, np.float32)
    panel = attribution_panel(image, entries, title="t", reading="r")
    assert (find_overlay(panel) == blended(255, 1)).all()
    assert (panel == blended(64, 0.5)).all(-1).sum() == 320 * 320


def test_empty_and_broken_maps_leave_the_photograph_and_are_named(recwarn):
    for values in (np.zeros((4, 4)), np.full((4, 4), np.nan)):
        panel = draw(values)
        assert (find_overlay(panel) == blended(128, 0)).all()
        assert any_of(panel, RED)  # letters
    assert not len(recwarn)
    assert not any_of(draw(np.ones((4, 4))), RED)


def test_a_few_extreme_pixels_do_not_take_all_the_colour():
    values = np.random.default_rng(0).normal(size=(64, 64))
    values[0, 0] = 1e6
    drawn = find_overlay(draw(values)).astype(int)
    spread = np.abs(drawn[..., 0] - drawn[..., 2])  # red against blue
    assert (spread > 15).mean() > 0.1  # of the whole overlay


def test_single_pixels_become_visible_by_smoothing():
    values = np.zeros((224, 224))
    values[::20, ::20] = 1.0

    def coloured(panel: np.ndarray) -> float:
        drawn = find_overlay(panel).astype(int)
        return float((drawn[..., 0] - drawn[..., 2] > 15).mean())

    assert coloured(draw(values, smooth=0.02)) > 5 * coloured(draw(values)) > 0
    # a map of few cells is drawn as it is
    few = np.eye(14)
    assert (draw(few) == draw(few, smooth=0.02)).all()
