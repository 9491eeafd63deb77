"""Families of timm, one small member each: built, divided, trained for a step, as timm computes."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from convlens.core.errors import UserError
from convlens.models import build_model
from convlens.models.timm_networks import build_parts
from convlens.models.timm_parts import OwnHead, take_part
from support.timm_tiny import SPEC, VIT

# name -> pixels, and options that make it small
FAMILIES: dict[str, tuple[int, dict]] = {
    # tokens
    "beit_base_patch16_224": (32, VIT),
    "beitv2_base_patch16_224": (32, VIT),
    "convit_tiny": (32, {"depth": 3, "local_up_to_layer": 2}),
    "deit3_small_patch16_224": (32, VIT),
    "efficientformer_l1": (224, {}),
    "eva02_tiny_patch14_224": (28, VIT),
    "gmixer_12_224": (32, {}),
    "hiera_tiny_224": (64, {}),
    "levit_128s": (64, {}),
    "levit_conv_128s": (64, {}),
    "mixer_s32_224": (64, {}),
    "mvitv2_tiny": (64, {}),
    "naflexvit_base_patch16_gap": (32, VIT),
    "pit_ti_224": (64, {}),
    "pit_ti_distilled_224": (64, {}),
    "resmlp_12_224": (32, {}),
    "test_vit4": (32, {}),
    "tnt_s_legacy_patch16_224": (32, {"depth": 2}),
    "twins_pcpvt_small": (64, {}),
    "vit_base_patch32_clip_224": (64, VIT),
    "vit_relpos_small_patch16_224": (32, VIT),
    "vit_small_patch16_dinov3": (32, VIT),
    "vit_small_r26_s32_224": (64, VIT),
    "vit_wee_patch16_reg1_gap_256": (32, {}),
    "vitamin_small_224": (64, {}),
    "volo_d1_224": (64, {}),
    "xcit_nano_12_p16_224": (32, {}),
    # maps with channels last, and maps
    "caformer_s18": (64, {}),
    "coat_lite_tiny": (64, {}),
    "convnext_atto": (64, {}),
    "davit_tiny": (64, {}),
    "edgenext_xx_small": (64, {}),
    "efficientformerv2_s0": (64, {}),
    "efficientnet_b0": (64, {}),
    "efficientvit_b0": (64, {}),
    "efficientvit_m0": (64, {}),
    "fastvit_t8": (64, {}),
    "focalnet_tiny_srf": (64, {}),
    "gcvit_xxtiny": (64, {}),
    "ghostnet_050": (64, {}),
    "hgnetv2_b0": (64, {}),
    "inception_next_atto": (64, {}),
    "mobilenetv4_hybrid_medium": (64, {}),
    "mobilevit_xxs": (64, {}),
    "mobilevitv2_050": (64, {}),
    "nest_tiny": (64, {}),
    "nextvit_small": (64, {}),
    "poolformer_s12": (64, {}),
    "pvt_v2_b0": (64, {}),
    "repvit_m0_9": (64, {}),
    "resnet10t": (64, {}),
    "samvit_base_patch16_224": (64, {"embed_dim": 32, "depth": 2, "num_heads": 2}),
    "sequencer2d_s": (56, {}),
    "shvit_s1": (64, {}),
    "starnet_s1": (64, {}),
    "swiftformer_xs": (64, {}),
    "swin_tiny_patch4_window7_224": (64, {}),
    "swinv2_cr_tiny_ns_224": (64, {}),
    "swinv2_tiny_window8_256": (64, {}),
    "test_coatnet": (64, {}),
    "test_mambaout": (64, {}),
    "tiny_vit_5m_224": (64, {}),
    "visformer_tiny": (64, {}),
}  # fmt: skip
REFUSED = {"coat_tiny": 64, "crossvit_9_240": 240}  # their features are several sequences


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_computes_what_timm_computes_and_trains(name):
    size, options = FAMILIES[name]
    torch.manual_seed(0)
    theirs, division = build_parts(name, 7, size, options)
    backbone, head = division.backbone.eval(), take_part(theirs, OwnHead, division.rest).eval()
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(head(backbone(images)), theirs.eval()(images))
        if division.pooling is None and hasattr(theirs, "forward_intermediates"):
            channels_first = backbone(images)
            if division.backbone.layout.channels == -1:
                channels_first = channels_first.permute(0, 3, 1, 2)
            maps = theirs.forward_intermediates(
                images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
            )[-1]
            assert channels_first.shape[-2:] == maps.shape[-2:]  # no axis is mistaken
    model = build_model(
        SPEC.replace(name=name, options=options), channels=3, size=size, outputs=5,
        pretrained=False,
    ).train()  # fmt: skip
    # a pretrained norm of the head is loaded, not left out as part of the classifier
    top = timm.get_pretrained_cfg(name).classifier or ()
    prefixes = tuple(f"{each}." for each in ((top,) if isinstance(top, str) else top))
    if division.norm is not None:
        path = next(key for key, m in theirs.named_modules() if m is division.norm)
        assert not f"{path}.weight".startswith(prefixes)
    for part in (model.head, model):
        model.requires_grad_(False)
        part.requires_grad_(True)
        before = {key: value.detach().clone() for key, value in model.named_parameters()}
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.1)
        nn.functional.cross_entropy(model(images), torch.tensor([0, 1])).backward()
        optimizer.step()
        changed = {k for k, v in model.named_parameters() if not torch.equal(v, before[k])}
        trained = {k for k, p in model.named_parameters() if p.requires_grad}
        assert {k for k in trained if k.startswith("head.logits.")} <= changed <= trained
    assert any(key.startswith("backbone.") for key in changed)


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_several_sequences_are_refused(name):
    with pytest.raises(UserError, match="neither one map nor one sequence of tokens"):
        build_parts(name, 0, REFUSED[name], None)
