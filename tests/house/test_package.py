"""What the package declares is what it consists of: a forgotten folder would miss in the wheel."""

from __future__ import annotations

import tomllib
from pathlib import Path

from support.places import ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "setuptools"
]
FOLDERS = {name: ROOT / place for name, place in SETTINGS["package-dir"].items()}


def folder_of(package: str) -> Path:
    """The folder of a package: the longest declared beginning of its name decides."""
    parts = package.split(".")
    for count in range(len(parts), -1, -1):
        if (start := ".".join(parts[:count])) in FOLDERS:
            return FOLDERS[start].joinpath(*parts[count:])
    raise AssertionError(package)


def files_below(folder: Path) -> list[Path]:
    left_by_tools = ("__pycache__", ".egg-info")
    return [file for file in sorted(folder.rglob("*"))
            if file.is_file() and not any(name in str(file) for name in left_by_tools)]  # fmt: skip


def test_every_folder_with_modules_is_a_package():
    declared = {folder_of(package) for package in SETTINGS["packages"]}
    assert len(declared) == len(SETTINGS["packages"])
    roots = (ROOT / "src", ROOT / "callbacks", ROOT / "configs")
    modules = {file.parent for root in roots for file in files_below(root) if file.suffix == ".py"}
    assert modules == declared
    assert all((folder / "__init__.py").exists() for folder in declared)


def test_every_other_file_belongs_to_a_package():
    kept = set()
    for package, patterns in SETTINGS["package-data"].items():
        for pattern in patterns:
            found = set(folder_of(package).glob(pattern))
            assert found, f"{package}: {pattern} matches nothing"
            kept |= found
    for root in (ROOT / "src", ROOT / "callbacks", ROOT / "configs"):
        missing = {file for file in files_below(root) if file.suffix != ".py"} - kept
        assert not missing
