"""Files of other kinds: ``torch.export`` programs, safetensors, and folders for timm.

Shapes: ``B`` images, ``C`` channels, ``H W`` image size, ``K`` classes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.export.facts import Facts
from convlens.models import Classifier
from convlens.models.normalise import Normalise
from convlens.models.timm_networks import check_name, create, read_timm_config
from convlens.models.timm_parts import OwnHead

METADATA = "metadata.json"  # in a torch.export program
# names of modules in a head that averages the feature map and multiplies it, see models.head
_SIMPLE_HEAD = {"pool", "flatten", "dropout", "logits"}


def save_program(module: nn.Module, example: Tensor, metadata: Mapping[str, str]) -> bytes:
    """Return a network as the content of a ``.pt2`` file, for any number of images.

    Args:
        module: a function of images.
        example: ``(2, C, H, W)``.
        metadata: texts by name, stored as ``metadata.json``.

    Raises:
        Exception: torch cannot export the network; the type depends on the reason.
    """
    batch = torch.export.Dim("batch")
    program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
    buffer = io.BytesIO()
    text = json.dumps(dict(metadata), ensure_ascii=False)
    torch.export.save(program, buffer, extra_files={METADATA: text})
    return buffer.getvalue()


def load_program(content: bytes) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Return the function in the content of a ``.pt2`` file: images to the network's outputs."""
    return torch.export.load(io.BytesIO(content)).module()


def save_weights(network: nn.Module, metadata: Mapping[str, str]) -> bytes:
    """Return the tensors of a network as the content of a ``.safetensors`` file."""
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    return save(tensors, dict(metadata))


def check_weights(content: bytes, network: nn.Module) -> None:
    """Check that a ``.safetensors`` file holds exactly the tensors of a network.

    Raises:
        ValueError: it does not.
    """
    found, tensors = load(content), network.state_dict()
    equal = found.keys() == tensors.keys() and all(
        torch.equal(found[name], value) for name, value in tensors.items()
    )
    if not equal:
        raise ValueError("the tensors read back differ from those of the network")


def build_timm_network(network: Classifier, name: str) -> nn.Module:
    """Return timm's own network with the weights of a classifier.

    Args:
        network: from ``copy_plain``.
        name: its name, as in ``model.name``.

    Raises:
        UserError: timm does not have the network, or its classifier cannot compute this head.
    """
    if name in ("scratch", "vgg16", "stem_vit"):  # the last is timm's in this process only
        raise UserError(
            f"format=timm: the {name} network of this run is not a timm network; try format=onnx"
        )
    check_name(name)
    state, layers = _rename_backbone(network), {name for name, _ in network.head.named_children()}
    if isinstance(network.head, OwnHead):
        classes = read_timm_config(name)["num_classes"]
        state |= network.head.state_dict()
    elif {"pool", "logits"} <= layers <= _SIMPLE_HEAD:
        classes, top = network.head.logits.out_features, read_timm_config(name)["classifier"]
        state |= {f"{top}.{key}": value for key, value in network.head.logits.state_dict().items()}
    else:
        raise UserError(
            "format=timm: the classifier of timm's networks averages the feature map and has one "
            "dense layer; this head is different; try format=onnx"
        )
    if classes < 2:
        raise UserError(
            "format=timm: this network has one logit for two classes, timm's have one per class; "
            "try format=onnx"
        )
    result = create(name, classes).eval().requires_grad_(False)
    theirs = {key: value.shape for key, value in result.state_dict().items()}
    ours = {key: value.shape for key, value in state.items()}
    if different := sorted({key for key, _ in theirs.items() ^ ours.items()}):
        raise UserError(
            f"format=timm: timm's {name} has other layers after the feature map than this head "
            f"(such as {different[0]}); try format=onnx"
        )
    result.load_state_dict(state)
    return result


def _rename_backbone(network: Classifier) -> dict[str, Tensor]:
    """Return the tensors of the backbone by the names that they have in timm's network."""
    prefix = next(
        (f"{each}." for each in ("network", "embed") if hasattr(network.backbone, each)), ""
    )
    return {key.removeprefix(prefix): value for key, value in network.backbone.state_dict().items()}


def write_timm_folder(folder: Path, result: nn.Module, facts: Facts, normalise: Normalise) -> None:
    """Write ``config.json``, ``model.safetensors`` and the model card, as timm and its hub do.

    Args:
        folder: a new folder; ``timm.create_model("local-dir:FOLDER", pretrained=True)`` reads it.
        result: from ``build_timm_network``.
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
        safe_serialization=True,
    )  # fmt: skip
    (folder / "README.md").write_text(facts.card, encoding="utf-8")
    (folder / METADATA).write_text(
        json.dumps(facts.to_metadata(), ensure_ascii=False, indent=2), encoding="utf-8"
    )
