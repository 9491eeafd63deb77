"""Compare the content of two checkpoints to the bit."""

from __future__ import annotations

from pathlib import Path

import torch


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
