"""What FilterVisuals asks for at which look: units, class names, patches, time."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from convlens.callbacks import FilterVisuals, Ledger, Looks
from convlens.callbacks import filter_visuals as module_under_test
from convlens.callbacks.explanation import Explanation
from convlens.callbacks.look import Look
from convlens.callbacks.pace import Pace

from convlens.core.errors import UserError
from convlens.experiment.methods import draw_filter_panels
from convlens.explain import layers as layers_module
from convlens.explain import unit_effects
from convlens.explain.ascent import Ascent
from convlens.explain.filters import estimate_step_seconds
from convlens.explain.units import Units
from support import looks
from support.looks import NAMES, FakeClock, Small, probes, untrained
from support.token_networks import timm_vit


def look_at(*words: str, names=NAMES) -> Look:
    return looks.look_at(untrained(*words, names=names), names=names)


@pytest.fixture
def drawn(monkeypatch) -> dict:
    """The arguments of each layer's sheet, by layer."""
    sheets = {}

    def sheet(images, units, *, title, **told):
        sheets[title.split(" ")[0]] = {"images": images, "units": units, **told}
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(module_under_test, "filter_sheet", sheet)
    return sheets


def draw(look, **options) -> FilterVisuals:
    callback = FilterVisuals(**{"steps": 2, "units": 2, "full_units": 4} | options)
    callback.attach(look.probes, look.class_names, None, 0)
    list(callback.pictures(look))
    return callback


def test_units_of_the_logits_bear_the_names_of_the_classes(drawn):
    draw(look_at(), full_units=None, units=3)
    logits = list(drawn)[-1]
    assert drawn[logits]["labels"] == list(NAMES) and drawn[logits]["units"] == (0, 1, 2)
    for layer, told in drawn.items():
        if layer != logits:
            assert told["labels"] == [
                f"unit {u} · rank {r}" for r, u in enumerate(told["units"], 1)
            ]


def test_the_units_that_matter_most_for_the_predictions_are_shown(drawn):
    look = look_at()
    draw(look, units=3)
    layers = [layer for layer in drawn if "logits" not in layer]
    effects = unit_effects(look.network, look.probes.images, layers)
    for layer in layers:
        strongest = effects[layer].abs().mean(0).topk(3).indices.tolist()
        assert drawn[layer]["units"] == tuple(strongest)
        assert drawn[layer]["choice"].endswith("on 4 images (output × gradient)")
    least = [layer for layer in layers if drawn[layer]["units"] != (0, 1, 2)]
    assert least, "they are not simply the first ones"


def test_the_units_are_chosen_anew_at_each_look(drawn):
    look = look_at()
    draw(look, units=2)
    before = {layer: told["units"] for layer, told in drawn.items()}
    with torch.no_grad():  # another network answers: other units matter
        for parameter in look.network.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
            )
    draw(look, units=2)
    assert before != {layer: told["units"] for layer, told in drawn.items()}


def test_units_may_be_spread_evenly(drawn):
    draw(look_at(), units=4, choose="even")
    assert [told["units"] for told in drawn.values()] == [(0, 2, 3, 4), (0, 2, 4, 6), (0, 1, 2)]
    told, *_, logits = drawn.values()
    assert told["labels"][1] == "unit 2" and "evenly spread" in told["choice"]
    assert logits["choice"] is None


def test_without_time_for_a_single_probe_the_units_are_spread_evenly_and_it_is_said():
    look = replace(look_at(), deadline=time.perf_counter() + 100)
    look.pace.note("pass", 1, 7.0)  # one probe takes four of them, more than a quarter of the time
    layer, callback = "backbone.block2.conv", FilterVisuals(units=2)
    chosen = callback._choose_units(look, [layer])[layer]
    assert chosen.units == [0, 3] and chosen.choice.endswith(
        "for lack of time to find those that matter most"
    )
    look = replace(look, pace=Pace())
    look.pace.note("pass", 1, 1e-3)
    chosen = callback._choose_units(look, [layer])[layer]
    assert chosen.ranked and chosen.choice.endswith("(output × gradient)")


def test_one_logit_is_shown_for_both_classes(drawn):
    look = look_at("training.loss=binary", names=NAMES[:2])
    draw(look, patches=1)
    told = drawn[list(drawn)[-1]]
    assert told["labels"] == ["cat (-logit)", "dog (+logit)"] and told["units"] == (0, 0)
    with torch.no_grad():
        logits = look.network(look.probes.images).flatten()
    expected = look.probes.images[[int(logits.argmin()), int(logits.argmax())]]
    torch.testing.assert_close(told["patches"][:, 0], expected)
    assert not torch.equal(*told["images"])


