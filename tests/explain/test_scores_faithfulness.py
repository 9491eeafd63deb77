"""Faithfulness against closed forms, loops over single pictures and Quantus's pixel flipping."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convlens.core.errors import UserError
from convlens.explain import (
    adcc,
    coherency,
    complexity,
    faithfulness,
    grad_cam,
    insertion_deletion,
)
from support.explain_networks import ConvNet, InPlaceNet, pictures, seeded

IMAGES, TARGETS = pictures(4), torch.tensor([0, 1, 2, 3])
MAPS = torch.rand(4, 6, 6, generator=torch.Generator().manual_seed(5))
QUANTUS = json.loads(Path(__file__).with_name("quantus_numbers.json").read_text())


def judged(model, images, maps, targets, **how):
    """The scores of ``maps``, of an explanation that always gives the same ones."""
    return faithfulness(model, images, maps, targets, lambda _: maps, **how)


LOOKS = {
    "drop": lambda m: judged(m, IMAGES, MAPS, TARGETS).drop,
    "insertion_deletion": lambda m: insertion_deletion(m, IMAGES, MAPS, TARGETS, 4).deletion,
}


class Brightness(nn.Module):
    """One logit: the picture's mean, so that every number can be worked out by hand."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(4.0))

    def forward(self, x):
        return self.gain * x.mean((1, 2, 3))[:, None]


def unit(picture: torch.Tensor) -> torch.Tensor:
    return (picture - picture.min()) / (picture.max() - picture.min())


@pytest.mark.parametrize("baseline", ["mean", "zero"])
def test_drop_and_increase_equal_a_loop_over_single_pictures(baseline):
    model = seeded(ConvNet)
    drops = judged(model, IMAGES, MAPS, TARGETS, baseline=baseline, batch=3).drop
    rises = judged(model, IMAGES, MAPS, TARGETS, baseline=baseline).increase
    for i in range(4):
        weight = unit(F.interpolate(MAPS[None, i : i + 1], (24, 24), mode="bilinear")[0, 0])
        hidden = IMAGES[i].mean((1, 2))[:, None, None] if baseline == "mean" else 0.0
        shown = weight * IMAGES[i] + (1 - weight) * hidden
        with torch.no_grad():
            whole, kept = model(torch.stack([IMAGES[i], shown])).softmax(1)[:, i].tolist()
        assert drops[i] == pytest.approx(max(0, whole - kept) / whole, abs=1e-6)
        assert rises[i] == (kept > whole)
    assert 0 < rises.sum() < 4


def test_a_one_logit_network_is_read_as_two_classes():
    model, images = Brightness(), torch.full((2, 3, 8, 8), 0.5)
    maps = torch.zeros(2, 8, 8)
    maps[:, :4] = 1.0  # half of the picture stays, the rest turns black: the mean is halved
    targets = torch.tensor([1, 0])
    found = judged(model, images, maps, targets, baseline="zero")
    whole, kept = (1 / (1 + math.exp(-z)) for z in (2.0, 1.0))
    assert found.drop.tolist() == pytest.approx([1 - kept / whole, 0.0])
    assert found.increase.tolist() == [0.0, 1.0]
    drops = judged(model, images, maps, targets).drop
    assert drops.tolist() == pytest.approx([0, 0], abs=1e-6)


def test_insertion_and_deletion_of_a_one_logit_network_in_closed_form():
    images = torch.full((1, 3, 4, 4), 0.5)
    maps = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0))
    found = insertion_deletion(Brightness(), images, maps, torch.tensor([1]), 8, "zero")
    torch.testing.assert_close(found.shares, torch.linspace(0, 1, 9))
    torch.testing.assert_close(found.deletion[0], (2 * (1 - found.shares)).sigmoid())
    torch.testing.assert_close(found.insertion[0], torch.full((9,), 2.0).sigmoid())
    values = found.deletion[0].tolist()
    area = (sum(values) - (values[0] + values[-1]) / 2) / 8
    assert found.deletion_auc[0] == pytest.approx(area)
    assert found.insertion_auc[0] == pytest.approx(values[0])


