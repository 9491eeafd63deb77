"""Alarms: a line in the log, in TensorBoard's text tab and in the summary."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import pytorch_lightning as L
from convlens.callbacks.answers import AnswerBook
from convlens.callbacks.ledger import Ledger
from convlens.callbacks.logging.writing import event_loggers

from convlens.config.schema import AlarmsConfig
from convlens.training import alarms

log = logging.getLogger("convlens")


class Alarms(L.Callback):
    """Says when the scores tell that something is wrong.

    An alarm is said once it has held for ``patience`` epochs that were looked at, or at the end of
    the run; the summary holds those that hold at the end. While the validation loss still falls,
    nothing is said of classes that are mistaken for others: that is what learning looks like. It
    must stand behind the callbacks that look and behind the epoch log. None rests on a
    randomisation check.

    Args:
        thresholds: of the config group ``alarms``.
        class_names: K names.
        ledger: with the scores that the looks have found.
        book: with the latest answers to the validation images.

    Attributes:
        current: the alarms that hold now, one line each.
    """

    def __init__(
        self, thresholds: AlarmsConfig, class_names: tuple[str, ...], ledger: Ledger,
        book: AnswerBook,
    ):  # fmt: skip
        self.thresholds, self.class_names = thresholds, tuple(class_names)
        self.ledger, self.book = ledger, book
        self.current: list[str] = []
        self._held: dict[str, int] = {}  # epochs in a row, by what it is about
        self._said: set[str] = set()

    def end_epoch(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Say what has held long enough."""
        if trainer.is_global_zero:
            rows = [row for _, row in sorted(module.record.items())]
            losses = [row["val/loss"] for row in rows if "val/loss" in row]
            falling = bool(losses) and losses[-1] == min(losses)
            clock = trainer.current_epoch + 1
            self._judge(trainer, clock, self.thresholds.patience, falling)
            self._say(trainer, self._of_curves(trainer, module), clock)

    def end_training(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Say, and keep for the summary, what holds at the end."""
        if not trainer.is_global_zero:
            return
        if self.ledger.scores:
            self._judge(trainer, max(self.ledger.scores), 0, learning=False)
        gap = self._gap(trainer, module)
        if gap and gap not in self.current:
            self.current.append(gap)

    def _judge(self, trainer: L.Trainer, clock: int, patience: int, learning: bool) -> None:
        scores = self.ledger.scores
        if clock not in scores:
            return  # nobody looked
        found = self._found(scores[clock], scores.get(0, {}), learning)
        held = {key: self._held.get(key, 0) + 1 for key in found}
        if patience:
            self._held = held
        self.current = list(found.values())
        due = {key: line for key, line in found.items() if held[key] >= patience}
        self._say(trainer, due, clock)

    def _say(self, trainer: L.Trainer, lines: Mapping[str, str], clock: int) -> None:
        """Each line once, by what it is about."""
        fresh = {key: line for key, line in lines.items() if key not in self._said}
        self._said.update(fresh)
        for key, line in fresh.items():
            log.warning("alarm after epoch %d: %s", clock, line)
            for logger in event_loggers(trainer):
                # of several texts of one tag and step TensorBoard shows one
                logger.experiment.add_text(f"alarms/{key}", line, clock)

    def _of_curves(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, str]:
        """What needs no look; the summary judges overfitting anew, from all epochs."""
        lines = {"gap": self._gap(trainer, module)}
        if curves := _curves(module, "loss"):
            lines["overfitting"] = alarms.check_overfitting(
                *curves,
                epochs=self.thresholds.overfitting_epochs,
                rise=self.thresholds.overfitting_rise,
            )
        return {about: line for about, line in lines.items() if line}

    def _gap(self, trainer: L.Trainer, module: L.LightningModule) -> str | None:
        """Training far above validation, judged from all epochs; it needs no look either."""
        data, curves = getattr(trainer, "datamodule", None), _curves(module, "accuracy")
        if data is None or not curves:
            return None
        return alarms.check_generalisation_gap(
            *curves,
            images=len(data.dataset.splits["validation"]),
            epochs=self.thresholds.gap_epochs,
            gap=self.thresholds.gap,
        )

    def _found(
        self, scores: Mapping[str, float], before: Mapping[str, float], learning: bool
    ) -> dict[str, str]:
        """Lines by what they are about: the numbers in a line change from epoch to epoch."""
        limits = self.thresholds
        found = {
            "evidence mostly outside the object": alarms.check_evidence_outside(
                scores, lift=limits.evidence_lift
            ),
            "evidence in one place": alarms.check_evidence_place(scores, share=limits.same_place),
            **alarms.find_dead_layers(scores, before, share=limits.dead_share),
        }
        answers = self.book.latest.get("val")
        if answers is not None and not learning:
            found |= alarms.find_mistaken_classes(
                answers.labels, answers.answers, self.class_names,
                share=limits.mistaken_share, images=limits.mistaken_pictures,
            )  # fmt: skip
        return {about: line for about, line in found.items() if line}

    def state_dict(self) -> dict:
        return {"current": list(self.current), "held": dict(self._held), "said": sorted(self._said)}

    def load_state_dict(self, state_dict: dict) -> None:
        self.current, self._held = list(state_dict["current"]), dict(state_dict["held"])
        self._said = set(state_dict["said"])


def _curves(module: L.LightningModule, name: str) -> list[list[float]]:
    """``name`` of training and of validation, epoch by epoch; nothing where one is not known."""
    rows = [row for _, row in sorted(module.record.items())]
    curves = [[row.get(f"{stage}/{name}") for row in rows] for stage in ("train", "val")]
    return [] if any(value is None for curve in curves for value in curve) else curves
