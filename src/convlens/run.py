"""Config to datamodule, module, callbacks and trainer; then the life of a run."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as L
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from convlens import folder, logs
from convlens.building import callback_of
from convlens.callbacks import (
    Alarms,
    EpochLog,
    EventLogger,
    ExplanationCallback,
    HParams,
    LastLooks,
    Ledger,
    ProgressBar,
)
from convlens.data.datamodule import PictureData
from convlens.data.listing import Listing
from convlens.data.probes import Probes, choose_probes, own_probes
from convlens.data.sources import cache_dir
from convlens.data.splits import read_split, write_split
from convlens.data.unchanged import check_state, write_state
from convlens.draw.canvas import to_uint8
from convlens.draw.jpeg import encode_png
from convlens.errors import Interrupted, UserError
from convlens.models import OWN_HEAD
from convlens.models.weights import pending_weights
from convlens.pages.report import report
from convlens.summary import best_row, summarise
from convlens.training import ClassifierModule
from convlens.training.checkpoint import (
    STOPPED,
    WholeCheckpointIO,
    checkpoint_to_resume,
    read_checkpoint,
)
from convlens.training.divergence import Divergence
from convlens.training.interruption import Interruption, Reopening
from convlens.training.memory import keep_freed_memory
from convlens.training.objective import class_weights
from convlens.training.phases import Phases
from convlens.training.precision import PRECISIONS, fastest, step_seconds
from convlens.training.processes import Companions, broken_off
from convlens.training.stopping import EarlyStop

log = logging.getLogger("convlens")


@dataclass
class Run:
    """Everything that a config describes, put together.

    Attributes:
        config: resolved; what is written into ``config.yaml``.
        data: the pictures.
        module: the network with its loss and optimizer.
        explanations: the callbacks that look.
        phases: what puts the schedule into force.
    """

    config: dict
    data: PictureData
    module: ClassifierModule
    explanations: list[ExplanationCallback]
    phases: Phases


def assemble(config: dict, *, pretrained: bool = True) -> Run:
    """Build data, network and explanation callbacks; nothing is decoded or written yet.

    Args:
        config: resolved; what it leaves open (epochs, weights, normalisation) is settled in it.
        pretrained: False for a network whose weights will come from a checkpoint.

    Raises:
        UserError: one line for whatever in the config does not fit the data or itself.
    """
    if not torch.cuda.is_available():
        keep_freed_memory()
    data = data_of(config)
    counts = data.index.counts["train"].tolist()
    training = config["training"]
    training["class_weights"] = class_weights(training["class_weights"], counts)
    module = ClassifierModule(config, list(data.class_names), pretrained=pretrained)
    _settle(config, module)
    phases = Phases(config["cache_features"], cache_dir())
    phases.check(module, data)
    # what an experiment says of a callback that `callbacks=none` leaves out is no callback yet
    specs = [spec for spec in config["callbacks"].values() if isinstance(spec, dict)]
    callbacks = [callback_of(spec) for spec in specs if "_target_" in spec]
    example = torch.zeros(1, config["data"]["channels"], *[config["data"]["size"]] * 2)
    for callback in callbacks:
        callback.class_names = data.class_names
        callback.chosen(module.model, example)
    return Run(config, data, module, callbacks, phases)


def _settle(config: dict, module: ClassifierModule) -> None:
    """Write into the config what was found out while building: it tells the whole run."""
    epochs = config["training"]["epochs"]
    config["training"]["epochs"] = min(epochs or module.schedule.epochs, module.schedule.epochs)
    normalise = module.model.normalise
    config["model"]["normalisation"] = [
        normalise.mean.flatten().tolist(), normalise.std.flatten().tolist()
    ]  # fmt: skip
    if module.model.weights:
        config["model"]["weights"] = str(module.model.weights.path)


def data_of(config: dict) -> PictureData:
    training = config["training"]
    return PictureData(
        config["data"],
        seed=config["seed"],
        batch_size=training["batch_size"],
        eval_batch_size=training["eval_batch_size"],
        steps_per_epoch=training["steps_per_epoch"],
        per_device=training["batch_size_is"] == "per_device",
    )


def train(config: dict, *, resume: Path | None = None) -> tuple[Path, dict]:
    """Train what ``config`` describes, test the best checkpoint, write the run folder.

    Args:
        config: resolved; of a resumed run the one in its folder.
        resume: the folder of the run to go on with, or None for a new one.

    Returns:
        The run folder and the summary.
    """
    if resume is None:
        folder.check(config)
    with folder.Hold() as hold:
        if resume:
            hold.take(resume)
        return _trained(config, resume, hold)


def _trained(config: dict, resume: Path | None, hold: folder.Hold) -> tuple[Path, dict]:
    began = time.perf_counter()
    start = checkpoint_to_resume(resume / "checkpoints") if resume else None
    run = assemble(config, pretrained=start is None)
    notes = dict.fromkeys([*run.data.index.notes, *run.data.dataset.notes])
    home = resume or folder.claim(config, hold)
    if folder.first_process():
        logs.keep(home / "train.log")
    for line in notes:
        log.warning(line)
    settle_precision(run)
    _prepare(run, home, resume is not None)

    trainer, epoch_log, keeper = trainer_of(run, home, resume is not None)
    looking = config["looking"]
    ledger = Ledger(
        config["callbacks"]["budget"], looking["seconds"],
        looking["first_seconds"], looking["last_seconds"],
    )  # fmt: skip
    trainer.convlens_ledger = ledger
    setup = time.perf_counter() - began
    for line in warnings_of(run):
        log.warning(line)
    log.info("training %s in %s, precision %s", config["experiment"], home, config["precision"])
    with _ending(trainer, home):
        _fit(trainer, run, start)
    best = keeper.best_model_path if keeper else None
    clock = best_row(epoch_log.history)["epoch"]
    run.phases.tested_epoch = int(clock) if best else trainer.current_epoch
    trainer.convlens_tested = run.phases.tested_epoch
    with _ending(trainer, home):
        test = tested(trainer, run, best or None)
    epoch_log.log_test(trainer, test, clock)
    seconds = {"total": time.perf_counter() - began, "setup": setup, **epoch_log.seconds}
    alarms = next(c for c in trainer.callbacks if isinstance(c, Alarms))
    summary = summarise(
        config, epoch_log, ledger, test, seconds, alarms.current, processes=trainer.world_size
    )
    summary["skipped"] = run.data.dataset.skipped
    summary["features"] = run.phases.fetched
    lost = [getattr(logger, "failure", "") for logger in trainer.loggers]
    summary["failures"] += [line for line in (*lost, epoch_log.failure, logs.failure()) if line]
    if folder.first_process() and not trainer.fast_dev_run:
        try:
            folder.write_summary(home, summary)
        except OSError as error:
            raise UserError(
                f"summary.json was not written ({error.strerror}): make room; `make resume "
                f"run={home}` writes it, nothing is trained again"
            ) from error
        _write_report(home)
    return home, summary


def _write_report(home: Path) -> None:
    """The run's page; a run whose page fails is a good run still."""
    try:
        report(home)
    except Exception as error:  # whatever is wrong with a picture or the disk
        log.warning(
            "report.html was not written: %s; `make report run=%s` tries again", error, home
        )
        log.debug("traceback", exc_info=True)


