"""Compare checkpoints to the bit, and the maps of a run with those of its checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import convlens


def trained(home: Path, which: str = "last") -> dict:
    """Return what training a run has left: weights, buffers, optimizer, average and results."""
    content = torch.load(home / "checkpoints" / f"{which}.ckpt", weights_only=True)
    return {
        "weights": content["state_dict"], "optimizer": content["optimizer_states"],
        "average": content.get("convlens_average"), "record": content["convlens_record"],
    }  # fmt: skip


def assert_same(one, other) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


def assert_maps_of_the_checkpoint(home: Path, epoch: int) -> convlens.Explainer:
    """Check that a look explained the network that ``last.ckpt`` holds; return its explainer."""
    explainer = convlens.load(home / "checkpoints" / "last.ckpt", device="cpu")
    maps = convlens.open_run(home).maps("grad_cam", epoch=epoch)
    for number, probe in enumerate(maps.probes):
        again = explainer.explain(home / "probes" / f"{probe}.png", only="grad_cam")
        best = float(again.probabilities.max())
        assert float(maps.probabilities[number, 0]) == pytest.approx(best, abs=1e-5)
        layer = list(maps.layers)[-1]
        wanted = next(iter(again.grad_cam[layer])).numpy()
        largest = max(float(np.abs(wanted).max()), 1e-6)
        np.testing.assert_allclose(
            maps.layers[layer][number, 0] / largest, wanted / largest, atol=2e-3
        )
    return explainer
