"""The run folder: where it is, that it is free, and what is written there."""

from __future__ import annotations

import datetime
import errno
import json
import logging
import os
import re
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from convlens.config_checks import check_shape
from convlens.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: two processes in one folder are not noticed
    fcntl = None

# set by the first process for those that a distributed strategy starts from the same words
ENVIRONMENT = "CONVLENS_RUN_DIR"
OUTPUTS = Path("outputs")
_MOST_LETTERS = 1_000_000  # of a config.yaml; ours have some thousand
LOCK = ".lock"
TEMPORARY = (".*.tmp", "*.csv.tmp", "checkpoints/.*.tmp")  # files not yet renamed to their names
_WAIT = 0.5  # seconds in which a command that only looks at a lock has let it go
log = logging.getLogger("convlens")
# what lies in these folders is a run's own, and never another run
INSIDE = {"tensorboard", "explanations", "checkpoints", "probes"}
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


def first_process() -> bool:
    """Whether this is the process that writes, of however many a launcher started."""
    if "RANK" in os.environ:  # torchrun: the number among all processes of all nodes
        return _number("RANK") == 0
    if _srun():
        return _number("SLURM_PROCID") == 0
    # Lightning's own launcher: the first process of another node has the local rank 0 too
    return not any(_number(name) for name in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK"))


def started_outside() -> bool:
    """Whether torchrun or srun started several processes, which all run from the first line on."""
    return _srun() or ("TORCHELASTIC_RUN_ID" in os.environ and _number("WORLD_SIZE") > 1)


def _srun() -> bool:
    """Whether srun started several tasks; a shell inside an allocation is an ordinary machine."""
    # the names by which Lightning too knows a shell that was opened in an allocation
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return _number("SLURM_NTASKS") > 1 and "SLURM_PROCID" in os.environ and not interactive


def _number(name: str) -> int:
    """An environment variable as a number; 0 where it is not set."""
    return int(os.environ.get(name) or 0)


def agreed(config: dict) -> Path | None:
    """The folder that every process finds by itself; None where the first one may choose.

    Raises:
        UserError: several processes have nothing to agree by. It is raised in each of them, for
            one that went on would wait for the others for ever.
    """
    if config["run_dir"]:
        return Path(config["run_dir"])
    parent = OUTPUTS / config["experiment"]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        name = os.environ["TORCHELASTIC_RUN_ID"]
        if name != "none":  # torchrun's word for no --rdzv-id
            return parent / ("torchrun_" + re.sub(r"[^\w.-]", "_", name))
        alone = not started_outside()
    elif _srun():
        return parent / f"slurm_{os.environ['SLURM_JOB_ID']}"
    else:
        alone = config["trainer"]["num_nodes"] == 1
    if not alone:
        raise UserError(
            "run_dir=… has to be given when something else starts the processes; torchrun's "
            "--rdzv-id=NAME does it too"
        )
    return None


def check(config: dict) -> None:
    """Refuse a run folder early, before anything costly is done.

    Raises:
        UserError: the folder holds a run already, a file stands where it or a parent should, or
            several processes know of no common folder.
    """
    folder = agreed(config)
    if folder is None or not first_process():
        return
    if holds_run(folder) and not config["overwrite"]:
        raise UserError(
            f"run_dir={folder} already holds a run: continue it with `make resume "
            f"run={folder}`, choose another run_dir, or say overwrite=true"
        )
    for part in (folder, *folder.parents):
        if part.exists() and not part.is_dir():
            raise UserError(
                f"run_dir={folder} cannot be made: {part} is a file; choose another run_dir"
            )


class Hold:
    """The right to write into one run folder, for as long as the ``with`` lasts.

    Taking it also removes the half-written files of a process that was killed there.

    It is a lock on ``.lock`` in that folder, which the system frees at any death of the process.
    On a file system without locks nothing is held, and nothing refused.
    """

    def __init__(self):
        self._fd: int | None = None

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_) -> None:
        if self._fd is not None:
            os.ftruncate(self._fd, 0)  # it names a process as long as there is one
            os.close(self._fd)
            self._fd = None

    def take(self, folder: Path) -> None:
        """Hold ``folder``, if this is the process that writes.

        Raises:
            UserError: another process holds it, or there is no such folder to write into.
        """
        if fcntl is None or not first_process():
            return
        try:
            fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"{folder} cannot be written ({error.strerror}): make room or set its permissions"
            ) from error
        try:
            _lock(fd)
        except BlockingIOError:
            holder = os.pread(fd, 100, 0).decode(errors="replace").strip()
            os.close(fd)
            raise UserError(
                f"{folder} is in use: {holder or 'another process'} trains there; wait for its "
                f"end, stop it, or choose another run_dir"
            ) from None
        except OSError as error:
            os.close(fd)
            if error.errno in _NO_LOCKS:
                return
            raise
        self._fd = fd
        for pattern in TEMPORARY:
            for left in folder.glob(pattern):
                left.unlink(missing_ok=True)  # of a process that was killed amid writing it
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def _lock(fd: int) -> None:
    """Take the lock; one who only looks whether it is taken has it for a moment (`holder_of`)."""
    until = time.monotonic() + _WAIT
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
        time.sleep(0.02)


@dataclass(frozen=True)
class Holder:
    """Who holds a run folder.

    Attributes:
        name: ``process 12 on HOST``; empty where nobody ever said so.
        alive: the lock is taken. A free one with the name of another machine's process proves
            nothing there where file systems keep locks to one machine.
    """

    name: str
    alive: bool

    @property
    def elsewhere(self) -> str:
        """The other machine whose process may hold the folder unseen; empty where none may."""
        host = self.name.rpartition(" on ")[2]
        return "" if self.alive or host == socket.gethostname() else host