def _fit(trainer: L.Trainer, run: Run, start: Path | None) -> None:
    """Train, with kernels that give the same bits every time."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    # the flag above also fills every new tensor; nothing of ours reads what it did not write
    torch.utils.deterministic.fill_uninitialized_memory = False
    trainer.fit(run.module, datamodule=run.data, ckpt_path=start, weights_only=True)


@contextlib.contextmanager
def _ending(trainer: L.Trainer, home: Path) -> Iterator[None]:
    """The lines for a run that does not come to its own end.

    Raises:
        Interrupted: a signal ended it.
        UserError: one of several processes died.
    """
    companions = next(c for c in trainer.callbacks if isinstance(c, Companions))
    interruption = next(c for c in trainer.callbacks if isinstance(c, Interruption))
    number = 0
    try:
        yield
    except SystemExit as error:
        # Lightning's way out after a signal; what it was raised for comes with it
        if not trainer.interrupted:
            raise
        number = getattr(error.__context__, "status", 128 + signal.SIGINT) - 128
    except RuntimeError as error:
        line = companions.fallen()
        if line:
            companions.end()
            raise UserError(line) from error
        if not folder.first_process() and broken_off(error):
            raise SystemExit(1) from error  # another one fell, and the first one says so
        raise
    number = interruption.came or number
    if number:
        raise Interrupted(
            f"stopped by {signal.Signals(number).name} {_how_far(trainer, interruption.file)}; "
            f"`make resume run={home}` goes on from there",
            128 + number,
        )


def _how_far(trainer: L.Trainer, stopped: Path) -> str:
    epochs = f"after {trainer.current_epoch} of {trainer.max_epochs} epochs"
    if not stopped.exists():
        return epochs
    done = trainer.fit_loop.epoch_loop.batch_progress.current.completed
    return f"{epochs} and {done} of {trainer.num_training_batches} batches"


def trainer_of(
    run: Run, home: Path, resumed: bool
) -> tuple[L.Trainer, EpochLog, ModelCheckpoint | None]:
    """The trainer with loggers and callbacks, in the order that their hooks rely on."""
    config = run.config
    options = dict(config["trainer"])
    training = config["training"]
    epoch_log = EpochLog(home / "metrics.csv")
    alarms = Alarms(config["alarms"], run.data.class_names)
    interruption = Interruption(home / "checkpoints" / STOPPED)
    callbacks: list[L.Callback] = [
        Companions(f"`make resume run={home}` goes on"), interruption, Divergence(), run.phases,
        LastLooks(), *run.explanations, epoch_log, alarms, HParams(config),
    ]  # fmt: skip
    keeper = None
    if training["early_stopping"]:
        callbacks.append(
            EarlyStop(
                "val/loss", patience=training["early_stopping"], check_on_train_epoch_end=True
            )
        )
    if not options["fast_dev_run"]:
        where = {"dirpath": home / "checkpoints", "enable_version_counter": False}
        keeper = ModelCheckpoint(
            filename="best", monitor="val/loss", mode="min", save_on_train_epoch_end=True, **where
        )
        # a callback of its own, and after the best: Lightning's `save_last` writes last.ckpt only
        # in epochs that were the best so far (2.6), and a kill between the two files shall leave
        # an older last, from which the best is found again
        last = ModelCheckpoint(filename="last", save_on_train_epoch_end=True, **where)
        callbacks += [keeper, last]
    if sys.stdout.isatty():
        callbacks.append(ProgressBar())
    callbacks.append(Reopening(interruption))
    loggers = []
    if config["logger"]["tensorboard"]:
        # events of an epoch that a killed run did not finish must not show twice
        purge = {"purge_step": completed_epochs(home) + 1} if resumed else {}
        loggers.append(
            EventLogger(home, name="", version="tensorboard", default_hp_metric=False, **purge)
        )
    trainer = _lightning(
        **options,
        max_epochs=training["epochs"],
        precision=PRECISIONS[str(config["precision"])],
        gradient_clip_val=training["gradient_clip"],
        accumulate_grad_batches=training["accumulate"],
        val_check_interval=1.0 / training["validations"],
        logger=loggers or False,
        callbacks=callbacks,
        plugins=[WholeCheckpointIO()],
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
        enable_checkpointing=keeper is not None,
    )
    return trainer, epoch_log, keeper


def _lightning(**options) -> L.Trainer:
    """Lightning's trainer; what it refuses is told in a line."""
    try:
        return L.Trainer(**options)
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"trainer or callbacks: {error}") from error


