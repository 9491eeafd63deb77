"""Attribution by name: what Captum gives, on networks that trip it up, and nothing left behind."""

import copy
import inspect
import random

import captum.attr
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from convlens.core.errors import UserError
from convlens.explain.attribution import attribute, check_attribution
from convlens.explain.captum_methods import attribution_methods, find_method
from support.explain_networks import ConvNet, InPlaceNet, InPlaceSum, pictures, seeded

TARGETS = torch.tensor([0, 2, 1])


def timm_residual() -> nn.Module:
    return timm.create_model("test_resnet", pretrained=False, num_classes=4)


def one_channel() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        nn.Linear(36, 4),
    )  # fmt: skip


CASES = {
    "conv": (ConvNet, 3, 24, "conv2"),
    "in_place": (lambda: InPlaceNet(3), 3, 20, "features.2"),
    "timm": (timm_residual, 3, 32, "layer2"),
    "one_channel": (one_channel, 1, 17, "0"),
}
METHODS = {
    "integrated_gradients": {"n_steps": 8},
    "saliency": {},
    "input_x_gradient": {},
    "guided_backprop": {},
    "deconvolution": {},
    "guided_grad_cam": {},
    "layer_grad_cam": {},
    "layer_conductance": {"n_steps": 6},
    "layer_gradient_x_activation": {},
    "layer_activation": {},
    "internal_influence": {"n_steps": 6},
}


def close(a, b):
    scale = float(b.abs().max())
    assert scale > 0
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * max(1.0, scale))


