"""The networks that ``model.name`` takes: size, input, weights, and what is explained of them.

``checked.json`` holds what was checked on small networks with random weights, one of each family;
``docs/networks.py`` writes it, and ``docs/networks.md`` shows it. A family is a module of timm.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files

import torch
from torch import nn

from convlens.core.errors import UserError, nearest
from convlens.models import timm_networks, vgg16
from convlens.models.timm_features import FAILURES
from convlens.models.weights import find_pending_download, find_weights

OWN = ("scratch", "vgg16")  # the networks that are not timm's
REFUSED = "refused: "


@dataclass(frozen=True)
class Checked:
    """A small network that was checked.

    Attributes:
        name: ``model.name``.
        family: timm's module, or ``convlens``.
        size: pixels of its images.
        stages: number of stages.
        links: number of modules after which its features can be stored.
        cells: what was checked -> the reference, "partly: …" or "refused: why".
        error: upper limit of all differences, such as "1e-13"; empty if nothing was compared.
    """

    name: str
    family: str
    size: int
    stages: int
    links: int
    cells: Mapping[str, str]
    error: str

    @property
    def passed(self) -> set[str]:
        """What is not refused."""
        return {name for name, cell in self.cells.items() if not cell.startswith(REFUSED)}


@dataclass(frozen=True)
class Entry:
    """A network of the catalogue.

    Attributes:
        name: ``model.name``.
        parameters: with its own classifier; None if timm cannot count them without computing.
        size: pixels of the images of its weights; None for any size.
        weights: ``at hand``, ``download`` or ``none``.
        explained: what was checked on every checked network of its family, in the table's order.
        checked: the checked networks of its family.
    """

    name: str
    parameters: int | None
    size: int | None
    weights: str
    explained: tuple[str, ...]
    checked: tuple[Checked, ...]


@cache
def read_checked() -> tuple[Checked, ...]:
    """Return the networks that were checked, by family and name."""
    text = files("convlens.models").joinpath("checked.json").read_text(encoding="utf-8")
    return tuple(Checked(**row) for row in json.loads(text))


def find_family(name: str) -> str | None:
    """Return the module in which timm defines a network; None if it is not timm's."""
    if name in OWN:
        return None
    from timm.models import model_entrypoint

    timm_networks.check_name(name)
    return model_entrypoint(name.partition(".")[0]).__module__.rpartition(".")[2]


def search_names(search: str) -> list[str]:
    """Return the names that contain a text, or match a pattern with ``*``; all for an empty one.

    Raises:
        UserError: there is none; the error suggests similar names.
    """
    names = list(dict.fromkeys([*OWN, *timm_networks.list_names()]))  # timm has a vgg16 too
    pattern = search if any(each in search for each in "*?[") else f"*{search}*"
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        raise UserError(
            f"search={search}: no network has such a name; "
            + nearest(search.lower(), names, otherwise="try a part of one, such as search=resnet")
        )
    return found


def describe(names: Sequence[str]) -> list[Entry]:
    """Describe networks. Nothing is computed: the networks have shapes, but no numbers.

    Args:
        names: ``model.name`` of each, from ``search_names``.
    """
    return [_describe(name) for name in names]


def _describe(name: str) -> Entry:
    family = find_family(name)
    checked = tuple(
        row
        for row in read_checked()
        if (row.name == name if family is None else row.family == family)
    )
    passed = set.intersection(*(row.passed for row in checked)) if checked else set()
    order = read_checked()[0].cells
    if name == "scratch":
        return Entry(name, None, None, "none", tuple(o for o in order if o in passed), checked)
    if family is None:
        with torch.device("meta"):
            network: nn.Module | None = vgg16.build_network()
        size, library = 224, name
    else:
        network = _build_without_numbers(name)
        size, library = timm_networks.read_timm_config(name)["input_size"][-1], "timm"
    count = None if network is None else sum(each.numel() for each in network.parameters())
    explained = tuple(each for each in order if each in passed)
    return Entry(name, count, size, _find_weights(library, name), explained, checked)


def _build_without_numbers(name: str) -> nn.Module | None:
    classes = timm_networks.read_timm_config(name).get("num_classes") or 0
    try:
        with torch.device("meta"):
            return timm_networks.create(name, classes)
    except (UserError, *FAILURES):  # it computes with its numbers when it is built
        return None


def _find_weights(library: str, name: str) -> str:
    timm_name = None if library == name else name
    if find_weights(library, "auto", timm_name=timm_name, whole=False, download=False):
        return "at hand"
    pending = find_pending_download(library, "auto", timm_name=timm_name, whole=False)
    return "download" if pending else "none"