def test_patches_come_at_the_first_look_and_the_last(drawn):
    look = look_at()
    for clock, final, shown in ((0, False, True), (1, False, False), (2, True, True)):
        draw(replace(look, clock=clock, final=final), patches=3)
        for told in drawn.values():
            assert (told["patches"] is not None) == shown
            if shown:
                assert told["patches"].shape[:2] == (len(told["units"]), 3)
                assert told["source"] == "4 validation images"
        drawn.clear()
    draw(look, patches=0)
    assert drawn and all(told["patches"] is None for told in drawn.values())


def test_patches_of_as_many_layers_as_there_is_time_for():
    """Of 100 s a quarter is for the search; a layer takes 8 passes, the images 8 more."""
    look = replace(look_at(), deadline=time.perf_counter() + 100)
    callback = FilterVisuals()
    layers = ["head.logits", "backbone.block2.conv"]
    wanted = {layer: Units(8, [0, 1], ["a", "b"]) for layer in layers}
    for seconds, count in ((2.0, 0), (1.2, 1), (1e-3, 2)):
        look = replace(look, pace=Pace())
        look.pace.note("pass", 1, seconds)
        assert list(callback._search(look, wanted)) == layers[:count]


def test_validation_pictures_are_searched_where_they_can_be_had(drawn):
    asked = []

    def source(count):
        asked.append(count)
        generator = torch.Generator().manual_seed(1)
        return iter(torch.rand(20, 3, 16, 16, generator=generator).split(12))

    draw(replace(look_at(), sample_images=source), patch_pictures=20)
    assert asked == [20]
    assert {told["source"] for told in drawn.values()} == {"20 validation images"}


def test_the_search_ends_with_its_time():
    batches = iter([torch.zeros(20, 3, 4, 4)] * 3)
    parts = [len(part) for part in module_under_test._take_until(time.perf_counter() - 1, batches)]
    assert parts == [8]
    parts = [len(part) for part in module_under_test._take_until(float("inf"), batches)]
    assert parts == [8, 8, 4] * 2


def test_a_wrong_recipe_is_told_before_training():
    look = look_at()
    with pytest.raises(UserError, match="did you mean robust"):
        FilterVisuals(recipe="robst").select_layers(look.network, look.example)


# --- time


class Cost:
    """What forward passes cost, on a clock of the test: each ``step`` s for each image."""

    def __init__(self, monkeypatch, step: float, *, estimate: float | None = None):
        self.clock, self.began = FakeClock(monkeypatch), {}
        real, whole = Ascent.mean_outputs, module_under_test.unit_effects

        def mean_outputs(ascent, images, units):
            self.clock.spend(step * len(units))
            return real(ascent, images, units)

        def effects(network, images, layers, **more):
            self.clock.spend(step * len(images))
            return whole(network, images, layers, **more)

        monkeypatch.setattr(Ascent, "mean_outputs", mean_outputs)
        monkeypatch.setattr(module_under_test, "unit_effects", effects)
        estimate = step if estimate is None else estimate
        monkeypatch.setattr(
            module_under_test, "estimate_step_seconds", lambda *told, **more: estimate
        )


def look_with(seconds: float, clock: FakeClock, **more) -> Look:
    look = replace(look_at(), deadline=clock.now + seconds, clock=1, **more)
    look.pace.note("pass", 1, 0.01)
    for cells in (1, 2, 3, 4):
        look.pace.note("filter cells", cells, 1e-4 * cells)
    return look


def test_what_there_is_no_time_for_is_not_begun(drawn, monkeypatch):
    """A unit takes eleven passes of 0.1 s, the probes 0.4 s; the layers have 4, 4 and 3 units."""
    cost = Cost(monkeypatch, 0.1)
    asked = {}
    for seconds in (0.5, 3.9, 7.0, 13.0):
        callback = draw(look_with(seconds, cost.clock), units=4, steps=10)
        asked[seconds] = [len(told["units"]) for told in drawn.values()]
        assert bool(callback.cut) == (sum(asked[seconds]) < 11)
        drawn.clear()
    assert asked == {0.5: [], 3.9: [1, 1, 1], 7.0: [2, 2, 2], 13.0: [4, 4, 3]}


@pytest.mark.parametrize("wrong", [0.1, 0.5, 0.87, 1.0, 4.0])
@pytest.mark.parametrize("seconds", [0.3, 1.0, 5.0])
def test_the_deadline_holds_however_wrong_an_estimate_is(drawn, monkeypatch, wrong, seconds):
    """Ascent is stopped between two steps; only a step and the last pass may reach beyond."""
    cost = Cost(monkeypatch, 0.05, estimate=wrong * 0.05)
    look = look_with(seconds, cost.clock)
    draw(look, units=4, steps=10)
    images_in_a_batch = 4
    assert cost.clock.now <= look.deadline + 2 * 0.05 * images_in_a_batch
    for told in drawn.values():
        assert len(told["labels"]) == len(told["units"]) == len(told["images"])