def completed_epochs(home: Path) -> int:
    """Epochs that the last checkpoint of a run holds."""
    last = home / "checkpoints" / "last.ckpt"
    if not last.exists():
        return 0
    return read_checkpoint(last)["epoch"] + 1


def warnings_of(run: Run) -> list[str]:
    """What a person should know about the schedule before it costs hours."""
    module = run.module
    first = module.schedule.phases[0]
    base = [
        name
        for name in first.train
        if any(p.startswith("backbone.") for p in module.schedule.groups[name].parameters)
    ]
    heads = [
        name
        for name in first.train
        if any(p.startswith("head.") for p in module.schedule.groups[name].parameters)
    ]
    fresh_head = run.config["model"]["head"] != OWN_HEAD
    if not (module.model.weights and base and heads and fresh_head):
        return []
    return [
        f"{', '.join(base)} and the untrained head are trained together from the first epoch: the "
        f"head's large random gradients will spoil the pretrained weights; train the head alone "
        f"first, in a phase of its own"
    ]


def settle_precision(run: Run) -> None:
    """Resolve ``precision: auto`` in the config, once."""
    if str(run.config["precision"]) != "auto":
        return
    if folder.started_outside():
        # each process would measure for itself, and they have to agree
        half = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        run.config["precision"] = "bf16" if half else "32"
    else:
        run.config["precision"] = fastest(measured_steps(run))
    log.info("precision: auto is %s on this machine", run.config["precision"])


