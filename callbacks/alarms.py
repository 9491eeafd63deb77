"""Alarms: warnings in the log, in TensorBoard's text tab, in the trackers and in the summary."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import pytorch_lightning as L
from convlens.callbacks.ledger import Ledger
from convlens.callbacks.logging.writing import write_text
from convlens.callbacks.predictions import PredictionBook

from convlens.config.schema import AlarmsConfig
from convlens.training import ClassifierModule, alarms
from convlens.training import evidence_alarms as evidence

log = logging.getLogger("convlens")


class Alarms(L.Callback):
    """Warns when the scores show that something is wrong.

    An alarm is raised when its condition has held for ``patience`` explained epochs, or at the end
    of the run; the summary contains those that hold at the end. While the validation loss still
    falls, mistaken classes raise no alarm: that is what learning looks like. ``Looks`` calls it
    after all explanations and the epoch log. No alarm depends on a randomisation check.

    Args:
        thresholds: the config group ``alarms``.
        class_names: K names.
        ledger: holds the scores of explanations.
        book: holds the latest predictions on the validation images.
        excess: threshold of the alarm about labels, see ``Diary.check``.

    Attributes:
        current: the alarms that hold now, one line each.
    """

    def __init__(
        self, thresholds: AlarmsConfig, class_names: tuple[str, ...], ledger: Ledger,
        book: PredictionBook, excess: float = 1.0,
    ):  # fmt: skip
        self.thresholds, self.class_names = thresholds, tuple(class_names)
        self.ledger, self.book = ledger, book
        self.current: list[str] = []
        self._held: dict[str, int] = {}  # epochs in a row, by subject
        self._raised: set[str] = set()
        self.excess = excess
        self._lasted: dict[str, int] = {}  # epochs in a row of alarms that need no look

    def end_epoch(self, trainer: L.Trainer, module: ClassifierModule) -> None:
        """Raise the alarms that have held long enough."""
        if trainer.is_global_zero:
            rows = [row for _, row in sorted(module.record.items())]
            losses = [row["val/loss"] for row in rows if "val/loss" in row]
            falling = bool(losses) and losses[-1] == min(losses)
            clock = trainer.current_epoch + 1
            self._judge(trainer, clock, self.thresholds.patience, falling)
            self._raise_once(trainer, self._check_curves(trainer, module), clock)

    def end_training(self, trainer: L.Trainer, module: ClassifierModule) -> None:
        """Raise the alarms that hold at the end, and keep them for the summary."""
        if not trainer.is_global_zero:
            return
        if self.ledger.scores:
            # the closing lines of the run print those that hold
            self._judge(trainer, max(self.ledger.scores), 0, learning=False, level=logging.DEBUG)
        checks = (
            self._check_gap(trainer, module),
            *self._check_labels_and_confidences(module).values(),
        )
        self.current += [line for line in checks if line and line not in self.current]

    def _judge(
        self, trainer: L.Trainer, clock: int, patience: int, learning: bool,
        level: int = logging.WARNING,
    ) -> None:  # fmt: skip
        scores = self.ledger.scores
        if clock not in scores:
            return  # nothing was explained
        lines = self._check_scores(scores[clock], scores.get(0, {}), learning)
        held = {key: self._held.get(key, 0) + 1 for key in lines}
        if patience:
            self._held = held
        self.current = list(lines.values())
        due = {key: line for key, line in lines.items() if held[key] >= patience}
        self._raise_once(trainer, due, clock, level)

    def _raise_once(
        self, trainer: L.Trainer, lines: Mapping[str, str], clock: int, level: int = logging.WARNING
    ) -> None:
        """Log each line once, by its subject."""
        fresh = {key: line for key, line in lines.items() if key not in self._raised}
        self._raised.update(fresh)
        for key, line in fresh.items():
            log.log(level, "alarm after epoch %d: %s", clock, line)
            # TensorBoard shows only one text for each tag and step
            write_text(trainer, f"alarms/{key}", line, clock)

    def _check_curves(self, trainer: L.Trainer, module: ClassifierModule) -> dict[str, str]:
        """Return alarms that need no look; the summary checks overfitting again, by all epochs."""
        lines = {"gap": self._check_gap(trainer, module)}
        for subject, line in self._check_labels_and_confidences(module).items():
            self._lasted[subject] = self._lasted.get(subject, 0) + 1 if line else 0
            lasts = self._lasted[subject] >= self.thresholds.patience
            lines[subject] = line if lasts else None
        if curves := _collect_curves(module, "loss"):
            lines["overfitting"] = alarms.check_overfitting(
                *curves,
                epochs=self.thresholds.overfitting_epochs,
                rise=self.thresholds.overfitting_rise,
            )
        return {subject: line for subject, line in lines.items() if line}

    def _check_labels_and_confidences(self, module: ClassifierModule) -> dict[str, str | None]:
        """Return, by subject, what labels and confidences say, whether or not it lasts."""
        diary, calibrator = (getattr(module, name, None) for name in ("diary", "calibrator"))
        lines = {} if diary is None else {"mislabelled": diary.check(self.excess)}
        if calibrator is not None and (found := calibrator.validation) is not None:
            lines["overconfident"] = alarms.check_overconfidence(
                found.raw, found.correct, gap=self.thresholds.overconfidence
            )
        return lines

    def _check_gap(self, trainer: L.Trainer, module: ClassifierModule) -> str | None:
        """Return the alarm that training accuracy is far above validation, or None."""
        data, curves = getattr(trainer, "datamodule", None), _collect_curves(module, "accuracy")
        if data is None or not curves:
            return None
        return alarms.check_generalisation_gap(
            *curves,
            images=len(data.dataset.splits["validation"]),
            epochs=self.thresholds.gap_epochs,
            gap=self.thresholds.gap,
        )

    def _check_scores(
        self, scores: Mapping[str, float], before: Mapping[str, float], learning: bool
    ) -> dict[str, str]:
        """Return alarms by subject, because the numbers in a line change from epoch to epoch."""
        limits = self.thresholds
        lines = {
            "evidence mostly outside the object": evidence.check_evidence_outside(
                scores, lift=limits.evidence_lift
            ),
            "evidence in one place": evidence.check_evidence_place(scores, share=limits.same_place),
            "shortcut": evidence.check_shortcuts(scores),
            "norm outliers": evidence.check_norm_outliers(scores, share=limits.outlier_share),
            **alarms.find_dead_layers(scores, before, share=limits.dead_share),
        }
        predictions = self.book.latest.get("val")
        if predictions is not None and not learning:
            lines |= alarms.find_mistaken_classes(
                predictions.labels, predictions.predicted, self.class_names,
                share=limits.mistaken_share, images=limits.mistaken_pictures,
            )  # fmt: skip
        return {subject: line for subject, line in lines.items() if line}

    def state_dict(self) -> dict:
        return {
            "current": list(self.current),
            "held": dict(self._held),
            "said": sorted(self._raised),
            "lasted": dict(self._lasted),
        }

    def load_state_dict(self, state_dict: dict) -> None:
        self.current, self._held = list(state_dict["current"]), dict(state_dict["held"])
        self._raised = set(state_dict["said"])
        earlier = {"mislabelled": state_dict.get("mislabelled", 0)}
        self._lasted = dict(state_dict.get("lasted", earlier))


def _collect_curves(module: ClassifierModule, name: str) -> list[list[float]]:
    """Return ``name`` of training and of validation by epoch; empty if a value is missing."""
    rows = [row for _, row in sorted(module.record.items())]
    tags = [f"{stage}/{name}" for stage in ("train", "val")]
    if any(row.get(tag) is None for row in rows for tag in tags):
        return []
    return [[row[tag] for row in rows] for tag in tags]
