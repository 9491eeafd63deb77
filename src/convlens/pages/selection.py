"""Choose which of a run's pictures its page contains, so that it stays below a size limit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from convlens.draw.jpeg import shrink_jpeg

Files = Mapping[str, Mapping[int, Path]]  # tag -> completed epochs -> file
LEAST = 16  # epochs that the slider keeps as long as other pictures can be dropped or made smaller
MARKUP = 400  # bytes of a picture's HTML, without its data
ACTIVATIONS, FILTERS = "layers/activations", "layers/filters"
# prefixes of tags of which the page shows only the latest picture
LATEST = ("predictions", "layers/depth", "training/augmentation")
ENDS = ("grad_cam_means", FILTERS)  # prefixes of tags with only the first and the latest picture
# prefixes of tags to drop, in this order, if even the smallest pictures do not fit; others go last
DISPENSABLE = (
    ACTIVATIONS, FILTERS, "training/augmentation", "predictions/random", "predictions/breakdown",
    "layers/depth", "grad_cam_means", "occlusion", "predictions/mistakes", "predictions",
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One way to make the page smaller; each step of ``STEPS`` drops more than the one before.

    Attributes:
        least: minimum number of epochs on the slider.
        activations: ``all``, ``ends`` (the first and the latest epoch) or ``last``.
        smaller: prefixes of the tags whose pictures are re-encoded; see ``has_prefix``.
        edge: their longest side in pixels.
        quality: their JPEG quality, from 1 to 100.
    """

    least: int
    activations: str = "all"
    smaller: tuple[str, ...] = ()
    edge: int = 0
    quality: int = 0


BULKY, ALL = (ACTIVATIONS, FILTERS), ("",)
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
    """The pictures of a page.

    Attributes:
        pictures: tag to JPEG bytes by completed epochs.
        left_out: one line about each kind of picture that is missing or smaller than its file.
        broken: one line about each file that cannot be shown.
    """

    pictures: Mapping[str, Mapping[int, bytes]]
    left_out: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


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


def pick_at_stops(files: Mapping[int, Path], stops: Iterable[int]) -> dict[int, Path]:
    """Return the pictures of a tag that a slider needs, among them the first and the latest.

    Args:
        files: picture file by completed epochs.
        stops: epochs on the slider; at each, it shows the latest picture up to that epoch.
    """
    visible = {max((e for e in files if e <= stop), default=min(files)) for stop in stops}
    return {epoch: files[epoch] for epoch in sorted({min(files), *visible, max(files)})}


def list_candidates(files: Files, probes: Collection[str]) -> dict[str, dict[int, Path]]:
    """Return the pictures that a page without a size limit shows.

    These are every epoch's picture of each probe, the first and the latest of filters and class
    means, and the latest of everything else.

    Args:
        files: all pictures of the run.
        probes: names of the probes.
    """
    candidates = {}
    for tag, looks in files.items():
        if has_prefix(tag, LATEST):
            candidates[tag] = {max(looks): looks[max(looks)]}
        elif has_prefix(tag, ENDS):
            candidates[tag] = pick_at_stops(looks, [])
        elif tag.rpartition("/")[2] in probes:
            candidates[tag] = dict(looks)
    return candidates


def select(files: Files, probes: Collection[str], room: int) -> Selection:
    """Choose pictures that take at most ``room`` bytes of a page.

    First, epochs are thinned out evenly; then activations of the epochs between the first and the
    last are dropped; then pictures are re-encoded at a smaller size. Whole tags are dropped only if
    all of that is not enough. Incomplete JPEG files, which a killed run may leave, are dropped and
    listed.

    Args:
        files: all pictures of the run.
        probes: names of the probes.
        room: size limit in bytes.
    """
    candidates, broken = _drop_broken(list_candidates(files, probes))
    series = [tag for tag in candidates if not has_prefix(tag, (*LATEST, *ENDS))]
    epochs = sorted({epoch for tag in series for epoch in candidates[tag]})
    for step in STEPS:
        least = min(step.least, len(epochs))
        counts = [least] if step.smaller else range(len(epochs), least - 1, -1)
        for count in counts:
            stops = spread_evenly(epochs, count)
            chosen = _thin_out(candidates, set(series), stops, step.activations)
            if step.smaller or _size_of_files(chosen) <= room:
                break
        else:
            continue
        pictures = _encode(chosen, step)
        if _size_of_pictures(pictures) <= room:
            return Selection(pictures, _describe_omissions(step, count, len(epochs)), broken)
    dropped = []
    for prefix in (*DISPENSABLE, ""):
        if _size_of_pictures(pictures) > room:
            dropped += [tag for tag in pictures if has_prefix(tag, (prefix,))]
            pictures = {tag: looks for tag, looks in pictures.items() if tag not in dropped}
    kinds = sorted({tag.partition("/")[0] for tag in dropped})
    line = f"all pictures of {len(dropped)} tags: {', '.join(kinds)}"
    return Selection(pictures, [*_describe_omissions(step, count, len(epochs)), line], broken)


