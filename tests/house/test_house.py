"""The house keeps its rules: who may import whom, and no dead key in the configs."""

from __future__ import annotations

import ast
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "convlens"
GROUND = ("data", "models", "explain", "draw")
# what each part may import of convlens; callbacks and cli stand on everything below them
ALLOWED = {
    "data": {"data", "errors", "fetching"},
    "models": {"models", "errors", "fetching"},
    "explain": {"explain", "errors"},
    "draw": {"draw", "errors"},
    "pages": {"pages", "draw", "errors", "runs"},
    "training": {"training", "data", "models", "explain", "errors", "stopwatch"},
    "callbacks": {
        "callbacks",
        "training",
        "data",
        "models",
        "explain",
        "draw",
        "errors",
        "stopwatch",
    },
}


def imports(file: Path) -> set[str]:
    """Full names of the modules a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module)
            if node.module == "convlens":
                found |= {f"convlens.{alias.name}" for alias in node.names}
    return found


def files(part: str) -> list[Path]:
    return sorted((ROOT / "callbacks" if part == "callbacks" else SOURCE / part).rglob("*.py"))


def test_nothing_imports_a_neighbour_or_upwards():
    for part, allowed in ALLOWED.items():
        assert files(part)
        for file in files(part):
            ours = {name.split(".")[1] for name in imports(file) if name.startswith("convlens.")}
            assert ours <= allowed, f"{file} imports {ours - allowed}"


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


def _keys(config: dict, prefix: str = "") -> set[str]:
    found = set()
    for key, value in config.items():
        if key in ("defaults", "_target_"):
            continue
        found.add(key)
        # below these, names of parameter groups stand, which are the config's own
        if key == "groups" and isinstance(value, dict):
            found |= set().union(*(_keys(v) for v in value.values() if isinstance(v, dict)))
        elif isinstance(value, dict):
            found |= _keys(value)
        elif isinstance(value, list):
            entries = [
                {k: v for k, v in e.items() if k != "lr"} for e in value if isinstance(e, dict)
            ]
            found |= set().union(*(_keys(entry) for entry in entries))
    return found


def test_every_config_key_is_read_somewhere():
    """A key that no source file names is dead: nobody acts on it."""
    code = "\n".join(
        file.read_text() for file in [*SOURCE.rglob("*.py"), *(ROOT / "callbacks").glob("*.py")]
    )
    keys = set()
    for file in sorted((ROOT / "configs").rglob("*.yaml")):
        keys |= _keys(yaml.safe_load(file.read_text()) or {})
    # handed to torch's optimizers and Lightning's trainer under their own names
    theirs = {"betas", "eps", "alpha", "momentum", "nesterov", "weight_decay"}
    theirs |= {"devices", "strategy", "num_nodes"}
    dead = {key for key in keys - theirs if key not in code}
    assert not dead


def test_every_experiment_says_what_it_is():
    for file in (ROOT / "configs" / "experiment").rglob("*.yaml"):
        lines = file.read_text().splitlines()
        assert lines[0] == "# @package _global_", file
        assert lines[1].startswith("# ") and len(lines[1]) > 20, file
