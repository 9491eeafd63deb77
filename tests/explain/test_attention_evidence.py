"""Rollout, relevance, LeGrad, AttnLRP and token occlusion against the papers' formulas."""

import copy
from importlib import import_module

import pytest
import timm
import torch
from torch import nn

from convlens.core.errors import UserError
from convlens.explain.attention import recording
from convlens.explain.attn_lrp import attn_lrp
from convlens.explain.legrad import legrad
from convlens.explain.relevance import propagate_relevance, relevance
from convlens.explain.rollout import attention_rollout, roll_out
from convlens.explain.token_occlusion import find_sequence, logits_without, token_occlusion
from support.attention_networks import (
    PLAIN,
    WINDOWED,
    lively_network,
    timm_attention,
    transformers_network,
)
from support.explain_networks import ConvNet, pictures, seeded

IMAGES = pictures(2, 32).double()
TARGETS = torch.tensor([[0, 2], [1, 0]])
PREFIX = {"vit": 1, "mean": 0, "registers": 5}


def close(a, b, atol=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def answer_row(name, matrix):
    """The row of the class token, or the mean of all where the mean of the patches is read."""
    row = matrix.mean(-2) if name == "mean" else matrix[..., 0, :]
    return row[..., PREFIX[name] :].unflatten(-1, (4, 4))


def explicit(model):
    """The network's own explicit attention, with a graph."""
    return timm_attention(copy.deepcopy(model), IMAGES.clone().requires_grad_())


@pytest.mark.parametrize("name", PREFIX)
def test_rollout_equals_the_papers_formula(name):
    model = lively_network(PLAIN[name])
    weights, _, _ = explicit(model)
    expected = torch.eye(weights[0].shape[-1], dtype=torch.float64).expand(2, -1, -1)
    for each in weights:
        mixed = 0.5 * each.detach().mean(1) + 0.5 * torch.eye(each.shape[-1])
        expected = (mixed / mixed.sum(-1, keepdim=True)) @ expected
    close(attention_rollout(model, IMAGES, batch=1), answer_row(name, expected))


def test_rollout_of_uniform_attention_in_closed_form():
    # A' = (J + I) / 2 with J = 1/N everywhere, and J J = J: after L layers (1 - 2^-L) J + 2^-L I
    uniform = torch.full((1, 3, 4, 4), 0.25, dtype=torch.float64)
    eye = torch.eye(4, dtype=torch.float64)
    close(roll_out([uniform] * 3)[0], (1 - 1 / 8) * uniform[0, 0] + eye / 8)


@pytest.mark.parametrize("name", PREFIX)
def test_relevance_equals_the_papers_formula(name):
    model = lively_network(PLAIN[name])
    weights, _, logits = explicit(model)
    ours = relevance(model, IMAGES, TARGETS)
    close(ours.logits, logits.detach())
    for image in range(2):
        for t in range(2):
            score = logits[image, TARGETS[image, t]]
            slopes = torch.autograd.grad(score, weights, retain_graph=True)
            spread = torch.eye(weights[0].shape[-1], dtype=torch.float64)
            for each, slope in zip(weights, slopes, strict=True):
                step = torch.zeros_like(spread)
                for head in range(2):
                    step += (slope[image, head] * each[image, head].detach()).clamp_min(0) / 2
                spread = spread + step @ spread
            close(ours.maps[image, t], answer_row(name, spread))
    assert ours.maps.max() > 0


@pytest.mark.parametrize(
    ("kind", "rounding"),
    [("ViT", 1e-6), ("Dinov2", 1e-12)],  # ViT's own attention computes the softmax in float32
)
def test_relevance_of_transformers_networks_equals_their_own_attention(kind, rounding):
    pytest.importorskip("transformers", reason="comes with the extra `proofs`")
    ours = relevance(lively_network(lambda: transformers_network(kind)), IMAGES, TARGETS)
    model = lively_network(lambda: transformers_network(kind, "eager")).network
    own = model(IMAGES.clone().requires_grad_(), output_attentions=True)
    close(ours.logits, own.logits.detach(), rounding)
    score = own.logits.gather(1, TARGETS[:, :1]).sum()
    spread = torch.eye(17, dtype=torch.float64)
    for each, slope in zip(own.attentions, torch.autograd.grad(score, own.attentions), strict=True):
        spread = spread + (slope * each.detach()).clamp_min(0).mean(1) @ spread
    rows = torch.zeros(17, dtype=torch.float64)
    rows[0] = 1 if kind == "ViT" else 0.5
    rows[1:] = 0 if kind == "ViT" else 0.5 / 16  # Dinov2 reads the class token and the mean
    close(ours.maps[:, 0], (rows @ spread)[:, 1:].unflatten(-1, (4, 4)), rounding)


def test_relevance_in_closed_form_on_two_layers():
    # one head, gradients 1: R = (I + A2)(I + A1)
    first, second = torch.rand(2, 1, 1, 3, 3, dtype=torch.float64).unbind(0)
    ones, eye = torch.ones_like(first), torch.eye(3, dtype=torch.float64)
    found = propagate_relevance([first, second], [ones, ones])
    close(found[0], (eye + second[0, 0]) @ (eye + first[0, 0]))
    close(propagate_relevance([first], [-ones])[0], eye)


@pytest.mark.parametrize("pool", ["mean", "network"])
@pytest.mark.parametrize("name", PREFIX)
def test_legrad_equals_the_papers_formula(name, pool):
    model = lively_network(PLAIN[name])
    ours = legrad(model, IMAGES, TARGETS, pool=pool)
    weights, outputs, logits = explicit(model)
    close(ours.logits, logits.detach())
    for image in range(2):
        for t in range(2):
            total = torch.zeros(4, 4, dtype=torch.float64)
            for each, output in zip(weights, outputs, strict=True):
                tokens = output[image : image + 1]
                if pool == "mean":
                    tokens = tokens.mean(1, keepdim=True).expand_as(tokens)
                score = model.forward_head(model.norm(tokens))[0, TARGETS[image, t]]
                (slope,) = torch.autograd.grad(score, each, retain_graph=True)
                layer = slope[image].clamp_min(0).mean(0).mean(0)
                total += layer[PREFIX[name] :].reshape(4, 4) / 2
            close(ours.maps[image, t], total)
    assert ours.maps.max() > 0


class TwoBlocks(nn.Module):
    """Two blocks ``x + A x V`` with fixed attention scores, read by the mean: closed forms."""

    class Block(nn.Module):
        def __init__(self, scores, values):
            super().__init__()
            self.scores = nn.Parameter(scores)
            self.values = nn.Parameter(values)

        def forward(self, x):
            weights = (self.scores + 0 * x @ x.mT).softmax(-1)
            return x + weights @ (x @ self.values)

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 4, 16, 16)
        self.blocks = nn.Sequential(
            *(self.Block(torch.randn(4, 4), torch.randn(4, 4)) for _ in range(2))
        )
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.blocks(self.embed(x).flatten(2).mT).mean(1))


