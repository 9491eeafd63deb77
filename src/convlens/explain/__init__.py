"""Explain a network: tensors and an ``nn.Module`` in, tensors out; the network stays unchanged."""

from convlens.explain.activations import activations, dead_channels, sparsity
from convlens.explain.attention import attention_maps
from convlens.explain.attention_scores import (
    attention_distance,
    head_diversity,
    head_entropy,
    norm_outliers,
    token_drift,
)
from convlens.explain.attn_lrp import attn_lrp
from convlens.explain.attribution import attribute
from convlens.explain.captum_methods import attribution_methods
from convlens.explain.faithfulness import (
    adcc,
    coherency,
    complexity,
    faithfulness,
    insertion_deletion,
)
from convlens.explain.filters import gradient_ascent, kernels, to_display
from convlens.explain.grad_cam import grad_cam, probabilities
from convlens.explain.importance import rank_units, unit_effects
from convlens.explain.layers import choose_layers, explainable_layers, layer_kind
from convlens.explain.legrad import legrad
from convlens.explain.mode import explaining
from convlens.explain.occlusion import occlusion, superpixel_ablation
from convlens.explain.outputs import answering
from convlens.explain.patches import search_patches
from convlens.explain.relevance import relevance
from convlens.explain.rollout import attention_rollout
from convlens.explain.sanity import parameter_randomisation
from convlens.explain.scores import (
    border_energy,
    confident_mistakes,
    energy_inside,
    entropy,
    peak_position,
    pointing_game,
    same_border_place,
)
from convlens.explain.similarity import pearson, spearman
from convlens.explain.superpixels import superpixels
from convlens.explain.taps import record
from convlens.explain.token_occlusion import token_occlusion

__all__ = [
    "activations",
    "adcc",
    "answering",
    "attention_distance",
    "attention_maps",
    "attention_rollout",
    "attn_lrp",
    "attribute",
    "attribution_methods",
    "border_energy",
    "choose_layers",
    "coherency",
    "complexity",
    "confident_mistakes",
    "dead_channels",
    "energy_inside",
    "entropy",
    "explainable_layers",
    "explaining",
    "faithfulness",
    "grad_cam",
    "gradient_ascent",
    "head_diversity",
    "head_entropy",
    "insertion_deletion",
    "kernels",
    "layer_kind",
    "legrad",
    "norm_outliers",
    "occlusion",
    "parameter_randomisation",
    "peak_position",
    "pearson",
    "pointing_game",
    "probabilities",
    "rank_units",
    "record",
    "relevance",
    "same_border_place",
    "search_patches",
    "sparsity",
    "spearman",
    "superpixel_ablation",
    "superpixels",
    "to_display",
    "token_drift",
    "token_occlusion",
    "unit_effects",
]
