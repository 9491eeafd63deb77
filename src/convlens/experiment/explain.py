"""Everything about one picture, or a folder of them: a folder for each, and one page of all."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from itertools import chain
from pathlib import Path

from convlens.core.errors import UserError
from convlens.core.files import write_atomic
from convlens.data.pixels.decode import ImageError
from convlens.draw.grad_cam_panel import format_probability
from convlens.experiment.explainer import Explainer
from convlens.experiment.inputs import picture_files, walk_from
from convlens.experiment.methods import choose_methods, write_panels
from convlens.pages.explained import PageParts, render_page
from convlens.rundir.paths import OUTPUTS, make_folder, make_fresh_folder

PAGE = "index.html"
Say = Callable[[str], object]


def explain_pictures(
    explainer: Explainer, network: str, image: str | None, *, only: str | None = None,
    layers: str = "auto", target: str | None = None, run_dir: str | None = None, say: Say,
) -> Path:  # fmt: skip
    """Explain pictures one by one, write folders and the page; returns their folder.

    Args:
        network: what a person calls it.
        image: a picture or a folder of pictures; None for filters alone, which need none.
        only: names of explanations with commas; None for all usual ones.
        layers: names or patterns of layers with commas, or ``auto``.
        target: see :meth:`convlens.experiment.explainer.Explainer.explain`.
        run_dir: the folder to write; None for a new one.
        say: takes lines for the screen while it goes on.

    Raises:
        UserError: no picture there, an unknown layer or class, a folder that is not empty, or no
            picture that could be explained.
    """
    wanted = choose_methods(only)
    walk = walk_from(image) if image is not None else None
    files, shown = iter(()), PageParts()
    if walk is not None:
        files = picture_files(walk)
        files = chain([next(files)], files)  # nothing there is told before a folder is made
    elif wanted != ["filters"]:
        raise UserError("explain needs image=PATH, a picture or a folder of pictures")
    # filters are the network's, not a picture's: once for all of them
    sheets = explainer.filters(layers) if "filters" in wanted else {}
    home = _explanations_folder(run_dir)
    say(f"asking {network}")
    if sheets:
        shown.add("filters", "of the network, whatever the picture", [], write_panels(home, sheets))
    methods = None if only is None else [method for method in wanted if method != "filters"]
    count, refused, names = 0, [], {PAGE, "filters"}
    for file in files:
        try:
            found = explainer.explain(file, target=target, only=methods, layers=layers)
        except ImageError as error:
            refused.append(str(error))
            say(f"! {error}")
            continue
        count += 1
        name, top = _free_name(file.stem, names), found.top(5)
        panels = write_panels(home / name, found.panels)
        say(f"{file}: {', '.join(f'{label} {format_probability(share)}' for label, share in top)}")
        for note in found.notes:
            say(f"  {note}")
        shown.add(name, str(file), top, panels, found.notes)
    unused = walk.notes(f"in {walk.root}") if walk is not None else []
    for line in unused:
        say(f"! {line}")
    page = render_page(
        shown.parts, heading=str(walk.root) if walk is not None else network, network=network,
        version=importlib.metadata.version("convlens"), refused=[*refused, *unused],
        more=shown.left_out,
    )  # fmt: skip
    write_atomic(home / PAGE, page)
    if refused:
        say(f"{len(refused)} of {count + len(refused)} files refused (see above)")
    say(f"explanations  {home}\npage          {home / PAGE}")
    if not count and walk is not None:
        raise UserError(f"none of the files of {image} could be explained; the lines above say why")
    return home


def _explanations_folder(asked: str | None) -> Path:
    if asked is None:
        return make_fresh_folder(OUTPUTS / "explain")
    home = Path(asked).expanduser()
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise UserError(f"run_dir={home} is there already and not empty: choose another")
    make_folder(home)
    return home


def _free_name(stem: str, names: set[str]) -> str:
    """A name of its own for each picture's folder: two folders may hold a cat.jpg each.

    ``names`` are those taken, in small letters.
    """
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in stem)[:60] or "_"
    name, number = plain, 2
    while name.lower() in names:
        name, number = f"{plain}_{number}", number + 1
    names.add(name.lower())
    return name
