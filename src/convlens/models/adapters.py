"""Low-rank adapters (LoRA) in a frozen base.

A layer with weights W (o, i) becomes W x + alpha / rank · B (A x), with A (rank, i) drawn at random
and B (o, rank) zero at first, so the network starts unchanged. E. Hu et al., *LoRA: Low-Rank
Adaptation of Large Language Models*, 2021, https://arxiv.org/abs/2106.09685; the layers are peft's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from convlens.config.schema import LoraConfig
from convlens.core.errors import UserError, nearest
from convlens.core.evaluation import evaluation_mode
from convlens.core.optional import import_optional
from convlens.models.classifier import Classifier

_ADAPTER, _BASE = ".lora_", ".base_layer."  # in the names of peft's parameters


def add_adapters(model: Classifier, spec: LoraConfig, example: Tensor) -> None:
    """Replace layers of the backbone with the same layers and an adapter.

    Args:
        model: the network, changed in place.
        spec: the config group ``finetune.lora``.
        example: (1, C, H, W), an image that the network accepts.

    Raises:
        UserError: peft is not installed, a target is no layer of the backbone, or the network
            reads the layer's weights without calling it, so that an adapter would do nothing.
    """
    key = "finetune.lora.targets"
    layers = {path: layer for path, layer in model.backbone.named_modules() if path}
    chosen: list[str] = []
    for target in spec.targets:
        found = [path for path in layers if f".{path}".endswith(f".{target}")]
        if not found:
            raise UserError(f"{key}: the backbone has no {target}; {nearest(target, layers)}")
        chosen += found
    for path in chosen:
        layer = layers[path]
        if not isinstance(layer, nn.Linear | nn.Conv2d) or getattr(layer, "groups", 1) != 1:
            raise UserError(
                f"{key}: {path} is a {type(layer).__name__}; choose dense layers or convolutions "
                f"without groups"
            )
    peft = import_optional("peft", "peft", "finetune=lora")
    config = peft.LoraConfig(
        r=spec.rank, lora_alpha=spec.alpha, lora_dropout=spec.dropout, target_modules=chosen
    )
    peft.inject_adapter_in_model(config, model.backbone)
    idle = _list_idle(model, chosen, example)
    if idle:
        raise UserError(
            f"{key}: the network reads the weights of {idle[0]} without calling it: an adapter "
            f"there does nothing; choose others"
        )


def _list_idle(model: Classifier, paths: list[str], example: Tensor) -> list[str]:
    """Return the layers that a forward pass does not call."""
    called: set[str] = set()
    handles = [
        model.backbone.get_submodule(path).register_forward_pre_hook(
            lambda *_, path=path: called.add(path)
        )
        for path in paths
    ]
    try:
        with torch.no_grad(), evaluation_mode(model):
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return [path for path in paths if path not in called]


def merge_adapters(model: nn.Module) -> None:
    """Add all adapters to the weights of their layers, which take their places again.

    Args:
        model: the network, changed in place; outputs stay equal up to rounding.
    """
    for path, layer in list(model.named_modules()):
        if hasattr(layer, "lora_A"):
            layer.merge()
            model.set_submodule(path, layer.base_layer)


def merge_state(state: Mapping[str, Tensor], spec: object, path: Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint with its adapters merged, as ``merge_adapters`` does.

    Args:
        state: tensors by key; without adapters they are returned as they are.
        spec: ``finetune.lora`` of the checkpoint's config.
        path: the checkpoint, for the message.

    Raises:
        UserError: the adapters do not fit the weights.
    """
    if not any(_ADAPTER in key for key in state):
        return dict(state)
    merged: dict[str, Tensor] = {}
    try:
        lora = LoraConfig.model_validate(spec)
        for key, value in state.items():
            layer, is_adapted, kind = key.rpartition(_BASE)
            if _ADAPTER in key:
                continue
            if is_adapted and kind == "weight":
                down, up = (state[f"{layer}{_ADAPTER}{each}.default.weight"] for each in "AB")
                change = up.flatten(1) @ down.flatten(1) * (lora.alpha / lora.rank)
                value = value + change.reshape(value.shape)
            merged[f"{layer}.{kind}" if is_adapted else key] = value
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: its adapters do not fit its weights; was it modified?") from error
    return merged