def test_an_ascent_that_is_stopped_says_after_how_many_steps(drawn, monkeypatch):
    cost = Cost(monkeypatch, 0.05, estimate=0.001)
    draw(look_with(2.0, cost.clock), units=4, steps=30)
    told = next(iter(drawn.values()))
    steps = {label.rpartition(" · ")[2] for label in told["labels"]}
    assert len(steps) == 1 and steps.pop() in {f"{n} of 30 steps" for n in range(3, 12)}
    assert all(label.startswith("unit ") for label in told["labels"])
    drawn.clear()
    draw(look_at(), units=4, steps=30)
    assert not any("steps" in label for told in drawn.values() for label in told["labels"])


def test_at_the_end_a_sheet_of_one_layer_is_drawn_in_the_time_that_is_left(drawn, monkeypatch):
    cost = Cost(monkeypatch, 0.05)
    for final, layers in ((False, 0), (True, 1)):
        look = look_with(0.4, cost.clock, final=final)  # a unit would take 1.5 s
        callback = draw(look, steps=30, patches=0)
        assert len(drawn) == layers and "0 of" in callback.cut
        assert cost.clock.now <= look.deadline + 2 * 0.05
    (told,) = drawn.values()
    assert len(told["units"]) == 1 and told["labels"][0].endswith("of 30 steps")


class Greedy(Explanation):
    """Takes all the time that it is given."""

    def __init__(self, clock: FakeClock):
        super().__init__()
        self.clock = clock

    def pictures(self, look: Look):
        look.pace.note("pass", 1, 0.01)  # measured before
        self.clock.now = max(self.clock.now, look.deadline)
        return iter(())


@pytest.mark.parametrize("seconds", [0.0, 1.0, 4.0, 20.0])
def test_others_leave_time_for_the_sheet_at_the_end(drawn, monkeypatch, seconds):
    """All together keep to the time of the end, plus a tenth and a pass, and one line tells."""
    cost = Cost(monkeypatch, 0.01)
    filters = FilterVisuals(patches=0)
    order = [Greedy(cost.clock), filters, Greedy(cost.clock)]
    for each in order:
        each.attach(probes(), ("a", "b"), None, 0)
    trainer = SimpleNamespace(is_global_zero=True, loggers=[], callbacks=[], datamodule=None)
    ledger = Ledger(at_end=seconds, floor=1.0)
    looks_ = Looks(order, ledger=ledger)
    began = cost.clock.now
    looks_.look(trainer, Small(), order, 3, final=True)
    assert cost.clock.now - began <= 1.1 * seconds + 0.01
    assert bool(drawn) == (seconds > 0)
    if seconds == 0.0:
        assert filters.cut == "FilterVisuals: no time left at the end; raise Ledger(at_end=…)"
        assert not ledger.failures


def test_cost_is_told_before_the_ascent():
    model = untrained()
    step = estimate_step_seconds(model, "backbone.block2.conv", 5, size=16, channels=3)
    assert 0 < step < 1
    with pytest.raises(UserError, match="no layer 'block9'"):
        estimate_step_seconds(model, "block9", 5, size=16, channels=3)


def test_a_look_need_not_find_the_layers_that_were_found_before_training(drawn, monkeypatch):
    look, callback = look_at(), FilterVisuals(steps=2, units=2)
    callback.attach(look.probes, look.class_names, None, 0)
    callback.select_layers(look.network, look.example)
    monkeypatch.setattr(module_under_test, "find_logits_layer", None)
    monkeypatch.setattr(layers_module, "trace", None)
    assert len(list(callback.pictures(look))) == 1 + len(drawn) == 4


def test_embeddings_of_a_transformer_are_drawn():
    """Positions at every look; principal components of the patches first and last."""
    network = timm_vit(img_size=16, patch_size=4).eval()
    look, callback = looks.look_at(network), FilterVisuals(steps=1, units=1, limit=2, patches=0)
    positions, components = "layers/filters/pos_embed", "layers/filters/patch_embed.proj/components"
    for clock, final, shown in ((0, False, True), (1, False, False), (2, True, True)):
        found = dict(callback.pictures(replace(look, clock=clock, final=final)))
        assert positions in found and (components in found) == shown
    named = dict(FilterVisuals(layers="head", steps=1, units=1).pictures(look))
    assert list(named) == ["layers/filters/head"]
    panels = draw_filter_panels(network, (3, 16, 16), NAMES, "auto", seed=0)
    assert {positions, components} <= panels.keys()
