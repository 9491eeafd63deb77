"""Batch to logits: backbones, heads, weights and the table that describes them."""

from convlens.models.build import build_model
from convlens.models.classifier import Classifier
from convlens.models.imagenet import imagenet_classes
from convlens.models.layers import LayerRow, build_layer_table

__all__ = [
    "Classifier",
    "LayerRow",
    "build_layer_table",
    "build_model",
    "imagenet_classes",
]
