"""The patches of real pictures that excite a unit most: exact, against all activations at once."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convlens.core.errors import UserError
from convlens.explain.patches import ExcitingPatches, search_patches
from convlens.explain.taps import record
from support.explain_networks import ConvNet, field, pictures, seeded


def valid_net() -> nn.Module:
    """No padding: every unit sees pixels only. Field of "4": 3 + 1 + 2·(3 - 1) = 8, stride 2."""
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(6, 5, 3), nn.ReLU(inplace=True))


class SamePadding(nn.Module):
    """A 3×3 convolution of stride 2 padded as TensorFlow does, which depends on the size."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, x):
        down, along = ((-(-side // 2) - 1) * 2 + 3 - side for side in x.shape[-2:])
        return self.conv(F.pad(x, (along // 2, along - along // 2, down // 2, down - down // 2)))


def outputs(model: nn.Module, layer: str, images: torch.Tensor) -> torch.Tensor:
    """All activations of a layer at once, (N, channels, places)."""
    with torch.no_grad(), record(model, [layer]) as taps:
        model(images)
        values = taps[layer]
    return values.reshape(*values.shape[:2], -1)


def patches_of(
    model: nn.Module, layer: str, units, batches, *, signs=None, **how
) -> ExcitingPatches:
    """The patches of one layer alone."""
    return search_patches(model, {layer: units}, batches, signs={layer: signs}, **how)[layer]


def streamed(images: torch.Tensor, *sizes: int):
    return iter(images.split(list(sizes)))


@pytest.mark.parametrize("signs", [None, [-1, 1, -1]])
@pytest.mark.parametrize("layer", ["conv1", "conv2", "fc1", "fc2"])
def test_patches_are_those_of_brute_force_however_the_pictures_come(layer, signs):
    model, images, units = seeded(ConvNet), pictures(13), [3, 0, 2]
    sign = torch.tensor(signs or [1, 1, 1])
    best = outputs(model, layer, images)[:, units] * sign[:, None]
    expected, order = best.amax(-1).T.sort(1, descending=True)
    results = [
        patches_of(model, layer, units, streamed(images, *sizes), count=4, signs=signs, batch=batch)
        for sizes, batch in (((13,), None), ((5, 1, 7), 2), ((1,) * 13, 8))
    ]
    for found in results:
        assert found.units == (3, 0, 2) and found.search_count == 13
        assert torch.equal(found.pictures, order[:, :4])
        torch.testing.assert_close(found.activations, expected[:, :4] * sign[:, None])
        assert torch.equal(found.places, results[0].places)
        assert torch.equal(found.patches, results[0].patches)


def test_a_patch_fed_alone_gives_the_same_activation():
    model, images = seeded(valid_net), pictures(9, 30)
    found = patches_of(model, "4", None, [images], count=3)
    assert found.patches.shape == (5, 3, 3, 8, 8)
    assert field(model, "4", images[:1]) == ((8, 8), (2, 2))
    alone = outputs(model, "4", found.patches.flatten(0, 1)).view(5, 3, 5)
    own = torch.stack([alone[unit, :, unit] for unit in range(5)])
    torch.testing.assert_close(own, found.activations)
    assert (found.places[..., :2] % 2 == 0).all()


@pytest.mark.parametrize("size", [30, 31, 70, 71])
def test_padding_that_depends_on_the_size_moves_no_patch(size):
    model, images = seeded(SamePadding), pictures(20, size)
    found = patches_of(model, "conv", None, [images], count=5)
    assert found.patches.shape[-2:] == (3, 3)
    weight, bias = model.conv.weight.detach(), model.conv.bias.detach()
    inside = (found.places[..., :2] >= 0).all(-1) & (found.places[..., 2:] <= size).all(-1)
    assert inside.sum() > 10
    alone = torch.einsum("unchw,uchw->un", found.patches, weight) + bias[:, None]
    torch.testing.assert_close(alone[inside], found.activations[inside])


def test_a_patch_is_its_place_in_its_picture_and_grey_beyond_the_edge():
    model, images = seeded(ConvNet), pictures(8) * 0.4  # darker than grey
    found = patches_of(model, "conv2", None, [images], count=8)
    reach = found.patches.shape[-1]
    assert reach == 8
    framed = F.pad(images, (reach,) * 4, value=0.5)
    over = 0
    for unit in range(12):
        for rank in range(8):
            top, left, bottom, right = (found.places[unit, rank] + reach).tolist()
            picture = framed[found.pictures[unit, rank]]
            assert torch.equal(found.patches[unit, rank], picture[:, top:bottom, left:right])
            over += min(top, left) < reach or max(bottom, right) > reach + 24
    assert 0 < over < 12 * 8  # both kinds occurred


def test_units_that_see_everything_get_the_whole_picture():
    model, images = seeded(ConvNet), pictures(5)
    found = patches_of(model, "fc2", [1], [images], count=2)
    assert torch.equal(found.patches[0], images[found.pictures[0]])
    assert found.places.tolist() == [[[0, 0, 24, 24]] * 2]
    wide = nn.Sequential(nn.Conv2d(3, 2, 5, padding=2), nn.AdaptiveAvgPool2d(4), nn.Conv2d(2, 2, 3))
    assert patches_of(wide, "2", [0], [images]).patches.shape == (1, 4, 3, 24, 24)


def test_fields_higher_than_wide_are_cut_as_they_are():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 2, (7, 1)), nn.Conv2d(2, 2, (1, 3))))
    images = torch.rand(4, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    found = patches_of(model, "1", None, [images], count=1)
    assert found.patches.shape == (2, 1, 3, 7, 3)
    alone = outputs(model, "1", found.patches[:, 0])[..., 0]
    torch.testing.assert_close(alone.diag(), found.activations[:, 0])


def test_one_pass_serves_several_layers():
    model, images = seeded(ConvNet), pictures(6)
    passes = []
    handle = model.conv1.register_forward_hook(lambda *_: passes.append(1))
    together = search_patches(model, {"conv2": [1, 2], "fc2": None}, [images], batch=6)
    first = len(passes)
    search_patches(model, {"conv2": [1, 2], "fc2": None}, [images, images, images], batch=6)
    handle.remove()
    # a batch costs its own pass and the one that counts the layers' calls
    assert len(passes) - first == first + 4
    for layer, units in (("conv2", [1, 2]), ("fc2", None)):
        alone = patches_of(model, layer, units, [images])
        assert torch.equal(alone.patches, together[layer].patches)
        assert torch.equal(alone.activations, together[layer].activations)


def test_fewer_pictures_than_patches_and_values_that_are_not_finite():
    model, images = seeded(ConvNet), pictures(3)
    found = patches_of(model, "conv2", [0], [images[:0], images], count=9)
    assert found.patches.shape[:2] == (1, 3) and found.pictures.shape == (1, 3)
    images[1, 0, 0, 0] = torch.nan
    found = patches_of(model, "fc2", [0], [images], count=3)
    assert found.pictures[0, 2] == 1
    assert found.activations.isfinite().tolist() == [[True, True, False]]


def test_mistakes_are_told():
    model, images = seeded(ConvNet), pictures(2)
    with pytest.raises(UserError, match="has units 0 to 3, not 4"):
        patches_of(model, "fc2", [4], [images])
    with pytest.raises(UserError, match="no layer 'conv3'"):
        patches_of(model, "conv3", None, [images])
    with pytest.raises(UserError, match="no images"):
        patches_of(model, "conv1", None, [])
    with pytest.raises(ValueError, match="must have one shape"):
        patches_of(model, "conv1", None, [images, pictures(2, 28)])
    with pytest.raises(ValueError, match="signs must be 1 or -1"):
        patches_of(model, "conv1", [0, 1], [images], signs=[1])