def test_deletion_equals_the_pixel_flipping_of_quantus():
    case = {key: torch.tensor(value) for key, value in QUANTUS["pixel_flipping"].items()}
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 3, bias=False))
    model[1].weight.data = case["weights"]
    found = insertion_deletion(model, case["images"], case["maps"], case["targets"], 20, "zero")
    torch.testing.assert_close(found.deletion[:, 1:], case["curves"], rtol=1e-4, atol=1e-5)
    assert case["curves"].std(1).min() > 0.01


def test_insertion_goes_from_the_blur_to_the_picture_pixel_by_pixel():
    model, steps = seeded(ConvNet), 5
    found = insertion_deletion(model, IMAGES, MAPS, TARGETS, steps, batch=7)
    line = torch.arange(-5.0, 6.0)
    kernel = torch.exp(-(line[:, None] ** 2 + line**2) / 50)
    kernel = (kernel / kernel.sum()).expand(3, 1, 11, 11)
    for i in range(4):
        picture = IMAGES[i : i + 1]
        soft = F.conv2d(F.pad(picture, (5, 5, 5, 5), mode="replicate"), kernel, groups=3)
        grey = picture.mean((2, 3), keepdim=True)
        large = F.interpolate(MAPS[None, i : i + 1], (24, 24), mode="bilinear")[0, 0]
        order = sorted(range(576), key=lambda p: -float(large.flatten()[p]))
        for step in range(steps + 1):
            first = torch.zeros(576, dtype=torch.bool)
            first[order[: round(576 * step / steps)]] = True
            first = first.view(24, 24)
            pair = [torch.where(first, picture, soft), torch.where(first, grey, picture)]
            with torch.no_grad():
                inserted, deleted = model(torch.cat(pair)).softmax(1)[:, i].tolist()
            assert found.insertion[i, step] == pytest.approx(inserted, abs=1e-5)
            assert found.deletion[i, step] == pytest.approx(deleted, abs=1e-5)


def test_a_map_of_what_the_network_uses_beats_its_opposite():
    """The network sums the left half; deletion then falls early and insertion rises early."""

    class LeftHalf(nn.Module):
        def forward(self, x):
            return 40 * (x[..., :8].mean((1, 2, 3)) - 0.4)[:, None]

    images = torch.zeros(1, 3, 16, 16)
    images[..., 2:5] = 1.0  # narrow enough for the blur to dim it
    right_map = images[:, 0] + 0.01 * torch.rand(1, 16, 16)
    both = torch.cat([right_map, -right_map])
    model, target = LeftHalf(), torch.ones(2, dtype=torch.long)
    good = insertion_deletion(model, images.repeat(2, 1, 1, 1), both, target, 16, "zero")
    assert good.deletion_auc[0] < good.deletion_auc[1] - 0.2
    drops = judged(model, images.repeat(2, 1, 1, 1), both, target, baseline="zero").drop
    assert drops[0] < 0.1 < 0.9 < drops[1]


def test_complexity_is_the_mean_of_the_map_between_its_extremes():
    maps = torch.tensor([[[0.0, 1.0], [1.0, 2.0]], [[5.0, 5.0], [5.0, 9.0]]])
    assert complexity(maps).tolist() == [0.5, 0.25]
    assert complexity(torch.full((1, 3, 3), 0.1)).isnan().all()


def test_coherency_of_explanations_known_beforehand():
    assert coherency(IMAGES, MAPS, lambda _: 2 * MAPS).tolist() == pytest.approx([1] * 4)
    assert coherency(IMAGES, MAPS, lambda _: -MAPS).tolist() == pytest.approx([0] * 4, abs=1e-6)
    assert coherency(IMAGES, MAPS, lambda _: 0 * MAPS).isnan().all()
    seen = []
    large = torch.eye(24).expand(4, 24, 24)
    coherency(IMAGES, large, lambda kept: seen.append(kept) or large, baseline="zero")
    torch.testing.assert_close(seen[0], IMAGES * torch.eye(24))


