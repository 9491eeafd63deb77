"""One run with TensorBoard, wandb (offline), MLflow (SQLite) and trackio at once, read from each.

The services are the real packages; each is read by its own reader.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convlens.cli.main import main
from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.experiment import train as runs
from convlens.experiment.trackers import check_trackers
from support.apart import train as train_apart
from support.tiny import TINY
from support.trackers_read import (
    Logged,
    find_wandb,
    read_mlflow,
    read_tensorboard,
    read_trackio,
    read_wandb,
)

for package in ("wandb", "mlflow", "trackio"):
    pytest.importorskip(package, reason=f"needs the extra {package}")

ALL_FOUR = "logger=[tensorboard,wandb,mlflow,trackio]"
# no limit of time: slow and fast machines log the same
WORDS = [
    *TINY, "training.epochs=2", "trainer.log_every_n_steps=2",
    "looking={seconds: 1000, first_seconds: 1000, last_seconds: 1000}",
    "callbacks.filter_visuals.steps=2", "callbacks.filter_visuals.full_units=2",
    "callbacks.filter_visuals.units=2", "callbacks.filter_visuals.patch_pictures=8",
    "alarms.overfitting_epochs=1", "alarms.gap=0.0", "alarms.gap_epochs=1",
]  # fmt: skip
FEW = [*TINY, "training.epochs=1", "callbacks=none", "trainer.log_every_n_steps=2"]
KILLER = '''
import os
import signal
from pathlib import Path

import pytorch_lightning as L


class Killer(L.Callback):
    """Kills the run once, when all of its second epoch is logged and nothing of it is saved."""

    def __init__(self, done: str):
        self.done = Path(done)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        if trainer.current_epoch == 1 and not self.done.exists():
            self.done.touch()
            os.kill(os.getpid(), signal.SIGKILL)
'''
REPEATED = ("explain/seconds",)  # the one number that differs between equal runs


@pytest.fixture(scope="module", autouse=True)
def _own_places(tmp_path_factory):
    """Nothing of the services is read or written outside the test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [*os.environ]:
            if name.startswith(("WANDB", "MLFLOW", "TRACKIO")):
                patch.delenv(name)
        for part in ("DATA", "CACHE", "CONFIG"):
            patch.setenv(f"WANDB_{part}_DIR", str(tmp_path_factory.mktemp(part)))
        yield


