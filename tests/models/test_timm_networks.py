"""Vision transformers and their like: divided, cut, pooled and loaded as timm itself does."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from itertools import pairwise

import pytest
import timm
import torch
from timm.models import group_parameters
from torch import nn

from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.explain.axes import Tokens
from convlens.explain.layouts import Layouts
from convlens.models import Classifier, build_layer_table, build_model, timm_networks
from convlens.models.features import TokenPool
from convlens.models.timm_networks import build_parts
from convlens.models.timm_parts import OwnHead, take_part
from support.timm_tiny import KINDS, SPEC, VIT, build_tiny

VIT_NAME = "vit_tiny_patch16_224"


@cache
def build(name: str) -> Classifier:
    """A network of ``KINDS`` in evaluation mode; a test that changes it takes a copy."""
    torch.manual_seed(0)
    return build_tiny(name).eval()


def build_theirs(name: str, classes: int = 1000) -> nn.Module:
    size, options = KINDS[name]
    if timm.get_pretrained_cfg(name).fixed_input_size:
        options = {**options, "img_size": size}
    return timm.create_model(name, num_classes=classes, **options).eval()


def rename(backbone: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a backbone by timm's names."""
    return {
        key.removeprefix("network.").removeprefix("embed."): value
        for key, value in backbone.state_dict().items()
    }


def draw(name: str) -> torch.Tensor:
    size, _ = KINDS[name]
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", KINDS)
def test_the_own_head_gives_timms_logits(name):
    torch.manual_seed(0)
    size, options = KINDS[name]
    theirs, division = build_parts(name, 7, size, options)
    backbone, head = division.backbone.eval(), take_part(theirs, OwnHead, division.rest).eval()
    with torch.no_grad():
        assert torch.equal(head(backbone(draw(name))), theirs.eval()(draw(name)))
    state = {**rename(backbone), **head.state_dict()}
    assert state.keys() == theirs.state_dict().keys()


def test_a_whole_network_with_its_imagenet_classes():
    model = build_tiny(VIT_NAME, 1000, head="imagenet").eval()
    assert model.backbone.link_names == ("embed", "blocks.0", "blocks.1", "norm")
    assert isinstance(model.head, OwnHead) and model.head.head.out_features == 1000


@pytest.mark.parametrize("name", KINDS)
def test_a_new_head_reads_what_timms_classifier_reads(name):
    model = deepcopy(build(name))
    for parameter in model.head.parameters():  # norms that start as the identity prove nothing
        nn.init.uniform_(parameter, 0.5, 1.5)
    theirs, images = build_theirs(name, 0), draw(name)
    kept = {key: value for key, value in model.head.named_modules() if key in ("norm", "pool")}
    ours = rename(model.backbone)
    for key in theirs.state_dict().keys() - ours.keys():
        last = key.rpartition(".")[2]
        ours[key] = kept["norm"].state_dict()[last] if "norm" in kept else (
            kept["pool"].state_dict()[key])  # fmt: skip
    theirs.load_state_dict(ours)
    with torch.no_grad():
        features = theirs.forward_features(model.normalise(images))
        wanted = theirs.forward_head(features, pre_logits=True)
        values = model.backbone(model.normalise(images))
        for layer, module in model.head.named_children():
            if layer in ("dropout", "logits"):
                break
            values = module(values)
        torch.testing.assert_close(values, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_any_cut_changes_nothing_and_all_parameters_are_counted(name):
    model, images = build(name), draw(name)
    with torch.no_grad():
        logits = model(images)
        for cut in range(1, len(model.backbone.link_names) + 1):
            assert torch.equal(model.from_features(model.features(images, cut), cut), logits)
    rows = build_layer_table(model, channels=3, size=KINDS[name][0])
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in model.parameters())
    assert all(row.receptive_field is None for row in rows)


@pytest.mark.parametrize("name", KINDS)
def test_a_step_changes_the_head_only_or_everything(name):
    # in float64: some layers start with a gradient too small to change a float32
    model, images = deepcopy(build(name)).double().train(), draw(name).double()
    for part in (model.head, model):
        model.requires_grad_(False)
        part.requires_grad_(True)
        before = {key: value.clone() for key, value in model.named_parameters()}
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), torch.tensor([0, 1])).backward()
        optimizer.step()
        changed = {k for k, v in model.named_parameters() if not torch.equal(v, before[k])}
        # dim: a bias of keys shifts all scores alike, so its gradient is rounding at most
        all_of_it = {k for k, p in model.named_parameters() if p.requires_grad and p.dim() > 1}
        assert changed <= {k for k, p in model.named_parameters() if p.requires_grad}
        assert all_of_it <= changed


