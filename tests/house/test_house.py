"""The house keeps its rules: who may import whom, how long a file is, no dead config key."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "convlens"
# every room of the package, from the lowest floor to the highest; a room imports what lies below
FLOORS = (
    ("core",),
    ("config",),
    ("rundir",),
    ("data", "models", "explain", "draw"),
    ("training", "export"),
    ("callbacks", "pages"),
    ("lessons", "experiment"),
    ("api", "serving"),
    ("__init__",),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# rooms that use less than all that lies below them
ONLY = {
    **{room: {"core", "config"} for room in ("data", "models", "explain", "draw")},
    "pages": {"core", "config", "rundir", "draw"},
}
MOST_LINES = 350


@cache
def modules() -> Mapping[str, Path]:
    """Full name -> file of every module of the package."""
    found = {}
    for folder, package in ((SOURCE, "convlens"), (ROOT / "callbacks", "convlens.callbacks")):
        for file in sorted(folder.rglob("*.py")):
            parts = [package, *file.relative_to(folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


@cache
def imports(file: Path) -> frozenset[str]:
    """Full names of the modules a file imports: within functions and for types alone too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            inside = names & modules().keys()
            found |= inside
            if names - inside:
                found.add(node.module)
    return frozenset(found)


def graph() -> dict[str, set[str]]:
    """Each module of ours -> those of ours that it imports."""
    return {name: imports(file) & modules().keys() for name, file in modules().items()}


def room(module: str) -> str:
    return [*module.split("."), "__init__"][1]


def files(part: str) -> list[Path]:
    return sorted((ROOT / "callbacks" if part == "callbacks" else SOURCE / part).rglob("*.py"))


def test_every_room_has_its_floor():
    """A new room, or a loose module at the package's root, belongs into the table first."""
    assert {room(name) for name in modules()} == set(FLOOR)
    assert {file.stem for file in SOURCE.glob("*.py")} == {"__init__", "__main__", "api"}


@pytest.mark.parametrize("source", FLOOR)
def test_nothing_imports_a_neighbour_or_upwards(source):
    for name, imported in graph().items():
        if room(name) != source:
            continue
        others = {room(each) for each in imported} - {source}
        upwards = {each for each in others if FLOOR[each] >= FLOOR[source]}
        assert not upwards, f"{name} imports {upwards}"
        assert others <= ONLY.get(source, others), f"{name} imports {others - ONLY[source]}"


def circles(arrows: Mapping[str, set[str]]) -> Iterator[set[str]]:
    """The strongly connected components of more than one module (R. Tarjan, SIAM J. Comput. 1972),
    and modules that import themselves."""
    number, lowest, waiting = {}, {}, []

    def visit(name: str) -> Iterator[set[str]]:
        number[name] = lowest[name] = len(number)
        waiting.append(name)
        for other in arrows[name]:
            if other not in number:
                yield from visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in waiting:
                lowest[name] = min(lowest[name], number[other])
        if lowest[name] == number[name]:
            place = waiting.index(name)
            component = set(waiting[place:])
            del waiting[place:]
            if len(component) > 1 or name in arrows[name]:
                yield component

    for name in arrows:
        if name not in number:
            yield from visit(name)


def test_circles_are_found():
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"d"}, "e": {"a"}}
    assert sorted(map(sorted, circles(arrows))) == [["a", "b", "c"], ["d"]]


def test_no_modules_import_one_another_in_a_circle():
    assert not list(circles(graph()))


def test_no_file_is_longer_than_its_subject():
    lengths = {
        str(file.relative_to(ROOT)): len(file.read_text().splitlines())
        for file in modules().values()
    }
    assert not {name for name, length in lengths.items() if length > MOST_LINES}


def test_explain_and_draw_know_no_lightning_and_no_hydra():
    for part in ("explain", "draw"):
        for file in files(part):
            roots = {name.split(".")[0] for name in imports(file)}
            assert not roots & {"pytorch_lightning", "lightning", "hydra", "omegaconf"}, file


def test_callbacks_hold_no_mathematics():
    """No callback calls a numeric function of torch or numpy of its own; explain/ does."""
    for file in files("callbacks"):
        roots = set(imports(file))
        assert not roots & {"torch.nn.functional", "scipy", "PIL", "matplotlib"}, file


def test_every_experiment_says_what_it_is():
    for file in (ROOT / "configs" / "experiment").rglob("*.yaml"):
        lines = file.read_text().splitlines()
        assert lines[0] == "# @package _global_", file
        assert lines[1].startswith("# ") and len(lines[1]) > 20, file