def convlens(*words, **environment) -> subprocess.CompletedProcess:
    """Run a command in a process of its own, which also starts its own service of wandb."""
    kept = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return subprocess.run(
        [sys.executable, "-m", "convlens", *map(str, words)], env={**kept, **environment},
        capture_output=True, text=True, check=False, timeout=300, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def train(home: Path, *words) -> Path:
    """Train in this process, whose libraries are loaded."""
    assert main(["train", f"run_dir={home}", *words]) == 0
    return home


def read_all(home: Path) -> dict[str, Logged]:
    return {
        "tensorboard": read_tensorboard(home), "wandb": read_wandb(home)[0],
        "mlflow": read_mlflow(home)[0], "trackio": read_trackio(home),
    }  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A run that nobody disturbed, logged to all four."""
    return train(tmp_path_factory.mktemp("four") / "run", *WORDS, ALL_FOUR)


@pytest.fixture(scope="module")
def logged(home) -> dict[str, Logged]:
    return read_all(home)


def test_all_four_have_the_same_numbers(home, logged):
    ours = logged["tensorboard"].numbers
    assert {"train/loss", "val/accuracy", "test/accuracy", "best/val/loss", "lr/model",
            "explain/drift", "train_step/loss"} <= {tag for tag, *_ in ours}  # fmt: skip
    assert {step for tag, step, _ in ours if tag == "val/loss"} == {0, 1, 2}
    assert logged["wandb"].numbers == logged["trackio"].numbers
    # MLflow keeps a value only once if it is logged twice in a millisecond
    assert set(logged["mlflow"].numbers) == set(logged["wandb"].numbers)
    assert logged["wandb"].rounded() == ours
    # an independent witness of the values in full
    with (home / "metrics.csv").open() as file:
        columns, *rows = [line.rstrip("\n").split(",") for line in file]
    for row in rows:
        for tag, value in zip(columns[1:], row[1:], strict=True):
            if value:
                assert (tag, int(row[0]), float(value)) in logged["wandb"].numbers, tag


def test_all_four_have_the_same_pictures(home, logged):
    files = Counter(
        (file.relative_to(folder).with_suffix("").as_posix(), int(folder.name[6:]))
        for folder in (home / "explanations").glob("epoch_*") for file in folder.rglob("*.jpg")
    )  # fmt: skip
    assert set(logged["tensorboard"].pictures) == set(files) and len(files) > 30
    for name in ("wandb", "mlflow", "trackio"):
        assert logged[name].pictures == logged["tensorboard"].pictures, name


def test_the_pictures_are_those_in_the_run_folder(home):
    """wandb and trackio have the same bytes, MLflow the same pixels."""
    files = [*(home / "explanations").rglob("*.jpg")]
    ours = {hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    for folder in (find_wandb(home) / "files" / "media", home / "trackers" / "trackio" / "media"):
        theirs = {hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.rglob("*.jpg")}
        assert ours <= theirs, folder
    stored = (home / "trackers" / "mlflow" / "artifacts").rglob("images/*.png")
    pixels = {np.asarray(Image.open(file)).tobytes() for file in stored}
    assert {np.asarray(Image.open(file)).tobytes() for file in files} <= pixels


def test_all_four_have_the_same_tables_and_alarms(logged):
    ours = logged["tensorboard"]
    assert ("tables/mistakes", 1) in ours.tables and ours.texts
    columns = ["image", "true", "predicted", "probability of predicted", "probability of true"]
    for name in ("wandb", "mlflow", "trackio"):
        theirs = logged[name]
        assert theirs.texts == ours.texts, name
        assert theirs.tables.keys() == ours.tables.keys(), name
        for key, (head, *rows) in ours.tables.items():
            assert head == theirs.tables[key][0] == columns
            for row, other in zip(rows, theirs.tables[key][1:], strict=True):
                assert row[:3] == list(other[:3])
                assert row[3:] == [f"{float(value):.4g}" for value in other[3:]]
    ranked = [float(row[3]) for row in logged["trackio"].tables["tables/mistakes", 1][1:]]
    assert ranked == sorted(ranked, reverse=True)


def test_all_have_the_config(home):
    import yaml

    config = yaml.safe_load((home / "config.yaml").read_text())
    _, run = read_mlflow(home)
    assert run.info.status == "FINISHED"
    assert run.data.params["training.epochs"] == "2"
    assert run.data.params["model.filters"] == "[4, 6]"
    _, theirs = read_wandb(home)
    assert theirs["config"]["optimizer"] == config["optimizer"]
    assert theirs["config"]["training"]["epochs"] == 2
    with_trackio = json.dumps(dict(read_trackio_config(home)))
    assert json.dumps(config["optimizer"]) in with_trackio


def read_trackio_config(home: Path) -> dict:
    """Read the config by trackio's own API, in a process that has not chosen another folder."""
    code = "import json, trackio; (run,) = trackio.Api().runs('convlens')"
    code += "; print(json.dumps(run.config))"
    place = {"TRACKIO_DIR": str(home / "trackers" / "trackio")}
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **place},
                          capture_output=True, text=True, check=True)  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def test_all_have_the_report_and_the_model(home):
    report, model = home / "report.html", home / "checkpoints" / "best.ckpt"
    artifacts = home / "trackers" / "mlflow" / "artifacts"
    (file,) = artifacts.rglob("model/best.ckpt")
    assert file.read_bytes() == model.read_bytes()
    (file,) = artifacts.rglob("report/report.html")
    assert file.read_bytes() == report.read_bytes()
    blobs = (home / "trackers" / "trackio" / "artifacts").rglob("*")
    digests = {hashlib.sha256(each.read_bytes()).hexdigest() for each in blobs if each.is_file()}
    assert {hashlib.sha256(each.read_bytes()).hexdigest() for each in (report, model)} <= digests
    _, theirs = read_wandb(home)
    for part, file in (("report", report), ("model", model)):
        digest = base64.b64encode(hashlib.md5(file.read_bytes()).digest()).decode()
        assert theirs["files"][part] == (file.stat().st_size, digest)


@pytest.mark.slow
def test_a_killed_run_continues_in_all_without_anything_twice(home, logged, tmp_path, monkeypatch):
    (tmp_path / "killing.py").write_text(KILLER)
    words = [f"config_dir={tmp_path}", "callbacks.killer._target_=killing.Killer"]
    begin = [*WORDS, ALL_FOUR, *words, f"callbacks.killer.done={tmp_path / 'done'}"]
    again = tmp_path / "again"
    killed = convlens("train", f"run_dir={again}", *begin)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert read_mlflow(again)[0].pictures, "nothing was logged before the kill"
    before = json.loads((again / "trackers" / "runs.json").read_text())
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["resume", f"run={again}", *words]) == 0
    assert before == json.loads((again / "trackers" / "runs.json").read_text())
    _, run = read_mlflow(again)
    assert run.info.status == "FINISHED"
    found = read_all(again)

    def strip(numbers: Counter) -> Counter:
        return Counter({key: n for key, n in numbers.items() if key[0] not in REPEATED})

    for name in ("wandb", "mlflow", "trackio"):
        assert strip(found[name].numbers) == strip(logged[name].numbers), name
        assert found[name].pictures == logged[name].pictures, name
        assert found[name].texts == logged[name].texts, name
        assert found[name].tables == logged[name].tables, name
        counts = Counter((tag, step) for tag, step, _ in found[name].numbers if tag in REPEATED)
        assert set(counts.values()) == {1}, name


