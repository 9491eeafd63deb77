"""Only ``core/system.py`` knows which system this is; everything else uses what all of them have.

Which names the standard library lacks on Windows is read from typeshed, which mypy ships.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from support.places import ROOT

ALONE = ROOT / "src" / "convlens" / "core" / "system.py"
FILES = sorted(
    {*(ROOT / "src" / "convlens").rglob("*.py"), *(ROOT / "callbacks").rglob("*.py")} - {ALONE}
)
# exist on Windows, but behave otherwise there: an open file cannot be replaced, no folder can be
# opened, and bytes may become others
OTHERWISE = {
    "os.open", "os.replace", "os.rename", "os.renames", "os.kill", "os.name", "os.uname",
    "sys.platform", "platform.system", "platform.platform", "signal.SIGBREAK", "shlex.split",
}  # fmt: skip
SPLIT_ARGS = ROOT / "src" / "convlens" / "cli" / "words.py"  # of make, which Windows lacks
PLACES = ("/proc", "/dev/", "/tmp", "/etc", "/usr", "/var", "/bin")
APART = {"process_group", "start_new_session", "preexec_fn", "creationflags", "pass_fds"}


# ----------------------------------------------------------------------- what a system's Python has


@cache
def names_of(module: str, system: str) -> frozenset[str]:
    """The names that a module of the standard library defines on a system."""
    spec = find_spec("mypy")
    if spec is None:
        pytest.skip("mypy, which ships typeshed, is not installed")
    folder = Path(spec.origin).parent / "typeshed" / "stdlib" / module.replace(".", "/")
    file = next(
        (f for f in (folder.with_suffix(".pyi"), folder / "__init__.pyi") if f.exists()), None
    )
    if file is None:
        return frozenset()
    space = {"sys": SimpleNamespace(platform=system, version_info=(3, 11))}
    return frozenset(defined(ast.parse(file.read_text(encoding="utf-8")).body, space))


def defined(body: list[ast.stmt], space: dict) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.If):
            try:
                is_true = eval(compile(ast.Expression(node.test), "<test>", "eval"), space)
            except NameError:  # TYPE_CHECKING
                is_true = True
            yield from defined(node.body if is_true else node.orelse, space)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Assign):
            yield from (each.id for each in node.targets if isinstance(each, ast.Name))


def is_missing(module: str, name: str = "") -> bool:
    """Whether Windows lacks a name of a module, or, without a name, the whole module."""
    here, there = names_of(module, "linux"), names_of(module, "win32")
    if name:
        return name in here - there
    public = {each for each in here if not each.startswith("_")}
    return bool(public) and public.isdisjoint(there)


def test_names_that_windows_lacks_are_known():
    for module, name in (
        ("os", "pread"), ("os", "sysconf"), ("os", "killpg"), ("os", "sched_getaffinity"),
        ("os", "getuid"), ("signal", "SIGHUP"), ("signal", "SIGKILL"), ("time", "tzset"),
    ):  # fmt: skip
        assert is_missing(module, name), name
    for module, name in (
        ("os", "fsync"), ("os", "getppid"), ("os", "link"), ("signal", "SIGTERM"),
    ):  # fmt: skip
        assert not is_missing(module, name), name
    assert all(map(is_missing, ("fcntl", "resource", "pwd", "grp", "termios")))
    assert not any(map(is_missing, ("signal", "os", "ctypes", "torch", "tempfile")))


# ------------------------------------------------------------------------------ what a file uses


def uses(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Yield line, module and name of everything that a file imports, or reads from an import."""
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                modules[alias.asname or alias.name] = alias.name
                yield node.lineno, alias.name, ""
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module, ""
            yield from ((node.lineno, node.module, alias.name) for alias in node.names)
    for node in ast.walk(tree):
        owner = getattr(getattr(node, "value", None), "id", None)
        if isinstance(node, ast.Attribute) and owner in modules:
            yield node.lineno, modules[owner], node.attr


