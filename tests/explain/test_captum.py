"""Every explanation against Captum, on the networks people use, and on photographs.

With drawn weights in float64, to 1e-9: there no rounding can hide that a formula differs. With the
trained weights, where they lie beside the checkout, in float32 as users have it, to 1e-5.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import FeatureAblation, LayerActivation, LayerGradCam, Occlusion
from PIL import Image

from convlens.config.compose import compose
from convlens.explain import activations, grad_cam
from convlens.explain.occlusion import occlusion, superpixel_ablation
from convlens.explain.superpixels import superpixels
from convlens.models import build_model
from support.explain_networks import measured_cam, plain_outputs
from support.places import ROOT, SHARED

# experiment, words, size, layers of Grad-CAM and activations
NETWORKS = {
    "scratch": (
        ["experiment=scratch"], 96,
        ["backbone.block1.conv", "backbone.block2.norm", "backbone.block3.activation",
         "backbone.block3.pool"],
    ),
    "vgg16": (
        ["model=vgg16", "model.head.pool=flatten"], 96,
        ["backbone.block1.conv2", "backbone.block3.activation3", "backbone.block5.conv3",
         "backbone.block5.activation3"],
    ),
    "inception_v3": (
        ["model=inception_v3"], 139,
        ["backbone.Mixed_5d", "backbone.Mixed_6e", "backbone.Mixed_7c"],
    ),
    "residual": (
        ["model=timm", "model.name=tf_efficientnet_lite0"], 96,
        ["backbone.blocks.1.0.conv_pw", "backbone.blocks.2.1", "backbone.blocks.4.2.bn2"],
    ),
}  # fmt: skip
WEIGHTS = {
    "vgg16": "vgg16_features_fp16.pth",
    "inception_v3": "inception_v3_keras_base_fp16.pth",
    "residual": "tf_efficientnet_lite0_timm_fp16.pth",
}
# VGG16 and InceptionV3 are slow, above all in float64; 64 and 92 px leave 4 cells a side before the
# last stage
SMALLER = {
    ("scratch", "float64"): 64, ("residual", "float64"): 64, ("vgg16", "float64"): 64,
    ("vgg16", "trained"): 64, ("inception_v3", "float64"): 92,
}  # fmt: skip
CASES = [
    ("scratch", "float64"), ("scratch", "float32"), ("vgg16", "float64"), ("vgg16", "trained"),
    ("inception_v3", "float64"), ("inception_v3", "trained"), ("residual", "float64"),
    ("residual", "trained"),
]  # fmt: skip


def photographs(size: int) -> torch.Tensor:
    """The cat and the cup of coffee, ``(2, 3, size, size)`` in [0, 1]."""
    pictures = [
        np.asarray(
            Image.open(ROOT / "tests" / "photographs" / name).convert("RGB").resize((size, size))
        )
        for name in ("cat.jpg", "coffee.jpg")
    ]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request):
    name, weights = request.param
    words, size, layers = NETWORKS[name]
    words = words if name == "scratch" else [*words, "model.weights=none"]
    size = SMALLER.get((name, weights), size)
    if weights == "trained":
        file = SHARED / "weights" / WEIGHTS[name]
        if not file.is_file():
            pytest.skip("the real weights are not beside this checkout")
        words[-1] = f"model.weights={file}"
    spec = compose(words).model

    images = photographs(size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(spec, channels=3, size=size, outputs=3)
        if weights != "trained":
            settle(model, images)
    if weights == "float64":
        model, images = model.double(), images.double()
    return model.eval(), images, layers


def settle(model: torch.nn.Module, images: torch.Tensor) -> None:
    """Statistics of batch normalisation as if trained: drawn networks neither fade nor explode."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = (
                None  # the mean over all batches, and not mostly the 0 and 1 of new ones
            )
    with torch.no_grad():
        model.train()(images)


TARGETS = torch.tensor([2, 0])


def equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """To 1e-5, of the largest value where that is above 1; in float64 to 1e-9 of it.

    Captum's ``Occlusion`` hands out float32 whatever it was given.
    """
    theirs, size = theirs.detach(), float(theirs.detach().abs().max())
    assert ours.shape == theirs.shape and size > 0
    atol = 1e-9 * size if theirs.dtype == torch.float64 else 1e-5 * max(size, 1.0)
    torch.testing.assert_close(ours.to(theirs.dtype), theirs, rtol=0, atol=atol)


