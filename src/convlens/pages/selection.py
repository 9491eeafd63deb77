"""Which of a run's pictures its page holds, so that it stays below a size."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from convlens.draw.jpeg import shrink_jpeg

Files = Mapping[str, Mapping[int, Path]]  # tag to file by completed epochs
LEAST = 16  # epochs on the slider below which rather other pictures are left out or made smaller
MARKUP = 400  # bytes that a picture takes on the page beside its own
ACTIVATIONS = "activations"
# tags, or their beginnings, of which the page shows the latest picture
LATEST = ("confusion_matrix", "predictions", "depth", "augmentation")
ENDS = ("class_means", "filters")  # and of which the first and the latest
# what goes first where even the smallest pictures are too many; unnamed tags go last
DISPENSABLE = (
    ACTIVATIONS, "filters", "augmentation", "predictions/random", "predictions/breakdown", "depth",
    "class_means", "occlusion", "predictions", "confusion_matrix",
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One way to make the page smaller; later ones leave out more.

    Attributes:
        least: epochs on the slider that have to stay.
        activations: ``all``, ``ends`` (the first look and the latest) or ``last``.
        smaller: beginnings of the tags whose pictures are encoded anew, see :func:`has_prefix`.
        edge, quality: how, in pixels and from 1 to 100.
    """

    least: int
    activations: str = "all"
    smaller: tuple[str, ...] = ()
    edge: int = 0
    quality: int = 0


