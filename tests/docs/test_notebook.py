"""The example notebook runs, cell by cell, and shows what it says."""

from __future__ import annotations

import importlib.util
import json

import pytest

from support.places import ROOT


@pytest.mark.slow
def test_the_notebook_runs_and_its_kept_outputs_are_what_it_gives():
    spec = importlib.util.spec_from_file_location("run_notebook", ROOT / "docs/run_notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kept = json.loads(module.NOTEBOOK.read_text())
    ran = module.execute(json.loads(module.NOTEBOOK.read_text()))
    for before, after in zip(kept["cells"], ran["cells"], strict=True):
        told, now = before.get("outputs", []), after.get("outputs", [])
        assert [each.get("text") for each in told] == [each.get("text") for each in now]
        for one, other in zip(told, now, strict=True):
            if "data" in one:
                assert one["data"]["text/plain"] == other["data"]["text/plain"]
                assert ("text/html" in one["data"]) == ("text/html" in other["data"])
    html = [
        "".join(output["data"]["text/html"])
        for cell in ran["cells"]
        for output in cell.get("outputs", [])
        if "text/html" in output.get("data", {})
    ]
    assert html and all("data:image/jpeg;base64," in each for each in html)
