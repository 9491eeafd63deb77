"""The page of ``make explain``: pictures, the likeliest classes, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from convlens.draw.grad_cam_panel import format_probability
from convlens.draw.jpeg import shrink_jpeg
from convlens.pages.render import data_uri, render

MOST_BYTES = 15_000_000  # of a page: larger ones are slow to open on a phone
GRIDS = "activations/"  # their tags; by far the largest panels
_GRID_EDGE, _GRID_QUALITY = 1000, 70  # of a grid on the page; its file has all pixels


@dataclass(frozen=True)
class ImagePart:
    """One picture's part of the page; :func:`make_part` makes it.

    Attributes:
        name, source: what the picture is called, and where it lies.
        top: the likeliest classes with their probabilities.
        panels: tag -> JPEG bytes.
        notes: lines below the table.
    """

    name: str
    source: str
    top: Sequence[tuple[str, float]]
    panels: dict[str, bytes]
    notes: Sequence[str] = ()

    @property
    def size(self) -> int:
        """Bytes on the page, about: base64 makes four of three."""
        return sum(len(panel) for panel in self.panels.values()) * 4 // 3


def make_part(
    name: str, source: str, top: Sequence[tuple[str, float]], panels: Mapping[str, bytes],
    notes: Sequence[str] = (),
) -> ImagePart:  # fmt: skip
    """A picture's part of the page, its grids of activations encoded smaller."""
    small = {
        tag: shrink_jpeg(panel, _GRID_EDGE, _GRID_QUALITY) if tag.startswith(GRIDS) else panel
        for tag, panel in panels.items()
    }
    return ImagePart(name, source, top, small, notes)


@dataclass
class PageParts:
    """The parts of a page, as many as it has room for.

    Attributes:
        parts: what is on the page.
        left_out: how many pictures are not.
        size: bytes on the page, about.
    """

    parts: list[ImagePart] = field(default_factory=list)
    left_out: int = 0
    size: int = 0

    def add(
        self, name: str, source: str, top: Sequence[tuple[str, float]],
        panels: Mapping[str, bytes], notes: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Put a picture on the page if there is room; its grids only if there is for them too."""
        if self.size <= MOST_BYTES:
            part = make_part(name, source, top, panels, notes)
            if self.size + part.size > MOST_BYTES:
                kept = {tag: one for tag, one in part.panels.items() if not tag.startswith(GRIDS)}
                part = replace(part, panels=kept, notes=[*notes, "activations: in the folder"])
            self.size += part.size
            if self.size <= MOST_BYTES:
                self.parts.append(part)
                return
        self.left_out += 1


def render_page(
    pictures: Sequence[ImagePart], *, heading: str, network: str, version: str,
    refused: Sequence[str] = (), more: int = 0,
) -> str:  # fmt: skip
    """One self-contained HTML page.

    Args:
        refused: one line for each file that gave no picture.
        more: pictures that were explained and have no room on the page; it tells.
    """
    what = "1 more picture is in its folder" if more == 1 else f"{more} more are in their folders"
    left_out = f"{what} beside this page" if more else ""
    return render(
        "explained.html", heading=heading, network=network, version=version, refused=refused,
        left_out=left_out, pictures=[_told(each) for each in pictures],
    )  # fmt: skip


def _told(each: ImagePart) -> dict:
    """What the template shows of a picture."""
    parts = [{"tag": tag, "uri": data_uri(panel)} for tag, panel in each.panels.items()]
    return {
        "name": each.name, "source": each.source, "notes": each.notes,
        "top": [(name, format_probability(share), share) for name, share in each.top],
        "panels": [part for part in parts if not part["tag"].startswith(GRIDS)],
        "grids": [part for part in parts if part["tag"].startswith(GRIDS)],
    }  # fmt: skip
