"""What a network sees: tensors and an ``nn.Module`` in, tensors out; the network is unchanged."""

from convlens.explain.activations import Activations, activations, dead_channels, sparsity
from convlens.explain.filters import FilterPictures, gradient_ascent, kernels, to_display
from convlens.explain.grad_cam import GradCam, grad_cam, probabilities
from convlens.explain.layers import choose_layers, explainable_layers, layer_kind
from convlens.explain.receptive import receptive_field
from convlens.explain.taps import evaluation_mode, explaining, record

__all__ = [
    "Activations",
    "FilterPictures",
    "GradCam",
    "activations",
    "choose_layers",
    "dead_channels",
    "evaluation_mode",
    "explainable_layers",
    "explaining",
    "grad_cam",
    "gradient_ascent",
    "kernels",
    "layer_kind",
    "probabilities",
    "receptive_field",
    "record",
    "sparsity",
    "to_display",
]
