"""Families of timm, with random weights and in float64: maps are right, or refused by name.

Which axis of a layer holds the channels is told here by sizes alone: images are wider than high,
so the axes of a map can be picked out of its shape.
The references are a plain hook that clones, and Captum's Grad-CAM; for a layer that holds its
channels last Captum is shown a copy of the network in which the layer's output passes through an
identity with its channels first.
"""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from captum.attr import LayerGradCam
from torch import nn

from convlens.explain import activations, explaining, grad_cam
from convlens.explain.layers import find_feature_map
from support.family_checks import lively

CLOSE = {"rtol": 0, "atol": 1e-9}
WIDE = (32, 64)  # float64 has no fast convolution: no larger than needed
# family -> its smallest member, the images it takes, what it needs to be told
MAPS = {
    "convnext": ("convnext_atto", WIDE, {}),
    "convnext, channels last": ("convnext_atto", WIDE, {"conv_mlp": False}),
    "convnextv2": ("convnextv2_atto", WIDE, {"conv_mlp": False}),
    "edgenext": ("edgenext_xx_small", WIDE, {}),
    "swin": ("swin_tiny_patch4_window7_224", (64, 96), {"img_size": (64, 96), "window_size": 4}),
    "swinv2": ("swinv2_tiny_window8_256", (64, 96), {"img_size": (64, 96), "window_size": 4}),
    "focalnet": ("focalnet_tiny_srf", WIDE, {}),
    "davit": ("davit_tiny", WIDE, {}),
    "mambaout": ("mambaout_femto", WIDE, {}),
    "inception_next": ("inception_next_atto", WIDE, {}),
    "pvt_v2": ("pvt_v2_b0", WIDE, {}),
    "poolformer": ("poolformer_s12", WIDE, {}),
    "mobilevit": ("mobilevit_xxs", WIDE, {}),
    "mobilevitv2": ("mobilevitv2_050", (192, 320), {}),  # its patches are 4 pixels, as WIDE is high
    "fastvit": ("fastvit_t8", WIDE, {}),
    "repvit": ("repvit_m0_9", WIDE, {}),
    "starnet": ("starnet_s050", WIDE, {}),
    "efficientvit": ("efficientvit_b0", WIDE, {}),
    "resnet": ("resnet10t", WIDE, {}),
    "resnetv2": ("resnetv2_50", WIDE, {}),
    "resnest": ("resnest14d", WIDE, {}),
    "sknet": ("skresnet18", WIDE, {}),
    "regnet": ("regnety_002", WIDE, {}),
    "vgg": ("vgg11_bn", WIDE, {}),
    "densenet": ("densenet121", WIDE, {}),
    "inception_v3": ("inception_v3", (108, 162), {}),
    "xception": ("xception41", WIDE, {}),
    "dla": ("dla46_c", WIDE, {}),
    "dpn": ("dpn48b", WIDE, {}),
    "hrnet": ("hrnet_w18_small", WIDE, {}),
    "vovnet": ("ese_vovnet19b_slim_dw", WIDE, {}),
    "cspnet": ("darknet17", WIDE, {}),
    "byobnet": ("gernet_s", WIDE, {}),
    "mobileone": ("mobileone_s0", WIDE, {}),
    "nfnet": ("nf_regnet_b0", WIDE, {}),
    "rexnet": ("rexnet_100", WIDE, {}),
    "mobilenetv3": ("mobilenetv3_small_050", WIDE, {}),
    "mobilenetv2": ("mobilenetv2_035", WIDE, {}),
    "efficientnet": ("tf_efficientnet_lite0", WIDE, {}),
    "ghostnet": ("ghostnet_050", WIDE, {}),
    "lcnet": ("lcnet_035", WIDE, {}),
    "selecsls": ("selecsls42b", WIDE, {}),
}
SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
# family -> its smallest member, the images it takes, what it needs to be told; blocks give tokens,
# windows, or maps in another order
TOKENS = {
    "vit": ("vit_tiny_patch16_224", WIDE, {"img_size": WIDE, **SMALL}),
    "vit, average": ("vit_tiny_patch16_224", WIDE, {"img_size": WIDE, "global_pool": "avg"}),
    "deit3": ("deit3_small_patch16_224", WIDE, {"img_size": WIDE, **SMALL}),
    "deit, distilled": ("deit_tiny_distilled_patch16_224", WIDE, {"img_size": WIDE, **SMALL}),
    "dinov2, registers": ("vit_small_patch14_reg4_dinov2", (56, 84), {"img_size": (56, 84)}),
    "dinov3": ("vit_small_patch16_dinov3", WIDE, {"img_size": WIDE}),
    "siglip": ("vit_base_patch16_siglip_224", WIDE, {"img_size": WIDE, **SMALL}),
    "flexivit": ("flexivit_small", WIDE, {"img_size": WIDE, **SMALL}),
    "hybrid vit": ("vit_tiny_r_s16_p8_224", (64, 96), {"img_size": (64, 96)}),
    "relative positions": ("vit_relpos_small_patch16_224", WIDE, {"img_size": WIDE, **SMALL}),
    "samvit": ("samvit_base_patch16", WIDE, {"img_size": WIDE, "window_size": 3, **SMALL}),
    "beit": ("beit_base_patch16_224", WIDE, {"img_size": WIDE, **SMALL}),
    "beitv2": ("beitv2_base_patch16_224", WIDE, {"img_size": WIDE, **SMALL}),
    "eva02": ("eva02_tiny_patch14_224", (28, 42), {"img_size": (28, 42), "depth": 3}),
    "cait": ("cait_xxs24_224", (32, 32), {"img_size": 32, **SMALL}),
    "xcit": ("xcit_nano_12_p16_224", WIDE, {"img_size": WIDE, "depth": 3}),
    "convit": ("convit_tiny", (32, 32), {"img_size": 32, "patch_size": 8}),
    "mixer": ("mixer_s32_224", (64, 64), {"img_size": 64}),
    "gmlp": ("gmlp_ti16_224", (64, 64), {"img_size": 64}),
    "resmlp": ("resmlp_12_224", (64, 64), {"img_size": 64}),
    "swin": ("swin_tiny_patch4_window7_224", (64, 96), {"img_size": (64, 96), "window_size": 4}),
    "swinv2": ("swinv2_tiny_window8_256", (64, 96), {"img_size": (64, 96), "window_size": 4}),
    "swinv2_cr": ("swinv2_cr_tiny_ns_224", (64, 64), {"img_size": 64, "window_size": 4}),
    "hiera": ("hiera_tiny_224", (64, 96), {"img_size": (64, 96), "embed_dim": 16, "num_heads": 1}),
    "pvt_v2": ("pvt_v2_b0", (64, 96), {}),
    "nest": ("nest_tiny_jx", (64, 64), {"img_size": 64}),
    "maxvit": ("maxvit_rmlp_pico_rw_256", (64, 64), {"img_size": 64}),
    "coatnet": ("coatnet_pico_rw_224", (64, 64), {"img_size": 64}),
    "mobilevit": ("mobilevit_xxs", (64, 96), {}),
    "davit": ("davit_tiny", (64, 96), {}),
    "gcvit": ("gcvit_xxtiny", (64, 64), {"img_size": 64, "window_ratio": (32, 32, 16, 32)}),
    "levit": ("levit_128s", (224, 224), {}),
    "volo": ("volo_d1_224", (64, 64), {"img_size": 64}),
    "caformer": ("caformer_s18", (64, 64), {}),
    "efficientformer": ("efficientformer_l1", (224, 224), {}),
    "tiny_vit": ("tiny_vit_5m_224", (64, 64), {}),
    "edgenext, attention": ("edgenext_x_small", (64, 96), {}),
    "fastvit, attention": ("fastvit_sa12", (64, 96), {}),
    "visformer": ("visformer_tiny", (64, 64), {"img_size": 64}),
    "swiftformer": ("swiftformer_xs", (64, 64), {}),
}


