"""What transformers show in a run: LeGrad, attention, scores, an alarm. Others show nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from convlens.callbacks import (
    ActivationGrids,
    AttentionMaps,
    AttentionScores,
    LeGrad,
    Scores,
    attention_maps,
    attention_scores,
)
from convlens.callbacks.explanation import Explanation
from convlens.callbacks.logging.writing import write_finding
from convlens.callbacks.look import Look
from torch import Tensor, nn

from convlens import open_run
from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.data.probes import Probes
from convlens.experiment.assemble import build_callbacks
from convlens.experiment.module import build_module
from convlens.explain import legrad
from convlens.explain.attention import attention_maps as find_attention
from convlens.explain.attention_scores import attention_distance, head_diversity, head_entropy
from convlens.explain.rollout import attention_rollout
from convlens.explain.scores import energy_inside
from convlens.rundir.maps import Maps
from convlens.training import evidence_alarms
from support.attention_networks import PLAIN, WINDOWED, lively_network
from support.looks import PICTURE, Small, collect_maps, probes, train_small
from support.tiny import TINY, TINY_VIT

NAMES = ("cat", "dog", "emu")
OURS = {"LeGrad", "AttentionMaps", "AttentionScores"}


def look_at(network: nn.Module, clock: int = 0, masks: Tensor | None = None, **more) -> Look:
    """Three probes of 32×32 pixels; the first is predicted wrongly."""
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    dtype = next(network.parameters()).dtype
    labels = network(images.to(dtype)).argmax(1)
    labels[0] = (labels[0] + 1) % 3
    names = [f"p{k}" for k in range(3)]
    given = Probes(images, labels, names, names, masks=masks)
    return Look(network, given, NAMES, clock, more.pop("final", False), float("inf"), 0, **more)


def list_pictures(callback: Explanation, look: Look) -> list[str]:
    return [tag for tag, value in callback.pictures(look) if isinstance(value, np.ndarray)]


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    return lively_network(PLAIN["registers"]).float()


@pytest.fixture
def drawn(monkeypatch) -> list:
    """What the panels of attention and of norms are drawn from."""
    rows: list = []

    def draw(image, given, **options):
        rows.append((given, options))
        return PICTURE

    for module in (attention_maps, attention_scores):
        monkeypatch.setattr(module, "attention_panel", draw)
    return rows


def test_maps_of_legrad_are_those_of_the_function(vit):
    look = look_at(vit)
    method, found = collect_maps(LeGrad(batch=2), look)
    assert method == "legrad" and found.roles == ["predicted", "true"]
    targets = torch.stack([torch.full((3,), -1), look.probes.labels], 1)
    expected = legrad(vit, look.probes.images, targets)
    np.testing.assert_allclose(found.layers["all blocks"], expected.maps, rtol=1e-4, atol=1e-7)
    assert found.classes[1][0] == NAMES[int(expected.targets[1, 0])]
    assert list_pictures(LeGrad(), look) == ["legrad/p0", "legrad/p1", "legrad/p2"]


def test_the_panel_of_attention_draws_what_the_functions_return(vit, drawn):
    look = look_at(vit)
    found = list_pictures(AttentionMaps(limit=1, heads=1, probes=3), look)
    assert found == [f"layers/attention/p{k}" for k in range(3)]
    maps = find_attention(vit, look.probes.images).maps
    (layer, *_), rollout = maps, attention_rollout(vit, look.probes.images)
    for number, (rows, options) in enumerate(drawn):
        heads, rolled = rows
        assert (heads.name, [m.name for m in heads.maps]) == (layer, ["head 1"])
        torch.testing.assert_close(heads.maps[0].map, maps[layer][number, 0])
        torch.testing.assert_close(rolled.maps[0].map, rollout[number])
        assert "not evidence" in options["reading"] and f"p{number}" in options["title"]
    with pytest.raises(UserError, match="no layer of attention matches 'blocks.9.attn': did you"):
        AttentionMaps(layers="blocks.9.attn").select_layers(vit, look.example)


@pytest.mark.parametrize("name", ["vit", "mean", "windows"])
def test_attention_is_kept_as_numbers_of_every_head(name, drawn, tmp_path):
    """Networks with a class token, a mean of patches, and windows with 2 and with 4 heads."""
    network = lively_network(WINDOWED["timm"] if name == "windows" else PLAIN[name]).float()
    look, callback = look_at(network, clock=3), AttentionMaps(batch=1, heads=1, probes=3)
    callback.folder = tmp_path / "explanations"
    for tag, value in callback.pictures(look):
        if isinstance(value, Maps):
            write_finding(None, callback, tag, value, look.clock)
    (tmp_path / "config.yaml").write_text("experiment: scratch\n")
    run, expected = open_run(tmp_path), find_attention(network, look.probes.images).maps
    kept = run.maps("attention", epoch=3)
    assert list(kept.probes) == look.probes.names and list(kept.layers) == list(expected)
    most = max(each.shape[1] for each in expected.values())
    assert most == (4 if name == "windows" else 2)
    assert list(kept.roles) == [f"head {number}" for number in range(1, most + 1)]
    assert {word for row in kept.classes for word in row} == {""}
    assert np.isnan(kept.probabilities).all()
    for layer, maps in expected.items():
        found, heads = kept.layers[layer], maps.shape[1]
        # a map of 16×16 is kept as its means over 14×14 cells
        small = torch.nn.functional.adaptive_avg_pool2d(maps, min(14, maps.shape[-1])).numpy()
        np.testing.assert_allclose(found[:, :heads], small, rtol=0, atol=small.max() * 2**-11)
        assert np.isnan(found[:, heads:]).all()
    assert not run.class_maps  # the viewer shows evidence for classes
    if name == "windows":
        with pytest.raises(UserError, match="has no maps of rollout"):
            run.maps("rollout")
        return
    rollout = attention_rollout(network, look.probes.images).numpy()
    rolled = run.maps("rollout")
    assert list(rolled.roles) == ["all heads"] and rolled.values.shape[:3] == (3, 1, 1)
    np.testing.assert_allclose(rolled.layers["all blocks"][:, 0], rollout, atol=2**-11)


def test_scores_of_attention_are_those_of_the_functions(vit, drawn):
    look, callback = look_at(vit), AttentionScores(batch=2)
    found = {tag: value for tag, value in callback.pictures(look) if isinstance(value, float)}
    recorded = find_attention(vit, look.probes.images)
    for layer, weights in recorded.weights.items():
        distance = attention_distance(weights, recorded.tokens[layer], (32, 32)) / 32 / 2**0.5
        for score, values in (
            ("head_entropy", head_entropy(weights)),
            ("head_diversity", head_diversity(weights)),
            ("attention_distance", distance),
        ):  # fmt: skip
            wanted = pytest.approx(float(values.mean()), rel=1e-4)
            assert found.pop(f"explain/{score}/{layer}") == wanted
    assert found == {"explain/norm_outliers": 0.0}
    again = dict(callback.pictures(look_at(vit, 1)))
    assert again["explain/token_drift"] == pytest.approx(0, abs=1e-5)
    assert not list(callback.pictures(look_at(vit, 1)))  # once for each clock
    tags = [tag for tag, _ in callback.pictures(look_at(vit, 1, final=True))]
    assert tags == [f"layers/depth/{score}" for score in attention_scores.SCORES]
    kept = AttentionScores()
    kept.load_state_dict(callback.state_dict())
    assert kept.state_dict().keys() == callback.state_dict().keys()


def test_planted_outliers_raise_the_alarm_and_are_drawn(vit, drawn):
    """The paper's registers: one patch of the background, of another length in each image."""
    prefix = 5  # a class token and four registers

    def plant(_, args, output):
        output = output.clone()
        output[:, prefix] *= 40
        return output

    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[:, 16:] = True  # half of the 16 patches are background, among them the first
    callback = AttentionScores(probes=1)
    with vit.blocks[-1].register_forward_hook(plant):
        found = dict(callback.pictures(look_at(vit, masks=masks)))
    share = found["explain/norm_outliers"]
    assert share == pytest.approx(1 / 8)
    line = evidence_alarms.check_norm_outliers(found, share=0.01)
    assert line.startswith("12.5% of the patches of the background have tokens of far larger norm;")
    ((rows, options),) = drawn
    norms, above = rows[0].maps
    assert above.map.nonzero().tolist() == [[0, 0]] and norms.map.argmax() == 0
    assert options["reading"].startswith("Outliers: 1 of 16 patches, with a norm above")
    silent = dict(callback.pictures(look_at(vit, 1)))
    assert evidence_alarms.check_norm_outliers(silent, share=0.01) is None
    # a run of an earlier version
    assert evidence_alarms.check_norm_outliers(found, share=None) is None
    assert evidence_alarms.check_norm_outliers({}, share=0.0) is None


