"""Weights of an earlier run: what its checkpoint holds of the network, and taking it over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.models.state import COUNTER, SHOWN, check_keys, fill_weights
from convlens.models.weights_file import extract_weights, read_content


@dataclass(frozen=True)
class EarlierRun:
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


def load_earlier_run(
    model: nn.Module, trained: EarlierRun, class_names: Sequence[str] | None
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
    check_keys(base, part(theirs, "backbone"), trained.path, (), f" (model.name={trained.network})")
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
        fill_weights(base | top, theirs, trained.path)
        return True, f"{trained.path}: weights of an earlier run, base and head"
    fill_weights(base, theirs, trained.path)
    return False, f"{trained.path}: weights of an earlier run, the base alone; {why}"


def read_earlier_run(path: Path) -> EarlierRun | None:
    """What an earlier run's checkpoint holds, or None: the file is no checkpoint of convlens, or
    cannot be read, which loading it tells.

    Raises:
        UserError: its weights are no plain tensors.
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
    return EarlierRun(path, name, tuple(names), state)
