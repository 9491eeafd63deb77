"""``explain`` of transformers by name: what the functions return, or a refusal in one line."""

from __future__ import annotations

import pytest
import torch

import convlens
from convlens.core.errors import UserError
from convlens.draw.jpeg import encode_jpeg
from convlens.experiment.methods import choose_methods
from convlens.explain import legrad, relevance, token_occlusion
from convlens.explain.attention import attention_maps
from convlens.explain.rollout import attention_rollout
from convlens.pages.explained import PageParts, render_page
from support.attention_networks import PLAIN, WINDOWED, lively_network, transformers_network

NAMES = ["cat", "dog", "emu"]
IMAGE = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
OF_CLASSES = {"legrad": legrad, "relevance": relevance, "token_occlusion": token_occlusion}


def wrap(network: torch.nn.Module) -> convlens.Explainer:
    return convlens.wrap(network.float(), NAMES, size=32)


@pytest.mark.parametrize("name", ["vit", "torchvision", "ViT", "Dinov2"])
def test_maps_are_those_of_the_functions(name):
    if name in PLAIN:
        network = lively_network(PLAIN[name]).float()
    else:
        pytest.importorskip("transformers", reason="comes with the extra `proofs`")
        network = lively_network(lambda: transformers_network(name)).float().network
    found = wrap(network).explain(IMAGE, only=[*OF_CLASSES, "attention", "rollout"], target="top2")
    plain = network if name in PLAIN else lambda images: network(images).logits
    targets = torch.tensor([found.targets])
    assert targets[0, 0] == plain(IMAGE[None]).argmax()
    for method, function in OF_CLASSES.items():
        expected = function(network, IMAGE[None], targets).maps[0]
        torch.testing.assert_close(found.maps[method], expected)
    attention = attention_maps(network, IMAGE[None]).maps
    assert list(found.attention) == [*attention, "rollout"]
    for layer, maps in attention.items():
        torch.testing.assert_close(found.attention[layer], maps[0])
    torch.testing.assert_close(found.attention["rollout"], attention_rollout(network, IMAGE[None]))
    assert set(found.panels) == {*OF_CLASSES, "layers/attention", "layers/rollout"}
    assert all(panel.std() > 2 for panel in found.panels.values())
    assert not found.notes


def test_defaults_are_what_the_network_allows():
    found = wrap(lively_network(PLAIN["vit"])).explain(IMAGE)
    assert {"grad_cam", "legrad", "occlusion"} <= set(found.panels)
    swin = wrap(lively_network(WINDOWED["timm"]))
    found = swin.explain(IMAGE)
    assert "legrad" not in found.panels and not found.notes
    found = swin.explain(IMAGE, only="attention", layers="layers.1*")
    assert list(found.attention) == ["layers.1.blocks.0.attn", "layers.1.blocks.1.attn"]


@pytest.mark.parametrize(
    ("build", "method", "line"),
    [
        (WINDOWED["timm"], "legrad", "LeGrad: 'layers.0.blocks.0.attn' does not attend among all"),
        (WINDOWED["torchvision"], "rollout", "rollout: 'features.1.0.attn' does not attend among"),
        (PLAIN["vit"], "attn_lrp", "not VisionTransformer of timm: use legrad"),
        (lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 3)), "relevance",
         "Sequential has no attention with a matrix of weights: use grad_cam"),
    ],
)  # fmt: skip
def test_what_a_network_does_not_allow_is_refused(build, method, line):
    with pytest.raises(UserError, match=line) as refusal:
        wrap(lively_network(build)).explain(IMAGE, only=[method])
    assert len(str(refusal.value)) <= 160 and "use" in str(refusal.value)


def test_layers_of_attention_are_named_and_left_out_ones_are_told():
    deep = wrap(lively_network(_deep))
    found = deep.explain(IMAGE, only="attention")
    assert list(found.attention) == [f"blocks.{k}.attn" for k in (0, 2, 3, 5)]
    assert found.notes == ["attention: 4 of 6 layers are drawn; layers=* draws all"]
    assert len(deep.explain(IMAGE, only="attention", layers="*").attention) == 6
    with pytest.raises(UserError, match=r"matches 'blocks\.7\.attn': did you mean blocks\."):
        deep.explain(IMAGE, only="attention", layers="blocks.7.attn")
    with pytest.raises(UserError, match="only=roll_out: no such explanation; did you mean rollout"):
        choose_methods("roll_out")


def _deep() -> torch.nn.Module:
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=16, embed_dim=8, depth=6, num_heads=2,
        num_classes=3,
    )  # fmt: skip


def test_the_page_shows_evidence_as_heat():
    only = "legrad,token_occlusion,rollout"
    found = wrap(lively_network(PLAIN["vit"])).explain(IMAGE, only=only)
    page, panels = PageParts(), {tag: encode_jpeg(each) for tag, each in found.panels.items()}
    page.add("a", "a.png", panels=panels, photograph=found.photograph, maps=found.to_maps())
    text = render_page(page, heading="x", network="x", version="1")
    assert "<summary>rollout: the same for every class, no evidence</summary>" in text
    assert '"title":"LeGrad"' in text and '"layers":["all blocks"]' in text
    assert text.count('"signed":false') == 1 and text.count('"signed":true') == 1
