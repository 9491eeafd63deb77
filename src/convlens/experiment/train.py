"""The life of a run: assemble, prepare, fit, test, summarise.

The steps are functions of other modules; ``train`` calls them in order.
"""

from __future__ import annotations

from pathlib import Path

from convlens.callbacks import Looks
from convlens.callbacks.predictions import TestRecord
from convlens.config.schema import Config
from convlens.core.progress import progress_bar
from convlens.core.stopwatch import count_seconds, with_stopwatch
from convlens.experiment.announce import announce_plan, announce_start
from convlens.experiment.assemble import assemble
from convlens.experiment.compilation import check_graphs, settle_compile
from convlens.experiment.devices import settle_precision
from convlens.experiment.prepare import decode, open_log, prepare, run_folder
from convlens.experiment.resume import check_processes, check_resumed
from convlens.experiment.summary import describe_test, finish, select_best_row, summarise
from convlens.experiment.trackers import check_trackers, following
from convlens.experiment.trainer import build_trainer, find_start, fit, handle_endings, run_test
from convlens.training.batches import check_batches


@with_stopwatch
def train(config: Config, *, resume: Path | None = None) -> tuple[Path, dict]:
    """Train what ``config`` describes, test the best checkpoint, write the run folder.

    Args:
        config: resolved; for a resumed run, that of its folder.
        resume: the folder of the run to continue, or None for a new run.

    Returns:
        The run folder and the summary. After a dry run (``trainer.fast_dev_run``) the summary is
        empty and the folder is removed.
    """
    resumed, dry = resume is not None, config.trainer.fast_dev_run
    check_trackers(config.logger)
    with run_folder(config, resume) as claim:
        start = find_start(resume)
        with progress_bar("preparing data and network"):
            run = assemble(config, pretrained=start is None, start=start and start.file)
        if not resumed:
            check_graphs(config)
        if start:
            check_resumed(start, run.config, run.module.schedule, resume)
        notes = decode(run)
        home = claim()
        open_log(home, run, resumed)
        announce_plan(run, notes, start)
        measured, compiled = settle_precision(run), settle_compile(run)
        trained = start.epochs if start else 0
        trainer, epoch_log, keeper = build_trainer(run, home, trained if resumed else None)
        run.data.serve(trainer.strategy.root_device)
        check_batches(run.module, run.data, trainer.world_size)
        if start:
            check_processes(start, trainer.world_size, home)
        with following(trainer, run.config, home, resumed=resumed, start=start):
            prepare(run, home, resumed)
            announce_start(run, trainer, home, measured, compiled)
            with handle_endings(trainer, home):
                fit(trainer, run, start)
            best = keeper.best_model_path if keeper else None
            clock = select_best_row(epoch_log.history)["epoch"]
            run.phases.tested_epoch = int(clock) if best else trainer.current_epoch
            looks = Looks.of(trainer)
            looks.tested = run.phases.tested_epoch
            record = TestRecord(several=run.module.multi_label)
            trainer.callbacks.append(record)
            with handle_endings(trainer, home), count_seconds("test"):
                results = run_test(trainer, run, best)
            if dry:
                return home, {}
            epoch_log.log_test(trainer, results, clock)
            details = describe_test(record.book, run.module)
            summary = summarise(run, trainer, epoch_log, looks.ledger, results, details)
            return home, finish(home, summary)
