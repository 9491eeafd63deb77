"""Layers of timm that return several things, or are never called, are refused; those inside not."""

from __future__ import annotations

import pytest
import timm
import torch

from convlens.core.errors import UserError
from convlens.explain import activations, grad_cam, gradient_ascent
from convlens.explain.layers import choose_layers
from support.family_checks import lively

CLOSE = {"rtol": 0, "atol": 1e-9}
# name -> options, a layer, what it returns, and a layer inside it that holds timm's own map
NETWORKS = {
    "pit_ti_224": (
        {"img_size": 32, "base_dims": [8, 8, 8], "depth": [1, 1, 2]},
        "transformers.0", "returns a tuple, not one tensor", "transformers.0.blocks.0",
    ),
    "coat_lite_tiny": (
        {"img_size": 64, "serial_depths": [1, 1, 1, 1], "embed_dims": [16, 32, 32, 32]},
        "serial_blocks1", "is a ModuleList that is never called", "serial_blocks1.0",
    ),
    "mvitv2_tiny": (
        {"img_size": 32},
        "stages.0.blocks.0", "returns a tuple, not one tensor", None,
    ),
    "tnt_s_patch16_224": (
        {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48},
        "blocks.0", "returns a tuple, not one tensor", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_the_layer_is_refused_in_one_line_and_one_inside_is_timms_own_map(name):
    choice, layer, why, inner = NETWORKS[name]
    model = lively(lambda: timm.create_model(name, num_classes=3, **choice))
    size, target = choice["img_size"], torch.tensor([1])
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, size, size, generator=generator, dtype=torch.float64)
    for look in (
        lambda: activations(model, images, [layer]),
        lambda: grad_cam(model, images, target, [layer]),
        lambda: gradient_ascent(
            model, layer, [0], size=size, channels=3, steps=1, step_size=0.1, seed=0
        ),
    ):
        with pytest.raises(
            UserError, match=rf"'{layer}' {why}.*: choose a layer inside it"
        ) as line:
            look()
        assert len(str(line.value)) <= 160
    assert layer not in choose_layers(model, "auto", example=images)
    if inner:
        (first, *_) = model.forward_intermediates(images, intermediates_only=True)
        torch.testing.assert_close(
            activations(model, images, [inner]).layers[inner], first, **CLOSE
        )
