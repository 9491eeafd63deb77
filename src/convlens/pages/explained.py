"""The page of ``make explain``: images, their most probable classes and the explanations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from convlens.draw.grad_cam_panel import format_probability
from convlens.draw.jpeg import shrink_jpeg
from convlens.pages.render import data_uri, render

MOST_BYTES = 15_000_000  # larger pages open slowly on a phone
GRIDS = "layers/activations/"  # prefix of the tags of activation grids, by far the largest panels
# longest side in pixels, and JPEG quality, of a grid on the page; its file has full size
_GRID_EDGE, _GRID_QUALITY = 1000, 70


@dataclass(frozen=True)
class ImagePart:
    """One image's part of the page; ``make_part`` makes it.

    Attributes:
        name: name of the image.
        source: its path.
        top: the most probable classes with their probabilities.
        panels: tag to JPEG bytes.
        notes: lines below the table of classes.
    """

    name: str
    source: str
    top: Sequence[tuple[str, float]]
    panels: dict[str, bytes]
    notes: Sequence[str] = ()

    @property
    def size(self) -> int:
        """The approximate number of bytes on the page: base64 turns three into four."""
        return sum(len(panel) for panel in self.panels.values()) * 4 // 3


def make_part(
    name: str, source: str, top: Sequence[tuple[str, float]], panels: Mapping[str, bytes],
    notes: Sequence[str] = (),
) -> ImagePart:  # fmt: skip
    """Return an image's part of the page, with its activation grids shrunk.

    Args:
        name: name of the image.
        source: its path.
        top: the most probable classes with their probabilities.
        panels: tag to JPEG bytes.
        notes: lines below the table of classes.
    """
    small = {
        tag: shrink_jpeg(panel, _GRID_EDGE, _GRID_QUALITY) if tag.startswith(GRIDS) else panel
        for tag, panel in panels.items()
    }
    return ImagePart(name, source, top, small, notes)


@dataclass
class PageParts:
    """The parts of a page, as many as fit.

    Attributes:
        parts: the parts on the page.
        left_out: number of images that did not fit.
        size: approximate number of bytes on the page.
    """

    parts: list[ImagePart] = field(default_factory=list)
    left_out: int = 0
    size: int = 0

    def add(
        self, name: str, source: str, top: Sequence[tuple[str, float]],
        panels: Mapping[str, bytes], notes: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Add an image if it fits, if necessary without its activation grids.

        The arguments are those of ``make_part``.
        """
        if self.size <= MOST_BYTES:
            part = make_part(name, source, top, panels, notes)
            if self.size + part.size > MOST_BYTES:
                kept = {tag: one for tag, one in part.panels.items() if not tag.startswith(GRIDS)}
                part = replace(
                    part, panels=kept, notes=[*notes, "activations: only in this image's folder"]
                )
            self.size += part.size
            if self.size <= MOST_BYTES:
                self.parts.append(part)
                return
        self.left_out += 1


def render_page(
    parts: Sequence[ImagePart], *, heading: str, network: str, version: str,
    refused: Sequence[str] = (), more: int = 0,
) -> str:  # fmt: skip
    """Return a self-contained HTML page.

    Args:
        parts: one for each image.
        heading: the heading of the page.
        network: name of the network.
        version: version of convlens.
        refused: one line about each file that could not be explained.
        more: number of explained images that did not fit on the page, which the page reports.
    """
    what = "1 more image did" if more == 1 else f"{more} more images did"
    left_out = f"{what} not fit on this page: see the folders next to it" if more else ""
    return render(
        "explained.html", heading=heading, network=network, version=version, refused=refused,
        left_out=left_out, images=[_describe(each) for each in parts],
    )  # fmt: skip


def _describe(part: ImagePart) -> dict:
    """Return the template's values for one image."""
    panels = [{"tag": tag, "uri": data_uri(panel)} for tag, panel in part.panels.items()]
    return {
        "name": part.name, "source": part.source, "notes": part.notes,
        "top": [(name, format_probability(value), value) for name, value in part.top],
        "panels": [panel for panel in panels if not panel["tag"].startswith(GRIDS)],
        "grids": [panel for panel in panels if panel["tag"].startswith(GRIDS)],
    }  # fmt: skip
