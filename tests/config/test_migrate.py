"""Checkpoints and run folders of earlier versions: they load, and say what they always said."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from convlens.cli.main import main
from convlens.config.checks import GROUPS, restore_config
from convlens.config.compose import compose
from convlens.config.migrate import FORMAT, dump_config, migrate_config
from convlens.core.errors import UserError
from convlens.experiment.inputs import EXAMPLE

FIXTURES = Path(__file__).parent / "earlier"
RUNS = sorted(home.name for home in FIXTURES.iterdir()) if FIXTURES.is_dir() else []


def config_of(file: Path) -> dict:
    return torch.load(file, weights_only=True)["hyper_parameters"]["config"]


def test_there_is_a_run_of_every_format():
    formats = {
        yaml.safe_load((FIXTURES / n / "config.yaml").read_text()).get("format", 0) for n in RUNS
    }
    assert formats >= set(range(FORMAT))


@pytest.mark.parametrize("name", RUNS)
def test_a_checkpoint_of_before_loads_and_answers(name):
    from convlens import load

    explainer = load(FIXTURES / name / "checkpoints" / "best.ckpt")
    probe = sorted((FIXTURES / name / "probes").glob("*.png"))[0]
    found = explainer.explain(probe, only="grad_cam")
    assert len(found.class_names) == len(found.probabilities) > 1 and found.grad_cam


@pytest.mark.parametrize("name", RUNS)
def test_a_run_folder_of_before_is_shown_tested_and_resumed(name, at, capsys):
    shutil.copytree(FIXTURES / name, at / "run")
    summary = yaml.safe_load((at / "run" / "summary.json").read_text())
    assert main(["runs", "dir=."]) == 0
    assert main(["report", "run=run"]) == 0
    assert main(["eval", "run=run"]) == 0
    results = yaml.safe_load((at / "run" / "evaluation" / "best" / "results.json").read_text())
    assert results["test"]["loss"] == pytest.approx(summary["test"]["loss"], rel=1e-5)
    assert results["test"]["accuracy"] == summary["test"]["accuracy"]
    assert main(["resume", "run=run"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    (at / "run" / "summary.json").unlink()
    assert main(["resume", "run=run"]) == 0
    again = yaml.safe_load((at / "run" / "summary.json").read_text())
    assert again["test"] == pytest.approx(summary["test"], rel=1e-5)
    kept = yaml.safe_load((at / "run" / "config.yaml").read_text())
    assert kept["format"] == FORMAT


def test_the_example_network_is_of_a_known_format():
    assert restore_config(config_of(EXAMPLE / "shapes.ckpt"), "the example").data.name == "shapes"


def test_what_was_added_later_is_filled_in_as_it_had_no_effect():
    now = compose(["callbacks=all", "data=image_folder"]).plain()
    old = compose(["callbacks=all", "data=image_folder"]).plain()
    for group, keys in {
        "training": ("batch_size_is", "accumulate", "lr_is", "validations", "compile",
                     "deterministic"),
        "data": ("masks",), "model": ("weights",), "looking": ("first_seconds", "last_seconds"),
        "alarms": ("gap", "gap_epochs", "patience", "dead_share"),
        "callbacks": ("budget", "scores"),
    }.items():  # fmt: skip
        for key in keys:
            del old[group][key]
    for key in ("finetune", "cache_features", "scores"):
        del old[key]
    old["looking"]["share"] = 0.1
    del old["callbacks"]["filter_visuals"]["recipe"]
    old["callbacks"]["filter_visuals"]["jitter"] = 2
    found = restore_config(old, "a file").plain()
    assert found["callbacks"].pop("budget") == 0.1
    for plain in (now, found):
        plain["callbacks"].pop("scores", None), plain["callbacks"].pop("budget", None)
        plain["alarms"].pop("gap")
    # nothing was compiled
    assert (now["training"].pop("compile"), found["training"].pop("compile")) == ("auto", False)
    # what pictures showed stays as it was
    for look, key, before in (
        ("activation_grids", "order", "index"), ("activation_grids", "channels", None),
        ("filter_visuals", "choose", "even"), ("attribution", "smooth", 0.0),
    ):  # fmt: skip
        assert found["callbacks"][look].pop(key) == before
        del now["callbacks"][look][key]
    assert found == now


def test_activation_grids_of_an_earlier_run_keep_all_channels_in_their_order():
    config = restore_config(
        yaml.safe_load((FIXTURES / "every_channel" / "config.yaml").read_text()), "a file"
    )
    grids = config.callbacks.looks["activation_grids"].arguments
    wanted = {"rule": "shared", "limit": 16, "order": "index", "channels": None}
    assert wanted.items() <= grids.items()


@pytest.mark.parametrize("group", GROUPS)
def test_only_a_group_that_may_be_null_comes_back_null(group):
    """``diary=null`` runs are tested and resumed like others."""
    plain = dump_config(compose([]))
    if group == "diary":
        assert restore_config({**plain, group: None}, "it") == compose(["diary=null"])
    else:
        with pytest.raises(UserError, match=f"it: {group}=None: expected a table"):
            restore_config({**plain, group: None}, "it")


def test_todays_config_is_not_touched():
    plain = dump_config(compose([]))
    assert migrate_config(plain, "a file") == {k: v for k, v in plain.items() if k != "format"}


@pytest.mark.parametrize("number", [FORMAT + 1, -1, "1", True, None])
def test_a_later_format_is_told(number):
    with pytest.raises(
        UserError, match=r"^a file: format=.*: a later version of convlens wrote it"
    ):
        restore_config({**dump_config(compose([])), "format": number}, "a file")
