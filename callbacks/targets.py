"""Which classes of an image are explained, and the names of their maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from convlens.callbacks.evidence import list_present
from convlens.callbacks.look import Look
from torch import Tensor

from convlens.core.errors import UserError, nearest
from convlens.data.index.names import find_name
from convlens.draw.grad_cam_panel import Role
from convlens.explain.shrink import shrink_maps
from convlens.rundir.maps import SIDE, Maps, format_rank


def check_target(key: str, target: str, class_names: Sequence[str]) -> None:
    """Raise a UserError if ``target`` is neither ``answer`` nor a class.

    Args:
        key: the callback's key, such as ``callbacks.grad_cam``.
        target: the value of the callback's ``target``.
        class_names: K names.
    """
    if target != "answer" and find_name(target, class_names) is None:
        raise UserError(
            f"{key}.target={target}: no such class; {nearest(target, [*class_names, 'answer'])}"
        )


def choose_classes(
    target: str, class_names: Sequence[str], predicted: int, true: int
) -> list[tuple[int, Role]]:
    """Return the classes to explain, each with its role.

    Args:
        target: ``answer``, or the name of a class.
        class_names: K names.
        predicted: the predicted class.
        true: the true class; -1 if unknown.

    >>> choose_classes("answer", ["cat", "dog"], 0, 1)
    [(0, 'predicted'), (1, 'true')]
    """
    if target != "answer":
        number = find_name(target, class_names)
        assert number is not None, "check_target comes first"
        return [(number, "target")]
    if true < 0 or predicted == true:
        return [(predicted, "predicted = true" if predicted == true else "predicted")]
    return [(predicted, "predicted"), (true, "true")]


def list_targets(look: Look, target: str, classes: int = 2) -> tuple[list[str], Tensor]:
    """Return T roles, and the classes to explain, (N, T).

    Numbers below 0 are ranks: -1 is the predicted class, -2 the next most probable one. Where the
    true class is unknown, the predicted one stands in its place, and ``name_maps`` hides its maps.

    Args:
        look: the look, with N probes.
        target: ``answer``, or the name of a class.
        classes: T with ``answer``: predicted, true and the next most probable classes.
    """
    count = len(look.probes)
    if target != "answer":
        number = find_name(target, look.class_names)
        assert number is not None, "check_target comes first"
        return ["target"], torch.full((count, 1), number)
    ranks = range(2, 1 + min(classes - 1, len(look.class_names)))
    columns = [torch.full((count,), -1), look.probes.labels.cpu()]
    columns += [torch.full((count,), -rank) for rank in ranks]
    return ["predicted", "true", *map(format_rank, ranks)], torch.stack(columns, dim=1)


def list_shown(look: Look, target: str, classes: int) -> tuple[list[str], Tensor]:
    """Return roles and classes as ``list_targets`` does, for maps that show all true classes.

    If images may have several classes, the roles are ``predicted``, for the most probable class,
    and ``true``, ``true 2``, … for the classes of the image, (N, T); -1 where there are fewer.
    """
    present = look.probes.present
    if look.thresholds is None or target != "answer" or present is None:
        return list_targets(look, target, classes)
    numbers = list_present(present.cpu())
    words = ["predicted", *("true" if n == 0 else f"true {n + 1}" for n in range(numbers.shape[1]))]
    return words, torch.cat([torch.full((len(numbers), 1), -1), numbers], dim=1)


def choose_shown(
    look: Look, target: str, number: int, probabilities: Tensor
) -> list[tuple[int, int, Role]]:
    """Return what the picture of a probe shows: the column of ``list_shown``, class and role.

    If images may have several classes: each class of the image, and the most probable class if it
    is a false alarm.

    Args:
        look: the look.
        target: ``answer``, or the name of a class.
        number: of the probe.
        probabilities: (K,) of the probe.
    """
    predicted, truth = int(probabilities.argmax()), int(look.probes.labels[number])
    present = look.probes.present
    if look.thresholds is None or target != "answer" or present is None:
        if look.thresholds is not None:
            truth = -1
        chosen = choose_classes(target, look.class_names, predicted, truth)
        return [(column, kind, role) for column, (kind, role) in enumerate(chosen)]
    above = probabilities >= look.thresholds
    shown: list[tuple[int, int, Role]] = []
    for column, kind in enumerate(present[number].nonzero()[:, 0].tolist(), start=1):
        shown.append((column, kind, "predicted = true" if above[kind] else "true"))
    if above[predicted] and not present[number, predicted]:
        shown.insert(0, (0, predicted, "predicted"))
    return shown


def find_true_class(look: Look, number: int, predicted: int) -> int:
    """Return the true class of a probe, or -1; of several, the predicted one if it is among them.

    Args:
        look: the look.
        number: of the probe.
        predicted: the predicted class.
    """
    present = look.probes.present
    if present is not None and present[number, predicted]:
        return predicted
    return int(look.probes.labels[number])


def name_maps(
    method: str, look: Look, numbers: Sequence[int], roles: Sequence[str], targets: Tensor,
    probabilities: Tensor, layers: Mapping[str, Tensor],
) -> Maps:  # fmt: skip
    """Return maps of n probes with the names of probes and classes.

    Maps are averaged down to what is kept. Those of an unknown true class become NaN.

    Args:
        method: see ``convlens.rundir.maps.Maps``.
        look: the look.
        numbers: the n probes.
        roles: T roles, from ``list_targets``.
        targets: (n, T), the explained classes.
        probabilities: (n, K).
        layers: maps by layer, (n, T, h, w).
    """
    targets, probabilities = targets.cpu(), probabilities.cpu()
    known = torch.ones_like(targets, dtype=torch.bool)
    if "true 2" in roles and look.probes.present is not None:
        counts = look.probes.present[list(numbers)].sum(dim=1).cpu()
        known = torch.arange(len(roles)) <= counts[:, None]
    elif "true" in roles:
        known[:, roles.index("true")] = look.probes.labels[list(numbers)].cpu() >= 0
    hidden = ~known[:, :, None, None]
    return Maps(
        method, [look.probes.names[number] for number in numbers], roles,
        [
            [look.class_names[k] if is_known else "" for k, is_known in zip(*row, strict=True)]
            for row in zip(targets.tolist(), known.tolist(), strict=True)
        ],
        probabilities.gather(1, targets).numpy(),
        {
            name: shrink_maps(maps.cpu(), SIDE).masked_fill(hidden, torch.nan).numpy()
            for name, maps in layers.items()
        },
    )  # fmt: skip