@pytest.mark.parametrize("name", KINDS)
def test_stages_follow_timms_order_of_layers(name):
    """A later layer of timm's is never in an earlier stage of ours."""
    model, theirs = build(name), build_theirs(name, 0)
    layers = group_parameters(theirs, theirs.group_matcher(coarse=False), reverse=True)
    pairs = []
    for key, _ in model.backbone.named_parameters():
        own = key.removeprefix("network.").removeprefix("embed.")
        pairs.append((layers[own], model.backbone.find_stage(key)))
    stages = [[s for layer, s in pairs if layer == number] for number in range(max(pairs)[0] + 1)]
    stages = [each for each in stages if each]
    assert all(max(a) <= min(b) for a, b in pairwise(stages))
    assert len({stage for _, stage in pairs}) > 1


def test_the_stages_of_a_vision_transformer():
    backbone = build(VIT_NAME).backbone
    assert backbone.stage_names == ("embed", "blocks.0", "blocks.1")
    assert backbone.link_names == ("embed", "blocks.0", "blocks.1", "norm", "pool")
    found = {
        name: backbone.find_stage(name)
        for name in ("embed.cls_token", "embed.pos_embed", "embed.patch_embed.proj.weight",
                     "blocks.1.mlp.fc1.weight", "norm.weight")
    }  # fmt: skip
    assert list(found.values()) == [0, 0, 0, 2, 2]
    whole = build("vit_small_patch16_dinov3").backbone
    assert whole.stage_names == ("network.patch_embed", "network.blocks.0", "network.blocks.1")
    assert [whole.find_stage(f"network.{name}") for name in
            ("cls_token", "reg_token", "patch_embed.proj.weight", "blocks.1.norm1.weight",
             "norm.weight")] == [0, 0, 0, 2, 2]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "prefix", "has_class_token", "grid", "channels"),
    [
        ("vit_tiny_patch16_224", 1, True, (4, 4), -1),
        ("vit_small_patch14_reg4_dinov2", 5, True, (2, 2), -1),
        ("deit_tiny_distilled_patch16_224", 2, True, (4, 4), -1),
        ("vit_base_patch16_siglip_224", 0, False, (4, 4), -1),
        ("eva02_tiny_patch14_224", 1, True, (2, 2), -1),
        ("swin_tiny_patch4_window7_224", None, False, None, -1),
        ("test_coatnet", None, False, None, 1),
    ],
)
def test_how_features_lie(name, prefix, has_class_token, grid, channels):
    size, options = KINDS[name]
    layout = build_parts(name, 0, size, options)[1].backbone.layout
    assert (layout.prefix, layout.has_class_token) == (prefix, has_class_token)
    assert (layout.grid, layout.channels) == (grid, channels)


def test_ways_to_pool_tokens():
    tokens = torch.arange(2 * 5 * 3.0).reshape(2, 5, 3)
    mean = (tokens[:, 2] + tokens[:, 3] + tokens[:, 4]) / 3
    assert torch.equal(TokenPool("class", 2)(tokens), tokens[:, 0])
    torch.testing.assert_close(TokenPool("mean", 2)(tokens), mean)
    both = TokenPool("both", 2)(tokens)
    torch.testing.assert_close(both, torch.stack((tokens[:, 0], mean), 1))
    model = build_tiny(VIT_NAME, head={**SPEC.head.plain(), "tokens": "both"})
    assert model.head.logits.in_features == 64
    # what is stored of a frozen base: two vectors, not all tokens
    assert model.features(draw(VIT_NAME), len(model.backbone.link_names)).shape == (2, 2, 32)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"size": 100}, "it can for 96 and 104"),
        ({"options": {"embd_dim": 32}}, "did you mean embed_dim"),
        ({"options": {"num_classes": 3}}, "has no option num_classes"),
        ({"options": {**VIT, "num_heads": 5}}, "timm cannot build it"),
        ({"tokens": "clas"}, "did you mean class"),
        ({"pool": "flatten"}, "choose with model.head.tokens"),
        ({"name": "gmlp_ti16_224", "tokens": "class"}, "has no class token"),
        ({"name": "cait_xxs24_224", "tokens": "flatten"}, "model.head.tokens"),
        ({"name": "test_coatnet", "tokens": "mean"}, "choose with model.head.pool"),
        (
            {"name": "mixer_s32_224", "options": {"num_blocks": 2}},
            "is defined by its own num_blocks",
        ),
        ({"name": "crossvit_9_240", "size": 240}, "neither one map nor one sequence of tokens"),
    ],
)
def test_mistakes_are_told_in_one_line(keys, said):
    name = keys.get("name", VIT_NAME)
    size, options = KINDS.get(name, (64, {}))
    more = {key: keys[key] for key in ("tokens", "pool") if key in keys}
    head = {**SPEC.head.plain(), **more}
    spec = SPEC.replace(name=name, options=keys.get("options", options), head=head)
    with pytest.raises(UserError, match=said) as caught:
        build_model(spec, channels=3, size=keys.get("size", size), outputs=5, pretrained=False)
    assert len(str(caught.value)) <= 160 and "\n" not in str(caught.value)


