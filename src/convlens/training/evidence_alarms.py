"""Alarms about where the evidence is; see ``convlens.training.alarms``."""

from __future__ import annotations

from collections.abc import Mapping

from convlens.training.alarms import format_distinct

NAMED = 4  # classes named in one line


def check_evidence_outside(scores: Mapping[str, float], *, lift: float) -> str | None:
    """Warn if most of the evidence is outside the objects.

    The alarm is raised when the fraction of the Grad-CAM evidence that falls on the objects is
    below ``lift`` times the fraction of the image that they cover. A uniform map scores exactly 1.

    Args:
        scores: contains ``explain/energy_inside`` and ``explain/object_share`` if there are masks.
        lift: threshold.

    Returns:
        The alarm, or None.

    >>> scores = {"explain/energy_inside": 0.1, "explain/object_share": 0.2}
    >>> check_evidence_outside(scores, lift=1.0)
    'evidence mostly outside the object: 10% of it is on the objects, which cover 20% of the \
image; look at grad_cam/…, grad_cam_means: what do bright spots show?'
    """
    inside = scores.get("explain/energy_inside")
    share = scores.get("explain/object_share")
    if inside is None or share is None or inside >= lift * share:
        return None
    on_objects, covered = format_distinct(inside, share, ".0%")
    return (
        f"evidence mostly outside the object: {on_objects} of it is on the objects, which cover "
        f"{covered} of the image; look at grad_cam/…, grad_cam_means: what do bright spots "
        f"show?"
    )


def check_evidence_place(scores: Mapping[str, float], *, share: float) -> str | None:
    """Warn about classes whose evidence always peaks in the same place near the border.

    Args:
        scores: contains ``explain/same_place/<class>``, computed by
            ``convlens.explain.scores.same_border_place``.
        share: threshold, as a fraction of the images of a class.

    Returns:
        The alarm, or None.

    >>> check_evidence_place({"explain/same_place/cat": 0.9, "explain/same_place/dog": 0.1}, \
share=0.7)
    'evidence for one class in the same place at the border: cat in 90% of its images; look at \
grad_cam_means and grad_cam/… for a mark, a frame or a date'
    """
    start = "explain/same_place/"
    shares = {
        tag.removeprefix(start): value
        for tag, value in scores.items()
        if tag.startswith(start) and value >= share
    }
    if not shares:
        return None
    worst = sorted(shares, key=lambda name: -shares[name])
    named = ", ".join(f"{name} in {shares[name]:.0%}" for name in worst[:NAMED])
    more = f" and {len(worst) - NAMED} more" if len(worst) > NAMED else ""
    classes = "one class" if len(worst) == 1 else f"{len(worst)} classes, each"
    return (
        f"evidence for {classes} in the same place at the border: {named}{more} of its images; "
        f"look at grad_cam_means and grad_cam/… for a mark, a frame or a date"
    )


def check_shortcuts(scores: Mapping[str, float]) -> str | None:
    """Warn about classes that are recognised by one place at the edge of the image.

    Args:
        scores: contains ``explain/shortcut/<class>`` for each such class: how much further accuracy
            falls if the place is covered than if a mirror image of it is.

    Returns:
        The alarm, or None.

    >>> check_shortcuts({"explain/shortcut/cat": 0.8, "explain/shortcut/dog": 0.9})
    'shortcut: dog and cat are recognised by one place at the edge; covering it costs 90% of \
accuracy; look at grad_cam_clusters'
    """
    start = "explain/shortcut/"
    falls = {t.removeprefix(start): v for t, v in scores.items() if t.startswith(start)}
    if not falls:
        return None
    worst = sorted(falls, key=lambda name: -falls[name])
    named = " and ".join(worst) if len(worst) < 3 else f"{worst[0]} and {len(worst) - 1} others"
    are = "is" if len(worst) == 1 else "are"
    return (
        f"shortcut: {named} {are} recognised by one place at the edge; covering it costs "
        f"{falls[worst[0]]:.0%} of accuracy; look at grad_cam_clusters"
    )


def check_norm_outliers(scores: Mapping[str, float], *, share: float | None) -> str | None:
    """Warn that tokens of the background are used as registers.

    Args:
        scores: contains ``explain/norm_outliers``, the fraction of the background's patches whose
            token has a far larger norm than the others, for some transformers.
        share: threshold; None, in runs of earlier versions, for no alarm.

    Returns:
        The alarm, or None.

    >>> check_norm_outliers({"explain/norm_outliers": 0.023}, share=0.01)
    '2.3% of the patches of the background have tokens of far larger norm; look at layers/norms/…: \
bright dots of attention there are no objects; trust legrad/…'
    """
    found = scores.get("explain/norm_outliers")
    if share is None or not found or found < share:
        return None
    return (
        f"{found:.1%} of the patches of the background have tokens of far larger norm; look at "
        f"layers/norms/…: bright dots of attention there are no objects; trust legrad/…"
    )
