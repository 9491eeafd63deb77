"""A folder that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` reads.

Shapes: ``B`` images, ``C`` channels, ``H W`` image size, ``K`` classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convlens.config.schema import OWN_HEAD, ModelConfig, OwnModelConfig
from convlens.core.errors import UserError
from convlens.export.facts import Facts
from convlens.export.other_files import METADATA
from convlens.models import Classifier
from convlens.models.head import Select
from convlens.models.normalise import Normalise
from convlens.models.timm_networks import (
    build_parts,
    check_name,
    complete_options,
    list_options,
    read_timm_config,
)
from convlens.models.timm_parts import Division, OwnHead, Trunk

_OURS = ("scratch", "vgg16", "stem_vit")  # the last is timm's in this process only
_POOLINGS = {"class": "token", "mean": "avg"}  # timm's names
_WAY_OUT = "try format=onnx"


def build_timm_network(
    network: Classifier, spec: ModelConfig, size: int
) -> tuple[nn.Module, dict[str, Any]]:
    """Return timm's own network with the weights of a classifier.

    It computes the same logits, which is tested on random images.

    Args:
        network: from ``copy_plain``.
        spec: the config group ``model`` that describes it.
        size: image edge in pixels.

    Returns:
        The network, and the options with which ``timm.create_model`` builds it.

    Raises:
        UserError: timm does not have the network, or its classifier cannot compute this head.
    """
    name = spec.name
    if name in _OURS or isinstance(spec, OwnModelConfig):
        raise UserError(
            f"format=timm: the {name} network of this run is not a timm network; {_WAY_OUT}"
        )
    check_name(name)
    _check_head(spec)
    tops = _list_tops(name)
    if spec.head == OWN_HEAD:
        classes = read_timm_config(name)["num_classes"]
        classes, ours = _read_own_head(network.head, classes, tops)
    else:
        classes = network.head.logits.out_features
    if classes < 2:
        raise UserError(
            f"format=timm: this network has one logit for two classes, timm's have one per class; "
            f"{_WAY_OUT}"
        )
    options = dict(spec.options or {})
    result, division = build_parts(name, classes, size, options)
    if spec.head != OWN_HEAD:
        pooling = _choose_pooling(spec, division)
        if pooling:
            options |= pooling
            result, division = build_parts(name, classes, size, options)
        ours = _read_new_head(network.head, spec, result, division, tops)
    state = _rename_backbone(network) | ours
    _fill(result.eval().requires_grad_(False), state, network, spec, size, tops)
    return result, complete_options(name, size, options)


def _check_head(spec: ModelConfig) -> None:
    """Raise a UserError if a head has a part that no classifier of timm has."""
    head = spec.head
    if head == OWN_HEAD:
        return
    problem = None
    if head.hidden:
        problem = f"has one dense layer, this head {len(head.hidden) + 1} (model.head.hidden)"
    elif head.pool != "average":
        problem = f"averages its maps, this head has model.head.pool={head.pool}"
    elif head.tokens == "both":
        problem = "reads one kind of tokens, this head has model.head.tokens=both"
    if problem:
        raise UserError(f"format=timm: timm's {spec.name} {problem}; {_WAY_OUT}")


def _list_tops(name: str) -> list[str]:
    """List the paths of the last layers of timm's classifier; most networks have one."""
    top = read_timm_config(name).get("classifier") or ()
    return [top] if isinstance(top, str) else list(top)


def _read_own_head(head: nn.Module, classes: int, tops: list[str]) -> tuple[int, dict[str, Tensor]]:
    """Return the number of classes and the tensors of timm's own head, by timm's names.

    If only some of its outputs are the logits, those rows of its last layers are taken.
    """
    if isinstance(head, OwnHead):
        return classes, head.state_dict()
    select = head.classes
    assert isinstance(select, Select), "a library's own head is whole, or some of its outputs"
    last = {f"{top}.{kind}" for top in tops for kind in ("weight", "bias")}
    tensors = head.network.state_dict().items()
    rows = {key: value[select.outputs] if key in last else value for key, value in tensors}
    return len(select.outputs), rows


def _choose_pooling(spec: ModelConfig, division: Division) -> dict[str, Any]:
    """Return the options by which timm's classifier reads the tokens that a head reads.

    timm places the norm of some networks by what is read; ``fc_norm`` leaves it where it is.
    """
    how = spec.head.tokens or "auto"
    if how in ("auto", division.pooling):
        return {}
    known = list_options(spec.name)
    if "global_pool" not in known:
        raise UserError(
            f"format=timm: timm's {spec.name} has no option that reads model.head.tokens={how}; "
            f"{_WAY_OUT}"
        )
    norm = {"fc_norm": division.norm is not None} if "fc_norm" in known else {}
    return {"global_pool": _POOLINGS[how], **norm}


