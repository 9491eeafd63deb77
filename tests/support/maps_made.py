"""Write a run folder with photographs and maps, without training; every map is another one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from convlens.core.photograph import WHOLE
from convlens.rundir.maps import IMAGE, Maps, write_maps
from support.places import ROOT
from support.runs_made import CONFIG, changed, write_run

CLASSES = ("cat", "cup of coffee", "dog", "</script><b>& a wolf", "fox")
ROLES = ("predicted", "true", "2nd", "3rd", "4th")
LAYERS = {"backbone.block3": 14, "backbone.block4": 7}  # cells of a side
CROP = (0.1, 0.0, 0.9, 1.0)  # a frame that is not the whole picture
EMPTY = 1  # at this epoch the first probe has no positive evidence
MISSING = 2  # at this epoch the last probe was left out
SPARSE = 3  # the signed method looks at every third epoch


def write_run_with_maps(
    home: Path, *, epochs: int = 6, probes: int = 4, phases: bool = True, classes: int = 3,
    seed: int = 7,
) -> Path:  # fmt: skip
    """Write a run folder.

    Args:
        home: the folder.
        epochs: completed epochs; there is a look at each, and one before training.
        probes: images; the second one has no known class, the third one is cropped.
        phases: whether the schedule has two phases, of half the epochs each.
        classes: explained classes of each probe, from 2 to 5.
        seed: of the maps; the images are the same.
    """
    phase = {"train": ["head"], "warmup_epochs": 0.0, "until": None, "augment": False, "lr": 0.001}
    half = epochs // 2
    schedule = [{**phase, "epochs": half}, {**phase, "epochs": epochs - half}] if phases else None
    config = changed(CONFIG, finetune__phases=schedule, training__epochs=epochs)
    config |= {"scheduler": {"name": "none"}, "precision": "32"}
    losses = [2.0 - 0.1 * epoch + 0.15 * max(0, epoch - 4) for epoch in range(epochs + 1)]
    write_run(home, losses, config=config)
    summary = json.loads((home / "summary.json").read_text())
    more = {"versions": {"torch": "2.99.1"}, "processes": 1}
    (home / "summary.json").write_text(json.dumps({**summary, **more}))
    names = _write_probes(home, probes)
    rng = np.random.default_rng(seed)
    for epoch in range(epochs + 1):
        for maps in _make_maps(epoch, names, ROLES[:classes], rng):
            write_maps(home / "explanations" / f"epoch_{epoch:03d}", maps)
    return home


def _write_probes(home: Path, count: int) -> list[str]:
    """Write ``probes/`` as a run does: photographs at their own proportions, and their table."""
    (home / "probes").mkdir()
    lines, names = ["probe\tclass\tframe\tseen\tsource"], []
    for number in range(count):
        label = "" if number == 1 else CLASSES[number % len(CLASSES)]
        name = f"{number:02d}_{'unknown' if number == 1 else 'image'}"
        picture = ("cat.jpg", "coffee.jpg")[number % 2]
        with Image.open(ROOT / "tests" / "photographs" / picture) as opened:
            photograph = opened.convert("RGB")
        photograph.thumbnail((640, 640))
        if number > 1:  # other pixels, so that no two images are equal
            photograph = photograph.rotate(90 * (number % 4), expand=True).point(
                lambda value, number=number: max(0, value - 8 * number)
            )
        photograph.save(home / "probes" / f"{name}.jpg", quality=90)
        frame = CROP if number == 2 else WHOLE
        seen = f"{photograph.width}×{photograph.height} squashed to 224×224"
        edges = ",".join(map(str, frame))
        lines.append(f"{name}\t{label}\t{edges}\t{seen}\tpictures/{label}/{number}.jpg")
        names.append(name)
    (home / "probes" / "probes.tsv").write_text("\n".join(lines), encoding="utf-8")
    return names


def _make_maps(epoch: int, names: list[str], roles, rng: np.random.Generator):
    shown = names[:-1] if epoch == MISSING else names
    size = len(shown), len(roles)
    order = [rng.permutation(len(CLASSES)) for _ in shown]
    classes = [[CLASSES[k] for k in row[: len(roles)]] for row in order]
    for number, row in enumerate(classes):
        row[1] = "" if number == 1 else CLASSES[number % len(CLASSES)]
    probabilities = np.sort(rng.dirichlet(np.ones(len(roles)), len(shown)))[:, ::-1]
    facts = (shown, roles, classes, probabilities.astype(np.float32))
    layers = {name: _draw_bumps(rng, (*size, side, side)) for name, side in LAYERS.items()}
    for maps in layers.values():
        if epoch == EMPTY:
            maps[0, 0] = 0
        maps[1, 1] = np.nan  # of a class that is unknown
    yield Maps("grad_cam", *facts, layers)
    if epoch % SPARSE == 0:
        signed = _draw_bumps(rng, (*size, 9, 12)) - _draw_bumps(rng, (*size, 9, 12))
        signed[1, 1] = np.nan
        yield Maps("occlusion", *facts, {IMAGE: signed.astype(np.float32)})


def _draw_bumps(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return maps (P, T, h, w) float32 >= 0, each with one bump somewhere."""
    count, height, width = int(np.prod(shape[:-2])), *shape[-2:]
    rows, columns = np.mgrid[0:height, 0:width]
    bumps = []
    for _ in range(count):
        row, column = rng.random(2) * (height, width)
        distance = ((rows - row) / height) ** 2 + ((columns - column) / width) ** 2
        bumps.append(rng.lognormal() * np.maximum(np.exp(-18 * distance) - 0.05, 0))
    return np.array(bumps, np.float32).reshape(shape)