def test_legrad_and_relevance_in_closed_form_on_two_blocks():
    """The score is linear in each A: dy_l/dA_l[i, j] = (x_{l-1} V w)[j] / N."""
    model = lively_network(TwoBlocks)
    tokens = model.embed(IMAGES).flatten(2).mT
    target, layers, inputs = 2, [], []
    for block in model.blocks:
        inputs.append(tokens)
        layers.append(block.scores.softmax(-1))
        tokens = tokens + layers[-1] @ (tokens @ block.values)
    weight = model.head.weight[target]
    pairs = zip(inputs, model.blocks, strict=True)
    expected = sum((x @ block.values @ weight / 4).clamp_min(0) for x, block in pairs)
    found = legrad(model, IMAGES, torch.tensor([target, target]))
    close(found.maps[:, 0].flatten(1), expected.detach() / 2)

    # the gradient of the logit itself passes the second block: dy/dA_1 = (1 + A_2 V_2)' ... V_1 x
    first, second = layers
    column = torch.ones(4, dtype=torch.float64) / 4
    through = column[:, None] * weight + (second.mT @ column)[:, None] * (
        model.blocks[1].values @ weight
    )
    slopes = [
        through @ (inputs[0] @ model.blocks[0].values).mT,
        column[:, None] * (inputs[1] @ model.blocks[1].values @ weight)[:, None, :],
    ]
    eye = torch.eye(4, dtype=torch.float64)
    steps = [(s * a).clamp_min(0) for s, a in zip(slopes, (first, second), strict=True)]
    spread = (eye + steps[1]) @ (eye + steps[0])
    ours = relevance(model, IMAGES, torch.tensor([target, target]))
    close(ours.maps[:, 0].flatten(1), spread.mean(1).detach())


