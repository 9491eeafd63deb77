"""A weights file as data: what it holds by name, no code in it run."""

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

# where training programs keep weights in their files; averaged ones first, as timm has it
CONTAINERS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "model_state_dict", "state_dict",
    "model_state", "model", "network", "net", "module", "weights",
)  # fmt: skip
# classes of plain values that training programs keep beside the weights; not imported, not built
HUSKS = (
    "argparse.Namespace",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
)
NESTED = 4  # containers in each other


class _Husk:
    """Stands where a file has an object of one of :data:`HUSKS`."""

    def __init__(self, *_):
        pass


def list_weight_names(path: Path) -> list[str]:
    """The keys of a weights file; UserError where it is none."""
    return list(extract_weights(read_content(path, mapped=True), path)[0])


def read_content(path: Path, mapped: bool = False) -> Any:
    """What a file holds; ``mapped`` leaves a ``.pth`` file's numbers on the disk if it can."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # files of torch before 1.6 are no zip archives and cannot be mapped
        return load_data(path, mmap=mapped and zipfile.is_zipfile(path))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is no readable weights file ({_brief(error)})") from None
    except Exception as error:  # the unpickler raises whatever a foreign file leads it to
        if held := re.search(r"Unsupported global: GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path} holds a pickled {held.group(1)[:80]}, but only tensors and plain values "
                f"are read: save the state_dict alone, torch.save(model.state_dict(), …)"
            ) from None
        raise UserError(
            f"{path} is no readable weights file ({_brief(error)}); is it whole? It has to be a "
            f"state_dict saved with torch.save, or .safetensors"
        ) from None


def extract_weights(content: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors by name, and the keys of the containers that they lie in."""
    inside: list[str] = []
    while isinstance(content, dict) and len(inside) < NESTED:
        if all(isinstance(value, Tensor) for value in content.values()):
            break
        held = (k for k in CONTAINERS if isinstance(content.get(k), dict) and content[k])
        key = next(held, None)
        if key is None:
            break
        content = content[key]
        inside.append(key)
    if not isinstance(content, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()
    ):
        raise UserError(
            f"{path} holds no weights by name{f' in {inside[-1]}' if inside else ''}; a state_dict "
            f"is expected"
        )
    odd = next((key for key, value in content.items() if not is_plain(value)), None)
    if odd is not None:
        raise UserError(f"{path}: {odd} is no plain tensor of real numbers, as weights are")
    return content, tuple(inside)


def load_data(path: Path, *, mmap: bool = False) -> Any:
    """The content of a file of ``torch.save``, on the CPU: data only, no code in it is run.

    What training programs note beside their weights (:data:`HUSKS`) becomes an object of ours.
    Torch's warnings about how odd files were written are left out: what is wrong is said here.

    Raises:
        Exception: of any kind; the unpickler raises whatever a foreign file leads it to.
    """
    stand_ins = [(_Husk, name) for name in HUSKS]
    with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def is_plain(value: Tensor) -> bool:
    """Whether a tensor is a dense one of real numbers that are all there (not ``meta``)."""
    dense = value.layout == torch.strided and not value.is_quantized and not value.is_nested
    return dense and value.device.type == "cpu" and not value.is_complex()


def _brief(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text.split(". This file can still")[0][:120]