def test_windows_have_attention_and_no_legrad(drawn):
    swin = lively_network(WINDOWED["timm"]).float()
    look = look_at(swin)
    found = list_pictures(AttentionMaps(), look)
    assert found == ["layers/attention/p0", "layers/attention/p1"]
    assert [row.name for row in drawn[0][0]] == list(find_attention(swin, look.example).maps)
    assert not list(LeGrad().pictures(look))
    found = dict(AttentionScores().pictures(look))
    kinds = {tag.split("/")[1] for tag in found}
    assert kinds == {"head_entropy", "head_diversity"} and all(0 <= v <= 1 for v in found.values())


@pytest.mark.parametrize("words", [TINY, TINY_VIT], ids=["convolutional", "vit"])
def test_a_run_leaves_out_what_its_network_has_not(words):
    config = compose([*words, "callbacks=default"])
    looks, _, left_out = build_callbacks(config, build_module(config, list(NAMES)))
    names = {look.name for look in looks}
    assert {"GradCam", "Scores"} <= names
    if words == TINY_VIT:
        assert names >= OURS and not left_out
        return
    assert not OURS & names
    assert left_out.keys() == OURS
    assert set(left_out.values()) == {
        "Classifier has no attention with a matrix of weights: use grad_cam"
    }


@pytest.mark.parametrize(
    "word", ["callbacks.legrad.pool=mean", "callbacks.scores.method=legrad",
             "callbacks.attention_maps.layers=*"],
)  # fmt: skip
def test_what_was_named_is_refused_in_one_line(word):
    config = compose([*TINY, word])
    with pytest.raises(UserError, match="has no attention with a matrix of weights: use grad_cam"):
        build_callbacks(config, build_module(config, list(NAMES)))


