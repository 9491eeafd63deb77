"""Which units of a layer to show, in which order, and what they are called.

Shapes: ``B`` images, ``U`` units (channels) of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.explain.importance import rank_units
from convlens.explain.layouts import find_module


@dataclass(frozen=True)
class Units:
    """Units of a layer, as many as are to be shown.

    Attributes:
        total: number of units of the layer.
        units: the units' numbers.
        labels: their names.
        signs: 1 for each unit, or -1 for one whose output is to be lowered; None for 1 everywhere.
        choice: how they were chosen, in words; None if all are shown.
        ranked: whether they are in order of importance.
        places: their indices in the longer list of which they are a part; None for a whole list.
    """

    total: int
    units: list[int]
    labels: list[str]
    signs: list[int] | None = None
    choice: str | None = None
    ranked: bool = False
    places: list[int] | None = None

    def first(self, count: int) -> Units:
        """Return the ``count`` most important ones, or that many evenly spread."""
        total = len(self.units)
        places = [i if self.ranked else round(i * total / count) for i in range(count)]
        return replace(
            self,
            units=[self.units[i] for i in places],
            labels=[self.labels[i] for i in places],
            signs=self.signs and [self.signs[i] for i in places],
            places=places,
        )


def choose_units(
    model: nn.Module, layer: str, count: int | None, *, effects: Tensor | None = None,
    class_names: Sequence[str] = (),
) -> Units:  # fmt: skip
    """Choose the units of a layer that matter most, or some that are evenly spread over it.

    Units of the layer that gives the logits bear the names of the classes. If all of them are
    shown, they keep their order. A single logit is two units: one to lower, one to raise.

    Args:
        model: the network.
        layer: module path of a convolution or dense layer.
        count: maximum number of units; None for all.
        effects: ``(B, U)``, see ``convlens.explain.unit_effects``; None to spread them evenly.
        class_names: names of the classes if the layer gives the logits, otherwise empty.

    Raises:
        UserError: if the layer is unknown, or neither a convolution nor a dense layer.
    """
    module = find_module(model, layer)
    total = getattr(module, "out_channels", None) or getattr(module, "out_features", None)
    if total is None:
        raise UserError(f"layers={layer}: it has no filters; name a convolution or a dense layer")
    if total == 1 and len(class_names) == 2:
        labels = [f"{class_names[0]} (-logit)", f"{class_names[1]} (+logit)"]
        return Units(1, [0, 0], labels, [-1, 1])
    count = min(count or total, total)
    named = total == len(class_names)
    if effects is None or (named and count == total):
        units = [round(i * total / count) for i in range(count)]
        labels = [class_names[unit] if named else f"unit {unit}" for unit in units]
        choice = "units evenly spread over the layer" if count < total else None
        return Units(total, units, labels, choice=choice)
    units = rank_units(effects)[:count]
    labels = [
        class_names[unit] if named else f"unit {unit} · rank {rank}"
        for rank, unit in enumerate(units, start=1)
    ]
    images = "one image" if len(effects) == 1 else f"{len(effects)} images"
    choice = (
        f"units ranked by how much they matter for the predictions on {images} (output × gradient)"
    )
    return Units(total, units, labels, choice=choice, ranked=True)
