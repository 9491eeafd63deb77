"""The names of runs in TensorBoard, over real event files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.data.provider import RunTagFilter
from torch.utils.tensorboard import SummaryWriter

from convlens.pages.tensorboard import NamedRuns, name_runs

CONTEXT = RequestContext()
RUNS = {
    "scratch/10-02-11/tensorboard": "scratch/10-02-11",
    "scratch/10-02-12/tensorboard/version_0": "scratch/10-02-12",  # of Lightning's own logger
    "lightning_logs/version_3": "lightning_logs/version_3",
}


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    logdir = tmp_path_factory.mktemp("outputs")
    for number, folder in enumerate(RUNS):
        with SummaryWriter(str(logdir / folder)) as writer:
            writer.add_scalar("val/loss", number, 1)
            writer.add_image("grad_cam/00", np.full((3, 4, 4), number, np.uint8), 1)
            writer.add_text("config", f"text {number}", 0)
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(logdir)).Reload()
    return MultiplexerDataProvider(multiplexer, str(logdir))


@pytest.fixture(scope="module")
def named(provider):
    return NamedRuns(provider, Path("outputs"))


def test_runs_are_called_by_their_folders(named):
    runs = named.list_runs(CONTEXT, experiment_id="")
    assert {run.run_name for run in runs} == {run.run_id for run in runs} == set(RUNS.values())


@pytest.mark.parametrize(
    ("kind", "plugin"),
    [("scalars", "scalars"), ("tensors", "text"), ("blob_sequences", "images")],
)
@pytest.mark.parametrize("wanted", [None, ["scratch/10-02-11"], list(RUNS.values()), ["unknown"]])
def test_each_run_has_the_data_of_its_folder(provider, named, kind, plugin, wanted):
    query = {"experiment_id": "", "plugin_name": plugin}
    folders = None if wanted is None else [f for f, name in RUNS.items() if name in wanted]
    for method, options in ((f"list_{kind}", {}), (f"read_{kind}", {"downsample": 10})):
        theirs = getattr(provider, method)(
            CONTEXT, **query, **options, run_tag_filter=RunTagFilter(runs=folders)
        )
        ours = getattr(named, method)(
            CONTEXT, **query, **options, run_tag_filter=RunTagFilter(runs=wanted)
        )
        assert ours == {RUNS[folder]: series for folder, series in theirs.items()}
        assert len(ours) == (len(RUNS) if wanted is None else len(folders))


def test_pictures_and_last_scalars_arrive(named):
    query = {"experiment_id": "", "run_tag_filter": RunTagFilter(runs=["scratch/10-02-12"])}
    last = named.read_last_scalars(CONTEXT, plugin_name="scalars", **query)
    assert last["scratch/10-02-12"]["val/loss"].value == 1
    found = named.read_blob_sequences(CONTEXT, plugin_name="images", downsample=9, **query)
    key = found["scratch/10-02-12"]["grad_cam/00"][0].values[-1].blob_key
    assert named.read_blob(CONTEXT, blob_key=key).startswith(b"\x89PNG")


def test_two_runs_never_share_a_name():
    folders = ["a/tensorboard", "a/tensorboard/version_1", "a/tensorboard/version_2", "b"]
    assert name_runs(folders, Path("x")) == {folder: folder for folder in folders}


def test_a_single_run_is_called_by_the_folder_that_was_given(tmp_path):
    assert name_runs(["tensorboard"], tmp_path / "10-02-11") == {"tensorboard": "10-02-11"}
    assert name_runs(["mytensorboard", "."], tmp_path) == {
        "mytensorboard": "mytensorboard",
        ".": ".",
    }
