"""One run folder, whoever starts the processes."""

from __future__ import annotations

import pytest

from convlens import folder
from convlens.errors import UserError

LAUNCHER = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_JOB_ID",
            "TORCHELASTIC_RUN_ID", "WORLD_SIZE", "CONVLENS_RUN_DIR")  # fmt: skip


@pytest.fixture
def started(at, monkeypatch):
    """Sets a launcher's variables, and none of another."""

    def by(**variables):
        for name in LAUNCHER:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return {"run_dir": None, "experiment": "scratch", "overwrite": False}

    return by


def test_alone_the_folder_is_named_by_date_and_time(started):
    config = started()
    folder.check(config)
    assert config["run_dir"] is None
    assert folder.claim(config).parent.name == "scratch"


def test_slurm_tasks_share_the_jobs_folder(started):
    homes = []
    for rank in ("0", "1"):
        config = started(SLURM_PROCID=rank, SLURM_NTASKS="2", SLURM_JOB_ID="77")
        folder.check(config)
        assert folder.first_process() == (rank == "0")
        homes.append(folder.claim(config))
    assert str(homes[0]) == str(homes[1]) == "outputs/scratch/slurm_77"


def test_a_single_process_inside_an_allocation_is_as_ever(started):
    config = started(SLURM_PROCID="0", SLURM_NTASKS="1", SLURM_JOB_ID="77")
    folder.check(config)
    assert config["run_dir"] is None


def test_torchrun_with_an_id_shares_a_folder_and_without_says_so_everywhere(started):
    for rank in ("0", "1"):
        config = started(RANK=rank, WORLD_SIZE="2", TORCHELASTIC_RUN_ID="run7")
        folder.check(config)
        assert config["run_dir"] == "outputs/scratch/torchrun_run7"
        with pytest.raises(UserError, match="run_dir"):
            folder.check(started(RANK=rank, WORLD_SIZE="2", TORCHELASTIC_RUN_ID="none"))


def test_the_first_process_of_a_second_node_is_not_the_first(started):
    started(NODE_RANK="1", LOCAL_RANK="0")
    assert not folder.first_process()
