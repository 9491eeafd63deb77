"""What FilterVisuals asks for at which look: units, class names, patches."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from convlens.callbacks import FilterVisuals
from convlens.callbacks import filter_visuals as module_under_test
from convlens.callbacks.look import Look

from convlens.core.errors import UserError
from convlens.explain.filters import AscentCost, estimate_ascent_cost
from support import looks
from support.looks import NAMES, untrained


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
    assert all(told["labels"] is None for layer, told in drawn.items() if layer != logits)


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
                assert told["note"] == "of 4 images"
        drawn.clear()
    draw(look, patches=0)
    assert drawn and all(told["patches"] is None for told in drawn.values())


def test_no_time_no_patches():
    look = replace(look_at(), deadline=time.perf_counter() + 100)
    callback = FilterVisuals()
    wanted = {"backbone.block2.conv": module_under_test._Units(8, [0, 1], None, None)}
    look.pace.note("pass", 1, 1.0)
    assert callback._search(look, wanted) == {}
    look.pace.note("pass", 1, 1e-3)
    assert list(callback._search(look, wanted)) == list(wanted)


def test_validation_pictures_are_searched_where_they_can_be_had(drawn):
    asked = []

    def source(count):
        asked.append(count)
        generator = torch.Generator().manual_seed(1)
        return iter(torch.rand(20, 3, 16, 16, generator=generator).split(12))

    draw(replace(look_at(), sample_images=source), patch_pictures=20)
    assert asked == [20]
    assert {told["note"] for told in drawn.values()} == {"of 20 images"}


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


def test_what_there_is_no_time_for_is_not_begun(drawn, monkeypatch):
    """Layers take 1 s for each two units: of 4.5 s the conv gets its share, then the rest."""
    monkeypatch.setattr(
        module_under_test, "estimate_ascent_cost", lambda *told, **more: AscentCost(1.0, 2)
    )
    look = look_at()
    asked = {}
    for seconds in (-1.0, 0.5, 2.5, 4.5, float("inf")):
        draw(replace(look, deadline=time.perf_counter() + seconds), units=4)
        asked[seconds] = [told["units"] for told in drawn.values()]
        for told in drawn.values():  # patches, where time allows them, are of the units shown
            assert told["patches"] is None or len(told["patches"]) == len(told["units"])
        drawn.clear()
    assert asked[-1.0] == asked[0.5] == []
    assert asked[float("inf")] == [(0, 2, 3, 4), (0, 2, 4, 6), (0, 1, 2)]


def test_no_unit_is_affordable_once_the_time_is_over():
    """Another layer, or the search for patches, may have taken longer than estimated."""
    callback, look = FilterVisuals(), look_at()
    callback._costs["a"] = AscentCost(1.0, 2)
    for seconds in (-30.0, -0.1):
        late = replace(look, deadline=time.perf_counter() + seconds)
        assert callback._count_affordable(late, "a", 4, waiting=2) == 0


def test_cost_is_told_before_the_ascent():
    model = untrained()
    cost = estimate_ascent_cost(model, "backbone.block2.conv", 5, size=16, channels=3, steps=10)
    assert cost.units == 5 and 0 < cost.seconds < 5
    cost = AscentCost(2.0, 3)
    assert cost.count_affordable(5.9) == 6 and cost.count_affordable(1.9) == 0
    with pytest.raises(UserError, match="no layer 'block9'"):
        estimate_ascent_cost(model, "block9", 5, size=16, channels=3, steps=10)
