"""README is true: its commands are targets of the Makefile, its configs and files exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from convlens.cli.main import COMMANDS
from convlens.cli.words import split_make_words
from convlens.config.compose import compose

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
FIGURES = (ROOT / "docs" / "figures.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def commands() -> list[str]:
    """The lines that a reader would type, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line.split("  #")[0].strip() for line in lines if line.strip()]


def test_a_picture_stands_before_the_prose():
    body = [line for line in README.splitlines() if line.strip()]
    assert body[0].startswith("# ")
    assert body[1].startswith("![")


def test_pictures_and_links_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target
    for target in re.findall(r"\]\((?!http)([^)#]+)", FIGURES):
        assert (ROOT / "docs" / target).exists(), target


def test_the_first_two_commands_run_the_main_job_and_the_tests():
    assert commands()[:2] == ["make train", "make test"]


def test_every_make_command_is_a_target_with_words_that_are_understood():
    for line in commands():
        if not line.startswith("make "):
            continue
        target, *typed = shlex.split(line)[1:]
        assert re.search(rf"^{target}:", MAKEFILE, re.M), line
        if target in ("train", "plan") and not any("=last" in w or "ckpt=" in w for w in typed):
            words = [word for word in split_make_words(typed) if "TORCH_BACKEND" not in word]
            compose([word for word in words if "…" not in word])


def test_every_figure_stands_behind_a_command_that_is_understood():
    rows = [row for row in FIGURES.splitlines() if row.startswith("|")]
    told = [row for row in rows if not row.startswith(("| command", "|---"))]
    assert told
    for row in told:
        line = re.match(r"\| `(make [^`]+)`", row)
        assert line, row
        target, *typed = shlex.split(line[1])[1:]
        assert re.search(rf"^{target}:", MAKEFILE, re.M), row
        if target == "train" and "multirun=true" not in typed:
            compose(split_make_words(typed))


def test_every_command_of_the_package_is_told():
    for name in COMMANDS:
        assert f"make {name}" in README, name
