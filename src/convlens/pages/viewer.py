"""The viewer of maps: photographs with maps laid over them in the browser, from the numbers.

A page includes ``viewer_style.html`` in its style and ``viewer.html`` in its body, with the
``Viewer`` as the variable ``viewer``. Several runs may share one viewer: images of equal content
are shown side by side. Without epochs (``make explain``), all maps belong to the same moment.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from markupsafe import Markup

from convlens.core.photograph import WHOLE, Frame
from convlens.draw.attention_panel import LEGRAD_READING, RELEVANCE_READING
from convlens.draw.attribution_panel import describe_reading
from convlens.draw.colour import colour_table
from convlens.draw.grad_cam_panel import READING
from convlens.draw.jpeg import read_jpeg_size, shrink_jpeg
from convlens.pages.phases import read_phases
from convlens.pages.render import data_uri
from convlens.rundir.maps import Maps, split_scale
from convlens.rundir.read import StoredRun

MapsByEpoch = Mapping[str, Mapping[int, Maps]]  # method -> completed epochs -> maps

HEATS = ("inferno", "viridis", "gray")  # colour tables of maps that are at least 0
SIGNED = ("coolwarm", "PuOr_r")  # colour tables of signed maps, with 0 in the middle
# methods whose maps are at least 0: title and a sentence on how to read them
_POSITIVE = {
    "grad_cam": ("Grad-CAM", READING), "legrad": ("LeGrad", LEGRAD_READING),
    "relevance": ("Relevance", RELEVANCE_READING),
}  # fmt: skip
# methods that need no pixel far above the others: their colours end at the largest magnitude
_EVEN = (*_POSITIVE, "occlusion", "superpixels", "token_occlusion")
_CLIPPED = 0.99  # share of the magnitudes within the colours of the others
_IN_LOGITS = (
    "grad_cam", "occlusion", "superpixels", "token_occlusion", "attn_lrp", "integrated_gradients",
)  # fmt: skip
LEAST = 16  # epochs that are kept as long as photographs can be made smaller instead


@dataclass(frozen=True)
class ViewerProbe:
    """An image in the viewer.

    Attributes:
        name: as in ``Maps.probes``.
        photograph: the bytes of a JPEG or PNG file; empty if there is none.
        frame: the part that the network sees, see ``convlens.core.photograph.Photograph``.
        seen: what the network sees of it, likewise.
        source: the name by which a user finds the image.
        label: its true class; empty if unknown.
    """

    name: str
    photograph: bytes = b""
    frame: Frame = WHOLE
    seen: str = ""
    source: str = ""
    label: str = ""


@dataclass(frozen=True)
class ViewerRun:
    """A network in the viewer, over its epochs.

    Attributes:
        name: shown if there are several runs; may be empty.
        probes: its images, in the order in which they are shown.
        maps: by method and by completed epochs; ``{method: {0: maps}}`` without epochs.
        marks: words at epochs of the slider, such as ``{3: "phase 2"}``.
        best: the best epoch; None if there is none.
    """

    name: str
    probes: Sequence[ViewerProbe]
    maps: MapsByEpoch
    marks: Mapping[int, str] = field(default_factory=dict)
    best: int | None = None


@dataclass(frozen=True)
class Viewer:
    """The values of ``viewer.html``.

    Attributes:
        data: JSON, safe inside a ``<script>`` element.
        epochs: the first and the last epoch on the slider; equal if there is no slider.
        left_out: one line about each thing that is missing or smaller, to keep the page small.
        broken: one line about each photograph that cannot be shown.
    """

    data: Markup
    epochs: tuple[int, int]
    left_out: Sequence[str] = ()
    broken: Sequence[str] = ()


@dataclass(frozen=True)
class _Size:
    """One way to make the data smaller: epochs at most, and JPEGs of the photographs."""

    epochs: int | None
    edge: int
    quality: int


_SIZES = (
    _Size(None, 480, 80), _Size(LEAST, 480, 80), _Size(LEAST, 320, 70), _Size(8, 240, 60),
    _Size(2, 160, 50),
)  # fmt: skip


def read_viewer_run(run: StoredRun, name: str = "") -> ViewerRun:
    """Return a stored run for the viewer.

    Args:
        run: the run.
        name: how the viewer calls it beside others.

    Raises:
        UserError: a file of maps cannot be read.
    """
    probes = [
        ViewerProbe(
            probe.name,
            probe.photograph.read_bytes()
            if probe.photograph and probe.photograph.is_file()
            else b"",
            probe.frame, probe.seen, probe.source, probe.label,
        )
        for probe in run.probes.values()
    ]  # fmt: skip
    phases = read_phases(run.config, run.rows)
    marks = {p.start: f"phase {p.number}" for p in phases if 0 < p.start < run.last_epoch}
    return ViewerRun(name, probes, run.class_maps, marks, run.best_epoch)


def build_viewer(runs: Sequence[ViewerRun], *, room: int | None = None) -> Viewer | None:
    """Return the viewer of one or several runs.

    If the data would take more than ``room``, epochs are thinned out evenly, then photographs are
    made smaller; what is missing is listed.

    Args:
        runs: one or several.
        room: size limit of the data in bytes; None for no limit.

    Returns:
        The viewer; None if no run has maps, or if even the smallest data does not fit.
    """
    epochs = sorted({epoch for run in runs for looks in run.maps.values() for epoch in looks})
    if not epochs:
        return None
    first, last = epochs[0], epochs[-1]
    for size in _SIZES:
        kept = spread_evenly(epochs, size.epochs or len(epochs))
        thinned = [replace(run, maps=_thin_out(run.maps, kept)) for run in runs]
        data, broken = _encode(thinned, size)
        if room is None or len(data) <= room:
            left_out = _describe_omissions(size, len(kept), len(epochs))
            return Viewer(Markup(data), (first, last), left_out, broken)
    return None


def spread_evenly(epochs: Sequence[int], count: int) -> list[int]:
    """Return ``count`` evenly spaced epochs, among them the first and the last.

    Args:
        epochs: all epochs, ascending.
        count: how many to return; 2 if it is smaller.

    >>> spread_evenly([0, 1, 2, 3, 4, 5, 6], 3)
    [0, 3, 6]
    """
    if count >= len(epochs):
        return list(epochs)
    count = max(count, 2)
    return [epochs[round(i * (len(epochs) - 1) / (count - 1))] for i in range(count)]


def _thin_out(maps: MapsByEpoch, kept: Sequence[int]) -> MapsByEpoch:
    """Return those looks of each method that are visible at the kept epochs."""
    thinned = {}
    for method, looks in maps.items():
        visible = {max((e for e in looks if e <= stop), default=min(looks)) for stop in kept}
        thinned[method] = {epoch: looks[epoch] for epoch in sorted(visible)}
    return thinned


def _describe_omissions(size: _Size, kept: int, total: int) -> list[str]:
    lines = []
    if kept < total:
        lines.append(
            f"maps: those of {kept} of {total} epochs, evenly spaced, including the first and the "
            "last"
        )
    if size.edge < _SIZES[0].edge:
        lines.append(f"photographs: at most {size.edge} pixels wide and high")
    return lines


def _encode(runs: Sequence[ViewerRun], size: _Size) -> tuple[str, list[str]]:
    """Return the JSON of runs, and one line about each photograph that cannot be shown."""
    images = _Images(size)
    classes = _Numbers()
    encoded = [_encode_run(run, images, classes) for run in runs]
    data = {
        "runs": encoded,
        "cards": images.cards,
        "photographs": images.photographs,
        "classes": classes.names,
        "colours": {name: _base64(colour_table(name)) for name in (*HEATS, *SIGNED)},
        "heats": HEATS, "signed": SIGNED,
    }  # fmt: skip
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    # names are arbitrary text: none may end the script element, or open a comment in it
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text, images.broken


class _Numbers:
    """Numbers names in the order in which they first come."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def __getitem__(self, name: str) -> int:
        return self._known.setdefault(name, len(self._known))

    @property
    def names(self) -> list[str]:
        return list(self._known)


