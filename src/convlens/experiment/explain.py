"""Explain one image or a folder of images: write a folder of panels for each and a page for all."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

from torch import Tensor

from convlens.core.errors import UserError
from convlens.core.files import write_atomic
from convlens.core.progress import progress_bar
from convlens.data.pixels.decode import ImageError
from convlens.draw.grad_cam_panel import format_probability
from convlens.experiment.explainer import Explainer
from convlens.experiment.explanation import write_panels
from convlens.experiment.inputs import find_image_files, start_walk
from convlens.experiment.methods import choose_methods
from convlens.pages.explained import SIDE, PageParts, render_page
from convlens.rundir.paths import OUTPUTS, make_folder, make_fresh_folder

PAGE = "index.html"
_DECIDING = 8  # images whose predictions decide which filters are shown
Say = Callable[[str], object]


def explain_images(
    explainer: Explainer, network: str, image: str | None, *, only: str | None = None,
    layers: str = "auto", target: str | None = None, run_dir: str | None = None, say: Say,
) -> Path:  # fmt: skip
    """Explain images one by one, and write their folders and the page.

    Args:
        explainer: the network.
        network: the network's name on the screen and on the page.
        image: an image or a folder of images; None for filters alone, which need no image.
        only: names of explanations, separated by commas; None for the default ones.
        layers: names or patterns of layers, separated by commas, or ``auto``.
        target: see ``convlens.Explainer.explain``.
        run_dir: the folder to write; None for a new one.
        say: prints a line.

    Returns:
        The folder that was written.

    Raises:
        UserError: there is no image, a layer or class is unknown, the folder is not empty, or no
            image could be explained.
    """
    chosen = choose_methods(only)
    walk = start_walk(image) if image is not None else None
    files, page = iter(()), PageParts()
    if walk is not None:
        files = find_image_files(walk)
        files = chain([next(files)], files)  # report a lack of images before a folder is made
    elif chosen != ["filters"]:
        raise UserError("explain needs image=PATH, an image or a folder of images")
    say(f"explaining {network}")
    sheets = {}
    if "filters" in chosen:  # they depend on the network alone, so they are drawn once
        first = list(islice(files, _DECIDING))
        files = chain(first, files)
        with progress_bar("drawing filters") as work:
            pictures = _read_images(explainer, first)
            sheets = explainer.filters(layers, pictures=pictures, work=work)
    home = _make_folder(run_dir)
    if sheets:
        page.add("filters", "of the network, for all images", panels=write_panels(home, sheets))
    methods = None if only is None else [method for method in chosen if method != "filters"]
    count, refused, names = 0, [], {PAGE, "layers"}
    for file in files:
        try:
            with progress_bar(f"explaining {file.name}") as work:
                explanation = explainer.explain(
                    file, target=target, only=methods, layers=layers, work=work
                )
        except ImageError as error:
            refused.append(str(error))
            say(f"! {error}")
            continue
        count += 1
        name, top = _choose_name(file.stem, names), explanation.top(5)
        panels = write_panels(home / name, explanation.panels)
        classes = (f"{label} {format_probability(probability)}" for label, probability in top)
        say(f"{file}: {', '.join(classes)}")
        for note in explanation.notes:
            say(f"  {note}")
        page.add(
            name, str(file), panels=panels, top=top, notes=explanation.notes,
            photograph=explanation.photograph, maps=explanation.to_maps(SIDE),
        )  # fmt: skip
    unused = walk.notes(f"in {walk.root}") if walk is not None else []
    for line in unused:
        say(f"! {line}")
    text = render_page(
        page, heading=str(walk.root) if walk is not None else network, network=network,
        version=importlib.metadata.version("convlens"), refused=[*refused, *unused],
    )  # fmt: skip
    write_atomic(home / PAGE, text)
    if refused:
        say(f"{len(refused)} of {count + len(refused)} files refused (see above)")
    if layers == "auto" and (line := explainer.describe_left_out(chosen)):
        say(f"left out      {line}")
    say(f"explanations  {home}\npage          {home / PAGE}")
    if not count and walk is not None:
        raise UserError(f"none of the files of {image} could be explained; the lines above say why")
    return home


def _read_images(explainer: Explainer, files: Iterable[Path]) -> list[Tensor]:
    """Return the images ``(C, H, W)`` that can be read; of the others, later lines tell."""
    images = []
    for file in files:
        with suppress(ImageError):
            images.append(explainer.read(file))
    return images


def _make_folder(run_dir: str | None) -> Path:
    if run_dir is None:
        return make_fresh_folder(OUTPUTS / "explain")
    home = Path(run_dir).expanduser()
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise UserError(f"run_dir={home} already exists and is not empty: choose another")
    make_folder(home)
    return home


def _choose_name(stem: str, names: set[str]) -> str:
    """Return a unique name for an image's folder: two folders may contain a cat.jpg each.

    Args:
        stem: of the image's file.
        names: names in use, in lower case; the new name is added.
    """
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in stem)[:60] or "_"
    name, number = plain, 2
    while name.lower() in names:
        name, number = f"{plain}_{number}", number + 1
    names.add(name.lower())
    return name
