"""Choose which of a run's pictures its page contains, so that it stays below a size limit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from convlens.draw.jpeg import shrink_jpeg

Files = Mapping[str, Mapping[int, Path]]  # tag -> completed epochs -> file
Pictures = dict[str, dict[int, bytes]]  # tag -> completed epochs -> JPEG
MARKUP = 400  # bytes of a picture's HTML, without its data
ACTIVATIONS, FILTERS = "layers/activations", "layers/filters"
ATTENTION = "layers/attention"
# prefixes of tags of which the page shows the latest picture, whatever they end with
LATEST = (
    "predictions",
    "grad_cam_clusters",
    "layers/depth",
    "layers/changes",
    "training/augmentation",
)
ENDS = ("grad_cam_means", FILTERS)  # prefixes of tags with the first and the latest picture
FILMS = ("layers/feature_space",)  # prefixes of tags with pictures of all epochs, and a slider
FRAMES = 12  # pictures of a film, evenly spread over the epochs
BULKY = (ACTIVATIONS, FILTERS)  # prefixes of tags with by far the largest pictures
# longest side in pixels and JPEG quality of bulky and of other pictures; None: as they are
_Size = tuple[int, int] | None
_SIZES: tuple[tuple[_Size, _Size], ...] = (
    (None, None), ((1100, 70), (1100, 75)), ((900, 60), (800, 70)),
)  # fmt: skip
_SMALLEST = ((900, 60), (600, 55))
# prefixes of tags to drop, in this order, if even the smallest pictures do not fit; others go last
DISPENSABLE = (
    "training/augmentation", "predictions/random", "predictions/breakdown", "layers/norms",
    ATTENTION, "layers/depth", *FILMS, "layers/changes",
    "training/learned_last", "training/forgotten", "training/hardest", "training/map",
    "predictions/reliability", "grad_cam_means", "grad_cam_clusters", "predictions/slices",
    "predictions/mistakes", "predictions", "",
)  # fmt: skip


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


def list_candidates(
    files: Files, probes: Collection[str], methods: Collection[str]
) -> dict[str, dict[int, Path]]:
    """Return the pictures that a page without a size limit shows.

    These are the first and the latest of filters and class means, those of ``FRAMES`` epochs of
    films, and the latest of everything else. Pictures of probes are left out if the page has their
    maps.

    Args:
        files: all pictures of the run.
        probes: names of the probes.
        methods: methods of which the page has the maps.
    """
    candidates = {}
    for tag, looks in files.items():
        count = FRAMES if has_prefix(tag, FILMS) else 2 if has_prefix(tag, ENDS) else 1
        is_probe = tag.rpartition("/")[2] in probes and not has_prefix(tag, [*methods])
        if has_prefix(tag, (*LATEST, *ENDS, *FILMS)) or is_probe:
            candidates[tag] = {epoch: looks[epoch] for epoch in _spread(sorted(looks), count)}
    return candidates


def _spread(epochs: Sequence[int], count: int) -> list[int]:
    """Return ``count`` evenly spread epochs up to the latest, from the first on if two or more."""
    count = min(count, len(epochs))
    last = len(epochs) - 1
    return [epochs[last - round(k * last / max(1, count - 1))] for k in reversed(range(count))]


def select(files: Files, probes: Collection[str], methods: Collection[str], room: int) -> Selection:
    """Choose pictures that take at most ``room`` bytes of a page.

    Pictures are made smaller first; then activations and filters are dropped one by one, then
    others. Incomplete JPEG files, which a killed run may leave, are dropped and listed.

    Args:
        files: all pictures of the run.
        probes: names of the probes.
        methods: methods of which the page has the maps.
        room: size limit in bytes.
    """
    complete, broken = _drop_broken(list_candidates(files, probes, methods))
    originals = {
        tag: {epoch: file.read_bytes() for epoch, file in looks.items()}
        for tag, looks in complete.items()
    }
    pictures, lines = originals, []
    for size in _SIZES:
        pictures = _encode(originals, *size)
        if _size_of(pictures) <= room:
            break
    pictures, dropped = _drop(pictures, BULKY, room)
    if _size_of(pictures) > room:
        size = _SMALLEST
        pictures, others = _drop(
            _encode({tag: originals[tag] for tag in pictures}, *size), DISPENSABLE, room
        )
        dropped += others
    for what, side in zip((" and ".join(BULKY), "other pictures"), size, strict=True):
        if side:
            lines.append(f"{what}: at most {side[0]} pixels wide and high, JPEG quality {side[1]}")
    return Selection(pictures, [*lines, *dropped], broken)


def _encode(originals: Pictures, bulky: _Size, other: _Size) -> Pictures:
    """Return pictures at most of a size, those below ``BULKY`` of another one."""
    encoded = {}
    for tag, looks in originals.items():
        size = bulky if has_prefix(tag, BULKY) else other
        encoded[tag] = {e: shrink_jpeg(one, *size) if size else one for e, one in looks.items()}
    return encoded


def _drop(pictures: Pictures, order: Sequence[str], room: int) -> tuple[Pictures, list[str]]:
    """Drop tags until the others fit, prefix by prefix, the last probes first."""
    kept, lines = dict(pictures), []
    for prefix in order:
        # rather all layers of the first probes than all probes of the first layers
        tags = [tag for tag in kept if has_prefix(tag, (prefix,))]
        tags.sort(key=lambda tag: tag.rpartition("/")[2])
        total = len(tags)
        while tags and _size_of(kept) > room:
            del kept[tags.pop()]
        if len(tags) < total:
            kinds = sorted({tag.partition("/")[0] for tag in pictures if tag not in kept})
            lines.append(f"{total - len(tags)} of {total} pictures: {prefix or ', '.join(kinds)}")
    return kept, lines


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


def _size_of(pictures: Pictures) -> int:
    """Return the bytes of pictures on the page: in base64, with their HTML."""
    sizes = (len(one) for looks in pictures.values() for one in looks.values())
    return sum(4 * -(-size // 3) + MARKUP for size in sizes)
