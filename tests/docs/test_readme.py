"""README and the guides: commands are targets and compose, files and links exist."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest

from convlens.cli.main import COMMANDS, main
from convlens.cli.train import split_multirun
from convlens.cli.words import split_make_words
from convlens.config.compose import compose, split_values

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
GUIDES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FIGURES = (ROOT / "docs" / "figures.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
MOST_WORDS = 1200
HEAVIEST = 120_000  # bytes of a picture


def commands(page: Path) -> list[str]:
    """Return the lines of shell code on a page, in order."""
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", page.read_text(), re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line.split("  #")[0].strip() for line in lines if line.strip()]


def check_make(line: str) -> None:
    """Check that a make command names a target and that its overrides compose."""
    target, *typed = shlex.split(line)[1:]
    assert re.search(rf"^{target}:", MAKEFILE, re.M), line
    known = not any(
        "=last" in w or "ckpt=" in w or "config_dir=" in w or "NAME" in w for w in typed
    )
    if target in ("train", "plan") and known:
        words = [word for word in split_make_words(typed) if "TORCH_BACKEND" not in word]
        if {"--help", "--cfg"} & set(words):  # prints and stops
            assert main([target, *words]) == 0
            return
        several, words = split_multirun(words) if target == "train" else (False, words)
        choices = [split_values(word) if several else [word] for word in words if "…" not in word]
        for chosen in itertools.product(*choices):
            compose(list(chosen))


def test_a_picture_stands_before_the_prose():
    body = [line for line in README.read_text().splitlines() if line.strip()]
    assert body[0].startswith("# ")
    assert body[1].startswith("![")


def test_readme_is_short():
    assert len(README.read_text().split()) <= MOST_WORDS


def test_the_first_two_commands_run_the_main_job_and_the_tests():
    first, second = commands(README)[:2]
    assert first.startswith("make train")
    assert second.startswith("make test")


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_links_and_pictures_of_a_page_exist(page):
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\((?!http|#)([^)#\s]+)", prose):
        assert (page.parent / target).exists(), target


def test_pictures_of_the_pages_are_light_and_shown():
    shown = set()
    for page in GUIDES:
        found = re.findall(r"!\[([^\]]*)\]\(([^)#\s]+\.jpg)\)", page.read_text())
        assert all(len(words) > 20 for words, _ in found), page.name
        shown |= {(page.parent / target).resolve() for _, target in found}
    files = set((ROOT / "docs").glob("*.jpg"))
    tour = set((ROOT / "docs/tour/pictures").glob("*.jpg"))  # held by the tour's own test
    assert shown - tour == files
    assert {file.name for file in files if file.stat().st_size >= HEAVIEST} == set()


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_every_make_command_of_a_page_is_understood(page):
    typed = re.findall(r"`(make [a-z][^`…]*)`", page.read_text())
    for line in [*commands(page), *typed]:
        if line.startswith("make "):
            check_make(line)


def test_every_figure_stands_behind_a_command_that_is_understood():
    rows = [row for row in FIGURES.splitlines() if row.startswith("|")]
    figures = [row for row in rows if not row.startswith(("| command", "|---"))]
    assert figures
    for row in figures:
        line = re.match(r"\| `(make [^`]+)`", row)
        assert line, row
        check_make(line[1])


def test_every_command_of_the_package_is_in_readme():
    for name in COMMANDS:
        assert f"make {name}" in README.read_text(), name
