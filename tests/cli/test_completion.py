"""Shell completion, asked of the real shells."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from convlens.cli.completion import SCRIPTS, find_candidates
from convlens.cli.main import COMMANDS, main

# stands for the installed script, which need not be on the PATH
PROGRAM = f'#!/bin/sh\nexec "{sys.executable}" -m convlens "$@"\n'
ASK_BASH = r"""
source "$1"
COMP_LINE=$2 COMP_POINT=${#2}
_convlens
printf '%s\n' "${COMPREPLY[@]}"
"""
# compadd and _files belong to zsh's line editor: here they print what they are given
ASK_ZSH = r"""
compdef() { registered=$1 }
source $1
[[ $registered == _convlens ]] || exit 3
compadd() {
    while [[ $1 == -* ]]; do [[ $1 == -S ]] && shift; shift; done
    (( $# )) && print -l -- $@
}
compset() { PREFIX=${PREFIX##*=} }
_files() { print -- files:$PREFIX }
words=(${(s: :)2}); [[ $2 == *' ' ]] && words+=('')
CURRENT=${#words} PREFIX=$words[-1]
_convlens
"""


@pytest.fixture
def program(tmp_path) -> Path:
    file = tmp_path / "convlens"
    file.write_text(PROGRAM)
    file.chmod(0o755)
    return file


def ask(shell: str, program: Path, line: str) -> list[str]:
    """Return what a shell offers behind ``convlens LINE``."""
    script = program.with_suffix(f".{shell}")
    script.write_text(SCRIPTS[shell])
    code = {"bash": ASK_BASH, "zsh": ASK_ZSH}[shell]
    plain = {"bash": ["--norc"], "zsh": ["-f"]}[shell]
    command = [shell, *plain, "-c", code, shell, str(script), f"{program} {line}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def needs(shell: str):
    return pytest.mark.skipif(not shutil.which(shell), reason=f"{shell} is not installed")


SHELLS = [pytest.param(shell, marks=needs(shell)) for shell in SCRIPTS]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("tr", ["train"]),
        ("re", ["resume", "report", "review"]),
        ("help lx", []),
        ("completion z", ["zsh"]),
        ("train multi", ["multirun="]),
        ("train optimizer.we", ["optimizer.weight_decay="]),
        ("train data.augment.horiz", ["data.augment.horizontal_flip="]),
        ("train model=timm model.head.dr", ["model.head.dropout="]),
        ("resume ru", ["run=", "run_dir="]),
    ],
)
def test_a_shell_completes_commands_words_and_keys(shell, program, line, offered):
    answer = ask(shell, program, line)
    if not offered:
        answer = [word for word in answer if not word.startswith("files:")]
    assert sorted(answer) == sorted(offered)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_the_choices_of_a_group(shell, program):
    # bash takes what follows "=" as a word by itself
    before = {"bash": "", "zsh": "trainer="}[shell]
    assert ask(shell, program, "train trainer=dd") == [f"{before}ddp", f"{before}ddp_cpu"]


@pytest.mark.parametrize("shell", SHELLS)
def test_paths_are_left_to_the_shell(shell, program):
    assert ask(shell, program, "eval ckpt=out") == {"bash": [], "zsh": ["files:out"]}[shell]


def candidates(*words: str) -> list[str]:
    return list(find_candidates(list(words), COMMANDS))


def test_an_empty_word_offers_every_group_and_key_up_to_its_first_dot():
    offered = candidates("train", "")
    for word in (
        "exp=",
        "config_dir=",
        "multirun=",
        "data=",
        "data.",
        "trainer.",
        "seed=",
        "debug=",
    ):
        assert word in offered, word
    assert not any("." in word[:-1] for word in offered) and len(offered) == len(set(offered))


def test_keys_are_completed_dot_by_dot():
    offered = candidates("train", "data.")
    assert "data.size=" in offered and "data.augment." in offered
    assert not any(word.startswith("data.augment.") and word != "data.augment." for word in offered)


def test_values_are_offered_where_they_are_few():
    assert candidates("train", "exp=finetune_vg") == ["exp=finetune_vgg16"]
    assert candidates("train", "overwrite=") == ["overwrite=true", "overwrite=false"]
    assert candidates("kernel", "pooling=ma") == ["pooling=max"]
    assert candidates("plan", "--c") == ["--cfg"] and candidates("report", "--c") == []


def test_a_word_that_does_not_compose_does_not_stop_the_completion():
    assert candidates("train", "exp=scrach", "optimizer.l") == ["optimizer.lr="]
    assert candidates("nothing", "x") == []


def test_a_mistake_is_answered_in_a_line(capsys):
    for words, said in (["completion"], "bash` or zsh"), (["completion", "fish"], "bash and zsh"):
        assert main(words) == 2
        assert said in capsys.readouterr().err
    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == SCRIPTS["bash"]
