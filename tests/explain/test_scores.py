"""Scores of maps against closed forms, loops over pixels and Quantus's numbers."""

import json
import math
from pathlib import Path

import pytest
import torch

from convlens.explain import (
    border_energy,
    confident_mistakes,
    energy_inside,
    entropy,
    peak_position,
    pearson,
    pointing_game,
    spearman,
)

QUANTUS = json.loads(Path(__file__).with_name("quantus_numbers.json").read_text())
MASKED = [pointing_game, energy_inside]
ALONE = [peak_position, border_energy, entropy]
PAIRED = [pearson, spearman]


def made(count: int = 5, height: int = 12, width: int = 14, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, height, width, generator=torch.Generator().manual_seed(seed))


def boxes(count: int = 5, height: int = 12, width: int = 14) -> torch.Tensor:
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for i in range(count):
        masks[i, i : i + 4, 2 * i : 2 * i + 3] = True
    return masks


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("PointingGame", lambda m, s, _: pointing_game(m, s)),
        ("AttributionLocalisation", lambda m, s, _: energy_inside(m, s)),
        ("RelevanceMassAccuracy", lambda m, s, _: energy_inside(m, s)),
        ("Complexity", lambda m, s, _: entropy(m) * math.log(m[0].numel())),
        ("correlation_pearson", lambda m, _, o: pearson(m, o)),
        ("correlation_spearman", lambda m, _, o: spearman(m, o)),
    ],
)
def test_numbers_equal_those_of_quantus(name, ours):
    maps, others = (torch.tensor(QUANTUS[key], dtype=torch.float64) for key in ("maps", "others"))
    theirs = torch.tensor(QUANTUS["numbers"][name], dtype=torch.float64)
    masks = torch.tensor(QUANTUS["masks"]).bool()
    assert theirs.unique().numel() > 1
    torch.testing.assert_close(ours(maps, masks, others), theirs, rtol=1e-7, atol=1e-9)
    single = ours(maps.float(), masks, others.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, theirs.float(), rtol=1e-4, atol=1e-5)


def test_pointing_game_of_a_shared_peak_needs_one_place_on_the_object():
    maps, masks = torch.zeros(1, 5, 5), torch.zeros(1, 5, 5, dtype=torch.bool)
    maps[0, 0, 0] = maps[0, 4, 4] = 2.0
    masks[0, 2, 2] = True
    assert pointing_game(maps, masks).tolist() == [0.0]
    masks[0, 4, 4] = True
    assert pointing_game(maps, masks).tolist() == [1.0]


def test_the_mask_is_not_written_to():
    masks = boxes()
    before = masks.clone()
    pointing_game(made(), masks)
    assert torch.equal(masks, before)


def test_energy_inside_equals_sums_and_ignores_what_speaks_against():
    maps, masks = made() - 0.3, boxes()
    for score, picture, mask in zip(energy_inside(maps, masks), maps, masks, strict=True):
        values = [max(0.0, v) for v in picture[mask].tolist()]
        total = sum(max(0.0, v) for v in picture.flatten().tolist())
        assert score == pytest.approx(sum(values) / total, rel=1e-5)
    uniform = energy_inside(torch.full((5, 12, 14), 0.1), masks)
    torch.testing.assert_close(uniform, masks.float().mean((-2, -1)))


def test_maps_are_brought_to_the_size_of_the_masks():
    small = made(3, 4, 5)
    masks = boxes(3)
    large = torch.nn.functional.interpolate(small[:, None], (12, 14), mode="bilinear")[:, 0]
    for score in MASKED:
        assert torch.equal(score(small, masks), score(large, masks))


def test_peak_position_is_a_pixels_centre_at_any_resolution():
    maps = torch.zeros(2, 4, 10)
    maps[0, 3, 0] = 1.0
    maps[1, 0, 9] = maps[1, 2, 2] = 5.0  # of equal peaks the first
    torch.testing.assert_close(peak_position(maps), torch.tensor([[0.875, 0.05], [0.125, 0.95]]))


@pytest.mark.parametrize("size", [(7, 7), (10, 20), (1, 3), (224, 31)])
@pytest.mark.parametrize("width", [0.0, 0.1, 0.25, 0.37, 0.5])
def test_border_energy_of_a_uniform_map_is_the_frames_area(size, width):
    score = border_energy(torch.full((1, *size), 0.3), width)
    assert score[0] == pytest.approx(1 - (1 - 2 * width) ** 2, abs=1e-5)


def test_border_energy_of_corner_and_centre():
    maps = torch.zeros(3, 20, 20)
    maps[0, 0, 0] = maps[1, 10, 10] = maps[2, 10, 2] = 1.0
    assert border_energy(maps).tolist() == [1.0, 0.0, 0.0]
    assert border_energy(maps, 0.125).tolist() == [1.0, 0.0, 0.5]  # the frame ends in mid-pixel
    with pytest.raises(ValueError, match="width"):
        border_energy(maps, 0.6)


def test_entropy_from_one_place_to_everywhere():
    maps = torch.zeros(4, 6, 6)
    maps[0, 2, 2] = 7.0
    maps[1, :2, :3] = 0.1
    maps[2] = 1e-30
    maps[3] = made(1, 6, 6)[0]
    values = entropy(maps)
    expected = torch.tensor([0.0, math.log(6) / math.log(36), 1.0])
    torch.testing.assert_close(values[:3], expected)
    share = (maps[3] / maps[3].sum()).flatten().tolist()
    assert values[3] == pytest.approx(-sum(p * math.log(p) for p in share) / math.log(36), rel=1e-5)
    assert entropy(torch.ones(2, 1, 1)).isnan().all()