class _Images:
    """The images of all runs; those of equal content share a photograph and a card."""

    def __init__(self, size: _Size) -> None:
        self.size = size
        self.photographs: list[dict[str, Any]] = []
        self.cards: list[list[tuple[int, int]]] = []  # (run, probe) of each image
        self.broken: list[str] = []
        self._runs = 0
        self._photographs: dict[bytes, int | None] = {}
        self._cards: dict[object, list[tuple[int, int]]] = {}

    def add(self, probes: Iterable[ViewerProbe]) -> list[int | None]:
        """Add the images of the next run; return the numbers of their photographs."""
        run, self._runs = self._runs, self._runs + 1
        numbers = []
        for place, probe in enumerate(probes):
            digest = hashlib.sha256(probe.photograph).digest()
            key = digest if probe.photograph else (run, probe.name)
            card = self._cards.get(key)
            if card is None or any(other == run for other, _ in card):  # twice in the same run
                self._cards[key] = card = []
                self.cards.append(card)
            card.append((run, place))
            if digest not in self._photographs:
                self._photographs[digest] = self._add_photograph(probe)
            numbers.append(self._photographs[digest])
        return numbers

    def _add_photograph(self, probe: ViewerProbe) -> int | None:
        if not probe.photograph:
            return None
        try:
            small = shrink_jpeg(probe.photograph, self.size.edge, self.size.quality)
            width, height = read_jpeg_size(small)
            self.photographs.append({"uri": data_uri(small), "width": width, "height": height})
        except (OSError, ValueError):
            self.broken.append(f"not shown, because it is not a complete image: {probe.name}")
            return None
        return len(self.photographs) - 1