def test_in_a_strangers_project_one_line_says_why(caplog):
    given = probes()
    callbacks = [LeGrad(), AttentionMaps(), AttentionScores(), ActivationGrids()]
    for each in callbacks:
        each.watch(given.images, given.labels, ("a", "b"))
    train_small(callbacks, epochs=2)
    said = [r.message for r in caplog.records if " draws nothing: " in r.message]
    warned = [r for r in caplog.records if r.levelname == "WARNING" and r.message in said]
    assert {line.split(" ")[0] for line in said} == OURS and len(warned) == 3
    assert Small.__name__ in said[0]


def test_scores_can_be_those_of_legrad(vit):
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[:, :16, :16] = True
    look = look_at(vit, masks=masks)
    found = dict(Scores(which="all", method="legrad", steps=4, layers="norm").pictures(look))
    maps = legrad(vit, look.probes.images, torch.full((3,), -1)).maps[:, 0]
    inside = float(energy_inside(maps, masks).mean())
    assert found["explain/energy_inside"] == pytest.approx(inside, rel=1e-4)
    assert {"explain/insertion", "explain/deletion", "explain/pointing_game"} <= found.keys()
    other = dict(Scores(method="grad_cam", layers="norm").pictures(look))
    assert other["explain/energy_inside"] != found["explain/energy_inside"]
    with pytest.raises(UserError, match=r"callbacks.scores.method=cam: did you mean grad_cam\?"):
        Scores(method="cam")
