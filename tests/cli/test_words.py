"""The words of a command: synonyms, flags, and what is refused."""

from __future__ import annotations

import pytest

from convlens.cli import eval as eval_command
from convlens.cli import explain, predict, report, resume
from convlens.cli.main import main
from convlens.cli.words import Word, extract_words, read_switch
from convlens.core.errors import UserError

SYNONYMS = [
    ("explain", explain, "image", "images"),
    ("predict", predict, "images", "image"),
    ("resume", resume, "run", "run_dir"),
    ("eval", eval_command, "run", "run_dir"),
    ("report", report, "run", "run_dir"),
]
every_synonym = pytest.mark.parametrize(
    ("command", "module", "name", "synonym"), SYNONYMS, ids=[each[0] for each in SYNONYMS]
)


@every_synonym
def test_a_synonym_is_understood(command, module, name, synonym):
    for words in ([f"{synonym}=a"], [f"{name}=a", f"{synonym}=a"], [f"{name}=b", f"{name}=a"]):
        values, others = extract_words(words, module.WORDS)
        assert values[name] == "a" and not others


@every_synonym
def test_two_synonyms_with_different_values_are_refused(command, module, name, synonym, at, capsys):
    assert main([command, f"{synonym}=a", f"{name}=b"]) == 2
    said = f"convlens: {synonym}=a {name}=b: both mean {name}; leave one of them out\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("command", ["resume", "eval", "report"])
def test_run_dir_names_the_run_where_a_command_reads_one(command, at, capsys):
    assert main([command, "run_dir=nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("module", [explain, predict])
def test_run_dir_is_where_a_command_writes(module):
    values, _ = extract_words(["run_dir=out"], module.WORDS)
    assert values["run_dir"] == "out" and "run" not in values


def test_words_of_the_config_stay_with_the_others():
    table = {"exp": Word("a recipe", is_override=True), "many": Word("many", flags=("-m",))}
    assert extract_words(["exp=a", "-m", "seed=1"], table) == (
        {"many": "true"},
        ["exp=a", "seed=1"],
    )


def test_a_switch_is_true_or_false():
    assert read_switch({"link": "true"}, "link") and not read_switch({"link": "false"}, "link")
    with pytest.raises(UserError, match="link=yes: expected true or false"):
        read_switch({"link": "yes"}, "link")