def built(name: str, options: dict) -> nn.Module:
    return lively(lambda: timm.create_model(name, num_classes=5, **options))


def images_of(size: tuple[int, int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(1, 3, *size, generator=generator, dtype=torch.float64)


def order_of(shape: torch.Size, size: tuple[int, int]) -> tuple[int, ...] | None:
    """``B, C, h, w`` among the axes of a map, by its sizes; None where they do not tell."""
    if len(shape) != 4 or shape[0] != 1:
        return None
    fits = [
        (0, channels, *rest)
        for channels in (1, 2, 3)
        for rest in [[axis for axis in (1, 2, 3) if axis != channels]]
        if shape[rest[1]] > 1 and shape[rest[0]] * size[1] == shape[rest[1]] * size[0]
        and size[0] % shape[rest[0]] == 0
    ]  # fmt: skip
    return fits[0] if len(fits) == 1 else None


def plain_hooks(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """The last output of every module that gives a tensor, cloned, in the order of the calls.

    Not of modules that hand on the very tensor they were given, as nn.Identity does: for Captum
    their output is that tensor wherever it goes, not what this module hands on.
    """
    found: dict[str, torch.Tensor] = {}

    def keep(name, module, given, output):
        # an in-place activation gives back its input too, with other values in it
        handed_on = any(each is output for each in given) and not getattr(module, "inplace", False)
        if isinstance(output, torch.Tensor) and not handed_on:
            found.pop(name, None)
            found[name] = output.detach().clone()

    handles = [
        module.register_forward_hook(lambda m, given, out, name=name: keep(name, m, given, out))
        for name, module in model.named_modules()
        if name
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return found


class ChannelsFirst(nn.Module):
    """A layer whose output passes through ``tap`` with the channels first, and back."""

    def __init__(self, layer: nn.Module, order: tuple[int, ...]):
        super().__init__()
        self.layer, self.order, self.tap = layer, order, nn.Identity()

    def forward(self, *given, **named):
        output = self.tap(self.layer(*given, **named).permute(self.order))
        return output.permute([self.order.index(axis) for axis in range(4)])


def captum_map(
    model: nn.Module, images: torch.Tensor, target: int, layer: str, order: tuple[int, ...]
) -> torch.Tensor:
    tapped = model.get_submodule(layer)
    if order != (0, 1, 2, 3):
        parent, _, child = layer.rpartition(".")
        model = copy.deepcopy(model)
        adapter = ChannelsFirst(model.get_submodule(layer), order)
        setattr(model.get_submodule(parent), child, adapter)
        tapped = adapter.tap
    found = LayerGradCam(model, tapped).attribute(images, target, relu_attributions=True)
    return found.detach()[:, 0]


def two_others(outputs: dict[str, torch.Tensor], size: tuple[int, int], default: str) -> list[str]:
    """A map in the middle, and one that holds its channels last, where there is one."""
    orders = {name: order_of(output.shape, size) for name, output in outputs.items()}
    maps = [name for name, order in orders.items() if order and name != default]
    last = [name for name in maps if orders[name][1] == 3]
    pool = last or maps
    return list(dict.fromkeys([maps[len(maps) // 2], pool[len(pool) // 3], maps[-1]]))[:2]


@pytest.mark.slow
@pytest.mark.parametrize("family", MAPS)
def test_maps_of_a_family_equal_captum_and_a_plain_hook(family):
    name, size, options = MAPS[family]
    model, images = built(name, options), images_of(size)
    outputs = plain_hooks(model, images)
    default, why = find_feature_map(model, images[:1])
    assert default is not None, why
    assert order_of(outputs[default].shape, size), f"{default}: {outputs[default].shape}"
    layers = [default, *two_others(outputs, size, default)]
    assert len(layers) == 3
    ours = activations(model, images, layers).layers
    with torch.no_grad():
        target = int(model(images).argmax())
    maps = grad_cam(model, images, torch.tensor([target]), layers).maps
    for layer in layers:
        order = order_of(outputs[layer].shape, size)
        torch.testing.assert_close(ours[layer], outputs[layer].permute(order), **CLOSE)
        theirs = captum_map(model, images, target, layer, order)
        torch.testing.assert_close(maps[layer][:, 0], theirs, **CLOSE)
        assert theirs.shape[1:] == outputs[layer].permute(order).shape[2:]
    assert any(float(maps[layer].max()) > 0 for layer in layers)


@pytest.mark.slow
@pytest.mark.parametrize("family", TOKENS)
def test_maps_of_a_familys_blocks_are_timms_own_bit_for_bit(family):
    name, size, options = TOKENS[family]
    model, images = built(name, options), images_of(size)
    with explaining(model), torch.no_grad():
        theirs = model.forward_intermediates(images, intermediates_only=True)
    blocks = [info["module"] for info in model.feature_info][-len(theirs) :]
    assert len(blocks) == len(theirs) > 1
    activations(model, images, blocks)  # the tracked pass is rounded in another way
    ours = activations(model, images, blocks).layers
    for block, expected in zip(blocks, theirs, strict=True):
        assert torch.equal(ours[block], expected), block
    # the default layer is one from which the prediction depends on every image's patches
    layer, why = find_feature_map(model, images)
    assert layer is not None, why
    maps = grad_cam(model, images, torch.tensor([1]), [layer], relu=False).maps[layer]
    assert maps.isfinite().all() and maps.abs().max() > 0
