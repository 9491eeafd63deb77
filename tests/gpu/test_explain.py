"""Explanations computed on a GPU equal Captum's there, and those of the processor."""

from __future__ import annotations

import pytest
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

from convlens.explain import ascent, attribute, grad_cam, gradient_ascent, occlusion
from convlens.explain.ascent import Ascent
from convlens.explain.filters import get_recipe
from support.explain_networks import ConvNet, residual, seeded


def noise(count: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, size, size, generator=generator, dtype=torch.float64)


def both(build) -> tuple[nn.Module, nn.Module]:
    """Return the same network twice in float64: on the processor and on the GPU."""
    return seeded(build).double(), seeded(build).double().cuda()


@pytest.mark.parametrize(
    ("build", "layer", "size"), [(ConvNet, "conv2", 24), (residual, "layer4", 64)]
)
def test_grad_cam_equals_captum_and_the_processor(build, layer, size):
    here, there = both(build)
    images, targets = noise(3, size), torch.tensor([0, 1, 2])
    ours = grad_cam(there, images.cuda(), targets.cuda(), [layer]).maps[layer]
    captum = LayerGradCam(there, there.get_submodule(layer))
    theirs = captum.attribute(images.cuda(), targets.cuda(), relu_attributions=True).detach()
    assert theirs.max() > 0
    torch.testing.assert_close(ours.to(theirs), theirs, rtol=1e-9, atol=1e-12)
    on_cpu = grad_cam(here, images, targets, [layer]).maps[layer]
    torch.testing.assert_close(ours.cpu(), on_cpu, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "method", ["integrated_gradients", "saliency", "deep_lift", "gradient_shap"]
)
def test_attributions_equal_those_of_the_processor(method):
    here, there = both(ConvNet)
    images, targets = noise(2, 24), torch.tensor([1, 2])
    on_cpu = attribute(here, images, targets, method).maps
    on_gpu = attribute(there, images.cuda(), targets.cuda(), method).maps
    assert on_cpu.abs().max() > 0
    if method == "gradient_shap":
        # it samples, and each device has its own generator; cuDNN's gradients differ by rounding
        on_cpu = attribute(there, images.cuda(), targets.cuda(), method).maps.cpu()
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-8, atol=1e-11)


def test_occlusion_equals_that_of_the_processor():
    here, there = both(ConvNet)
    images, targets = noise(2, 24), torch.tensor([1, 2])
    on_cpu = occlusion(here, images, targets, window=8, stride=4).maps
    on_gpu = occlusion(there, images.cuda(), targets.cuda(), window=8, stride=4).maps
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-9, atol=1e-12)


def test_filter_pictures_repeat():
    _, there = both(ConvNet)
    made = [
        gradient_ascent(
            there.float(), "conv2", [0, 3], size=24, channels=3, steps=10, step_size=1.0, seed=0
        ).images
        for _ in range(2)
    ]
    assert torch.isfinite(made[0]).all() and made[0].std() > 0
    assert torch.equal(*made)


def test_the_steps_of_an_ascent_wait_for_nothing(monkeypatch):
    """The driver itself refuses whatever would wait, but for the one copy before the steps."""
    whole, copy = Ascent.__call__, ascent.make_matrices

    def make_matrices(*told):
        torch.cuda.set_sync_debug_mode("default")
        try:
            return copy(*told)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    def climb(*told):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return whole(*told)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(ascent, "make_matrices", make_matrices)
    monkeypatch.setattr(Ascent, "__call__", climb)
    there = seeded(ConvNet).cuda()
    found = gradient_ascent(
        there, "conv2", None, size=24, channels=3, steps=8, step_size=0.05, seed=0,
        **get_recipe("robust"),
    )  # fmt: skip
    assert found.steps.tolist() == [8] * len(found.units)
