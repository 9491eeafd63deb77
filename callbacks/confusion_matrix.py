"""The confusion matrix: which classes are taken for which."""

from __future__ import annotations

from convlens.callbacks.explanation import Findings, Look
from convlens.callbacks.looks import ExplanationCallback

from convlens.draw.confusion_matrix import confusion_counts, confusion_matrix


class ConfusionMatrix(ExplanationCallback):
    """``confusion_matrix``: true against predicted class of all validation pictures.

    Behind the test, ``confusion_matrix/test`` is that of the test pictures.

    The answers are those that validation gave anyway: nothing is computed twice. Before there are
    any, nothing is drawn. Behind the test the same of the test pictures is
    ``confusion_matrix/test``.

    Args:
        every_n_epochs: see :class:`~convlens.callbacks.explanation.Explanation`.
    """

    needs_answers = looks_at_test = True

    def __init__(self, *, every_n_epochs: int = 1):
        super().__init__(every_n_epochs=every_n_epochs)

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {"confusion_matrix": 1}

    def pictures(self, look: Look) -> Findings:
        found = look.answers
        if found is None or not len(found.labels):
            return
        counts = confusion_counts(found.labels, found.answers, len(look.class_names))
        title = f"confusion matrix · {look.split} · epoch {look.clock}"
        tag = "confusion_matrix/test" if look.stage == "test" else "confusion_matrix"
        yield tag, confusion_matrix(counts, look.class_names, title=title)
