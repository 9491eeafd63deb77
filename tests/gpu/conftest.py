"""These tests need an NVIDIA GPU; elsewhere they are skipped."""

from __future__ import annotations

import pytest
import torch


def pytest_collection_modifyitems(items) -> None:
    if torch.cuda.is_available():
        return
    reason = pytest.mark.skip(reason="needs an NVIDIA GPU, and this machine has none")
    for item in items:
        if "gpu" in item.path.parent.name:
            item.add_marker(reason)
