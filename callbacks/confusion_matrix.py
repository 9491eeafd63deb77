"""The confusion matrix: which classes are mistaken for which."""

from __future__ import annotations

from convlens.callbacks.explanation import Findings
from convlens.callbacks.look import Look
from convlens.callbacks.looks import ExplanationCallback

from convlens.draw.confusion_matrix import confusion_matrix, count_confusions, count_together


class ConfusionMatrix(ExplanationCallback):
    """``predictions/confusion_matrix``: true against predicted class of all validation images.

    If images may have several classes: how often each class is predicted for images of each class.

    It counts the predictions that validation made anyway, so nothing is computed twice. Before the
    first validation nothing is drawn. After the test, ``predictions/confusion_matrix/test`` counts
    the test images.

    Args:
        every_n_epochs: look after every n-th epoch.
    """

    needs_predictions = looks_at_test = True

    def __init__(self, *, every_n_epochs: int = 1):
        super().__init__(every_n_epochs=every_n_epochs)

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {"predictions/confusion_matrix": 1}

    def pictures(self, look: Look) -> Findings:
        predictions = look.predictions
        if predictions is None or not len(predictions.labels):
            return
        what, more = "confusion matrix", {}
        if predictions.present is None or look.thresholds is None:
            classes = len(look.class_names)
            counts = count_confusions(predictions.labels, predictions.predicted, classes)
        else:
            assert predictions.probabilities is not None
            above = predictions.probabilities >= look.thresholds.numpy()
            counts = count_together(predictions.present, above)
            what, more = "co-occurrence", {"images": predictions.present.sum(axis=0)}
        title = f"{what} · {look.split} · epoch {look.clock}"
        tag = (
            "predictions/confusion_matrix/test"
            if look.stage == "test"
            else "predictions/confusion_matrix"
        )
        yield from self.draw(
            look,
            tag,
            lambda: confusion_matrix(counts, look.class_names, title=title, **more),
        )
