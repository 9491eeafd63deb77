"""The reliability chart: do probabilities mean what they say?"""

from __future__ import annotations

from convlens.callbacks.explanation import Findings
from convlens.callbacks.look import Look
from convlens.callbacks.looks import ExplanationCallback

from convlens.draw.reliability import Curve, reliability_chart
from convlens.training.calibration import Calibration, bin_confidences, compute_ece


class Reliability(ExplanationCallback):
    """``predictions/reliability``: accuracy against confidence of all validation images, in bins.

    It uses what validation computed anyway. In convlens runs there are two curves, without and with
    the temperature (see ``convlens.training.calibration``); elsewhere there is only the first.
    Before the first validation, and if images may have several classes, nothing is drawn. After the
    test, ``predictions/reliability/test`` shows the test images.

    Args:
        every_n_epochs: look after every n-th epoch.
    """

    needs_predictions = looks_at_test = True

    def __init__(self, *, every_n_epochs: int = 1):
        super().__init__(every_n_epochs=every_n_epochs)

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        return {"predictions/reliability": 1}

    def pictures(self, look: Look) -> Findings:
        found = look.calibration or _measure_predictions(look)
        if found is None:
            return
        tag = "predictions/reliability" + ("/test" if look.stage == "test" else "")
        title = f"reliability · {look.split} · epoch {look.clock}"
        yield from self.draw(
            look, tag, lambda: reliability_chart(_list_curves(found), title=title), seconds=0.2
        )


def _measure_predictions(look: Look) -> Calibration | None:
    """Return the calibration outside convlens runs, without a temperature; None without labels."""
    predictions = look.predictions
    if predictions is None or predictions.present is not None:
        return None
    known = predictions.labels >= 0
    if not known.any():
        return None
    confidences = predictions.confidences[known].astype(float)
    return Calibration(
        1.0, confidences, confidences, predictions.predicted[known] == predictions.labels[known]
    )


def _list_curves(found: Calibration) -> list[Curve]:
    """Return the curve without the temperature, and the one with it, if there is one."""
    curves = [("as the network says", found.raw)]
    if found.temperature != 1:
        curves.append((f"with temperature {found.temperature:.3g}", found.confidences))
    return [
        Curve(
            f"{name}: error {compute_ece(confidences, found.correct):.3f}",
            *bin_confidences(confidences, found.correct),
        )
        for name, confidences in curves
    ]
