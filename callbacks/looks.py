"""The looks of a run: when each explanation looks, in the order of one list, at what cost."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import pytorch_lightning as L
import torch
from convlens.callbacks.alarms import Alarms
from convlens.callbacks.answers import AnswerBook
from convlens.callbacks.explained import OwnAnswers
from convlens.callbacks.explanation import SPLITS, Explanation
from convlens.callbacks.ledger import Account, Ledger
from convlens.callbacks.logging.epoch_log import EpochLog
from convlens.callbacks.logging.writing import write_numbers, write_picture
from convlens.callbacks.session import Session
from lightning_fabric.utilities import move_data_to_device
from pytorch_lightning.utilities.seed import isolate_rng

from convlens.core.errors import UserError
from convlens.core.evaluation import evaluation_mode
from convlens.core.stopwatch import count_seconds
from convlens.data.datamodule import PictureData
from convlens.training import ClassifierModule

MARGIN = 0.05  # of the seconds left, kept back: the last picture may take longer than reckoned


class Looks(L.Callback):
    """Lets explanations look, one after the other, and writes what they find.

    They look before training, after every epoch, at the end, and some behind the test: all of them
    in the order of one list, then the epoch log writes its row, then the alarms judge. So it
    matters nowhere in which order Lightning calls its callbacks. Only the first process looks. A
    look that fails, or for which memory does not suffice even picture by picture, is written down
    once, with its traceback in the log, and training goes on.

    Every trainer has one: an explanation among its callbacks joins it, or brings it. The
    explanations of the list become callbacks of the trainer, so that checkpoints keep their state.

    Args:
        order: explanations; of the budget of an epoch each may spend its share of what those before
            it left. Those that join later come last.
        ledger: what looking may cost; by default as :class:`Ledger` has it.
        answers: collects what the network answers in validation and test.
        epoch_log: of convlens's own runs.
        alarms: of convlens's own runs.

    Attributes:
        tested: completed epochs of the network that is tested; None if it is the last one.
    """

    def __init__(
        self, order: Sequence[Explanation] = (), *, ledger: Ledger | None = None,
        answers: AnswerBook | None = None, epoch_log: EpochLog | None = None,
        alarms: Alarms | None = None,
    ):  # fmt: skip
        self.order = list(order)
        self.ledger = ledger or Ledger()
        self.answers = answers or AnswerBook()
        self.own = OwnAnswers()
        self.epoch_log, self.alarms = epoch_log, alarms
        self.tested: int | None = None
        self._accounts: dict[Explanation, Account] = {}
        self._clock = 0
        self._began = self._trained = False

    @classmethod
    def of(cls, trainer: L.Trainer) -> Looks:
        """The one among the trainer's callbacks; put there at the first call."""
        if not any(isinstance(each, cls) for each in trainer.callbacks):
            trainer.callbacks.append(cls())
        return next(each for each in trainer.callbacks if isinstance(each, cls))

    def join(self, explanation: Explanation) -> None:
        """Let it look too; once in the list it keeps its place."""
        if explanation not in self.order:
            self.order.append(explanation)

    def account(self, explanation: Explanation) -> Account:
        """How far the explanation's looks have come, and what they take."""
        return self._accounts.setdefault(explanation, Account())

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # they are callbacks of the trainer too, so that checkpoints keep their state
        trainer.callbacks += [each for each in self.order if each not in trainer.callbacks]

    @property
    def history(self) -> Sequence[Mapping[str, float]]:
        """Scalars by epoch, as far as they are written."""
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
            self.epoch_log.begin(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._trained = True
        self.ledger.begin_epoch()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.ledger.end_epoch(trainer.current_epoch)
        self._clock = trainer.current_epoch + 1
        if not isinstance(pl_module, ClassifierModule) or pl_module.is_look_due(self._clock):
            due = (each for each in self.order if self._due(each))
            self.look(trainer, pl_module, due, self._clock)
        if self.epoch_log is not None:
            self.epoch_log.end_epoch(trainer, pl_module)
        if self.alarms is not None:
            self.alarms.end_epoch(trainer, pl_module)

    def _due(self, explanation: Explanation) -> bool:
        """Whether it looks after this epoch: its turn has come, and the budget reaches so far."""
        if self._clock % explanation.every_n_epochs:
            return False
        least, left = self.account(explanation).least, max(self.ledger.left, 0.0)
        if least > left:
            line = (
                f"{explanation.name} looks every few epochs: it takes {least:.1f} s at least, "
                f"{left:.1f} s of the budget are left; looking.seconds allows more"
            )
            explanation.say("budget", line)
            self.ledger.left_out.setdefault(explanation.name, line)
        return least <= left

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._trained and self._needing():
            self._collect_answers(trainer, pl_module)
        # the last look is always there, and whole
        due = [each for each in self.order if self._due_at_end(each)]
        self.look(trainer, pl_module, due, self._clock, final=True)
        if self.alarms is not None:
            self.alarms.end_training(trainer, pl_module)

    def _due_at_end(self, explanation: Explanation) -> bool:
        account = self.account(explanation)
        whole = account.looked_at == self._clock != account.cut_at
        return explanation.has_final_look or not whole

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # a resumed run of ours whose epochs are all done has its last looks and alarms all the
        # same: Lightning's loop returns at once then and calls no hook
        if self.epoch_log is not None and not self._began:
            for hook in ("on_train_start", "on_train_end"):
                for callback in trainer.callbacks:
                    getattr(callback, hook)(trainer, pl_module)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        due = [each for each in self.order if each.looks_at_test]
        clock = self._clock if self.tested is None else self.tested
        self.look(trainer, pl_module, due, clock, final=True, stage="test")

    # --- the module's own steps: is what they answer what forward answers? and what is it?

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
            if self._needing() and not trainer.sanity_checking:
                noted = partial(self.own.taken, trainer, pl_module)
                self.answers.take(outputs, batch, noted)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._end_pass("val")

    on_test_start = on_validation_start
    on_test_batch_start, on_test_batch_end = on_validation_batch_start, on_validation_batch_end

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end_pass("test")

    def _needing(self) -> list[Explanation]:
        return [each for each in self.order if each.needs_answers]

    def _begin_pass(self, module: L.LightningModule) -> None:
        if needing := self._needing():
            first = next((each for each in needing if each.readable), needing[0])
            self.answers.begin(hold=not isinstance(module, ClassifierModule))
            self.own.note(module, first)

    def _end_pass(self, stage: str) -> None:
        needing = self._needing()
        self.own.end()
        if not needing or self.answers.end(stage):
            return
        why = f" ({self.answers.problem})" if self.answers.problem else ""
        for each in needing:
            if each.readable:  # else that has been said
                each.say(
                    "answers",
                    f"{each.name}: the step's logits or the batch's labels are not known{why}, "
                    f"so no answers are shown; return {{'logits': …}} from {SPLITS[stage]}_step",
                )

    @torch.no_grad()
    def _collect_answers(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Note the answers to the validation pictures, as the last epoch's validation did.

        Without an epoch none ran. In another project nothing is noted.
        """
        data = trainer.datamodule
        if not (isinstance(data, PictureData) and isinstance(module, ClassifierModule)):
            return
        self.answers.begin(hold=False)
        with evaluation_mode(module), trainer.precision_plugin.forward_context():
            for batch in data.evaluation_loader("validation"):
                moved = data.finish(move_data_to_device(batch, module.device))
                self.answers.take({"logits": module.compute_logits(moved)}, moved)
        self.answers.end("val")

    def _judge(self, trainer: L.Trainer, module: L.LightningModule, outputs, batch) -> None:
        """Whether what would be explained is what answers; said once where it is not."""
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
                    each.say("own answer", f"{each.name}: {verdict.warning}")
            except Exception as error:  # whatever is wrong with a network must not end the training
                self._fail(each, error)
            self.ledger.charge(each.name, time.perf_counter() - began, free=True)

    # --- looking

    def look(
        self, trainer: L.Trainer, module: L.LightningModule, due: Iterable[Explanation], clock: int,
        *, final: bool = False, stage: str = "val",
    ) -> None:  # fmt: skip
        """Let those that are due look at the network as it is.

        Args:
            final: whether it is the run's last look.
            stage: ``val``, or ``test`` for the look behind the test.
        """
        if not trainer.is_global_zero:
            return
        answers = self.answers.latest.get(stage)
        session = Session(trainer, module, clock, self.own, stage, final, answers, self.history)
        for each in due:
            if each.probes is not None:
                with count_seconds("explaining"):
                    self._look(trainer, session, each)

    def _look(self, trainer: L.Trainer, session: Session, each: Explanation) -> None:
        account, began, each.cut = self.account(each), time.perf_counter(), ""
        free = session.final or session.clock == 0  # beside the budget of the epochs
        # in the epochs another picture is only begun where there is time for it
        reserve = 0.0 if free or each.reckons else account.next
        deadline = began + self._seconds(each, session.final, free) - reserve
        try:
            with session.look(each, deadline) as look:
                times = [time.perf_counter()]
                for tag, found in each.pictures(look):
                    if isinstance(found, np.ndarray):
                        write_picture(trainer, each.folder, tag, found, session.clock)
                    else:
                        write_numbers(trainer, {tag: float(found)}, session.clock)
                        self.ledger.note(session.clock, tag, float(found))
                    times.append(time.perf_counter())
            if not session.final:
                account.note(began, times)
        except Exception as error:  # whatever goes wrong in a look must not end the training
            self._fail(each, error, session.clock)
        finally:
            if each.cut:
                account.cut_at = self.ledger.cut[each.name] = self._clock
                self.ledger.left_out.setdefault(each.name, each.cut)
            if session.stage == "val":
                account.looked_at = self.ledger.looked[each.name] = session.clock
            self.ledger.charge(each.name, time.perf_counter() - began, free=free)

    def _seconds(self, each: Explanation, final: bool, free: bool) -> float:
        """For this look: of the first and the last their own; of others what the budget has left,
        shared with the explanations that come after."""
        if free:
            return self.ledger.at_end if final else self.ledger.at_start
        waiting = len(self.order) - self.order.index(each)
        return (1 - MARGIN) * self.ledger.left / waiting

    def _fail(self, each: Explanation, error: Exception, clock: int | None = None) -> None:
        """Write a failure down once; training goes on."""
        when = "" if clock is None else f" at epoch {clock}"
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        line = f"{each.name} failed{when}: {kind}{error}".splitlines()[0]
        self.ledger.failures.setdefault(each.name, line[:300])
        each.say("failure", f"{line}; training goes on", traceback=True)

    # --- what a checkpoint keeps

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        checkpoint["convlens_ledger"] = self.ledger.state()

    def on_load_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        if "convlens_ledger" in checkpoint:
            self.ledger.restore(checkpoint["convlens_ledger"])


class ExplanationCallback(Explanation):
    """Looks at the network before training, after every epoch and at the end.

    It joins the :class:`Looks` among the trainer's callbacks, wherever that stands, and brings one
    where there is none. What it draws a subclass says, see
    :class:`convlens.callbacks.explanation.Explanation`.

    In a project of one's own::

        images, labels = next(iter(val_loader))
        cam = GradCam().watch(images[:8], labels[:8], class_names=["cat", "dog"])
        trainer = L.Trainer(callbacks=[cam])
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        Looks.of(trainer).join(self)
