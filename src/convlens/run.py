"""Config to datamodule, module, callbacks and trainer; then the life of a run."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytorch_lightning as L
import torch

from convlens import folder, logs
from convlens.building import callback_of
from convlens.callbacks import Alarms, EventLogger, ExplanationCallback, Ledger
from convlens.data.datamodule import PictureData
from convlens.data.sources import cache_dir
from convlens.errors import UserError
from convlens.models import OWN_HEAD
from convlens.models.weights import pending_weights
from convlens.pages.report import report
from convlens.preparing import prepare
from convlens.resuming import check_processes, check_resumed
from convlens.stopwatch import current, spent_on, timed
from convlens.summary import best_row, seconds_by_name, summarise
from convlens.tested import images_used_before
from convlens.trainer import ending, local_processes, trainer_of
from convlens.training import ClassifierModule
from convlens.training.checkpoint import checkpoint_to_resume, read_checkpoint
from convlens.training.memory import keep_freed_memory
from convlens.training.objective import class_weights
from convlens.training.phases import Phases
from convlens.training.precision import fastest, step_seconds
from convlens.training.statistics import check_batches, normalised_by_batch

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


def assemble(config: dict, *, pretrained: bool = True, start: Path | None = None) -> Run:
    """Build data, network and explanation callbacks; nothing is decoded or written yet.

    Args:
        config: resolved; what it leaves open (epochs, weights, normalisation) is settled in it.
        pretrained: False for a network whose weights will come from a checkpoint.
        start: the checkpoint of a resumed run.

    Raises:
        UserError: one line for whatever in the config does not fit the data or itself.
    """
    if not torch.cuda.is_available():
        keep_freed_memory()
    data = data_of(config, images_used_before(config, start))
    counts = data.index.counts["train"].tolist()
    training = config["training"]
    training["class_weights"] = class_weights(training["class_weights"], counts)
    module = ClassifierModule(config, list(data.class_names), pretrained=pretrained)
    settle(config, module)
    data.batch_statistics = bool(normalised_by_batch(module))
    check_batches(module, data, processes=1)
    phases = Phases(config["cache_features"], cache_dir())
    phases.check(module, data)
    return Run(config, data, module, explanations_of(config, module), phases)


def explanations_of(config: dict, module: ClassifierModule) -> list[ExplanationCallback]:
    """The callbacks that look, each held to the network's layers and classes.

    Raises:
        UserError: values that a callback does not take, or a layer that is not there.
    """
    # what an experiment says of a callback that `callbacks=none` leaves out is no callback yet
    specs = [spec for spec in config["callbacks"].values() if isinstance(spec, dict)]
    callbacks = [callback_of(spec) for spec in specs if "_target_" in spec]
    example = torch.zeros(1, config["data"]["channels"], *[config["data"]["size"]] * 2)
    for callback in callbacks:
        callback.class_names = tuple(module.class_names)
        callback.chosen(module.model, example)
    return callbacks


def settle(config: dict, module: ClassifierModule) -> None:
    """Write into the config what was found out while building: it tells the whole run."""
    epochs = config["training"]["epochs"]
    config["training"]["epochs"] = min(epochs or module.schedule.epochs, module.schedule.epochs)
    normalise = module.model.normalise
    config["model"]["normalisation"] = [
        normalise.mean.flatten().tolist(), normalise.std.flatten().tolist()
    ]  # fmt: skip
    if module.model.weights:
        config["model"]["weights"] = str(module.model.weights.path)
    if module.model.head_outputs is not None:
        config["model"]["head_classes"] = module.model.head_outputs


def data_of(config: dict, before: np.ndarray | None = None) -> PictureData:
    """The data of a config; ``before``: digests of images that are not to be tested."""
    training = config["training"]
    return PictureData(
        config["data"],
        seed=config["seed"],
        batch_size=training["batch_size"],
        eval_batch_size=training["eval_batch_size"],
        steps_per_epoch=training["steps_per_epoch"],
        per_device=training["batch_size_is"] == "per_device",
        before=before,
    )


@timed
def train(config: dict, *, resume: Path | None = None) -> tuple[Path, dict]:
    """Train what ``config`` describes, test the best checkpoint, write the run folder.

    Args:
        config: resolved; of a resumed run the one in its folder.
        resume: the folder of the run to go on with, or None for a new one.

    Returns:
        The run folder and the summary; an empty one of a dry run (``trainer.fast_dev_run``), whose
        folder is gone.
    """
    if config["trainer"]["fast_dev_run"]:
        # nothing is kept, and no run that lies in run_dir is touched
        with tempfile.TemporaryDirectory(prefix="convlens-") as scratch:
            return _trained(config, None, lambda: Path(scratch))
    if resume is None:
        folder.check(config)
    with folder.Hold() as hold:
        if resume:
            hold.take(resume)
        return _trained(config, resume, lambda: folder.claim(config, hold))


def _trained(config: dict, resume: Path | None, claim: Callable[[], Path]) -> tuple[Path, dict]:
    start = checkpoint_to_resume(resume / "checkpoints") if resume else None
    kept = read_checkpoint(start) if start else None
    run = assemble(config, pretrained=start is None, start=start)
    if kept:
        check_resumed(kept, config, run.module.schedule, resume)
    dry = bool(config["trainer"]["fast_dev_run"])
    with spent_on("decoding"):
        notes = dict.fromkeys([*run.data.index.notes, *run.data.dataset.notes])
    home = resume or claim()
    if folder.first_process() and not dry:
        logs.keep(home / "train.log")
    else:
        logs.hush()
    for line in notes:
        log.warning(line)
    if resume is None and run.module.model.weights:
        log.debug(run.module.model.weights.note)  # the screen has had it
    settle_precision(run)
    trainer, epoch_log, keeper = trainer_of(run, home, resume is not None)
    check_batches(run.module, run.data, trainer.world_size)
    if kept and (line := check_processes(kept, trainer.world_size, home)):
        log.warning(line)
    if resume and folder.first_process():
        (home / "summary.json").unlink(missing_ok=True)  # before the config says another length
    prepare(run, home, resume is not None)
    looking = config["looking"]
    ledger = Ledger(
        config["callbacks"]["budget"], looking["seconds"],
        *(looking["seconds" if dry else key] for key in ("first_seconds", "last_seconds")),
    )  # fmt: skip
    trainer.convlens_ledger = ledger
    for line in warnings_of(config, run.module):
        log.warning(line)
    where = "without keeping anything" if dry else f"in {home}"
    log.info("training %s %s, precision %s", config["experiment"], where, config["precision"])
    with ending(trainer, home):
        fit(trainer, run, start)
    best = keeper.best_model_path if keeper else None
    clock = best_row(epoch_log.history)["epoch"]
    run.phases.tested_epoch = int(clock) if best else trainer.current_epoch
    trainer.convlens_tested = run.phases.tested_epoch
    with ending(trainer, home), spent_on("test"):
        test = tested(trainer, run, best or None)
    if dry:
        return home, {}
    epoch_log.log_test(trainer, test, clock)
    alarms = next(c for c in trainer.callbacks if isinstance(c, Alarms))
    summary = summarise(
        config,
        epoch_log,
        ledger,
        test,
        current().seconds(),
        alarms.current,
        processes=trainer.world_size,
    )
    summary["skipped"] = run.data.dataset.skipped
    summary["features"] = run.phases.fetched
    lost = [each.failure for each in trainer.loggers if isinstance(each, EventLogger)]
    summary["failures"] += [line for line in (*lost, epoch_log.failure, logs.failure()) if line]
    if folder.first_process():
        try:
            folder.write_summary(home, summary)
        except OSError as error:
            raise UserError(
                f"summary.json was not written ({error.strerror}): make room; `make resume "
                f"run={home}` writes it, nothing is trained again"
            ) from error
        with spent_on("report"):
            _write_report(home)
        summary["seconds"] = seconds_by_name(current().seconds())
        with contextlib.suppress(OSError):  # the page alone is not in the one that is there
            folder.write_summary(home, summary)
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


def fit(trainer: L.Trainer, run: Run, start: Path | None) -> None:
    """Train, with kernels that give the same bits every time."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    # the flag above also fills every new tensor; nothing of ours reads what it did not write
    torch.utils.deterministic.fill_uninitialized_memory = False
    trainer.fit(run.module, datamodule=run.data, ckpt_path=start, weights_only=True)