def test_correlations_of_scaled_shifted_and_opposite_maps():
    maps = made()
    for score in (pearson, spearman):
        torch.testing.assert_close(score(maps, 1e-25 * maps), torch.ones(5))
        torch.testing.assert_close(score(maps, 3 - maps), -torch.ones(5))
    torch.testing.assert_close(spearman(maps, maps.exp()), torch.ones(5))
    assert (pearson(maps, maps.mul(5).exp()) < 0.99).all()
    expected = [torch.corrcoef(torch.stack([a, b]))[0, 1] for a, b in zip(
        maps.flatten(1), made(seed=1).flatten(1), strict=True
    )]  # fmt: skip
    torch.testing.assert_close(pearson(maps, made(seed=1)), torch.stack(expected))
    # squares of numbers this small are zero in fp32
    torch.testing.assert_close(pearson(1e-25 * maps, 1e-30 * made(seed=1)), torch.stack(expected))


def test_spearman_of_ties_takes_mean_ranks():
    a = torch.tensor([[[0.0, 0.0, 1.0, 3.0]]])
    b = torch.tensor([[[2.0, 1.0, 1.0, 1.0]]])
    ranks = torch.tensor([[1.5, 1.5, 3.0, 4.0], [4.0, 2.0, 2.0, 2.0]])
    torch.testing.assert_close(spearman(a, b)[0], torch.corrcoef(ranks)[0, 1])


def undefined_maps() -> torch.Tensor:
    """Four good maps among which stand a blank one, one all negative, a NaN and an infinity."""
    maps = made(8)
    maps[1] = 0
    maps[3] = -maps[3]
    maps[5, 4, 4] = math.nan
    maps[6, 4, 4] = math.inf
    return maps


@pytest.mark.parametrize("score", [*MASKED, *ALONE], ids=lambda f: f.__name__)
def test_what_is_undefined_is_nan_and_spoils_no_neighbour(score):
    maps = undefined_maps()
    masks = boxes(1).repeat(8, 1, 1)
    arguments = (masks,) if score in MASKED else ()
    scores = score(maps, *arguments).view(8, -1)
    assert scores.isnan().any(1).nonzero().flatten().tolist() == [1, 3, 5, 6]
    alone = torch.stack([score(m[None], *(a[:1] for a in arguments)).view(-1) for m in maps])
    torch.testing.assert_close(scores, alone, equal_nan=True)
    if score in MASKED:
        masks[0] = False
        assert score(maps, masks).isnan().nonzero().flatten().tolist() == [0, 1, 3, 5, 6]


@pytest.mark.parametrize("score", PAIRED, ids=lambda f: f.__name__)
def test_similarity_to_a_constant_map_is_nan(score):
    maps = undefined_maps().abs()
    maps[2] = 0.1  # its mean in fp32 is not 0.1: a variance would not be zero
    for pair in ((maps, made(8, seed=3)), (made(8, seed=3), maps)):
        assert score(*pair).isnan().nonzero().flatten().tolist() == [1, 2, 5, 6]
    with pytest.raises(ValueError, match="one shape"):
        score(maps, maps[:3])


def test_a_constant_map_has_no_peak_also_after_resizing():
    maps = torch.full((1, 7, 7), 0.1)
    large = torch.nn.functional.interpolate(maps[:, None], (30, 30), mode="bilinear")
    assert large.amin() < large.amax()  # by rounding
    assert pointing_game(maps, boxes(1, 30, 30)).isnan().all()
    assert peak_position(maps).isnan().all()


@pytest.mark.parametrize("score", [*MASKED, *ALONE], ids=lambda f: f.__name__)
def test_the_scale_of_a_map_does_not_matter(score):
    maps = made()
    arguments = (boxes(),) if score in MASKED else ()
    for factor in (1e-30, 1e30):
        torch.testing.assert_close(score(factor * maps, *arguments), score(maps, *arguments))


@pytest.mark.parametrize("score", MASKED, ids=lambda f: f.__name__)
def test_masks_that_do_not_fit_are_refused(score):
    with pytest.raises(ValueError, match=r"masks must be \(5, H, W\)"):
        score(made(), boxes(4))
    with pytest.raises(ValueError, match=r"maps must be \(N, h, w\)"):
        score(made()[None], boxes())


def test_confident_mistakes():
    labels, answers = torch.tensor([0, 1, 2, 2]), torch.tensor([1, 1, 0, 1])
    confidences = torch.tensor([0.9, 0.99, 0.5, 0.95])
    assert confident_mistakes(labels, answers, confidences) == 0.5  # at the threshold counts
    assert confident_mistakes(labels, answers, confidences, threshold=0.0) == 0.75
    assert confident_mistakes(labels, answers, confidences, threshold=0.96) == 0.0
    assert math.isnan(confident_mistakes(labels[:0], answers[:0], confidences[:0]))
    with pytest.raises(ValueError, match="one shape"):
        confident_mistakes(labels, answers[:, None], confidences)