BULKY, ALL = (ACTIVATIONS, "filters"), ("",)
STEPS = (
    Step(LEAST),
    Step(LEAST, "ends"),
    Step(LEAST, "ends", BULKY, 1100, 70),
    Step(LEAST, "ends", BULKY, 950, 62),
    Step(LEAST, "ends", BULKY, 800, 55),
    Step(LEAST, "last", BULKY, 800, 55),
    Step(LEAST, "last", ALL, 800, 75),
    Step(LEAST, "last", ALL, 700, 60),
    Step(LEAST // 2, "last", ALL, 550, 55),
    Step(2, "last", ALL, 400, 45),
)


@dataclass(frozen=True)
class Selection:
    """Pictures for a page.

    Attributes:
        pictures: tag to JPEG bytes by completed epochs.
        left_out: what is not there or smaller than its file, a line each; empty where nothing is.
        broken: files that cannot be shown, a line each.
    """

    pictures: Mapping[str, Mapping[int, bytes]]
    left_out: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def spread_evenly(epochs: Sequence[int], count: int) -> list[int]:
    """``count`` of the epochs, evenly spread; the first and the last always stay.

    >>> spread_evenly([0, 1, 2, 3, 4, 5, 6], 3)
    [0, 3, 6]
    """
    if count >= len(epochs):
        return list(epochs)
    count = max(count, 2)
    return [epochs[round(i * (len(epochs) - 1) / (count - 1))] for i in range(count)]


def pick_at_stops(files: Mapping[int, Path], stops: Iterable[int]) -> dict[int, Path]:
    """Of one tag: what a slider shows at ``stops``, which is the latest picture up to there, and
    the first and the latest of all."""
    stops = list(stops)
    seen = {max((e for e in files if e <= stop), default=min(files)) for stop in stops}
    return {epoch: files[epoch] for epoch in sorted({min(files), *seen, max(files)})}


def list_candidates(files: Files, probes: Collection[str]) -> dict[str, dict[int, Path]]:
    """The pictures that a page without any limit shows: every epoch's for each probe, the latest
    for answers, the first and the latest for filters and class means."""
    found = {}
    for tag, looks in files.items():
        if has_prefix(tag, LATEST):
            found[tag] = {max(looks): looks[max(looks)]}
        elif has_prefix(tag, ENDS):
            found[tag] = pick_at_stops(looks, [])
        elif tag.rpartition("/")[2] in probes:
            found[tag] = dict(looks)
    return found


def select(files: Files, probes: Collection[str], room: int) -> Selection:
    """Choose pictures that take at most ``room`` bytes of a page.

    Epochs are thinned out evenly first, then activations of the epochs between the first and the
    last go, then pictures are encoded smaller. Whole tags are left out only where all of that is
    not enough. Files that are no whole JPEG, as a killed run may leave one, are left out and named.
    """
    shown, broken = _readable(list_candidates(files, probes))
    series = [tag for tag in shown if not has_prefix(tag, (*LATEST, *ENDS))]
    epochs = sorted({epoch for tag in series for epoch in shown[tag]})
    for step in STEPS:
        least = min(step.least, len(epochs))
        counts = [least] if step.smaller else range(len(epochs), least - 1, -1)
        for count in counts:
            chosen = _thinned(shown, set(series), spread_evenly(epochs, count), step.activations)
            if step.smaller or _size(chosen) <= room:
                break
        else:
            continue
        pictures = _encoded(chosen, step)
        if _bytes(pictures) <= room:
            return Selection(pictures, _told(step, count, len(epochs)), broken)
    gone = []
    for start in (*DISPENSABLE, ""):
        if _bytes(pictures) > room:
            gone += [tag for tag in pictures if has_prefix(tag, (start,))]
            pictures = {tag: looks for tag, looks in pictures.items() if tag not in gone}
    kinds = sorted({tag.partition("/")[0] for tag in gone})
    left = f"no room at all: {', '.join(kinds)} ({len(gone)} tags)"
    return Selection(pictures, [*_told(step, count, len(epochs)), left], broken)


def has_prefix(tag: str, beginnings: Sequence[str]) -> bool:
    """Whether a tag begins with one of several paths, each part of them whole; all do with ``""``.

    >>> has_prefix("filters/conv1", ["filters"]), has_prefix("filters2", ["filters"])
    (True, False)
    """
    return any(not start or f"{tag}/".startswith(f"{start}/") for start in beginnings)


def _readable(shown: Files) -> tuple[dict[str, dict[int, Path]], list[str]]:
    """Without files that do not begin and end as a JPEG does, and a line for each of those."""
    whole: dict[str, dict[int, Path]] = {}
    broken = []
    for tag, looks in shown.items():
        for epoch, file in looks.items():
            with file.open("rb") as opened:
                begins = opened.read(3)
                opened.seek(-min(2, file.stat().st_size), 2)
                ends = opened.read(2)
            if begins == b"\xff\xd8\xff" and ends == b"\xff\xd9":
                whole.setdefault(tag, {})[epoch] = file
            else:
                broken.append(f"not a whole JPEG file, and not shown: {file}")
    return whole, broken


def _thinned(
    shown: Files, series: Collection[str], stops: list[int], activations: str
) -> dict[str, dict[int, Path]]:
    found = {}
    for tag, looks in shown.items():
        found[tag] = dict(looks)
        if has_prefix(tag, (ACTIVATIONS,)) and activations != "all":
            ends = {min(looks), max(looks)} if activations == "ends" else {max(looks)}
            found[tag] = {epoch: looks[epoch] for epoch in sorted(ends)}
        elif tag in series:
            found[tag] = pick_at_stops(looks, stops)
    return found


def _encoded(chosen: Files, step: Step) -> dict[str, dict[int, bytes]]:
    found: dict[str, dict[int, bytes]] = {}
    for tag, looks in chosen.items():
        found[tag] = {epoch: file.read_bytes() for epoch, file in looks.items()}
        if has_prefix(tag, step.smaller):
            for epoch, encoded in found[tag].items():
                found[tag][epoch] = shrink_jpeg(encoded, step.edge, step.quality)
    return found


def _on_page(size: int) -> int:
    """Bytes that a picture of ``size`` bytes takes on the page, in base64 and with its markup."""
    return 4 * -(-size // 3) + MARKUP


def _size(chosen: Files) -> int:
    return sum(_on_page(f.stat().st_size) for looks in chosen.values() for f in looks.values())


def _bytes(pictures: Mapping[str, Mapping[int, bytes]]) -> int:
    return sum(_on_page(len(found)) for looks in pictures.values() for found in looks.values())


def _told(step: Step, count: int, total: int) -> list[str]:
    """What a step left out, in words."""
    lines = []
    if count < total:
        lines.append(
            f"probes at {count} of {total} epochs, evenly spread, the first and the last among them"
        )
    if step.activations != "all":
        which = "the first and the last epoch" if step.activations == "ends" else "the last epoch"
        lines.append(f"activations of {which} only")
    if step.smaller:
        what = "all pictures" if step.smaller == ALL else " and ".join(step.smaller)
        size = f"at most {step.edge} pixels wide or high, quality {step.quality}"
        lines.append(f"{what} encoded smaller, {size}")
    return lines
