"""The metrics that ``metrics=[…]`` names: those of torchmetrics that give one number."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric, classification
from torchmetrics.classification import MulticlassAccuracy

from convlens.core.errors import UserError, nearest

ALWAYS = ("loss", "accuracy", "balanced_accuracy", "macro_f1")
"""Metrics that every run computes, whatever it names."""
_TRIED = 10  # classes of the example on which a metric is tried
_TOP = re.compile(r"top_?(\d+)(_accuracy)?")


def build_metrics(
    names: Sequence[str], classes: int, *, several: bool = False
) -> dict[str, Metric]:
    """Return the named metrics of K classes; each is updated with (B, K) probabilities and labels.

    Labels are int64 (B,), or 0 and 1 in (B, K) if images may have several classes.

    A name is that of a class in ``torchmetrics.classification``, in any spelling:
    ``MulticlassAUROC``, ``AUROC`` and ``auroc`` are the same (with several classes,
    ``MultilabelAUROC``). Averages over classes are macro averages, as torchmetrics defines them.
    ``top5`` (or any number) is the top-5 accuracy.

    Args:
        names: as the user typed them.
        classes: K.
        several: whether images may have several classes.

    Returns:
        Metrics by name, such as ``matthews_corr_coef``, in the order given.

    Raises:
        UserError: a name is unknown, or its metric is not a single number.

    >>> [*build_metrics(["AUROC", "top2", "CohenKappa"], 3)]
    ['auroc', 'top2_accuracy', 'cohen_kappa']
    """
    return dict(_build(name, classes, several) for name in names)


def _build(name: str, classes: int, several: bool) -> tuple[str, Metric]:
    start = "Multilabel" if several else "Multiclass"
    if (match := _TOP.fullmatch(name.lower())) and not several:
        return _build_top(name, int(match[1]), classes)
    kinds = (kind for kind in vars(classification) if kind.startswith(start))
    known = {_to_snake(kind.removeprefix(start)): kind for kind in kinds}
    by_letters = {_keep_letters(key): key for key in known}
    key = by_letters.get(_keep_letters(name).removeprefix(start.lower()))
    if key in ALWAYS or name in (*ALWAYS, *(("mean_ap",) if several else ())):
        raise UserError(f"metrics: {name} is computed in every run; leave it out")
    if key is None:
        raise UserError(f"metrics: there is no {name}; {nearest(name, known)}")
    kind, count = getattr(classification, known[key]), "num_labels" if several else "num_classes"
    _try(name, kind, count, min(classes, _TRIED))
    # the labels are valid; checking them would make a GPU wait in every batch
    return key, kind(**{count: classes}, validate_args=False)


def _build_top(name: str, count: int, classes: int) -> tuple[str, Metric]:
    if not 1 < count < classes:
        raise UserError(f"metrics: {name} does not fit {classes} classes; name a smaller one")
    metric = MulticlassAccuracy(
        num_classes=classes, top_k=count, average="micro", validate_args=False
    )
    return f"top{count}_accuracy", metric


def _to_snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _keep_letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _try(name: str, kind: type[Metric], count: str, classes: int) -> None:
    """Compute a metric on an example, so that what it cannot do is known before training."""
    labels = torch.arange(classes).repeat(2)
    if count == "num_labels":
        labels = torch.eye(classes, dtype=torch.long)[labels]
    numbers = torch.arange(2.0 * classes * classes).sin().reshape(2 * classes, classes)
    try:
        metric = kind(**{count: classes})
        metric.update(numbers.softmax(1), labels)
        value = metric.compute()
    except Exception as error:  # arguments without a default, or another kind of input
        reason = " ".join(str(error).split()).rpartition("__init__() ")[2][:80]
        raise UserError(f"metrics: {name} cannot be computed here ({reason})") from error
    if not isinstance(value, Tensor) or value.dim():
        raise UserError(f"metrics: {name} is a curve or a table, not one number; name another")