@pytest.mark.parametrize("name", PLAIN)
def test_every_plain_network_is_explained_and_unchanged(name):
    model = lively_network(PLAIN[name])
    weights, forwards = copy.deepcopy(model.state_dict()), [*map(vars, model.modules())]
    before = [dict(each) for each in forwards]
    for method in (legrad, relevance):
        found = method(model, IMAGES, torch.tensor([-1, -1]), batch=1)
        assert found.maps.shape == (2, 1, 4, 4) and found.maps.min() >= 0 and found.maps.max() > 0
        assert found.targets[:, 0].tolist() == found.logits.argmax(1).tolist()
        assert found.upsample((8, 8)).shape == (2, 1, 8, 8)
    assert attention_rollout(model, IMAGES).shape == (2, 4, 4)
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
    assert before == forwards


def test_legrad_without_attention_of_its_own_is_refused():
    swin = lively_network(WINDOWED["timm"])
    for method in (legrad, relevance):
        with pytest.raises(UserError, match="use grad_cam") as error:
            method(swin, IMAGES, TARGETS)
        assert len(str(error.value)) <= 160
    with pytest.raises(UserError, match="use grad_cam"):
        attention_rollout(swin, IMAGES)
    with pytest.raises(UserError, match="no attention"):
        legrad(seeded(ConvNet), pictures(2, 24), TARGETS)
    with pytest.raises(UserError, match="mean or network"):
        legrad(lively_network(PLAIN["vit"]), IMAGES, TARGETS, pool="maen")
    with pytest.raises(UserError, match="classes 0 to 2"):
        relevance(lively_network(PLAIN["vit"]), IMAGES, torch.tensor([3, 0]))


def masked_logits(model, hidden):
    """The network's logits if no token attends to hidden patches, and no mean includes them."""
    prefix = model.num_prefix_tokens
    gone = torch.zeros(len(hidden), prefix + 16, dtype=torch.bool)
    gone[:, prefix:] = hidden.flatten(1)
    model = copy.deepcopy(model)
    for block in model.blocks:
        attention = block.attn

        def forward(x, attn_mask=None, is_causal=False, attention=attention):
            shape = (*x.shape[:2], 3, attention.num_heads, attention.head_dim)
            q, k, v = attention.qkv(x).reshape(shape).permute(2, 0, 3, 1, 4)
            scores = q @ k.mT * attention.scale
            weights = scores.masked_fill(gone[:, None, None], -torch.inf).softmax(-1)
            return attention.proj((weights @ v).transpose(1, 2).flatten(2))

        attention.forward = forward
    tokens = model.forward_features(IMAGES)
    if model.num_prefix_tokens == 0:
        tokens = torch.stack([t[~g].mean(0) for t, g in zip(tokens, gone, strict=True)])[:, None]
    return model.forward_head(tokens).detach()


@pytest.mark.parametrize("name", PREFIX)
def test_leaving_patches_out_equals_masking_all_attention_to_them(name):
    model = lively_network(PLAIN[name])
    hidden = torch.zeros(2, 4, 4, dtype=torch.bool)
    hidden[0, 1, :3] = hidden[1, 2:, 1] = hidden[1, 0, 0] = True
    close(logits_without(model, IMAGES, hidden), masked_logits(model, hidden))
    with torch.no_grad():
        close(logits_without(model, IMAGES, torch.zeros_like(hidden)), model(IMAGES))


def test_token_occlusion_equals_its_definition():
    model = lively_network(PLAIN["vit"])
    ours = token_occlusion(model, IMAGES, TARGETS, window=2, batch=5)
    with torch.no_grad():
        logits = model(IMAGES)
    sums, counts = torch.zeros(2, 2, 4, 4, dtype=torch.float64), torch.zeros(4, 4)
    for top in range(3):
        for left in range(3):
            hidden = torch.zeros(2, 4, 4, dtype=torch.bool)
            hidden[:, top : top + 2, left : left + 2] = True
            falls = (logits - masked_logits(model, hidden)).gather(1, TARGETS)
            sums += falls[..., None, None] * hidden[:, None]
            counts += hidden[0]
    close(ours.maps, sums / counts)
    single = token_occlusion(model, IMAGES, torch.tensor([-1, -1]), window=2)
    assert single.maps.shape == (2, 4, 4)


@pytest.mark.parametrize("name", ["beit", "eva", "swin"])
def test_networks_that_need_every_patch_are_refused(name):
    model = lively_network(WINDOWED["timm"] if name == "swin" else PLAIN[name])
    with pytest.raises(UserError, match="use") as error:
        find_sequence(model, IMAGES[:1])
    assert len(str(error.value)) <= 160
    with pytest.raises(UserError, match="window"):
        token_occlusion(lively_network(PLAIN["vit"]), IMAGES, TARGETS, window=5)


