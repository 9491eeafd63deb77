"""Recorded attention: the same network, its own weights, its places, and nothing else changed."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from convlens.core.errors import UserError
from convlens.explain.attention import attention_maps, differentiate, recording
from convlens.explain.axes import Tokens
from convlens.explain.mode import prepare_images
from support.attention_networks import (
    PLAIN,
    WINDOWED,
    lively_network,
    timm_attention,
    transformers_network,
)
from support.explain_networks import ConvNet, pictures, seeded

IMAGES = pictures(2, 32).double()
PREFIX = {"vit": 1, "deit": 2, "mean": 0, "registers": 5, "beit": 1, "eva": 1, "torchvision": 1}


def record(model, images=IMAGES):
    with recording(model) as recorder:
        return recorder.run(prepare_images(model, images))


@pytest.mark.parametrize("name", [*PLAIN, *(f"swin {kind}" for kind in WINDOWED)])
def test_written_out_attention_gives_the_networks_own_outputs(name):
    model = lively_network(PLAIN[name] if name in PLAIN else WINDOWED[name.split()[1]])
    with torch.no_grad():
        own = model(IMAGES)
    found = record(model)
    torch.testing.assert_close(found.logits.detach(), own, rtol=0, atol=1e-12)
    for each in found.attentions:
        sums = each.weights.sum(-1)
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-12)
    single = model.float()
    with torch.no_grad():
        own = single(IMAGES.float())
    torch.testing.assert_close(record(single).logits.detach(), own, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PLAIN)
def test_tokens_of_plain_networks_are_known(name):
    found = record(lively_network(PLAIN[name]))
    assert len(found.attentions) == 2
    for each in found.attentions:
        assert each.places.queries == each.places.keys == Tokens(PREFIX[name], 4, 4)
        assert each.weights.shape == (2, 2, PREFIX[name] + 16, PREFIX[name] + 16)
        assert each.is_square


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["ViT", "Dinov2", "Dinov2WithRegisters"])
def test_networks_of_transformers(kind, attention):
    pytest.importorskip("transformers", reason="comes with the extra `proofs`")
    model = lively_network(lambda: transformers_network(kind, attention))
    with torch.no_grad():
        own = model(IMAGES)
    found = record(model)
    torch.testing.assert_close(found.logits.detach(), own, rtol=0, atol=1e-12)
    prefix = 5 if kind == "Dinov2WithRegisters" else 1
    assert [each.places.keys for each in found.attentions] == [Tokens(prefix, 4, 4)] * 2


def test_weights_and_gradients_equal_timms_own():
    model = lively_network(PLAIN["vit"])
    found = record(model)
    images = IMAGES.clone().requires_grad_()
    weights, _, logits = timm_attention(copy.deepcopy(model), images)
    slopes = torch.autograd.grad(logits[:, 1].sum(), weights)
    ours = differentiate(found.logits[:, 1].sum(), found.attentions)
    for each, own, slope, mine in zip(found.attentions, weights, slopes, ours, strict=True):
        torch.testing.assert_close(each.weights, own, rtol=0, atol=1e-12)
        torch.testing.assert_close(mine, slope, rtol=0, atol=1e-12)


def test_weights_and_gradients_of_multihead_attention_equal_its_definition():
    """torch's own module returns weights beside the path to the output: gradients need the path."""
    model = lively_network(PLAIN["torchvision"])
    found = record(model)
    (slope,) = differentiate(found.logits[:, 0].sum(), found.attentions[:1])
    layer = model.encoder.layers[0]
    attention, kept = layer.self_attention, []

    def written_out(x):
        count, heads = x.shape[1], attention.num_heads
        packed = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = packed.reshape(len(x), count, 3, heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        kept.append(weights)
        return attention.out_proj((weights @ v).transpose(1, 2).flatten(2))

    attention.forward = lambda q, k, v, need_weights=False: (written_out(q), None)
    logits = model(IMAGES.clone().requires_grad_())
    torch.testing.assert_close(logits, found.logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.attentions[0].weights, kept[0], rtol=0, atol=1e-12)
    (own,) = torch.autograd.grad(logits[:, 0].sum(), kept[0])
    torch.testing.assert_close(slope, own, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "mask", ["none", "bool", "float", "causal", "nothing to see"], ids=lambda mask: mask
)
def test_scaled_dot_product_attention_of_every_kind(mask):
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x):
            options = {
                "none": {"scale": 0.3},
                "bool": {"attn_mask": torch.linspace(-9, 9, 81).reshape(9, 9).sin() > -0.5},
                "float": {"attn_mask": torch.linspace(-1, 1, 81).reshape(9, 9).to(x)},
                "causal": {"is_causal": True},
                "nothing to see": {"attn_mask": torch.arange(9)[:, None].expand(9, 9) > 3},
            }[mask]
            x = (self.scale * x).flatten(2).mT[:, None]
            return F.scaled_dot_product_attention(x, x + 1, x - 1, **options).mean((1, 2))

    images = torch.rand(2, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    own = Attends()(images)
    torch.testing.assert_close(record(Attends(), images).logits.detach(), own, rtol=0, atol=1e-12)


def test_torchs_fast_path_is_recorded_too():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(3, 8, 8, 8)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.layer(self.embed(x).flatten(2).mT).mean(1))

    model = lively_network(Encoder)
    with torch.no_grad():
        own = model(IMAGES)
    found = record(model)
    torch.testing.assert_close(found.logits.detach(), own, rtol=0, atol=1e-12)
    assert [each.layer for each in found.attentions] == ["layer.self_attn"]
    assert found.attentions[0].places.keys == Tokens(0, 4, 4)


