"""The maps of a look as numbers: ``explanations/epoch_<n>/maps.safetensors``.

Shapes: ``P`` probes, ``T`` classes of each probe, ``h w`` size of a layer's maps.

For each method and layer the file holds the maps as float16, each divided by its largest magnitude,
and these magnitudes as float32, so that neither the tiny maps of a network before training nor the
large ones of a confident network leave the range of float16. Names are in the file's metadata.
torch is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from convlens.core.errors import UserError
from convlens.core.files import open_atomic

FILE = "maps.safetensors"
SIDE = 14  # cells of the longer side of a kept map, at most
IMAGE = "image"  # stands for the layer of methods that explain the image itself
BLOCKS = "all blocks"  # likewise of methods that explain all blocks of a transformer together
ATTENTION, ROLLOUT = "attention", "rollout"
OF_NO_CLASS = (ATTENTION, ROLLOUT)  # methods whose maps are the same for every class
_FORMAT = "1"
_LARGEST = 50_000_000  # bytes of a file; ours have a few thousand


@dataclass(frozen=True, eq=False)
class Maps:
    """The maps of one method, of several probes.

    Attributes:
        method: such as ``grad_cam`` or ``occlusion``, the first part of the tags of its pictures.
        probes: P names.
        roles: T words that say why a class is explained: ``predicted``, ``true``, ``target``, or
            ``2nd``, ``3rd``, … for the next most probable ones. Of attention ``head 1``,
            ``head 2``, …, of rollout ``all heads``.
        classes: (P, T) names of the explained classes; empty if there is none, such as the true
            class of a probe of which it is unknown, and for attention and rollout.
        probabilities: (P, T) float32 in [0, 1], the network's probability of each class; NaN for
            attention and rollout.
        layers: by layer, (P, T, h, w) float32; ``image`` stands for the layer of methods that
            explain the image itself. Grad-CAM is at least 0 and on the scale of logits, attention
            at least 0 and a share; other methods are signed. Maps of a true class without a name,
            and of heads that a layer does not have, are NaN.
    """

    method: str
    probes: Sequence[str]
    roles: Sequence[str]
    classes: Sequence[Sequence[str]]
    probabilities: np.ndarray
    layers: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        sizes = (len(self.probes), len(self.roles))
        shapes = {self.probabilities.shape, *(each.shape[:2] for each in self.layers.values())}
        shapes |= {(len(self.classes), len(row)) for row in self.classes}
        if shapes != {sizes} or any(each.ndim != 4 for each in self.layers.values()):
            raise ValueError(f"maps of {sizes[0]} probes and {sizes[1]} classes, got {shapes}")

    @property
    def values(self) -> np.ndarray:
        """All layers as one array, (P, T, layers, h, w) float32.

        Raises:
            UserError: the layers have different sizes.
        """
        if len({each.shape for each in self.layers.values()}) != 1:
            sizes = ", ".join(f"{name} {v.shape[2:]}" for name, v in self.layers.items())
            raise UserError(f"the layers' maps have different sizes ({sizes}): use .layers[name]")
        return np.stack([*self.layers.values()], axis=2)


def name_head_maps(
    method: str, probes: Sequence[str], layers: Mapping[str, np.ndarray], roles: Sequence[str] = ()
) -> Maps:
    """Return maps that belong to no class, one for each head of a layer.

    Args:
        method: one of ``OF_NO_CLASS``.
        probes: P names.
        layers: by layer, (P, heads, h, w); layers may have different numbers of heads.
        roles: names of the maps, as many as the most heads of a layer; "head 1", … if empty.
    """
    most = max(each.shape[1] for each in layers.values())
    padded = {
        name: np.pad(each, ((0, 0), (0, most - each.shape[1]), (0, 0), (0, 0)),
                     constant_values=np.nan)
        for name, each in layers.items()
    }  # fmt: skip
    roles = roles or [f"head {number}" for number in range(1, most + 1)]
    shares = np.full((len(probes), most), np.nan, np.float32)
    return Maps(method, probes, roles, [[""] * most for _ in probes], shares, padded)


def format_rank(rank: int) -> str:
    """Return the role of a class by how probable it is: 2 becomes ``2nd``, 3 ``3rd``, …"""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(rank % 10 if rank // 10 % 10 != 1 else 0, "th")
    return f"{rank}{ending}"


def write_maps(folder: Path, found: Maps) -> None:
    """Add maps to the file in a look's folder; the file is replaced as a whole.

    What the file holds of other methods, and of other probes of the same method, is kept.

    Args:
        folder: ``explanations/epoch_<n>``; created if it does not exist.
        found: what to add.

    Raises:
        OSError: the file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILE
    known = read_maps(file) if file.is_file() else {}
    if before := known.get(found.method):
        found = _merge(before, found)
    known[found.method] = found
    with open_atomic(file, "wb") as opened:
        opened.write(_encode(known.values()))


