"""The tests keep their own rule: what two of them share lies in ``support/``."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from support.places import ROOT

FILES = sorted((ROOT / "tests").rglob("*.py"))
MODULES = {file.stem for file in FILES if file.stem.startswith("test_")} | {"conftest"}


def imported(file: Path) -> set[str]:
    """Full names of whatever a file imports, modules and names in them alike."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module or ''}.{alias.name}" for alias in node.names}
    return found


def is_test(name: str) -> bool:
    """Whether a dotted name leads to a test module, to a conftest or into ``tests/`` itself."""
    parts = name.split(".")
    return parts[0] in ("tests", "") or bool(MODULES & set(parts))


def test_no_test_imports_from_a_test():
    for file in FILES:
        wrong = sorted(name for name in imported(file) if is_test(name))
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}: move it to tests/support/"


@pytest.mark.parametrize(
    "line", ["from conftest import TINY", "import tests.cli.test_plan", "from .test_plan import x",
             "from test_ddp import ends", "from tests.cli import test_plan"]
)  # fmt: skip
def test_the_rule_sees_every_way_of_it(tmp_path, line):
    (tmp_path / "x.py").write_text(line)
    assert all(is_test(name) for name in imported(tmp_path / "x.py"))
