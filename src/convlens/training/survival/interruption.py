"""A signal ends a run between two steps; a resumed run continues at the next step.

Schedulers, containers and shutdowns send SIGTERM; Ctrl-C sends SIGINT. The current step is
finished, everything is saved in ``checkpoints/stopped.ckpt``, and the process exits with 128 plus
the signal's number. Outside of steps (during explanations before and after training, or while
features are computed) the run ends at once, because everything trained is saved already. The
resumed run ends with the same bits as an uninterrupted one, including the metrics of the
interrupted epoch. After the next complete epoch ``stopped.ckpt`` is removed.
"""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from convlens.core.errors import Interrupted, UserError
from convlens.core.host_copy import HostCopy
from convlens.core.system import STOPS, pass_on_stop

log = logging.getLogger("convlens")


class Interruption(L.Callback):
    """Stops at the end of a step once a signal has arrived.

    Lightning's own handler of SIGTERM is not used: it starts a collective inside the handler, which
    several processes enter at different places, so they wait for each other forever. Here the
    processes agree between two steps. It must be the first callback.

    Args:
        file: ``stopped.ckpt``.

    Attributes:
        signal_number: number of the signal that ends the run; 0 if there was none.
    """

    def __init__(self, file: Path):
        self.file = file
        self.signal_number = 0
        self._agreed = False  # whether all processes know that the run ends
        self._answer: HostCopy | None = None  # of the processes, to the latest question
        self._pending = False  # whether gradients are being accumulated, so it cannot stop
        self._epoch_open = False
        self._stepping = False  # from an epoch's first batch until its checkpoint is written
        self._kept: dict[str, Any] | None = None  # this process's part of the loaded checkpoint

    # --- signals

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Lightning's loop would ask all processes at every step, and wait for the answer
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
        if threading.current_thread() is not threading.main_thread():
            return

        def note(number: int, frame) -> None:
            if number == signal.SIGINT and self.signal_number == signal.SIGINT:
                raise KeyboardInterrupt  # second Ctrl-C: stop at once
            first, self.signal_number = not self.signal_number, number
            if first:
                for child in getattr(trainer.strategy.launcher, "procs", ()):
                    pass_on_stop(child)
            if not self._stepping:
                raise Interrupted(status=128 + number)  # nothing is lost

        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, note)  # Lightning restores the old handlers at the end

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self._stepping = True

    def _end_step(self, trainer: L.Trainer) -> None:
        """Mark that all steps are saved, so that later signals stop the run at once.

        Raises:
            Interrupted: a signal has already reached any process.
        """
        self._stepping = False
        if self._is_signalled(trainer):
            raise Interrupted(status=128 + self.signal_number)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        last = batch_idx + 1 == trainer.num_training_batches
        self._pending = bool((batch_idx + 1) % trainer.accumulate_grad_batches) and not last
        several = trainer.world_size > 1
        if self._pending or (several and (batch_idx + 1) % trainer.log_every_n_steps and not last):
            return
        if not several or last or trainer.strategy.root_device.type == "cpu":
            self._agreed = self._is_signalled(trainer)
        else:  # the question is on its way through the device: read the answer to the last one
            before, self._answer = self._answer, self._ask(trainer)
            self._agreed = before is not None and self._hear(before)
        # before a validation all processes stop at its start: their numbers of batches may differ
        if self._agreed and (batch_idx + 1) % trainer.val_check_batch:
            _end_loops(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._epoch_open and self._agreed:
            raise SIGTERMException

    def on_validation_batch_end(self, trainer, *_) -> None:
        if (
            self.signal_number
            and self._epoch_open
            and not self._pending
            and trainer.world_size == 1
        ):
            _end_loops(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._epoch_open = False
        if self._is_signalled(trainer):
            _end_loops(trainer)

    def _is_signalled(self, trainer: L.Trainer) -> bool:
        """Return whether a signal has reached any process; the result is the same in all."""
        if trainer.world_size == 1:
            return bool(self.signal_number)
        return self._hear(self._ask(trainer))

    def _ask(self, trainer: L.Trainer) -> HostCopy:
        """Ask all processes for the number of their signal; all must ask at the same step."""
        # filled on the device: a copy to it would wait
        flag = torch.full((1,), self.signal_number, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return HostCopy(flag)

    def _hear(self, answer: HostCopy) -> bool:
        number = int(answer.read())
        self.signal_number = max(self.signal_number, number)
        return bool(number)

    # --- saving during an epoch, and continuing it

    def on_exception(self, trainer, pl_module, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException) and self._epoch_open:
            pl_module.use_average(False)  # as between two steps, also if a validation was stopped
            trainer.save_checkpoint(self.file)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        if not self._epoch_open:
            return
        mine = {"metrics": _states(pl_module.train_metrics), "buffers": _buffers(pl_module)}
        if pl_module.average is not None:
            mine["averages"] = pl_module.average.copy_statistics()
        if pl_module.diary is not None:
            mine["diary"] = pl_module.diary.open_state()
        parts = [mine]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, mine)
        checkpoint["convlens_amid_epoch"] = parts
        loops = checkpoint["loops"]["fit_loop"]
        if trainer.validating:
            # a partial validation is discarded: record it as just begun
            progress = loops["epoch_loop.val_loop.batch_progress"]
            none = dict.fromkeys(progress["current"], 0)
            progress["total"] = {**none, "ready": 1, "started": 1}
            progress["current"] = dict(none)
            progress["is_last_batch"] = False

    def on_load_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        parts = checkpoint.get("convlens_amid_epoch")
        if parts is None:
            return
        if len(parts) != trainer.world_size:
            raise UserError(
                f"{self.file} was saved during an epoch by {len(parts)} processes, not "
                f"{trainer.world_size}: resume with as many, or remove that file to repeat the "
                f"epoch"
            )
        self._kept = parts[trainer.global_rank]

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end_step(trainer)
        self._epoch_open, self._answer = True, None
        if self._kept is None and trainer.is_global_zero:
            self.file.unlink(missing_ok=True)  # a later epoch is complete

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.file.unlink(missing_ok=True)
        self._end_step(trainer)  # the last explanations may take minutes

    def reopen(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Continue an interrupted epoch; call its start hooks, which Lightning does not repeat."""
        if self._kept is None:
            return
        for callback in trainer.callbacks:
            callback.on_train_epoch_start(trainer, module)
        kept, self._kept = self._kept, None
        module.use_average(False)
        for name, value in kept.get("averages", {}).items():
            module.average.get(name).copy_(value)
        if module.diary is not None:
            module.diary.reopen(kept.get("diary", {}), module.device)
        for name, value in kept["buffers"].items():
            module.get_buffer(name).copy_(value)
        for name, state in kept["metrics"].items():
            metric = module.train_metrics.get_submodule(name)
            metric._update_count = state["count"]
            for key, value in state["values"].items():
                setattr(metric, key, value.to(module.device))


class Reopening(L.Callback):
    """Reopens an interrupted epoch once all callbacks have started.

    It must be the last of our callbacks.

    Args:
        interruption: the first callback.
    """

    def __init__(self, interruption: Interruption):
        self.interruption = interruption

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.interruption.reopen(trainer, pl_module)


def _end_loops(trainer: L.Trainer) -> None:
    """Make Lightning's loops end at the next opportunity, as after SIGTERM."""
    trainer._signal_connector.received_sigterm = True


def _buffers(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return running statistics, which may differ between processes during an epoch."""
    kept = set(module.state_dict())
    return {n: b.detach().cpu().clone() for n, b in module.named_buffers() if n in kept}


def _states(metrics: torch.nn.Module) -> dict[str, dict]:
    """Return the states of the running epoch's metrics in this process, before any reduction."""
    states = {}
    for name, metric in metrics.named_modules():
        if defaults := getattr(metric, "_defaults", None):
            values = {key: getattr(metric, key).detach().cpu().clone() for key in defaults}
            states[name] = {"count": metric._update_count, "values": values}
    return states
