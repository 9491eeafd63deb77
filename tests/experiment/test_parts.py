"""Work shared out among processes: the same bytes as from one, and nothing computed twice."""

from __future__ import annotations

import csv
import subprocess
import sys

import pytest

from convlens.cli.main import main
from convlens.core.errors import UserError
from convlens.core.processes import Share, find_share, is_first_process
from convlens.experiment import predict
from convlens.experiment.networks import load_network
from convlens.experiment.parts import Parts
from support.share_predict import compare, draw_images

COUNT, BATCH = 30, 4


@pytest.fixture(scope="module")
def explainer():
    return load_network("example", [])[0]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = draw_images(tmp_path_factory.mktemp("images"), COUNT)
    return sorted(folder.rglob("*.png"))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(predict, "BATCHES", 1)


def write(explainer, images, home, **options):
    home.mkdir(exist_ok=True)
    table = home / predict.TABLE
    summary = predict.predict_files(explainer, images, table, batch=BATCH, **options)
    return summary, table.read_bytes() if table.exists() else None


@pytest.mark.parametrize("least", [None, 0.6])
def test_shares_make_the_table_of_one_process(explainer, images, tmp_path, least):
    whole, alone = write(explainer, images, tmp_path / "alone", least=least)
    for number in (2, 1):
        share = Share(number, 3)
        summary, table = write(explainer, images, tmp_path / "shared", share=share, least=least)
        assert summary is None and table is None
    share = Share(0, 3)
    summary, table = write(explainer, images, tmp_path / "shared", share=share, least=least)
    assert table == alone and len(table.splitlines()) == COUNT + 1
    assert [file.name for file in (tmp_path / "shared").iterdir()] == [predict.TABLE]
    assert summary.counts == whole.counts and summary.refused == whole.refused
    rows = list(csv.DictReader(table.decode().splitlines()))
    empty = sum(row["predicted"] == "" and row["error"] == "" for row in rows)
    assert summary.abstained == whole.abstained == empty and (empty > 0) == (least is not None)
    assert sum(summary.counts.values()) == COUNT - 1 - empty and len(summary.refused) == 1


def test_a_late_process_finds_the_table_and_leaves_nothing(explainer, images, tmp_path):
    """All parts were there from a command that was killed, so the first process did not wait."""
    _, alone = write(explainer, images, tmp_path)
    summary, table = write(explainer, images, tmp_path, share=Share(1, 2))
    assert summary is None and table == alone
    assert [file.name for file in tmp_path.iterdir()] == [predict.TABLE]


@pytest.mark.parametrize("batches", [1, 3])
def test_a_stopped_command_computes_only_what_is_missing(explainer, images, tmp_path, batches,
                                                         monkeypatch):  # fmt: skip
    _, alone = write(explainer, images, tmp_path / "alone")
    monkeypatch.setattr(predict, "BATCHES", batches)
    passes, real = [], explainer.probabilities

    def stop(batch):
        passes.append(len(batch))
        if len(passes) == 5:
            raise KeyboardInterrupt
        return real(batch)

    with monkeypatch.context() as patch:
        patch.setattr(explainer, "probabilities", stop)
        with pytest.raises(KeyboardInterrupt):
            write(explainer, images, tmp_path / "stopped")
        assert not (tmp_path / "stopped" / predict.TABLE).exists()
        _, table = write(explainer, images, tmp_path / "stopped")
    assert table == alone
    kept = 4 // batches * batches  # batches of parts that were whole
    assert len(passes) == 5 + 8 - kept


@pytest.mark.parametrize(
    ("images_of", "options"),
    [(lambda found: found[1:], {}), (list, {"network": "other"}), (list, {"least": 0.5})],
)
def test_parts_of_other_work_are_refused_in_a_line(explainer, images, tmp_path, images_of, options):
    write(explainer, images, tmp_path, share=Share(1, 2))
    before = {file.name: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match="has parts of other work") as refused:
        write(explainer, images_of(images), tmp_path, share=Share(0, 2), **options)
    assert "\n" not in str(refused.value)
    after = {file.name: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert before == after


def test_a_helper_that_fails_is_told(tmp_path):
    helper = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    helper.wait()
    parts = Parts(tmp_path / "parts", 2, Share(0, 2))
    parts.begin("plan")
    with pytest.raises(UserError, match="process 2 of 2 ended with status 3"):
        parts.wait([helper])


@pytest.mark.parametrize(
    ("variables", "share"),
    [
        ({}, Share(0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "4"}, Share(2, 4)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Share(0, 1)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "3"}, Share(1, 3)),
        ({"CONVLENS_SHARE": "1/2", "RANK": "0", "WORLD_SIZE": "2"}, Share(1, 2)),
    ],
)
def test_the_share_is_known_whatever_started_the_process(variables, share, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert find_share() == share and is_first_process() == (share.number == 0)


@pytest.mark.parametrize(
    ("variables", "words", "said"),
    [
        ({"RANK": "1", "WORLD_SIZE": "2"}, [], "set run_dir="),
        ({"RANK": "0", "WORLD_SIZE": "2"}, ["run_dir=x", "processes=2"], "leave it out with"),
        ({}, ["processes=0"], "processes=0"),
        ({}, ["processes=two"], "processes=two"),
    ],
)  # fmt: skip
def test_what_processes_cannot_agree_on_is_refused(variables, words, said, at, capsys, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["predict", "ckpt=example", "images=.", *words]) == 2
    assert said in capsys.readouterr().err and not list(at.iterdir())


@pytest.mark.slow
def test_processes_torchrun_and_kills_give_the_same_bytes(tmp_path):
    assert compare(tmp_path, 600, [2]) == []
