"""What the maps of each method are: a title, the unit, and one sentence on how to read them."""

from __future__ import annotations

from dataclasses import dataclass

from convlens.draw.attribution_panel import describe_reading
from convlens.draw.grad_cam_panel import READING


@dataclass(frozen=True)
class Method:
    """What the maps of a method are.

    Attributes:
        title: name of the method in a list.
        reading: one sentence on how to read the maps.
        unit: of their values; may be empty.
        signed: whether they speak for and against a class.
    """

    title: str
    reading: str
    unit: str = ""
    signed: bool = False


METHODS = {
    "grad_cam": Method("Grad-CAM", READING, "logit"),
    **{
        name: Method(name.replace("_", " ").capitalize(), describe_reading(name), "logit", True)
        for name in ("occlusion", "superpixels", "integrated_gradients")
    },
}


def describe_method(name: str) -> Method:
    """Return what the maps of a method are; of another method, only its name is known."""
    title = name.replace("_", " ").capitalize()
    return METHODS.get(name, Method(title, f"{title}."))
