"""The group ``logger``: one choice, or several as a list."""

from __future__ import annotations

import pytest

from convlens.config.checks import restore_config
from convlens.config.compose import compose
from convlens.config.migrate import dump_config, migrate_config
from convlens.core.errors import UserError


@pytest.mark.parametrize(
    ("choice", "tensorboard", "trackers"),
    [
        (None, True, []),
        ("default", True, []),
        ("tensorboard", True, []),
        ("csv", False, []),
        ("wandb", False, ["wandb"]),
        ("mlflow", False, ["mlflow"]),
        ("trackio", False, ["trackio"]),
        ("[tensorboard,mlflow]", True, ["mlflow"]),
        ("[mlflow,tensorboard]", True, ["mlflow"]),
        ("[tensorboard,csv]", True, []),
        ("[csv,tensorboard]", True, []),
        ("[default,trackio,wandb,mlflow]", True, ["wandb", "mlflow", "trackio"]),
        ("[wandb]", False, ["wandb"]),
    ],
)
def test_what_a_choice_turns_on(choice, tensorboard, trackers):
    config = compose([] if choice is None else [f"logger={choice}"])
    assert config.logger.tensorboard is tensorboard
    assert config.logger.trackers == trackers
    assert not config.logger.own


def test_keys_of_the_chosen_loggers_can_be_set():
    uri = "sqlite:///outputs/my runs.db"
    config = compose(["logger=[mlflow,wandb]", f"logger.mlflow.uri={uri}",
                      "logger.wandb.project=cats", "logger.tensorboard=true"])  # fmt: skip
    assert (config.logger.mlflow.uri, config.logger.wandb.project) == (uri, "cats")
    assert config.logger.tensorboard


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["logger=wandbb"], "logger=wandbb: no such logger; did you mean wandb?"),
        (["logger=[mlflow,wandbb]"], "no such logger; did you mean wandb?"),
        (["logger=[]"], "logger=[]: expected names"),
        (["logger=[mlflow,mlflow]"], "expected names, each once"),
        (["logger=[{a: 1}]"], "logger=[{a: 1}]: no such logger"),
        (["logger=base"], "logger=base: no such logger"),
        (["model=[vgg16,scratch]"], "model=[vgg16,scratch]: no such model"),
        (["logger.wandb.project=a"], "logger.wandb.project: no such key"),
        (["logger=wandb", "logger.wandb.mode=of"], "expected null, offline or online"),
        (["logger=mlflow", "logger.mlflow.url=x"], "did you mean logger.mlflow.uri or"),
        (["logger=tensorboard,mlflow"], "several values"),
    ],
)
def test_a_wrong_choice_is_one_line(words, line):
    with pytest.raises(UserError) as refused:
        compose(words)
    assert line in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("choice", ["csv", "[tensorboard,wandb,mlflow,trackio]"])
def test_what_is_stored_comes_back(choice):
    config = compose([f"logger={choice}"])
    assert restore_config(dump_config(config), "a file") == config


def test_configs_from_before_have_no_trackers():
    """A stored config without the new keys is read as before, and stays as it was."""
    plain = dump_config(compose([]))
    assert plain["logger"] == {"tensorboard": True}
    del plain["callbacks"]["mistakes"]["table"]
    config = restore_config(plain, "a file")
    assert config.logger.trackers == []
    assert config.callbacks.looks["mistakes"].arguments.keys() == {
        "mistakes", "random", "every_n_epochs", "batch",
    }  # fmt: skip
    assert migrate_config(plain, "a file")["logger"] == {"tensorboard": True}