def test_the_weights_are_the_same_bits_with_any_logger_and_with_none(home, tmp_path):
    alone = train(tmp_path / "alone", *WORDS, "logger=csv")
    assert not (alone / "tensorboard").exists() and not (alone / "trackers").exists()
    contents = [
        torch.load(each / "checkpoints" / "last.ckpt", weights_only=True) for each in (home, alone)
    ]
    for name, weight in contents[0]["state_dict"].items():
        assert torch.equal(weight, contents[1]["state_dict"][name]), name
    states = [str(each["optimizer_states"]) for each in contents]
    assert states[0] == states[1]
    # what the run itself keeps is the same too
    for file in (alone / "explanations").rglob("*.jpg"):
        assert file.read_bytes() == (home / file.relative_to(alone)).read_bytes(), file


@pytest.mark.slow
def test_nothing_reaches_the_network(tmp_path):
    """All requests would go to a proxy, which counts them; a token would make libraries ask."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def count() -> None:
            while True:
                try:
                    connection, _ = proxy.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(1)
                    asked.append(connection.recv(200))

        threading.Thread(target=count, daemon=True).start()
        place = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        names = ("http_proxy", "https_proxy", "all_proxy")
        proxies = {name: place for each in names for name in (each, each.upper())}
        # `CI` would silence MLflow by itself
        environment = {
            **proxies,
            "HF_TOKEN": "hf_" + "x" * 34,
            "NO_PROXY": "",
            "no_proxy": "",
            "CI": "",
        }
        run = f"run_dir={tmp_path / 'run'}"
        done = convlens("train", run, *FEW, ALL_FOUR, **environment)
        assert done.returncode == 0, done.stderr
        probe = "import urllib.request as r\ntry: r.urlopen('http://example.invalid', timeout=5)\n"
        probe += "except Exception: pass"
        subprocess.run([sys.executable, "-c", probe], env={**os.environ, **proxies}, check=True)
        proxy.shutdown(socket.SHUT_RDWR)
    assert len(asked) == 1 and b"example.invalid" in asked[0], asked


@pytest.mark.slow
def test_only_the_first_of_two_processes_logs_ddp(tmp_path):
    train_apart(tmp_path, *FEW, ALL_FOUR, "trainer=ddp_cpu")
    logged = read_all(tmp_path / "run")
    assert logged["wandb"].numbers == logged["trackio"].numbers
    assert logged["wandb"].rounded() == logged["tensorboard"].numbers
    assert len([*(tmp_path / "run" / "trackers" / "wandb").glob("offline-run-*")]) == 1


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_missing_package_is_a_line_before_anything_is_done(name, tmp_path, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda each: None if each == name else find(each)
    )
    config = compose([*TINY, f"logger={name}", f"run_dir={tmp_path / 'run'}"])
    with pytest.raises(UserError, match=rf"pip install 'convlens\[{name}\]'"):
        runs.train(config)
    assert not (tmp_path / "run").exists()
    check_trackers(compose([*TINY, "logger=[tensorboard,csv]"]).logger)


def test_a_tracker_that_cannot_be_opened_ends_the_run_in_one_line(tmp_path, capsys):
    taken = tmp_path / "file"
    taken.write_text("")
    words = [*FEW, "logger=[mlflow,trackio]", f"logger.trackio.dir={taken}"]
    assert main(["train", f"run_dir={tmp_path / 'run'}", *words]) == 2
    shown = capsys.readouterr().err
    (line,) = [each for each in shown.splitlines() if each.startswith("convlens:")]
    assert "logger=trackio cannot be opened" in line and "logger.trackio.dir" in line
    assert "Traceback" not in shown
    assert not (tmp_path / "run" / "config.yaml").exists()
    assert read_mlflow(tmp_path / "run")[1].info.status == "KILLED"


@pytest.mark.parametrize("place", ["{}/all.db", "all.db"], ids=["absolute", "relative"])
def test_one_database_for_several_runs(tmp_path, monkeypatch, place):
    from mlflow import MlflowClient

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    uri = f"sqlite:///{place.format(tmp_path)}"
    database = Path(place.format(tmp_path)).absolute()
    words = [*FEW, "logger=[mlflow,trackio]", f"logger.mlflow.uri={uri}",
             f"logger.trackio.dir={tmp_path / 'trackio'}"]  # fmt: skip
    for name in ("a", "b"):
        train(tmp_path / name, *words)
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name("convlens").experiment_id])
    assert {run.info.run_name for run in found} == {"a", "b"}
    assert len({run.data.metrics["test/loss"] for run in found}) == 1
    assert not Path("mlruns").exists()
    models = (database.parent / "mlartifacts").glob("*/artifacts/model/best.ckpt")
    assert {file.parents[2].name for file in models} == {run.info.run_id for run in found}
    code = "import trackio; print(sorted(run.name for run in trackio.Api().runs('convlens')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")})  # fmt: skip
    assert done.stdout.splitlines()[-1] == "['a', 'b']"