def warnings_of(config: dict, module: ClassifierModule) -> list[str]:
    """What a person should know about the schedule before it costs hours."""
    lines = [line for line in [module.schedule.cut_short(config["training"]["epochs"])] if line]
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
    weights = module.model.weights
    fresh_head = config["model"]["head"] != OWN_HEAD and not (weights and weights.with_head)
    if not (weights and base and heads and fresh_head):
        return lines
    return [
        *lines,
        f"{', '.join(base)} and the untrained head are trained together from the first epoch: the "
        f"head's large random gradients will spoil the pretrained weights; train the head alone "
        f"first, in a phase of its own",
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
        run.config["precision"] = fastest(measured_steps(run.config, run.module))
    log.info("precision: auto is %s on this machine", run.config["precision"])


def device_of(config: dict) -> torch.device:
    """Where a run with this config trains."""
    kind = "cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu"
    return torch.device("cpu" if config["trainer"]["accelerator"] == "cpu" else kind)


def measured_steps(
    config: dict, module: ClassifierModule, precisions: tuple[str, ...] = ("32", "bf16")
) -> dict[str, float]:
    """Seconds of a training step on this machine, by precision; on noise, nothing is decoded.

    The module is timed in the phase that it is in.
    """
    _, batch = batches_of(config)
    memo = cache_dir() / "precision.json"
    return step_seconds(module, batch, device_of(config), memo, precisions)


def batches_of(config: dict) -> tuple[int, int]:
    """Images of a step over all processes, and those that this machine's one device has to do.

    Processes that share the processor's cores share its time too.
    """
    asked = config["training"]["batch_size"]
    nodes = config["trainer"]["num_nodes"]
    local = local_processes(config["trainer"])
    whole = asked * nodes * local if config["training"]["batch_size_is"] == "per_device" else asked
    devices = nodes * (1 if device_of(config).type == "cpu" else local)
    return whole, -(-whole // devices)


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