def fresh_memory(model: nn.Module) -> nn.Module:
    """A copy without in-place layers: the same numbers, and nothing for hooks to trip over."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return model


def needs_layer(method: str) -> bool:
    return "layer" in inspect.signature(attribution_methods()[method]).parameters


def captums(model, method, images, layer, targets=TARGETS, **options):
    kind = attribution_methods()[method]
    explainer = kind(model, model.get_submodule(layer)) if needs_layer(method) else kind(model)
    words = {} if method == "layer_activation" else {"target": targets}
    return explainer.attribute(images.clone(), **words, **options).detach().sum(1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", METHODS)
def test_maps_equal_captum_also_where_relu_works_in_place(case, method):
    build, channels, size, layer = CASES[case]
    model, images = seeded(build), pictures(3, size)[:, :channels]
    options = METHODS[method]
    theirs = captums(fresh_memory(model), method, images, layer, **options)
    layer = layer if needs_layer(method) else None
    ours = attribute(model, images, TARGETS, method, layer=layer, batch=2, **options)
    assert (ours.method, ours.layer) == (method, layer)
    assert not ours.maps.requires_grad
    close(ours.maps, theirs)


@pytest.mark.filterwarnings("ignore")
def test_deep_lift_lrp_and_perturbations_equal_captum():
    model, images = seeded(lambda: InPlaceNet(3)), pictures(3, 20)
    plain = fresh_memory(model)
    for method in ("deep_lift", "lrp"):
        close(attribute(model, images, TARGETS, method).maps,
              captums(copy.deepcopy(plain), method, images, None))  # fmt: skip
    mask = torch.arange(16).reshape(4, 4).repeat_interleave(5, 0).repeat_interleave(5, 1)[None]
    for method in ("feature_ablation", "shapley_value_sampling"):
        options = {"feature_mask": mask}
        if "sampling" in method:
            options["n_samples"] = 2
            # Captum draws orders from the global generator
            theirs = torch.cat([
                (torch.manual_seed(5), captums(plain, method, images[i : i + 1], None,
                                               TARGETS[i : i + 1], **options))[1]
                for i in range(3)
            ])  # fmt: skip
        else:
            theirs = captums(plain, method, images, None, **options)
        found = attribute(
            model, images, TARGETS, method, seed=5, **options | {"feature_mask": mask[0]}
        )
        close(found.maps, theirs)


def test_layer_feature_ablation_by_position_equals_captum():
    model, images = seeded(ConvNet), pictures(2)
    mask = torch.arange(121).reshape(1, 1, 11, 11)
    theirs = captum.attr.LayerFeatureAblation(model, model.conv2).attribute(
        images[:1], target=2, layer_mask=mask
    )
    ours = attribute(model, images, torch.tensor([2, 2]), "layer_feature_ablation", layer="conv2")
    close(ours.maps[:1], theirs.sum(1))


def test_integrated_gradients_add_up_to_the_logits_fall():
    model, images = seeded(ConvNet), pictures(3)
    found = attribute(model, images, TARGETS, "IntegratedGradients", n_steps=200, batch=50)
    fall = (model(images) - model(torch.zeros_like(images))).detach()
    torch.testing.assert_close(
        found.maps.sum((1, 2)), fall.gather(1, TARGETS[:, None])[:, 0], rtol=0, atol=2e-4
    )
    assert found.maps.min() < 0 < found.maps.max()
    assert torch.equal(found.targets, TARGETS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["integrated_gradients", "guided_backprop", "deep_lift"])
def test_one_logit_is_read_as_two_classes(method):
    class Two(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return torch.cat([-self.model(x), self.model(x)], 1)

    class Negative(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return -self.model(x)

    model, images = seeded(InPlaceNet), pictures(2, 20)
    plain = fresh_memory(model)
    positive = captums(plain, method, images, None, targets=0)
    negative = captums(Negative(plain), method, images, None, targets=0)
    ours = attribute(model, images, torch.tensor([1, 0]), method)
    assert ours.logits.shape == (2, 1)
    close(ours.maps, torch.stack([positive[0], negative[1]]))
    predicted = attribute(model, images, torch.tensor([-1, -1]), method)
    assert torch.equal(predicted.targets, (model(images)[:, 0] > 0).long())


SAMPLING = {
    "gradient_shap": {},
    "noise_tunnel": {"of": "integrated_gradients", "n_steps": 4, "nt_samples": 2},
    "layer_gradient_shap": {},
    "shapley_value_sampling": {"n_samples": 1},
    "deep_lift_shap": {},
}


@pytest.mark.parametrize("method", SAMPLING)
def test_sampling_is_seeded_and_global_generators_are_unchanged(method):
    model, images = seeded(lambda: InPlaceNet(3)), pictures(2, 20)
    layer = "features.2" if needs_layer(method) else None

    def maps(part=slice(None), seed=0):
        return attribute(
            model, images[part], TARGETS[part][: len(images[part])], method,
            layer=layer, seed=seed, **SAMPLING[method],
        ).maps  # fmt: skip

    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = maps(slice(0, 2))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all() and random.getstate() == before[2]
    torch.rand(3), np.random.rand(3)
    close(maps(slice(0, 2)), first)
    close(maps(slice(1, 2)), first[1:])  # whatever pictures stand beside it
    if method != "deep_lift_shap":  # which draws nothing
        assert not torch.allclose(maps(slice(0, 2), seed=1), first, rtol=0, atol=1e-7)


@pytest.mark.parametrize("method", ["integrated_gradients", "guided_grad_cam", "occlusion",
                                    "feature_ablation", "layer_deep_lift"])  # fmt: skip
def test_batched_equals_one_by_one(method):
    model, images = seeded(ConvNet), pictures(3)
    whole = attribute(model, images, TARGETS, method)
    for batch in (1, 2):
        close(attribute(model, images, TARGETS, method, batch=batch).maps, whole.maps)
    one = attribute(model, images[1:2], TARGETS[1:2], method, batch=5)
    close(one.maps, whole.maps[1:2])


def test_a_layers_map_keeps_its_resolution_and_the_default_is_the_last_one():
    model, images = seeded(ConvNet), pictures(2)
    assert attribute(model, images, TARGETS[:2], "layer_grad_cam").maps.shape == (2, 11, 11)
    assert attribute(model, images, TARGETS[:2], "LayerGradCam").layer == "relu2"
    assert check_attribution(model, images, "layer_grad_cam", "conv1", {}) == "conv1"
    assert check_attribution(model, images, "saliency", None, {"abs": False}) is None


class FunctionalReluNet(InPlaceNet):
    def forward(self, x):
        return self.head(F.relu(self.features(x) - 0.1).flatten(1))


def test_functional_relu_is_told_where_its_gradient_is_overridden():
    images = pictures(2, 20)
    model = seeded(lambda: FunctionalReluNet(3))
    for method in ("guided_backprop", "guided_grad_cam", "deep_lift"):
        (note,) = attribute(model, images, TARGETS[:2], method).notes
        assert note.startswith("1 of 3 ReLUs are function calls")
        assert attribute(seeded(lambda: InPlaceNet(3)), images, TARGETS[:2], method).notes == ()
    assert attribute(model, images, TARGETS[:2], "saliency").notes == ()
    (note,) = attribute(seeded(InPlaceSum), images, TARGETS[:2], "guided_backprop").notes
    assert "no ReLU" in note


@pytest.mark.parametrize("method", ["integrated_gradients", "guided_grad_cam", "deep_lift",
                                    "noise_tunnel", "lrp", "layer_feature_ablation"])  # fmt: skip
def test_everything_about_the_network_is_unchanged(method):
    model = seeded(lambda: InPlaceNet(3)).train()
    model.features[2].requires_grad_(False)
    images = pictures(2, 20)
    model(images).sum().backward()
    model.register_forward_hook(lambda *_: None)
    before = copy.deepcopy(model)
    gradients = [copy.deepcopy(p.grad) for p in model.parameters()]
    addresses = [p.data_ptr() for p in model.parameters()]
    with torch.no_grad():
        attribute(model, images, TARGETS[:2], method)
    same_network(model, before)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)
    assert [p.data_ptr() for p in model.parameters()] == addresses


def same_network(model, before):
    for (name, a), (_, b) in zip(model.named_parameters(), before.named_parameters(), strict=True):
        assert torch.equal(a, b) and a.requires_grad == b.requires_grad, name
    for a, b in zip(model.modules(), before.modules(), strict=True):
        assert (a.training, getattr(a, "inplace", None)) == (
            b.training,
            getattr(b, "inplace", None),
        )
        assert set(vars(a)) == set(vars(b))
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
            assert len(getattr(a, kind)) == len(getattr(b, kind))


class SameReluTwice(InPlaceNet):
    def __init__(self):
        super().__init__(3)
        self.features[3] = self.features[1]


def test_a_network_a_method_cannot_explain_is_told_in_one_line_and_unchanged():
    images = pictures(2, 32)
    model = seeded(SameReluTwice)
    before = copy.deepcopy(model)
    with pytest.raises(UserError, match="deep_lift cannot explain .* more than once"):
        attribute(model, images, TARGETS[:2], "deep_lift")
    with pytest.raises(UserError, match="lrp cannot explain"):
        attribute(seeded(ConvNet), pictures(1), TARGETS[:1], "lrp")
    same_network(model, before)


def test_names_in_snake_and_camel_case():
    known = attribution_methods()
    assert len(known) >= 35
    for name, kind in known.items():
        assert find_method(name) == find_method(kind.__name__) == name
    assert {"lrp", "layer_lrp", "input_x_gradient", "gradient_shap", "noise_tunnel"} <= set(known)
    assert not {"llm_attribution", "lime_base"} & set(known)


def test_mistakes_are_answered_in_one_line():
    model, images = seeded(ConvNet), pictures(2)
    targets = TARGETS[:2]
    with pytest.raises(UserError, match=r"'IntegratedGradient'.*did you mean integrated_gradients"):
        attribute(model, images, targets, "IntegratedGradient")
    with pytest.raises(UserError, match=r"no option 'n_step': did you mean n_steps"):
        attribute(model, images, targets, "integrated_gradients", n_step=3)
    with pytest.raises(UserError, match=r"no layer 'conv9'.*did you mean conv"):
        attribute(model, images, targets, "layer_grad_cam", layer="conv9")
    with pytest.raises(UserError, match="leave layer out"):
        attribute(model, images, targets, "saliency", layer="conv1")
    with pytest.raises(UserError, match="not maps"):
        attribute(model, images, targets, "layer_activation", layer="fc1")
    with pytest.raises(UserError, match="neuron_selector"):
        attribute(model, images, targets, "neuron_gradient", layer="conv1")
    with pytest.raises(UserError, match="classes 0 to 3"):
        attribute(model, images, torch.tensor([0, 4]), "saliency")
    with pytest.raises(UserError, match="at least two images"):
        attribute(model, images[:1], targets[:1], "feature_permutation")
    with pytest.raises(UserError, match="cannot average itself"):
        attribute(model, images, targets, "noise_tunnel", of="noise_tunnel")
