"""The rooms of ``data/`` stand on each other in one direction."""

from __future__ import annotations

import ast
from pathlib import Path

import convlens.data

HOME = Path(convlens.data.__file__).parent
ORDER = ("index", "pixels", "masks", "sources")  # from the ground up; what lies in data/ is on top


def height(parts: tuple[str, ...]) -> int:
    """Of a module below ``data/``."""
    return ORDER.index(parts[0]) if parts and parts[0] in ORDER else len(ORDER)


def test_a_room_of_data_imports_only_from_those_below_it():
    assert {folder.name for folder in HOME.iterdir() if (folder / "__init__.py").exists()} == {
        *ORDER
    }
    for file in HOME.rglob("*.py"):
        here = height(file.relative_to(HOME).parts)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("convlens.data."):
                there = height(tuple(node.module.split(".")[2:]))
                assert there <= here, f"{file} imports {node.module}"