def test_grad_cam_equals_captum_at_all_layers_from_one_pass(case):
    model, images, layers = case
    targets = torch.stack([TARGETS, 2 - TARGETS], 1)
    ours = grad_cam(model, images, targets, layers, relu=False).maps
    parts = grad_cam(model, images, targets, layers, relu=False, batch=1).maps
    for name in layers:
        captum = LayerGradCam(model, model.get_submodule(name))
        theirs = torch.cat([captum.attribute(images, targets[:, t]) for t in range(2)], 1)
        equal(ours[name], theirs)
        equal(parts[name], theirs)


def test_activations_equal_captum(case):
    model, images, layers = case
    ours = activations(model, images, layers).layers
    parts = activations(model, images, layers, batch=1).layers
    for name in layers:
        theirs = LayerActivation(model, model.get_submodule(name)).attribute(images)
        equal(ours[name], theirs)
        equal(parts[name], theirs)


def test_occlusion_equals_captum(case):
    model, images, _ = case
    window, stride = images.shape[-1] // 2, images.shape[-1] // 4
    theirs = Occlusion(model).attribute(
        images, target=TARGETS, sliding_window_shapes=(3, window, window),
        strides=(3, stride, stride),
    )  # fmt: skip
    for batch in (7,) if images.dtype == torch.float64 else (7, 1):
        ours = occlusion(model, images, TARGETS, window=window, stride=stride, batch=batch).maps
        equal(ours, theirs.mean(1))


def test_superpixel_ablation_equals_captum(case):
    model, images, _ = case
    segments = superpixels(images, 9)
    theirs = FeatureAblation(model).attribute(
        images, target=TARGETS, feature_mask=segments[:, None]
    )
    for batch in (7,) if images.dtype == torch.float64 else (7, 1):
        ours = superpixel_ablation(model, images, TARGETS, segments, baseline=0.0, batch=batch).maps
        equal(ours, theirs.mean(1))


@pytest.mark.parametrize(
    "case", [c for c in CASES if c[1] != "float64"], ids="-".join, indirect=True
)
def test_explanations_of_a_network_trained_in_bf16_equal_captum_in_float32(case):
    model, images, layers = case
    captum = LayerGradCam(model, model.get_submodule(layers[1]))
    theirs = captum.attribute(images, TARGETS).detach()
    with torch.autocast("cpu", torch.bfloat16):
        ours = grad_cam(model, images, TARGETS, layers[1:2], relu=False).maps[layers[1]]
        rough = captum.attribute(images, TARGETS).detach().float()
    size = float(theirs.abs().max())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * size)
    assert float((rough - theirs).abs().max()) > 1e-4 * size  # what bf16 would have given


def test_activations_equal_a_plain_hook_that_clones(case):
    model, images, layers = case
    ours = activations(model, images, layers).layers
    for name, expected in plain_outputs(model, images, layers).items():
        assert torch.equal(ours[name], expected), name


@pytest.mark.parametrize(
    ("case", "step"),
    [
        # larger steps cross the kinks of some ReLU; to its early layers a drawn VGG16 hands back so
        # little that smaller ones drown in rounding
        ((name, "float64"), 1e-6 if name == "vgg16" else 1e-7)
        for name in NETWORKS
    ],
    ids=list(NETWORKS),
    indirect=["case"],
)
def test_grad_cam_equals_finite_differences_where_the_map_is_highest(case, step):
    """Without Captum, and without a gradient."""
    model, images, layers = case
    images, targets = images[:1], TARGETS[:1]
    ours = grad_cam(model, images, targets, layers, relu=False).maps
    for name in layers:
        maps = ours[name][0, 0]
        place = divmod(int(maps.argmax()), maps.shape[1])
        expected = measured_cam(model, images, targets, name, place, step)
        atol = 1e-6 * float(maps.abs().max())
        torch.testing.assert_close(maps[place][None], expected, rtol=0, atol=atol)
