"""Weights files into networks: read as data, every key accounted for."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from convlens.errors import UserError

SHOWN = 3  # names of keys in a message
COUNTER = "num_batches_tracked"  # of batch normalisation; nothing is computed with it here


class Located(Protocol):
    """Something with a file."""

    path: Path


def load_weights(
    model: nn.Module,
    found: Located,
    *,
    classifier: tuple[str, ...],
    prefixes: tuple[str, ...] = (),
) -> None:
    """Fill ``model`` from a ``.pth`` or ``.safetensors`` file, of the whole network or its base.

    Numbers of any precision become the model's. Nothing in the file is executed.

    Args:
        model: whose keys are the library's own.
        found: has the ``path``.
        classifier: beginnings of keys of the network's classifier, left out where the model has
            none.
        prefixes: a beginning that every wanted key may have in the file.

    Raises:
        UserError: not a whole weights file, or one of another network: missing, unexpected and
            misshapen keys are counted and named.
    """
    state = _read(found.path)
    wanted = {k: v for k, v in model.state_dict().items() if not k.endswith(COUNTER)}
    for prefix in prefixes:
        if any(key.startswith(prefix) for key in state):
            state = {k.removeprefix(prefix): v for k, v in state.items()}
    state = {k: v for k, v in state.items() if not k.endswith(COUNTER)}
    extra = {k for k in state if k not in wanted and not k.startswith(classifier)}
    missing = [k for k in wanted if k not in state]
    shapes = [k for k in wanted if k in state and state[k].shape != wanted[k].shape]
    if missing or extra or shapes:
        told = [
            f"{len(keys)} {what} ({', '.join(sorted(keys)[:SHOWN])}{', …' * (len(keys) > SHOWN)})"
            for keys, what in (
                (missing, "keys missing"), (extra, "unexpected"), (shapes, "of another shape")
            )
            if keys
        ]  # fmt: skip
        raise UserError(
            f"{found.path} holds weights of another network: {', '.join(told)}; choose the file "
            f"that fits with model.weights=PATH"
        )
    read = {key: state[key].to(value.dtype) for key, value in wanted.items()}
    broken = [key for key, value in read.items() if not bool(value.isfinite().all())]
    if broken:
        raise UserError(
            f"{found.path}: {len(broken)} of its weights hold NaN or infinity, the first in "
            f"{broken[0]}: a damaged file, or of a training that diverged; choose another"
        )
    with torch.no_grad():
        for key, value in wanted.items():
            value.copy_(read[key])


def names_in(path: Path) -> list[str]:
    """The keys of a weights file; UserError where it is none."""
    return list(_read(path, mapped=True))


def _read(path: Path, mapped: bool = False) -> dict[str, Tensor]:
    """Tensors by name; ``mapped`` leaves a ``.pth`` file's numbers on the disk if it can."""
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            # files of torch before 1.6 are no zip archives and cannot be mapped
            mapped = mapped and zipfile.is_zipfile(path)
            state = load_data(path, mmap=mapped)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is no readable weights file ({_brief(error)})") from None
    except Exception as error:  # the unpickler raises whatever a foreign file leads it to
        raise UserError(
            f"{path} is no readable weights file ({_brief(error)}); is it whole? It has to be a "
            f"state_dict saved with torch.save, or .safetensors"
        ) from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise UserError(f"{path} holds no weights by name; a state_dict is expected")
    odd = next((key for key, value in state.items() if not plain(value)), None)
    if odd is not None:
        raise UserError(f"{path}: {odd} is no plain tensor of real numbers, as weights are")
    return state


def load_data(path: Path, *, mmap: bool = False) -> Any:
    """The content of a file of ``torch.save``, on the CPU: data only, no code in it is run.

    Torch's warnings about how odd files were written are left out: what is wrong is said here.

    Raises:
        Exception: of any kind; the unpickler raises whatever a foreign file leads it to.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def plain(value: Tensor) -> bool:
    """Whether a tensor is a dense one of real numbers that are all there (not ``meta``)."""
    dense = value.layout == torch.strided and not value.is_quantized and not value.is_nested
    return dense and value.device.type == "cpu" and not value.is_complex()


def _brief(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text.split(". This file can still")[0][:120]


def fingerprint(module: nn.Module) -> str:
    """BLAKE2 over names, types, shapes and bytes of a module's parameters and buffers.

    32 hexadecimal digits; equal ones mean equal outputs in evaluation mode.
    """
    mark = hashlib.blake2b(digest_size=16)
    for name, value in module.state_dict().items():
        if name.endswith(COUNTER):
            continue
        mark.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        mark.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return mark.hexdigest()
