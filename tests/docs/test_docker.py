"""The Dockerfile copies what it needs, no more reaches it, and it starts convlens as no root."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from support.places import ROOT
from support.wheel import build_wheel, copy_files, list_tracked

DOCKERFILE = ROOT / "Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def instructions() -> list[tuple[str, str]]:
    """Return the instructions and their arguments, with continued lines joined."""
    lines = DOCKERFILE.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    joined = re.sub(r"\\\n\s*", "", text)
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def arguments(kind: str) -> list[str]:
    return [rest for name, rest in instructions() if name == kind]


def copied() -> list[str]:
    """Return what is copied from this checkout."""
    sources = [shlex.split(rest) for rest in arguments("COPY")]
    return [each for words in sources if not words[0].startswith("--") for each in words[:-1]]


def reaches_docker(name: str) -> bool:
    """Return whether .dockerignore lets a file through; the last line that matches decides."""
    is_kept = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!")
        parts = name.split("/")
        above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        if pattern.startswith("**/"):
            is_match = any(fnmatch(part, pattern[3:]) for part in parts)
        else:
            is_match = any(fnmatch(each, pattern) and each.count("/") == pattern.count("/")
                           for each in above)  # fmt: skip
        if line and not line.startswith("#") and is_match:
            is_kept = line.startswith("!")
    return is_kept


def test_the_files_that_are_copied_reach_it_and_no_others():
    assert copied()
    names = list_tracked()
    for source in copied():
        below = [name for name in names if name == source or name.startswith(f"{source}/")]
        assert below and all(map(reaches_docker, below)), source
    others = {name.split("/")[0] for name in names if reaches_docker(name)} - set(copied())
    assert not others
    for left in ("src/convlens.egg-info/PKG-INFO", "src/convlens/__pycache__/a.pyc", ".git/HEAD",
                 "outputs/run/config.yaml", ".venv/bin/python"):  # fmt: skip
        assert not reaches_docker(left), left


def test_it_runs_convlens_as_a_user_and_keeps_runs_outside():
    last = dict(instructions())
    assert int(last["USER"]) > 0
    assert f"useradd --uid {last['USER']} " in last["RUN"]
    (program,) = json.loads(last["ENTRYPOINT"])
    assert program in PROJECT["scripts"]
    assert json.loads(last["CMD"]) == ["help"]
    volumes = json.loads(last["VOLUME"])
    assert f"{last['WORKDIR']}/outputs" in volumes  # where runs are written, if one stands there
    values = dict(pair.split("=", 1) for pair in shlex.split(last["ENV"]))
    assert values["CONVLENS_DATA"] in volumes
    assert any(values["CONVLENS_CACHE"].startswith(volume) for volume in volumes)
    for volume in volumes:  # made before they become volumes, for any user
        assert re.search(rf"install --directory --mode 1777 .*{volume}\b", last["RUN"]), volume


def test_base_and_kind_of_torch_are_arguments():
    names = {rest.partition("=")[0] for rest in arguments("ARG")}
    assert names == {"BASE", "TORCH_BACKEND", "EXTRAS"}
    first = instructions()[:2]
    assert first[0][0] == "ARG" and first[1] == ("FROM", "${BASE} AS python")


def test_a_linter_finds_nothing():
    programs = [str(Path(sys.executable).parent), os.environ["PATH"]]
    linter = shutil.which("hadolint", path=os.pathsep.join(programs))
    if linter is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_wheel_can_be_built_from_what_is_copied(tmp_path):
    names = [name for name in list_tracked() if reaches_docker(name)]
    source = copy_files(names, tmp_path / "source")
    assert build_wheel(source, tmp_path / "dist").stat().st_size > 100_000
