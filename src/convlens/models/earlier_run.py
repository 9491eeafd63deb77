"""Start from the weights of an earlier run: read its checkpoint and copy them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.models.adapters import merge_state
from convlens.models.state import (
    COUNTER,
    MAX_NAMES,
    check_keys,
    convert_state,
    fill_weights,
)
from convlens.models.weights_file import extract_weights, read_content


@dataclass(frozen=True)
class EarlierRun:
    """The network in a checkpoint of an earlier run.

    Attributes:
        path: the checkpoint.
        network: the run's ``model.name``.
        class_names: classes of its head, in order.
        state: tensors by their keys in ``convlens.models.Classifier``.
        size: height and width of its images in pixels; None if unknown.
    """

    path: Path
    network: str
    class_names: tuple[str, ...]
    state: dict[str, Tensor]
    size: int | None = None

    def normalisation(self, channels: int) -> tuple[list[float], list[float]] | None:
        """Return (mean, std) by channel, or None if the number of channels differs."""
        stored = [self.state.get(f"normalise.{name}") for name in ("mean", "std")]
        if any(value is None or value.numel() != channels for value in stored):
            return None
        mean, std = (value.flatten().tolist() for value in stored)
        return mean, std


def load_earlier_run(
    model: nn.Module, run: EarlierRun, class_names: Sequence[str] | None, *,
    size: int | None = None,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> tuple[bool, str]:  # fmt: skip
    """Copy the weights of an earlier run into a classifier: the base, and the head if it fits.

    The head fits if it has the same classes, in the same order, and the same layers. The input
    normalisation is not copied.

    Args:
        model: a ``convlens.models.Classifier``.
        run: the earlier run.
        class_names: classes of the new run, in order; None if unknown.
        size: height and width of its images in pixels; None if unknown.
        convert: resizes tensors, by the keys of ``model``, to those of ``model``, such as position
            embeddings for other images; the library's own function.

    Returns:
        Whether the head was copied, and one line that reports it.

    Raises:
        UserError: the base belongs to another network, or to images of another size to which it
            cannot be converted; the error names the keys.
    """
    mine = {k: v for k, v in model.state_dict().items() if not k.endswith(COUNTER)}
    theirs = {k: v for k, v in run.state.items() if not k.endswith(COUNTER)}

    def part(state: dict, name: str) -> dict:
        return {k: v for k, v in state.items() if k.startswith(f"{name}.")}

    base, top = part(mine, "backbone"), part(mine, "head")
    steps = []
    if convert and any(k in theirs and theirs[k].shape != v.shape for k, v in base.items()):
        theirs, steps = convert_state(theirs, base, convert)
    sizes = (size, run.size) if convert and size and run.size else None
    of = f" (model.name={run.network})"
    check_keys(base, part(theirs, "backbone"), run.path, (), of, sizes)
    name = ", ".join([f"{run.path}: weights of an earlier run", *steps])
    shapes = {k: v.shape for k, v in part(theirs, "head").items()}
    if class_names is None or tuple(class_names) != run.class_names:
        names = ", ".join(run.class_names[:MAX_NAMES])
        more = ", …" * (len(run.class_names) > MAX_NAMES)
        reason = f"its head has {len(run.class_names)} other classes ({names}{more})"
        if class_names is not None and sorted(class_names) == sorted(run.class_names):
            reason = "its head has the classes in another order"
    elif shapes != {k: v.shape for k, v in top.items()}:
        reason = "its head has other layers"
    else:
        fill_weights(base | top, theirs, run.path)
        return True, f"{name}, base and head"
    fill_weights(base, theirs, run.path)
    return False, f"{name}, base only; {reason}"


def read_earlier_run(path: Path) -> EarlierRun | None:
    """Read the network from a checkpoint of an earlier run.

    Args:
        path: a weights file or checkpoint.

    Returns:
        The earlier run; None if the file is not a checkpoint of convlens or cannot be read.
        Loading an unreadable file reports why.

    Raises:
        UserError: its weights are not plain tensors, or its adapters do not fit them.
    """
    if path.suffix == ".safetensors":
        return None
    try:
        content = read_content(path, mapped=True)
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
    state, _ = extract_weights(state, path)
    prefix = "model."
    state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    schedule = parts["config"].get("finetune")
    lora = schedule.get("lora") if isinstance(schedule, dict) else None
    images = parts["config"].get("data")
    size = images.get("size") if isinstance(images, dict) else None
    size = size if isinstance(size, int) else None
    return EarlierRun(path, name, tuple(names), merge_state(state, lora, path), size)
