"""The tests that need packages which `make setup` leaves out, in an environment that has them.

The extra ``dev`` has no tracker, no Gradio and no datasets: MLflow brings pandas and scipy, which
torchmetrics would import at every start.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from support.places import ROOT
from support.wheel import UV, create_environment, find_packages

pytestmark = pytest.mark.slow
EXTRAS = ("wandb", "mlflow", "trackio", "serve", "huggingface", "peft")
MODULES = ("wandb", "mlflow", "trackio", "gradio", "datasets", "peft", "lxt", "transformers",
           "sklearn.metrics", "sklearn.cluster._spectral")  # fmt: skip
PROOFS = r"(scikit-learn|lxt|transformers)\b"  # of the extra ``proofs``
NO_BROWSER = "no browser is installed"


def find_tests(module: str) -> set[str]:
    """Return the tests that are skipped without a module: functions, or whole files."""
    found = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        text = file.read_text(encoding="utf-8")
        if file == Path(__file__) or "importorskip(" not in text:
            continue
        statements = ast.parse(text).body
        asking = [each for each in statements if is_asked_for(module, text, each)]
        names = {name for each in asking for name in find_names(each)}
        if len(names) < len(asking):  # asked for while the file is imported
            found.add(str(file))
            continue
        while (
            more := {
                name for each in statements if names & find_words(each) for name in find_names(each)
            }
            - names
        ):  # fixtures and helpers, down to the tests that use them
            names |= more
        found |= {f"{file}::{name}" for name in names if name.startswith("test_")}
    return found


def is_asked_for(module: str, text: str, statement: ast.stmt) -> bool:
    segment = ast.get_source_segment(text, statement)
    return "importorskip(" in segment and f'"{module}"' in segment


def find_names(statement: ast.stmt) -> list[str]:
    """Return what a statement of a file defines: a function, a class or constants."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return [each.id for each in targets if isinstance(each, ast.Name)]


def find_words(statement: ast.stmt) -> set[str]:
    """Return the names that a statement uses: of variables, of fixtures, and those in quotes."""
    nodes = [*ast.walk(statement)]
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    used |= {node.value for node in nodes if isinstance(node, ast.Constant)}
    return used | {node.arg for node in nodes if isinstance(node, ast.arg)}


def list_requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    proofs = [each for each in extras["proofs"] if re.match(PROOFS, each)]
    return [*proofs, *(each for name in EXTRAS for each in extras[name])]


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """An environment over this one, in which this checkout is convlens too."""
    programs = create_environment(tmp_path_factory.mktemp("extras") / "env")
    command = [*UV, "pip", "install", "--quiet", "--python", programs / "python",
               "--constraints", ROOT / "requirements.lock", *list_requirements()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 2 and "Failed to fetch" in done.stderr:
        pytest.skip(f"the package index cannot be reached: {done.stderr.splitlines()[-1].strip()}")
    assert done.returncode == 0, done.stderr
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    lines = [f"import site; site.addsitedir({path!r})\n" for path in libraries]
    (find_packages(programs) / "libraries.pth").write_text("".join(lines), encoding="utf-8")
    return programs / "python"


def test_the_tests_that_lack_an_extra_pass_with_it(python, tmp_path):
    tests = {module: find_tests(module) for module in MODULES}
    assert all(tests.values()), tests
    environment = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    done = subprocess.run(
        [python, "-m", "pytest", "-m", "slow or not slow", "-p", "no:cacheprovider", "-n0",
         f"--basetemp={tmp_path / 'base'}", f"--junitxml={tmp_path / 'results.xml'}",
         *sorted(set.union(*tests.values()))],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-10000:]
    results = ElementTree.parse(tmp_path / "results.xml")
    skipped = {each.get("message") for each in results.iter("skipped")}
    assert all(NO_BROWSER in reason for reason in skipped), skipped