def test_adcc_is_a_harmonic_mean():
    drop, same, simple = torch.rand(3, 50, generator=torch.Generator().manual_seed(0))
    scores = adcc(drop, same, simple)
    parts = torch.stack([same, 1 - simple, 1 - drop])
    torch.testing.assert_close(scores, 1 / (1 / parts).mean(0))
    nan = torch.tensor([math.nan])
    assert adcc(nan, torch.ones(1), torch.zeros(1)).isnan().all()
    assert adcc(torch.zeros(1), torch.ones(1), torch.zeros(1)).tolist() == [1.0]


@pytest.mark.parametrize("build", [ConvNet, InPlaceNet], ids=["classes", "one_logit"])
def test_faithfulness_is_the_scores_one_by_one(build):
    model = seeded(build)
    targets = torch.tensor([0, 1, 1, 0])
    layer = "conv2" if build is ConvNet else "features.2"

    def explain(images):
        return grad_cam(model, images, targets, [layer]).maps[layer][:, 0]

    maps = explain(IMAGES)
    assert (maps.amax((1, 2)) > 0).all()
    found = faithfulness(model, IMAGES, maps, targets, explain, batch=2)
    close = torch.testing.assert_close
    whole = judged(model, IMAGES, maps, targets)
    close(found.drop, whole.drop)
    close(found.increase, whole.increase)
    close(found.coherency, coherency(IMAGES, maps, explain), equal_nan=True)
    large = F.interpolate(maps[:, None], (24, 24), mode="bilinear")[:, 0]
    close(found.complexity, complexity(large))
    expected = adcc(found.drop, found.coherency, found.complexity)
    close(found.adcc, expected, equal_nan=True)
    assert not found.adcc.isnan().all()


def test_a_constant_map_is_nan_and_spoils_no_neighbour():
    model, maps = seeded(ConvNet), MAPS.clone()
    maps[1], maps[2] = 0.1, 0.0
    spoilt, sound = judged(model, IMAGES, maps, TARGETS), judged(model, IMAGES, MAPS, TARGETS)
    for name in ("drop", "increase"):
        scores = getattr(spoilt, name)
        assert scores.isnan().tolist() == [False, True, True, False]
        torch.testing.assert_close(scores[[0, 3]], getattr(sound, name)[[0, 3]])
    found = insertion_deletion(model, IMAGES, maps, TARGETS, 3)
    assert found.insertion_auc.isnan().tolist() == [False, True, True, False]
    assert found.deletion.isnan().all(1).tolist() == [False, True, True, False]
    whole = faithfulness(model, IMAGES, maps, TARGETS, lambda _: MAPS)
    assert whole.adcc.isnan().tolist() == [False, True, True, False]


@pytest.mark.parametrize("look", LOOKS)
def test_the_network_is_unchanged_and_the_state_of_the_caller_does_not_matter(look):
    model = seeded(ConvNet)
    expected = LOOKS[look](model)
    weights = copy.deepcopy(model.state_dict())
    model.train().bn1.eval()
    flags = [module.training for module in model.modules()]
    generator = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(LOOKS[look](model), expected)
    assert [module.training for module in model.modules()] == flags
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


def test_mistakes_are_named():
    model = seeded(ConvNet)
    with pytest.raises(UserError, match="targets must be classes 0 to 3"):
        judged(model, IMAGES, MAPS, TARGETS + 1)
    with pytest.raises(UserError, match=r"baseline=blurr: did you mean blur"):
        judged(model, IMAGES, MAPS, TARGETS, baseline="blurr")
    for steps in (0, 577):
        with pytest.raises(UserError, match=f"steps must be 1 to 576.*got {steps}"):
            insertion_deletion(model, IMAGES, MAPS, TARGETS, steps)
    with pytest.raises(ValueError, match="4 images need as many maps, got 2"):
        judged(model, IMAGES, MAPS[:2], TARGETS)
