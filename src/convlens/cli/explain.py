"""``make explain image=PATH [ckpt=FILE] [layers=…]``: everything about one picture, or a folder."""

from __future__ import annotations

import os
from pathlib import Path

from convlens import __version__
from convlens.cli.words import extract
from convlens.core.errors import UserError
from convlens.rundir import log as logs
from convlens.rundir.paths import OUTPUTS, make_fresh_folder

PAGE = "index.html"


def run(words: list[str]) -> int:
    logs.speak()
    told = {}
    for key in ("ckpt", "image", "only", "layers", "target", "run_dir"):
        told[key], words = extract(words, key)
    from convlens.experiment.checkpoints import EXAMPLE
    from convlens.experiment.explainer import methods
    from convlens.experiment.inputs import network_of, picture_files, walk_from

    wanted = methods(told["only"])  # a wrong name is told before a network is built
    told["layers"] = told["layers"] or "auto"
    explainer, network = network_of(told["ckpt"], words)
    given = told["image"] or (str(EXAMPLE / "pictures") if not (told["ckpt"] or words) else None)
    files, first, walk = iter(()), [], None
    if given is not None:
        walk = walk_from(given)
        files = picture_files(walk)
        first = [next(files)]  # nothing there is told before a folder is made
    elif wanted != ["filters"]:
        raise UserError("explain needs image=PATH, a picture or a folder of pictures")
    # filters are the network's, not a picture's: once for all of them
    sheets = explainer.filters(told["layers"]) if "filters" in wanted else {}
    if told["only"] is not None:
        told["only"] = [method for method in wanted if method != "filters"]
    home = _home(told["run_dir"])
    print(f"asking {network}")
    done = _explained(explainer, [first, files], sheets, home, told, network, walk)
    print(f"explanations  {home}\npage          {home / PAGE}")
    if not done and given is not None:
        raise UserError(f"none of the files of {given} could be explained; the lines above say why")
    return 0


def _home(asked: str | None) -> Path:
    if asked is None:
        return make_fresh_folder(OUTPUTS / "explain")
    home = Path(asked).expanduser()
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise UserError(f"run_dir={home} is there already and not empty: choose another")
    home.mkdir(parents=True, exist_ok=True)
    return home


def _explained(explainer, files, sheets, home, told, network, walk) -> int:
    """Explain them one by one, write folders and the page; the number of explained ones."""
    from convlens.data.pixels.decode import PictureError
    from convlens.draw.grad_cam_panel import probability_text
    from convlens.pages.explained import MOST_BYTES, explained, explained_page

    shown, refused, names, done, size = [], [], {PAGE, "filters"}, 0, 0
    if sheets:
        panels = _written(home, sheets)
        shown.append(explained("filters", "of the network, whatever the picture", [], panels))
        size = shown[0].size
    for file in (path for paths in files for path in paths):
        try:
            found = explainer.explain(
                file, target=told["target"], only=told["only"], layers=told["layers"]
            )
        except PictureError as error:
            refused.append(str(error))
            print(f"! {error}")
            continue
        done += 1
        name = _free(file.stem, names)
        panels = _written(home / name, found.panels)
        said = ", ".join(f"{label} {probability_text(share)}" for label, share in found.top(5))
        print(f"{file}: {said}")
        for note in found.notes:
            print(f"  {note}")
        if size > MOST_BYTES:  # the page is full
            continue
        each = explained(name, str(file), found.top(5), panels, found.notes)
        if size + each.size > MOST_BYTES:
            each = each.without_grids()
        size += each.size
        if size <= MOST_BYTES:
            shown.append(each)
    unused = walk.notes(f"in {walk.root}") if walk else []
    for line in unused:
        print(f"! {line}")
    page = explained_page(
        shown, heading=str(walk.root) if walk else network, network=network, version=__version__,
        refused=[*refused, *unused], more=done - len(shown),
    )  # fmt: skip
    beside = home / f".index.{os.getpid()}.tmp"
    beside.write_text(page, encoding="utf-8")
    os.replace(beside, home / PAGE)
    if refused:
        print(f"{len(refused)} of {done + len(refused)} files refused (see above)")
    return done


def _written(folder: Path, drawn: dict) -> dict[str, bytes]:
    """The panels as JPEG, and each as ``<tag>.jpg`` below ``folder``."""
    from convlens.draw.jpeg import encode_jpeg

    panels = {tag: encode_jpeg(panel) for tag, panel in drawn.items()}
    for tag, panel in panels.items():
        target = folder / f"{tag}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(panel)
    return panels


def _free(stem: str, names: set[str]) -> str:
    """A name of its own for each picture's folder: two folders may hold a cat.jpg each.

    ``names`` are those taken, in small letters.
    """
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in stem)[:60] or "_"
    name, number = plain, 2
    while name.lower() in names:
        name, number = f"{plain}_{number}", number + 1
    names.add(name.lower())
    return name
