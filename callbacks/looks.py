"""When each explanation of a run looks, in the order of one list, and at what cost."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from typing import cast

import numpy as np
import pytorch_lightning as L
from convlens.callbacks.alarms import Alarms
from convlens.callbacks.explanation import Explanation
from convlens.callbacks.ledger import Account, Ledger
from convlens.callbacks.logging.epoch_log import EpochLog
from convlens.callbacks.logging.table import Table
from convlens.callbacks.logging.writer import Writer
from convlens.callbacks.logging.writing import accept_any_thread, write_finding
from convlens.callbacks.look import SPLITS, Look, OutOfTime
from convlens.callbacks.pace import Pace
from convlens.callbacks.predictions import PredictionBook
from convlens.callbacks.session import Session, get_callbacks, predict_validation
from convlens.callbacks.steps import StepObserver
from convlens.callbacks.threads import avoid_waiting
from pytorch_lightning.utilities.seed import isolate_rng

from convlens.core.errors import UserError
from convlens.core.progress import Work, progress_bar
from convlens.core.stopwatch import count_seconds
from convlens.rundir.maps import Maps
from convlens.training import ClassifierModule

RESERVED = 0.25  # largest fraction of the time at the end that explanations reserve


class Looks(L.Callback):
    """Lets explanations look, one after the other, and writes what they find.

    They look before training, after every epoch and at the end, and some after the test, always in
    the order of one list. Then the epoch log writes its row and the alarms judge, whatever the
    order of Lightning's callbacks. Only the first process looks. A look that fails, or runs out of
    memory even with single images, is reported once, and training continues.

    Every trainer has one: an explanation among the trainer's callbacks joins it, or adds it. The
    explanations of the list become callbacks of the trainer, so that checkpoints keep their state.

    Args:
        order: explanations, by worth: each may spend all that those before it have left of the time
            for a look, less what later ones reserve at the end (see ``Explanation.reserve``). Those
            that join later come last.
        ledger: what explanations may cost; ``Ledger()`` if None.
        predictions: collects the network's predictions in validation and test.
        epoch_log: the epoch log of a convlens run.
        alarms: the alarms of a convlens run.

    Attributes:
        tested: completed epochs of the network that is tested; None if it is the last one.
        writes_aside: whether a thread of its own encodes and writes; None: with an accelerator.
    """

    def __init__(
        self, order: Sequence[Explanation] = (), *, ledger: Ledger | None = None,
        predictions: PredictionBook | None = None, epoch_log: EpochLog | None = None,
        alarms: Alarms | None = None,
    ):  # fmt: skip
        self.order, self.own = list(order), StepObserver()
        self.ledger = ledger or Ledger()
        self.predictions = predictions or PredictionBook()
        self.epoch_log, self.alarms = epoch_log, alarms
        self.tested: int | None = None
        self.writes_aside: bool | None = None
        self._accounts: dict[Explanation, Account] = {}
        self._clock, self._began, self._trained = 0, False, False
        self.pace = Pace()
        self.quiet = epoch_log is not None  # the closing lines of a convlens run name what was cut

    @classmethod
    def of(cls, trainer: L.Trainer) -> Looks:
        """Return the trainer's ``Looks``, which the first call adds."""
        if not any(isinstance(each, cls) for each in get_callbacks(trainer)):
            get_callbacks(trainer).append(cls())
        return next(each for each in get_callbacks(trainer) if isinstance(each, cls))

    def join(self, explanation: Explanation) -> None:
        """Add an explanation to the end of the list, unless it is in the list already."""
        if explanation not in self.order:
            self.order.append(explanation)

    def account(self, explanation: Explanation) -> Account:
        """Return when the explanation looked last, and what its looks cost."""
        return self._accounts.setdefault(explanation, Account())

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        callbacks = get_callbacks(trainer)
        callbacks += [each for each in self.order if each not in callbacks]
        if isinstance(pl_module, ClassifierModule):  # what it trains is what it predicts with
            vars(self).update(on_train_batch_start=None, on_train_batch_end=None)

    @property
    def history(self) -> Sequence[Mapping[str, float]]:
        """The scalars of each epoch that is logged."""
        return () if self.epoch_log is None else self.epoch_log.history

    # --- when

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._clock, self._began, self._trained = trainer.current_epoch, True, False
        if self._clock == 0 and trainer.global_step == 0:
            self.look(trainer, pl_module, self.order, 0)
        else:
            for each in self.order:
                account = self.account(each)
                account.looked_at = self.ledger.looked.get(each.name, self._clock)
                account.cut_at = self.ledger.cut.get(each.name)
        if self.epoch_log is not None:
            self.epoch_log.begin(trainer, cast(ClassifierModule, pl_module))

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._trained = True
        self.ledger.begin_epoch()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.ledger.end_epoch(trainer.current_epoch)
        self._clock = trainer.current_epoch + 1
        if (diary := getattr(pl_module, "diary", None)) is not None:
            diary.close_epoch(self._clock)
        due = [each for each in self.order if self._clock % each.every_n_epochs == 0]
        self.look(trainer, pl_module, due, self._clock)
        if self.epoch_log is not None:
            self.epoch_log.end_epoch(trainer, cast(ClassifierModule, pl_module))
        if self.alarms is not None:
            self.alarms.end_epoch(trainer, cast(ClassifierModule, pl_module))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._trained and self._list_prediction_users():
            with progress_bar("predicting the validation images"):
                predict_validation(trainer, pl_module, self.predictions)
        due = [each for each in self.order if self._is_due_at_end(each)]
        self.look(trainer, pl_module, due, self._clock, final=True)
        if self.epoch_log is not None:
            self.epoch_log.end_training(trainer)
        if self.alarms is not None:
            self.alarms.end_training(trainer, cast(ClassifierModule, pl_module))

    def _is_due_at_end(self, explanation: Explanation) -> bool:
        account = self.account(explanation)
        whole = account.looked_at == self._clock != account.cut_at
        return explanation.has_final_look or not whole

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Lightning calls no hook for a resumed run whose epochs are all done: look all the same
        if self.epoch_log is not None and not self._began:
            for hook in ("on_train_start", "on_train_end"):
                for callback in get_callbacks(trainer):
                    getattr(callback, hook)(trainer, pl_module)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        due = [each for each in self.order if each.looks_at_test]
        clock = self._clock if self.tested is None else self.tested
        self.look(trainer, pl_module, due, clock, final=True, stage="test")

    # --- the module's own steps: do they predict what forward predicts?

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.own.watch(pl_module, training=True)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._judge(trainer, pl_module, outputs, batch)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._begin_pass(pl_module)

    def on_validation_batch_start(
        self, trainer, pl_module, batch, batch_idx, dataloader_idx=0
    ) -> None:
        if dataloader_idx == 0:
            self.own.watch(pl_module, training=False)

    def on_validation_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        if dataloader_idx == 0:
            self._judge(trainer, pl_module, outputs, batch)
            if self._list_prediction_users() and not trainer.sanity_checking:
                get_logits = partial(self.own.take, trainer, pl_module)
                self.predictions.take(outputs, batch, get_logits)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._end_pass("val")

    on_test_start = on_validation_start
    on_test_batch_start, on_test_batch_end = on_validation_batch_start, on_validation_batch_end

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end_pass("test")

    def _list_prediction_users(self) -> list[Explanation]:
        return [each for each in self.order if each.needs_predictions]

    def _begin_pass(self, module: L.LightningModule) -> None:
        if users := self._list_prediction_users():
            first = next((each for each in users if each.outputs_readable), users[0])
            self.predictions.begin(hold=not isinstance(module, ClassifierModule))
            self.own.note(module, first)

    def _end_pass(self, stage: str) -> None:
        self.own.end()
        users = self._list_prediction_users()
        if not users or self.predictions.end(stage):
            return
        problem = f" ({self.predictions.problem})" if self.predictions.problem else ""
        # of the others it is already known why they show nothing
        if readable := [each for each in users if each.outputs_readable]:
            names = ", ".join(each.name for each in readable)
            readable[0].log_once(
                "predictions",
                f"{names}: no predictions, the step's logits or the labels are unknown{problem}; "
                f"return {{'logits': …}} from {SPLITS[stage]}_step",
            )

    def _judge(self, trainer: L.Trainer, module: L.LightningModule, outputs, batch) -> None:
        """Check that the network to explain is the one that predicts, and report it if not."""
        self.own.end_step(trainer, module)
        for each in self.order:
            if self.account(each).judged is self.own.seen or each.probes is None:
                continue
            self.account(each).judged, began = self.own.seen, time.perf_counter()
            try:
                with count_seconds("explaining"), isolate_rng():
                    verdict = self.own.judge(module, outputs, batch, each)
                if trainer.is_global_zero and verdict.refusal:
                    raise UserError(verdict.refusal)
                if trainer.is_global_zero and verdict.warning:
                    each.log_once("verdict", f"{each.name}: {verdict.warning}")
            except Exception as error:  # a broken network must not end the training
                self._fail(each, error)
            self.ledger.charge(each.name, time.perf_counter() - began, None)

    # --- looking

    def look(
        self, trainer: L.Trainer, module: L.LightningModule, due: Iterable[Explanation], clock: int,
        *, final: bool = False, stage: str = "val",
    ) -> None:  # fmt: skip
        """Let explanations look at the network as it is now.

        Args:
            trainer: the trainer of the run.
            module: its module.
            due: the explanations whose turn it is.
            clock: completed epochs.
            final: whether this is the last look of the run.
            stage: ``val``, or ``test`` for the look after the test.
        """
        if not trainer.is_global_zero:
            return
        latest = self.predictions.latest.get(stage)
        session = Session(trainer, module, clock, self.own, stage, final, latest, self.history)
        moment = session.moment
        began, allowed = time.perf_counter(), self.ledger.seconds_left(moment)
        before, due = dict(self.ledger.spent), [each for each in due if each.probes is not None]
        most = RESERVED * max(0.0, allowed) if moment == "end" and allowed < inf else 0.0
        bar = progress_bar(f"looking {session.when}")
        aside = module.device.type != "cpu" if self.writes_aside is None else self.writes_aside
        with count_seconds("explaining"), bar as work, avoid_waiting(module):
            with Writer(threaded=aside and accept_any_thread(trainer)) as writer:
                for place, each in enumerate(due, start=1):
                    reserved = min(most, sum(later.reserve(self.pace) for later in due[place:]))
                    work.begin(each.kind)
                    end = began + allowed - reserved
                    self._look(trainer, session, each, end, work, writer)
                ended = time.perf_counter()
            if writer.last:  # the time waited for
                self.ledger.charge(writer.last.name, time.perf_counter() - ended, moment)
        for each, error in writer.failures.items():
            self._fail(each, error, clock)
        self.ledger.record(
            moment, clock, allowed, time.perf_counter() - began,
            max(self.pace.estimate("pass", 1) or 0.0, session.late_pass), before,
        )  # fmt: skip

    def _look(
        self, trainer: L.Trainer, session: Session, each: Explanation, deadline: float,
        work: Work, writer: Writer,
    ) -> None:  # fmt: skip
        account, began, each.cut = self.account(each), time.perf_counter(), ""
        try:
            if deadline <= began:
                raise OutOfTime
            with session.look(each, deadline, self.pace, work) as look:
                _ = look.pass_seconds  # measured in the first look; costs are estimated from it
                look = replace(look, get_backlog=lambda: writer.backlog)
                self._write(trainer, each, look, writer)
        except OutOfTime:
            each.cut = f"{each.name}: no time left {session.when}; raise {session.time_setting}"
        except Exception as error:  # a failing look must not end the training
            self._fail(each, error, session.clock)
        finally:
            if each.cut:
                each.log_once("cut", each.cut, quiet=self.quiet)
                account.cut_at = self.ledger.cut[each.name] = self._clock
                self.ledger.left_out.setdefault(each.name, each.cut)
            if session.stage == "val" and deadline > began:  # also if it failed
                account.looked_at = self.ledger.looked[each.name] = session.clock
            self.ledger.charge(each.name, time.perf_counter() - began, session.moment)

    def _write(self, trainer: L.Trainer, each: Explanation, look: Look, writer: Writer) -> None:
        for tag, value in each.pictures(look):
            if each in writer.failures:
                return
            if not isinstance(value, np.ndarray | Maps | Table):
                self.ledger.note(look.clock, tag, value := float(value))
            write = partial(write_finding, trainer, each, tag, value, look.clock)
            writer.put(each, write, value.size if isinstance(value, np.ndarray) else 0)

    def _fail(self, each: Explanation, error: Exception, clock: int | None = None) -> None:
        """Report a failure once, and its reason in full only for the first explanation."""
        line = self.ledger.record_failure(each.name, error, clock)
        each.log_once("failure", f"{line}; training continues", error=error)

    # --- what a checkpoint keeps

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        checkpoint["convlens_ledger"] = self.ledger.state()

    def on_load_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        if "convlens_ledger" in checkpoint:
            self.ledger.restore(checkpoint["convlens_ledger"])


class ExplanationCallback(Explanation):
    """Looks at the network before training, after every epoch and at the end.

    It joins the ``Looks`` among the trainer's callbacks, and adds one if there is none. A subclass
    only says what to draw, in ``pictures(look)``; see
    ``convlens.callbacks.explanation.Explanation``.

    In any Lightning project:

        images, labels = next(iter(val_loader))
        cam = GradCam().watch(images[:8], labels[:8], class_names=["cat", "dog"])
        trainer = L.Trainer(callbacks=[cam])
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        Looks.of(trainer).join(self)
