"""Batch to logits: backbones, heads and the table that describes them."""

from convlens.models.classifier import Classifier, build_model
from convlens.models.layers import LayerRow, layer_table

__all__ = ["Classifier", "LayerRow", "build_model", "layer_table"]
