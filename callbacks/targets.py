"""Which classes of a picture are explained: the predicted and the true one, or one by its name."""

from __future__ import annotations

from collections.abc import Sequence

from convlens.core.errors import UserError, nearest
from convlens.data.index.names import find_name
from convlens.draw.grad_cam_panel import Role


def check_target(callback: str, target: str, class_names: Sequence[str]) -> None:
    """UserError where ``target`` is neither ``answer`` nor a class."""
    if target != "answer" and find_name(target, class_names) is None:
        raise UserError(
            f"callbacks.{callback}.target={target}: no such class; "
            f"{nearest(target, [*class_names, 'answer'])}"
        )


def explained_classes(
    target: str, class_names: Sequence[str], predicted: int, true: int
) -> list[tuple[int, Role]]:
    """The classes to explain, each with its role; ``true`` is -1 where it is not known.

    >>> explained_classes("answer", ["cat", "dog"], 0, 1)
    [(0, 'predicted'), (1, 'true')]
    """
    if target != "answer":
        return [(find_name(target, class_names), "target")]
    if true < 0 or predicted == true:
        return [(predicted, "predicted = true" if predicted == true else "predicted")]
    return [(predicted, "predicted"), (true, "true")]
