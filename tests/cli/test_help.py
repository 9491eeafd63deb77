"""``--help``, ``--version``, ``--cfg job``: they print what the parser and the schema know."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import time

import pytest
import yaml

import convlens
from convlens.cli.main import COMMANDS, TOOLS, main
from convlens.config.compose import compose

COMPOSING = ("train", "plan", "lr-find")


def printed(words: list[str], capsys) -> str:
    capsys.readouterr()
    assert main(words) == 0
    return capsys.readouterr().out


def table_of(command: str) -> dict:
    return importlib.import_module(f"convlens.cli.{command.replace('-', '_')}").WORDS


def test_the_overview_has_every_command(capsys):
    overview = printed([], capsys)
    for words in (["--help"], ["-h"], ["help"]):
        assert printed(words, capsys) == overview
    for name in (*COMMANDS, *TOOLS):
        assert re.search(rf"^  {name} ", overview, re.M), name


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_every_word_with_meaning_default_and_synonyms(command, capsys):
    text = printed([command, "--help"], capsys)
    assert text.startswith(f"usage: convlens {command} ")
    flat = " ".join(text.split())
    assert len(table_of(command)) >= 1
    for name, word in table_of(command).items():
        assert f"{name}={word.form} {word.meaning}" in flat
        assert not word.default or f"default: {word.default}" in flat
        for synonym in word.synonyms:
            assert f"{synonym}=" in flat
        assert ("required" in flat) or not word.required


def test_help_is_one_text_however_it_is_requested(capsys):
    text = printed(["resume", "--help"], capsys)
    for words in (["resume", "-h"], ["help", "resume"], ["resume", "--make=args=--help"]):
        assert printed(words, capsys) == text


def test_explain_names_what_it_draws_by_default(capsys):
    from convlens.experiment.methods import DEFAULT

    assert main(["explain", "--help"]) == 0
    (line,) = re.findall(r"Without only=: (.*)\.", capsys.readouterr().out)
    assert re.split(", | and ", line) == list(DEFAULT)


@pytest.mark.parametrize("command", COMPOSING)
def test_the_defaults_are_those_of_the_words_typed(command, capsys):
    text = printed([command, "exp=finetune_vgg16", "data.size=97", "--help"], capsys)
    flat = " ".join(text.split())
    assert "data.size=97 height and width of the images, pixels (a whole number from" in flat
    assert "model.name=vgg16 " in flat and "finetune.phases.1.epochs=3 " in flat
    assert "model=inception_v3 | scratch | scratch_vit | timm | vgg16" in flat
    assert "exp=finetune_vgg16" in flat and "--cfg job" in flat


def test_a_command_that_continues_a_run_lists_only_what_may_change(capsys):
    text = printed(["resume", "--help"], capsys)
    assert "training.epochs " in text and "trainer=auto" in text
    for other in ("training.batch_size", "fast_dev_run", "model=", "callbacks=", "data=", "--cfg"):
        assert other not in text
    text = printed(["eval", "--help"], capsys)
    assert "data=cats_dogs" in text and "optimizer." not in text


def test_help_of_words_that_do_not_compose_is_refused_in_a_line(capsys):
    assert main(["train", "--help", "exp=scrach"]) == 2
    assert "did you mean scratch" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["train", "--help"], ["kernel", "-h"], ["__complete", "train", "d"]]
)
def test_help_and_completion_need_no_torch(words):
    code = (
        "import sys; from convlens.cli.main import main; main(sys.argv[1:]); "
        "sys.exit('torch' in sys.modules)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 10  # about one second on an idle core


@pytest.mark.parametrize("command", COMPOSING)
@pytest.mark.parametrize("flag", [["--cfg", "job"], ["--cfg=job"], ["-c", "job"]])
def test_cfg_job_prints_the_composed_config_and_stops(command, flag, at, capsys):
    words = ["exp=finetune_vgg16", "data=shapes", "optimizer.lr=0.5"]
    text = printed([command, words[0], *flag, *words[1:]], capsys)
    assert yaml.safe_load(text) == compose(words).plain()
    assert not list(at.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--cfg", "job", "exp=scrach"], "did you mean scratch"),
        (["train", "--cfg", "job", "multirun=true", "seed=0,1"], "leave out multirun=true"),
        (["plan", "--cfg", "job", "ckpt=last"], "leave out ckpt=last"),
        (["train", "--cfg", "hydra"], "expected `--cfg job`"),
        (["train", "--cfg"], "expected `--cfg job`"),
        (["report", "--cfg", "job"], "report composes no config"),
    ],
)
def test_cfg_without_one_config_is_refused(words, said, at, capsys):
    assert main(words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--version"], ["-V"], ["train", "--version"], ["kernel", "-V"]])
def test_version(words, capsys):
    assert printed(words, capsys) == f"convlens {convlens.__version__}\n"
