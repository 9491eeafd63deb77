"""Which classes of an image are explained: the predicted and the true one, or one by its name."""

from __future__ import annotations

from collections.abc import Sequence

from convlens.core.errors import UserError, nearest
from convlens.data.index.names import find_name
from convlens.draw.grad_cam_panel import Role


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


def format_rank(rank: int) -> str:
    """Return the role of a class by how probable it is: 2 becomes ``2nd``, 3 ``3rd``, …"""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(rank % 10 if rank // 10 % 10 != 1 else 0, "th")
    return f"{rank}{ending}"
