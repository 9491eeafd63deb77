"""Read a weights file as data, without running code in it."""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from convlens.core.errors import UserError
from convlens.core.system import CAN_REPLACE_MAPPED

# keys under which training programs store weights; averaged weights first, as in timm
CONTAINERS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "model_state_dict", "state_dict",
    "model_state", "model", "network", "net", "module", "weights",
)  # fmt: skip
# plain classes that training programs store beside weights; neither imported nor instantiated
PLACEHOLDER_CLASSES = (
    "argparse.Namespace",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
)
MAX_NESTED = 4  # most nested containers


class _Placeholder:
    """Replaces an object of one of the classes in ``PLACEHOLDER_CLASSES``."""

    def __init__(self, *_):
        pass


def list_weight_names(path: Path) -> list[str]:
    """Return the keys of a weights file.

    Raises:
        UserError: it is not a weights file.
    """
    return list(extract_weights(read_content(path, mapped=True), path)[0])


def read_content(path: Path, mapped: bool = False) -> Any:
    """Read the content of a file.

    Args:
        path: the file.
        mapped: whether to leave the numbers of a ``.pth`` file on the disk if possible.

    Raises:
        UserError: it is not a readable weights file.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # files of torch before 1.6 are not zip archives and cannot be mapped
        return load_data(path, mmap=mapped and zipfile.is_zipfile(path))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is not a readable weights file ({_shorten(error)})") from None
    except Exception as error:  # a damaged file can raise anything
        if match := re.search(r"Unsupported global: GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path} has a pickled {match.group(1)[:80]}, but only tensors and plain values "
                f"are read: save only the state_dict, torch.save(model.state_dict(), …)"
            ) from None
        raise UserError(
            f"{path} is not a readable weights file ({_shorten(error)}); is it complete? "
            f"Use a state_dict saved with torch.save, or .safetensors"
        ) from None


def extract_weights(content: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors by name, and the keys of the containers that they are in.

    Args:
        content: what ``read_content`` returned.
        path: the file, for messages.

    Raises:
        UserError: there are no tensors by name.
    """
    inside: list[str] = []
    while isinstance(content, dict) and len(inside) < MAX_NESTED:
        if all(isinstance(value, Tensor) for value in content.values()):
            break
        matches = (k for k in CONTAINERS if isinstance(content.get(k), dict) and content[k])
        key = next(matches, None)
        if key is None:
            break
        content = content[key]
        inside.append(key)
    if not isinstance(content, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()
    ):
        raise UserError(
            f"{path} has no weights by name{f' in {inside[-1]}' if inside else ''}; use a "
            f"state_dict"
        )
    odd = next((key for key, value in content.items() if not is_plain(value)), None)
    if odd is not None:
        raise UserError(f"{path}: {odd} is not a plain tensor of real numbers")
    return content, tuple(inside)


def load_data(path: Path, *, mmap: bool = False) -> Any:
    """Load a file written by ``torch.save`` on the CPU, as data, without running code in it.

    Objects of the classes in ``PLACEHOLDER_CLASSES`` become placeholders. Torch's warnings about
    old formats are suppressed, because callers report what is wrong.

    Args:
        path: the file.
        mmap: whether to leave the numbers on the disk, if the file can still be replaced then.

    Raises:
        Exception: of any kind; a damaged file can raise anything.
    """
    placeholders = [(_Placeholder, name) for name in PLACEHOLDER_CLASSES]
    with warnings.catch_warnings(), torch.serialization.safe_globals(placeholders):
        warnings.simplefilter("ignore")
        mmap = mmap and CAN_REPLACE_MAPPED  # a run writes its checkpoints again
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def is_plain(value: Tensor) -> bool:
    """Return whether a tensor is dense, real and on the CPU (not ``meta``)."""
    dense = value.layout == torch.strided and not value.is_quantized and not value.is_nested
    return dense and value.device.type == "cpu" and not value.is_complex()


def _shorten(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text.split(". This file can still")[0][:120]
