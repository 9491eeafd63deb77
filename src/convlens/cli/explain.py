"""``make explain image=PATH [ckpt=FILE]``: everything about one picture, or a folder of them."""

from __future__ import annotations

import os
from pathlib import Path

from convlens import __version__, folder, logs
from convlens.cli.words import extract
from convlens.errors import UserError


def run(words: list[str]) -> int:
    logs.speak()
    told = {}
    for key in ("ckpt", "image", "only", "target", "run_dir"):
        told[key], words = extract(words, key)
    from convlens.asking import EXAMPLE, network_of, picture_files
    from convlens.explainer import methods

    methods(told["only"])  # a wrong name is told before a network is built
    explainer, network = network_of(told["ckpt"], words)
    given = told["image"] or (str(EXAMPLE / "pictures") if not (told["ckpt"] or words) else None)
    if given is None:
        raise UserError("explain needs image=PATH, a picture or a folder of pictures")
    files = picture_files(given)
    first = next(files)  # nothing there is told before a folder is made
    home = _home(told["run_dir"])
    done = _explained(explainer, first, files, home, told, network, given)
    print(f"explanations  {home}\npage          {home / 'index.html'}")
    if not done:
        raise UserError(f"none of the files of {given} could be explained; the lines above say why")
    return 0


def _home(asked: str | None) -> Path:
    if asked is None:
        return folder.fresh(folder.OUTPUTS / "explain")
    home = Path(asked).expanduser()
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise UserError(f"run_dir={home} is there already and not empty: choose another")
    home.mkdir(parents=True, exist_ok=True)
    return home


def _explained(explainer, first, files, home, told, network, given) -> int:
    """Explain them one by one, write folders and the page; the number of explained ones."""
    from convlens.data.decode import PictureError
    from convlens.draw.grad_cam_panel import probability_text
    from convlens.draw.jpeg import encode_jpeg
    from convlens.pages.explained import MOST_BYTES, explained, explained_page

    shown, refused, names, done, size = [], [], set(), 0, 0
    for file in (path for paths in ([first], files) for path in paths):
        try:
            found = explainer.explain(file, target=told["target"], only=told["only"])
        except PictureError as error:
            refused.append(str(error))
            print(f"! {error}")
            continue
        done += 1
        name = _free(file.stem, names)
        panels = {tag: encode_jpeg(panel) for tag, panel in found.panels.items()}
        for tag, panel in panels.items():
            target = home / name / f"{tag}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(panel)
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
    page = explained_page(
        shown, heading=str(given), network=network, version=__version__, refused=refused,
        more=done - len(shown),
    )  # fmt: skip
    beside = home / f".index.{os.getpid()}.tmp"
    beside.write_text(page, encoding="utf-8")
    os.replace(beside, home / "index.html")
    if refused:
        print(f"{len(refused)} of {done + len(refused)} files refused (see above)")
    return done


def _free(stem: str, names: set[str]) -> str:
    """A folder's name of its own for each picture: two folders may hold a cat.jpg each."""
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in stem)[:60] or "_"
    name, number = plain, 2
    while name.lower() in names:
        name, number = f"{plain}_{number}", number + 1
    names.add(name.lower())
    return name