def device_of(config: dict) -> torch.device:
    """Where a run with this config trains."""
    kind = "cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu"
    return torch.device("cpu" if config["trainer"]["accelerator"] == "cpu" else kind)


def measured_steps(run: Run) -> dict[str, float]:
    """Seconds of a training step on this machine, by precision; on noise, nothing is decoded."""
    data, training = run.config["data"], run.config["training"]
    device = device_of(run.config)
    rng = torch.Generator().manual_seed(0)
    shape = (training["batch_size"], data["channels"], data["size"], data["size"])
    pictures = torch.rand(shape, generator=rng).to(memory_format=torch.channels_last)
    labels = torch.arange(len(pictures)) % len(run.data.class_names)
    return step_seconds(run.module, pictures, labels, device, cache_dir() / "precision.json")


def _prepare(run: Run, home: Path, resumed: bool) -> None:
    """Write what is known before training: config, split, probes; attach the probes.

    Raises:
        UserError: the data of a resumed run is not what it was.
    """
    config = run.config
    listing = run.data.index.listing
    if folder.first_process():
        if listing is not None:
            _compare(listing, home, resumed)
        folder.write_config(home, config)
        if listing is not None:
            write_split(home / "split.csv", listing)
    if config["probes"]["files"]:
        probes = own_probes(config["probes"]["files"], run.data.class_names, config["data"])
    else:
        pictures = run.data.dataset.splits["validation"]
        probes = choose_probes(
            pictures, run.data.class_names, count=config["probes"]["count"], seed=config["seed"]
        )
    if folder.first_process():
        _keep_probes(probes, home / "probes")
    for callback in run.explanations:
        callback.attach(probes, run.data.class_names, home / "explanations", config["seed"])


def _compare(listing: Listing, home: Path, resumed: bool) -> None:
    """Note which pictures a run begins with; refuse to go on with others."""
    noted = home / "pictures.csv"
    if resumed and (home / "split.csv").exists():
        read_split(home / "split.csv", listing)
    if not (resumed and noted.exists()):
        write_state(noted, listing)
    elif line := check_state(noted, listing):
        log.warning(line)


def _keep_probes(probes: Probes, home: Path) -> None:
    home.mkdir(exist_ok=True)
    lines = ["probe\tsource"]
    for name, source, image in zip(probes.names, probes.sources, probes.images, strict=True):
        (home / f"{name}.png").write_bytes(encode_png(to_uint8(image)))
        lines.append(f"{name}\t{' '.join(source.splitlines())}")
    text = "\n".join(lines) + "\n"  # a file's name need not be UTF-8
    (home / "probes.tsv").write_text(text, encoding="utf-8", errors="backslashreplace")


def tested(trainer: L.Trainer, run: Run, best: str | None) -> dict[str, float]:
    """Test results of the best checkpoint, or of the network as it is.

    Only the weights are loaded: with ``ckpt_path`` Lightning would also put the callbacks back to
    the best epoch, and the history behind it would be lost.
    """
    if best:
        run.module.load_state_dict(read_checkpoint(best)["state_dict"])
    trainer.test(run.module, datamodule=run.data, verbose=False)
    return {k: v for k, v in run.module.results.items() if k.startswith("test/")}


def download_of_weights(config: dict) -> str | None:
    """What a run with this config would download as weights, or None."""
    spec = config["model"]
    if spec["name"] == "scratch":
        return None
    network = spec["name"] if spec["name"] in ("vgg16", "inception_v3") else "timm"
    timm_name = None if network == "vgg16" else spec["name"]
    whole = spec["head"] == OWN_HEAD
    return pending_weights(network, str(spec["weights"]), timm_name=timm_name, whole=whole)
