"""Load weights into a network; every key must be accounted for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.models.weights_file import extract_weights, read_content

MAX_NAMES = 3  # names of keys in a message
# prefixes of keys: DistributedDataParallel's, and common names of wrapping modules' attributes
WRAPPERS = ("module.", "model.", "network.", "net.", "backbone.", "encoder.")
COMPILED = "_orig_mod."  # torch.compile's, anywhere in a key
_MAX_WRAPPERS = 4  # most nested wrappers
COUNTER = "num_batches_tracked"  # of batch normalisation; not used here


class Located(Protocol):
    """Something that has a file."""

    path: Path


def load_weights(
    model: nn.Module,
    file: Located,
    *,
    classifier: tuple[str, ...],
    prefixes: tuple[str, ...] = (),
    whole: bool = True,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    sizes: tuple[int, int] | None = None,
) -> str | None:
    """Fill ``model`` from a ``.pth`` or ``.safetensors`` file of the whole network or its base.

    Numbers are converted to the precision of the model. No code in the file is executed. Weights
    may be inside the usual containers (``convlens.models.weights_file.CONTAINERS``) and have the
    prefixes of the usual wrappers (``WRAPPERS``).

    Args:
        model: a network with the library's keys.
        file: an object with the ``path`` of the file.
        classifier: prefixes of the keys of the classifier.
        prefixes: prefixes that all keys of the model may have in the file.
        whole: whether the classifier is filled too.
        convert: changes names and shapes of a file's tensors to those of the model, if they
            differ; the library's own function.
        sizes: pixels of the images of the model and of the file, if they may differ.

    Returns:
        One line about what was unwrapped; None for a plain file.

    Raises:
        UserError: the file is damaged or belongs to another network; the error counts and names
            missing, unexpected and misshapen keys.
    """
    state, inside = extract_weights(read_content(file.path), file.path)
    tensors = {
        k: v for k, v in model.state_dict().items()
        if not k.endswith(COUNTER) and (whole or not k.startswith(classifier))
    }  # fmt: skip
    state = {k: v for k, v in state.items() if not k.endswith(COUNTER)}
    state, steps, others = _unwrap(state, tensors, classifier, prefixes, file.path)
    if convert and not all(k in state and state[k].shape == v.shape for k, v in tensors.items()):
        state, step = convert_state(state, tensors, convert)
        steps += step
    check_keys(tensors, state, file.path, classifier, sizes=sizes)
    fill_weights(tensors, state, file.path)
    steps = [f"out of {' / '.join(inside)}"] * bool(inside) + steps
    if others:
        steps.append(f"{len(others)} other keys ignored ({_join_some(others)})")
    return f"{file.path.name}: weights taken {', '.join(steps)}" if steps else None


def _unwrap(
    state: dict[str, Tensor], tensors: dict, classifier: tuple[str, ...],
    prefixes: tuple[str, ...], path: Path,
) -> tuple[dict[str, Tensor], list[str], list[str]]:  # fmt: skip
    """Strip the wrappers' prefix from the keys of a file.

    Every chain of the usual wrappers is tried; the one that matches most keys is removed.

    Returns:
        The tensors by the network's keys, the steps taken, and the keys ignored.

    Raises:
        UserError: two wrappers hold different weights of the same network.
    """
    steps = []
    if any(COMPILED in key for key in state) and not any(COMPILED in key for key in tensors):
        state = {key.replace(COMPILED, ""): value for key, value in state.items()}
        steps.append(f"without {COMPILED}")
    counts = {
        (wrapper, inner): sum(f"{wrapper}{inner}{key}" in state for key in tensors)
        for wrapper in _find_wrapper_chains(state)
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
            for key in tensors
            if prefix + key in state and "".join(other) + key in state
        ):
            raise UserError(
                f"{path} has two networks, {prefix or 'one'} and {''.join(other)}: save only the "
                f"keys of one"
            )
    if not wrapper:
        return {key.removeprefix(prefix): value for key, value in state.items()}, steps, []
    steps.append(f"without {wrapper}")
    others = [k for k in state if not k.startswith((prefix, *(wrapper + c for c in classifier)))]
    state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return state, steps, others


def convert_state(
    state: dict[str, Tensor], tensors: dict[str, Tensor],
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]],
) -> tuple[dict[str, Tensor], list[str]]:  # fmt: skip
    """Return the converted tensors, and the step taken; as they are if they cannot be converted.

    Args:
        state: tensors of a file.
        tensors: tensors of the network.
        convert: the library's own function.
    """
    try:
        result = {k: v for k, v in convert(dict(state)).items() if isinstance(v, Tensor)}
    except Exception:  # the library meets a file of another network: the keys are reported later
        return state, []
    resized = [
        k for k in tensors if k in state and k in result and state[k].shape != result[k].shape
    ]
    if resized:
        return result, [f"with {_join_some(resized)} resized by timm to this image size"]
    return result, ["with timm's names"]


def _find_wrapper_chains(state: dict[str, Tensor]) -> set[str]:
    """Return every chain of wrappers' prefixes in the keys, including the empty one."""
    chains = {""}
    for key in state:
        chain = ""
        for _ in range(_MAX_WRAPPERS):
            tail = key[len(chain) :]
            wrapper = next((each for each in WRAPPERS if tail.startswith(each)), None)
            if wrapper is None:
                break
            chain += wrapper
            chains.add(chain)
    return chains


