"""The golden numbers: float64 runs end as they did when the numbers were recorded, anywhere.

After a change that is meant to change results: ``python tests/support/golden.py renew``, and say
in the commit why. A record of float32 runs, bit for bit, on one machine: the same script.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent / "support"))
import outcome
from golden_exact import EXACT_FILE, EXACT_RUNS, exact_numbers


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT_RUNS)
def test_golden_numbers_of_a_float64_run(name, tmp_path):
    recorded = json.loads(EXACT_FILE.read_text())[name]
    found = exact_numbers(name, tmp_path)
    assert found.keys() == recorded.keys()
    apart = {
        key: (value, recorded[key])
        for key, value in found.items()
        if abs(value - recorded[key]) > 1e-9 * max(1.0, abs(recorded[key]))
    }
    assert not apart


def test_golden_record_notices_whatever_differs(tmp_path):
    """A weight's last bit, a missing picture, a cell; not what is NaN on both sides."""
    tables = {
        "weights": {"last/w": torch.tensor([1.0, float("nan")]), "last/n": torch.tensor(3)},
        "metrics": {"epoch 1/val/loss": "0.25", "epoch 1/train/loss": "nan"},
        "summary": {"val/loss": 0.25, "test/loss": float("nan")},
        "files": {"explanations/epoch_000/a.jpg": "ab", "split.csv": "cd"},
    }
    outcome.write(outcome.Outcome(tmp_path / "nothing", tables), tmp_path / "kept")
    kept = outcome.read(tmp_path / "kept")
    same = outcome.Outcome(tmp_path, {name: dict(table) for name, table in tables.items()})
    assert outcome.differences(kept, same) == {}
    same.tables["weights"]["last/w"] = torch.tensor([1.0 + 2**-23, float("nan")])
    same.tables["weights"]["last/n"] = torch.tensor(3, dtype=torch.int32)
    same.tables["metrics"]["epoch 1/val/loss"] = "0.2500"
    same.tables["summary"]["val/loss"] = 0.25 + 2**-54
    same.tables["summary"]["alarms/0"] = "overfitting"
    del same.tables["files"]["split.csv"]
    found = outcome.differences(kept, same)
    assert {name: len(lines) for name, lines in found.items()} == {
        "weights": 2, "metrics": 1, "summary": 2, "files": 1,
    }  # fmt: skip
    assert found["files"] == ["split.csv is gone"]