def _read_new_head(
    head: nn.Module, spec: ModelConfig, result: nn.Module, division: Division, tops: list[str]
) -> dict[str, Tensor]:
    """Return the tensors of a new head by the names that they have in timm's network."""
    state = dict(head.pool.state_dict()) if hasattr(head, "pool") else {}  # a pooling of timm's
    norm = next((path for path, m in result.named_modules() if m is division.norm), None)
    if norm is not None and not spec.head.norm:
        raise UserError(
            f"format=timm: timm's {spec.name} normalises before its dense layer, this head does "
            f"not (model.head.norm=false); {_WAY_OUT}"
        )
    if norm is not None and hasattr(head, "norm"):
        state |= {f"{norm}.{key}": value for key, value in head.norm.state_dict().items()}
    for top in tops[:1]:
        shapes = {key: value.shape for key, value in result.state_dict().items()}
        for key, value in head.logits.state_dict().items():
            path = f"{top}.{key}"
            same = path in shapes and shapes[path].numel() == value.numel()
            state[path] = value.view(shapes[path]) if same else value  # or a convolution of 1 × 1
    return state


def _rename_backbone(network: Classifier) -> dict[str, Tensor]:
    """Return the tensors of the backbone by the names that they have in timm's network."""
    state: dict[str, Tensor] = {}
    for name, part in network.backbone.named_children():
        prefix = "" if isinstance(part, Trunk) else f"{name}."
        state |= {f"{prefix}{key}": value for key, value in part.state_dict().items()}
    return state


def _fill(
    result: nn.Module, state: dict[str, Tensor], network: Classifier, spec: ModelConfig, size: int,
    tops: list[str],
) -> None:  # fmt: skip
    """Load tensors into timm's network, so that it computes what the classifier does.

    Where timm's classifier has several last layers, each is the first, or all others are zero:
    distilled networks average them, VOLO adds a second.

    Raises:
        UserError: the network has other tensors, or computes something else.
    """
    shapes = {key: value.shape for key, value in result.state_dict().items()}
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    expected, several = network(images), len(tops) > 1 and spec.head != OWN_HEAD
    for scale in (1, 0) if several else (1,):
        filled = state | (_fill_others(state, shapes, tops, scale) if several else {})
        different = shapes.items() ^ {key: value.shape for key, value in filled.items()}.items()
        if different:
            key = min(key for key, _ in different)
            raise UserError(
                f"format=timm: timm's {spec.name} has other layers after its features than this "
                f"head (such as {key}); {_WAY_OUT}"
            )
        result.load_state_dict(filled)
        found = result(network.normalise(images))
        if found.shape == expected.shape and torch.allclose(found, expected, atol=1e-4):
            return
    raise UserError(
        f"format=timm: timm's classifier of {spec.name} computes other logits from these weights; "
        f"{_WAY_OUT}"
    )


def _fill_others(
    state: Mapping[str, Tensor], shapes: Mapping[str, Any], tops: list[str], scale: int
) -> dict[str, Tensor]:
    """Return the tensors of the other last layers: those of the first, times 1 or 0."""
    first, *others = (top.partition(".")[0] for top in tops)
    found: dict[str, Tensor] = {}
    for key in shapes:
        root, _, rest = key.partition(".")
        source = state.get(f"{first}.{rest}")
        if root in others and key not in state and source is not None:
            found[key] = source * scale
    return found


def write_timm_folder(
    folder: Path,
    result: nn.Module,
    arguments: Mapping[str, Any],
    facts: Facts,
    normalise: Normalise,
) -> None:
    """Write ``config.json``, ``model.safetensors`` and the model card, as timm and its hub do.

    Args:
        folder: a new folder; ``timm.create_model("local-dir:FOLDER", pretrained=True)`` reads it.
        result: from ``build_timm_network``.
        arguments: of ``timm.create_model``, from ``build_timm_network``.
        facts: what the folder says about the network.
        normalise: the input normalisation of the network.
    """
    from timm.models import save_for_hf

    recipe = facts.recipe
    mean, std = (each.flatten().tolist() for each in (normalise.mean, normalise.std))
    modes = {"squash": "squash", "crop": "center", "pad": "border"}
    preprocessing = {
        "input_size": [3, recipe.height, recipe.width], "mean": mean, "std": std,
        "interpolation": recipe.interpolation, "crop_pct": 1.0, "crop_mode": modes[recipe.resize],
    }  # fmt: skip
    save_for_hf(
        result, folder,
        model_config={"label_names": list(facts.class_names), "pretrained_cfg": preprocessing},
        model_args=dict(arguments), safe_serialization=True,
    )  # fmt: skip
    (folder / "README.md").write_text(facts.card, encoding="utf-8")
    (folder / METADATA).write_text(
        json.dumps(facts.to_metadata(), ensure_ascii=False, indent=2), encoding="utf-8"
    )