def check_keys(
    tensors: dict[str, Tensor], state: dict[str, Tensor], path: Path, classifier: tuple[str, ...],
    of: str = "", sizes: tuple[int, int] | None = None,
) -> None:  # fmt: skip
    """Raise a UserError that names the keys if ``state`` does not fit the network.

    Args:
        tensors: tensors of the network.
        state: tensors of the file.
        path: the file, for the message.
        classifier: prefixes of keys that may be unexpected.
        of: addition to "another network" in the message, or empty.
        sizes: pixels of the images of the network and of the file, if they may differ.
    """
    extra = {k for k in state if k not in tensors and not k.startswith(classifier)}
    missing = [k for k in tensors if k not in state]
    shapes = [k for k in tensors if k in state and state[k].shape != tensors[k].shape]
    if shapes and not missing and not extra and sizes and sizes[0] != sizes[1]:
        raise UserError(
            f"{path} is for images of {sizes[1]} pixels, and timm cannot resize "
            f"{_join_some(shapes)} to {sizes[0]}: use data.size={sizes[1]}"
        )
    if missing or extra or shapes:
        problems = [
            f"{len(keys)} {what} ({_join_some(keys)})"
            for keys, what in (
                (missing, "keys missing"), (extra, "unexpected"), (shapes, "of another shape")
            )
            if keys
        ]  # fmt: skip
        raise UserError(
            f"{path} has weights of another network{of}: {', '.join(problems)}; choose another "
            f"file with model.weights=PATH"
        )


def fill_weights(tensors: dict[str, Tensor], state: dict[str, Tensor], path: Path) -> None:
    """Copy the numbers into the tensors of the network; all must be finite."""
    values = {key: state[key].to(value.dtype) for key, value in tensors.items()}
    broken = [key for key, value in values.items() if not bool(value.isfinite().all())]
    if broken:
        raise UserError(
            f"{path}: {len(broken)} weights have NaN or infinity, first {broken[0]}: the file is "
            f"damaged, or its training diverged; choose another"
        )
    with torch.no_grad():
        for key, value in tensors.items():
            value.copy_(values[key])


def _join_some(keys: Iterable[str]) -> str:
    keys = sorted(keys)
    return f"{', '.join(keys[:MAX_NAMES])}{', …' * (len(keys) > MAX_NAMES)}"


def compute_fingerprint(module: nn.Module) -> str:
    """Hash names, types, shapes and bytes of a module's parameters and buffers (BLAKE2).

    Returns:
        32 hexadecimal digits; equal digits mean equal outputs in evaluation mode.
    """
    mark = hashlib.blake2b(digest_size=16)
    for name, value in module.state_dict().items():
        if name.endswith(COUNTER):
            continue
        mark.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        mark.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return mark.hexdigest()