def test_position_embeddings_are_resized_as_timm_resizes_them(at, monkeypatch):
    torch.manual_seed(0)
    theirs = build_theirs(VIT_NAME)
    file = at / f"{VIT_NAME}.pth"
    torch.save(theirs.state_dict(), file)
    monkeypatch.setenv("CONVLENS_WEIGHTS", str(at))
    options = {"patch_size": 8, **VIT}
    spec = SPEC.replace(name=VIT_NAME, weights="auto", options=options)
    model = build_model(spec, channels=3, size=48, outputs=5)
    wanted = timm.create_model(
        VIT_NAME, pretrained=True, pretrained_cfg_overlay={"file": str(file)},
        num_classes=0, img_size=48, **options,
    ).state_dict()  # fmt: skip
    assert wanted["pos_embed"].shape == (1, 37, 32)
    ours = rename(model.backbone)
    assert ours.keys() == wanted.keys() and all(torch.equal(ours[k], wanted[k]) for k in wanted)
    assert "pos_embed resized by timm" in model.weights.note and model.weights.path == file


def test_a_run_of_before_has_no_norm_in_its_head():
    """A stored config without the key is that of a run whose head had none."""
    heads = (SPEC.head.plain(), {k: v for k, v in SPEC.head.plain().items() if k != "norm"})
    specs = (SPEC.replace(name="convnext_atto", head=head) for head in heads)
    new, old = (build_model(each, channels=3, size=32, outputs=5) for each in specs)
    names = [name for name, _ in old.head.named_children()]
    assert names == ["pool", "flatten", "dropout", "logits"]
    assert new.state_dict().keys() - old.state_dict().keys() == {
        "head.norm.weight", "head.norm.bias"
    }  # fmt: skip


def test_options_are_words_of_the_command_line():
    words = ["model=timm", "model.options.drop_path_rate=0.1", "model.options.embed_dim=32"]
    assert compose(words).model.options == {"drop_path_rate": 0.1, "embed_dim": 32}
    assert compose([*words[:1], "model.options={depth: 2}"]).model.options == {"depth": 2}
    with pytest.raises(UserError, match=r"model\.options\.depth: no such key"):
        compose(["model.options.depth=2"])


@pytest.mark.parametrize("name", KINDS)
def test_explanations_find_the_places_that_timm_states(name):
    """``explain/`` follows the axes of the image through a pass, and knows nothing of timm."""
    size, options = KINDS[name]
    _, division = build_parts(name, 0, size, options)
    backbone = division.backbone.eval()
    last, stated = backbone.link_names[-1], backbone.layout
    layouts = Layouts(backbone, [last])
    with torch.no_grad(), layouts.hook_layers(layouts.observe):
        output = layouts.follow(layouts.run_whole, torch.rand(2, 3, size, size))
    found = layouts.layout(last)
    if stated.has_tokens and stated.grid is not None:
        assert found.tokens == Tokens(stated.prefix, *stated.grid)
    maps = layouts.channels_first(last, output)
    assert maps.shape[1] == output.shape[stated.channels]


def test_old_names_of_timm_are_refused_with_the_new_one(monkeypatch):
    former = timm.models.get_deprecated_models()
    assert len(former) > 100
    monkeypatch.setattr(timm_networks, "_read_old_names", lambda: {**former, "resnet17": None})
    for old, new in {**former, "resnet17": None}.items():
        for name in (old, f"{old}.some_tag"):
            with pytest.raises(UserError) as refused:
                build_model(SPEC.replace(name=name), channels=3, size=32, outputs=2)
            line, way_out = str(refused.value), f"use model.name={new}"
            assert line.startswith(f"model.name={name} is an old name of timm: ")
            assert line.endswith(way_out) if new else "it was removed; did you mean resn" in line
            assert len(line) <= 160
        if new:
            timm_networks.check_name(new)