@pytest.mark.parametrize("kind", WINDOWED)
def test_windows_are_brought_back_to_the_image(kind):
    """Against the definition: roll, cut into windows, read, put back, roll back."""
    model = lively_network(WINDOWED[kind])
    found = record(model)
    for each, side, shift in zip(found.attentions, (16, 16, 8, 8), (0, 2, 0, 2), strict=True):
        received = each.weights.detach().mean(-2)  # (B * windows, heads, 16)
        heads = received.shape[1]
        rows = side // 4
        maps = received.reshape(2, rows, rows, heads, 4, 4).permute(0, 3, 1, 4, 2, 5)
        maps = maps.reshape(2, heads, side, side).roll((shift, shift), (2, 3))
        torch.testing.assert_close(each.receive(), maps, rtol=0, atol=0)
        assert not each.is_square


@pytest.mark.parametrize("move", ["pad", "roll", "flip", "reorder", "transpose"])
def test_attention_to_moved_positions_is_moved_back(move):
    """All in one window, so that only the order of the positions tells them from a plain grid."""

    class Moved(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm = nn.Conv2d(3, 4, 8, 8), nn.Identity()

        def forward(self, x):
            x = self.norm(self.embed(x))
            if move == "pad":
                x = F.pad(x, (0, 1, 0, 2))
            elif move == "roll":
                x = x.roll((1, 2), (2, 3))
            elif move == "flip":
                x = x.flip(3)
            x = x.transpose(2, 3) if move == "transpose" else x
            x = x.flatten(2).mT
            if move == "reorder":  # as in Hiera: the positions of a window side by side
                x = x.reshape(-1, 2, 2, 2, 2, 4).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, 4)
            return F.scaled_dot_product_attention(x, x, x).mean(1)

    found = record(lively_network(Moved)).attentions[0]
    received = found.weights.detach().reshape(2, -1, found.weights.shape[-1]).mean(1)
    back = {
        "pad": lambda each: each.reshape(2, 6, 5)[:, :4, :4],
        "roll": lambda each: each.reshape(2, 4, 4).roll((-1, -2), (1, 2)),
        "flip": lambda each: each.reshape(2, 4, 4).flip(2),
        "transpose": lambda each: each.reshape(2, 4, 4).mT,
        "reorder": lambda each: each.reshape(2, 2, 2, 2, 2).transpose(2, 3).reshape(2, 4, 4),
    }[move](received)
    torch.testing.assert_close(found.receive()[:, 0], back, rtol=0, atol=1e-12)


def test_maps_are_the_row_of_the_class_token_or_the_mean_of_the_patches():
    with torch.no_grad():
        for name, rows in (("vit", slice(0, 1)), ("deit", slice(0, 2)), ("mean", slice(0, 16))):
            model = lively_network(PLAIN[name])
            found = attention_maps(model, IMAGES, batch=1)
            weights, _, _ = timm_attention(copy.deepcopy(model), IMAGES)
            prefix = PREFIX[name]
            expected = torch.stack(weights, 1)[..., rows, prefix:].mean(-2).unflatten(-1, (4, 4))
            torch.testing.assert_close(found.stack(), expected, rtol=0, atol=1e-12)
            assert found.reading.nonzero().flatten().tolist() == list(range(prefix or 16))[rows]


