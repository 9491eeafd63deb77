"""The layer table's rows add up to the network, wherever its parameters are held."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from convlens.models import build_layer_table

# one small network of each family, among them: batch norm with its activation inside, layer scale,
# class tokens and position tables, linear layers whose weights another module reads
FAMILIES = [
    "inception_v3", "test_byobnet", "cait_xxs24_224", "coat_tiny", "convit_tiny", "convnext_atto",
    "crossvit_tiny_240", "cs3darknet_focus_s", "cspnext_tiny", "deit_tiny_patch16_224",
    "densenet121", "dla34", "dpn68", "edgenext_xx_small", "efficientformer_l1",
    "efficientformerv2_s0", "tinynet_c", "efficientvit_b0", "efficientvit_m0",
    "eva02_tiny_patch14_224", "fasternet_t0", "fastvit_t8", "ghostnet_050", "hgnetv2_b0",
    "hrnet_w18_small", "inception_next_atto", "lcnet_035", "lcnetv2_small", "levit_128",
    "test_mambaout", "test_coatnet", "gmixer_12_224", "mobilevit_xxs", "test_nfnet", "pit_xs_224",
    "pvt_v2_b0", "regnetx_002", "repghostnet_050", "resnest14d", "test_resnet", "resnetv2_18",
    "rexnet_100", "selecsls42", "legacy_seresnet18", "shvit_s1", "swiftformer_xs", "test_vit",
    "xcit_nano_12_p16_224",
]  # fmt: skip


def differs(model: nn.Module, size: int) -> int:
    """What the table's total lacks of the network's."""
    rows = build_layer_table(model, channels=3, size=size)
    return sum(p.numel() for p in model.parameters()) - sum(row.parameters for row in rows)


def edge(name: str) -> int:
    return timm.get_pretrained_cfg(name).input_size[-1]


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit"])
def test_rows_of_three_families_add_up(name):
    assert differs(timm.create_model(name), edge(name)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_rows_of_forty_families_add_up(name):
    assert len(FAMILIES) >= 40
    assert differs(timm.create_model(name), edge(name)) == 0


def test_batch_norm_with_its_activation_inside_is_counted():
    """The issue's example, without its classifier: 22,276,965 against 22,311,397 with one."""
    model = timm.create_model("inception_v3", num_classes=0)
    rows = build_layer_table(model, channels=3, size=96)
    norms = [row for row in rows if row.kind == "BatchNormAct2d"]
    held = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == len(held) == 94
    assert sum(row.parameters for row in norms) == sum(2 * m.num_features for m in held) == 34_432
    assert differs(model, 96) == 0


class Odd(nn.Module):
    """Parameters where leaves have none: its own, shared ones, and some that nothing calls."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3, 1, 1))
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.twin = nn.Conv2d(3, 3, 3, padding=1)
        self.twin.weight = self.conv.weight
        self.read = nn.Linear(3, 2)
        self.idle = nn.Linear(5, 7)

    def forward(self, images):
        maps = self.conv(self.conv(self.gain * images)) + self.twin(images)
        return nn.functional.linear(maps.mean((2, 3)), self.read.weight, self.read.bias)


def test_held_by_a_container_shared_run_twice_and_never_called():
    rows = build_layer_table(Odd(), channels=3, size=8)
    found = [(row.path, row.output, row.parameters) for row in rows]
    assert found == [
        ("", (2,), 3),
        ("conv", (3, 8, 8), 81 + 3),
        ("conv", (3, 8, 8), 0),  # the same again
        ("twin", (3, 8, 8), 3),  # its weight is conv's
        ("read", None, 8),
        ("idle", None, 42),
    ]
    assert [row.convolution for row in rows] == [False, True, True, True, False, False]


class TwoMaps(nn.Module):
    def forward(self, images):
        return {"maps": [images[:, :1]], "label": "none"}


def test_convolutions_of_other_names_and_outputs_that_are_no_tensor():
    class Standardised(nn.Conv2d):
        pass

    model = nn.Sequential(Standardised(3, 4, 3, dtype=torch.float64), nn.Flatten(), nn.Identity())
    rows = build_layer_table(model, channels=3, size=8)
    assert [row.convolution for row in rows] == [True, False, False]
    assert [row.output for row in rows] == [(4, 6, 6), (144,), (144,)]
    (row,) = build_layer_table(TwoMaps(), channels=3, size=8)
    assert row.output == (1, 8, 8)
