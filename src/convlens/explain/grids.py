"""Find the maps in a layer's output whose axes are known: channels, rows and columns in order.

Shapes: ``B`` batch, ``C`` channels, ``h w`` height and width of maps, ``L`` tokens, ``p`` tokens
without a place in the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convlens.explain.axis_atoms import (
    CHANNELS,
    SPATIAL,
    Atom,
    Axes,
    Axis,
    Joined,
    get_labels,
    get_size,
    is_unknown,
    is_whole,
)


@dataclass(frozen=True)
class Tokens:
    """An axis of tokens: how its positions lie on the image.

    Attributes:
        prefix: number of leading tokens without a place in the image: class token, registers.
        height: rows of the grid of patches.
        width: columns of the grid; the patches are in row-major order.
        suffix: number of tokens without a place after the patches.
    """

    prefix: int
    height: int
    width: int
    suffix: int = 0

    @property
    def count(self) -> int:
        """Number of tokens."""
        return self.prefix + self.height * self.width + self.suffix


@dataclass(frozen=True)
class Grid:
    """How an output is put together to maps: patches without their prefix, windows, rolls.

    Attributes:
        axes: the axes of the batch, the channels and the tokens; the last is None if the output
            has no tokens without a place.
        prefix: number of tokens without a place before the patches.
        patches: number of patches.
        sizes: sizes of the parts into which the axes are divided; -1 for the batch.
        order: order of these parts: batch, channels, rows, columns.
        shape: ``(C, h, w)`` of the maps.
        shift: by how many rows and columns the output is rolled.
    """

    axes: tuple[int, int, int | None]
    prefix: int
    patches: int
    sizes: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, int, int]
    shift: tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """The order of the axes of a layer's output.

    Attributes:
        order: which axes of the output are ``B, C, h, w`` of maps, or ``B, C`` of features; None
            if it is neither, or if ``grid`` says more.
        reason: why nothing is known, for error messages.
        tokens: how the tokens lie on the image, if one axis of the output holds all of them, row
            by row.
        grid: how maps are made of tokens or windows.
    """

    order: tuple[int, ...] | None
    reason: str = ""
    tokens: Tokens | None = None
    grid: Grid | None = None

    @property
    def is_known(self) -> bool:
        """Whether the output holds maps or features, in a known order."""
        return self.order is not None or self.grid is not None

    @property
    def is_map(self) -> bool:
        """Whether the output holds maps, in a known order."""
        return self.grid is not None or (self.order is not None and len(self.order) == 4)

    @property
    def has_placeless(self) -> bool:
        """Whether the output holds tokens without a place in the image."""
        return self.grid is not None and self.grid.axes[2] is not None

    @property
    def channel_axis(self) -> int:
        """The axis of the channels of an output whose layout is known."""
        if self.grid is not None:
            return self.grid.axes[1]
        assert self.order is not None, "the layout is known"
        return self.order[1]

    def channels_first(self, output: Tensor) -> Tensor:
        """Return maps ``(B, C, h, w)`` or features ``(B, C)``, a view if that is possible.

        Args:
            output: an output of a known layout.
        """
        grid = self.grid
        if grid is None:
            assert self.order is not None, "the layout is known"
            return output.permute(self.order)
        if grid.axes[2] is not None:
            output = output.narrow(grid.axes[2], grid.prefix, grid.patches)
        maps = output.reshape(grid.sizes).permute(grid.order)
        maps = maps.reshape(maps.shape[0], *grid.shape)
        if any(grid.shift):
            maps = maps.roll([-shift for shift in grid.shift], (2, 3))
        return maps

    def placeless(self, output: Tensor) -> Tensor:
        """Return the tokens without a place in the image, ``(B, C, p)``.

        Args:
            output: an output with maps.
        """
        place = None if self.grid is None else self.grid.axes[2]
        if self.grid is None or place is None:
            return self.channels_first(output).flatten(2)[..., :0]
        batch, channels, _ = self.grid.axes
        others = [axis for axis in range(output.dim()) if axis not in self.grid.axes]
        tokens = output.permute(batch, channels, place, *others).flatten(2)
        end = self.grid.prefix + self.grid.patches
        if end == tokens.shape[2]:
            return tokens[..., : self.grid.prefix]
        return torch.cat([tokens[..., : self.grid.prefix], tokens[..., end:]], 2)


def find_layout(shape: tuple[int, ...], axes: Axes | None, batch: int) -> Layout:
    """Return the layout of an output.

    Args:
        shape: its shape.
        axes: what is known of its axes; None if it does not depend on the image.
        batch: number of images in the pass.
    """
    axes = None if axes is None or is_unknown(axes) else axes
    holds_images = bool(shape) and shape[0] == batch and (not axes or get_labels(axes[0]) <= {"B"})
    if holds_images and len(shape) == 2:
        return Layout((0, 1))
    if holds_images and len(shape) == 4 and axes and (order := _find_order(shape, axes)):
        return Layout(order)
    if axes and (grid := _find_grid(shape, axes, batch)):
        place = grid.axes[2]
        candidates = [place] if place is not None else range(len(shape))
        found = [tokens for axis in candidates if (tokens := find_tokens(axes[axis]))]
        return Layout(None, tokens=found[0] if found else None, grid=grid)
    if not holds_images:
        reason = f"returns parts of images {shape}, not maps of whole images"
    elif len(shape) != 4:
        kind = "tokens" if len(shape) == 3 else "a tensor"
        reason = f"returns {kind} {shape[1:]} per image, and their places are unknown"
    elif axes is None:
        reason = f"returns {shape[1:]} per image, and its channel axis is unknown"
    else:
        reason = f"returns {shape[1:]} per image, which is not the (C, h, w) of maps"
    return Layout(None, reason)


def _find_order(shape: tuple[int, ...], axes: Axes) -> tuple[int, ...] | None:
    """Return which axes are ``B, C, h, w`` in an output of whole maps, or None."""

    def places(labels: set[str]) -> list[int]:
        return [a for a in (1, 2, 3) if axes[a] and get_labels(axes[a]) <= labels]

    channels, down, across = places(CHANNELS), places({"H"}), places({"W"})
    if not all(is_whole(axes[a]) for a in (*down, *across)):
        return None
    unknown = [a for a in (1, 2, 3) if shape[a] > 1 and a not in (*channels, *down, *across)]
    if not channels and down and across:
        channels = [a for a in (1, 2, 3) if a not in (down[0], across[0])]
        unknown = []
    if len(channels) == 1 and len(down) < 2 and len(across) < 2 and not unknown:
        # spatial axes of length one cannot be told apart and keep their order
        others = [a for a in (1, 2, 3) if a not in (*channels, *down, *across)]
        height = down or others[:1]
        width = across or others[-1:]
        return (0, channels[0], height[0], width[0])
    return None


def find_tokens(axis: Axis) -> Tokens | None:
    """Return how the positions of an axis lie on the image; None if not row by row, or unknown."""
    if (parts := _split_tokens(axis)) is None:
        return None
    prefix, patches, suffix = parts
    rows = [atom for atom in patches if atom.label == "H"]
    columns = [atom for atom in patches if atom.label == "W"]
    whole = is_whole(tuple(rows)) and is_whole(tuple(columns))
    if not patches or not whole or (*rows, *columns) != patches:
        return None
    return Tokens(prefix, get_size(tuple(rows)), get_size(tuple(columns)), suffix)


def _split_tokens(axis: Axis) -> tuple[int, Axis, int] | None:
    """Return the tokens without a place before the patches, the patches, and those after them."""
    if len(axis) != 1 or not isinstance(axis[0].label, Joined):
        return (0, axis, 0) if get_labels(axis) <= SPATIAL else None
    parts = axis[0].label.parts
    places = [i for i, part in enumerate(parts) if part and get_labels(part) <= SPATIAL]
    if len(places) != 1 or any(
        not get_labels(part) <= {"T"} for i, part in enumerate(parts) if i != places[0]
    ):
        return None
    before, after = parts[: places[0]], parts[places[0] + 1 :]
    return sum(map(get_size, before)), parts[places[0]], sum(map(get_size, after))


def _find_grid(shape: tuple[int, ...], axes: Axes, batch: int) -> Grid | None:
    """Return how an output is put together to maps, or None if not all of its parts are known.

    The place of a batch of one image cannot be known, because axes of size one have no atoms.
    """
    joined = [a for a, axis in enumerate(axes) if axis and isinstance(axis[0].label, Joined)]
    plain = [a for a, axis in enumerate(axes) if axis and get_labels(axis) <= {"B", *SPATIAL}]
    others = [a for a in range(len(axes)) if axes[a] and a not in (*joined, *plain)]
    if not others:
        others = [a for a in range(1, len(axes)) if not axes[a]]  # a single channel
    if len(joined) > 1 or len(others) != 1 or get_labels(axes[others[0]]) & {"B", "T"}:
        return None
    channel = others[0]
    token_axis, prefix, patches = (joined[0] if joined else None), 0, 0
    parts: list[Atom] = []
    for a, axis in enumerate(axes):
        if a == channel:
            parts.append(Atom("C", shape[a]))
        elif a == token_axis:
            if (split := _split_tokens(axis)) is None:
                return None
            prefix, axis, _ = split
            patches = get_size(axis)
            parts.extend(axis)
        else:
            parts.extend(axis)
    batches = [i for i, atom in enumerate(parts) if atom.label == "B"]
    if len(batches) != 1 or parts[batches[0]].size != batch:
        return None
    rows, columns = (_sort_atoms(parts, label) for label in ("H", "W"))
    if rows is None or columns is None or not (rows or columns):
        return None
    height, width = (get_size(tuple(parts[i] for i in side)) for side in (rows, columns))
    down, across = (parts[side[0]].shift if side else 0 for side in (rows, columns))
    position = next(i for i, atom in enumerate(parts) if atom.label == "C")
    return Grid(
        axes=(next(a for a in plain if "B" in get_labels(axes[a])), channel, token_axis),
        prefix=prefix,
        patches=patches,
        sizes=tuple(-1 if atom.label == "B" else atom.size for atom in parts),
        order=(batches[0], position, *rows, *columns),
        shape=(shape[channel], height, width),
        shift=(down, across),
    )


def _sort_atoms(parts: list[Atom], label: str) -> list[int] | None:
    """Return the places of the atoms of height or width, outermost first; None if some miss."""
    places = sorted(
        (i for i, atom in enumerate(parts) if atom.label == label), key=lambda i: -parts[i].stride
    )
    if not places:
        return places
    extent, shift = parts[places[0]].extent, parts[places[0]].shift
    stride = extent
    for i in places:
        atom = parts[i]
        if (atom.extent, atom.shift) != (extent, shift) or atom.stride * atom.size != stride:
            return None
        stride = atom.stride
    return places if stride == 1 else None
