"""TensorBoard's HParams tab, read back with TensorBoard's own reader of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from convlens.callbacks.logging import hparams
from convlens.callbacks.logging.hparams import HParams
from convlens.callbacks.session import gather_context
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler

import convlens.experiment.train
from convlens.cli.main import main
from convlens.config.checks import replace_values
from convlens.config.compose import compose
from convlens.config.schema import Config
from convlens.config.stored import StoredConfig
from convlens.data.datamodule import PictureData
from convlens.experiment.module import build_module
from convlens.experiment.trainer import collect_settings
from convlens.pages.phases import read_phases
from support.tiny import TINY

SHORT = [*TINY, "training.epochs=3", "callbacks=none"]
RATES = {"a": 0.5, "b": 0.001}  # the first one's best epoch is not its last


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two short runs with another learning rate each."""
    parent = tmp_path_factory.mktemp("runs")
    made = convlens.experiment.train.build_trainer
    with pytest.MonkeyPatch.context() as patch:

        def with_hparams(run, home, resumed):
            trainer, *rest = made(run, home, resumed)
            if not any(isinstance(callback, HParams) for callback in trainer.callbacks):
                trainer.callbacks.append(HParams(collect_settings(run.config)))
            return trainer, *rest

        patch.setattr(convlens.experiment.train, "build_trainer", with_hparams)
        for name, rate in RATES.items():
            words = [f"run_dir={parent / name}", f"optimizer.lr={rate}", "scheduler=constant"]
            convlens.experiment.train.train(compose([*SHORT, *words]))
    return parent


@pytest.fixture(scope="module")
def tab(runs):
    """What the tab shows: the experiment and its session groups, by name."""
    events = EventMultiplexer().AddRunsFromDirectory(str(runs)).Reload()
    provider = MultiplexerDataProvider(events, str(runs))
    context = Context(TBContext(data_provider=provider))
    ctx = RequestContext()
    columns = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=[api_pb2.STATUS_SUCCESS, api_pb2.STATUS_UNKNOWN], slice_size=10,
    )  # fmt: skip
    found = Handler(ctx, context, "", columns).run().session_groups
    metadata = context.hparams_metadata(ctx, "")
    hparams = context.hparams_from_data_provider(ctx, "", 0)
    experiment = context.experiment_from_metadata(ctx, "", True, metadata, hparams)
    return experiment, {group.name: group for group in found}


def summary(runs: Path, name: str) -> dict:
    return json.loads((runs / name / "summary.json").read_text())


def test_each_run_is_one_row_with_its_hyper_parameters(tab):
    _, groups = tab
    assert set(groups) == {"a/tensorboard", "b/tensorboard"}
    for name, rate in RATES.items():
        shown = {
            key: getattr(value, value.WhichOneof("kind"))
            for key, value in groups[f"{name}/tensorboard"].hparams.items()
        }
        assert shown == {
            "model.name": "scratch", "optimizer.name": "adam", "optimizer.lr": rate,
            "scheduler.name": "constant", "training.batch_size": 8, "training.epochs": 3,
            "seed": 0, "data.name": "shapes", "data.size": 16, "augment": True,
            "finetune": "none",
        }  # fmt: skip
        assert shown["augment"] is True


def test_each_rows_metrics_are_those_of_the_tested_network(tab, runs):
    _, groups = tab
    for name in RATES:
        told = summary(runs, name)
        group = groups[f"{name}/tensorboard"]
        shown = {metric.name.tag: metric.value for metric in group.metric_values}
        assert shown == pytest.approx(
            {
                "best/val/loss": told["val"]["loss"],
                "best/val/accuracy": told["val"]["accuracy"],
                "test/loss": told["test"]["loss"],
                "test/accuracy": told["test"]["accuracy"],
            },
            rel=1e-6,
        )
        assert {metric.training_step for metric in group.metric_values} == {told["best_epoch"]}
        assert [session.status for session in group.sessions] == [api_pb2.STATUS_SUCCESS]
    assert summary(runs, "a")["best_epoch"] < 3, "the last epoch would do as well"


