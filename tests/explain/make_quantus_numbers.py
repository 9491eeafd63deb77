"""Writes quantus_numbers.json: what Quantus says about small made-up maps, for our scores to match.

Quantus is no dependency of ours. To make the file anew, in an environment of its own::

    python3 -m venv quantus-venv
    quantus-venv/bin/pip install quantus torch
    quantus-venv/bin/python tests/explain/make_quantus_numbers.py

A. Hedström et al., *Quantus*, JMLR 2023, https://arxiv.org/abs/2202.06861
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import quantus
import torch
from quantus.functions.similarity_func import correlation_pearson, correlation_spearman

TARGET = Path(__file__).with_name("quantus_numbers.json")
QUIET = {"disable_warnings": True, "display_progressbar": False}


def main() -> None:
    rng = np.random.default_rng(0)
    maps = rng.random((6, 7, 9)).round(4) ** 3
    others = (0.5 * maps + rng.random(maps.shape)).round(2)
    masks = np.zeros(maps.shape, bool)
    corners = [(0, 0, 3, 4), (2, 3, 5, 6), (1, 1, 6, 2), (4, 0, 3, 9), (0, 0, 7, 8), (3, 4, 1, 1)]
    for mask, (row, column, height, width) in zip(masks, corners, strict=True):
        mask[row : row + height, column : column + width] = True

    def score(name: str, **options) -> list[float]:
        metric = getattr(quantus, name)(normalise=False, **QUIET, **options)
        values = metric(
            model=None,
            x_batch=np.zeros((len(maps), 1, *maps.shape[1:])),
            y_batch=np.zeros(len(maps), int),
            a_batch=maps[:, None].copy(),
            s_batch=masks[:, None],
        )
        return [float(value) for value in values]

    numbers = {
        "PointingGame": score("PointingGame"),
        "AttributionLocalisation": score("AttributionLocalisation"),
        "RelevanceMassAccuracy": score("RelevanceMassAccuracy"),
        "Complexity": score("Complexity"),
        "correlation_pearson": rows(correlation_pearson, maps, others),
        "correlation_spearman": rows(correlation_spearman, maps, others),
    }
    found = {
        "made_by": {name: version(name) for name in ("quantus", "numpy", "scipy")},
        "maps": maps.tolist(),
        "others": others.tolist(),
        "masks": masks.astype(int).tolist(),
        "numbers": numbers,
        "pixel_flipping": pixel_flipping(rng),
    }
    TARGET.write_text(json.dumps(found) + "\n")
    print(TARGET, *(f"{name}: {values}" for name, values in numbers.items()), sep="\n")


def rows(correlation, maps: np.ndarray, others: np.ndarray) -> list[float]:
    pairs = zip(maps.reshape(len(maps), -1), others.reshape(len(others), -1), strict=True)
    return [float(correlation(a, b)) for a, b in pairs]


def pixel_flipping(rng: np.random.Generator) -> dict:
    """Probability of the target after each of the 20 pixels went black, in the map's order."""
    images = rng.random((3, 1, 4, 5)).round(3)
    maps = rng.permuted(np.linspace(0.05, 1, 20).round(2).repeat(3).reshape(20, 3), axis=0)
    maps = maps.T.reshape(3, 4, 5)
    weights = rng.normal(size=(3, 20)).round(3)
    targets = np.array([0, 1, 2])
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(20, 3, bias=False))
    model[1].weight.data = torch.from_numpy(weights).float()
    metric = quantus.PixelFlipping(
        features_in_step=1, normalise=False, perturb_baseline=0.0, **QUIET
    )
    curves = metric(
        model=model.eval(),
        x_batch=images,
        y_batch=targets,
        a_batch=maps[:, None],
        softmax=True,
        channel_first=True,
        device="cpu",
    )
    return {
        "images": images.tolist(),
        "maps": maps.tolist(),
        "weights": weights.tolist(),
        "targets": targets.tolist(),
        "curves": np.asarray(curves, float).tolist(),
    }


if __name__ == "__main__":
    main()