def find_faults(tree: ast.AST) -> list[str]:
    """Return what does not work on every system, with the lines."""
    found = []
    for line, module, name in uses(tree):
        if is_missing(module, name) or f"{module}.{name}" in OTHERWISE:
            found.append(f"{line}: {module}.{name}".rstrip("."))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value.startswith(PLACES):
                found.append(f"{node.lineno}: {node.value}")
        elif isinstance(node, ast.keyword) and node.arg in APART:
            found.append(f"{node.value.lineno}: {node.arg}=")
    return sorted(set(found))


def find_texts(tree: ast.AST) -> list[str]:
    """Return where a file is read or written as text in the encoding of the system."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        owner = getattr(getattr(node.func, "value", None), "id", "")
        keywords = {each.arg for each in node.keywords}
        if name in ("read_text", "write_text"):
            is_text, place = True, 0 if name == "read_text" else 1
        elif name == "open" and owner not in ("Image", "tarfile", "os", "gzip", "zipfile"):
            mode = node.args[isinstance(node.func, ast.Name) :][:1]
            mode += [each.value for each in node.keywords if each.arg == "mode"]
            known = mode[0].value if mode and isinstance(mode[0], ast.Constant) else "r"
            is_text, place = "b" not in known, 99
        elif name in ("run", "Popen", "check_output"):
            is_text, place = bool(keywords & {"text", "universal_newlines"}), 99
        else:
            continue
        if is_text and not keywords & {"encoding", None} and len(node.args) <= place:
            found.append(f"{node.lineno}: {name}")
    return found


@pytest.mark.parametrize(
    ("code", "faults"),
    [
        ("import fcntl", ["1: fcntl"]),
        ("from os import pread, link", ["1: os.pread"]),
        ("import os as o\no.pwrite(1, b'', 0)", ["2: os.pwrite"]),
        ("import signal\nf(signal.SIGHUP, signal.SIGINT)", ["2: signal.SIGHUP"]),
        ("import os\nos.replace(a, b)\nos.fsync(fd)", ["2: os.replace"]),
        ("import sys\nif sys.platform == 'linux': pass", ["2: sys.platform"]),
        ("import subprocess as s\ns.Popen([], process_group=0)", ["2: process_group="]),
        ("open('/proc/cpuinfo', 'rb')", ["1: /proc/cpuinfo"]),
        ("import os\nos.path.join(os.sep, os.environ['HOME'])", []),
    ],
)
def test_faults_are_found(code, faults):
    assert find_faults(ast.parse(code)) == faults


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("open(p)", 1),
        ("open(p, 'w')", 1),
        ("p.open('a')", 1),
        ("p.read_text()", 1),
        ("p.write_text(t)", 1),
        ("subprocess.run(c, text=True)", 1),
        ("open(p, 'rb')", 0),
        ("p.open('wb')", 0),
        ("open(p, mode='xb')", 0),
        ("open(p, encoding='utf-8')", 0),
        ("p.read_text('utf-8')", 0),
        ("p.write_text(t, encoding='utf-8')", 0),
        ("open(p, mode, **text)", 0),
        ("Image.open(p)", 0),
        ("subprocess.run(c)", 0),
    ],
)
def test_texts_without_an_encoding_are_found(code, count):
    assert len(find_texts(ast.parse(code))) == count


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_works_on_every_system(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    faults = [fault for fault in find_faults(tree)
              if not (file == SPLIT_ARGS and fault.endswith("shlex.split"))]  # fmt: skip
    assert not faults + find_texts(tree)


def test_names_of_our_own_files_are_allowed_everywhere():
    """No reserved name, no character that Windows refuses, no two names that differ in case."""
    import subprocess

    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no checkout")
    names = listed.stdout.splitlines()
    devices = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(10))}
    for name in names:
        for part in name.split("/"):
            assert part.partition(".")[0].lower() not in devices, name
            assert not set(part) & set('<>:"\\|?*') and part[-1] not in ". ", name
    assert len({name.lower() for name in names}) == len(names)
