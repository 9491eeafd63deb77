"""Files of other kinds: ``torch.export`` programs and safetensors.

Shapes: ``B`` images, ``C`` channels, ``H W`` image size.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

METADATA = "metadata.json"  # in a torch.export program, and in a folder for timm


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