def has_prefix(tag: str, prefixes: Sequence[str]) -> bool:
    """Return whether a tag is one of the prefixes or is below it; every tag is below ``""``.

    >>> has_prefix("depth/dead", ["depth"]), has_prefix("depth2", ["depth"])
    (True, False)
    """
    return any(not prefix or f"{tag}/".startswith(f"{prefix}/") for prefix in prefixes)


def _drop_broken(files: Files) -> tuple[dict[str, dict[int, Path]], list[str]]:
    """Return the files that begin and end as a JPEG does, and one line about each other file."""
    complete: dict[str, dict[int, Path]] = {}
    broken = []
    for tag, looks in files.items():
        for epoch, file in looks.items():
            with file.open("rb") as opened:
                begins = opened.read(3)
                opened.seek(-min(2, file.stat().st_size), 2)
                ends = opened.read(2)
            if begins == b"\xff\xd8\xff" and ends == b"\xff\xd9":
                complete.setdefault(tag, {})[epoch] = file
            else:
                broken.append(f"not shown, because it is not a complete JPEG file: {file}")
    return complete, broken


def _thin_out(
    candidates: Files, series: Collection[str], stops: list[int], activations: str
) -> dict[str, dict[int, Path]]:
    """Return the candidates with fewer epochs of the tags in ``series``."""
    chosen = {}
    for tag, looks in candidates.items():
        chosen[tag] = dict(looks)
        if has_prefix(tag, (ACTIVATIONS,)) and activations != "all":
            ends = {min(looks), max(looks)} if activations == "ends" else {max(looks)}
            chosen[tag] = {epoch: looks[epoch] for epoch in sorted(ends)}
        elif tag in series:
            chosen[tag] = pick_at_stops(looks, stops)
    return chosen


def _encode(chosen: Files, step: Step) -> dict[str, dict[int, bytes]]:
    """Read the files, and shrink the pictures that the step shrinks."""
    pictures: dict[str, dict[int, bytes]] = {}
    for tag, looks in chosen.items():
        pictures[tag] = {epoch: file.read_bytes() for epoch, file in looks.items()}
        if has_prefix(tag, step.smaller):
            for epoch, encoded in pictures[tag].items():
                pictures[tag][epoch] = shrink_jpeg(encoded, step.edge, step.quality)
    return pictures


def _size_on_page(size: int) -> int:
    """Return the bytes of a picture of ``size`` bytes on the page: in base64, with its HTML."""
    return 4 * -(-size // 3) + MARKUP


def _size_of_files(chosen: Files) -> int:
    files = (file for looks in chosen.values() for file in looks.values())
    return sum(_size_on_page(file.stat().st_size) for file in files)


def _size_of_pictures(pictures: Mapping[str, Mapping[int, bytes]]) -> int:
    return sum(_size_on_page(len(one)) for looks in pictures.values() for one in looks.values())


def _describe_omissions(step: Step, count: int, total: int) -> list[str]:
    """Return one line about each kind of picture that a step left out or made smaller.

    Args:
        step: the step.
        count: epochs on the slider.
        total: epochs with pictures of probes.
    """
    lines = []
    if count < total:
        lines.append(
            f"probes: shown at {count} of {total} epochs, evenly spaced, including the first and "
            "the last"
        )
    if step.activations != "all":
        which = "the first and the latest" if step.activations == "ends" else "the latest"
        lines.append(f"activations: shown only for {which} epoch that has them")
    if step.smaller:
        what = "all pictures" if step.smaller == ALL else " and ".join(step.smaller)
        size = f"at most {step.edge} pixels wide and high, JPEG quality {step.quality}"
        lines.append(f"{what}: smaller, {size}")
    return lines