def test_dinov2_reads_the_class_token_and_the_mean_of_the_patches():
    pytest.importorskip("transformers", reason="comes with the extra `proofs`")
    reading = record(lively_network(lambda: transformers_network("Dinov2"))).find_reading()
    expected = torch.tensor([0.5] + [0.5 / 16] * 16)
    torch.testing.assert_close(reading.float(), expected, rtol=0, atol=1e-7)


def test_places_are_cached_and_learned_again_for_other_images(monkeypatch):
    from convlens.explain import attention_recorder

    model, learned = lively_network(PLAIN["vit"]), []
    tracker = attention_recorder.AxisTracker
    monkeypatch.setattr(
        attention_recorder, "AxisTracker", lambda images: learned.append(1) or tracker(images)
    )
    first = record(model)
    again = record(model)
    assert len(learned) == 1
    assert [a.places for a in first.attentions] == [a.places for a in again.attentions]
    record(model, IMAGES[:1])
    assert len(learned) == 2


@pytest.mark.parametrize("name", ["vit", "torchvision"])
def test_recording_leaves_the_network_unchanged(name):
    model = lively_network(PLAIN[name]).train()
    next(model.modules()).requires_grad_(True)
    weights = copy.deepcopy(model.state_dict())
    flags = [vars(module).get("fused_attn") for module in model.modules()]
    modes = [module.training for module in model.modules()]
    generator, attend = torch.get_rng_state(), F.scaled_dot_product_attention
    attention_maps(model, IMAGES)
    with pytest.raises(RuntimeError), recording(model) as recorder:
        recorder.run(prepare_images(model, IMAGES[:, :2]))  # two channels: fails inside
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
    assert [vars(module).get("fused_attn") for module in model.modules()] == flags
    assert [module.training for module in model.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(generator, torch.get_rng_state())
    assert F.scaled_dot_product_attention is attend
    assert torch.overrides._get_current_function_mode() is None


def test_what_is_no_attention_over_positions_is_refused_in_one_line():
    class OverChannels(nn.Module):  # as in XCiT
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(3, 8, 8, 8)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            x = self.embed(x).flatten(2)  # (B, C, N)
            return self.head(((x @ x.mT).softmax(-1) @ x).mean(-1))

    class Linear(OverChannels):  # a softmax over keys, but no matrix of positions
        def forward(self, x):
            x = self.embed(x).flatten(2)
            return self.head((x.softmax(-1) * x).mean(-1))

    class Repeated(OverChannels):
        def forward(self, x):
            x = self.embed(x).flatten(2).mT
            weights = (x @ x.mT).softmax(-1)
            return self.head((weights[:, :, torch.arange(16)] @ x).mean(1))

    for model, message in (
        (lively_network(OverChannels), "channels"),
        (lively_network(Linear), "no attention"),
        (lively_network(Repeated), "no attention"),
        (seeded(ConvNet), "no attention"),
    ):
        size = 24 if isinstance(model, ConvNet) else 32
        with pytest.raises(UserError, match=message) as error:
            attention_maps(model, pictures(2, size).double())
        assert len(str(error.value)) <= 160 and "\n" not in str(error.value)
    scripted = nn.Sequential(torch.jit.script(nn.Flatten()), nn.Linear(3 * 32 * 32, 3))
    with pytest.raises(UserError, match="scripted"):
        attention_maps(scripted, IMAGES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "keys"),
    [
        ("levit_128s", 224, [Tokens(0, 14, 14), Tokens(0, 7, 7), Tokens(0, 4, 4)]),
        ("pvt_v2_b0", 64, [Tokens(0, 2, 2)]),
    ],
)
def test_keys_on_a_coarser_grid(name, size, keys):
    model = lively_network(lambda: timm.create_model(name, num_classes=3))
    with torch.no_grad():
        own = model(pictures(1, size).double())
    found = record(model, pictures(1, size).double())
    torch.testing.assert_close(found.logits.detach(), own, rtol=1e-10, atol=1e-12)
    known = {each.places.keys for each in found.attentions}
    assert {*keys} <= known
    for each in found.attentions:
        tokens = each.places.keys
        if tokens is not None:
            assert each.receive().shape[-2:] == (tokens.height, tokens.width)
