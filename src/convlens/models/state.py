"""Weights files into networks: read as data, every key accounted for."""

from __future__ import annotations

import hashlib
import re
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from convlens.core.errors import UserError

SHOWN = 3  # names of keys in a message
# where training programs keep weights in their files; averaged ones first, as timm has it
CONTAINERS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "model_state_dict", "state_dict",
    "model_state", "model", "network", "net", "module", "weights",
)  # fmt: skip
# what DistributedDataParallel and the attributes of other people's modules put before every key,
WRAPPERS = ("module.", "model.", "network.", "net.", "backbone.", "encoder.")
COMPILED = "_orig_mod."  # and torch.compile amid them too
# classes of plain values that training programs keep beside the weights; not imported, not built
HUSKS = (
    "argparse.Namespace",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
)
_NESTED = 4  # containers and wrappers
COUNTER = "num_batches_tracked"  # of batch normalisation; nothing is computed with it here


class _Husk:
    """Stands where a file has an object of one of :data:`HUSKS`."""

    def __init__(self, *_):
        pass


class Located(Protocol):
    """Something with a file."""

    path: Path


@dataclass(frozen=True)
class Trained:
    """What a checkpoint of an earlier run holds of its network.

    Attributes:
        path: of the file.
        network: the run's ``model.name``.
        class_names: what its head answers with, in order.
        state: tensors by their keys in :class:`convlens.models.classifier.Classifier`.
    """

    path: Path
    network: str
    class_names: tuple[str, ...]
    state: dict[str, Tensor]

    def normalisation(self, channels: int) -> tuple[list[float], list[float]] | None:
        """(mean, std) by channel; None where they are of another number of channels."""
        found = [self.state.get(f"normalise.{name}") for name in ("mean", "std")]
        if any(value is None or value.numel() != channels for value in found):
            return None
        mean, std = (value.flatten().tolist() for value in found)
        return mean, std


def load_weights(
    model: nn.Module,
    found: Located,
    *,
    classifier: tuple[str, ...],
    prefixes: tuple[str, ...] = (),
) -> str | None:
    """Fill ``model`` from a ``.pth`` or ``.safetensors`` file, of the whole network or its base.

    Numbers of any precision become the model's. Nothing in the file is executed. Weights may lie in
    the usual containers (:data:`CONTAINERS`) and behind the usual wrappers' prefixes
    (:data:`WRAPPERS`).

    Args:
        model: whose keys are the library's own.
        found: has the ``path``.
        classifier: beginnings of keys of the network's classifier, left out where the model has
            none.
        prefixes: a beginning that every wanted key may have in the file.

    Returns:
        One line about what was unwrapped; None for a plain file.

    Raises:
        UserError: not a whole weights file, or one of another network: missing, unexpected and
            misshapen keys are counted and named.
    """
    state, inside = _weights_in(_content(found.path), found.path)
    wanted = {k: v for k, v in model.state_dict().items() if not k.endswith(COUNTER)}
    state = {k: v for k, v in state.items() if not k.endswith(COUNTER)}
    state, steps, others = _unwrapped(state, wanted, classifier, prefixes, found.path)
    _compare(wanted, state, found.path, classifier)
    _fill(wanted, state, found.path)
    steps = [f"out of {' / '.join(inside)}"] * bool(inside) + steps
    if others:
        steps.append(f"{len(others)} other keys left out ({_some(others)})")
    return f"{found.path.name}: weights taken {', '.join(steps)}" if steps else None


def load_trained(
    model: nn.Module, trained: Trained, class_names: Sequence[str] | None
) -> tuple[bool, str]:
    """Fill a classifier from an earlier run's: the base, and the head where it answers alike.

    The input normalisation is not touched.

    Args:
        model: a :class:`convlens.models.classifier.Classifier`.
        class_names: of the new run, in order; None where nobody knows.

    Returns:
        Whether the head was taken, and one line that says what was.

    Raises:
        UserError: the base is of another network; keys are counted and named.
    """
    mine = {k: v for k, v in model.state_dict().items() if not k.endswith(COUNTER)}
    theirs = {k: v for k, v in trained.state.items() if not k.endswith(COUNTER)}

    def part(state: dict, name: str) -> dict:
        return {k: v for k, v in state.items() if k.startswith(f"{name}.")}

    base, top = part(mine, "backbone"), part(mine, "head")
    _compare(base, part(theirs, "backbone"), trained.path, (), f" (model.name={trained.network})")
    shapes = {k: v.shape for k, v in part(theirs, "head").items()}
    if class_names is None or tuple(class_names) != trained.class_names:
        names = ", ".join(trained.class_names[:SHOWN])
        more = ", …" * (len(trained.class_names) > SHOWN)
        why = f"its head answers {len(trained.class_names)} other classes ({names}{more})"
        if class_names is not None and sorted(class_names) == sorted(trained.class_names):
            why = "its head has the classes in another order"
    elif shapes != {k: v.shape for k, v in top.items()}:
        why = "its head has other layers"
    else:
        _fill(base | top, theirs, trained.path)
        return True, f"{trained.path}: weights of an earlier run, base and head"
    _fill(base, theirs, trained.path)
    return False, f"{trained.path}: weights of an earlier run, the base alone; {why}"