def test_a_block_that_takes_a_map_is_refused():
    class Block(nn.Module):  # as the last stage of EfficientFormer
        def forward(self, x):
            x = x.flatten(2).mT
            return x + (x @ x.mT).softmax(-1) @ x

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.block, self.head = nn.Conv2d(3, 8, 8, 8), Block(), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.block(self.embed(x)).mean(1))

    with pytest.raises(UserError, match="use occlusion by windows"):
        token_occlusion(lively_network(Network), IMAGES, TARGETS)


def test_the_mean_of_nine_patches_is_read_in_the_networks_precision():
    with recording(lively_network(lambda: timm.create_model(
        "vit_tiny_patch16_224", img_size=24, patch_size=8, embed_dim=32, depth=1, num_heads=2,
        class_token=False, global_pool="avg",
    ))) as recorder:  # fmt: skip
        reading = recorder.run(pictures(1, 24).double()).find_reading()
    close(reading, torch.full((9,), 1 / 9, dtype=torch.float64), 1e-15)


def with_rules(model):
    """The rules of AttnLRP for a torchvision ViT, written into its modules one by one."""
    model = copy.deepcopy(model)
    for module in model.modules():
        own = type(module).forward
        if isinstance(module, nn.GELU):  # identity rule: relevance passes unchanged

            def activate(x, own=own, module=module):
                y = own(module, x).detach()
                return y + (y / (x.detach() + 1e-10)) * (x - x.detach())

            module.forward = activate
        elif isinstance(module, nn.LayerNorm):  # the deviation is a constant

            def normalise(x, norm=module):
                centred = x - x.mean(-1, keepdim=True)
                spread = (x.var(-1, correction=0, keepdim=True) + norm.eps).sqrt().detach()
                return centred / spread * norm.weight + norm.bias

            module.forward = normalise
        elif isinstance(module, nn.MultiheadAttention):  # only values carry relevance

            def attend(q, k, v, own=own, module=module, **options):
                return own(module, q.detach(), k.detach(), v, **options)

            module.forward = attend
    return model


def test_attn_lrp_equals_its_rules_and_leaves_torchs_classes_as_they_were():
    pytest.importorskip("lxt", reason="comes with the extra `proofs`")
    model = lively_network(PLAIN["torchvision"])
    methods = {kind: dict(vars(kind)) for kind in (nn.GELU, nn.LayerNorm, nn.MultiheadAttention)}
    ours = attn_lrp(model, IMAGES, TARGETS)
    assert methods == {kind: dict(vars(kind)) for kind in methods}
    images = IMAGES.clone().requires_grad_()
    logits = with_rules(model)(images)
    for t in range(2):
        score = logits.gather(1, TARGETS[:, t : t + 1]).sum()
        (slope,) = torch.autograd.grad(score, images, retain_graph=True)
        close(ours[:, t], (images * slope).sum(1).detach())


def test_attn_lrp_equals_lxts_own_way(monkeypatch):
    """Against lxt used as its README says, which leaves torch's classes patched."""
    lxt = pytest.importorskip(
        "lxt.efficient", exc_type=ImportError,
        reason="lxt 2.1 does not import beside transformers 5",
    )  # fmt: skip
    from torchvision.models import vision_transformer

    model = lively_network(PLAIN["torchvision"])
    ours = attn_lrp(model, IMAGES, TARGETS)
    for kind in (nn.GELU, nn.LayerNorm, nn.MultiheadAttention):  # put back after the test
        monkeypatch.setattr(kind, "forward", kind.forward)
        monkeypatch.setattr(kind, "original_forward", kind.forward, raising=False)
    lxt.monkey_patch(vision_transformer)
    images = IMAGES.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(images).gather(1, TARGETS[:, :1]).sum(), images)
    close(ours[:, 0], (images * slope).sum(1).detach())


def test_attn_lrp_says_what_it_needs(monkeypatch):
    with pytest.raises(UserError, match="torchvision's VisionTransformer"):
        attn_lrp(lively_network(PLAIN["vit"]), IMAGES, TARGETS)
    module = import_module("convlens.explain.attn_lrp")  # the package's name for it is the function
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="install lxt"):
        attn_lrp(lively_network(PLAIN["torchvision"]), IMAGES, TARGETS)
