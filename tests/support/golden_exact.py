"""Two tiny runs in float64 whose numbers are the same on every processor, to 1e-9.

Initial weights are drawn in float32, which rounds differently on processors with fused
multiply-add. The runs therefore start from a checkpoint whose weights are multiples of 1/1024. They
use no dropout and no interpolation. Numbers that may jump by a rounding error (the peak of a map)
are left out.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import outcome
import torch
from golden_runs import LIMITLESS, UNFREEZING, trained

EXACT_FILE = Path(__file__).resolve().parents[1] / "golden.json"
TINY = [
    "data=shapes", "precision=64", "trainer=cpu", "data.pictures=60", "data.size=16",
    "training.batch_size=8", "model.filters=[4,6]", "model.batch_norm=true",
    "model.head.hidden=[8]",
]  # fmt: skip
LOOKING = [*LIMITLESS, "callbacks.filter_visuals=null"]
EXACT_RUNS = {
    "adam": [*TINY, *LOOKING, "training.epochs=2", "training.class_weights=balanced"],
    "unfreezing": [*TINY, *LOOKING, *UNFREEZING, "optimizer=sgd", "optimizer.momentum=0.9",
                   "training.accumulate=2"],
}  # fmt: skip
"""Name of a run -> the words behind ``convlens train``."""
# numbers that a last bit can move by far: a peak that changes its place, and the calibration error,
# whose bins a confidence enters or leaves as a whole
JUMPS = re.compile(r"peak_|same_place|pointing_game|/ece$")


def exact_numbers(name: str, folder: Path) -> dict[str, float]:
    """Return the results of a float64 run: losses, scores, weight norms, sums of maps."""
    trained([*EXACT_RUNS[name], f"model.weights={_start(folder / 'start')}"], folder)
    tables = outcome.read_run(folder / "run", events=False).tables
    numbers = {
        key: float(cell)
        for key, cell in tables["metrics"].items()
        if cell and not JUMPS.search(key)
    }
    for key, value in tables["weights"].items():
        if key.startswith("last/"):
            numbers[key] = float(value.double().norm())
    return numbers | _map_sums(folder / "run" / "checkpoints" / "best.ckpt")


def _start(folder: Path) -> Path:
    """Write a checkpoint whose weights are the same on every processor."""
    folder.mkdir()
    trained([*TINY, "training.epochs=1", "callbacks=none"], folder)
    file = folder / "run" / "checkpoints" / "best.ckpt"
    content = torch.load(file, weights_only=True)
    for number, (name, value) in enumerate(content["state_dict"].items()):
        if value.is_floating_point() and ".normalise." not in name:
            spread = (torch.arange(value.numel()) * 7919 + number * 104729) % 1024 / 1024 - 0.5
            around = 1.0 if name.endswith(("norm.weight", "running_var")) else 0.0
            content["state_dict"][name] = (around + spread.double()).view_as(value)
    torch.save(content, file)
    return file


def _map_sums(checkpoint: Path) -> dict[str, float]:
    """Return the sums of the maps of one image, computed from the checkpoint in float64."""
    import convlens

    explainer = convlens.load(checkpoint, device="cpu")
    explainer.network.double()
    channels, height, width = explainer.shape
    pixels = torch.arange(channels * height * width) * 97 % 256
    picture = pixels.view(channels, height, width) / 255
    methods = ["grad_cam", "occlusion", "activations", "integrated_gradients"]
    found = explainer.explain(picture, only=methods, target=explainer.class_names[0])
    named = {"grad_cam": found.grad_cam, "maps": found.maps, "activations": found.activations}
    sums = {f"{kind}/{key}": maps for kind, each in named.items() for key, maps in each.items()}
    sums["probabilities"] = found.probabilities.square()
    return {key: float(maps.double().sum()) for key, maps in sums.items()}


def renew() -> None:
    """Write the numbers of the float64 runs, for ``tests/test_golden.py``."""
    found = {}
    for name in EXACT_RUNS:
        with tempfile.TemporaryDirectory(prefix="golden-") as scratch:
            found[name] = exact_numbers(name, Path(scratch))
    EXACT_FILE.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{EXACT_FILE}: {sum(map(len, found.values()))} numbers")