def _merge(before: Maps, found: Maps) -> Maps:
    """Return maps with those probes of ``before`` that ``found`` lacks, if they fit together."""
    rows = [row for row, probe in enumerate(before.probes) if probe not in found.probes]
    shapes = [{name: v.shape[1:] for name, v in m.layers.items()} for m in (before, found)]
    if not rows or list(before.roles) != list(found.roles) or shapes[0] != shapes[1]:
        return found
    kept = Maps(
        before.method, [before.probes[row] for row in rows], before.roles,
        [before.classes[row] for row in rows], before.probabilities[rows],
        {name: values[rows] for name, values in before.layers.items()},
    )  # fmt: skip
    return join_maps([kept, found])


def join_maps(parts: Sequence[Maps]) -> Maps:
    """Return the maps of several groups of probes as one; method, roles and layers are equal."""
    first = parts[0]
    return Maps(
        first.method, [probe for part in parts for probe in part.probes], first.roles,
        [row for part in parts for row in part.classes],
        np.concatenate([part.probabilities for part in parts]),
        {name: np.concatenate([part.layers[name] for part in parts]) for name in first.layers},
    )  # fmt: skip


def _encode(methods: Iterable[Maps]) -> bytes:
    tensors, facts = {}, {}
    for each in methods:
        facts[each.method] = {
            "format": _FORMAT, "probes": list(each.probes), "roles": list(each.roles),
            "classes": [list(row) for row in each.classes], "layers": list(each.layers),
        }  # fmt: skip
        tensors[f"{each.method}/probabilities"] = np.float32(each.probabilities)
        for number, values in enumerate(each.layers.values()):
            halves, scales = split_scale(values)
            tensors[f"{each.method}/{number}/maps"] = halves
            tensors[f"{each.method}/{number}/scales"] = scales
    # one entry only: safetensors writes several in a random order, and equal maps in unequal files
    return save(tensors, {"methods": json.dumps(facts)})


def split_scale(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return maps (..., h, w) as float16 in [-1, 1], and their scales (...) float32.

    The product restores the maps to 11 significant bits of each map's largest magnitude. A scale is
    that magnitude, or 1 where it is 0. Values that are not finite are kept.
    """
    sizes = np.where(np.isfinite(values), np.abs(values), 0).max(axis=(-2, -1))
    scales = np.where(sizes > 0, sizes, 1).astype(np.float32)
    with np.errstate(invalid="ignore"):
        return (values / scales[..., None, None]).astype(np.float16), scales


def read_maps(file: Path) -> dict[str, Maps]:
    """Return the maps in a file by method.

    Raises:
        UserError: the file cannot be read, or is not what a run writes.
    """
    try:
        if file.stat().st_size > _LARGEST:
            raise ValueError(f"more than {_LARGEST:,} bytes")
        with safe_open(str(file), framework="numpy") as opened:
            facts = json.loads((opened.metadata() or {})["methods"])
            return {method: _decode(opened, method, each) for method, each in facts.items()}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} does not hold the maps of a run ({error}); remove it to continue without"
        ) from error


def _decode(opened, method: str, facts: dict) -> Maps:
    if (number := facts.get("format")) != _FORMAT:
        raise ValueError(f"format {number} instead of {_FORMAT}")
    layers = {}
    for number, name in enumerate(facts["layers"]):
        halves = opened.get_tensor(f"{method}/{number}/maps")
        scales = opened.get_tensor(f"{method}/{number}/scales")
        with np.errstate(invalid="ignore"):
            layers[str(name)] = halves.astype(np.float32) * scales[..., None, None]
    return Maps(
        method, [str(name) for name in facts["probes"]], [str(role) for role in facts["roles"]],
        [[str(name) for name in row] for row in facts["classes"]],
        opened.get_tensor(f"{method}/probabilities"), layers,
    )  # fmt: skip
