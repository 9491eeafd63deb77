"""Axes as products of atoms, and what cutting, rolling, joining and resizing does to them.

An axis is the product of its atoms, outermost first. An atom of height or width says which steps
of the whole height or width it counts, so that a map cut into windows, unrolled or rolled can be
put together again, and is never mistaken for a whole one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import NamedTuple

CHANNELS = {"C", "P"}
SPATIAL = {"H", "W"}
POSITIONS = {"H", "W", "T"}


class Atom(NamedTuple):
    """A factor of an axis.

    Attributes:
        label: ``B``; ``H`` or ``W``; ``P`` (the image's own channels); ``C`` (any later channels);
            ``T`` (tokens without a place in the image); ``Joined`` (a concatenation); None if
            unknown.
        size: number of steps, above one.
        stride: rows (or columns) of the whole height (or width) in one step.
        extent: whole height (or width); 0 for other labels.
        shift: by how many rows (or columns) the height (or width) was rolled.
        padded: whether rows (or columns) beyond the image were added, so that places have moved.
    """

    label: str | Joined | None
    size: int
    stride: int = 1
    extent: int = 0
    shift: int = 0
    padded: bool = False


Axis = tuple[Atom, ...]
Axes = tuple[Axis, ...]


class Joined(NamedTuple):
    """The label of an axis that is the concatenation of others, such as class token and patches."""

    parts: tuple[Axis, ...]


def make_axis(label: str | Joined | None, size: int) -> Axis:
    """Return an axis of one atom, or of none for size one."""
    if size == 1:
        return ()
    return (Atom(label, size, 1, size if label in SPATIAL else 0),)


def make_axes(labels: str, shape: Sequence[int]) -> Axes:
    """Return axes of one atom each, one letter of ``labels`` for each side of ``shape``."""
    return tuple(make_axis(label, size) for label, size in zip(labels, shape, strict=True))


def make_unknown(shape: Sequence[int]) -> Axes:
    """Return axes of which nothing is known."""
    return tuple(make_axis(None, size) for size in shape)


def is_unknown(axes: Axes) -> bool:
    """Return whether nothing is known of any axis."""
    return all(get_labels(axis) <= {None} for axis in axes)


def get_size(axis: Axis) -> int:
    """Return the size of an axis."""
    return prod(atom.size for atom in axis)


def get_labels(axis: Axis) -> set[str | None]:
    """Return the labels of an axis's atoms, and of the atoms in its concatenations."""
    labels: set[str | None] = set()
    for atom in axis:
        if isinstance(atom.label, Joined):
            labels.update(*map(get_labels, atom.label.parts))
        else:
            labels.add(atom.label)
    return labels


def is_coherent(axis: Axis) -> bool:
    """Return whether the axis is known, and holds rows (or columns) of one map only.

    Rows of two maps meet if queries with a grid of their own are repeated in each window.
    """
    maps = {(atom.label, atom.extent, atom.shift) for atom in axis if atom.label in SPATIAL}
    return None not in get_labels(axis) and len(maps) == len(get_labels(axis) & SPATIAL)


def is_whole(axis: Axis) -> bool:
    """Return whether the axis is the height or width of the image, or has size one."""
    return is_undivided(axis) and not (axis and axis[0].padded)


def is_undivided(axis: Axis) -> bool:
    """Return whether the axis is the whole height or width in its order, even if it was padded."""
    if not axis:
        return True
    atom = axis[0]
    return len(axis) == 1 and atom.stride == 1 and atom.size == atom.extent and not atom.shift


def merge_atoms(atoms: Iterable[Atom]) -> Axis:
    """Return the same axis with as few atoms as possible, so that equal axes compare equal."""
    axis: list[Atom] = []
    for atom in atoms:
        last = axis[-1] if axis else None
        if (
            last is not None
            and atom.label in SPATIAL
            and (last.label, last.extent, last.shift) == (atom.label, atom.extent, atom.shift)
            and last.stride == atom.stride * atom.size
        ):
            axis[-1] = atom._replace(size=last.size * atom.size)
        else:
            axis.append(atom)
    return tuple(axis)


def regroup(axes: Axes, shape: Sequence[int]) -> Axes | None:
    """Split and join the atoms, in their order, into axes of the sizes in ``shape``."""
    atoms = [atom for axis in axes for atom in axis]
    result = []
    for size in shape:
        axis: list[Atom] = []
        while size > 1:
            if not atoms:
                return None
            atom = atoms.pop(0)
            if size % atom.size == 0:
                axis.append(atom)
                size //= atom.size
            elif atom.size % size == 0 and not isinstance(atom.label, Joined):
                inner = atom.size // size
                stride = atom.stride * inner if atom.label in SPATIAL else 1
                axis.append(atom._replace(size=size, stride=stride))
                atoms.insert(0, atom._replace(size=inner))
                size = 1
            else:
                return None
        result.append(merge_atoms(axis))
    return tuple(result)


def resize_axis(axis: Axis, size: int) -> Axis:
    """Return an axis after a convolution, pooling or interpolation: of another size, in place."""
    if get_size(axis) == size:
        return axis
    labels = get_labels(axis)
    if labels <= SPATIAL and not is_undivided(axis):
        return make_axis(None, size)
    return make_axis(next(iter(labels)) if len(labels) == 1 else None, size)


def pad_axis(axis: Axis, size: int) -> Axis:
    """Return an axis after zeros were added at its ends."""
    padded = resize_axis(axis, size)
    if padded != axis and get_labels(padded) <= SPATIAL:
        return tuple(atom._replace(padded=True) for atom in padded)
    return padded


def slice_axis(axis: Axis, start: int, stop: int, step: int = 1) -> Axis:
    """Return the part of an axis from ``start`` to ``stop``, every ``step``-th of it."""
    size = len(range(start, stop, step))
    if size == get_size(axis):
        return axis
    labels = get_labels(axis)
    if labels <= {"C", "P"} or labels <= {"B"}:
        return make_axis(next(iter(labels)) if len(labels) == 1 else None, size)
    if len(axis) == 1 and axis[0].label == "T":
        return make_axis("T", size)
    if len(axis) == 1 and isinstance(axis[0].label, Joined) and step == 1:
        pieces, offset = [], 0
        for part in axis[0].label.parts:
            length = get_size(part)
            first, last = max(start - offset, 0), min(stop - offset, length)
            if first < last:
                pieces.append(slice_axis(part, first, last))
            offset += length
        return join_axes(pieces)
    if len(axis) == 1 and is_undivided(axis) and axis[0].label in SPATIAL:
        # every step-th row is a coarser map; a crop is a map, too
        return make_axis(axis[0].label, size)
    return make_axis(None, size)


def roll_axis(axis: Axis, shift: int) -> Axis:
    """Return an axis whose positions were moved by ``shift``, the last ones to the front."""
    if get_labels(axis) <= CHANNELS:
        return axis
    atom = axis[0]
    if len(axis) == 1 and atom.label in SPATIAL and atom.size == atom.extent:
        return (atom._replace(shift=(atom.shift + shift) % atom.extent),)
    return make_axis(None, get_size(axis))


def join_axes(parts: Iterable[Axis]) -> Axis:
    """Return the concatenation of axes; neighbouring tokens without a place become one part."""
    flat: list[Axis] = []
    for part in parts:
        inner = part[0].label if len(part) == 1 else None
        for each in inner.parts if isinstance(inner, Joined) else (part,):
            if flat and get_labels(flat[-1]) <= {"T"} and get_labels(each) <= {"T"}:
                flat[-1] = make_axis("T", get_size(flat[-1]) + get_size(each))
            else:
                flat.append(each)
    if len(flat) == 1:
        return flat[0]
    return make_axis(Joined(tuple(flat)), sum(map(get_size, flat)))


def remove_atoms(axes: Axes, lost: Iterable[Axis]) -> Axes:
    """Return axes that remain when others were summed up or selected from.

    If the innermost rows of a map are lost, which a mean over windows does, the remaining ones
    are a coarser map.

    Args:
        axes: the remaining axes.
        lost: the axes that are no longer there.
    """
    gone = [atom for axis in lost for atom in axis]
    for label in SPATIAL:
        factor = 1
        for atom in sorted((a for a in gone if a.label == label), key=lambda a: a.stride):
            factor *= atom.size if atom.stride == factor else 0
        kept = [a for axis in axes for a in axis if a.label == label]
        if factor > 1 and kept and all(not a.shift and a.stride % factor == 0 for a in kept):
            axes = tuple(
                tuple(
                    a._replace(stride=a.stride // factor, extent=a.extent // factor)
                    if a.label == label
                    else a
                    for a in axis
                )
                for axis in axes
            )
    return axes
