"""The scores of all layers in one pass, against the functions of each and plain hooks."""

import pytest
import torch
from torch import nn

from convlens.core.errors import UserError
from convlens.explain.attention_profile import profile_attention
from convlens.explain.attention_scores import head_diversity, head_entropy, norm_outliers
from convlens.explain.obstacles import METHODS, find_obstacle
from support.attention_networks import PLAIN, WINDOWED, lively_network, timm_attention

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("name", ["vit", "mean", "registers"])
def test_scores_equal_those_of_timms_own_attention_and_tokens(name):
    model = lively_network(PLAIN[name])
    found = profile_attention(model, IMAGES, batch=2)
    weights, outputs, _ = timm_attention(lively_network(PLAIN[name]), IMAGES)
    for layer, own in zip(found.entropy, weights, strict=True):
        assert found.entropy[layer] == pytest.approx(float(head_entropy(own).mean()), abs=1e-12)
        wanted = float(head_diversity(own).mean())
        assert found.diversity[layer] == pytest.approx(wanted, abs=1e-12)
        assert 0 < found.distance[layer] < 1
    prefix = model.num_prefix_tokens
    tokens = outputs[-1].detach()
    patches = tokens[:, prefix:].transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(found.patches, patches, rtol=0, atol=1e-12)
    read = tokens[:, 0] if model.global_pool == "token" else tokens.mean(1)
    torch.testing.assert_close(found.read, read, rtol=0, atol=1e-12)
    assert found.layer == "blocks.1"


@pytest.mark.parametrize("kind", WINDOWED)
def test_windows_have_entropy_and_no_tokens(kind):
    model = lively_network(WINDOWED[kind])
    found = profile_attention(model, IMAGES)
    assert len(found.entropy) == len(found.diversity) == 4 and not found.distance
    assert found.patches is None and found.read is None and not found.layer
    softmaxes = []
    if kind == "timm":
        for block in (b for layer in model.layers for b in layer.blocks):
            block.attn.fused_attn = False
            block.attn.attn_drop.register_forward_hook(lambda _, a, out: softmaxes.append(a[0]))
        model(IMAGES)
        for value, own in zip(found.entropy.values(), softmaxes, strict=True):
            assert value == pytest.approx(float(head_entropy(own).mean()), abs=1e-12)


def test_norms_of_a_plain_background_are_no_outliers():
    """Its norms are all equal, so that anything else is many deviations away."""
    patches = torch.ones(1, 4, 8, 8)
    patches[:, :, 2:4, 2:4] = 1.5
    assert norm_outliers(patches).share.item() == 4 / 64
    assert norm_outliers(patches, times=3.0).share.item() == 0
    patches[:, :, 7, 7] = 20
    found = norm_outliers(patches, times=3.0)
    assert found.map.nonzero().tolist() == [[0, 7, 7]] and found.threshold == pytest.approx(6)


@pytest.mark.parametrize("method", METHODS)
def test_obstacles_are_the_refusals_and_are_found_once(method, monkeypatch):
    vit, swin = (lively_network(build[name]) for build, name in
                 ((PLAIN, "vit"), (WINDOWED, "timm")))  # fmt: skip
    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(3600, 3))
    assert find_obstacle(vit, IMAGES[:1], method) == ""
    if method == "attention":
        assert find_obstacle(swin, IMAGES[:1], method) == ""
    else:
        with pytest.raises(UserError) as refusal:
            METHODS[method](swin, IMAGES[:1])
        assert find_obstacle(swin, IMAGES[:1], method) == str(refusal.value)
    assert "no attention" in find_obstacle(conv, IMAGES[:1], method)
    monkeypatch.setitem(METHODS, method, lambda *_: 1 / 0)
    assert find_obstacle(vit, IMAGES[:1], method) == ""
    line = find_obstacle(lively_network(PLAIN["vit"], 1), IMAGES[:1], method)
    assert line == f"{method}: VisionTransformer cannot be followed (ZeroDivisionError)"