def _encode_run(run: ViewerRun, images: _Images, classes: _Numbers) -> dict[str, Any]:
    places = {probe.name: place for place, probe in enumerate(run.probes)}
    photographs = images.add(run.probes)
    return {
        "name": run.name,
        "marks": sorted(run.marks.items()),
        "best": run.best,
        "probes": [
            {
                "name": probe.name, "source": probe.source, "label": probe.label,
                "seen": probe.seen, "frame": probe.frame, "photograph": photograph,
            }
            for probe, photograph in zip(run.probes, photographs, strict=True)
        ],
        "methods": {
            method: _encode_method(method, looks, places, classes)
            for method, looks in run.maps.items()
        },
    }  # fmt: skip


def _encode_method(
    method: str, looks: Mapping[int, Maps], places: Mapping[str, int], classes: _Numbers
) -> dict[str, Any]:
    signed = method.replace("_", " ").capitalize(), describe_reading(method)
    title, reading = _POSITIVE.get(method, signed)
    return {
        "title": title, "reading": reading,
        "unit": "logit" if method in _IN_LOGITS else "", "signed": method not in _POSITIVE,
        "within": 1 if method in _EVEN else _CLIPPED,
        "roles": list(dict.fromkeys(role for maps in looks.values() for role in maps.roles)),
        "layers": list(dict.fromkeys(name for maps in looks.values() for name in maps.layers)),
        "looks": [_encode_look(epoch, maps, places, classes) for epoch, maps in looks.items()],
    }  # fmt: skip


def _encode_look(
    epoch: int, maps: Maps, places: Mapping[str, int], classes: _Numbers
) -> dict[str, Any]:
    layers = {}
    for name, values in maps.layers.items():
        halves, scales = split_scale(values)
        layers[name] = {
            "rows": values.shape[2], "columns": values.shape[3],
            "maps": _base64(halves.astype("<f2")), "scales": _base64(scales.astype("<f4")),
        }  # fmt: skip
    return {
        "epoch": epoch,
        "probes": [places.get(name, -1) for name in maps.probes],
        "roles": list(maps.roles),
        "classes": [[classes[name] for name in row] for row in maps.classes],
        "probabilities": _base64(maps.probabilities.astype("<f4")),
        "layers": layers,
    }  # fmt: skip


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
