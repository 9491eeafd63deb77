"""The commands of docs/install.md name files, extras, arguments and words that exist."""

from __future__ import annotations

import re
import shlex
import tomllib

from convlens.cli.main import COMMANDS, TOOLS
from convlens.config.compose import compose
from support.places import ROOT

TEXT = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """Return the words of each command on the page, with continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_the_wheel_is_called_as_it_is_built():
    names = set(re.findall(r"convlens-[\w.]+?-py3-none-any\.whl", TEXT))
    assert names == {f"convlens-{PROJECT['version']}-py3-none-any.whl"}


def test_extras_exist():
    named = set(re.findall(r"(?:convlens|\.whl)\[(\w+)\]", TEXT))
    named |= {name for words in re.findall(r'EXTRAS="([^"]+)"', TEXT) for name in words.split()}
    assert named and named <= set(PROJECT["optional-dependencies"])


def test_commands_of_convlens_compose():
    found = 0
    for words in commands():
        if "convlens" in words and words[0] in ("convlens", "uvx"):
            _, name, *typed = words[words.index("convlens") :]
        elif words[:2] == ["docker", "run"]:
            place = next(i for i, word in enumerate(words) if word in ("convlens", "convlens:cuda"))
            name, *typed = words[place + 1 :]
        else:
            continue
        found += 1
        assert name in {**COMMANDS, **TOOLS}, words
        if name == "train":
            compose(typed)
    assert found >= 8


def test_docker_is_given_arguments_and_folders_that_the_dockerfile_has():
    given = set(re.findall(r"--build-arg (\w+)=", TEXT))
    assert given == {"BASE", "TORCH_BACKEND"}
    assert all(re.search(rf"^ARG {name}\b", DOCKERFILE, re.M) for name in (*given, "EXTRAS"))
    mounted = set(re.findall(r"-v \S+?:(/[\w/]+)", TEXT)) | set(re.findall(r"`(/[a-z/]+)`", TEXT))
    assert {"/convlens/outputs", "/data", "/cache", "/weights"} <= mounted
    for folder in ("/convlens/outputs", "/data", "/cache", "/weights"):
        assert folder in DOCKERFILE
    assert re.search(r"^EXPOSE 6006$", DOCKERFILE, re.M) and "-p 6006:6006" in TEXT


def test_every_variable_of_the_page_is_read():
    source = "\n".join(
        file.read_text(encoding="utf-8") for file in (ROOT / "src" / "convlens").rglob("*.py")
    )
    for name in set(re.findall(r"`(CONVLENS_\w+)`", TEXT)):
        assert f'"{name}"' in source, name
