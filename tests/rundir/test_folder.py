"""All processes of a run use the same folder, whatever starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from convlens.core.errors import UserError
from convlens.core.processes import is_first_process
from convlens.rundir.claim import ENVIRONMENT, Claim
from convlens.rundir.lock import Hold
from support.tiny import TINY

LAUNCHER = [ENVIRONMENT, "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE"]
LAUNCHER += ["TORCHELASTIC_RUN_ID"]
LAUNCHER += ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_JOB_ID", "SLURM_JOB_NAME"]
SLURM = {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train"}
TORCHRUN = {"WORLD_SIZE": "4", "LOCAL_RANK": "0"}


@pytest.fixture
def started(at, monkeypatch):
    """Set the variables of one launcher only; the result claims the folder of a run."""

    def by(*, num_nodes=1, run_dir=None, **variables):
        for name in LAUNCHER:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return Claim(run_dir, "scratch", overwrite=False, num_nodes=num_nodes)

    yield by
    # taking sets it in a process that is alone; here others follow
    os.environ.pop(ENVIRONMENT, None)


def home(claim: Claim) -> str:
    """Return the folder of a run: checked before the expensive part, taken after it."""
    claim.check()
    with Hold() as hold:
        return str(claim.take(hold))


def test_alone_the_folder_is_named_by_date_and_time(started):
    first, second = home(started()), home(started())
    assert Path(first).parent == Path(second).parent == Path("outputs/scratch")
    assert first != second


def test_processes_of_lightnings_launcher_take_the_first_ones_folder(started):
    chosen = home(started())
    later = started(LOCAL_RANK="1", NODE_RANK="0", CONVLENS_RUN_DIR=chosen)
    assert not is_first_process()
    assert home(later) == chosen


def test_several_nodes_under_lightnings_launcher_need_a_run_dir(started):
    for rank in "01":
        with pytest.raises(UserError, match="set run_dir=…"):
            started(num_nodes=2, NODE_RANK=rank).check()
        assert home(started(num_nodes=2, NODE_RANK=rank, run_dir="it")) == "it"
        assert is_first_process() == (rank == "0")


def test_the_first_process_of_a_second_node_is_not_the_first(started):
    started(NODE_RANK="1", LOCAL_RANK="0")
    assert not is_first_process()
    started(**TORCHRUN, RANK="2", GROUP_RANK="1")
    assert not is_first_process()
    started(**TORCHRUN, RANK="0", GROUP_RANK="1")
    assert is_first_process()  # torchrun numbers nodes as they arrive; RANK decides


def test_slurm_tasks_share_the_jobs_folder(started):
    for rank in "01":
        config = started(**SLURM, SLURM_PROCID=rank)
        assert is_first_process() == (rank == "0")
        assert home(config) == "outputs/scratch/slurm_77"


def test_a_slurm_job_that_is_put_back_into_the_queue_is_told_of_resume(started):
    held = Path(home(started(**SLURM, SLURM_PROCID="0")))
    (held / "config.yaml").touch()
    with pytest.raises(UserError, match="convlens resume run=outputs/scratch/slurm_77"):
        started(**SLURM, SLURM_PROCID="0").check()


@pytest.mark.parametrize(
    "allocation",
    [
        {"SLURM_JOB_ID": "77", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"},
        {"SLURM_JOB_ID": "77", "SLURM_PROCID": "0"},
        {**SLURM, "SLURM_PROCID": "0", "SLURM_JOB_NAME": "interactive"},
    ],
)
def test_a_single_process_inside_an_allocation_is_as_ever(started, allocation):
    assert "slurm" not in home(started(**allocation))
    # and Lightning may start others there
    started(**allocation, LOCAL_RANK="1")
    assert not is_first_process()


def test_torchrun_with_an_id_shares_a_folder_and_without_says_so_everywhere(started):
    for rank in "01":
        config = started(**TORCHRUN, RANK=rank, TORCHELASTIC_RUN_ID="run/7")
        assert home(config) == "outputs/scratch/torchrun_run_7"
        with pytest.raises(UserError, match="set run_dir=…"):
            started(**TORCHRUN, RANK=rank, TORCHELASTIC_RUN_ID="none").check()
        config = started(**TORCHRUN, RANK=rank, TORCHELASTIC_RUN_ID="none", run_dir="it")
        assert home(config) == "it"
    alone = started(RANK="0", WORLD_SIZE="1", TORCHELASTIC_RUN_ID="none")
    assert "torchrun" not in home(alone)


@pytest.mark.slow
def test_ddp_of_two_processes_by_torchrun_is_one_run(at):
    words = [*TINY, "trainer=ddp_cpu", "training.epochs=1", "callbacks=none"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "convlens", "train", "run_dir=runs/it", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run folder") == 1
    assert [file.name for file in (at / "runs").iterdir()] == ["it"]
    assert not (at / "outputs").exists()
    assert json.loads((at / "runs" / "it" / "summary.json").read_text())["processes"] == 2