def holder_of(folder: Path) -> Holder:
    """Who holds a run folder just now; nothing in it is changed."""
    try:
        fd = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return Holder("", alive=False)
    try:
        name = os.pread(fd, 100, 0).decode(errors="replace").strip()
        if fcntl is None:
            return Holder(name, alive=False)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Holder(name, alive=True)
        except OSError:
            pass  # no locks here
        return Holder(name, alive=False)
    finally:
        os.close(fd)


def claim(config: dict, hold: Hold | None = None) -> Path:
    """Make the folder of a new run and return it; later processes take the first one's.

    Args:
        hold: takes the folder before anything in it is touched.

    Raises:
        UserError: the folder holds a run already, is in use, or cannot be made.
    """
    folder = agreed(config)
    if not first_process():
        given = folder or os.environ.get(ENVIRONMENT)
        if not given:
            raise UserError("run_dir=… has to be given when something else starts the processes")
        return Path(given)
    check(config)
    if folder:
        _make(folder)
        if hold:
            hold.take(folder)
            check(config)  # another process may have begun one since
        if holds_run(folder):
            _clear(folder)
    else:
        folder = fresh(OUTPUTS / config["experiment"])
        if hold:
            hold.take(folder)
    os.environ[ENVIRONMENT] = str(folder)
    return folder


def holds_run(folder: Path) -> bool:
    return (folder / "config.yaml").exists()


def fresh(parent: Path) -> Path:
    """A new folder named by date and time; a second run of the same second gets a number."""
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    _make(parent)
    number = 1
    while True:
        folder = parent / (stamp if number == 1 else f"{stamp}_{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"run_dir={folder} cannot be made ({error.strerror}: {error.filename}); "
            f"choose another run_dir"
        ) from error


def _clear(folder: Path) -> None:
    """Remove what a run writes, and nothing else that may lie in the folder."""
    for name in ("tensorboard", "explanations", "checkpoints", "probes"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (
        "config.yaml",
        "metrics.csv",
        "summary.json",
        "train.log",
        "split.csv",
        "pictures.csv",
        "report.html",
    ):
        (folder / name).unlink(missing_ok=True)


def write_config(folder: Path, config: dict) -> None:
    _replace(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def read_config(folder: Path) -> dict:
    """The resolved config of a run.

    Raises:
        UserError: the folder holds no run.
    """
    file = folder / "config.yaml"
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}; runs lie in {OUTPUTS}/")
    if not file.exists():
        raise UserError(f"{folder} holds no run: it has no config.yaml")
    try:
        config = yaml.safe_load(_text_of(file))
    except (
        OSError,
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # dates and numbers that are none
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file} is no readable config ({reason})") from error
    if not isinstance(config, dict) or "experiment" not in config:
        raise UserError(f"{file} is not the config of a run")
    check_shape(config, str(file))
    return config


def _text_of(file: Path) -> str:
    """A config's text; one that is longer than any config is not read."""
    with open(file, encoding="utf-8") as text:
        content = text.read(_MOST_LETTERS + 1)
    if len(content) > _MOST_LETTERS:
        raise UserError(f"{file} is no config: it has more than {_MOST_LETTERS:,} letters")
    return content


def write_summary(folder: Path, summary: dict) -> None:
    _replace(folder / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")


def write_results(folder: Path, results: dict) -> None:
    """What ``make eval`` found, on which images, as ``results.json`` beside its predictions."""
    _replace(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")


def run_folders(parent: Path) -> list[Path]:
    """The folders below ``parent``, itself included, that hold a run."""
    found = []
    for path, folders, files in os.walk(parent):
        folders[:] = sorted(each for each in folders if each not in INSIDE and each[0] != ".")
        if "config.yaml" in files or "summary.json" in files:
            found.append(Path(path))
    return found


def newest_run(having: str = "config.yaml") -> Path:
    """The run that was started last, for ``run=last`` and ``ckpt=last``.

    Args:
        having: a file that the command needs; runs that do not have it yet are passed over, with
            a line.

    Raises:
        UserError: there is none.
    """
    runs = [home for home in run_folders(OUTPUTS) if holds_run(home)]
    if not runs:
        raise UserError(f"there is no run in {OUTPUTS}/ yet; `make train` makes one")
    runs.sort(key=lambda home: (home / "config.yaml").stat().st_mtime_ns, reverse=True)
    ready = next((home for home in runs if (home / having).exists()), None)
    if ready is None:
        raise UserError(f"no run in {OUTPUTS}/ has {having} yet; the newest is {runs[0]}")
    if ready != runs[0]:
        log.info("last is %s: the newer %s has no %s yet", ready, runs[0], having)
    return ready


def _replace(file: Path, text: str) -> None:
    beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_evaluation(
    home: Path, checkpoint: Path, epoch: int, results: dict[str, float], seconds: dict[str, float]
) -> None:
    """Put the results of ``make eval`` into the run's ``summary.json``, under ``evaluations``."""
    file = home / "summary.json"
    try:
        summary = json.loads(file.read_text())
    except (OSError, ValueError):
        return  # the run is not finished; its own end will write the summary
    found = {"epoch": epoch, "test": results, "seconds": seconds}
    summary.setdefault("evaluations", {})[checkpoint.name] = found
    write_summary(home, summary)