def trained_in(path: Path) -> Trained | None:
    """What an earlier run's checkpoint holds, or None: the file is no checkpoint of convlens, or
    cannot be read, which loading it tells.

    Raises:
        UserError: its weights are no plain tensors.
    """
    if path.suffix == ".safetensors":
        return None
    try:
        content = _content(path, mapped=True)
    except UserError:
        return None
    parts = content.get("hyper_parameters") if isinstance(content, dict) else None
    if not isinstance(parts, dict) or not {"config", "class_names"} <= set(parts):
        return None
    names, state = parts["class_names"], content.get("state_dict")
    spec = parts["config"].get("model") if isinstance(parts["config"], dict) else None
    name = spec.get("name") if isinstance(spec, dict) else None
    fits = isinstance(names, list) and all(isinstance(each, str) for each in names)
    if not fits or not isinstance(name, str) or not isinstance(state, dict):
        return None
    state, _ = _weights_in(state, path)
    prefix = "model."
    state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return Trained(path, name, tuple(names), state)


def _unwrapped(
    state: dict[str, Tensor], wanted: dict, classifier: tuple[str, ...],
    prefixes: tuple[str, ...], path: Path,
) -> tuple[dict[str, Tensor], list[str], list[str]]:  # fmt: skip
    """The network's own keys out of a file's; how they were found, and which others there are.

    The beginning that most of the wanted keys have in the file is taken off: every chain of the
    usual wrappers' is tried.

    Raises:
        UserError: two wrappers hold different weights of the same network.
    """
    steps = []
    if any(COMPILED in key for key in state) and not any(COMPILED in key for key in wanted):
        state = {key.replace(COMPILED, ""): value for key, value in state.items()}
        steps.append(f"without {COMPILED}")
    counts = {
        (wrapper, inner): sum(f"{wrapper}{inner}{key}" in state for key in wanted)
        for wrapper in _chains(state)
        for inner in ("", *prefixes)
    }
    most = max(counts.values(), default=0)
    best = sorted(
        (pair for pair, count in counts.items() if count == most), key=lambda p: len(p[0])
    )
    if not most:
        return state, steps, []
    wrapper, inner = best[0]
    prefix = f"{wrapper}{inner}"
    for other in best[1:]:
        if any(
            not torch.equal(state[prefix + key], state["".join(other) + key])
            for key in wanted
            if prefix + key in state and "".join(other) + key in state
        ):
            raise UserError(
                f"{path} holds two networks, {prefix or 'one'} and {''.join(other)}: save only "
                f"the keys of the one you want"
            )
    if not wrapper:
        return {key.removeprefix(prefix): value for key, value in state.items()}, steps, []
    steps.append(f"without {wrapper}")
    others = [k for k in state if not k.startswith((prefix, *(wrapper + c for c in classifier)))]
    state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return state, steps, others


def _chains(state: dict[str, Tensor]) -> set[str]:
    """Every beginning of keys that is made of usual wrappers' prefixes, the empty one too."""
    found = {""}
    for key in state:
        chain = ""
        for _ in range(_NESTED):
            rest = key[len(chain) :]
            wrapper = next((each for each in WRAPPERS if rest.startswith(each)), None)
            if wrapper is None:
                break
            chain += wrapper
            found.add(chain)
    return found


def _compare(
    wanted: dict[str, Tensor], state: dict[str, Tensor], path: Path, classifier: tuple[str, ...],
    of: str = "",
) -> None:  # fmt: skip
    """UserError, with the keys, where ``state`` is not what is wanted."""
    extra = {k for k in state if k not in wanted and not k.startswith(classifier)}
    missing = [k for k in wanted if k not in state]
    shapes = [k for k in wanted if k in state and state[k].shape != wanted[k].shape]
    if missing or extra or shapes:
        told = [
            f"{len(keys)} {what} ({_some(keys)})"
            for keys, what in (
                (missing, "keys missing"), (extra, "unexpected"), (shapes, "of another shape")
            )
            if keys
        ]  # fmt: skip
        raise UserError(
            f"{path} holds weights of another network{of}: {', '.join(told)}; choose the file "
            f"that fits with model.weights=PATH"
        )


def _fill(wanted: dict[str, Tensor], state: dict[str, Tensor], path: Path) -> None:
    """Copy the numbers, all of them finite, into the wanted tensors."""
    read = {key: state[key].to(value.dtype) for key, value in wanted.items()}
    broken = [key for key, value in read.items() if not bool(value.isfinite().all())]
    if broken:
        raise UserError(
            f"{path}: {len(broken)} of its weights hold NaN or infinity, the first in "
            f"{broken[0]}: a damaged file, or a training that diverged; choose another"
        )
    with torch.no_grad():
        for key, value in wanted.items():
            value.copy_(read[key])


def _some(keys: Iterable[str]) -> str:
    keys = sorted(keys)
    return f"{', '.join(keys[:SHOWN])}{', …' * (len(keys) > SHOWN)}"


def names_in(path: Path) -> list[str]:
    """The keys of a weights file; UserError where it is none."""
    return list(_weights_in(_content(path, mapped=True), path)[0])


def _content(path: Path, mapped: bool = False) -> Any:
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


def _weights_in(content: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors by name, and the keys of the containers that they lie in."""
    inside: list[str] = []
    while isinstance(content, dict) and len(inside) < _NESTED:
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
    odd = next((key for key, value in content.items() if not plain(value)), None)
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