def test_the_columns_have_names_and_kinds(tab):
    experiment, _ = tab
    kinds = {info.name: info.type for info in experiment.hparam_infos}
    assert kinds["augment"] == api_pb2.DATA_TYPE_BOOL
    assert kinds["optimizer.lr"] == api_pb2.DATA_TYPE_FLOAT64
    assert kinds["finetune"] == api_pb2.DATA_TYPE_STRING and len(kinds) == 11
    assert [info.name.tag for info in experiment.metric_infos] == [
        "best/val/loss", "best/val/accuracy", "test/loss", "test/accuracy"
    ]  # fmt: skip


def test_there_is_one_event_folder_and_other_tags_are_as_ever(runs):
    for name in RATES:
        events = {file.parent for file in (runs / name).rglob("events.out.tfevents.*")}
        assert events == {runs / name / "tensorboard"}
        found = EventAccumulator(str(runs / name / "tensorboard"), {"scalars": 0})
        found.Reload()
        best = summary(runs, name)["best_epoch"]
        assert [event.step for event in found.Scalars("val/loss")] == [0, 1, 2, 3]
        assert [event.step for event in found.Scalars("test/loss")] == [best]
        assert "hp_metric" not in found.Tags()["scalars"]


def test_finetune_tells_the_phases():
    config = compose(["exp=finetune_vgg16", "data=shapes", "model.weights=none"])
    values = collect_settings(config).hyperparameters()
    assert values["finetune"] == "head > head+last_block"
    assert values["model.name"] == "vgg16"
    assert "optimizer.lr" not in values, "phases have rates of their own"
    plain = compose(["data.augment.horizontal_flip=false", "data.augment.vertical_flip=false"])
    assert collect_settings(plain).hyperparameters()["augment"] is False


def phased(*augment: bool) -> Config:
    phases = [f"{{epochs: 2, train: [{group}], lr: 0.01, augment: {str(each).lower()}}}"
              for group, each in zip(("head", "last"), augment, strict=False)]  # fmt: skip
    words = [
        "finetune.groups={head: head, last: backbone.block2, base: backbone}",
        f"finetune.phases=[{', '.join(phases)}]", "data.augment.horizontal_flip=true",
    ]  # fmt: skip
    return compose([*TINY, *words, "training.epochs=null"])


def test_a_run_that_never_augmented_is_not_said_to_have():
    assert collect_settings(phased(False, False)).hyperparameters()["augment"] is False
    assert collect_settings(phased(False, True)).hyperparameters()["augment"] is True


def test_phases_that_a_run_did_not_come_to_had_no_effect():
    values = collect_settings(phased(False, True)).hyperparameters(1)
    assert values["augment"] is False and values["finetune"] == "head"


def test_the_tab_of_a_run_that_ended_in_its_first_phase(tmp_path):
    values = {"run_dir": str(tmp_path / "r"), "overwrite": True, "training.epochs": 1}
    config = replace_values(phased(False, True), {**values, "callbacks": {"budget": 0.05}})
    written = []
    with pytest.MonkeyPatch.context() as patch:
        keep = lambda values, **times: written.append(values) or []  # noqa: E731
        patch.setattr(hparams, "build_session_records", keep)
        convlens.experiment.train.train(config)
    assert written[0]["augment"] is False and written[0]["finetune"] == "head"
    assert "optimizer.lr" not in written[0]


def test_the_page_and_the_preview_know_when_nothing_is_augmented():
    config = phased(True, True)
    assert [each.augment for each in read_phases(StoredConfig(config.plain()), [])] == [True, True]
    for name, value in config.data.augment.plain().items():
        if isinstance(value, bool | float):
            config = replace_values(config, {f"data.augment.{name}": type(value)()})
    assert [each.augment for each in read_phases(StoredConfig(config.plain()), [])] == [
        False,
        False,
    ]

    def offered(*augment: bool) -> bool:
        config = phased(*augment)
        data = PictureData(config.data, seed=0, batch_size=8, eval_batch_size=8)
        module = build_module(config, list(data.class_names))
        return "augment" in gather_context(data, module, "val")

    assert offered(True, False) and not offered(False, False)


def test_plan_tells_what_is_augmented(capsys):
    words = ["finetune.groups={head: head, base: backbone}", "training.epochs=null",
             "finetune.phases=[{epochs: 2, train: [head], lr: 0.01, augment: false}]"]  # fmt: skip
    assert main(["plan", *TINY, *words, "data.augment.horizontal_flip=true"]) == 0
    assert "not augmented" in capsys.readouterr().out
