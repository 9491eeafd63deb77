"""VGG16, InceptionV3 and timm's networks: sizes, stages, heads, and cuts that change nothing."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from convlens.config.compose import compose
from convlens.config.schema import HeadConfig
from convlens.core.errors import UserError
from convlens.models import build_layer_table, build_model, imagenet_classes
from convlens.models.backbone import Backbone, build_chain
from convlens.models.head import build_head
from convlens.models.normalise import Normalise

SPEC = compose(["model=timm", "model.weights=none"]).model
# a residual one, squeeze-and-excitation, dense connections, channels-last norms, one that is no
# chain of its children, and one whose classifier has a convolution of its own
FAMILIES = [
    "resnet18", "efficientnet_b0", "densenet121", "convnext_atto", "hrnet_w18_small",
    "mobilenetv3_small_100", "regnetx_002",
]  # fmt: skip


def built(name: str, size: int = 96, outputs: int = 5, **keys):
    torch.manual_seed(0)
    return build_model(SPEC.replace(name=name, **keys), channels=3, size=size, outputs=outputs)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_vgg16_is_torchvisions():
    spec = compose(["exp=reproduce/vgg16_features", "model.weights=none"]).model
    model = build_model(spec, channels=3, size=150, outputs=1)
    assert count(model.backbone) == 14_714_688
    assert model.backbone.stage_names == tuple(f"block{number}" for number in range(1, 6))
    assert model.backbone(torch.zeros(1, 3, 150, 150)).shape == (1, 512, 4, 4)
    assert model.head.dense1.weight.shape == (256, 8192)
    theirs = torchvision.models.vgg16(init_weights=False).features
    kinds = [type(m) for m in model.backbone.modules() if not list(m.children())]
    assert kinds == [type(m) for m in theirs]


def test_vgg16s_frozen_blocks_are_fast_and_equal_to_rounding():
    """What training and the feature cache use, against the layers themselves."""
    model = built("vgg16", size=64).eval()
    pictures = torch.rand(12, 3, 64, 64)
    with torch.no_grad():
        wanted = model(pictures)
        spread = float(model.backbone(model.normalise(pictures)).std())
        for cut in (2, 5):
            direct = model.backbone.run(model.normalise(pictures), 0, cut)
            torch.testing.assert_close(
                model.features(pictures, cut), direct, rtol=0, atol=1e-3 * float(direct.std())
            )
        for parameter in model.backbone.parameters():
            parameter.requires_grad_(False)
        torch.testing.assert_close(model.forward_fast(pictures), wanted, rtol=0, atol=1e-3)
    assert spread > 0
    assert model.backbone.count_frozen_links() == 5
    model.backbone.block5.conv1.weight.requires_grad_(True)
    assert model.backbone.count_frozen_links() == 4
    # the frozen part takes no part in the gradient, the rest does
    model.forward_fast(pictures).sum().backward()
    assert model.backbone.block5.conv1.weight.grad.abs().sum() > 0


def test_inception_v3_has_its_stages():
    model = built("inception_v3", size=299)
    stages = model.backbone.stage_names
    assert (stages[0], stages[-1], len(stages)) == ("Mixed_5b", "Mixed_7c", 11)
    assert model.backbone(torch.zeros(1, 3, 299, 299)).shape == (1, 2048, 8, 8)
    assert compose(["model=inception_v3"]).model.name == "inception_v3"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_backbone_gives_what_timm_gives_and_can_be_cut_anywhere(name):
    model = built(name).eval()
    theirs = timm.create_model(name, pretrained=False, num_classes=0).eval()
    named = {key.removeprefix("network."): value for key, value in
             model.backbone.state_dict().items()}  # fmt: skip
    _, unexpected = theirs.load_state_dict(named, strict=False)
    assert not unexpected
    pictures = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        wanted = theirs.forward_features(model.normalise(pictures))
        assert torch.equal(model.backbone(model.normalise(pictures)), wanted)
        logits = model(pictures)
        for cut in range(1, len(model.backbone.link_names) + 1):
            assert torch.equal(model.from_features(model.features(pictures, cut), cut), logits)
    if name == "hrnet_w18_small":
        assert model.backbone.link_names == ("network",)
    else:
        assert len(model.backbone.link_names) > 4
    assert all("conv_head" not in key or name != "mobilenetv3_small_100" for key in named)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "hrnet_w18_small"])
def test_the_own_head_makes_the_network_whole(name):
    model = build_model(
        SPEC.replace(name=name, head="imagenet"),
        channels=3, size=96, outputs=1000, pretrained=False,
    ).eval()  # fmt: skip
    theirs = timm.create_model(name, pretrained=False).eval()
    backbone = {k.removeprefix("network."): v for k, v in model.backbone.state_dict().items()}
    theirs.load_state_dict({**backbone, **model.head.state_dict()})
    pictures = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(model(pictures), theirs(model.normalise(pictures)))


def test_the_whole_vgg16():
    model = build_model(
        SPEC.replace(name="vgg16", head="imagenet"),
        channels=3, size=64, outputs=1000, pretrained=False,
    ).eval()  # fmt: skip
    assert count(model) == 138_357_544
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"name": "resnet81"}, "did you mean resnet18"),
        ({"name": "vit_tiny_patch16_224", "size": 100}, "it can for 96 and 112"),
        ({"name": "vgg16", "size": 20}, "at least 32 pixels are needed"),
        ({"name": "inception_v3", "size": 74}, "at least 75 pixels are needed"),
        ({"name": "resnet18", "head": "imagenet"}, "but 5 are needed"),
        ({"name": "resnet18", "normalisation": "imagnet"}, "did you mean imagenet"),
        ({"name": "resnet18", "normalisation": [[0.5], [0]]}, "model.normalisation="),
    ],
)
def test_bad_values_are_named(keys, said):
    with pytest.raises(UserError) as caught:
        built(**keys)
    assert said in str(caught.value)


def test_a_scratch_spec_with_another_name_is_refused():
    with pytest.raises(UserError, match="exp=finetune_timm model.name=resnet18"):
        build_model(compose([]).model.replace(name="resnet18"), channels=3, size=64, outputs=5)


def test_grey_pictures_are_shown_to_all_three_channels():
    model = build_model(SPEC.replace(name="resnet18"), channels=1, size=64, outputs=5).eval()
    grey = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(grey), model(grey.expand(-1, 3, -1, -1)))


def test_a_normalisation_travels_in_the_state_and_notes_when_it_is_neutral():
    first, second = Normalise([0.5] * 3, [0.25] * 3), Normalise([0.0] * 3, [1.0] * 3)
    assert second.is_neutral and not first.is_neutral
    second.load_state_dict(first.state_dict())
    pictures = torch.rand(1, 3, 4, 4)
    assert torch.equal(second(pictures), (pictures - 0.5) / 0.25)


def test_the_stage_of_a_parameter():
    parts = {name: nn.Conv2d(1, 1, 1) for name in ("stem", "a", "between", "b", "top")}
    backbone = Backbone(parts, links=list(parts), stages=["a", "b"])
    numbers = [backbone.find_stage(f"{name}.weight") for name in parts]
    assert numbers == [0, 0, 1, 1, 1]


def test_imagenets_class_names():
    names = imagenet_classes()
    assert len(names) == 1000 and names[967] == "espresso"


class Doubled(nn.Sequential):
    """A user-defined sequence whose forward pass is more than its children."""

    def forward(self, values):
        return 2 * super().forward(values)


def layers_of(kind: type[nn.Sequential]) -> nn.Sequential:
    torch.manual_seed(0)
    return kind(nn.Conv2d(64, 128, 3, padding=1), nn.ReLU())


def test_a_sequence_with_its_own_forward_is_not_flattened_by_the_frozen_fast_path():
    images = torch.rand(20, 64, 12, 12, generator=torch.Generator().manual_seed(0))
    plain = build_chain({"block": layers_of(nn.Sequential)}).eval().requires_grad_(False)
    doubled = build_chain({"block": layers_of(Doubled)}).eval().requires_grad_(False)
    wanted = 2 * plain(images)
    torch.testing.assert_close(2 * plain.run_frozen(images, 1), wanted, rtol=0, atol=1e-4)
    torch.testing.assert_close(doubled.run_frozen(images, 1), wanted, rtol=0, atol=1e-4)


def test_a_sequence_with_its_own_forward_has_no_receptive_fields():
    fields = {
        kind: [
            row.receptive_field for row in build_layer_table(layers_of(kind), channels=64, size=12)
        ]
        for kind in (nn.Sequential, Doubled)
    }
    assert fields == {nn.Sequential: [3, 3], Doubled: [None, None]}


def test_average_and_maximum_are_joined_as_timm_joins_them():
    from timm.layers import SelectAdaptivePool2d

    spec = HeadConfig(pool="average_max", dropout=0.0, hidden=[], hidden_dropout=0.0)
    head = build_head((5, 3, 4), 2, spec, "relu")
    maps = torch.randn(6, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    theirs = SelectAdaptivePool2d(pool_type="catavgmax", flatten=True)(maps)
    ours = head.pool(maps).flatten(1).unflatten(1, (5, 2)).transpose(1, 2).flatten(1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert head.logits.in_features == 10
    # positions that share the maximum share its gradient
    even = torch.ones(1, 5, 3, 4, requires_grad=True)
    head.pool(even)[..., 1].sum().backward()
    torch.testing.assert_close(even.grad, torch.full_like(even, 1 / 12))
