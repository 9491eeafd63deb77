"""The notebook runs, cell by cell, and shows what it says, in Jupyter as in Colab."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib

import pytest

from convlens.cli.main import COMMANDS
from support.places import ROOT


@pytest.fixture(scope="module")
def module():
    spec = importlib.util.spec_from_file_location("run_notebook", ROOT / "docs/run_notebook.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def read(module) -> dict:
    return json.loads(module.NOTEBOOK.read_text(encoding="utf-8"))


def test_its_wheel_is_the_one_that_is_built_and_its_commands_exist(module):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = "\n".join("".join(cell["source"]) for cell in read(module)["cells"])
    assert f'WHEEL = "convlens-{project["version"]}-py3-none-any.whl"' in text
    names = re.findall(r"!convlens (\S+)", text)
    assert len(names) >= 3 and set(names) <= set(COMMANDS)


def test_a_command_that_fails_ends_it(module):
    cell = {"cell_type": "code", "source": ["!convlens report run=nowhere"]}
    with pytest.raises(RuntimeError, match="there is no run folder nowhere"):
        module.execute({"cells": [cell]})


@pytest.mark.slow
def test_the_notebook_runs_and_its_kept_outputs_are_what_it_gives(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept, ran = read(module), module.execute(read(module))
    for before, after in zip(kept["cells"], ran["cells"], strict=True):
        told, now = before.get("outputs", []), after.get("outputs", [])
        if "varies" in before["metadata"].get("tags", ()):  # seconds, and the machine's kernels
            continue
        assert len(told) == len(now)
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
    assert (tmp_path / "outputs" / "first" / "report.html").exists()
