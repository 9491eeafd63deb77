"""torchvision's VGG16, with layers named by block."""

from __future__ import annotations

from collections import OrderedDict

import torchvision
from torch import nn
from torchvision.models import vgg

from convlens.models.backbone import Backbone, build_chain


def build_convolutions() -> nn.Sequential:
    """Build torchvision's ``vgg16().features``: 13 convolutions, 14,714,688 parameters.

    K. Simonyan, A. Zisserman, *Very Deep Convolutional Networks for Large-Scale Image
    Recognition*, 2014, https://arxiv.org/abs/1409.1556
    """
    return vgg.make_layers(vgg.cfgs["D"])


def build_network() -> nn.Module:
    """Build torchvision's VGG16 with its classifier of 1000 classes, weights not initialised."""
    return torchvision.models.vgg16(init_weights=False)


def group_by_block(features: nn.Sequential) -> Backbone:
    """Group the layers of ``features`` as ``block1 … block5``, each ``conv1, activation1, … pool``.

    At 150×150 pixels the output is (512, 4, 4).
    """
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    depth = 0
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            depth += 1
            layers[f"conv{depth}"] = layer
        elif isinstance(layer, nn.ReLU):
            layers[f"activation{depth}"] = layer
        else:
            layers["pool"] = layer
            blocks[f"block{len(blocks) + 1}"] = nn.Sequential(layers)
            layers, depth = OrderedDict(), 0
    return build_chain(blocks)


def build_own_head(network: nn.Module) -> nn.Sequential:
    """Build the classifier of the whole network: (B, 512, h, w) to 1000 logits."""
    names = ["dense1", "activation1", "dropout1", "dense2", "activation2", "dropout2", "logits"]
    parts = [("pool", network.avgpool), ("flatten", nn.Flatten())]
    parts += zip(names, network.classifier, strict=True)
    return nn.Sequential(OrderedDict(parts))
